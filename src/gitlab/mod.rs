//! `jobcage gitlab`: the four calls of GitLab Runner's custom executor. Nothing below `crates/` knows that GitLab exists.
//!
//! A job of GitLab is a cage of `jobcage create`, whose lease the runner holds: the watcher closes it if the runner dies. Each
//! call finds it anew by the job's number and by the runner, so that none depends on what another has left in memory.

mod after;
mod cage;
mod config;
mod contract;
mod end;
mod install;
mod stage;

use crate::cli::request::{GitlabCall, GitlabRequest};
use crate::verbs::Outcome;
use contract::Codes;
pub use install::InstallError;
use std::process::ExitCode;

/// What the calls have in common in what goes wrong: the runner sees a system failure, and the job's log says why.
#[derive(Debug, thiserror::Error)]
pub enum GitlabError {
    /// The runner's own words are wrong or missing.
    #[error("{what}: {why}; this call is for GitLab Runner's custom executor")]
    Contract {
        /// Which of them.
        what: String,
        /// What is wrong.
        why: String,
    },
    /// There is no cage for this job.
    #[error("there is no open cage of job {0}: prepare has not run, or the job is over")]
    NoCage(u64),
    /// The stage's script.
    #[error("cannot read the script {}: {source}", path.display())]
    Script {
        /// The file.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Something survived.
    #[error("something of job {0} survived; \"jobcage list\" names it")]
    NotClean(u64),
}

/// Does what the runner asks for: the exit code, which is one of the three that it knows.
///
/// # Errors
/// If jobcage itself fails.
pub fn perform(request: GitlabRequest) -> Outcome {
    let GitlabRequest { run, call } = request;
    match call {
        GitlabCall::Config {
            builds_dir,
            cache_dir,
        } => config::config(&run.step.identity, builds_dir, cache_dir).map(|()| 0),
        GitlabCall::Prepare => cage::prepare(run).map(|()| 0),
        GitlabCall::Run { script, stage } => stage::run(run, &script, &stage),
        GitlabCall::Cleanup => cage::cleanup(&run.common).map(|()| 0),
        GitlabCall::Install(request) => install::perform(request, &run),
    }
}

/// How a call of ours ends that has failed itself.
#[must_use]
pub fn failed() -> ExitCode {
    ExitCode::from(Codes::of_the_runner().system_failure)
}

/// Whether these words are a call of the runner's: an administrator's is answered as any other verb.
#[must_use]
pub fn is_called(words: &[std::ffi::OsString]) -> bool {
    let is = |at: usize, word: &str| words.get(at).is_some_and(|given| given == word);
    is(1, "gitlab") && !install::VERBS.iter().any(|verb| is(2, verb))
}
