//! The same files as a process of the job sees them: by the path in its environment.

use super::{MAX_FILE, REMOTES, is_regular, read_at_most};
use crate::error::{LedgerError, Result};
use jobcage_sys::{Errno, Result as SysResult};
use nix::fcntl::{Flock, FlockArg, OFlag};
use nix::sys::stat::{Mode, fstat};
use nix::unistd::{ftruncate, write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// The file in which the jobs on other hosts are noted, beside the one that `JOBCAGE_ENV` names; it need not be there yet.
#[must_use]
pub fn remotes_beside(env: &Path) -> Option<PathBuf> {
    env.parent().map(|dir| dir.join(REMOTES))
}

/// Adds lines to the file, whole or not at all. Of several at a time each has its own place.
///
/// # Errors
/// If it cannot be opened, has no room, or would be larger than a later step reads.
pub fn append(path: &Path, lines: &[u8]) -> Result<()> {
    let failed = |errno| LedgerError::io("write", path, errno);
    let flags = OFlag::O_RDWR | OFlag::O_APPEND | OFlag::O_CREAT;
    let file = regular(path, open(path, flags).map_err(failed)?)?;
    // Not against those who just write lines into it, for whom O_APPEND is enough, but for the way back.
    let file = Flock::lock(std::fs::File::from(file), FlockArg::LockExclusive)
        .map_err(|(_, errno)| LedgerError::io("lock", path, errno))?;
    let before = fstat(file.as_fd()).map_err(failed)?.st_size;
    let mut text = Vec::with_capacity(lines.len() + 1);
    let mut last = [b'\n'];
    // Whoever wrote there with printf may have left the line open.
    if before > 0 && file.read_exact_at(&mut last, before.cast_unsigned() - 1).is_ok() && last != [b'\n'] {
        text.push(b'\n');
    }
    text.extend_from_slice(lines);
    if usize::try_from(before)
        .unwrap_or(usize::MAX)
        .saturating_add(text.len())
        > MAX_FILE
    {
        return Err(failed(Errno::EFBIG));
    }
    // In one write, so that nobody else's line comes between.
    match write(file.as_fd(), &text) {
        Ok(n) if n == text.len() => Ok(()),
        done => {
            // Half a line would be worse than none. If not even that works, its beginning is a wrong line.
            let _ = ftruncate(file.as_fd(), before);
            Err(failed(done.err().unwrap_or(Errno::ENOSPC)))
        }
    }
}

/// Reads the file, as far as a later step would. One that is gone is empty.
///
/// # Errors
/// If it cannot be read, or is larger than a later step reads.
pub fn read_own(path: &Path) -> Result<Vec<u8>> {
    let failed = |errno| LedgerError::io("read", path, errno);
    let file = match open(path, OFlag::O_RDONLY) {
        Err(Errno::ENOENT) => return Ok(Vec::new()),
        other => regular(path, other.map_err(failed)?)?,
    };
    let text = read_at_most(file.as_fd(), MAX_FILE).map_err(failed)?;
    text.ok_or_else(|| failed(Errno::EFBIG))
}

fn open(path: &Path, flags: OFlag) -> SysResult<OwnedFd> {
    let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    nix::fcntl::open(path, flags, Mode::S_IRUSR | Mode::S_IWUSR)
}

/// What is written to a FIFO is gone.
fn regular(path: &Path, file: OwnedFd) -> Result<OwnedFd> {
    let stat = fstat(&file).map_err(|errno| LedgerError::io("look at", path, errno))?;
    if is_regular(&stat) {
        return Ok(file);
    }
    Err(LedgerError::Damaged {
        path: path.into(),
        why: "it is no regular file".into(),
    })
}
