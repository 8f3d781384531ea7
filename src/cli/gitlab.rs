//! The words of `jobcage gitlab`: what the host's configuration says of jobs, and which call it is.

use super::error::Error;
use super::meaning::Door;
use super::pick::{absolute, only};
use super::request::{GitlabCall, GitlabHost, GitlabRequest};
use super::words::{GitlabWords, RunWords};

impl Door<'_> {
    /// # Errors
    /// If a value of any layer is wrong.
    pub(super) fn gitlab(&self, words: GitlabWords) -> Result<GitlabRequest, Error> {
        let (common, call) = match words {
            GitlabWords::Config(w) => {
                let call = GitlabCall::Config {
                    identity: self.run(RunWords::default())?.step.identity,
                    builds_dir: only("--builds-dir", w.builds_dir, absolute)?,
                    cache_dir: only("--cache-dir", w.cache_dir, absolute)?,
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
            GitlabWords::Template(w) => self.template(w)?,
            GitlabWords::Convert(w) => self.convert(w)?,
            GitlabWords::Check(w) => self.check(w)?,
        };
        Ok(GitlabRequest {
            common: self.common(common)?,
            host: GitlabHost {
                layers: self.layers.clone(),
                environ: self.environ.clone(),
                euid: self.euid,
            },
            call,
        })
    }
}
