//! `jobcage run` in the foreground: the loop that fetches events and carries out what the [`Machine`] decides.
//!
//! The command shares our session, process group, terminal and files, so that it behaves as without us. We stay out of
//! its way: a signal that the terminal sends reaches both, and only one that somebody sends to us means "stop".

use crate::capture::{Stdio, Stream};
use crate::closing::{self, Closed, Story};
use crate::error::{Failure, Result};
use crate::host::{self, cstring};
use crate::job::{After, Command, Job, Outcome, Target};
use crate::machine::{Action, Event, Machine, State};
use crate::signals::{Meaning, Signals, stop_by};
use crate::watcher::{self, Watch};
use jobcage_cage::{
    Cage, Emptied, EventsFile, Found, Leaf, Patience, apply, empty, enable, oom_kills, signal_all,
};
use jobcage_job::{
    Cause, Clock, Controller, CreatedBy, Ending, EnforcedLimit, ExitStatus, JobId, JobSpec, Limits,
    NeverStarted, Report, Root, SPEC_VERSION, StepKind, StepReport,
};
use jobcage_ledger::{Lock, Record, boot_id};
use jobcage_sys::clock::{WakeAlarm, boot_time};
use jobcage_sys::file::Durability;
use jobcage_sys::spawn::{Child, Plan, Stage, spawn, spawn_moved};
use jobcage_sys::wait::{self, Change, Whom};
use jobcage_sys::{Errno, memory, pidfd};
use nix::libc::SIGCONT;
use nix::poll::{PollFd, PollFlags};
use nix::sys::signal::Signal;
use nix::sys::time::TimeSpec;
use std::collections::BTreeMap;
use std::ffi::CString;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

/// Runs a job and stays until it is over.
///
/// # Errors
/// If jobcage itself fails. How the job ended, and what survived it, is in the outcome.
pub fn run(job: &Job) -> Result<Outcome> {
    let signals = Signals::block()?;
    wait::expect_children().map_err(Failure::system("reset SIGCHLD"))?;
    // Of a shell that started them and then called exec: they, and what they leave, cannot be told from ours later on.
    let strangers = wait::any_child();
    let setup = match &job.target {
        Target::New {
            name,
            limits,
            best_effort,
            after,
        } => new_cage(job, name.as_deref(), limits, *best_effort, after.is_some())?,
        Target::Existing(id) => existing_cage(job, id)?,
    };
    // Only now: a watcher that was just started is our child, and its own orphans are not ours.
    wait::become_subreaper().map_err(Failure::system("become a subreaper"))?;
    Supervision::new(job, signals, setup, strangers)?.run()
}

/// What is there before the command starts.
struct Setup {
    spec: JobSpec,
    record: Record,
    lock: Option<Lock>,
    cage: Cage,
    leaf: Leaf,
    watch: Option<Watch>,
    limits: BTreeMap<String, EnforcedLimit>,
    root: Option<Root>,
    notes: Vec<String>,
}

fn new_cage(job: &Job, name: Option<&str>, limits: &Limits, best_effort: bool, after: bool) -> Result<Setup> {
    let found = host::root(job.cgroup_root.as_deref(), &job.places)?;
    if !limits.is_empty() {
        host::step_aside(&found)?;
    }
    let word = name.map_or_else(|| program_name(&job.command), str::to_owned);
    let boot = boot_id()?;
    let make_spec = || JobSpec {
        version: SPEC_VERSION,
        id: JobId::generate(&word, random()),
        name: name.map(str::to_owned),
        created_by: CreatedBy::Run,
        program: Some(program_name(&job.command)),
        cage: String::new(),
        limited: !limits.is_empty(),
        boot_id: boot.clone(),
        owner: nix::unistd::getuid().as_raw(),
        uid: job
            .command
            .identity
            .as_ref()
            .map_or_else(|| nix::unistd::getuid().as_raw(), |i| i.uid),
        created_ns: closing::now_ns(),
        grace: job.grace,
        limits: limits.clone(),
        lease: None,
        after,
    };
    let (spec, record, lock) = make_record(&job.places.runtime, &found, make_spec, Durability::Kernel)?;
    let mut notes = Vec::new();
    let watch = watcher::register(&job.places, &found.dir, &spec.id)
        .map_err(|failure| {
            notes.push(format!(
                "no watcher: {failure}; if jobcage is killed, run \"jobcage gc\""
            ))
        })
        .ok();
    let root = Some(Root {
        kind: found.kind.name().into(),
        path: found.dir.path().display().to_string(),
        why: found.why.clone(),
    });
    match furnish(found, &spec, best_effort) {
        Ok((cage, leaf, limits)) => Ok(Setup {
            spec,
            record,
            lock: Some(lock),
            cage,
            leaf,
            watch,
            limits,
            root,
            notes,
        }),
        Err(failure) => {
            // Nothing has run in it, so it can go as it is; the failure is what to tell.
            if let Ok(Some(cage)) = Cage::open(spec.cage.as_ref(), spec.limited) {
                let _ = cage.remove();
            }
            let _ = record.remove();
            Err(failure)
        }
    }
}

/// Makes the record of a new job. An id that is taken, or that `gc` swept away in the moment before its spec was whole,
/// is left for another one.
pub(crate) fn make_record(
    base: &std::path::Path,
    found: &Found,
    make_spec: impl Fn() -> JobSpec,
    durability: Durability,
) -> Result<(JobSpec, Record, Lock)> {
    let mut tries = 0;
    loop {
        let mut spec = make_spec();
        spec.cage = found.dir.path().join(spec.id.as_str()).display().to_string();
        match Record::create(base, &spec, durability) {
            Ok((record, lock)) => return Ok((spec, record, lock)),
            Err(error)
                if matches!(error.errno(), Some(Errno::EEXIST | Errno::EAGAIN | Errno::ENOENT))
                    && tries < 3 =>
            {
                tries += 1
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Makes the cage, its limits and its first leaf.
fn furnish(
    found: Found,
    spec: &JobSpec,
    best_effort: bool,
) -> Result<(Cage, Leaf, BTreeMap<String, EnforcedLimit>)> {
    let (mut cage, limits) = make_cage(found, spec, best_effort)?;
    let leaf = cage.leaf(StepKind::Step)?;
    Ok((cage, leaf, limits))
}

/// Makes a cage with its limits.
///
/// # Errors
/// If it cannot be made, or a limit cannot be enforced and has to be.
pub(crate) fn make_cage(
    found: Found,
    spec: &JobSpec,
    best_effort: bool,
) -> Result<(Cage, BTreeMap<String, EnforcedLimit>)> {
    let mut needed: Vec<Controller> = spec
        .limits
        .writes()
        .iter()
        .map(|limit| limit.controller)
        .collect();
    needed.sort();
    needed.dedup();
    let mut missing = None;
    if !needed.is_empty() {
        // One by one: with best effort, those that there are shall hold.
        for controller in &needed {
            match host::enable_below(&found, &[*controller]) {
                Err(failure) if !best_effort => return Err(failure),
                Err(failure) => missing = Some(failure),
                Ok(()) => {}
            }
        }
    }
    let cage = Cage::create(found.dir, &spec.id, spec.limited)?;
    let Some(steps) = cage.limits() else {
        return Ok((cage, BTreeMap::new()));
    };
    for controller in &needed {
        match enable(cage.dir(), &[*controller]) {
            Err(error) if !best_effort => return Err(error.into()),
            Err(error) => missing = missing.or(Some(error.into())),
            Ok(()) => {}
        }
    }
    let mut limits = apply(steps, &spec.limits, best_effort)?;
    if let Some(failure) = missing {
        for limit in limits.values_mut().filter(|limit| limit.error.is_some()) {
            limit.error = Some(failure.to_string());
        }
    }
    Ok((cage, limits))
}

fn existing_cage(job: &Job, id: &JobId) -> Result<Setup> {
    let record = job.places.open(id)?;
    let spec = record.spec()?.filter(|_| !record.is_closing());
    let spec = spec.filter(|_| matches!(record.report(), Ok(None)));
    let gone = || Failure::Refused(format!("the job {id} is over: its cage takes no further step"));
    let spec = spec.ok_or_else(gone)?;
    if spec.created_by != CreatedBy::Create {
        return Err(Failure::Refused(format!(
            "the job {id} was started by \"jobcage run\" and ends with its own command; make a cage for several steps with \
             \"jobcage create\""
        )));
    }
    let mut cage = Cage::open(spec.cage.as_ref(), spec.limited)?.ok_or_else(gone)?;
    let leaf = cage.leaf(StepKind::Step)?;
    Ok(Setup {
        spec,
        record,
        lock: None,
        cage,
        leaf,
        watch: None,
        limits: BTreeMap::new(),
        root: None,
        notes: Vec::new(),
    })
}

/// A started process of the job and what is known of it.
struct Running {
    child: Child,
    step: StepReport,
}

struct Supervision<'a> {
    job: &'a Job,
    signals: Signals,
    setup: Setup,
    /// Whether we had children before the job: not every descendant is the job's then.
    strangers: bool,
    machine: Machine,
    main: Option<Running>,
    after: Option<Running>,
    steps: Vec<StepReport>,
    cut: Option<Emptied>,
    /// The step's leaf, while its emptiness is waited for.
    leaving: Option<EventsFile>,
    closed: Option<Closed>,
    streams: Vec<Stream>,
    stdio: Stdio,
    last_output: Instant,
    began: Duration,
    grace_until: Option<Instant>,
    after_until: Option<Instant>,
    /// Wakes us at the deadline should a person have stopped us.
    _alarm: Option<WakeAlarm>,
    terminal_signal: Option<Signal>,
    oom_before: u64,
    /// Nothing has happened for a moment.
    quiet: bool,
}

impl<'a> Supervision<'a> {
    fn new(job: &'a Job, signals: Signals, setup: Setup, strangers: bool) -> Result<Self> {
        let has_after = matches!(&job.target, Target::New { after: Some(_), .. });
        let owner = job.command.identity.as_ref().map(|i| i.uid);
        let streams = match job.idle_timeout {
            Some(_) => vec![Stream::new(false, owner)?, Stream::new(true, owner)?],
            None => Vec::new(),
        };
        let alarm = job
            .timeout
            .map(WakeAlarm::new)
            .transpose()
            .map_err(Failure::system("set a timer"))?;
        Ok(Self {
            oom_before: oom_kills(setup.cage.dir())
                .filter(|_| setup.spec.limited)
                .unwrap_or(0),
            job,
            signals,
            setup,
            strangers,
            machine: Machine::new(has_after),
            main: None,
            after: None,
            steps: Vec::new(),
            cut: None,
            leaving: None,
            closed: None,
            streams,
            stdio: Stdio::new(),
            last_output: Instant::now(),
            began: boot_time(),
            grace_until: None,
            after_until: None,
            _alarm: alarm,
            terminal_signal: None,
            quiet: false,
        })
    }

    fn run(mut self) -> Result<Outcome> {
        self.start_main()?;
        while !self.is_over() {
            self.wait()?;
            self.look_at_signals()?;
            self.look_at_clocks()?;
            self.look_at_leaf()?;
            self.look_at_watcher();
        }
        self.finish()
    }

    fn is_over(&self) -> bool {
        matches!(self.machine.state(), State::Closed | State::Quarantined)
    }

    /// Hands an event to the machine and does what it says, until there is nothing more to do.
    fn event(&mut self, event: Event) -> Result<()> {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            for action in self.machine.handle(event) {
                events.extend(self.act(action)?);
            }
        }
        Ok(())
    }

    fn act(&mut self, action: Action) -> Result<Option<Event>> {
        match action {
            Action::SignalStep => self.signal_step().map(|()| None),
            Action::ArmGrace => {
                self.grace_until = Some(Instant::now() + self.job.grace);
                Ok(None)
            }
            Action::CutStep => self.cut_step().map(Some),
            Action::StartAfter => self.start_after(),
            Action::EmptyCage => self.empty_cage().map(Some),
            Action::Settle => Ok(None),
        }
    }

    fn start_main(&mut self) -> Result<()> {
        // Written down first: a step that runs unknown would make the whole job look like one that did nothing.
        let step = self.begin_step(StepKind::Step);
        let child = self.spawn(self.command_plan(), false)?;
        match child {
            Ok(child) => self.main = Some(Running { child, step }),
            Err(errno) => {
                self.steps.push(step);
                let program = program_name(&self.job.command);
                let why = NeverStarted {
                    stage: "clone".into(),
                    errno: errno as i32,
                    what: program,
                };
                self.event(Event::StartFailed(why))?;
            }
        }
        self.close_job_ends();
        Ok(())
    }

    fn command_plan(&self) -> Plan<'_> {
        let command = &self.job.command;
        let end = |i: usize| {
            self.streams
                .get(i)
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
    fn plan_of<'p>(
        &self,
        command: &Command,
        leaf: std::os::fd::BorrowedFd<'p>,
        more: Vec<CString>,
    ) -> Plan<'p> {
        let mut env = command.env.clone();
        env.push(cstring(format!("JOBCAGE_JOB={}", self.setup.spec.id).as_ref()));
        env.extend(more);
        let foreign = command
            .identity
            .as_ref()
            .is_some_and(|i| i.uid != nix::unistd::getuid().as_raw());
        Plan {
            env,
            cgroup: Some(leaf),
            identity: command.identity.clone(),
            dir: command.dir.clone(),
            rlimits: command.rlimits.clone(),
            nice: command.nice,
            // Where there is a terminal that the job would share with another user.
            no_keystrokes: foreign && std::fs::File::open("/dev/tty").is_ok(),
            signal_mask: Some(self.signals.original),
            ..Plan::default()
        }
    }

    /// Starts a process; the inner error is the kernel's refusal to make one at all.
    fn spawn(&self, plan: Plan<'_>, moved: bool) -> Result<std::result::Result<Child, Errno>> {
        match if moved { spawn_moved(&plan) } else { spawn(&plan) } {
            Ok(child) => Ok(Ok(child)),
            Err(errno @ (Errno::EACCES | Errno::EPERM | Errno::EBUSY | Errno::ENOENT)) => Err(
                Failure::system("start the command in its cgroup (run \"jobcage doctor\")")(errno),
            ),
            Err(errno) => Ok(Err(errno)),
        }
    }

    fn begin_step(&self, kind: StepKind) -> StepReport {
        let name = if kind == StepKind::After { "after" } else { "main" };
        let number = if kind == StepKind::After {
            self.setup.leaf.number + 1
        } else {
            self.setup.leaf.number
        };
        let step = StepReport {
            number,
            name: name.into(),
            kind,
            ending: Ending::Lost {
                why: "nobody saw its end".into(),
            },
            status: None,
            started: closing::now(),
            ended: None,
        };
        if self.is_step_of_another() {
            // That it cannot be written down is no reason not to run it; its end is written as well.
            let _ = self.setup.record.write_step(&step);
        }
        step
    }

    fn is_step_of_another(&self) -> bool {
        matches!(self.job.target, Target::Existing(_))
    }

    fn close_job_ends(&mut self) {
        for stream in &mut self.streams {
            stream.job_end = None;
        }
    }

    /// Sleeps until there is something to do.
    fn wait(&mut self) -> Result<()> {
        let (timeout, lean) = self.sleep();
        let mut fds = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        if let Some(watch) = &self.setup.watch {
            fds.push(PollFd::new(watch.connection.as_fd(), PollFlags::POLLIN));
        }
        if let Some(leaf) = &self.leaving {
            fds.push(PollFd::new(leaf.as_fd(), PollFlags::POLLPRI));
        }
        let fixed = fds.len();
        let polled: Vec<usize> = (0..self.streams.len())
            .filter(|i| self.streams[*i].poll_fd(&self.stdio).is_some())
            .collect();
        fds.extend(
            polled
                .iter()
                .filter_map(|i| self.streams[*i].poll_fd(&self.stdio)),
        );
        self.quiet = if lean {
            !memory::sleep_without_code(&mut fds, timeout)
        } else {
            match nix::poll::ppoll(&mut fds, timeout.map(TimeSpec::from_duration), None) {
                Ok(ready) => ready == 0,
                Err(Errno::EINTR) => false,
                Err(errno) => return Err(Failure::system("wait")(errno)),
            }
        };
        let ready: Vec<usize> = polled
            .into_iter()
            .zip(&fds[fixed..])
            .filter(|(_, fd)| fd.revents().is_some_and(|events| !events.is_empty()))
            .map(|(i, _)| i)
            .collect();
        drop(fds);
        for i in ready {
            self.streams[i].step(&self.stdio, &mut self.last_output);
        }
        Ok(())
    }

    /// How long to sleep at most: to the next deadline, or, with `None`, until something happens; and whether to give our
    /// own code back meanwhile.
    fn sleep(&self) -> (Option<Duration>, bool) {
        // The kernel tells of an empty cgroup up to 15 ms late (see EventsFile): look again, on a doubling timer.
        let leaf = self.leaving.is_some().then(|| {
            let waited = self.grace_until.map_or(Duration::ZERO, |until| {
                self.job
                    .grace
                    .saturating_sub(until.saturating_duration_since(Instant::now()))
            });
            (waited / 2).clamp(Duration::from_micros(100), Duration::from_millis(20))
        });
        let deadline = |at: Option<Instant>| at.map(|at| at.saturating_duration_since(Instant::now()));
        let running = self.machine.state() == State::Running;
        let wall = self
            .job
            .timeout
            .filter(|_| running)
            .map(|t| (self.began + t).saturating_sub(boot_time()));
        let idle = self
            .job
            .idle_timeout
            .filter(|_| running)
            .map(|t| t.saturating_sub(self.last_output.elapsed()));
        let next = [
            leaf,
            deadline(self.grace_until),
            deadline(self.after_until),
            wall,
            idle,
        ]
        .into_iter()
        .flatten()
        .min();
        // A job that is still there after a quiet moment may be there for hours: it need not keep the pages that started it.
        // Not at once, since a short job would pay for reading them again.
        const MOMENT: Duration = Duration::from_millis(100);
        match next {
            _ if !running || !self.streams.is_empty() => (next, false),
            Some(next) if next <= MOMENT => (Some(next), false),
            next if self.quiet => (next, true),
            _ => (Some(MOMENT), false),
        }
    }

    fn look_at_signals(&mut self) -> Result<()> {
        // One wake-up may bring several; after the last of them nothing is asked any more.
        while !self.is_over()
            && let Some(meaning) = self.signals.next()
        {
            match meaning {
                Meaning::Child => self.look_at_children()?,
                Meaning::Stop(cause) => self.stop(cause)?,
                Meaning::StopNow(cause) => {
                    self.stop(cause.clone())?;
                    if self.machine.state() == State::Leaving {
                        self.stop(cause)?;
                    }
                }
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

    /// Reaps what has ended: orphans of the job become our children, and their zombies with them.
    fn look_at_children(&mut self) -> Result<()> {
        while !self.is_over()
            && let Ok(Some((pid, change))) = wait::poll(Whom::Any, true)
        {
            let is = |running: &Option<Running>| running.as_ref().is_some_and(|r| r.child.pid == pid);
            match change {
                Change::Stopped(signal) if is(&self.main) => self.stop_with_main(pid, signal),
                Change::Stopped(_) => {}
                Change::Exited(_) | Change::Killed(_) if is(&self.main) => self.main_ended(change)?,
                Change::Exited(_) | Change::Killed(_) if is(&self.after) => self.after_ended(change)?,
                Change::Exited(_) | Change::Killed(_) => {
                    if self
                        .setup
                        .watch
                        .as_ref()
                        .and_then(|w| w.started.as_ref())
                        .is_some_and(|w| w.pid == pid)
                    {
                        self.setup.watch.as_mut().expect("just seen").started = None;
                    }
                }
            }
        }
        Ok(())
    }

    /// The command has stopped at a terminal: our caller, a shell with job control, waits for us, so we stop as well, by
    /// the same signal; when it wakes us, we wake the command. Not while the job is ending: its clocks have to run.
    fn stop_with_main(&self, pid: i32, signal: i32) {
        use std::io::IsTerminal;
        let at_terminal = std::io::stdin().is_terminal() || std::io::stderr().is_terminal();
        if at_terminal && self.machine.state() == State::Running {
            stop_by(Signal::try_from(signal).unwrap_or(Signal::SIGSTOP));
            let _ = pidfd::signal_pid(pid, SIGCONT);
        }
    }

    fn main_ended(&mut self, change: Change) -> Result<()> {
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

    fn never_started(&mut self, step: StepReport, stage: &str, errno: Errno) -> Result<()> {
        self.steps.push(StepReport {
            ended: Some(closing::now()),
            ..step
        });
        let command = &self.job.command;
        let what = match stage {
            "chdir" => command
                .dir
                .as_ref()
                .map(|d| d.to_string_lossy().into_owned())
                .unwrap_or_default(),
            _ => program_name(command),
        };
        self.event(Event::StartFailed(NeverStarted {
            stage: stage.into(),
            errno: errno as i32,
            what,
        }))
    }

    fn oom_killed(&self) -> bool {
        self.setup.spec.limited
            && oom_kills(self.setup.cage.dir()).is_some_and(|kills| kills > self.oom_before)
    }

    fn look_at_clocks(&mut self) -> Result<()> {
        let now = Instant::now();
        if self.machine.state() == State::Running {
            if self.job.timeout.is_some_and(|t| self.began + t <= boot_time()) {
                self.event(Event::ClockRan(Clock::Wall))?;
            } else if self
                .job
                .idle_timeout
                .is_some_and(|t| self.last_output.elapsed() >= t)
            {
                self.event(Event::ClockRan(Clock::Idle))?;
            }
        }
        if self.grace_until.is_some_and(|until| until <= now) {
            self.grace_until = None;
            self.event(Event::GraceOver)?;
        }
        if self.after_until.is_some_and(|until| until <= now) {
            self.after_until = None;
            self.end_after(None)?;
        }
        Ok(())
    }

    fn look_at_leaf(&mut self) -> Result<()> {
        let Some(leaf) = &self.leaving else { return Ok(()) };
        let populated = leaf
            .read()
            .map_err(Failure::system("read cgroup.events"))?
            .is_some_and(|now| now.populated);
        // The main process counts until it is reaped, or its status would be lost.
        if !populated && self.main.is_none() {
            self.event(Event::LeafEmpty)
        } else {
            Ok(())
        }
    }

    /// A watcher that is gone is replaced: the next crash may be ours.
    fn look_at_watcher(&mut self) {
        let Some(watch) = &self.setup.watch else { return };
        let mut fds = [PollFd::new(watch.connection.as_fd(), PollFlags::POLLIN)];
        if nix::poll::poll(&mut fds, nix::poll::PollTimeout::ZERO).unwrap_or(0) == 0 {
            return;
        }
        let cage = std::path::Path::new(&self.setup.spec.cage);
        let root = cage.parent().and_then(|root| jobcage_cage::Dir::open(root).ok());
        self.setup.watch =
            root.and_then(|root| watcher::register(&self.job.places, &root, &self.setup.spec.id).ok());
        let note = match &self.setup.watch {
            Some(_) => "the watcher died and was replaced",
            None => "the watcher died and could not be replaced; if jobcage is killed, run \"jobcage gc\"",
        };
        // Twice for one death: a dying watcher's socket may still take a connection.
        if !self.setup.notes.iter().any(|known| known == note) {
            self.setup.notes.push(note.into());
        }
    }

    fn signal_step(&mut self) -> Result<()> {
        let leaf = &self.setup.leaf.dir;
        self.leaving = EventsFile::open(leaf).map_err(Failure::system("open cgroup.events"))?;
        if self.job.grace.is_zero() {
            return Ok(());
        }
        match signal_all(leaf, &[self.job.signal, SIGCONT]) {
            Ok(_) => {}
            Err(errno) => self
                .setup
                .notes
                .push(format!("not all could be signalled: {}", errno.desc())),
        }
        Ok(())
    }

    fn cut_step(&mut self) -> Result<Event> {
        self.leaving = None;
        self.grace_until = None;
        let emptied = empty(&self.setup.leaf.dir, &Patience::default())?;
        let proven = emptied.proven();
        self.cut = Some(emptied);
        self.look_at_children()?;
        Ok(Event::Cut { proven })
    }

    fn start_after(&mut self) -> Result<Option<Event>> {
        let Target::New {
            after: Some(after), ..
        } = &self.job.target
        else {
            return Ok(Some(Event::AfterEnded));
        };
        let leaf = self.setup.cage.leaf(StepKind::After)?;
        let plan = self.after_plan(after, &leaf);
        let step = self.begin_step(StepKind::After);
        match self.spawn(plan, false)? {
            Ok(child) => {
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

    fn after_plan<'p>(&self, after: &After, leaf: &'p Leaf) -> Plan<'p> {
        let ending = self
            .machine
            .ending()
            .cloned()
            .unwrap_or(Ending::Lost { why: String::new() });
        let signal = match &ending {
            Ending::Signalled { signal } => signal.to_string(),
            _ => String::new(),
        };
        let more = [
            ("JOBCAGE_RESULT", ending.result().to_owned()),
            ("JOBCAGE_EXIT_CODE", ending.exit_code().to_string()),
            ("JOBCAGE_SIGNAL", signal),
            ("JOBCAGE_ENDING", ending.kind().to_owned()),
        ];
        let more = more
            .map(|(name, value)| cstring(format!("{name}={value}").as_ref()))
            .to_vec();
        let mut plan = self.plan_of(&self.job.command, leaf.dir.fd(), more);
        plan.programs = vec![c"/bin/sh".into()];
        plan.args = vec![
            c"sh".into(),
            c"-c".into(),
            CString::new(after.script.as_bytes()).unwrap_or_default(),
        ];
        plan
    }

    fn after_ended(&mut self, change: Change) -> Result<()> {
        let Some(running) = self.after.take() else {
            return Ok(());
        };
        let status = exit_status(change);
        if running.child.died_at_birth()
            && let Target::New {
                after: Some(after), ..
            } = &self.job.target
        {
            let leaf = self.setup.cage.leaf(StepKind::After)?;
            if let Ok(child) = self.spawn(self.after_plan(after, &leaf), true)? {
                self.after = Some(Running {
                    child,
                    step: running.step,
                });
                return Ok(());
            }
        }
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

    /// Ends the wait for the after phase; its processes die with the cage. `None`: its time is over.
    fn end_after(&mut self, why: Option<&str>) -> Result<()> {
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
    fn empty_cage(&mut self) -> Result<Event> {
        let mut closed = if self.is_step_of_another() {
            let proof = jobcage_job::Proof {
                populated: Some(false),
                ..Default::default()
            };
            Closed {
                emptied: Emptied {
                    proof,
                    ..Emptied::default()
                },
                ..Closed::default()
            }
        } else {
            let detail = self.job.detail || !matches!(self.machine.ending(), Some(Ending::Exited { .. }));
            closing::end_cage(Some(&self.setup.cage), &Patience::default(), detail)?
        };
        // Before the look outside: a zombie of ours is no descendant that lives.
        self.reap_the_killed()?;
        if !self.is_step_of_another() {
            let own: Vec<i32> = self
                .setup
                .watch
                .iter()
                .filter_map(|w| w.started.as_ref())
                .map(|child| child.pid)
                .collect();
            closing::look_outside(&self.setup.spec, (!self.strangers).then_some(&own), &mut closed);
        }
        if let Some(cut) = self.cut.take() {
            self.merge_cut(&mut closed, cut);
        }
        let proven = closed.quarantine.is_none() && closed.emptied.proven();
        self.closed = Some(closed);
        Ok(Event::Emptied { proven })
    }

    /// The cut of the step comes before the emptying of the cage: its census is the one that tells what was left.
    fn merge_cut(&self, closed: &mut Closed, cut: Emptied) {
        use jobcage_job::{Kill, Proof};
        if self.is_step_of_another() && !cut.proven() {
            closed.quarantine = Some(closing::quarantine(&self.setup.leaf.dir, &cut));
        }
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

    /// Those that the kill has ended. One that is stuck in the kernel is not waited for.
    fn reap_the_killed(&mut self) -> Result<()> {
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

    fn finish(mut self) -> Result<Outcome> {
        self.pass_on_the_rest();
        let ending = self.machine.ending().cloned().unwrap_or(Ending::Lost {
            why: "no ending was seen".into(),
        });
        for step in self.steps.iter_mut().filter(|step| step.kind == StepKind::Step) {
            step.ending = ending.clone();
        }
        let mut notes = std::mem::take(&mut self.setup.notes);
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
            self.closed.take().unwrap_or_default(),
        );
        let interrupted = self.terminal_signal.is_some()
            && matches!(self.machine.status(), Some(ExitStatus::Signal(n)) if Some(n) == self.terminal_signal.map(|s| s as i32));
        self.put_away(&report)?;
        Ok(Outcome { report, interrupted })
    }

    /// A job that ended cleanly leaves no record; any other keeps its report there.
    fn put_away(self, report: &Report) -> Result<()> {
        let Setup { record, lock, .. } = self.setup;
        if matches!(self.job.target, Target::Existing(_)) {
            for step in &report.steps {
                match record.write_step(step) {
                    // A cleanup at this very moment sweeps the record and tells of the step itself.
                    Err(_) if record.is_closing() => {}
                    written => written?,
                }
            }
        } else if report.clean {
            record.remove_plain()?;
        } else {
            record.close(report)?;
        }
        drop(lock);
        Ok(())
    }

    /// Captured output that is still in the pipe. Everything that could write is dead, or its pipe has been left to it.
    fn pass_on_the_rest(&mut self) {
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
            if !ready && matches!(self.signals.next(), Some(Meaning::Stop(_) | Meaning::Terminal(_))) {
                self.setup
                    .notes
                    .push("captured output was dropped, since its destination took none".into());
                return;
            }
            self.streams[i].step(&self.stdio, &mut self.last_output);
        }
    }
}

fn exit_status(change: Change) -> ExitStatus {
    match change {
        Change::Exited(code) => ExitStatus::Code(code),
        Change::Killed(signal) | Change::Stopped(signal) => ExitStatus::Signal(signal),
    }
}

/// The program's name without its directory; not its arguments, which may hold secrets.
fn program_name(command: &Command) -> String {
    let name = command
        .args
        .first()
        .map(|arg| arg.to_string_lossy().into_owned())
        .unwrap_or_default();
    name.rsplit('/').next().unwrap_or_default().to_owned()
}

/// Random bits for an id: the hasher's keys come from getrandom(2).
pub(crate) fn random() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::hash::RandomState::new().build_hasher().finish()
}
