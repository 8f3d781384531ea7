//! Waiting for a long time at little cost, and looking without waiting.

use crate::error::{Failure, Result};
use jobcage_sys::{Errno, memory};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

/// Waits until something happens: `false` if nothing did in `patience`. After a quiet moment the process gives its own code
/// back meanwhile: it may wait for days.
///
/// # Errors
/// As poll(2).
pub(crate) fn rest(fds: &mut [PollFd<'_>], patience: Option<Duration>) -> Result<bool> {
    const MOMENT: u16 = 100;
    loop {
        match poll(fds, PollTimeout::from(MOMENT)) {
            Ok(0) => break,
            Ok(_) => return Ok(true),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(Failure::system("wait")(errno)),
        }
    }
    let until = patience.map(|patience| Instant::now() + patience);
    loop {
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        if memory::sleep_without_code(fds, left) {
            return Ok(true);
        }
        // A signal may have ended the sleep before its time.
        if left.is_some_and(|left| left.is_zero()) {
            return Ok(false);
        }
    }
}

/// Whether there is something to read at this moment, or the other end is gone.
pub(crate) fn is_readable(fd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}
