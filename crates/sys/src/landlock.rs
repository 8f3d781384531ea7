//! A fence around a job that runs as the user who looks after it: Landlock's signal scope (landlock(7), since 6.12).
//!
//! Whoever stands inside may not signal whoever stands outside, and (as in every Landlock domain) may not trace it, read its
//! environment or take its descriptors. It needs `PR_SET_NO_NEW_PRIVS`: set-user-ID programs inside have no privilege.

use crate::{Errno, Result};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// `struct landlock_ruleset_attr` of linux/landlock.h, as of ABI 6.
#[repr(C)]
struct Ruleset {
    files: u64,
    network: u64,
    scoped: u64,
}

const SCOPE_SIGNAL: u64 = 1 << 1;

/// Makes a fence; whoever enters it stays inside with all descendants (`landlock_restrict_self`).
///
/// # Errors
/// `ENOSYS`, `EOPNOTSUPP`: the kernel has no Landlock, or it is turned off. `E2BIG`, `EINVAL`: one before 6.12.
pub fn signal_fence() -> Result<OwnedFd> {
    let ruleset = Ruleset {
        files: 0,
        network: 0,
        scoped: SCOPE_SIGNAL,
    };
    // SAFETY: a live struct of the size that is told.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            &raw const ruleset,
            size_of::<Ruleset>(),
            0,
        )
    };
    let fd = RawFd::try_from(Errno::result(fd)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel has just given us this descriptor, close-on-exec.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
