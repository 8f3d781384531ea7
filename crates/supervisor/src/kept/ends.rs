//! The ends of a captured job: of the keeper, of a main process, of the step's leaf, of the after phase, of the cage and of
//! the whole.

use super::{Kept, Step, Whole, output::Moved};
use crate::beside::cut_leaves;
use crate::closing::{self, Outside, Story};
use crate::error::{Failure, Result};
use crate::foreground::merge_cut;
use crate::hand;
use crate::journal;
use crate::keeper::{self, SOCKET};
use crate::leaving::{self, Leaving};
use crate::machine::Event;
use crate::session;
use crate::sessions::add_step;
use crate::step::exit_status;
use crate::witness;
use jobcage_cage::{Dir, Patience, empty_seen, oom_kills};
use jobcage_job::{Cause, Clock, Ending, ExitStatus, MainEnd, StepKind, StepReport};
use jobcage_sys::clock::boot_time;
use jobcage_sys::wait::{self, Whom};
use jobcage_sys::{Errno, pidfd};
use nix::poll::{PollFd, PollFlags};
use nix::sys::time::TimeSpec;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

impl Kept {
    /// What the keeper tells; or that it is gone.
    pub(super) fn look_at_keeper(&mut self) -> Result<()> {
        while let Some(keeper) = &mut self.whole.keeper {
            match keeper.next_end() {
                Ok(Some(end)) => self.main_ended(&end)?,
                Ok(None) => break,
                Err(_) => self.lose_keeper(),
            }
        }
        Ok(())
    }

    /// The keeper is dead: the output goes on, since we have read ends of our own.
    pub(super) fn lose_keeper(&mut self) {
        if let Some(keeper) = self.whole.keeper.take() {
            self.note("the keeper died: the output went on, and statuses are those that the kernel could still tell".into());
            if let Some(child) = &keeper.child {
                // A zombie by now: its connection was closed by its end.
                let _ = wait::block(Whom::Pid(child.pid));
            }
            self.persist();
        }
    }

    /// Children are ours where the keeper is dead and we are next in line, or have started them ourselves.
    pub(super) fn look_at_children(&mut self) -> Result<()> {
        if self.whole.keeper.is_some() {
            // Its end is told by the connection; what else there is, such as the watcher, can wait.
            return Ok(());
        }
        while !self.is_over()
            && let Ok(Some((pid, change))) = wait::poll(Whom::Any, false)
        {
            let steps = self.main.iter().chain(&self.after);
            let Some(step) = steps.clone().find(|step| step.pid == pid && step.runs) else {
                continue;
            };
            let status = exit_status(change);
            let end = match &step.ours {
                Some(child) => keeper::end(step.report.number, child, status),
                None => plain_end(step, status),
            };
            // What the keeper would have done.
            let _ = self.whole.record.write_status(&end);
            self.main_ended(&end)?;
        }
        Ok(())
    }

    /// Mains without a keeper that are not our children: what the kernel still tells of them.
    pub(super) fn look_at_mains(&mut self) -> Result<()> {
        if self.whole.keeper.is_some() {
            return Ok(());
        }
        self.look_at_children()?;
        for kind in [StepKind::Step, StepKind::After] {
            let step = match kind {
                StepKind::Step => &mut self.main,
                StepKind::After => &mut self.after,
            };
            let Some(step) = step.as_mut().filter(|step| step.runs) else {
                continue;
            };
            let Some(process) = &step.process else {
                // A kernel without pidfds: the leaf's emptiness is what tells.
                continue;
            };
            if !pidfd::has_ended(process.as_fd()) || wait::peek(Whom::Pid(step.pid)).is_ok() {
                continue;
            }
            match pidfd::exit_of_reaped(process.as_fd()) {
                Ok(Some(change)) => {
                    let end = plain_end(step, exit_status(change));
                    let _ = self.whole.record.write_status(&end);
                    self.main_ended(&end)?;
                }
                // A zombie yet: whoever reaps it hangs the pidfd up.
                Ok(None) => step.reaping = true,
                Err(errno) => {
                    step.runs = false;
                    let why = format!(
                        "the keeper died, and this kernel does not tell others how a process ended ({})",
                        errno.desc()
                    );
                    self.main_lost(kind, why)?;
                }
            }
        }
        Ok(())
    }

    fn main_lost(&mut self, kind: StepKind, why: String) -> Result<()> {
        match kind {
            StepKind::Step => self.event(Event::Lost { why }),
            StepKind::After => {
                self.note(format!("how the after phase ended is not known: {why}"));
                self.event(Event::AfterEnded)
            }
        }
    }

    /// The main process of a step ended.
    pub(super) fn main_ended(&mut self, end: &MainEnd) -> Result<()> {
        if self
            .after
            .as_ref()
            .is_some_and(|after| after.report.number == end.step && after.runs)
        {
            return self.after_ended(end);
        }
        let Some(main) = self
            .main
            .as_mut()
            .filter(|main| main.report.number == end.step && main.runs)
        else {
            return Ok(());
        };
        let full = ended(main, end);
        let report = main.report.clone();
        // Its client returns now, with this status; the rest of the step's output is another matter.
        let _ = self.write_step(&report);
        if let Some(errno) = full {
            self.event(Event::LogFull { errno })?;
        }
        match (&end.never_started, end.status) {
            (Some((stage, errno)), _) => {
                let why = self.whole.job.command.never_started(stage, *errno);
                self.event(Event::StartFailed(why))
            }
            (None, Some(status)) => {
                let oom = status == ExitStatus::Signal(9) && self.oom_killed();
                self.event(Event::MainEnded { status, oom })
            }
            (None, None) => self.event(Event::Lost {
                why: "its keeper could not tell how the command ended".into(),
            }),
        }
    }

    fn oom_killed(&self) -> bool {
        let kills = self.whole.cage.as_ref().and_then(|cage| oom_kills(cage.dir()));
        self.whole.spec.limited && kills.is_some_and(|kills| kills > self.whole.phase.oom_before)
    }

    fn after_ended(&mut self, end: &MainEnd) -> Result<()> {
        let Some(after) = &mut self.after else {
            return Ok(());
        };
        ended(after, end);
        if let Some(status) = end.status
            && matches!(after.report.ending, Ending::Lost { .. })
        {
            // One that we have ended has its ending already.
            after.report.ending = status.into();
        }
        let report = after.report.clone();
        let _ = self.write_step(&report);
        if let Some((stage, errno)) = &end.never_started {
            let errno = Errno::from_raw(*errno);
            self.note(format!(
                "the after phase never started: {stage}: {}",
                errno.desc()
            ));
        }
        self.event(Event::AfterEnded)
    }

    /// Ends the wait for the after phase; its processes die with the cage. `None`: its time is over.
    pub(super) fn end_after(&mut self, why: Option<&str>) -> Result<()> {
        if let Some(after) = &mut self.after {
            after.report.ending = match why {
                Some(_) => Ending::Cancelled(Cause::Cleanup),
                None => Ending::TimedOut { clock: Clock::Wall },
            };
        }
        match why {
            Some(why) => {
                self.note(format!("the after phase: {why}"));
                self.event(Event::AfterEnded)
            }
            None => self.event(Event::AfterTimedOut),
        }
    }

    pub(super) fn signal_step(&mut self) -> Result<()> {
        let others = self.other_leaves()?;
        let leaves: Vec<&Dir> = self.leaf.iter().chain(&others).collect();
        if leaves.is_empty() && !self.is_session() {
            return Ok(());
        }
        let leaving = Leaving::of(leaves.iter().copied())?;
        if self.goes_on() {
            let Whole {
                cage,
                job,
                spec,
                phase,
                ..
            } = &mut self.whole;
            if let Some(cage) = cage {
                leaving::spare_agents(cage, &leaves, &job.spare, spec.uid, &mut phase.notes);
            }
        }
        self.leaving = Some(leaving);
        let phase = &mut self.whole.phase;
        // A predecessor may have done it, and who is asked twice takes that for a second stop.
        if phase.wish.grace.is_zero() || phase.signalled {
            return Ok(());
        }
        self.crowd = leaving::signal(&leaves, phase.wish.signal, &mut phase.notes) > 64;
        phase.signalled = true;
        self.persist();
        Ok(())
    }

    pub(super) fn cut_step(&mut self) -> Result<Event> {
        let has_left = self.leaving.take().is_some();
        self.crowd = false;
        let others = self.other_leaves()?;
        let leaves: Vec<&Dir> = self.leaf.iter().chain(&others).collect();
        // A command that nobody knows the end of is cut without being asked to leave before.
        if !has_left && self.goes_on() {
            let Whole {
                cage,
                job,
                spec,
                phase,
                ..
            } = &mut self.whole;
            if let Some(cage) = cage {
                leaving::spare_agents(cage, &leaves, &job.spare, spec.uid, &mut phase.notes);
            }
        }
        let (Some(cage), Some((first, others))) = (&self.whole.cage, leaves.split_first()) else {
            return Ok(Event::Cut { proven: true });
        };
        let mut witness = witness::of(&self.whole.record, &self.whole.spec);
        let mut emptied = empty_seen(first, &Patience::default(), &mut witness)?;
        cut_leaves(cage, others.iter().copied(), &mut emptied, &mut witness)?;
        drop(witness);
        let proven = emptied.proven();
        self.cut = Some(emptied);
        self.hear_of_the_dead(proven)?;
        Ok(Event::Cut { proven })
    }

    /// The leaves that leave with that of the command: those of commands beside it, and of a session those of all steps.
    fn other_leaves(&self) -> Result<Vec<Dir>> {
        let Some(cage) = &self.whole.cage else {
            return Ok(Vec::new());
        };
        let mut leaves = cage.exec_leaves()?;
        if self.is_session() {
            leaves.extend(cage.step_leaves()?);
        }
        Ok(leaves)
    }

    /// Whether somebody comes after what is cut, for whom agents are spared.
    fn goes_on(&self) -> bool {
        self.whole.job.goes_on() || self.whole.phase.machine.has_after()
    }

    /// A main process whose cgroup is empty is dead, and the keeper is about to tell how it ended: waits for that word, so
    /// that no status is missing in the report for being a moment late.
    fn hear_of_the_dead(&mut self, empty: bool) -> Result<()> {
        const PATIENCE: Duration = Duration::from_secs(5);
        let end = Instant::now() + PATIENCE;
        loop {
            self.look_at_keeper()?;
            let awaited = self.main.iter().chain(&self.after).any(|step| step.runs);
            let left = end.saturating_duration_since(Instant::now());
            let Some(keeper) = self.whole.keeper.as_ref().filter(|_| empty && awaited) else {
                return Ok(());
            };
            let mut fds = [PollFd::new(keeper.as_fd(), PollFlags::POLLIN)];
            match nix::poll::ppoll(&mut fds, Some(TimeSpec::from_duration(left)), None) {
                // Stopped, perhaps; the report says that the status was not seen.
                Ok(0) => return Ok(()),
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(Failure::system("wait for the keeper's word")(errno)),
            }
        }
    }

    pub(super) fn empty_cage(&mut self) -> Result<Event> {
        let detail = self.whole.job.detail
            || !matches!(self.whole.phase.machine.ending(), Some(Ending::Exited { .. }));
        let whole = &self.whole;
        // While there are leaves.
        let ran = if self.is_session() {
            self.steps_that_ran()
        } else {
            Vec::new()
        };
        let mut closed = closing::end_job(whole.cage.as_ref(), detail, &whole.record, &whole.spec)?;
        // The killed tell their ends before the look outside.
        self.hear_of_the_dead(closed.quarantine.is_none())?;
        if self.is_session() {
            self.hear_of_steps()?;
            self.write_down_those(&ran);
        }
        let is_session = self.is_session();
        let keeper = self.whole.keeper.as_mut();
        // The steps of a session are not the keeper's children, and so it knows nothing of who has left them.
        let keeper = keeper.filter(|_| !is_session);
        let outside = if keeper.is_some_and(|keeper| !keeper.has_children().unwrap_or(true)) {
            Outside::Nobody
        } else {
            Outside::Unknown
        };
        closing::look_outside(&self.whole.spec, outside, &mut closed);
        if let Some(cut) = self.cut.take() {
            merge_cut(&mut closed, cut);
        }
        let proven = closed.quarantine.is_none() && closed.emptied.proven();
        self.closed = Some(closed);
        Ok(Event::Emptied { proven })
    }

    /// Everything is dead: what is left in the pipes comes into the logs, the report is written, and the keeper may go.
    pub(super) fn finish(mut self) -> Result<()> {
        let mut steps = std::mem::take(&mut self.steps);
        if self.is_session() {
            // As their clients have written them down.
            steps.extend(self.whole.record.steps()?);
        }
        let ending = self
            .whole
            .phase
            .machine
            .ending()
            .cloned()
            .unwrap_or(Ending::Lost {
                why: "no ending was seen".into(),
            });
        for mut step in [self.main.take(), self.after.take()].into_iter().flatten() {
            for output in &mut step.outputs {
                output.drain_to_end();
                output.close();
            }
            if step.report.kind == StepKind::Step {
                step.report.ending = ending.clone();
            }
            step.report.ended.get_or_insert_with(closing::now);
            step.report.logs = step.outputs.iter().map(|output| output.report(true)).collect();
            add_step(&mut steps, Some(step.report));
        }
        steps.sort_by_key(|step: &StepReport| step.number);
        for step in &steps {
            let _ = self.write_step(step);
        }
        let mut closed = self.closed.take().unwrap_or_default();
        closing::give_back(&self.whole.record, &self.whole.spec, &mut closed);
        hand::forget(&self.whole.spec, &mut self.whole.phase.notes);
        let of_last = steps.iter().rev().find(|step| step.kind == StepKind::Step);
        let phase = &self.whole.phase;
        let status = phase.machine.status().or(of_last.and_then(|step| step.status));
        let notes = [phase.notes.clone(), phase.machine.notes().to_vec()].concat();
        let report = closing::report(
            Story {
                spec: &self.whole.spec,
                ending,
                status,
                notes,
                steps,
                limits: std::mem::take(&mut self.whole.limits),
                root: phase.root.clone(),
                closed_by: "supervisor",
                wall: boot_time().saturating_sub(phase.began),
            },
            closed,
        );
        if let Err(error) = self.whole.record.close_for_good(&report) {
            super::pause();
            return Err(error.into());
        }
        journal::ended(&self.whole.spec, &report);
        if let Some(keeper) = self.whole.keeper.take() {
            keeper.leave();
        }
        for name in [SOCKET, session::SOCKET, "phase.json"] {
            self.whole.record.forget(name);
        }
        drop(self.whole.lock);
        Ok(())
    }
}

/// Drains what a main process wrote, and writes into its report what is known; whether the log was full, and why.
fn ended(step: &mut Step, end: &MainEnd) -> Option<Option<i32>> {
    step.runs = false;
    let mut full = None;
    for output in &mut step.outputs {
        if let Moved::Full(errno) = output.drain_to_exit() {
            full = Some(errno);
        }
    }
    step.report.status = end.status;
    step.report.ended = Some(end.at.clone());
    step.report.logs = step.outputs.iter().map(|output| output.report(false)).collect();
    full
}

fn plain_end(step: &Step, status: ExitStatus) -> MainEnd {
    MainEnd {
        version: jobcage_job::STATUS_VERSION,
        step: step.report.number,
        pid: step.pid,
        status: Some(status),
        never_started: None,
        at: closing::now(),
    }
}

/// What to wait for at the pidfd of a main process that nobody tells us about: its end, and when that was seen, its reaping
/// by whoever is its parent now, which is always told (pidfd_open(2), `POLLHUP`).
pub(super) fn wanted_of_main(step: &Step) -> PollFlags {
    if step.reaping {
        PollFlags::empty()
    } else {
        PollFlags::POLLIN
    }
}
