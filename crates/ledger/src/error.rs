//! What can go wrong with records.

use jobcage_job::JobId;
use jobcage_sys::Errno;
use std::path::{Path, PathBuf};

/// `Result` of this crate.
pub type Result<T> = std::result::Result<T, LedgerError>;

/// A failed operation on a record.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// A system call failed.
    #[error("cannot {what} {}: {}{hint}", path.display(), errno.desc())]
    Io {
        /// What was tried.
        what: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The kernel's answer.
        errno: Errno,
        /// What to do, with a leading space and in parentheses, or nothing.
        hint: &'static str,
    },
    /// A file does not hold what it should.
    #[error("{} is damaged: {why}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A newer jobcage wrote it.
    #[error("{} is of version {found}, and this jobcage reads versions up to {known}: use the jobcage that started the job, or a newer one", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The newest that is known.
        known: u32,
    },
    /// There is no such job.
    #[error("there is no job {0} here (\"jobcage list\" shows those that are)")]
    NoSuchJob(JobId),
}

impl LedgerError {
    /// A system call on a file of a record that failed, with what can be done about it.
    #[must_use]
    pub fn io(what: &'static str, path: &Path, errno: Errno) -> Self {
        let hint = match errno {
            Errno::EACCES | Errno::EPERM => " (it belongs to another user)",
            Errno::ENOSPC | Errno::EDQUOT => {
                " (make room there, or name another place with JOBCAGE_RUNTIME_DIR and JOBCAGE_STATE_DIR)"
            }
            Errno::EFBIG => " (a job hands on at most 1 MiB)",
            Errno::EROFS => " (name another place with JOBCAGE_RUNTIME_DIR and JOBCAGE_STATE_DIR)",
            _ => "",
        };
        Self::Io {
            what,
            path: path.into(),
            errno,
            hint,
        }
    }

    /// The errno, where a system call failed.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Io { errno, .. } => Some(*errno),
            _ => None,
        }
    }
}
