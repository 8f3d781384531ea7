//! The keeper: a small and dull process beside the cage of a captured job.
//!
//! It is the parent of every step's main process and the subreaper of the job's orphans; it holds the read ends of the pipes
//! and whatever else the next supervisor needs (environment, stdin, scripts: descriptors that it never reads); and it writes
//! how a main process ended before it reaps it. It decides nothing. When its supervisor dies it starts another one.

mod client;
mod protocol;

pub use client::{Held, KEEPERS, Keeper, Started, StepTaken};
pub use protocol::{Output, SOCKET, Start};

use crate::closing;
use crate::error::{Failure, Result};
use crate::host;
use crate::package;
use crate::quiet::{is_readable, rest};
use crate::step::exit_status;
use jobcage_job::{ExitStatus, JobId, MainEnd, STATUS_VERSION};
use jobcage_ledger::{LedgerError, Places, Record};
use jobcage_sys::spawn::{Child, Go, Plan, spawn};
use jobcage_sys::wait::{self, Change, Whom};
use jobcage_sys::{Errno, file, landlock, socket};
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags};
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{Gid, Uid, fchown, pipe2};
use protocol::{Answer, Ask, StepHeld};
pub(crate) use protocol::{hear, say};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The main process of a step.
struct Main {
    step: u32,
    child: Child,
    pipes: Vec<OwnedFd>,
    ended: Option<MainEnd>,
}

struct Keeping {
    places: Places,
    record: Record,
    listener: OwnedFd,
    deaths: SignalFd,
    null: OwnedFd,
    connections: Vec<OwnedFd>,
    /// Which of them is the supervisor's.
    supervisor: Option<usize>,
    held: Vec<(String, OwnedFd)>,
    mains: Vec<Main>,
    /// Supervisors that we have started.
    started: Vec<i32>,
    over: bool,
}

/// The keeper of a job; returns when its supervisor says that the job is over. Standard input is its socket.
///
/// # Errors
/// If it cannot wait, or the record is gone.
pub fn keep(places: &Places, id: &JobId) -> Result<()> {
    let listener = file::take_stdin();
    file::close_from(3);
    wait::expect_children().map_err(Failure::system("reset SIGCHLD"))?;
    wait::become_subreaper().map_err(Failure::system("become a subreaper"))?;
    // Nothing but a SIGKILL ends it: whatever else is sent is meant for supervisors.
    SigSet::all()
        .thread_swap_mask(SigmaskHow::SIG_SETMASK)
        .map_err(Failure::system("block signals"))?;
    let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
    let deaths = SignalFd::with_flags(&SigSet::from(Signal::SIGCHLD), flags)
        .map_err(Failure::system("make a signalfd"))?;
    let null = file::open_null().map_err(Failure::system("open /dev/null"))?;
    let mut keeping = Keeping {
        record: places.open(id)?,
        places: places.clone(),
        listener,
        deaths,
        null,
        connections: Vec::new(),
        supervisor: None,
        held: Vec::new(),
        mains: Vec::new(),
        started: Vec::new(),
        over: false,
    };
    while !keeping.over {
        keeping.turn()?;
    }
    Ok(())
}

impl Keeping {
    fn turn(&mut self) -> Result<()> {
        let mut fds = vec![
            PollFd::new(self.deaths.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.listener.as_fd(), PollFlags::POLLIN),
        ];
        let wanted = self
            .connections
            .iter()
            .map(|c| PollFd::new(c.as_fd(), PollFlags::POLLIN));
        fds.extend(wanted);
        rest(&mut fds, None)?;
        let ready: Vec<bool> = fds
            .iter()
            .map(|fd| fd.revents().is_some_and(|events| !events.is_empty()))
            .collect();
        drop(fds);
        if ready[0] {
            self.look_at_deaths();
        }
        // The oldest first, and all that it has said: what a supervisor has given us before it died counts before the questions
        // of the next one. One that goes makes room for the one behind it.
        let mut i = 0;
        while i < self.connections.len() {
            if is_readable(self.connections[i].as_fd()) {
                self.listen_to(i);
            } else {
                i += 1;
            }
        }
        if ready[1] {
            self.accept();
        }
        Ok(())
    }

    fn accept(&mut self) {
        let Ok(connection) = socket::accept(self.listener.as_fd()) else {
            return;
        };
        let own = nix::unistd::geteuid().as_raw();
        // The record's directory lets nobody else in; asked again, since root can change modes.
        if socket::peer_uid(connection.as_fd()).is_ok_and(|uid| uid == own || uid == 0) {
            self.connections.push(connection);
        }
    }

    fn listen_to(&mut self, i: usize) {
        match hear::<Ask>(self.connections[i].as_fd()) {
            Ok(Some((ask, fds))) => self.answer(i, ask, fds),
            // Whoever says what we do not know is of no use; the one who comes next may be.
            Ok(None) | Err(_) => self.hang_up(i),
        }
    }

    fn hang_up(&mut self, i: usize) {
        self.connections.remove(i);
        match self.supervisor {
            Some(at) if at == i => {
                self.supervisor = None;
                self.start_supervisor();
            }
            Some(at) if at > i => self.supervisor = Some(at - 1),
            _ => {}
        }
    }

    /// Our supervisor is gone: the next one. Another may come by way of the watcher: the record's lock decides.
    fn start_supervisor(&mut self) {
        let removed = matches!(self.places.open(self.record.id()), Err(LedgerError::NoSuchJob(_)));
        if self.over || removed || matches!(self.record.report(), Ok(Some(_))) {
            self.over = true;
            return;
        }
        // Where no process is to be had, the watcher's try or the next gc is what is left.
        if let Ok(child) = host::start_closer(&self.places, self.record.id()) {
            self.started.push(child.pid);
        }
    }

    fn answer(&mut self, i: usize, ask: Ask, fds: Vec<OwnedFd>) {
        let connection = &self.connections[i];
        let told = match ask {
            Ask::Hello { supervise } => {
                if supervise {
                    self.supervisor = Some(i);
                }
                let (answer, fds) = self.everything();
                say(connection.as_fd(), &answer, &fds)
            }
            Ask::Hold { names } => {
                self.held.extend(names.into_iter().zip(fds));
                say(connection.as_fd(), &Answer::Done, &[])
            }
            Ask::Start(start) => self.answer_start(i, &start, &fds),
            Ask::Forget { step } => {
                for main in self.mains.iter_mut().filter(|main| main.step == step) {
                    main.pipes.clear();
                }
                say(connection.as_fd(), &Answer::Done, &[])
            }
            Ask::Children => {
                let own: Vec<i32> = self.started.clone();
                let any = wait::other_child_than(&own);
                say(connection.as_fd(), &Answer::Children { any }, &[])
            }
            Ask::Leave => {
                self.over = true;
                say(connection.as_fd(), &Answer::Done, &[])
            }
        };
        // One that is gone may have said more before it went; its end comes behind that.
        if told.is_err_and(|errno| !matches!(errno, Errno::EPIPE | Errno::ECONNRESET)) {
            self.hang_up(i);
        }
    }

    fn everything(&self) -> (Answer, Vec<BorrowedFd<'_>>) {
        let steps = self.mains.iter().map(|main| StepHeld {
            step: main.step,
            pid: main.child.pid,
            pidfd: main.child.pidfd.is_some(),
            pipes: main.pipes.len(),
            ended: main.ended.clone(),
        });
        let answer = Answer::Held {
            names: self.held.iter().map(|(name, _)| name.clone()).collect(),
            steps: steps.collect(),
        };
        let held = self.held.iter().map(|(_, fd)| fd.as_fd());
        (
            answer,
            held.chain(self.mains.iter().flat_map(Main::fds)).collect(),
        )
    }

    /// Starts a main process, which waits until its supervisor has been told of it. If we die before, it ends without having
    /// done anything, and the supervisor, who has no answer, can start it itself: so it is never started twice.
    fn answer_start(&mut self, i: usize, start: &Start, fds: &[OwnedFd]) -> jobcage_sys::Result<()> {
        match self.start(start, fds) {
            Ok((main, go)) => {
                let answer = Answer::Started {
                    pid: main.child.pid,
                    pidfd: main.child.pidfd.is_some(),
                };
                // The supervisor gives the word as well, should we die right behind the answer.
                let mut given = main.fds();
                given.push(go.as_fd());
                let told = say(self.connections[i].as_fd(), &answer, &given);
                drop(given);
                self.mains.push(main);
                // Also where the supervisor is gone: the next one finds it here.
                let _ = file::write_all(go.as_fd(), b"g");
                told
            }
            Err(errno) => {
                let answer = Answer::NotStarted { errno: errno as i32 };
                say(self.connections[i].as_fd(), &answer, &[])
            }
        }
    }

    /// The started process, and the pipe that it waits for.
    fn start(&self, start: &Start, fds: &[OwnedFd]) -> jobcage_sys::Result<(Main, OwnedFd)> {
        if self.mains.iter().any(|main| main.step == start.step) {
            return Err(Errno::EEXIST);
        }
        let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
        let (wait, hold) = pipe2(OFlag::O_CLOEXEC)?;
        let go = Go {
            wait: wait.as_fd(),
            hold: hold.as_fd(),
        };
        let (child, pipes) = start_main(start, &fds, self.null.as_fd(), Some(go))?;
        let main = Main {
            step: start.step,
            child,
            pipes,
            ended: None,
        };
        Ok((main, hold))
    }

    /// Writes down and tells how mains ended, then reaps them, and whatever else there is to reap: orphans of the job.
    fn look_at_deaths(&mut self) {
        while let Ok(Some(_)) = self.deaths.read_signal() {}
        while let Ok(Some((pid, change))) = wait::peek(Whom::Any) {
            if let Some(i) = self
                .mains
                .iter()
                .position(|main| main.child.pid == pid && main.ended.is_none())
            {
                self.main_ended(i, change);
            }
            let was_started = self.started.contains(&pid);
            self.started.retain(|own| *own != pid);
            // Peeked at a moment ago, so it is there.
            let _ = wait::poll(Whom::Pid(pid), false);
            // It may have had the lock, and been killed before it came to us: then nobody else knows of it.
            if was_started && matches!(change, Change::Killed(_)) && self.supervisor.is_none() {
                self.start_supervisor();
            }
        }
    }

    fn main_ended(&mut self, i: usize, change: Change) {
        let main = &mut self.mains[i];
        let end = end(main.step, &main.child, exit_status(change));
        // A disk that does not take it is for the supervisor to tell, who hears of the status all the same.
        let _ = self.record.write_status(&end);
        main.ended = Some(end.clone());
        if let Some(connection) = self.supervisor.and_then(|at| self.connections.get(at)) {
            // If it is gone by now, the next one asks.
            let _ = say(connection.as_fd(), &Answer::Ended(end), &[]);
        }
    }
}

impl Main {
    fn fds(&self) -> Vec<BorrowedFd<'_>> {
        let pipes = self.pipes.iter().map(AsFd::as_fd);
        pipes.chain(self.child.pidfd.as_ref().map(AsFd::as_fd)).collect()
    }
}

/// What is told of a main process that has ended so.
pub(crate) fn end(step: u32, child: &Child, status: ExitStatus) -> MainEnd {
    let birth = || child.died_at_birth().then_some(("birth", Errno::EINTR));
    let failure = child
        .failure()
        .map(|(stage, errno)| (stage.name(), errno))
        .or_else(birth);
    MainEnd {
        version: STATUS_VERSION,
        step,
        pid: child.pid,
        status: failure.is_none().then_some(status),
        never_started: failure.map(|(stage, errno)| (stage.to_owned(), errno as i32)),
        at: closing::now(),
    }
}

/// Starts the main process of a step, with new pipes: the child and their read ends. `fds` are the packed command, the
/// leaf's directory, stdin if there is one, and what else is given.
///
/// # Errors
/// The kernel's refusal; `EBADMSG` if the command cannot be unpacked.
pub(crate) fn start_main(
    start: &Start,
    fds: &[BorrowedFd<'_>],
    null: BorrowedFd<'_>,
    go: Option<Go<'_>>,
) -> jobcage_sys::Result<(Child, Vec<OwnedFd>)> {
    let [package, leaf, rest @ ..] = fds else {
        return Err(Errno::EBADMSG);
    };
    let command = package::open_command(*package).map_err(|_| Errno::EBADMSG)?;
    let mut rest = rest.iter().copied();
    let stdin = if start.stdin { rest.next() } else { None };
    let mut pipes = Vec::new();
    let mut writers = Vec::new();
    for _ in 0..start.output.pipes() {
        let (read, write) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        // The job writes as it would into any pipe; only our end does not block.
        nix::fcntl::fcntl(&write, nix::fcntl::FcntlArg::F_SETFL(OFlag::empty()))?;
        give_away(&write, start.owner)?;
        pipes.push(read);
        writers.push(write);
    }
    let given: Vec<BorrowedFd<'_>> = rest.collect();
    let (out, err) = match start.output {
        Output::Merged => (writers[0].as_fd(), writers[0].as_fd()),
        Output::Split => (writers[0].as_fd(), writers[1].as_fd()),
        Output::Given => match given[..] {
            [out, err] => (out, err),
            _ => return Err(Errno::EBADMSG),
        },
    };
    let guard = command.guard.then(landlock::signal_fence).transpose()?;
    let plan = Plan {
        programs: command.programs,
        args: command.args,
        env: command.env,
        cgroup: Some(*leaf),
        stdio: [Some(stdin.unwrap_or(null)), Some(out), Some(err)],
        identity: command.identity,
        dir: command.dir,
        rlimits: command.rlimits,
        nice: command.nice,
        new_session: true,
        no_keystrokes: start.no_keystrokes,
        guard: guard.as_ref().map(AsFd::as_fd),
        go,
        signal_mask: Some(SigSet::empty()),
        dies_with_us: false,
    };
    spawn(&plan).map(|child| (child, pipes))
}

/// A pipe belongs to whoever made it, and `/dev/stdout` is opened by name: so it is given to the job's user, to write. A job
/// that could open it for reading could steal from its own output.
fn give_away(write: &OwnedFd, owner: Option<u32>) -> jobcage_sys::Result<()> {
    nix::sys::stat::fchmod(write, nix::sys::stat::Mode::S_IWUSR)?;
    match owner {
        Some(uid) => fchown(write, Some(Uid::from_raw(uid)), None::<Gid>),
        None => Ok(()),
    }
}
