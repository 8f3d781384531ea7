//! The life of a job as a pure machine: an event comes in, a state and actions come out. No I/O, no clock.
//!
//! There is one way out, for every ending (`docs/architecture.md`):
//!
//! ```text
//! Running ─► Leaving ─► Cutting ─► After ─► Emptying ─► Closed | Quarantined
//! ```
//!
//! A normal exit skips Leaving and Cutting; a job without an after phase skips After.

use jobcage_job::{Cause, Clock, Ending, ExitStatus, NeverStarted};
use serde::{Deserialize, Serialize};

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// The command runs.
    Running,
    /// Every process of the step has had its signal; the grace clock runs.
    Leaving,
    /// The step's leaf is being killed.
    Cutting,
    /// The after phase runs.
    After,
    /// The whole cage is being killed.
    Emptying,
    /// Proven empty.
    Closed,
    /// Something survived.
    Quarantined,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The main process of the step ended. `oom`: the kernel killed it for the job's memory limit.
    MainEnded {
        /// How.
        status: ExitStatus,
        /// Whether for memory.
        oom: bool,
    },
    /// The command could not be started.
    StartFailed(NeverStarted),
    /// Somebody wants the job to end.
    StopAsked(Cause),
    /// Whoever has started the steps of a session says that there are no more, and what came of them.
    Finished(Ending),
    /// A clock of the job ran out.
    ClockRan(Clock),
    /// The log takes no more: its limit, which was to end the job, or a disk that fails.
    LogFull {
        /// The errno of a failed write; `None`: the limit.
        errno: Option<i32>,
    },
    /// How the main process ended is not to be known any more, or whether it lives.
    Lost {
        /// What is known of it.
        why: String,
    },
    /// The grace time is over.
    GraceOver,
    /// The kernel says that the step's leaf is empty.
    LeafEmpty,
    /// The step's leaf was killed; whether it is proven empty.
    Cut {
        /// Whether the kernel said so.
        proven: bool,
    },
    /// The after phase's main process ended, or could not be started.
    AfterEnded,
    /// The after phase's own time is over.
    AfterTimedOut,
    /// The cage was killed; whether it is proven empty.
    Emptied {
        /// Whether the kernel said so.
        proven: bool,
    },
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Signal every process of the step, and wake the stopped ones.
    SignalStep,
    /// Start the grace clock.
    ArmGrace,
    /// Kill the step's leaf.
    CutStep,
    /// Start the after phase.
    StartAfter,
    /// Kill the cage.
    EmptyCage,
    /// Read the counters, remove the cage, write the report.
    Settle,
}

/// The machine. A supervisor writes it down at every change, so that the next one can go on with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    state: State,
    ending: Option<Ending>,
    status: Option<ExitStatus>,
    notes: Vec<String>,
    has_after: bool,
}

impl Machine {
    /// A job whose command is about to start.
    #[must_use]
    pub fn new(has_after: bool) -> Self {
        Self {
            state: State::Running,
            ending: None,
            status: None,
            notes: Vec::new(),
            has_after,
        }
    }

    /// From here on there is an after phase, or there is none any more: of a session, while it runs. Whether that is so now.
    pub fn set_after(&mut self, has_after: bool) -> bool {
        if self.state == State::Running {
            self.has_after = has_after;
        }
        self.has_after == has_after
    }

    /// Whether there is an after phase, to come or begun.
    #[must_use]
    pub fn has_after(&self) -> bool {
        self.has_after
    }

    /// Where it stands.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// The first cause of its end.
    #[must_use]
    pub fn ending(&self) -> Option<&Ending> {
        self.ending.as_ref()
    }

    /// What the main process said.
    #[must_use]
    pub fn status(&self) -> Option<ExitStatus> {
        self.status
    }

    /// Notes what is no event of the job's life.
    pub fn remark(&mut self, note: String) {
        self.note(note);
    }

    /// Later causes.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Takes an event; the actions are to be done in their order.
    pub fn handle(&mut self, event: Event) -> Vec<Action> {
        match (self.state, event) {
            (State::Running, Event::MainEnded { status, oom }) => {
                self.status = Some(status);
                self.end(if oom { Ending::OutOfMemory } else { status.into() });
                self.after_or_empty()
            }
            (State::Running, Event::StartFailed(why)) => {
                self.end(Ending::NeverStarted(why));
                self.after_or_empty()
            }
            (State::Running, Event::StopAsked(cause)) => self.leave(Ending::Cancelled(cause)),
            (State::Running, Event::Finished(ending)) => {
                self.end(ending);
                if self.has_after {
                    // It never runs beside what the steps have left.
                    self.go(State::Cutting, &[Action::CutStep])
                } else {
                    self.go(State::Emptying, &[Action::EmptyCage])
                }
            }
            (State::Running, Event::ClockRan(clock)) => self.leave(Ending::TimedOut { clock }),
            (State::Running, Event::LogFull { errno }) => self.leave(Ending::LogFull { errno }),
            (State::Running, Event::Lost { why }) => {
                self.end(Ending::Lost { why });
                self.go(State::Cutting, &[Action::CutStep])
            }
            (State::Leaving, Event::MainEnded { status, .. }) => {
                // The others have their grace as well: the leaf decides, not the main process.
                self.status = Some(status);
                Vec::new()
            }
            (State::Leaving, Event::StopAsked(cause)) => {
                self.note(format!("asked again, by {cause}: the grace time was cut short"));
                self.go(State::Cutting, &[Action::CutStep])
            }
            (State::Leaving, Event::GraceOver | Event::LeafEmpty) => {
                self.go(State::Cutting, &[Action::CutStep])
            }
            (State::Cutting, Event::Cut { proven }) => {
                if !proven && self.has_after {
                    self.note("the after phase ran although something of the step survived its kill".into());
                }
                self.after_or_empty()
            }
            (State::After, Event::AfterEnded) => self.go(State::Emptying, &[Action::EmptyCage]),
            (State::After, Event::AfterTimedOut) => {
                self.note("the after phase ran out of its own time".into());
                self.go(State::Emptying, &[Action::EmptyCage])
            }
            (State::Emptying, Event::Emptied { proven }) => self.go(
                if proven { State::Closed } else { State::Quarantined },
                &[Action::Settle],
            ),
            (_, event) => {
                self.note_late(event);
                Vec::new()
            }
        }
    }

    /// What comes when it no longer changes anything: a cause is noted, the rest is only late.
    fn note_late(&mut self, event: Event) {
        match event {
            Event::StopAsked(cause) => self.note(format!("a stop by {cause} came while the job was ending")),
            Event::ClockRan(clock) => {
                self.note(format!("the {clock:?} clock ran out while the job was ending"))
            }
            Event::MainEnded { status, .. } => self.status = self.status.or(Some(status)),
            Event::LogFull { .. } => self.note("the log took no more while the job was ending".into()),
            Event::Lost { why } => self.note(why),
            _ => {}
        }
    }

    fn leave(&mut self, ending: Ending) -> Vec<Action> {
        self.end(ending);
        self.go(State::Leaving, &[Action::SignalStep, Action::ArmGrace])
    }

    fn after_or_empty(&mut self) -> Vec<Action> {
        if self.has_after {
            self.go(State::After, &[Action::StartAfter])
        } else {
            self.go(State::Emptying, &[Action::EmptyCage])
        }
    }

    fn go(&mut self, state: State, actions: &[Action]) -> Vec<Action> {
        self.state = state;
        actions.to_vec()
    }

    /// The first cause wins.
    fn end(&mut self, ending: Ending) {
        if self.ending.is_none() {
            self.ending = Some(ending);
        }
    }

    fn note(&mut self, note: String) {
        // Somebody who sends a thousand signals shall not fill the report.
        if self.notes.len() < 20 {
            self.notes.push(note);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_event() -> impl Strategy<Value = Event> {
        let status = prop_oneof![
            (0..256).prop_map(ExitStatus::Code),
            (1..32).prop_map(ExitStatus::Signal)
        ];
        let never = NeverStarted {
            stage: "exec".into(),
            errno: 2,
            what: "x".into(),
        };
        prop_oneof![
            (status, any::<bool>()).prop_map(|(status, oom)| Event::MainEnded { status, oom }),
            Just(Event::StartFailed(never)),
            (0..256).prop_map(|code| Event::Finished(Ending::Exited { code })),
            (1..32).prop_map(|signal| Event::StopAsked(Cause::Signal {
                signal,
                pid: 7,
                uid: 0
            })),
            prop_oneof![Just(Clock::Wall), Just(Clock::Idle)].prop_map(Event::ClockRan),
            prop::option::of(1..40).prop_map(|errno| Event::LogFull { errno }),
            Just(Event::Lost {
                why: "nobody knows".into()
            }),
            Just(Event::GraceOver),
            Just(Event::LeafEmpty),
            any::<bool>().prop_map(|proven| Event::Cut { proven }),
            Just(Event::AfterEnded),
            Just(Event::AfterTimedOut),
            any::<bool>().prop_map(|proven| Event::Emptied { proven }),
        ]
    }

    fn rank(state: State) -> u8 {
        match state {
            State::Running => 0,
            State::Leaving => 1,
            State::Cutting => 2,
            State::After => 3,
            State::Emptying => 4,
            State::Closed | State::Quarantined => 5,
        }
    }

    proptest! {
        #[test]
        fn whatever_happens_the_way_out_is_one_way(events in prop::collection::vec(any_event(), 0..60), after: bool) {
            let mut machine = Machine::new(after);
            let mut done: Vec<Action> = Vec::new();
            let mut first_ending = None;
            for event in events {
                // Another supervisor may take over at every moment.
                let written = serde_json::to_string(&machine).unwrap();
                machine = serde_json::from_str(&written).unwrap();
                let before = machine.state();
                done.extend(machine.handle(event));
                prop_assert!(rank(before) <= rank(machine.state()), "{before:?} -> {:?}", machine.state());
                prop_assert_eq!(machine.state() == State::Running, machine.ending().is_none());
                if first_ending.is_none() {
                    first_ending = machine.ending().cloned();
                }
            }
            prop_assert_eq!(machine.ending().cloned(), first_ending, "the first cause wins");
            for once in [Action::SignalStep, Action::CutStep, Action::StartAfter, Action::EmptyCage, Action::Settle] {
                prop_assert!(done.iter().filter(|a| **a == once).count() <= 1, "{once:?} twice in {done:?}");
            }
            let at = |action| done.iter().position(|a| *a == action);
            if let Some(settle) = at(Action::Settle) {
                prop_assert!(at(Action::EmptyCage).is_some_and(|empty| empty < settle), "settled before it was emptied");
                prop_assert_eq!(at(Action::StartAfter).is_some(), after, "the after phase always runs, once");
            }
            if let (Some(signal), Some(start)) = (at(Action::SignalStep), at(Action::StartAfter)) {
                let cut = at(Action::CutStep);
                prop_assert!(cut.is_some_and(|cut| signal < cut && cut < start), "the after phase ran beside the step");
            }
            prop_assert!(machine.notes().len() <= 20);
        }

        #[test]
        fn what_is_said_of_the_after_phase_holds_while_the_job_runs(
            said in prop::collection::vec(any::<bool>(), 0..6),
            late: bool,
            end in any_event(),
        ) {
            let mut machine = Machine::new(false);
            for has_after in &said {
                prop_assert!(machine.set_after(*has_after));
            }
            let armed = said.last().copied().unwrap_or(false);
            let mut done = machine.handle(end);
            let running = machine.state() == State::Running;
            prop_assert_eq!(machine.set_after(late), running || late == armed, "it came too late");
            prop_assert_eq!(machine.has_after(), if running { late } else { armed });
            for event in [Event::StopAsked(Cause::Cleanup), Event::GraceOver, Event::Cut { proven: true }] {
                done.extend(machine.handle(event));
            }
            prop_assert_eq!(done.contains(&Action::StartAfter), machine.has_after(), "{:?}", done);
        }

        #[test]
        fn every_state_has_a_way_on(events in prop::collection::vec(any_event(), 0..40), after: bool) {
            let mut machine = Machine::new(after);
            for event in events {
                machine.handle(event);
            }
            // What the loop is sure to deliver in each state leads to the end.
            for _ in 0..8 {
                let next = match machine.state() {
                    State::Running => Event::MainEnded { status: ExitStatus::Code(0), oom: false },
                    State::Leaving => Event::GraceOver,
                    State::Cutting => Event::Cut { proven: true },
                    State::After => Event::AfterTimedOut,
                    State::Emptying => Event::Emptied { proven: true },
                    State::Closed | State::Quarantined => break,
                };
                machine.handle(next);
            }
            prop_assert_eq!(rank(machine.state()), 5);
        }
    }
}
