//! What others ask of us: signals, and the request that `jobcage stop` writes before it sends one.

use super::Supervision;
use crate::error::Result;
use crate::machine::{Event, State};
use crate::signals::Meaning;
use jobcage_job::{Cause, StopRequest};
use jobcage_sys::pidfd;
use std::time::Duration;

impl Supervision<'_> {
    pub(super) fn look_at_signals(&mut self) -> Result<()> {
        // One wake-up may bring several; after the last of them nothing is asked any more.
        while !self.is_over()
            && let Some(meaning) = self.signals.next()
        {
            match meaning {
                Meaning::Child => self.look_at_children()?,
                Meaning::Stop(cause) => self.asked_to_stop(cause, true)?,
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

    /// A signal that means stop, or that means it only as the messenger of `jobcage stop`.
    fn asked_to_stop(&mut self, cause: Cause, by_itself: bool) -> Result<()> {
        let Cause::Signal { signal, pid, .. } = cause else {
            return self.stop(cause);
        };
        if signal == SIGTERM {
            if let Some(request) = self.new_request() {
                return self.heed(request);
            }
            // Its request came with an earlier signal: of two at the same time the kernel hands on the first, and the
            // file holds the words of the last.
            if self.asked.as_ref().is_some_and(|asked| asked.pid == pid) {
                return Ok(());
            }
        }
        if by_itself { self.stop(cause) } else { Ok(()) }
    }

    /// The request of `jobcage stop`, if it is one that was not heeded yet. Looked for only when a signal says so.
    pub(super) fn new_request(&mut self) -> Option<StopRequest> {
        // A step is ended by its caller; `jobcage stop` of its job goes the way of the cage.
        if self.is_step_of_another() {
            return None;
        }
        match self.setup.record.asked() {
            Ok(request) => request.filter(|request| self.asked.as_ref() != Some(request)),
            Err(error) => {
                let note = format!("the request of a stop was passed over: {error}");
                if !self.setup.notes.contains(&note) {
                    self.setup.notes.push(note);
                }
                None
            }
        }
    }

    fn heed(&mut self, request: StopRequest) -> Result<()> {
        if self.machine.state() == State::Running {
            self.signal = request.signal.unwrap_or(self.signal);
            self.grace = match request.grace {
                _ if request.now => Duration::ZERO,
                Some(grace) => grace,
                None => self.grace,
            };
        }
        let cause = request.cause();
        self.asked = Some(request);
        self.stop(cause)
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

const SIGTERM: i32 = nix::libc::SIGTERM;
