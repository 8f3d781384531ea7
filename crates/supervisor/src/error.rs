//! When jobcage itself fails. How a job ended is no error.

use jobcage_cage::CageError;
use jobcage_ledger::LedgerError;
use jobcage_sys::Errno;

/// `Result` of this crate.
pub type Result<T> = std::result::Result<T, Failure>;

/// jobcage failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// With a cgroup.
    #[error(transparent)]
    Cage(#[from] CageError),
    /// With a record.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// With a system call.
    #[error("cannot {what}: {}", errno.desc())]
    System {
        /// What was tried.
        what: &'static str,
        /// The kernel's answer.
        errno: Errno,
    },
    /// With the job as it is.
    #[error("{0}")]
    Refused(String),
}

impl Failure {
    /// A system call that failed, for `map_err`.
    pub fn system(what: &'static str) -> impl Fn(Errno) -> Self {
        move |errno| Self::System { what, errno }
    }
}
