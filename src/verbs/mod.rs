//! One function for each verb: it does what the request says and returns the exit code.

pub mod pages;

use std::path::PathBuf;

use crate::cli::request::{
    CleanupRequest, CreateRequest, DoctorRequest, GcRequest, ListRequest, RunRequest, ShowRequest,
    StopRequest, WatchRequest,
};

/// Why a verb failed.
#[derive(Debug, thiserror::Error)]
pub enum VerbError {
    /// This build does not have the verb yet.
    #[error("{0}: not built yet: this build of jobcage has no such part, and nothing was done")]
    NotBuilt(&'static str),
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

/// `jobcage run`.
///
/// # Errors
/// If jobcage itself fails; how the command ended is the exit code.
pub fn run(_: RunRequest) -> Outcome {
    Err(VerbError::NotBuilt("run"))
}

/// `jobcage create`.
///
/// # Errors
/// If the cage cannot be made.
pub fn create(_: CreateRequest) -> Outcome {
    Err(VerbError::NotBuilt("create"))
}

/// `jobcage cleanup`.
///
/// # Errors
/// If the cage cannot be ended.
pub fn cleanup(_: CleanupRequest) -> Outcome {
    Err(VerbError::NotBuilt("cleanup"))
}

/// `jobcage list`.
///
/// # Errors
/// If the records cannot be read.
pub fn list(_: ListRequest) -> Outcome {
    Err(VerbError::NotBuilt("list"))
}

/// `jobcage show`.
///
/// # Errors
/// If there is no such job or its record cannot be read.
pub fn show(_: ShowRequest) -> Outcome {
    Err(VerbError::NotBuilt("show"))
}

/// `jobcage stop`.
///
/// # Errors
/// If there is no such job or it cannot be stopped.
pub fn stop(_: StopRequest) -> Outcome {
    Err(VerbError::NotBuilt("stop"))
}

/// `jobcage gc`.
///
/// # Errors
/// If something of a dead job could not be removed.
pub fn gc(_: GcRequest) -> Outcome {
    Err(VerbError::NotBuilt("gc"))
}

/// `jobcage doctor`.
///
/// # Errors
/// If the host cannot be examined.
pub fn doctor(_: DoctorRequest) -> Outcome {
    Err(VerbError::NotBuilt("doctor"))
}

/// `jobcage watch`.
///
/// # Errors
/// If the root cannot be held or watched.
pub fn watch(_: WatchRequest) -> Outcome {
    Err(VerbError::NotBuilt("watch"))
}
