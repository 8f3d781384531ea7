//! The ends: of the command, of its leaf, of the after phase, of the cage, and of the whole.

use super::setup::{Setup, uid_of};
use super::{Running, Supervision};
use crate::beside::cut_beside;
use crate::capture::Stream;
use crate::closing::{self, Closed, Outside, Story};
use crate::error::Result;
use crate::job::{Outcome, Target};
use crate::leaving::{self, Leaving};
use crate::machine::{Event, State};
use crate::signals::Meaning;
use crate::step::exit_status;
use crate::unheard;
use crate::witness;
use crate::{hand, host};
use jobcage_cage::{Dir, Emptied, Mount, Patience, cgroup_of, empty, empty_seen, oom_kills};
use jobcage_job::{Cause, Clock, Ending, ExitStatus, Report, StepKind, StepReport};
use jobcage_sys::clock::boot_time;
use jobcage_sys::spawn::Stage;
use jobcage_sys::wait::Change;
use jobcage_sys::{Errno, memory, pidfd};
use nix::poll::{PollFd, PollFlags};
use std::os::fd::AsFd;
use std::path::Path;

impl Supervision<'_> {
    pub(super) fn main_ended(&mut self, change: Change) -> Result<()> {
        let Some(running) = self.main.take() else {
            return Ok(());
        };
        let status = exit_status(change);
        // A kernel with the bug of kernel-facts 3 killed it at birth: its cgroup, or ours, was once killed as a whole.
        if running.child.died_at_birth() && self.machine.state() == State::Running {
            match self.spawn(self.command_plan(), true)? {
                Ok(child) => {
                    self.main = Some(Running {
                        child,
                        step: running.step,
                    });
                    return Ok(());
                }
                Err(errno) => return self.never_started(running.step, "clone", errno),
            }
        }
        if let Some((stage, errno)) = running.child.failure() {
            return self.never_started(running.step, stage.name(), errno);
        }
        let oom = status == ExitStatus::Signal(9) && self.oom_killed();
        self.steps.push(StepReport {
            status: Some(status),
            ended: Some(closing::now()),
            ..running.step
        });
        self.event(Event::MainEnded { status, oom })
    }

    pub(super) fn never_started(&mut self, step: StepReport, stage: &str, errno: Errno) -> Result<()> {
        self.steps.push(StepReport {
            ended: Some(closing::now()),
            ..step
        });
        let why = self.job.command.never_started(stage, errno as i32);
        self.event(Event::StartFailed(why))
    }

    pub(super) fn oom_killed(&self) -> bool {
        self.setup.spec.limited
            && oom_kills(self.setup.cage.dir()).is_some_and(|kills| kills > self.oom_before)
    }

    pub(super) fn signal_step(&mut self) -> Result<()> {
        let others = self.others()?;
        let Setup {
            cage, leaf, notes, ..
        } = &mut self.setup;
        let leaves = leaving::leaves(&leaf.dir, &others);
        if self.job.goes_on() {
            let uid = uid_of(&self.job.command);
            leaving::spare_agents(cage, &leaves, &self.job.spare, uid, notes);
        }
        self.leaving = Some(Leaving::of(leaves.iter().copied())?);
        if !self.wish.grace.is_zero() {
            self.crowd = leaving::signal(&leaves, self.wish.signal, notes) > 64;
            self.signal_absent_main();
        }
        Ok(())
    }

    /// The command itself may have been moved out of its cage, as PAM does with su. It is our child all the same.
    fn signal_absent_main(&self) {
        let Some(main) = &self.main else { return };
        let cage = self.setup.cage.dir().path();
        let is_outside =
            |place: String| Mount::find().is_ok_and(|mount| !mount.dir_of(&place).starts_with(cage));
        if cgroup_of(main.child.pid).is_some_and(is_outside) {
            // One that has ended needs no signal.
            let _ = pidfd::signal_pid(main.child.pid, self.wish.signal);
        }
    }

    /// The leaves of commands that run beside the step and are cut with it.
    fn others(&self) -> Result<Vec<Dir>> {
        if self.is_step_of_another() {
            return Ok(Vec::new());
        }
        Ok(self.setup.cage.exec_leaves()?)
    }

    pub(super) fn cut_step(&mut self) -> Result<Event> {
        self.leaving = None;
        self.crowd = false;
        self.grace_until = None;
        let mut witness = witness::of(&self.setup.record, &self.setup.spec);
        let mut emptied = empty_seen(&self.setup.leaf.dir, &Patience::default(), &mut witness)?;
        if !self.is_step_of_another() {
            cut_beside(&self.setup.cage, &mut emptied, &mut witness)?;
        }
        drop(witness);
        let proven = emptied.proven();
        self.cut = Some(emptied);
        self.look_at_children()?;
        Ok(Event::Cut { proven })
    }

    pub(super) fn after_ended(&mut self, change: Change) -> Result<()> {
        let Some(running) = self.after.take() else {
            return Ok(());
        };
        let status = exit_status(change);
        let running = match self.start_after_again(running)? {
            Some(ended) => ended,
            None => return Ok(()),
        };
        if let Some((stage, errno)) = running.child.failure() {
            self.setup.notes.push(format!(
                "the after phase never started: {}: {}",
                stage.name(),
                errno.desc()
            ));
        }
        // One that we have ended has its ending already.
        let ending = match running.step.ending {
            Ending::Lost { .. } => status.into(),
            ending => ending,
        };
        self.steps.push(StepReport {
            ending,
            status: Some(status),
            ended: Some(closing::now()),
            ..running.step
        });
        self.after_until = None;
        self.event(Event::AfterEnded)
    }

    /// One that never became its program, for a reason that is not its own, gets another start; else it is given back.
    fn start_after_again(&mut self, running: Running) -> Result<Option<Running>> {
        let Target::New {
            after: Some(after), ..
        } = &self.job.target
        else {
            return Ok(Some(running));
        };
        let born_dead = running.child.died_at_birth();
        // It is guaranteed, and what was handed on to it is not.
        let too_long = matches!(running.child.failure(), Some((Stage::Exec, Errno::E2BIG)))
            && self.setup.command.take().is_some();
        if too_long {
            let note =
                "the after phase has nothing of what was handed on: that and its environment are too long";
            self.setup.notes.push(note.into());
        }
        // A stop may have ended it before it became its program: then the cage is being emptied, or gone.
        let is_over = self.machine.state() != State::After;
        if is_over || (!born_dead && !too_long) {
            return Ok(Some(running));
        }
        let leaf = self.setup.cage.leaf(StepKind::After)?;
        let Ok(child) = self.spawn(self.after_plan(after, &leaf), born_dead)? else {
            return Ok(Some(running));
        };
        let step = running.step;
        self.after = Some(Running { child, step });
        Ok(None)
    }

    /// Ends the wait for the after phase; its processes die with the cage. `None`: its time is over.
    pub(super) fn end_after(&mut self, why: Option<&str>) -> Result<()> {
        self.after_until = None;
        if let Some(running) = &mut self.after {
            running.step.ending = match why {
                Some(_) => Ending::Cancelled(Cause::Cleanup),
                None => Ending::TimedOut { clock: Clock::Wall },
            };
        }
        match why {
            Some(why) => {
                self.setup.notes.push(format!("the after phase: {why}"));
                self.event(Event::AfterEnded)
            }
            None => self.event(Event::AfterTimedOut),
        }
    }

    /// The last emptying. A step in a cage of `jobcage create` leaves what it left: that ends with the cage.
    pub(super) fn empty_cage(&mut self) -> Result<Event> {
        let mut closed = if self.is_step_of_another() {
            Closed {
                emptied: self.sweep()?,
                ..Closed::default()
            }
        } else {
            let detail = self.job.detail || !matches!(self.machine.ending(), Some(Ending::Exited { .. }));
            let setup = &self.setup;
            closing::end_job(Some(&setup.cage), detail, &setup.record, &setup.spec)?
        };
        // Before the look outside: a zombie of ours is no descendant that lives.
        self.reap_the_killed()?;
        if !self.is_step_of_another() {
            let own: Vec<i32> = self
                .setup
                .watch
                .iter()
                .filter_map(|w| w.started.as_ref())
                .chain(self.setup.keeper.iter().filter_map(|k| k.child.as_ref()))
                .map(|child| child.pid)
                .collect();
            let outside = if self.strangers {
                Outside::Unknown
            } else {
                Outside::Descendants(&own)
            };
            closing::look_outside(&self.setup.spec, outside, &mut closed);
        }
        if self.is_step_of_another() && !closed.emptied.proven() {
            closed.quarantine = Some(closing::quarantine(&self.setup.leaf.dir, &closed.emptied));
        }
        if let Some(cut) = self.cut.take() {
            if self.is_step_of_another() && !cut.proven() {
                closed.quarantine = Some(closing::quarantine(&self.setup.leaf.dir, &cut));
            }
            merge_cut(&mut closed, cut);
        }
        let proven = closed.quarantine.is_none() && closed.emptied.proven();
        self.closed = Some(closed);
        Ok(Event::Emptied { proven })
    }

    /// What a step leaves in a cage of others ends with that cage, unless it is to end with the step.
    fn sweep(&mut self) -> Result<Emptied> {
        if self.job.sweep && self.cut.is_none() {
            let Setup {
                cage, leaf, notes, ..
            } = &mut self.setup;
            leaving::spare_agents(
                cage,
                &[&leaf.dir],
                &self.job.spare,
                uid_of(&self.job.command),
                notes,
            );
            return Ok(empty(&leaf.dir, &Patience::default())?);
        }
        let proof = jobcage_job::Proof {
            populated: Some(false),
            ..Default::default()
        };
        Ok(Emptied {
            proof,
            ..Emptied::default()
        })
    }

    /// Those that the kill has ended. One that is stuck in the kernel is not waited for.
    pub(super) fn reap_the_killed(&mut self) -> Result<()> {
        self.look_at_children()?;
        let stuck = self.main.take().into_iter().chain(self.after.take());
        for Running { child, mut step } in stuck.collect::<Vec<_>>() {
            step.ended = Some(closing::now());
            if child.stage() != Stage::Exec && self.machine.status().is_none() {
                self.setup.notes.push(format!(
                    "the command hangs in its start, at the stage {:?}",
                    child.stage().name()
                ));
            }
            self.steps.push(step);
        }
        Ok(())
    }

    pub(super) fn finish(mut self) -> Result<Outcome> {
        self.pass_on_the_rest();
        if self.is_step_of_another() {
            // Whoever has run it is as good as over.
            memory::stop_freeing();
        }
        let ending = self.machine.ending().cloned().unwrap_or(Ending::Lost {
            why: "no ending was seen".into(),
        });
        for step in self.steps.iter_mut().filter(|step| step.kind == StepKind::Step) {
            step.ending = ending.clone();
            step.logs.extend(self.streams.iter().filter_map(Stream::log));
        }
        let mut notes = std::mem::take(&mut self.setup.notes);
        if self.is_step_of_another() {
            self.setup.hand.iter_mut().for_each(|hand| hand.look(&mut notes));
        }
        let mut closed = self.closed.take().unwrap_or_default();
        if !self.is_step_of_another() {
            closing::give_back(&self.setup.record, &self.setup.spec, &mut closed);
        }
        let forgotten = self.is_step_of_another() || hand::forget(&self.setup.spec, &mut notes);
        notes.extend(self.machine.notes().iter().cloned());
        let report = closing::report(
            Story {
                spec: &self.setup.spec,
                ending,
                status: self.machine.status(),
                notes,
                steps: std::mem::take(&mut self.steps),
                limits: std::mem::take(&mut self.setup.limits),
                root: self.setup.root.take(),
                closed_by: "supervisor",
                wall: boot_time().saturating_sub(self.began),
            },
            closed,
        );
        let interrupted = self.terminal_signal.is_some()
            && matches!(self.machine.status(), Some(ExitStatus::Signal(n)) if Some(n) == self.terminal_signal.map(|s| s as i32));
        let job_ended = self.job_has_ended(&report.ending);
        let may_be_ending = self.put_away(&report, forgotten)?;
        Ok(Outcome {
            may_be_ending,
            report,
            interrupted,
            job_ended,
        })
    }

    /// A job that ended cleanly leaves no record, unless somebody waits for its report; any other keeps its report there, and
    /// so does one of which something is left to remove. Whether the session that it was a step of may be ending.
    pub(super) fn put_away(self, report: &Report, forgotten: bool) -> Result<bool> {
        let mut may_be_ending = false;
        let target = &self.job.target;
        let Setup {
            record,
            lock,
            keeper,
            mut end,
            ..
        } = self.setup;
        unheard::leave(&record, self.setup.attended);
        if let Target::Beside(_) = target {
            self.setup.cage.remove_exec_leaf(&self.setup.leaf);
        } else if let Target::Existing { .. } = target {
            for step in &report.steps {
                match record.end_step(step, end.take()) {
                    // A cleanup at this very moment sweeps the record and tells of the step itself.
                    Err(_) if record.is_closing() => {}
                    written => written?,
                }
            }
            if let Some(guest) = self.setup.guest {
                let name = self.job.step.as_ref();
                let note = name.map(|name| format!("stage {name:?}: {}", report.ending));
                may_be_ending = guest.end(&self.setup.spec, note);
            }
        } else if report.clean && forgotten {
            // Where somebody waits for the report and it cannot be written, they see the record go.
            if let Some(_held) = record.remove_plain()?
                && record.close(report).is_err()
            {
                record.remove()?;
            }
        } else {
            record.close(report)?;
        }
        // Only now: until here it would have had the after phase run.
        if let Some(keeper) = keeper {
            keeper.leave();
        }
        drop(lock);
        if let Some(root) = Path::new(&self.setup.spec.cage).parent() {
            host::leave_step(
                root,
                self.setup.watch.as_ref().and_then(|watch| watch.started.as_ref()),
            );
        }
        Ok(may_be_ending)
    }

    /// Captured output that is still in the pipe. Everything that could write is dead, or its pipe has been left to it.
    pub(super) fn pass_on_the_rest(&mut self) {
        while let Some(i) = (0..self.streams.len()).find(|i| !self.streams[*i].is_dry()) {
            let ready = {
                let Some(fd) = self.streams[i].poll_fd(&self.stdio) else {
                    return;
                };
                let mut fds = [fd, PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
                // Waits for a destination that takes nothing, unless somebody loses patience.
                let polled = nix::poll::poll(&mut fds, nix::poll::PollTimeout::NONE);
                let asked = fds[1].revents().is_some_and(|events| !events.is_empty());
                polled.is_ok() && !asked
            };
            let impatient = !ready
                && match self.signals.next() {
                    Some(Meaning::Stop(_) | Meaning::Terminal(_)) => true,
                    Some(Meaning::StopIfAsked(_)) => self.is_asked_again(),
                    _ => false,
                };
            if impatient {
                self.setup
                    .notes
                    .push("captured output was dropped, since its destination took none".into());
                return;
            }
            self.streams[i].step(&self.stdio, &mut self.last_output);
        }
    }
}

/// The cut of the step comes before the emptying of the cage: its census is the one that tells what was left.
pub(crate) fn merge_cut(closed: &mut Closed, cut: Emptied) {
    use jobcage_job::{Kill, Proof};
    let last = &mut closed.emptied;
    last.census.count += cut.census.count;
    if !cut.census.left.is_empty() {
        let later = std::mem::replace(&mut last.census.left, cut.census.left);
        last.census.left.extend(later);
        last.census.method = cut.census.method;
    }
    if cut.proof.kill != Kill::NotNeeded && last.proof.kill == Kill::NotNeeded {
        let removed = last.proof.removed;
        last.proof = Proof {
            removed,
            populated: last.proof.populated,
            ..cut.proof
        };
    }
}
