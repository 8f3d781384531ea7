//! The words of `jobcage gitlab template`, `convert` and `check`, and what is meant by them.

use clap::{Args, ValueHint};
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

use super::error::Error;
use super::meaning::Door;
use super::pick::{self, absolute, only};
use super::request::{GitlabCall, InstallRequest, InstallVerb};
use super::values::parse_clock;
use super::words::{CommonWords, PlainWords, RunWords};
use crate::config::options::Opt;

/// How long it may take where nobody says so: what fits, with the default grace, below the 300 s that the runner waits for a job
/// that is over.
pub const AFTER_SCRIPT: Duration = Duration::from_secs(240);

/// Where the packaged runner, which is root's, has its configuration.
const OF_THE_HOST: &str = "/etc/gitlab-runner/config.toml";
/// Where the runner of any other user has it, from that one's home.
const OF_A_USER: &str = ".gitlab-runner/config.toml";

#[derive(Debug, Args)]
pub struct TemplateWords {
    #[command(flatten)]
    pub common: CommonWords,
    /// Have the runner call this jobcage, an absolute path. The default is the one that runs now.
    #[arg(long, value_name = "PATH", value_hint = ValueHint::ExecutablePath)]
    pub binary: Option<OsString>,
}

#[derive(Debug, Args)]
pub struct ConvertWords {
    #[command(flatten)]
    pub common: CommonWords,
    /// Have the runner call this jobcage, an absolute path. The default is the one that runs now.
    #[arg(long, value_name = "PATH", value_hint = ValueHint::ExecutablePath)]
    pub binary: Option<OsString>,
    /// Convert the runner of this name. The default is every one with a shell executor.
    #[arg(long, value_name = "NAME")]
    pub name: Option<OsString>,
    /// Replace the file, and leave the old one beside it.
    #[arg(long)]
    pub write: bool,
    /// The runner's config.toml.
    #[arg(value_name = "CONFIG", value_hint = ValueHint::FilePath)]
    pub config: OsString,
}

#[derive(Debug, Args)]
pub struct CheckWords {
    #[command(flatten)]
    pub plain: PlainWords,
    /// The runner's config.toml. The default is /etc/gitlab-runner/config.toml, for a user ~/.gitlab-runner/config.toml.
    #[arg(value_name = "CONFIG", value_hint = ValueHint::FilePath)]
    pub config: Option<OsString>,
}

type Meant = (CommonWords, GitlabCall);

impl Door<'_> {
    pub(super) fn template(&self, w: TemplateWords) -> Result<Meant, Error> {
        let binary = only("--binary", w.binary, absolute)?;
        self.install(w.common, InstallVerb::Template { binary })
    }

    pub(super) fn convert(&self, w: ConvertWords) -> Result<Meant, Error> {
        let verb = InstallVerb::Convert {
            config: file(w.config)?,
            name: only(
                "--name",
                w.name,
                pick::text(|name| Ok::<_, String>(name.to_owned())),
            )?,
            binary: only("--binary", w.binary, absolute)?,
            write: w.write,
        };
        self.install(w.common, verb)
    }

    pub(super) fn check(&self, w: CheckWords) -> Result<Meant, Error> {
        let given = w.config.map(file).transpose()?;
        let verb = InstallVerb::Check {
            is_usual: given.is_none(),
            config: given.or_else(|| self.usual_config()),
            json: w.plain.json,
        };
        self.install(w.plain.common, verb)
    }

    fn install(&self, common: CommonWords, verb: InstallVerb) -> Result<Meant, Error> {
        let after = self.after_budget()?;
        let run = self.run(RunWords::default())?;
        let request = InstallRequest {
            grace: run.grace,
            identity: run.step.identity,
            after,
            verb,
        };
        Ok((common, GitlabCall::Install(request)))
    }

    /// How long the after phase of GitLab's jobs may take: that of any job on this host, if it is set.
    pub(super) fn after_budget(&self) -> Result<Duration, Error> {
        let set = pick::value(self.layers, Opt::AfterTimeout, None, parse_clock)?;
        Ok(set.unwrap_or(AFTER_SCRIPT))
    }

    fn usual_config(&self) -> Option<PathBuf> {
        if self.euid == 0 {
            return Some(OF_THE_HOST.into());
        }
        self.environ.directory("HOME").map(|home| home.join(OF_A_USER))
    }
}

fn file(given: OsString) -> Result<PathBuf, Error> {
    let fits = |given: &OsStr| !given.is_empty() && !given.as_encoded_bytes().contains(&0);
    if fits(&given) {
        return Ok(given.into());
    }
    Err(Error::value("CONFIG", "the path is empty or holds a NUL"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::meaning::tests::Call;
    use crate::cli::request::Request;

    fn meant(call: &Call<'_>, line: &str) -> Result<InstallRequest, String> {
        let (request, _) = call.request(line)?;
        let Request::Gitlab(gitlab) = request else {
            panic!("no call of gitlab: {line}")
        };
        match gitlab.call {
            GitlabCall::Install(install) => Ok(install),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_after_budget_is_that_of_the_host() {
        let of = |variables: &[(&str, &str)], files: &[&str]| {
            let call = Call { variables, files };
            meant(&call, "jobcage gitlab template").map(|install| install.after)
        };
        assert_eq!(of(&[], &[]), Ok(AFTER_SCRIPT));
        assert_eq!(
            of(&[], &["[run]\nafter_timeout = '2m'\n"]),
            Ok(Duration::from_secs(120))
        );
        assert_eq!(
            of(
                &[("JOBCAGE_AFTER_TIMEOUT", "90")],
                &["[run]\nafter_timeout = '2m'\n"]
            ),
            Ok(Duration::from_secs(90))
        );
        assert!(of(&[], &["[run]\nafter_timeout = '0'\n"]).is_err());
    }

    #[test]
    fn what_is_named_is_taken_and_what_cannot_be_meant_is_refused() {
        let call = Call {
            variables: &[],
            files: &[],
        };
        let install = meant(
            &call,
            "jobcage gitlab convert c.toml --name x --binary /b --write",
        );
        assert_eq!(
            install.unwrap().verb,
            InstallVerb::Convert {
                config: "c.toml".into(),
                name: Some("x".into()),
                binary: Some("/b".into()),
                write: true
            }
        );
        let usual = meant(&call, "jobcage gitlab check --json").unwrap().verb;
        assert!(matches!(
            usual,
            InstallVerb::Check {
                is_usual: true,
                json: true,
                ..
            }
        ));
        for wrong in [
            "jobcage gitlab template --binary jobcage",
            "jobcage gitlab convert",
            "jobcage gitlab check a b",
        ] {
            assert!(call.request(wrong).is_err(), "{wrong}");
        }
    }
}
