//! Waiting for children (waitid(2)).

use crate::{Errno, Result};

/// What a child did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It called exit with this code.
    Exited(i32),
    /// This signal ended it.
    Killed(i32),
    /// This signal stopped it.
    Stopped(i32),
}

/// How a child that was stopped has fared since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// This signal has stopped it, again perhaps.
    Stopped(i32),
    /// It goes on.
    Continued,
}

/// Whom to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whom {
    /// Any child.
    Any,
    /// This child.
    Pid(i32),
}

/// Asks without waiting what a child did, and reaps it if it has ended. With `stops`, stopped children count too.
/// `None`: there are children, but nothing happened.
///
/// # Errors
/// `ECHILD`: there is no such child.
pub fn poll(whom: Whom, stops: bool) -> Result<Option<(i32, Change)>> {
    let stopped = if stops { libc::WSTOPPED } else { 0 };
    wait(whom, libc::WEXITED | stopped | libc::WNOHANG)
}

/// Asks without waiting for the newest stop or continuation of a child that nobody has asked for yet. Does not look at its end.
///
/// # Errors
/// `ECHILD`: there is no such child.
pub fn poll_stop(pid: i32) -> Result<Option<Stop>> {
    let info = info(Whom::Pid(pid), libc::WSTOPPED | libc::WCONTINUED | libc::WNOHANG)?;
    Ok(info.and_then(|(_, code, status)| match code {
        libc::CLD_STOPPED | libc::CLD_TRAPPED => Some(Stop::Stopped(status)),
        libc::CLD_CONTINUED => Some(Stop::Continued),
        _ => None,
    }))
}

/// As [`poll`] for a child that has ended, but leaves it unreaped: its pid stays its own, and its status can be fetched again.
///
/// # Errors
/// `ECHILD`: there is no such child.
pub fn peek(whom: Whom) -> Result<Option<(i32, Change)>> {
    wait(whom, libc::WEXITED | libc::WNOHANG | libc::WNOWAIT)
}

/// Waits until a child has ended and reaps it.
///
/// # Errors
/// `ECHILD`: there is no such child.
pub fn block(whom: Whom) -> Result<(i32, Change)> {
    loop {
        match wait(whom, libc::WEXITED) {
            Ok(Some(change)) => return Ok(change),
            Ok(None) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// Whether there is any child at all, running or not, and without reaping one.
#[must_use]
pub fn any_child() -> bool {
    wait(Whom::Any, libc::WEXITED | libc::WNOHANG | libc::WNOWAIT) != Err(Errno::ECHILD)
}

/// Whether a child of ours has not ended yet. One that was reaped has.
#[must_use]
pub fn is_alive(pid: i32) -> bool {
    wait(Whom::Pid(pid), libc::WEXITED | libc::WNOHANG | libc::WNOWAIT) == Ok(None)
}

/// Makes orphans among our descendants our own children (`PR_SET_CHILD_SUBREAPER`, since 3.4).
///
/// # Errors
/// None known; the kernel's answer is passed on.
pub fn become_subreaper() -> Result<()> {
    // SAFETY: no pointers.
    Errno::result(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) }).map(drop)
}

fn wait(whom: Whom, options: i32) -> Result<Option<(i32, Change)>> {
    Ok(info(whom, options)?.and_then(|(pid, code, status)| match code {
        libc::CLD_EXITED => Some((pid, Change::Exited(status))),
        libc::CLD_KILLED | libc::CLD_DUMPED => Some((pid, Change::Killed(status))),
        libc::CLD_STOPPED | libc::CLD_TRAPPED => Some((pid, Change::Stopped(status))),
        _ => None,
    }))
}

/// Pid, `si_code` and `si_status` of a child; `None`: nothing has happened.
fn info(whom: Whom, options: i32) -> Result<Option<(i32, i32, i32)>> {
    let (kind, id) = match whom {
        Whom::Any => (libc::P_ALL, 0),
        Whom::Pid(pid) => (libc::P_PID, libc::id_t::try_from(pid).map_err(|_| Errno::ECHILD)?),
    };
    // SAFETY: an all-zero siginfo is valid, and the kernel fills it; with WNOHANG it may leave the pid 0.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: `info` is live and of the right type.
    while let Err(errno) = Errno::result(unsafe { libc::waitid(kind, id, &mut info, options) }) {
        // Whoever gave up here would miss the only notice of a child's end.
        if errno != Errno::EINTR {
            return Err(errno);
        }
    }
    // SAFETY: waitid fills the SIGCHLD fields.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    Ok((pid != 0).then_some((pid, info.si_code, status)))
}

/// Makes sure that children can be waited for: a caller may have left SIGCHLD ignored, and then the kernel reaps them
/// itself and nobody learns how they ended (waitid(2), NOTES).
///
/// # Errors
/// None known; the kernel's answer is passed on.
pub fn expect_children() -> Result<()> {
    // SAFETY: an all-zero sigaction is SIG_DFL with an empty mask.
    let default: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: `default` is valid; the old action is not asked for.
    Errno::result(unsafe { libc::sigaction(libc::SIGCHLD, &default, std::ptr::null_mut()) }).map(drop)
}

/// Whether there is any child but the given ones, living or not. One call where there is none at all.
#[must_use]
pub fn other_child_than(known: &[i32]) -> bool {
    if known.is_empty() || !any_child() {
        return any_child();
    }
    // The kernel lists our children where it was built to (CONFIG_PROC_CHILDREN); where not, there may be one.
    let me = std::process::id();
    match crate::file::read_path(
        &std::ffi::CString::new(format!("/proc/self/task/{me}/children")).unwrap_or_default(),
    ) {
        Ok(text) => String::from_utf8_lossy(&text)
            .split_ascii_whitespace()
            .any(|pid| !pid.parse().is_ok_and(|pid: i32| known.contains(&pid))),
        Err(_) => true,
    }
}
