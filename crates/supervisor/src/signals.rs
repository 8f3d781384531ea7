//! The signals of a supervisor, as a descriptor to poll: with a sender and a reason, which a handler would not be told as
//! simply (signalfd(2)).

use crate::error::{Failure, Result};
use jobcage_job::Cause;
use jobcage_sys::signal::is_ignored;
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::os::fd::{AsFd, BorrowedFd};

/// What a signal means to a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// A child changed.
    Child,
    /// Somebody wants the job to end.
    Stop(Cause),
    /// A SIGTERM that our caller ignores, and we with it: it counts only if `jobcage stop` sent it.
    StopIfAsked(Cause),
    /// Ctrl-C or Ctrl-\ at the terminal: every process of the foreground group has it already, the job among them.
    Terminal(Signal),
    /// To be handed on to the main process.
    Forward(i32),
}

/// The blocked signals.
#[derive(Debug)]
pub(crate) struct Signals {
    fd: SignalFd,
    /// The mask that we were started with: the job's.
    pub(crate) original: SigSet,
}

/// What stops a process unless it handles or ignores it.
const STOPS: [Signal; 3] = [Signal::SIGTSTP, Signal::SIGTTIN, Signal::SIGTTOU];

const WATCHED: [Signal; 10] = [
    Signal::SIGCHLD,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGTSTP,
    Signal::SIGTTIN,
    Signal::SIGTTOU,
];

/// Stops this process by a signal that is blocked here, so that whoever waits for us sees the same stop as without us.
/// Returns when somebody has woken us, or at once where the kernel stops nobody (an orphaned process group).
pub(crate) fn stop_by(signal: Signal) {
    // Neither fails for a signal that exists.
    let _ = nix::sys::signal::raise(signal);
    let set = SigSet::from(signal);
    let _ = set.thread_unblock();
    let _ = set.thread_block();
}

impl Signals {
    /// Blocks them; from here on they are only seen by [`Signals::next`].
    pub(crate) fn block() -> Result<Self> {
        let watched: SigSet = WATCHED.into_iter().collect();
        let original = watched
            .thread_swap_mask(SigmaskHow::SIG_BLOCK)
            .map_err(Failure::system("block signals"))?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        let fd = SignalFd::with_flags(&watched, flags).map_err(Failure::system("make a signalfd"))?;
        Ok(Self { fd, original })
    }

    /// The next pending signal, if any. One that our caller ignores (nohup, a job in the background of a script) stays
    /// ignored: the kernel queues a blocked signal all the same, since it could be unblocked with another disposition.
    pub(crate) fn next(&self) -> Option<Meaning> {
        let (info, signal, ignored) = loop {
            let info = self.fd.read_signal().ok()??;
            let signal = Signal::try_from(i32::try_from(info.ssi_signo).ok()?).ok()?;
            // Ctrl-Z and its like reached the command as well: whether it stops is its own business, and we follow it.
            let by_terminal = info.ssi_code == nix::libc::SI_KERNEL && STOPS.contains(&signal);
            let ignored = signal != Signal::SIGCHLD && is_ignored(signal);
            if signal == Signal::SIGTERM || !(by_terminal || ignored) {
                break (info, signal, ignored);
            }
        };
        let number = signal as i32;
        // From fcntl-linux.h: sent by the kernel, which for these two means the terminal.
        let by_kernel = info.ssi_code == nix::libc::SI_KERNEL;
        let pid = if by_kernel { 0 } else { info.ssi_pid.cast_signed() };
        let cause = |signal: Signal| Cause::Signal {
            signal: signal as i32,
            pid,
            uid: info.ssi_uid,
        };
        Some(match signal {
            signal if ignored => Meaning::StopIfAsked(cause(signal)),
            Signal::SIGCHLD => Meaning::Child,
            signal if STOPS.contains(&signal) => Meaning::Forward(number),
            Signal::SIGUSR1 | Signal::SIGUSR2 => Meaning::Forward(number),
            Signal::SIGINT | Signal::SIGQUIT if by_kernel => Meaning::Terminal(signal),
            signal => Meaning::Stop(cause(signal)),
        })
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
