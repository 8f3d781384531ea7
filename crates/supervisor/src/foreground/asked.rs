//! What others ask of us: signals, and the request that `jobcage stop` writes before it sends one.

use super::Supervision;
use super::setup::Setup;
use crate::error::Result;
use crate::job::Target;
use crate::machine::{Event, State};
use crate::signals::Meaning;
use crate::watcher::Lease;
use jobcage_cage::is_in_slurm_step;
use jobcage_job::Cause;
use jobcage_sys::pidfd;
use std::os::fd::AsFd;
use std::path::Path;

impl Supervision<'_> {
    pub(super) fn look_at_signals(&mut self) -> Result<()> {
        // One wake-up may bring several; after the last of them nothing is asked any more.
        while !self.is_over()
            && let Some(meaning) = self.signals.next()
        {
            match meaning {
                Meaning::Child => self.look_at_children()?,
                Meaning::Stop(cause) => {
                    let by_itself = !self.is_slurm_repeating();
                    self.asked_to_stop(cause, by_itself)?;
                }
                Meaning::StopIfAsked(cause) => self.asked_to_stop(cause, false)?,
                Meaning::Terminal(signal) => {
                    self.terminal_signal = Some(signal);
                    // While the command runs it has the signal itself and may do with it what it likes. Later there is
                    // nobody else to heed a person's impatience.
                    if self.machine.state() != State::Running {
                        self.stop(Cause::Signal {
                            signal: signal as i32,
                            pid: 0,
                            uid: 0,
                        })?;
                    }
                }
                Meaning::Forward(signal) => {
                    if let Some(main) = &self.main {
                        // An ended process needs no signal.
                        let _ = pidfd::signal_pid(main.child.pid, signal);
                    }
                }
            }
        }
        Ok(())
    }

    /// At the end of a job's time Slurm sends SIGTERM twice in a row and means one stop; when its patience is over, it kills.
    fn is_slurm_repeating(&self) -> bool {
        self.machine.state() != State::Running && is_in_slurm_step(Path::new(&self.setup.spec.cage))
    }

    /// Whether whoever holds the lease has ended.
    pub(super) fn look_at_lease(&mut self) -> Result<()> {
        let over = match &self.lease {
            Lease::None => false,
            Lease::Held(holder) => pidfd::has_ended(holder.as_fd()),
            Lease::Over => true,
        };
        if over {
            self.lease = Lease::None;
            if self.machine.state() == State::Running {
                return self.event(Event::StopAsked(Cause::Lease));
            }
        }
        Ok(())
    }

    fn asked_to_stop(&mut self, cause: Cause, by_itself: bool) -> Result<()> {
        // A step is ended by its caller; `jobcage stop` of its job goes the way of the cage.
        if self.is_step_of_another() {
            return if by_itself { self.stop(cause) } else { Ok(()) };
        }
        let running = self.machine.state() == State::Running;
        let Setup { record, notes, .. } = &mut self.setup;
        match self.wish.hear(record, cause, by_itself, running, notes) {
            Some(cause) => self.stop(cause),
            None => Ok(()),
        }
    }

    /// Whether `jobcage stop` has asked for more since the last time.
    pub(super) fn is_asked_again(&mut self) -> bool {
        let Setup { record, notes, .. } = &mut self.setup;
        !matches!(self.job.target, Target::Existing { .. } | Target::Beside(_))
            && self.wish.new_request(record, notes).is_some()
    }

    /// A stop ends the after phase, too: whoever asks again wants it now.
    fn stop(&mut self, cause: Cause) -> Result<()> {
        let in_after = self.machine.state() == State::After;
        self.event(Event::StopAsked(cause))?;
        if in_after {
            self.end_after(Some("it was cut short by a second stop"))
        } else {
            Ok(())
        }
    }
}
