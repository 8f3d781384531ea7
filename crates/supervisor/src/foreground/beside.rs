//! A command of `jobcage exec` as its own supervisor sees it.

use super::Supervision;
use crate::job::Target;
use jobcage_job::Ending;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use std::os::fd::AsFd;

impl Supervision<'_> {
    /// Whether a command of `jobcage exec` was ended, or kept from its start, by the end of its job.
    pub(super) fn job_has_ended(&self, ending: &Ending) -> bool {
        let Target::Beside(host) = &self.job.target else {
            return false;
        };
        let killed = match ending {
            Ending::Signalled { signal } => *signal == nix::libc::SIGKILL,
            Ending::NeverStarted(never) => matches!(never.stage.as_str(), "clone" | "birth" | "cgroup"),
            _ => false,
        };
        let record = &self.setup.record;
        killed
            && (record.is_closing()
                || record.has_report()
                || matches!(record.spec(), Ok(None))
                // One kill takes both, but they need not die in the same moment.
                || host.main.as_ref().is_some_and(|main| {
                    let mut fds = [PollFd::new(main.as_fd(), PollFlags::POLLIN)];
                    nix::poll::poll(&mut fds, PollTimeout::from(500u16)).is_ok_and(|ready| ready > 0)
                }))
    }
}
