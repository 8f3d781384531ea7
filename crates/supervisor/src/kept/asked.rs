//! What others ask of the supervisor of a captured job: signals, the request of a `jobcage stop`, the end of whoever holds
//! its lease.

use super::{Kept, Whole};
use crate::error::Result;
use crate::machine::{Event, State};
use crate::signals::Meaning;
use jobcage_job::Cause;
use jobcage_sys::clock::boot_time;
use jobcage_sys::pidfd;
use std::os::fd::AsFd;

impl Kept {
    pub(super) fn look_at_signals(&mut self) -> Result<()> {
        while !self.is_over()
            && let Some(meaning) = self.whole.signals.next()
        {
            match meaning {
                Meaning::Child => self.look_at_children()?,
                Meaning::Stop(cause) => self.asked_to_stop(cause, true)?,
                Meaning::StopIfAsked(cause) => self.asked_to_stop(cause, false)?,
                // There is no terminal whose signals these could be.
                Meaning::Terminal(signal) => self.stop(Cause::Signal {
                    signal: signal as i32,
                    pid: 0,
                    uid: 0,
                })?,
                Meaning::Forward(signal) => {
                    if let Some(process) = self
                        .main
                        .as_ref()
                        .filter(|step| step.runs)
                        .and_then(|s| s.process.as_ref())
                    {
                        // An ended process needs no signal.
                        let _ = pidfd::send_signal(process.as_fd(), signal);
                    }
                }
            }
        }
        Ok(())
    }

    pub(super) fn asked_to_stop(&mut self, cause: Cause, by_itself: bool) -> Result<()> {
        let running = self.state() == State::Running;
        let Whole { record, phase, .. } = &mut self.whole;
        match phase
            .wish
            .hear(record, cause, by_itself, running, &mut phase.notes)
        {
            Some(cause) => self.stop(cause),
            None => Ok(()),
        }
    }

    /// The request of a `jobcage stop`, if there is one that nobody has heeded.
    pub(super) fn look_at_request(&mut self) -> Result<()> {
        let running = self.state() == State::Running;
        let Whole { record, phase, .. } = &mut self.whole;
        match phase.wish.new_request(record, &mut phase.notes) {
            Some(request) if !self.is_over() => {
                let cause = self.whole.phase.wish.heed(request, running);
                self.stop(cause)
            }
            _ => Ok(()),
        }
    }

    /// A stop ends the after phase, too: whoever asks again wants it now. Word that a session's steps are over is none.
    pub(super) fn stop(&mut self, cause: Cause) -> Result<()> {
        if let Some(ending) = self.whole.phase.wish.finished.take() {
            return self.event(Event::Finished(ending));
        }
        let in_after = self.state() == State::After;
        self.event(Event::StopAsked(cause))?;
        if in_after {
            self.end_after(Some("it was cut short by a second stop"))
        } else {
            Ok(())
        }
    }

    pub(super) fn look_at_lease(&mut self) -> Result<()> {
        let ended = |holder: &std::os::fd::OwnedFd| pidfd::has_ended(holder.as_fd());
        if std::mem::take(&mut self.lease_is_over) || self.lease.as_ref().is_some_and(ended) {
            self.lease = None;
            if self.state() == State::Running {
                return self.event(Event::StopAsked(Cause::Lease));
            }
        }
        self.look_at_silence()
    }

    /// Clients write down when they were heard of, and wake nobody: so it is looked at when the lease would end.
    fn look_at_silence(&mut self) -> Result<()> {
        let (Some(until), Some(silence)) = (self.silence_until, self.whole.spec.silence) else {
            return Ok(());
        };
        let now = boot_time();
        if self.state() != State::Running || now < until {
            return Ok(());
        }
        let heard = self.whole.record.heard().unwrap_or_else(|error| {
            // Whoever cannot be heard of is not: nothing is to live for ever over a damaged disk.
            self.note(format!(
                "when its client was last heard of cannot be read: {error}"
            ));
            None
        });
        let heard = heard.unwrap_or_default();
        let until = heard.saturating_add(silence);
        self.silence_until = (now < until).then_some(until);
        match self.silence_until {
            Some(_) => Ok(()),
            None => self.event(Event::StopAsked(Cause::Silence)),
        }
    }

    pub(super) fn look_at_orphan(&mut self) -> Result<()> {
        let over = self
            .orphan
            .as_ref()
            .is_some_and(|process| pidfd::has_ended(process.as_fd()));
        if over {
            self.orphan = None;
            self.note("the after phase went on without its supervisor, and nobody saw how it ended".into());
            return self.event(Event::AfterEnded);
        }
        Ok(())
    }
}
