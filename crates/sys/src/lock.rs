//! The lock that proves a life: a POSIX record lock (fcntl_locking(2)).
//!
//! The kernel drops it when its process ends, however it ends, and tells who holds it. So there is no pid file that
//! could lie. It is not inherited by a child, and closing *any* descriptor of the file in this process drops it:
//! whoever holds a lock opens the file once.

use crate::{Errno, Result};
use std::os::fd::{AsRawFd, BorrowedFd};

/// Takes the lock if nobody has it: `true`, else `false`.
///
/// # Errors
/// `ENOLCK`, or what the file system answers.
pub fn try_lock(file: BorrowedFd<'_>) -> Result<bool> {
    let whole = request(libc::F_WRLCK);
    // SAFETY: `whole` is a valid flock.
    match Errno::result(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLK, &whole) }) {
        Ok(_) => Ok(true),
        // Linux gives no EACCES for a lock that another one has; who passed it for that would leave an orphan alone.
        Err(Errno::EAGAIN) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// The pid of whoever else holds the lock; 0 if it lives in a pid namespace that we cannot see into.
///
/// # Errors
/// What the file system answers.
pub fn holder(file: BorrowedFd<'_>) -> Result<Option<i32>> {
    let mut answer = request(libc::F_WRLCK);
    // SAFETY: `answer` is a valid flock, which the kernel overwrites.
    Errno::result(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETLK, &mut answer) })?;
    Ok((i32::from(answer.l_type) != libc::F_UNLCK).then_some(answer.l_pid))
}

/// A lock request for the whole file.
fn request(kind: i32) -> libc::flock {
    // SAFETY: all-zero is valid: SEEK_SET, from 0, to the end.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = libc::c_short::try_from(kind).unwrap_or_default();
    lock
}
