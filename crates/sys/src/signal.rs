//! What this process does with a signal (sigaction(2)), and one that the kernel sends it on request.

use crate::{Errno, Result};
use nix::sys::signal::Signal;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Asks for one SIGIO when something is written, made, renamed or removed in a directory (dnotify, `F_NOTIFY` of fcntl(2)).
/// It belongs to this file description and is over with the first signal. The signal must be blocked before.
///
/// # Errors
/// `EINVAL`: the kernel was built without it. `ENOTDIR`: this is no directory.
pub fn notify_once(dir: BorrowedFd<'_>) -> Result<()> {
    // From linux/fcntl.h, which libc has not.
    const DN_MODIFY: i32 = 0x02;
    const DN_CREATE: i32 = 0x04;
    const DN_DELETE: i32 = 0x08;
    const DN_RENAME: i32 = 0x10;
    let what = DN_MODIFY | DN_CREATE | DN_DELETE | DN_RENAME;
    // SAFETY: no pointers.
    Errno::result(unsafe { libc::fcntl(dir.as_raw_fd(), libc::F_NOTIFY, what) }).map(drop)
}

/// Whether this process ignores the signal, as its caller may have wished (nohup(1)).
#[must_use]
pub fn is_ignored(signal: Signal) -> bool {
    // SAFETY: an all-zero sigaction is valid, and the kernel overwrites it.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: no new action is given; `action` is live and of the right type.
    let asked = unsafe { libc::sigaction(signal as i32, std::ptr::null(), &mut action) };
    asked == 0 && action.sa_sigaction == libc::SIG_IGN
}
