//! pidfds: a hold on one process that no pid reuse can turn into another (pidfd_open(2), pidfd_send_signal(2)).

use crate::{Errno, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Opens a pidfd of a process. Close-on-exec, as all pidfds are.
///
/// # Errors
/// `ESRCH`: no such process, or it has been reaped. `EINVAL`: `pid` is no thread group leader, or not above 0.
/// `ENOSYS`: a kernel before 5.3.
pub fn open(pid: i32) -> Result<OwnedFd> {
    // SAFETY: no pointers.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: the kernel has just given us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(RawFd::try_from(fd).map_err(|_| Errno::EBADF)?) })
}

/// Sends a signal to the process behind a pidfd.
///
/// # Errors
/// `ESRCH`: it has ended. `EPERM`: not ours to signal.
pub fn send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> Result<()> {
    // SAFETY: a null siginfo asks for the one that kill(2) would make.
    let done = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    Errno::result(done).map(drop)
}

/// Sends a signal by pid: to our own unreaped child, whose pid therefore cannot be reused, or where the kernel has no
/// pidfds, to a process that the caller has just seen to live.
///
/// # Errors
/// As kill(2). A pid below 2 is refused with `EINVAL`: 0 and −1 mean groups, and 1 is never ours.
pub fn signal_pid(pid: i32, signal: i32) -> Result<()> {
    if pid < 2 {
        return Err(Errno::EINVAL);
    }
    // SAFETY: no pointers.
    Errno::result(unsafe { libc::kill(pid, signal) }).map(drop)
}

/// Whether the process behind a pidfd has ended; a zombie has.
#[must_use]
pub fn has_ended(pidfd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(pidfd, PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

/// Waits until the process behind a pidfd has ended.
///
/// # Errors
/// As poll(2), without `EINTR`.
pub fn wait_end(pidfd: BorrowedFd<'_>) -> Result<()> {
    let mut fds = [PollFd::new(pidfd, PollFlags::POLLIN)];
    loop {
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => {}
            other => return other.map(drop),
        }
    }
}
