//! Room on the disk that is taken when a captured job begins, so that its end can be written down on a disk that its own log, or
//! anybody else, has filled.

use crate::error::{LedgerError, Result};
use crate::record::{REPORT, Record};
use jobcage_sys::Errno;
use nix::fcntl::{FallocateFlags, OFlag, fallocate, openat};
use nix::sys::stat::{Mode, fstat};
use nix::unistd::{UnlinkatFlags, ftruncate, unlinkat};

const RESERVE: &str = "reserve";
/// A report with all its steps has 3 KiB; what goes before it are a few blocks at a time.
const ROOM: i64 = 32 * 1024;
/// What only the report may take.
const LAST: i64 = 16 * 1024;
/// What is given back at a time.
const PART: i64 = 4 * 1024;

impl Record {
    /// Takes room for the end of the job.
    ///
    /// # Errors
    /// `ENOSPC`: there is none. A file system that cannot reserve is fine.
    pub fn reserve(&self) -> Result<()> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        let reserved = openat(&self.dir, RESERVE, flags, Mode::S_IRUSR | Mode::S_IWUSR)
            .and_then(|file| fallocate(file, FallocateFlags::empty(), 0, ROOM));
        match reserved {
            Ok(()) | Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => Ok(()),
            Err(errno) => Err(LedgerError::io(
                "reserve room in",
                &self.path.join(RESERVE),
                errno,
            )),
        }
    }

    /// Gives some of it back for this file, or all of it for the report: whether another try is worth it.
    pub(crate) fn make_room(&self, name: &str) -> bool {
        if name == REPORT {
            return self.forget_reserve();
        }
        let Ok(file) = openat(
            &self.dir,
            RESERVE,
            OFlag::O_WRONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW,
            Mode::empty(),
        ) else {
            return false;
        };
        let left = fstat(&file).map_or(0, |stat| stat.st_size) - PART;
        left >= LAST && ftruncate(&file, left).is_ok()
    }

    /// Gives all of it back; whether there was any.
    pub(crate) fn forget_reserve(&self) -> bool {
        unlinkat(&self.dir, RESERVE, UnlinkatFlags::NoRemoveDir).is_ok()
    }
}
