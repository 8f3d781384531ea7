//! One function for each verb: it does what the request says and returns the exit code.

mod attach;
mod captured;
mod command;
mod doctor;
mod end;
mod env;
mod exec;
pub mod guest_home;
mod hosts;
mod job_files;
mod keys;
mod logs;
mod look;
pub mod pages;
mod reboot;
mod remote;
mod remotes;
mod run;
mod stop_all;
mod wait;

pub use attach::attach;
pub use captured::{outlets, tell_lost};
pub use command::{account, build, build_in, settle_at_home, uid};
pub use doctor::doctor;
pub use end::{cleanup, gc, stop, tell_done};
pub use env::env;
pub use exec::exec;
pub use hosts::hosts;
pub use job_files::{pack_here, unpack_here};
pub use keys::read as read_keys;
pub use logs::logs;
pub use look::{guests, list, show};
pub use remote::{remote, serve};
pub use remotes::close as close_remotes;
pub use run::{create, run, tell};
pub use wait::wait;

use crate::cli::request;
use jobcage_job::JobId;
use jobcage_ledger::{LedgerError, Places};
use jobcage_supervisor::Failure;
use std::path::PathBuf;

/// Why a verb failed.
#[derive(Debug, thiserror::Error)]
pub enum VerbError {
    /// The supervisor could not do it.
    #[error(transparent)]
    Failure(#[from] Failure),
    /// The file for standard input.
    #[error("cannot open {} (--stdin): {source}", path.display())]
    Stdin {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A key for the job's ssh-agent.
    #[error("cannot read the key {name} (--ssh-key): {source}")]
    Key {
        /// Where it was to come from.
        name: String,
        /// Why.
        source: std::io::Error,
    },
    /// A record.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// State that is to be handed on.
    #[error("env: {0}")]
    Handed(String),
    /// A user or group that was named.
    #[error("{0}")]
    Who(String),
    /// The report could not be written where it was wanted.
    #[error("cannot write the report to {}: {source}", path.display())]
    Report {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// `stop --all`.
    #[error("cannot start the stop of the job {id}: {source}")]
    StopOne {
        /// The job.
        id: JobId,
        /// Why.
        source: std::io::Error,
    },
    /// A job on another host.
    #[error(transparent)]
    Remote(#[from] jobcage_remote::RemoteError),
    /// A call of GitLab Runner.
    #[error(transparent)]
    Gitlab(#[from] crate::gitlab::GitlabError),
    /// Bringing the driver onto a host.
    #[error("gitlab: {0}")]
    Install(#[from] crate::gitlab::InstallError),
    /// A text that was asked for did not get out.
    #[error("cannot write to standard output: {0}")]
    Stdout(std::io::Error),
    /// The manual pages.
    #[error("man: cannot write the pages into {}: {source}; name a directory that exists and may be written to", dir.display())]
    Man {
        /// The directory.
        dir: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// What a verb ends with: the exit code.
pub type Outcome = Result<u8, VerbError>;

/// The places of records, as the ledger wants them.
pub fn places(places: &request::Places) -> Places {
    Places {
        runtime: places.runtime_dir.clone(),
        state: places.state_dir.clone(),
    }
}

/// A value as JSON, on stdout.
pub fn print_json(value: &impl serde::Serialize) -> Outcome {
    let mut text = serde_json::to_string_pretty(value).map_err(|e| VerbError::Stdout(e.into()))?;
    text.push('\n');
    pages::print(text.as_bytes())
}
