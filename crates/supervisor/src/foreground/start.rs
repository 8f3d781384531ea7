//! Starting the processes of a job: the command and the after phase.

use super::setup::uid_of;
use super::{Running, Supervision};
use crate::error::{Failure, Result};
use crate::hand;
use crate::host::cstring;
use crate::job::{After, Command, Target};
use crate::kept::Phase;
use crate::machine::Event;
use crate::step;
use jobcage_cage::{Leaf, Process};
use jobcage_job::{Ending, LeaseHolder, StepKind, StepReport};
use jobcage_sys::Errno;
use jobcage_sys::clock::boot_time;
use jobcage_sys::spawn::{Child, Plan, spawn, spawn_moved};
use std::ffi::CString;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::time::Instant;

impl Supervision<'_> {
    pub(super) fn start_main(&mut self) -> Result<()> {
        let step = self.new_step(StepKind::Step);
        // Written down first: a step that runs unknown would make the whole job look like one that did nothing. Where a
        // supervisor knows of it already, there is time for that while it starts.
        let is_known = self.setup.guest.is_some();
        if !is_known {
            self.write_down(&step);
        }
        if self.job.keep_log
            && let Some(stream) = self.streams.first_mut()
        {
            let name = jobcage_ledger::log::name(step.number, jobcage_job::Stream::Merged);
            if let Err(errno) = stream.keep_in(self.setup.record.dir(), &name) {
                let why = errno.desc();
                self.setup
                    .notes
                    .push(format!("its output is not kept: {name}: {why}"));
            }
        }
        let child = self.spawn_let_in()?;
        if is_known {
            self.write_down(&step);
            self.setup.end = self.setup.record.prepare_end(step.number);
        }
        match child {
            Ok(child) => self.main = Some(Running { child, step }),
            Err(errno) => {
                self.steps.push(step);
                let why = self.job.command.never_started("clone", errno as i32);
                self.event(Event::StartFailed(why))?;
            }
        }
        self.close_job_ends();
        Ok(())
    }

    /// Starts the command, with everything made ready before the session is asked whether it still takes a step.
    fn spawn_let_in(&mut self) -> Result<std::result::Result<Child, Errno>> {
        let mut guest = self.setup.guest.take();
        let plan = self.command_plan();
        if let Some(guest) = &mut guest {
            guest.is_let_in(&self.setup.record)?;
        }
        let child = self.spawn(plan, false);
        self.setup.guest = guest;
        child
    }

    /// The command with what was handed on to it.
    fn command(&self) -> &Command {
        self.setup.command.as_ref().unwrap_or(&self.job.command)
    }

    pub(super) fn command_plan(&self) -> Plan<'_> {
        let command = self.command();
        let end = |i: usize| {
            self.streams
                .get(i)
                .or(self.streams.first())
                .and_then(|s| s.job_end.as_ref())
                .map(AsFd::as_fd)
        };
        Plan {
            programs: command.programs.clone(),
            args: command.args.clone(),
            stdio: [None, end(0), end(1)],
            ..self.plan_of(command, self.setup.leaf.dir.fd(), Vec::new())
        }
    }

    /// What every process of the job has in common.
    pub(super) fn plan_of<'p>(
        &'p self,
        command: &Command,
        leaf: std::os::fd::BorrowedFd<'p>,
        more: Vec<CString>,
    ) -> Plan<'p> {
        let mut env = command.env.clone();
        hand::name_the_job(
            &mut env,
            &self.setup.spec,
            self.setup.hand.as_ref(),
            more,
            uid_of(command),
        );
        Plan {
            env,
            cgroup: Some(leaf),
            identity: command.identity.clone(),
            dir: command.dir.clone(),
            rlimits: command.rlimits.clone(),
            nice: command.nice,
            new_session: command.new_session,
            // Where there is a terminal that the job would share with another user.
            no_keystrokes: keystrokes_matter(command),
            guard: self.guard.as_ref().map(AsFd::as_fd),
            signal_mask: Some(self.signals.original),
            ..Plan::default()
        }
    }

    /// Starts a process; the inner error is the kernel's refusal to make one at all.
    pub(super) fn spawn(&self, plan: Plan<'_>, moved: bool) -> Result<std::result::Result<Child, Errno>> {
        match if moved { spawn_moved(&plan) } else { spawn(&plan) } {
            Ok(child) => Ok(Ok(child)),
            Err(errno @ (Errno::EACCES | Errno::EPERM | Errno::EBUSY | Errno::ENOENT)) => Err(
                Failure::system("start the command in its cgroup (run \"jobcage doctor\")")(errno),
            ),
            Err(errno) => Ok(Err(errno)),
        }
    }

    fn new_step(&self, kind: StepKind) -> StepReport {
        let number = if kind == StepKind::After {
            self.setup.leaf.number + 1
        } else {
            self.setup.leaf.number
        };
        let mut step = step::begun(number, kind);
        if let Some(name) = self.job.step.as_ref().filter(|_| kind == StepKind::Step) {
            step.name.clone_from(name);
        }
        step
    }

    fn write_down(&self, step: &StepReport) {
        if matches!(self.job.target, Target::Existing { .. }) {
            // That it cannot be written down is no reason not to run it; its end is written as well.
            let _ = self.setup.record.begin_step(step);
        }
    }

    /// Whether the cage, its record and its end are somebody else's.
    pub(super) fn is_step_of_another(&self) -> bool {
        matches!(self.job.target, Target::Existing { .. } | Target::Beside(_))
    }

    pub(super) fn close_job_ends(&mut self) {
        for stream in &mut self.streams {
            stream.job_end = None;
        }
    }

    pub(super) fn start_after(&mut self) -> Result<Option<Event>> {
        let Target::New {
            after: Some(after), ..
        } = &self.job.target
        else {
            return Ok(Some(Event::AfterEnded));
        };
        let leaf = self.setup.cage.leaf(StepKind::After)?;
        // What the command was asked to have by --env it may have changed since.
        let changed = Command {
            explicit: Vec::new(),
            ..self.job.command.clone()
        };
        if let Some(hand) = &mut self.setup.hand {
            let passed = hand.pass(&changed, &mut self.setup.notes);
            self.setup.command = Some(passed.unwrap_or(changed));
        }
        let step = self.new_step(StepKind::After);
        self.mark_after(step.number, after, None);
        let plan = self.after_plan(after, &leaf);
        match self.spawn(plan, false)? {
            Ok(child) => {
                self.mark_after(
                    step.number,
                    after,
                    Process::read(child.pid).map(|p| LeaseHolder {
                        pid: child.pid,
                        start_ticks: p.start_ticks,
                    }),
                );
                self.after = Some(Running { child, step });
                self.after_until = Some(Instant::now() + after.timeout);
                Ok(None)
            }
            Err(errno) => {
                self.setup
                    .notes
                    .push(format!("the after phase could not be started: {}", errno.desc()));
                Ok(Some(Event::AfterEnded))
            }
        }
    }

    /// Whoever closes the job if we are killed must not run the after phase a second time.
    fn mark_after(&mut self, number: u32, after: &After, process: Option<LeaseHolder>) {
        if self.setup.keeper.is_none() {
            return;
        }
        let now = boot_time();
        let phase = Phase {
            after_until: Some(now + after.timeout),
            after: Some(number),
            after_process: process,
            ..Phase::new(
                self.machine.clone(),
                self.began,
                self.setup.root.clone(),
                self.wish.clone(),
            )
        };
        if let Err(error) = self.setup.record.write_phase(&phase) {
            self.setup
                .notes
                .push(format!("where the job stands could not be written down: {error}"));
        }
    }

    pub(super) fn after_plan<'p>(&'p self, after: &After, leaf: &'p Leaf) -> Plan<'p> {
        let (command, more) = after_command(self.command(), after, self.machine.ending());
        Plan {
            programs: command.programs.clone(),
            args: command.args.clone(),
            ..self.plan_of(&command, leaf.dir.fd(), more)
        }
    }
}

/// The command of an after phase, and what it finds in its environment besides that of the job.
pub(crate) fn after_command(of: &Command, after: &After, ending: Option<&Ending>) -> (Command, Vec<CString>) {
    let ending = ending.cloned().unwrap_or(Ending::Lost { why: String::new() });
    let command = Command {
        programs: vec![c"/bin/sh".into()],
        args: vec![
            c"sh".into(),
            c"-c".into(),
            CString::new(after.script.as_bytes()).unwrap_or_default(),
        ],
        ..of.clone()
    };
    (command, result_variables(&ending))
}

/// What an after phase is told of the job's ending.
pub(crate) fn result_variables(ending: &Ending) -> Vec<CString> {
    let signal = match ending {
        Ending::Signalled { signal } => signal.to_string(),
        _ => String::new(),
    };
    let cause = match ending {
        Ending::Cancelled(cause) => cause.word(),
        _ => "",
    };
    let variables = [
        ("JOBCAGE_RESULT", ending.result().to_owned()),
        ("JOBCAGE_EXIT_CODE", ending.exit_code().to_string()),
        ("JOBCAGE_SIGNAL", signal),
        ("JOBCAGE_ENDING", ending.kind().to_owned()),
        ("JOBCAGE_CAUSE", cause.to_owned()),
    ];
    variables
        .map(|(name, value)| cstring(format!("{name}={value}").as_ref()))
        .to_vec()
}

/// Whether the job is of another user and shares a terminal with us, into which it could push keystrokes. Into that of another
/// session nobody but root can (ioctl_tty(2), `TIOCSTI`).
pub(crate) fn keystrokes_matter(command: &Command) -> bool {
    if command.new_session {
        return false;
    }
    let own = nix::unistd::getuid().as_raw();
    let foreign = command.identity.as_ref().is_some_and(|i| i.uid != own);
    foreign && std::fs::File::open("/dev/tty").is_ok()
}
