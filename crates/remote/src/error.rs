//! Why a job on another host could not be begun.

use crate::frame::Garbled;
use jobcage_ledger::LedgerError;
use jobcage_supervisor::Failure;
use jobcage_sys::Errno;
use std::path::PathBuf;

/// An error of ours, on this side of the line or on the other.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// A call on this side.
    #[error("cannot {what}: {}", errno.desc())]
    System {
        /// What was to be done.
        what: &'static str,
        /// Why it failed.
        errno: Errno,
    },
    /// The program that goes there.
    #[error("cannot read the jobcage that is to go to the host, {}: {source}", path.display())]
    Binary {
        /// Its file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// There was no connection in the first place.
    #[error("cannot reach {host}: {why}")]
    Unreachable {
        /// The host, as it was given.
        host: String,
        /// What ssh or the host said.
        why: String,
    },
    /// The other side has said something that is no word of ours.
    #[error("{0} has come over the line")]
    Garbled(String),
    /// A record on this side.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The supervisor on this side.
    #[error(transparent)]
    Failure(#[from] Failure),
}

impl RemoteError {
    pub(crate) fn system(what: &'static str) -> impl FnOnce(Errno) -> Self {
        move |errno| Self::System { what, errno }
    }
}

impl From<Garbled> for RemoteError {
    fn from(garbled: Garbled) -> Self {
        Self::Garbled(garbled.to_string())
    }
}

pub(crate) type Result<T> = std::result::Result<T, RemoteError>;
