//! pidfds: a hold on one process that no pid reuse can turn into another (pidfd_open(2), pidfd_send_signal(2)).

use crate::wait::Change;
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

/// `struct pidfd_info` of linux/pidfd.h, in its first published size.
#[repr(C)]
#[derive(Default)]
struct Info {
    mask: u64,
    cgroup: u64,
    ids: [u32; 11],
    exit_code: i32,
}

/// How a process ended that is not our child, once it is reaped (`PIDFD_GET_INFO` with `PIDFD_INFO_EXIT`, since 6.15).
/// `None`: it is not reaped yet, which a `POLLHUP` tells.
///
/// # Errors
/// `ENOTTY`, `EINVAL` or `EOPNOTSUPP`: a kernel that does not tell.
pub fn exit_of_reaped(pidfd: BorrowedFd<'_>) -> Result<Option<Change>> {
    const EXIT: u64 = 1 << 3;
    // _IOWR(0xFF, 11, struct pidfd_info)
    const GET_INFO: libc::c_ulong = 3 << 30 | (size_of::<Info>() as libc::c_ulong) << 16 | 0xFF << 8 | 11;
    let mut info = Info {
        mask: EXIT,
        ..Info::default()
    };
    // SAFETY: the kernel writes at most as many bytes as the request's number says, into a live struct of that size.
    let done = unsafe { libc::ioctl(pidfd.as_raw_fd(), GET_INFO as _, &raw mut info) };
    match Errno::result(done) {
        // A zombie that nobody has reaped: the kernel has nothing to say of it yet.
        Err(Errno::ESRCH) => return Ok(None),
        other => other?,
    };
    if info.mask & EXIT == 0 {
        // Before 6.15 the bit is not known and not given; whether the process is reaped tells the two apart.
        let mut fds = [PollFd::new(pidfd, PollFlags::empty())];
        let polled = poll(&mut fds, PollTimeout::ZERO)?;
        return if polled > 0 {
            Err(Errno::EOPNOTSUPP)
        } else {
            Ok(None)
        };
    }
    let status = info.exit_code;
    Ok(Some(if libc::WIFEXITED(status) {
        Change::Exited(libc::WEXITSTATUS(status))
    } else {
        Change::Killed(libc::WTERMSIG(status))
    }))
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
