//! The clocks of a captured job, and how long its supervisor may sleep.

use super::{Kept, Output};
use crate::error::Result;
use crate::machine::{Event, State};
use jobcage_job::Clock;
use jobcage_sys::clock::boot_time;
use std::time::{Duration, Instant};

impl Kept {
    /// How long to sleep at most, and whether to give our own code back meanwhile.
    pub(super) fn sleep(&self, now: Instant) -> (Option<Duration>, bool) {
        let boot = boot_time();
        let until = |at: Option<Duration>| at.map(|at| at.saturating_sub(boot));
        let running = self.state() == State::Running;
        let phase = &self.whole.phase;
        // The kernel tells of an empty cgroup up to 15 ms late (see EventsFile): look again, on a doubling timer.
        let leaf = self.leaving.is_some().then(|| {
            let left = until(phase.grace_until).unwrap_or_default();
            let waited = phase.wish.grace.saturating_sub(left);
            let part = if self.crowd { 16 } else { 2 };
            (waited / part).clamp(Duration::from_micros(100), Duration::from_millis(20))
        });
        let idle = self.whole.job.idle_timeout.filter(|_| running);
        let steps = self.main.iter().chain(self.after.iter());
        let rest = steps
            .flat_map(|step| &step.outputs)
            .filter_map(Output::rests_until)
            .min();
        let next = [
            leaf,
            until(phase.timeout_at).filter(|_| running),
            until(self.silence_until).filter(|_| running),
            until(phase.grace_until).filter(|_| self.state() == State::Leaving),
            until(phase.after_until).filter(|_| self.state() == State::After),
            idle.map(|idle| idle.saturating_sub(self.silence())),
            rest.map(|rest| rest.saturating_duration_since(now)),
            self.visits.look_again(boot),
        ]
        .into_iter()
        .flatten()
        .min();
        const MOMENT: Duration = Duration::from_millis(100);
        match next {
            Some(next) if next <= MOMENT => (Some(next), false),
            next if self.quiet => (next, true),
            _ => (Some(MOMENT), false),
        }
    }

    pub(super) fn silence(&self) -> Duration {
        self.last_output.unwrap_or(self.silent_since).elapsed()
    }

    pub(super) fn look_at_clocks(&mut self) -> Result<()> {
        let now = boot_time();
        let ran_out = |at: Option<Duration>| at.is_some_and(|at| at <= now);
        match self.state() {
            State::Running if ran_out(self.whole.phase.timeout_at) => {
                self.event(Event::ClockRan(Clock::Wall))
            }
            State::Running
                if self
                    .whole
                    .job
                    .idle_timeout
                    .is_some_and(|idle| self.silence() >= idle) =>
            {
                self.event(Event::ClockRan(Clock::Idle))
            }
            State::Leaving if ran_out(self.whole.phase.grace_until) => self.event(Event::GraceOver),
            State::After if ran_out(self.whole.phase.after_until) => self.end_after(None),
            _ => Ok(()),
        }
    }
}
