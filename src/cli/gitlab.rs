//! The words of `jobcage gitlab`: what the host's configuration says of jobs, and which call it is.

use super::error::Error;
use super::meaning::Door;
use super::request::{GitlabCall, GitlabRequest};
use super::words::{CommonWords, GitlabWords, RunWords};
use std::ffi::OsString;
use std::path::PathBuf;

impl Door<'_> {
    /// # Errors
    /// If a value of any layer is wrong.
    pub(super) fn gitlab(&self, words: GitlabWords) -> Result<GitlabRequest, Error> {
        let (common, call) = match words {
            GitlabWords::Config(w) => {
                let call = GitlabCall::Config {
                    builds_dir: w
                        .builds_dir
                        .map(|dir| absolute("--builds-dir", dir))
                        .transpose()?,
                    cache_dir: w.cache_dir.map(|dir| absolute("--cache-dir", dir)).transpose()?,
                };
                (w.common, call)
            }
            GitlabWords::Prepare(common) => (common, GitlabCall::Prepare),
            GitlabWords::Run(w) => {
                let call = GitlabCall::Run {
                    script: w.script.into(),
                    // It is compared with known names, and shown to nobody.
                    stage: w.stage.to_string_lossy().into_owned(),
                };
                (w.common, call)
            }
            GitlabWords::Cleanup(common) => (common, GitlabCall::Cleanup),
        };
        Ok(GitlabRequest {
            run: self.run(of_job(common))?,
            call,
        })
    }
}

fn of_job(common: CommonWords) -> RunWords {
    RunWords {
        common,
        ..RunWords::default()
    }
}

fn absolute(option: &str, dir: OsString) -> Result<PathBuf, Error> {
    let dir = PathBuf::from(dir);
    if dir.is_absolute() {
        return Ok(dir);
    }
    Err(Error::Value {
        origin: option.into(),
        why: "this is no absolute path".into(),
    })
}
