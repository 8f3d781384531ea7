//! What the shim has to know. It has no words of its own: its words are those of the program that it stands before.

use super::error::Error;
use super::meaning::{self, Door};
use super::pick;
use super::request::{EnvRequest, Identity, ShimRequest};
use super::words::RunWords;
use crate::config::Layers;
use crate::config::environ::Environ;
use crate::config::file::Scope;
use crate::config::options::Opt;
use std::ffi::OsStr;
use std::path::PathBuf;

/// Where GitLab's packages and its page about an installation by hand put the runner: `shim.runner`, unless it is given.
pub const RUNNERS: [&str; 2] = ["/usr/bin/gitlab-runner", "/usr/local/bin/gitlab-runner"];

/// What the variables and the config files say of a stage: its cage, its clocks, and who may start it. Who runs it, where and
/// with what is the caller's business.
///
/// # Errors
/// If a variable or a config file says something that cannot be meant.
pub fn shim(environ: Environ, euid: u32) -> Result<ShimRequest, Error> {
    let layers = Layers::read(&environ, Scope::Shim)?;
    let door = Door {
        layers: &layers,
        environ: &environ,
        euid,
    };
    let runners = door.runners()?;
    let mut run = door.run(RunWords::default())?;
    run.step.identity = Identity::default();
    run.step.dir = None;
    run.step.guard = false;
    run.step.env = EnvRequest {
        inherit: true,
        ..EnvRequest::default()
    };
    meaning::inherit(&mut run, environ);
    Ok(ShimRequest { run, runners })
}

impl Door<'_> {
    /// The programs whose children are stages.
    ///
    /// # Errors
    /// If one of them is no absolute path.
    pub(super) fn runners(&self) -> Result<Vec<PathBuf>, Error> {
        let given = pick::list(self.layers, Opt::Runner, &[], |path: &OsStr, _| {
            pick::absolute(path)
        })?;
        Ok(if given.is_empty() {
            RUNNERS.iter().map(PathBuf::from).collect()
        } else {
            given
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn asked(text: &str) -> Result<ShimRequest, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        std::fs::write(&path, text).unwrap();
        let environ: Environ = [
            ("JOBCAGE_CONFIG", path.to_str().unwrap()),
            ("PATH", "/x"),
            ("JOBCAGE_GRACE", "3s"),
        ]
        .into_iter()
        .collect();
        shim(environ, 0).map_err(|e| e.to_string())
    }

    #[test]
    fn the_host_says_what_the_cage_is_like_and_the_caller_all_else() {
        let request = asked(
            "[run]\nmemory = '1G'\nuser = 'nobody'\nlogin = true\nclear_env = true\ndir = '/'\nenv = ['A=1']\nguard = true\n\
             [gc]\nkep = 1\n",
        );
        let ShimRequest { run, runners } = request.unwrap();
        assert_eq!(runners, RUNNERS.map(PathBuf::from));
        assert_eq!(run.grace, Duration::from_secs(3));
        assert_eq!((&run.step.identity, &run.step.dir), (&Identity::default(), &None));
        let env = &run.step.env;
        assert!(!env.login && env.set.is_empty() && !run.step.guard);
        let names: Vec<_> = env
            .inherited
            .iter()
            .map(|(name, _)| name.to_str().unwrap())
            .collect();
        // An option of `run` was for this call.
        assert_eq!(names, ["JOBCAGE_CONFIG", "PATH"]);
        let crate::cli::request::CageChoice::New { cage, .. } = run.cage else {
            panic!("no cage")
        };
        assert_eq!(cage.limits.memory, Some(1 << 30));
    }

    #[test]
    fn a_runner_is_named_by_its_whole_path() {
        let request = asked("[shim]\nrunner = ['/a', '/b c']\n").unwrap();
        assert_eq!(request.runners, ["/a", "/b c"].map(PathBuf::from));
        for (text, why) in [
            ("[shim]\nrunner = 'gitlab-runner'\n", "no absolute path"),
            ("[shim]\nruner = '/a'\n", "unknown key \"runer\" in [shim]"),
            ("runner = '/a'\n", "it belongs in [shim]"),
            ("[run]\nmemory = 'x'\n", "no size"),
        ] {
            let error = asked(text).unwrap_err();
            assert!(error.contains(why), "{text:?} gave {error:?}");
        }
    }
}
