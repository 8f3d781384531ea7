//! A supervisor has died: the next one gets from the keeper what it holds, reads on disk where its predecessor stood, and
//! goes on from there.

use super::output::Output;
use super::phase::{MOST_FAILURES, PHASE_VERSION, Phase};
use super::visits::SCRIPT;
use super::{Kept, Step, Whole};
use crate::closing;
use crate::error::{Failure, Result};
use crate::hand::Hand;
use crate::host;
use crate::keeper::{Held, Keeper, StepTaken};
use crate::machine::{Action, Event, Machine, State};
use crate::package;
use crate::signals::Signals;
use crate::step;
use crate::watcher::{self, Lease};
use crate::wish::Wish;
use jobcage_cage::{Cage, Dir};
use jobcage_job::{Ending, JobSpec, StepKind, StepReport};
use jobcage_ledger::{Lock, Record, log};
use jobcage_sys::clock::boot_time;
use jobcage_sys::wait;
use nix::libc::SIGTERM;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

/// What a try to take a job over came to.
pub(crate) enum TakeOver {
    /// It was, and is over now.
    Done,
    /// There is nothing to take over: nobody holds what it takes. The lock comes back, to close the job as lost.
    Lost(Lock, Vec<String>),
}

const UNBORN: &str = "its supervisor died before the command was started";

/// When a job began, on `CLOCK_BOOTTIME`.
fn age(spec: &JobSpec) -> Duration {
    boot_time().saturating_sub(closing::began(spec).elapsed().unwrap_or_default())
}

/// Whether this program understands where the last supervisor of the job stood.
///
/// # Errors
/// If it cannot be read, is damaged, or a newer jobcage has written it.
pub fn check(record: &Record) -> Result<()> {
    record.phase::<Phase>(PHASE_VERSION)?;
    Ok(())
}

/// Takes over a job whose lock we have, to tend it, and stays until it is over. `signals` were blocked before the lock was
/// taken.
///
/// # Errors
/// If jobcage itself fails.
pub(crate) fn take_over(record: Record, spec: JobSpec, lock: Lock, signals: Signals) -> Result<TakeOver> {
    let Some(mut keeper) = Keeper::find(&record)? else {
        return Ok(TakeOver::Lost(lock, Vec::new()));
    };
    let phase: Option<Phase> = record.phase(PHASE_VERSION)?;
    let mut phase = match phase {
        Some(phase) if phase.failures.len() < MOST_FAILURES => phase,
        Some(phase) => {
            keeper.leave();
            return Ok(TakeOver::Lost(lock, phase.failures));
        }
        // A command in the foreground: until its after phase there was nothing to write down.
        None if spec.capture.is_none() => Phase::new(
            Machine::new(spec.after),
            age(&spec),
            None,
            Wish::new(SIGTERM, spec.grace),
        ),
        None => {
            keeper.leave();
            return Ok(TakeOver::Lost(lock, vec![UNBORN.into()]));
        }
    };
    let Ok(mut held) = keeper.hello(true) else {
        return Ok(TakeOver::Lost(lock, Vec::new()));
    };
    let Some(package) = held.take("package") else {
        keeper.leave();
        return Ok(TakeOver::Lost(lock, vec![UNBORN.into()]));
    };
    let (job, root) = package::open_job(package.as_fd())?;
    wait::expect_children().map_err(Failure::system("reset SIGCHLD"))?;
    move_to_leaf(&spec);
    let cage = Cage::open(Path::new(&spec.cage), spec.limited)?;
    let root_dir = Dir::open(Path::new(&root.path))?;
    let mut kept = Kept::new(Whole {
        watch: watcher::register(&job.places, &root_dir, &spec.id).ok(),
        limits: closing::limits(&spec, cage.as_ref()),
        stdin: held.take("stdin"),
        hand: open_hand(&spec, &mut phase.notes),
        given: held
            .take("stdout")
            .and_then(|out| Some([out, held.take("stderr")?])),
        keeper: Some(keeper),
        job,
        spec,
        record,
        lock,
        cage,
        signals,
        phase,
    });
    kept.visits.script = held.take(SCRIPT);
    kept.take_up(held)?;
    kept.run()?;
    Ok(TakeOver::Done)
}

/// A job of before this could be had has none, and that is no news to its predecessor.
fn open_hand(spec: &JobSpec, notes: &mut Vec<String>) -> Option<Hand> {
    spec.state_dir.as_ref()?;
    Hand::open(spec, spec.uid, notes)
}

/// Out of the cgroup of whoever started us: we live as long as the job. Whether that works is no reason to leave it alone.
fn move_to_leaf(spec: &JobSpec) {
    let root = Path::new(&spec.cage)
        .parent()
        .and_then(|root| Dir::open(root).ok());
    let leaf = root.and_then(|root| host::leaf(&root, super::begin::SUPERVISORS).ok());
    let _ = leaf.map(|leaf| leaf.write("cgroup.procs", "0"));
}

impl Kept {
    fn take_up(&mut self, held: Held) -> Result<()> {
        let before = std::mem::replace(&mut self.whole.phase.supervisor, std::process::id().cast_signed());
        let pid = self.whole.phase.supervisor;
        let whose = if before == pid {
            String::new()
        } else {
            format!(", pid {before},")
        };
        self.note(format!(
            "its supervisor{whose} died; pid {pid} took over at {}",
            closing::now()
        ));
        self.persist();
        let written = self.whole.record.steps()?;
        let mut ends = Vec::new();
        for taken in held.steps {
            ends.extend(taken.step.ended.clone());
            self.take_up_step(taken, &written)?;
        }
        if self.whole.spec.capture.is_none() {
            return self.take_up_foreground();
        }
        // A step that was begun and that the keeper never heard of.
        if self.is_session() {
            self.open_door()?;
        } else if self.main.is_none() && self.state() == State::Running {
            return self.event(Event::Lost {
                why: "its supervisor died while it started the command".into(),
            });
        }
        for end in ends {
            self.main_ended(&end)?;
        }
        self.repeat_action()?;
        // Asked for while nobody had the lock.
        self.look_at_request()
    }

    /// When the last output came, which its log tells: the idle clock goes on where it stood.
    fn silence_began(&self, outputs: &[Output], step: u32) -> Instant {
        let path = |output: &Output| self.whole.record.path().join(log::name(step, output.stream()));
        let ages = outputs
            .iter()
            .filter_map(|output| std::fs::metadata(path(output)).ok()?.modified().ok());
        let youngest = ages.filter_map(|at| at.elapsed().ok()).min();
        let now = Instant::now();
        youngest.and_then(|age| now.checked_sub(age)).unwrap_or(now)
    }

    /// Its processes were its supervisor's own children, and how they end is nobody's to know any more.
    fn take_up_foreground(&mut self) -> Result<()> {
        let cage = self.whole.cage.as_ref();
        self.leaf = cage.and_then(|cage| cage.find_leaf(1).ok().flatten());
        if self.whole.phase.after.is_none() {
            return self.event(Event::Lost {
                why: "its supervisor died".into(),
            });
        }
        if self.state() != State::After {
            return self.repeat_action();
        }
        // It may run on without its parent: then it has its time, and it is not started again.
        if let Some(Lease::Held(process)) = self.whole.phase.after_process.map(watcher::process) {
            self.orphan = Some(process);
            return Ok(());
        }
        self.note("the after phase had ended, or was cut short by the death of its supervisor".into());
        self.event(Event::AfterEnded)
    }

    /// What a predecessor may have begun in this state is done again: each action first looks whether it is done.
    fn repeat_action(&mut self) -> Result<()> {
        let action = match self.state() {
            State::Running => return Ok(()),
            State::Leaving => Action::SignalStep,
            State::Cutting => Action::CutStep,
            // Marked, but the keeper has not heard of it: then it was never started. It does not start a step twice.
            State::After if self.after.is_none() => Action::StartAfter,
            State::After => return Ok(()),
            // Over, but for the report: what survived then may be gone by now, or the other way round.
            State::Emptying | State::Closed | State::Quarantined => Action::EmptyCage,
        };
        match self.act(action)? {
            Some(event) => self.event(event),
            None => Ok(()),
        }
    }

    fn take_up_step(&mut self, taken: StepTaken, written: &[StepReport]) -> Result<()> {
        let number = taken.step.step;
        let kind = if self.whole.phase.after == Some(number) {
            StepKind::After
        } else {
            StepKind::Step
        };
        let known = written.iter().find(|step| step.number == number).cloned();
        let report = known.unwrap_or_else(|| step::begun(number, kind));
        let mut outputs = self.open_outputs(number)?;
        self.silent_since = self.silence_began(&outputs, number);
        let given_up = matches!(self.whole.phase.machine.ending(), Some(Ending::LogFull { .. }));
        for (output, pipe) in outputs.iter_mut().zip(taken.pipes) {
            output.connect(pipe);
            if let Some(log) = report.logs.iter().find(|log| log.stream == output.stream()) {
                output.remember(log);
            }
            if given_up {
                output.go_on_dropping();
            }
        }
        // What a predecessor has heard of its end comes again, by the keeper's word, unless it has acted on it.
        let pending = match kind {
            StepKind::Step => matches!(self.state(), State::Running | State::Leaving | State::Cutting),
            StepKind::After => self.state() == State::After,
        };
        let step = Step {
            runs: pending || taken.step.ended.is_none(),
            report,
            pid: taken.step.pid,
            process: taken.process,
            outputs,
            reaping: false,
            ours: None,
        };
        match kind {
            StepKind::Step => {
                let cage = self.whole.cage.as_ref();
                self.leaf = cage.and_then(|cage| cage.find_leaf(number).ok().flatten());
                self.main = Some(step);
            }
            StepKind::After => {
                self.after = Some(step);
            }
        }
        Ok(())
    }
}
