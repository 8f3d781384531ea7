//! The supervisor's side of a session: the clients that run steps in it, and the steps of clients that have died.

use super::{Kept, Whole};
use crate::error::{Failure, Result};
use crate::journal;
use crate::keeper::{hear, say};
use crate::leaving::{self, Leaving};
use crate::machine::State;
use crate::quiet::is_readable;
use crate::session::{Answer, Ask, SOCKET};
use crate::sockets::short_address;
use crate::step::begun;
use jobcage_cage::{Cage, Dir, Patience, empty, usage};
use jobcage_job::{CreatedBy, StepKind};
use jobcage_sys::clock::boot_time;
use jobcage_sys::{Errno, socket};
use nix::poll::{PollFd, PollFlags};
use nix::sys::socket::{Backlog, bind};
use nix::sys::time::TimeSpec;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

/// What a session has besides what every captured job has.
#[derive(Debug, Default)]
pub(super) struct Visits {
    listener: Option<OwnedFd>,
    guests: Vec<Guest>,
    forlorn: Vec<Forlorn>,
    /// The script of the after phase; the keeper holds it as well.
    pub(super) script: Option<OwnedFd>,
}

/// A client.
#[derive(Debug)]
struct Guest {
    connection: OwnedFd,
    /// The step that it runs.
    step: Option<Step>,
}

#[derive(Debug, Clone)]
struct Step {
    number: u32,
    name: String,
    signal: i32,
    grace: Duration,
    /// Its client knows [`Answer::Welcome`], and what comes with it.
    hears: bool,
}

/// A step whose client has died.
#[derive(Debug)]
struct Forlorn {
    number: u32,
    leaf: Dir,
    leaving: Leaving,
    since: Duration,
    until: Duration,
}

/// The name under which the keeper holds the script.
pub(super) const SCRIPT: &str = "after";

impl Visits {
    /// What to wait for.
    pub(super) fn fds(&self) -> impl Iterator<Item = PollFd<'_>> {
        let guests = self.guests.iter().map(|guest| guest.connection.as_fd());
        let talk = self.listener.iter().map(AsFd::as_fd).chain(guests);
        let leaves = self.forlorn.iter().flat_map(|step| step.leaving.fds());
        talk.map(|fd| PollFd::new(fd, PollFlags::POLLIN))
            .chain(leaves.map(|fd| PollFd::new(fd, PollFlags::POLLPRI)))
    }

    /// When to look again at steps that are leaving: the kernel tells of an empty cgroup up to 15 ms late.
    pub(super) fn look_again(&self, now: Duration) -> Option<Duration> {
        let due = self.forlorn.iter().map(|step| {
            let waited = now.saturating_sub(step.since) / 2;
            let soon = waited.clamp(Duration::from_micros(100), Duration::from_millis(20));
            soon.min(step.until.saturating_sub(now))
        });
        due.min()
    }
}

impl Kept {
    /// Whether its steps are others'.
    pub(super) fn is_session(&self) -> bool {
        self.whole.spec.created_by == CreatedBy::Session
    }

    /// Lets clients in.
    pub(super) fn open_door(&mut self) -> Result<()> {
        let listener = listen_in(self.whole.record.path());
        self.visits.listener = Some(listener.map_err(Failure::system("make the session's socket"))?);
        Ok(())
    }

    /// Who came, what they say, and who is gone.
    pub(super) fn look_at_visits(&mut self) -> Result<()> {
        while let Some(listener) = self.visits.listener.as_ref().filter(|l| is_readable(l.as_fd())) {
            let Ok(connection) = socket::accept(listener.as_fd()) else {
                break;
            };
            let own = nix::unistd::geteuid().as_raw();
            // The record's directory lets nobody else in; asked again, since root can change modes.
            if socket::peer_uid(connection.as_fd()).is_ok_and(|uid| uid == own || uid == 0) {
                self.visits.guests.push(Guest {
                    connection,
                    step: None,
                });
            }
        }
        for at in (0..self.visits.guests.len()).rev() {
            while at < self.visits.guests.len() && is_readable(self.visits.guests[at].connection.as_fd()) {
                self.listen_to(at)?;
            }
        }
        self.look_at_forlorn()
    }

    fn listen_to(&mut self, at: usize) -> Result<()> {
        let connection = self.visits.guests[at].connection.as_fd();
        // Whoever says what we do not know is of no use, and hears that by our silence.
        let Ok(Some((ask, fds))) = hear::<Ask>(connection) else {
            let guest = self.visits.guests.remove(at);
            return guest.step.map_or(Ok(()), |step| self.step_is_forlorn(&step));
        };
        let running = self.state() == State::Running;
        let answer = match ask {
            Ask::End => {
                // It has nothing more to say, and its going is not to wake us once more.
                self.visits.guests.remove(at);
                return Ok(());
            }
            Ask::Ended { note } => {
                self.visits.guests.remove(at);
                if let Some(note) = note {
                    journal::note(&self.whole.spec, &note);
                }
                return Ok(());
            }
            Ask::Begin {
                step,
                name,
                signal,
                grace,
                hears,
            } if running => {
                self.visits.guests[at].step = Some(Step {
                    number: step,
                    name,
                    signal,
                    grace,
                    hears,
                });
                if hears { Answer::Welcome } else { Answer::Done }
            }
            Ask::GiveAfter { timeout } if running => self.give_after(fds, timeout),
            Ask::TakeAfter { pid } => self.take_after(pid),
            Ask::Begin { .. } | Ask::GiveAfter { .. } => Answer::Over,
        };
        // A client that is gone is met again, as one that is gone.
        let _ = say(self.visits.guests[at].connection.as_fd(), &answer, &[]);
        Ok(())
    }

    /// From here on there is an after phase, whoever of us dies. A second script changes nothing: the steps of one job give
    /// the same.
    fn give_after(&mut self, fds: Vec<OwnedFd>, timeout: Duration) -> Answer {
        let Some(script) = fds.into_iter().next() else {
            return Answer::Nothing;
        };
        let phase = &mut self.whole.phase;
        if phase.machine.has_after() || phase.after_taken_by.is_some() {
            return Answer::Done;
        }
        if let Some(keeper) = &mut self.whole.keeper
            && keeper.hold(&[(SCRIPT, script.as_fd())]).is_err()
        {
            self.lose_keeper();
        }
        self.visits.script = Some(script);
        self.whole.phase.after_timeout = Some(timeout);
        self.whole.phase.machine.set_after(true);
        self.persist();
        Answer::Done
    }

    /// Written down before the answer: from then on it is the asker's, and nobody else starts it.
    fn take_after(&mut self, pid: i32) -> Answer {
        let phase = &mut self.whole.phase;
        if phase.after_taken_by == Some(pid) {
            return Answer::Done;
        }
        // Its time comes with it, and stays.
        if phase.after_timeout.is_none() {
            return Answer::Never;
        }
        if !phase.machine.has_after() || !phase.machine.set_after(false) {
            return Answer::Nothing;
        }
        phase.after_taken_by = Some(pid);
        self.persist();
        Answer::Done
    }

    /// Tells whoever runs a step that the session is ending, before anything is done to the step.
    pub(super) fn tell_of_the_end(&self) {
        let hears = |guest: &&Guest| guest.step.as_ref().is_some_and(|step| step.hears);
        for guest in self.visits.guests.iter().filter(hears) {
            // One that is gone is met again, as one that is gone.
            let _ = say(guest.connection.as_fd(), &Answer::Over, &[]);
        }
    }

    /// Its client is dead, and nobody else knows that it has to end.
    fn step_is_forlorn(&mut self, step: &Step) -> Result<()> {
        self.write_down(step);
        let leaf = match &self.whole.cage {
            Some(cage) if self.state() == State::Running => cage.find_leaf(step.number)?,
            _ => None,
        };
        let Some(leaf) = leaf else { return Ok(()) };
        let leaving = Leaving::of([&leaf])?;
        if !leaving.is_populated()? {
            return Ok(());
        }
        self.note(format!(
            "the client of step {} died: the step was ended",
            step.number
        ));
        let Whole {
            cage,
            job,
            spec,
            phase,
            ..
        } = &mut self.whole;
        if let Some(cage) = cage {
            // What comes after it may need them.
            leaving::spare_agents(cage, &[&leaf], &job.spare, spec.uid, &mut phase.notes);
        }
        let now = boot_time();
        if !step.grace.is_zero() {
            leaving::signal(&[&leaf], step.signal, &mut self.whole.phase.notes);
        }
        self.visits.forlorn.push(Forlorn {
            number: step.number,
            leaf,
            leaving,
            since: now,
            until: now + step.grace,
        });
        Ok(())
    }

    /// A client writes its step down while that starts, and this one may have died before.
    fn write_down(&self, step: &Step) {
        let record = &self.whole.record;
        if matches!(record.step(step.number), Ok(None)) {
            let mut begun = begun(step.number, StepKind::Step);
            if !step.name.is_empty() {
                begun.name.clone_from(&step.name);
            }
            // As with its client: that it cannot be written down changes nothing of what has to be done.
            let _ = record.begin_step(&begun);
        }
    }

    /// The highest number that a step has or is about to have: its client makes the leaf first, and writes it down while it starts.
    pub(super) fn last_number(&self) -> Result<u32> {
        let written = self.whole.record.steps()?.last().map_or(0, |step| step.number);
        let leaves = self.whole.cage.as_ref().map(Cage::step_leaves).transpose()?;
        let leaves = leaves.unwrap_or_default();
        let made = leaves.iter().filter_map(number_of).max();
        Ok(made.unwrap_or(0).max(written))
    }

    /// The steps that have run, by the kernel's word: whoever knew of one may be dead, and its supervisor as well.
    pub(super) fn steps_that_ran(&self) -> Vec<u32> {
        let leaves = self.whole.cage.as_ref().and_then(|cage| cage.step_leaves().ok());
        let leaves = leaves.unwrap_or_default();
        let ran = |leaf: &&Dir| usage(leaf).cpu_us.is_some_and(|used| used > 0);
        leaves.iter().filter(ran).filter_map(number_of).collect()
    }

    /// Writes down those that nobody has.
    pub(super) fn write_down_those(&self, numbers: &[u32]) {
        let record = &self.whole.record;
        // A client that is still there has told its name, and may be slow.
        let known = self.visits.guests.iter().filter_map(|guest| guest.step.as_ref());
        known.for_each(|step| self.write_down(step));
        for number in numbers {
            if matches!(record.step(*number), Ok(None)) {
                // As with its client: that it cannot be written down changes nothing of what has to be done.
                let _ = record.begin_step(&begun(*number, StepKind::Step));
            }
        }
    }

    fn look_at_forlorn(&mut self) -> Result<()> {
        if self.state() != State::Running {
            // All leaves go the way out now.
            self.visits.forlorn.clear();
        }
        let now = boot_time();
        for step in std::mem::take(&mut self.visits.forlorn) {
            if step.leaving.is_populated()? && step.until > now {
                self.visits.forlorn.push(step);
                continue;
            }
            let emptied = empty(&step.leaf, &Patience::default())?;
            let killed = emptied.census.count;
            if killed > 0 {
                self.note(format!(
                    "{killed} of step {} were killed after its grace time",
                    step.number
                ));
            }
        }
        Ok(())
    }

    /// Everything is dead, and each client is about to write down how its step ended: waits for that, so that no status is
    /// missing in the report for being a moment late.
    pub(super) fn hear_of_steps(&mut self) -> Result<()> {
        const PATIENCE: Duration = Duration::from_secs(5);
        let end = Instant::now() + PATIENCE;
        loop {
            self.look_at_visits()?;
            let left = end.saturating_duration_since(Instant::now());
            let busy: Vec<BorrowedFd<'_>> = self
                .visits
                .guests
                .iter()
                .filter(|guest| guest.step.is_some())
                .map(|guest| guest.connection.as_fd())
                .collect();
            if busy.is_empty() || left.is_zero() {
                return Ok(());
            }
            let mut fds: Vec<_> = busy
                .into_iter()
                .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
                .collect();
            match nix::poll::ppoll(&mut fds, Some(TimeSpec::from_duration(left)), None) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(Failure::system("wait for the clients of the session")(errno)),
            }
        }
    }
}

/// A new socket in the place of a predecessor's, which nobody listens to any more.
fn listen_in(record: &Path) -> jobcage_sys::Result<OwnedFd> {
    let unfinished = format!("{SOCKET}.{}.new", std::process::id());
    let listener = socket::seqpacket()?;
    let _ = std::fs::remove_file(record.join(&unfinished));
    short_address(record, &unfinished, |address| bind(listener.as_raw_fd(), address))?;
    nix::sys::socket::listen(&listener, Backlog::MAXCONN)?;
    nix::fcntl::renameat(
        nix::fcntl::AT_FDCWD,
        &record.join(&unfinished),
        nix::fcntl::AT_FDCWD,
        &record.join(SOCKET),
    )?;
    Ok(listener)
}

/// The number in the name of a step's leaf.
fn number_of(leaf: &Dir) -> Option<u32> {
    let name = leaf.path().file_name()?.to_str()?;
    name.split('-').next()?.parse().ok()
}
