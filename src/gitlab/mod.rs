//! `jobcage gitlab`: the four calls of GitLab Runner's custom executor. Nothing below `crates/` knows that GitLab exists.
//!
//! A job of GitLab is a cage of `jobcage create`, whose lease the runner holds: the watcher closes it if the runner dies. Each
//! call finds it anew by the job's number and by the runner, so that none depends on what another has left in memory.

mod after;
mod cage;
mod config;
mod contract;
mod debris;
mod end;
mod install;
mod memory;
mod stage;

use crate::cli::Refused;
use crate::cli::request::{GitlabCall, GitlabRequest};
use crate::verbs::{Outcome, VerbError};
use contract::{Codes, Response, exit_code_file, forget_exit_code};
pub use debris::sweep_host;
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
    /// What the job asks for by its variables.
    #[error("{0}")]
    Job(crate::cli::error::Error),
    /// What the host's configuration says.
    #[error("{0}")]
    Host(crate::cli::error::Error),
    /// The host takes no job.
    #[error(
        "{count} cages with processes that cannot be ended are on this host, and its configuration allows {most} \
         (gitlab.quarantine_max); \"jobcage list\" names them"
    )]
    Quarantined {
        /// How many.
        count: u64,
        /// How many are allowed.
        most: u64,
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
    match perform_call(request) {
        // The job's own fault: nobody shall try again.
        Err(VerbError::Gitlab(GitlabError::Job(why))) => {
            crate::complain(&why);
            Ok(Codes::of_the_runner().build_failure)
        }
        done => done,
    }
}

fn perform_call(request: GitlabRequest) -> Outcome {
    let GitlabRequest { common, host, call } = request;
    let settings = |response: &Response| {
        let mut settings = host.settings(&response.job()).map_err(|refused| match refused {
            Refused::Host(error) => GitlabError::Host(error),
            Refused::Job(error) => GitlabError::Job(error),
        })?;
        settings.run.common = common.clone();
        Ok::<_, VerbError>(settings)
    };
    match call {
        GitlabCall::Config {
            identity,
            builds_dir,
            cache_dir,
        } => config::config(&identity, builds_dir, cache_dir).map(|()| 0),
        GitlabCall::Prepare => {
            let response = Response::of_this_call()?;
            cage::prepare(&response, settings(&response)?).map(|()| 0)
        }
        GitlabCall::Run { script, stage } => {
            let told = exit_code_file();
            forget_exit_code(told.as_deref());
            let response = Response::of_this_call()?;
            stage::run(&response, settings(&response)?, &script, &stage, told.as_deref())
        }
        GitlabCall::Cleanup => cage::cleanup(&common).map(|()| 0),
        GitlabCall::Install(request) => install::perform(request, &common),
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
