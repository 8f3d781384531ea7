//! Starting the main processes of a captured job: the keeper's children, or ours where it is dead.

use super::output::{self, Output};
use super::{Kept, Step};
use crate::closing;
use crate::error::{Failure, Result};
use crate::foreground::{after_command, keystrokes_matter, result_variables, uid_of};
use crate::hand;
use crate::job::{Command, Target};
use crate::keeper::{self, Output as Way, Start};
use crate::machine::Event;
use crate::package;
use crate::step;
use jobcage_job::{AFTER_VERSION, AfterMark, Ending, StepKind, StepReport};
use jobcage_sys::{Errno, file};
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// An after phase that is about to start.
struct AfterStart {
    command: Command,
    more: Vec<CString>,
    stdin: Option<OwnedFd>,
    timeout: Duration,
}

impl Kept {
    /// Starts the main process of a step; the inner error is the kernel's refusal.
    pub(super) fn start(
        &mut self,
        step: StepReport,
        command: &Command,
        more: Vec<CString>,
        stdin: Option<OwnedFd>,
    ) -> Result<std::result::Result<Step, (StepReport, Errno)>> {
        let leaf = match step.kind {
            StepKind::Step => &self.leaf,
            StepKind::After => &self.after_leaf,
        };
        let Some(leaf) = leaf.as_ref().and_then(|leaf| leaf.fd().try_clone_to_owned().ok()) else {
            return Ok(Err((step, Errno::ENOENT)));
        };
        let mut command = command.clone();
        let (uid, whole) = (uid_of(&command), &self.whole);
        hand::name_the_job(&mut command.env, &whole.spec, whole.hand.as_ref(), more, uid);
        let start = Start {
            step: step.number,
            output: self
                .whole
                .job
                .capture
                .map_or(Way::Given, |capture| capture.streams.into()),
            stdin: stdin.is_some(),
            owner: command.identity.as_ref().map(|identity| identity.uid),
            no_keystrokes: keystrokes_matter(&command),
        };
        // Before the process: one that writes has to have where to.
        let mut outputs = self.open_outputs(step.number)?;
        let package = package::seal_command(&command)?;
        let fds: Vec<BorrowedFd<'_>> = [package.as_fd(), leaf.as_fd()]
            .into_iter()
            .chain(stdin.as_ref().map(AsFd::as_fd))
            .chain(self.whole.given.iter().flatten().map(AsFd::as_fd))
            .collect();
        let asked = self
            .whole
            .keeper
            .as_mut()
            .map(|keeper| keeper.start_main(&start, &fds));
        let started = match asked {
            Some(Ok(started)) => started.map(|started| (started.pid, started.process, started.pipes, None)),
            // It is dead, and what it may have started did nothing (see `Go`): the process is our own child.
            None | Some(Err(_)) => {
                let null = file::open_null().map_err(Failure::system("open /dev/null"))?;
                keeper::start_main(&start, &fds, null.as_fd(), None).map(|(child, pipes)| {
                    let process = child.pidfd.as_ref().and_then(|fd| fd.try_clone().ok());
                    (child.pid, process, pipes, Some(child))
                })
            }
        };
        if matches!(started, Ok((.., Some(_)))) {
            self.lose_keeper();
        }
        Ok(match started {
            Ok((pid, process, pipes, ours)) => {
                for (output, pipe) in outputs.iter_mut().zip(pipes) {
                    output.connect(pipe);
                }
                Ok(Step {
                    report: step,
                    pid,
                    process,
                    outputs,
                    runs: true,
                    reaping: false,
                    ours,
                })
            }
            Err(errno) => Err((step, errno)),
        })
    }

    /// The logs of a step.
    pub(super) fn open_outputs(&self, step: u32) -> Result<Vec<Output>> {
        let Some(capture) = &self.whole.job.capture else {
            return Ok(Vec::new());
        };
        output::open(self.whole.record.dir(), step, capture)
    }

    /// An after phase that a later boot could run is marked for that one as well.
    fn mark_after(&mut self, step: u32) {
        let whole = &self.whole;
        if whole.spec.after_reboot.is_none() {
            return;
        }
        let mark = AfterMark {
            version: AFTER_VERSION,
            boot_id: whole.spec.boot_id.clone(),
            cage: whole.spec.cage.clone(),
            step,
            at: closing::now(),
        };
        if let Err(error) = whole.record.mark_after(&mark) {
            self.note(format!(
                "should the host go down now, the after phase would be run again after the reboot: {error}"
            ));
        }
    }

    /// What there is to start as the after phase. `None`: nothing; where there should be something, a note says so.
    fn after_start(&mut self) -> Option<AfterStart> {
        // What the command was asked to have by --env it may have changed since.
        let mut changed = Command {
            explicit: Vec::new(),
            ..self.whole.job.command.clone()
        };
        if let Some(hand) = &mut self.whole.hand {
            let passed = hand.pass(&changed, &mut self.whole.phase.notes);
            changed = passed.unwrap_or(changed);
        }
        let ending = self.whole.phase.machine.ending();
        if self.is_session() {
            let more = result_variables(ending.unwrap_or(&Ending::Lost { why: String::new() }));
            let timeout = self.whole.phase.after_timeout;
            let Some((stdin, timeout)) = self.visits.script.take().zip(timeout) else {
                self.note("the after phase could not be started: its script is gone".into());
                return None;
            };
            // All who hold it share its position, and whoever made it left that at its end.
            let _ = nix::unistd::lseek(&stdin, 0, nix::unistd::Whence::SeekSet);
            return Some(AfterStart {
                command: changed,
                more,
                stdin: Some(stdin),
                timeout,
            });
        }
        let Target::New {
            after: Some(after), ..
        } = &self.whole.job.target
        else {
            return None;
        };
        let (command, more) = after_command(&changed, after, ending);
        Some(AfterStart {
            command,
            more,
            stdin: None,
            timeout: after.timeout,
        })
    }

    /// Starts the after phase: marked before, so that it is started once at most.
    pub(super) fn start_after(&mut self) -> Result<Option<Event>> {
        let Some(AfterStart {
            command,
            more,
            stdin,
            timeout,
        }) = self.after_start()
        else {
            return Ok(Some(Event::AfterEnded));
        };
        let Some(cage) = &mut self.whole.cage else {
            self.note("the after phase could not be started: the cage is gone".into());
            return Ok(Some(Event::AfterEnded));
        };
        let leaf = cage.leaf(StepKind::After)?;
        self.after_leaf = Some(leaf.dir);
        let last = match &self.main {
            Some(main) => main.report.number,
            None if self.is_session() => self.last_number()?,
            None => 1,
        };
        let number = last + 1;
        let step = step::begun(number, StepKind::After);
        self.whole.phase.after = Some(number);
        self.whole.phase.after_until = Some(jobcage_sys::clock::boot_time() + timeout);
        // That it cannot be written down is no reason not to run it.
        let _ = self.write_step(&step);
        self.mark_after(number);
        self.persist();
        match self.start(step, &command, more, stdin)? {
            Ok(step) => {
                self.after = Some(step);
                Ok(None)
            }
            Err((step, errno)) => {
                self.steps.push(step);
                self.note(format!("the after phase could not be started: {}", errno.desc()));
                Ok(Some(Event::AfterEnded))
            }
        }
    }
}
