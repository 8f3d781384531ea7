//! Waiting for several descriptors, some of which may not be there.

use crate::error::{RemoteError, Result};
use jobcage_sys::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use std::time::Duration;

/// Waits for these and those, for so long at most (`None`: for ever), or until a signal comes: what was told of each, in their order.
///
/// # Errors
/// As ppoll(2).
pub(crate) fn wait_for<const M: usize, const N: usize>(
    these: [Option<PollFd<'_>>; M],
    those: [Option<PollFd<'_>>; N],
    time: Option<Duration>,
) -> Result<([PollFlags; M], [PollFlags; N])> {
    let is_there = |fd: &Option<PollFd<'_>>| fd.is_some();
    let (are_these, are_those) = (these.each_ref().map(is_there), those.each_ref().map(is_there));
    let mut fds: Vec<PollFd<'_>> = these.into_iter().chain(those).flatten().collect();
    match ppoll(&mut fds, time.map(TimeSpec::from), None) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(errno) => return Err(RemoteError::system("wait")(errno)),
    }
    let mut told = fds.iter().map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
    let mut next = |is_there: bool| {
        is_there
            .then(|| told.next())
            .flatten()
            .unwrap_or(PollFlags::empty())
    };
    Ok((are_these.map(&mut next), are_those.map(&mut next)))
}
