//! `jobcage run` in the foreground: the loop that fetches events and carries out what the [`Machine`] decides.
//!
//! The command shares our session, process group, terminal and files, so that it behaves as without us. We stay out of
//! its way: a signal that the terminal sends reaches both, and only one that somebody sends to us means "stop".

mod asked;
mod begin;
mod beside;
mod end;
mod setup;
mod start;

pub use begin::{Begun, begin, run};
pub(crate) use end::merge_cut;
pub use setup::random;
pub(crate) use setup::{make_cage, make_place, make_record, new_spec, take_back, uid_of};
pub(crate) use start::{after_command, keystrokes_matter, result_variables};

use crate::capture::{Stdio, Stream};
use crate::closing::Closed;
use crate::error::{Failure, Result};
use crate::job::{Job, Outcome, Target};
use crate::leaving::Leaving;
use crate::machine::{Action, Event, Machine, State};
use crate::session::Guest;
use crate::signals::{Signals, stop_by};
use crate::watcher::{self, Lease};
use crate::wish::Wish;
use jobcage_cage::{Emptied, oom_kills};
use jobcage_job::{Clock, StepReport, Streams};
use jobcage_sys::clock::{WakeAlarm, boot_time};
use jobcage_sys::spawn::Child;
use jobcage_sys::wait::{self, Change, Stop, Whom};
use jobcage_sys::{Errno, memory, pidfd};
use nix::libc::SIGCONT;
use nix::poll::{PollFd, PollFlags};
use nix::sys::signal::Signal;
use nix::sys::time::TimeSpec;
use setup::Setup;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

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
    /// The step's leaf and those beside it, while their emptiness is waited for.
    leaving: Option<Leaving>,
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
    /// The first signal and the grace: the job's own, until somebody asks for others.
    wish: Wish,
    /// The fence that the job's processes enter.
    guard: Option<OwnedFd>,
    /// The process whose end is the job's.
    lease: Lease,
    oom_before: u64,
    /// Nothing has happened for a moment.
    quiet: bool,
    /// Many processes have been signalled and are dying.
    crowd: bool,
}

impl<'a> Supervision<'a> {
    fn new(
        job: &'a Job,
        signals: Signals,
        setup: Setup,
        strangers: bool,
        guard: Option<OwnedFd>,
    ) -> Result<Self> {
        let has_after = matches!(&job.target, Target::New { after: Some(_), .. });
        let owner = job.command.identity.as_ref().map(|i| i.uid);
        let copied = job.copied.or(job.idle_timeout.map(|_| Streams::Split));
        let streams = match copied {
            Some(Streams::Split) => vec![Stream::new(false, owner)?, Stream::new(true, owner)?],
            // One pipe for both keeps their order.
            Some(Streams::Merged) => vec![Stream::new(false, owner)?],
            None => Vec::new(),
        };
        let alarm = job
            .timeout
            .map(WakeAlarm::new)
            .transpose()
            .map_err(Failure::system("set a timer"))?;
        Ok(Self {
            oom_before: (setup.spec.limited.then(|| oom_kills(setup.cage.dir())).flatten()).unwrap_or(0),
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
            wish: Wish::new(job.signal, job.grace),
            guard,
            lease: job.lease.map_or(Lease::None, watcher::process),
            quiet: false,
            crowd: false,
        })
    }

    fn run(mut self) -> Result<Outcome> {
        while !self.is_over() {
            self.look_at_lease()?;
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
                self.grace_until = Some(Instant::now() + self.wish.grace);
                Ok(None)
            }
            Action::CutStep => self.cut_step().map(Some),
            Action::StartAfter => self.start_after(),
            Action::EmptyCage => self.empty_cage().map(Some),
            Action::Settle => Ok(None),
        }
    }

    /// Sleeps until there is something to do.
    fn wait(&mut self) -> Result<()> {
        let (timeout, lean) = self.sleep();
        let mut fds = Vec::with_capacity(5);
        // Of a dying crowd every death is a signal, and a wake-up for each would slow the dying. The timer of `sleep` is short
        // then, and signals are looked at after every sleep.
        if !self.crowd {
            fds.push(PollFd::new(self.signals.as_fd(), PollFlags::POLLIN));
        }
        if let Some(watch) = &self.setup.watch {
            fds.push(PollFd::new(watch.connection.as_fd(), PollFlags::POLLIN));
        }
        let guest = self.setup.guest.as_ref().and_then(Guest::fd);
        fds.extend(guest.map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        if let Lease::Held(holder) = &self.lease {
            fds.push(PollFd::new(holder.as_fd(), PollFlags::POLLIN));
        }
        if let Some(leaf) = &self.leaving {
            fds.extend(leaf.fds().map(|leaf| PollFd::new(leaf, PollFlags::POLLPRI)));
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
                self.wish
                    .grace
                    .saturating_sub(until.saturating_duration_since(Instant::now()))
            });
            let part = if self.crowd { 16 } else { 2 };
            (waited / part).clamp(Duration::from_micros(100), Duration::from_millis(20))
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
    fn stop_with_main(&self, pid: i32, mut signal: i32) {
        use std::io::IsTerminal;
        let at_terminal = std::io::stdin().is_terminal() || std::io::stderr().is_terminal();
        while at_terminal && self.machine.state() == State::Running {
            stop_by(Signal::try_from(signal).unwrap_or(Signal::SIGSTOP));
            match wait::poll_stop(pid) {
                // A shell wakes the whole process group, so the command may have gone on before us, and been stopped once more: to wake it
                // now would undo that.
                Ok(Some(Stop::Stopped(again))) => signal = again,
                Ok(None) => {
                    let _ = pidfd::signal_pid(pid, SIGCONT);
                    return;
                }
                Ok(Some(Stop::Continued)) | Err(_) => return,
            }
        }
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
        let Some(leaving) = &self.leaving else {
            return Ok(());
        };
        let populated = leaving.is_populated()?;
        // The main process counts until it is reaped, or its status would be lost.
        if !populated && self.main.is_none() {
            self.event(Event::LeafEmpty)
        } else {
            Ok(())
        }
    }

    fn look_at_watcher(&mut self) {
        let setup = &mut self.setup;
        if let Some(guest) = &mut setup.guest {
            guest.renew(&setup.record);
        }
        let Some(note) = watcher::renew(&mut setup.watch, &self.job.places, &setup.spec) else {
            return;
        };
        // Twice for one death: a dying watcher's socket may still take a connection.
        if !self.setup.notes.iter().any(|known| known == note) {
            self.setup.notes.push(note.into());
        }
    }
}
