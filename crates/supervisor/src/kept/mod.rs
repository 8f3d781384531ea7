//! The supervisor of a captured job: it moves the output into the log, owns the clocks and ends the job. What it must not
//! take with it when it dies is the keeper's or on disk, so another one can go on at any instruction ([`take_over`]).

mod asked;
mod begin;
mod clocks;
mod ends;
mod output;
mod phase;
mod recorded;
mod starts;
mod take_over;
mod visits;

pub use begin::{detach, supervise};
pub use phase::{PHASE_VERSION, Phase, standing};
pub use recorded::read_env_file;
pub(crate) use recorded::run as run_recorded;
pub use take_over::check;
pub(crate) use take_over::{TakeOver, take_over};

use crate::closing::Closed;
use crate::error::{Failure, Result};
use crate::hand::Hand;
use crate::job::Job;
use crate::keeper::Keeper;
use crate::leaving::Leaving;
use crate::machine::{Action, Event, State};
use crate::signals::Signals;
use crate::watcher::{self, Lease, Watch, lease};
use jobcage_cage::{Cage, Dir, Emptied};
use jobcage_job::{EnforcedLimit, JobSpec, StepReport};
use jobcage_ledger::{Lock, Record};
use jobcage_sys::clock::boot_time;
use jobcage_sys::{Errno, memory};
use nix::poll::{PollFd, PollFlags};
use nix::sys::time::TimeSpec;
use output::{Moved, Output};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};
use visits::Visits;

/// What a supervisor has of its job, whether it began it or took it over.
struct Whole {
    job: Job,
    spec: JobSpec,
    record: Record,
    lock: Lock,
    /// `None`: removed already.
    cage: Option<Cage>,
    watch: Option<Watch>,
    limits: BTreeMap<String, EnforcedLimit>,
    signals: Signals,
    /// `None`: dead. We go on without it.
    keeper: Option<Keeper>,
    stdin: Option<OwnedFd>,
    /// What the steps hand on to each other.
    hand: Option<Hand>,
    /// Stdout and stderr of a job that is not captured.
    given: Option<[OwnedFd; 2]>,
    phase: Phase,
}

/// A step whose main process was started.
struct Step {
    report: StepReport,
    pid: i32,
    process: Option<OwnedFd>,
    outputs: Vec<Output>,
    /// Its main process has not ended, as far as we know.
    runs: bool,
    /// It has ended, its status was not to be had yet, and whoever is its parent now will reap it.
    reaping: bool,
    /// The main process is our own child.
    ours: Option<jobcage_sys::spawn::Child>,
}

struct Kept {
    whole: Whole,
    leaf: Option<Dir>,
    after_leaf: Option<Dir>,
    main: Option<Step>,
    after: Option<Step>,
    /// Those that were never more than a try.
    steps: Vec<StepReport>,
    cut: Option<Emptied>,
    closed: Option<Closed>,
    leaving: Option<Leaving>,
    lease: Option<OwnedFd>,
    /// Its holder had ended before we looked, and the job has not heard of it.
    lease_is_over: bool,
    /// When its lease ends, as far as we have looked; `None`: it has no such lease.
    silence_until: Option<Duration>,
    /// The after phase of a command in the foreground, whose parent died.
    orphan: Option<OwnedFd>,
    last_output: Option<Instant>,
    /// Since when there has been no output, if there was none since we came.
    silent_since: Instant,
    quiet: bool,
    /// Many processes have been signalled and are dying.
    crowd: bool,
    /// Of a session.
    visits: Visits,
}

impl Kept {
    fn new(whole: Whole) -> Self {
        let (lease, lease_is_over) = match lease(&whole.spec) {
            Lease::Held(process) => (Some(process), false),
            Lease::None => (None, false),
            Lease::Over => (None, true),
        };
        // It is looked at once, and then when it would end.
        let silence_until = whole.spec.silence.map(|_| Duration::ZERO);
        Self {
            whole,
            leaf: None,
            after_leaf: None,
            main: None,
            after: None,
            steps: Vec::new(),
            cut: None,
            closed: None,
            leaving: None,
            lease,
            lease_is_over,
            silence_until,
            orphan: None,
            last_output: None,
            silent_since: Instant::now(),
            quiet: false,
            crowd: false,
            visits: Visits::default(),
        }
    }

    /// Stays until the job is over. A failure is written down for whoever comes next.
    fn run(mut self) -> Result<()> {
        let turned = (|| {
            while !self.is_over() {
                self.turn()?;
            }
            Ok(())
        })();
        match turned {
            Ok(()) => self.finish(),
            Err(failure) => {
                self.give_up(&failure);
                Err(failure)
            }
        }
    }

    fn give_up(&mut self, failure: &Failure) {
        self.whole.phase.failures.push(failure.to_string());
        self.persist();
        pause();
    }

    fn turn(&mut self) -> Result<()> {
        self.wait()?;
        self.look_at_signals()?;
        self.look_at_keeper()?;
        self.look_at_mains()?;
        self.look_at_lease()?;
        self.look_at_orphan()?;
        self.look_at_visits()?;
        self.look_at_clocks()?;
        self.look_at_leaf()?;
        self.look_at_watcher();
        Ok(())
    }

    fn state(&self) -> State {
        self.whole.phase.machine.state()
    }

    fn is_over(&self) -> bool {
        matches!(self.state(), State::Closed | State::Quarantined)
    }

    /// Hands an event to the machine, writes down where that leads, and then does what it says.
    fn event(&mut self, event: Event) -> Result<()> {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            let before = self.state();
            let actions = self.whole.phase.machine.handle(event);
            if self.state() != before {
                self.enter();
                if before == State::Running {
                    self.tell_of_the_end();
                }
            }
            for action in actions {
                events.extend(self.act(action)?);
            }
        }
        Ok(())
    }

    /// Sets the clock of a new state and writes it down.
    fn enter(&mut self) {
        let now = boot_time();
        if self.state() == State::Leaving {
            self.whole.phase.grace_until = Some(now + self.whole.phase.wish.grace);
        }
        self.persist();
    }

    fn act(&mut self, action: Action) -> Result<Option<Event>> {
        match action {
            Action::SignalStep => self.signal_step().map(|()| None),
            // Set when the state was entered.
            Action::ArmGrace | Action::Settle => Ok(None),
            Action::CutStep => self.cut_step().map(Some),
            Action::StartAfter => self.start_after(),
            Action::EmptyCage => self.empty_cage().map(Some),
        }
    }

    /// Writes down where we stand. A disk that does not take it must not end the job: the keeper knows what was started.
    fn persist(&mut self) {
        if let Err(error) = self.whole.record.write_phase(&self.whole.phase) {
            self.note(format!("where the job stands could not be written down: {error}"));
        }
    }

    fn note(&mut self, note: String) {
        if !self.whole.phase.notes.contains(&note) && self.whole.phase.notes.len() < 100 {
            self.whole.phase.notes.push(note);
        }
    }

    fn outputs(&mut self) -> impl Iterator<Item = &mut Output> {
        let steps = self.main.iter_mut().chain(self.after.iter_mut());
        steps.flat_map(|step| &mut step.outputs)
    }

    /// Sleeps until there is something to do, and moves what output there is.
    fn wait(&mut self) -> Result<()> {
        let now = Instant::now();
        let (timeout, lean) = self.sleep(now);
        let mut fds = Vec::with_capacity(8);
        // Of a dying crowd every death may be a signal, and a wake-up for each would slow the dying.
        if !self.crowd {
            fds.push(PollFd::new(self.whole.signals.as_fd(), PollFlags::POLLIN));
        }
        let mut others = Vec::new();
        others.extend(self.whole.watch.as_ref().map(|watch| watch.connection.as_fd()));
        others.extend(self.whole.keeper.as_ref().map(AsFd::as_fd));
        others.extend(self.lease.as_ref().map(AsFd::as_fd));
        others.extend(self.orphan.as_ref().map(AsFd::as_fd));
        fds.extend(others.into_iter().map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        if let Some(leaf) = &self.leaving {
            fds.extend(leaf.fds().map(|leaf| PollFd::new(leaf, PollFlags::POLLPRI)));
        }
        fds.extend(self.visits.fds());
        if self.whole.keeper.is_none() {
            // Nobody tells of their ends; a zombie makes it readable, and the reaping hangs it up.
            let mains = self.main.iter().chain(&self.after).filter(|step| step.runs);
            fds.extend(mains.filter_map(|step| {
                let process = step.process.as_ref()?;
                Some(PollFd::new(process.as_fd(), ends::wanted_of_main(step)))
            }));
        }
        let fixed = fds.len();
        let steps = self.main.iter().chain(self.after.iter());
        let outputs: Vec<&Output> = steps.flat_map(|step| &step.outputs).collect();
        let mut polled = Vec::new();
        for (i, output) in outputs.iter().enumerate() {
            if let Some(pipe) = output.waiting(now) {
                polled.push(i);
                fds.push(PollFd::new(pipe, PollFlags::POLLIN));
            }
        }
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
        drop((fds, outputs));
        let mut last = self.last_output;
        let mut full = None;
        for (i, output) in self.outputs().enumerate() {
            if ready.contains(&i)
                && let Moved::Full(errno) = output.step(&mut last)
            {
                full = Some(errno);
            }
        }
        self.last_output = last;
        full.map_or(Ok(()), |errno| self.log_is_full(errno))
    }

    fn log_is_full(&mut self, errno: Option<i32>) -> Result<()> {
        self.event(Event::LogFull { errno })
    }

    fn look_at_leaf(&mut self) -> Result<()> {
        let Some(leaving) = &self.leaving else {
            return Ok(());
        };
        let populated = leaving.is_populated()?;
        // The main process counts until its status is known.
        if !populated && !self.main.as_ref().is_some_and(|main| main.runs) {
            self.event(Event::LeafEmpty)
        } else {
            Ok(())
        }
    }

    /// A watcher that is gone is replaced: the next crash may be ours.
    fn look_at_watcher(&mut self) {
        let whole = &mut self.whole;
        if let Some(note) = watcher::renew(&mut whole.watch, &whole.job.places, &whole.spec) {
            self.note(note.into());
        }
    }

    fn write_step(&self, step: &StepReport) -> Result<()> {
        Ok(self.whole.record.write_step(step)?)
    }
}

/// Before we fail, with the lock still ours: the next supervisor is started as soon as we are gone, and meets the same trouble.
/// Where that cannot even be counted, as on a full disk, nothing else keeps them from following each other as fast as they can.
fn pause() {
    const MOMENT: Duration = Duration::from_secs(1);
    // There is no event for it: nobody tells when a disk has room again.
    let _ = nix::poll::ppoll(&mut [], Some(TimeSpec::from_duration(MOMENT)), None);
}
