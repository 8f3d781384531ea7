//! The lock that proves a life: a POSIX record lock (fcntl_locking(2)).
//!
//! The kernel drops it when its process ends, however it ends, and tells who holds it. So there is no pid file that
//! could lie. It is not inherited by a child, and closing *any* descriptor of the file in this process drops it:
//! whoever holds a lock opens the file once.

use crate::{Errno, Result};
use std::os::fd::{AsRawFd, BorrowedFd};

/// What the holder of the lock is about, which it tells by the part of the file that it locks: the whole file is for those
/// who look after something, the first byte for those who end it. Either shuts out both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// It looks after something for as long as that lasts.
    Tending,
    /// It ends something, which takes a moment.
    Ending,
}

/// Whoever holds the lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holder {
    /// Its pid; 0 if it lives in a pid namespace that we cannot see into.
    pub pid: i32,
    /// What it is about.
    pub purpose: Purpose,
}

/// Takes the lock if nobody has it: `true`, else `false`.
///
/// # Errors
/// `ENOLCK`, or what the file system answers.
pub fn try_lock(file: BorrowedFd<'_>, purpose: Purpose) -> Result<bool> {
    let mut wanted = request(libc::F_WRLCK);
    if purpose == Purpose::Ending {
        wanted.l_len = 1;
    }
    // SAFETY: `wanted` is a valid flock.
    match Errno::result(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLK, &wanted) }) {
        Ok(_) => Ok(true),
        // Linux gives no EACCES for a lock that another one has; who passed it for that would leave an orphan alone.
        Err(Errno::EAGAIN) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Whoever else holds the lock.
///
/// # Errors
/// What the file system answers.
pub fn holder(file: BorrowedFd<'_>) -> Result<Option<Holder>> {
    let mut answer = request(libc::F_WRLCK);
    // SAFETY: `answer` is a valid flock, which the kernel overwrites.
    Errno::result(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETLK, &mut answer) })?;
    let purpose = if answer.l_len == 1 {
        Purpose::Ending
    } else {
        Purpose::Tending
    };
    Ok((i32::from(answer.l_type) != libc::F_UNLCK).then_some(Holder {
        pid: answer.l_pid,
        purpose,
    }))
}

/// Shows that somebody is there, until the last copy of this descriptor is closed: any number may at a time, and nobody is
/// shut out. It is the descriptor's lock and not the process's (open file description locks), so others of the same file may
/// be closed meanwhile.
///
/// # Errors
/// `ENOLCK`, or what the file system answers.
pub fn share(file: BorrowedFd<'_>) -> Result<()> {
    let wanted = request(libc::F_RDLCK);
    // SAFETY: `wanted` is a valid flock, whose pid is 0 as these locks want it.
    Errno::result(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &wanted) }).map(drop)
}

/// Whether another descriptor has it by [`share`]. It takes no lock: two who asked so at once would take each other for one.
///
/// # Errors
/// What the file system answers.
pub fn is_shared(file: BorrowedFd<'_>) -> Result<bool> {
    let mut answer = request(libc::F_WRLCK);
    // SAFETY: `answer` is a valid flock, which the kernel overwrites.
    Errno::result(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &mut answer) })?;
    Ok(i32::from(answer.l_type) != libc::F_UNLCK)
}

/// A lock request for the whole file, from its first byte to its end wherever that is.
fn request(kind: i32) -> libc::flock {
    // SAFETY: all-zero is valid: SEEK_SET, from 0, to the end.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = libc::c_short::try_from(kind).unwrap_or_default();
    lock
}
