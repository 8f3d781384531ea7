//! What can go wrong with a cgroup, in one sentence that says what to do.

use jobcage_sys::Errno;
use std::path::{Path, PathBuf};

/// `Result` of this crate.
pub type Result<T> = std::result::Result<T, CageError>;

/// A failed operation on a cgroup.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CageError {
    /// A system call failed.
    #[error("cannot {what} in {}: {}{hint}", path.display(), errno.desc())]
    Io {
        /// What was tried.
        what: String,
        /// The cgroup.
        path: PathBuf,
        /// The kernel's answer.
        errno: Errno,
        /// What to do, with a leading space and in parentheses, or nothing.
        hint: &'static str,
    },
    /// A file of the kernel did not hold what it should.
    #[error("{} has an unexpected content: {content:?}", path.display())]
    Unexpected {
        /// The file.
        path: PathBuf,
        /// Its content, shortened.
        content: String,
    },
    /// There is no place for cages.
    #[error("{0}")]
    NoRoot(String),
    /// A limit cannot be enforced.
    #[error("cannot enforce {file} = {value} in {}: {why} (run \"jobcage doctor\" to see what this host enforces, or use --best-effort)", path.display())]
    Limit {
        /// The cgroup.
        path: PathBuf,
        /// The limit's file.
        file: String,
        /// The value asked for.
        value: String,
        /// The reason.
        why: String,
    },
    /// systemd did not do what was asked.
    #[error("systemd cannot start {unit}: {why}")]
    Systemd {
        /// The unit.
        unit: String,
        /// Its answer.
        why: String,
    },
}

impl CageError {
    pub(crate) fn io(what: impl Into<String>, path: &Path, errno: Errno) -> Self {
        let hint = match errno {
            Errno::EROFS => {
                " (the cgroup file system is mounted read-only here: mount it writable; docker: --cgroupns=private and \
                 -v /sys/fs/cgroup:/sys/fs/cgroup:rw)"
            }
            Errno::EACCES | Errno::EPERM => " (run \"jobcage doctor\")",
            Errno::EAGAIN => " (cgroup.max.descendants or cgroup.max.depth is reached)",
            _ => "",
        };
        Self::Io {
            what: what.into(),
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
