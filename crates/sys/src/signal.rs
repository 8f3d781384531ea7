//! What this process does with a signal (sigaction(2)).

use nix::sys::signal::Signal;

/// Whether this process ignores the signal, as its caller may have wished (nohup(1)).
#[must_use]
pub fn is_ignored(signal: Signal) -> bool {
    // SAFETY: an all-zero sigaction is valid, and the kernel overwrites it.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: no new action is given; `action` is live and of the right type.
    let asked = unsafe { libc::sigaction(signal as i32, std::ptr::null(), &mut action) };
    asked == 0 && action.sa_sigaction == libc::SIG_IGN
}
