//! The supervisor's side of the keeper.

use super::protocol::{Answer, Ask, SOCKET, Start, StepHeld, hear, say};
use crate::error::{Failure, Result};
use crate::host;
use crate::quiet::is_readable;
use crate::sockets::short_address;
use jobcage_cage::Dir;
use jobcage_job::{JobId, MainEnd};
use jobcage_ledger::{Places, Record};
use jobcage_sys::spawn::{Child, Plan, spawn};
use jobcage_sys::{Errno, file, pidfd, socket, wait};
use nix::libc::SIGKILL;
use nix::sys::signal::SigSet;
use nix::sys::socket::{Backlog, bind, connect};
use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// The leaf of all keepers, below the root: never limited, never killed.
pub const KEEPERS: &str = "keepers";

/// A connection with a keeper.
#[derive(Debug)]
pub struct Keeper {
    connection: OwnedFd,
    /// The keeper, if we have started it.
    pub child: Option<Child>,
    ends: VecDeque<MainEnd>,
    /// How many answers are still to come that nobody waits for.
    unread: usize,
}

/// What a keeper holds.
#[derive(Debug)]
pub struct Held {
    /// By their names.
    pub files: Vec<(String, OwnedFd)>,
    /// The steps that it has started.
    pub steps: Vec<StepTaken>,
}

impl Held {
    /// One of the held descriptors.
    pub fn take(&mut self, name: &str) -> Option<OwnedFd> {
        let at = self.files.iter().position(|(known, _)| known == name)?;
        Some(self.files.swap_remove(at).1)
    }
}

/// A step of the keeper's, with our own descriptors of it.
#[derive(Debug)]
pub struct StepTaken {
    /// The step.
    pub step: StepHeld,
    /// The read ends.
    pub pipes: Vec<OwnedFd>,
    /// Its main process.
    pub process: Option<OwnedFd>,
}

/// A main process that the keeper has started.
#[derive(Debug)]
pub struct Started {
    /// Its pid.
    pub pid: i32,
    /// The read ends of its pipes.
    pub pipes: Vec<OwnedFd>,
    /// Its pidfd.
    pub process: Option<OwnedFd>,
}

/// Why a request to the keeper came to nothing: it is gone, or it does not understand us.
fn gone() -> Failure {
    Failure::Refused("the keeper of the job is gone".into())
}

impl Keeper {
    /// Starts the keeper of a job in the leaf `leaf`, and connects with it.
    ///
    /// # Errors
    /// If its socket cannot be made or it cannot be started.
    pub fn start(record: &Record, places: &Places, leaf: &Dir) -> Result<Self> {
        let listener = listen_in(record.path()).map_err(Failure::system("make the keeper's socket"))?;
        let null = file::open_null().map_err(Failure::system("open /dev/null"))?;
        let plan = plan(record.id(), places, leaf, &listener, &null);
        let child = spawn(&plan).map_err(Failure::system("start the keeper"))?;
        let connection = reach(record.path()).map_err(Failure::system("reach the keeper"))?;
        Ok(Self {
            connection,
            child: Some(child),
            ends: VecDeque::new(),
            unread: 0,
        })
    }

    /// Connects with the keeper of a job. `None`: there is none alive.
    ///
    /// # Errors
    /// If that cannot be told.
    pub fn find(record: &Record) -> Result<Option<Self>> {
        match reach(record.path()) {
            Ok(connection) => Ok(Some(Self {
                connection,
                child: None,
                ends: VecDeque::new(),
                unread: 0,
            })),
            Err(Errno::ENOENT | Errno::ECONNREFUSED | Errno::ECONNRESET | Errno::EPIPE) => Ok(None),
            Err(errno) => Err(Failure::system("reach the keeper of the job")(errno)),
        }
    }

    /// Introduces this process; everything that the keeper holds. With `supervise` it is the job's supervisor from here on.
    ///
    /// # Errors
    /// If the keeper is gone.
    pub fn hello(&mut self, supervise: bool) -> Result<Held> {
        let (answer, fds) = self.ask(&Ask::Hello { supervise }, &[])?;
        let Answer::Held { names, steps } = answer else {
            return Err(gone());
        };
        let mut fds = fds.into_iter();
        let files = names.into_iter().zip(fds.by_ref()).collect();
        let steps = steps.into_iter().map(|step| StepTaken {
            pipes: fds.by_ref().take(step.pipes).collect(),
            process: step.pidfd.then(|| fds.next()).flatten(),
            step,
        });
        let steps = steps.collect();
        Ok(Held { files, steps })
    }

    /// Has it hold descriptors.
    ///
    /// # Errors
    /// If the keeper is gone.
    pub fn hold(&mut self, files: &[(&str, BorrowedFd<'_>)]) -> Result<()> {
        let (ask, fds) = holding(files);
        self.ask(&ask, &fds).map(drop)
    }

    /// Introduces this process as the supervisor to a keeper that it has started itself, and has it hold descriptors. Does
    /// not wait for it: it may still be on its way, and the first step may be asked for meanwhile. It starts none before it holds
    /// these, since it takes one message after the other and none after an answer that nobody took.
    ///
    /// # Errors
    /// If the keeper is gone.
    pub fn furnish(&mut self, files: &[(&str, BorrowedFd<'_>)]) -> Result<()> {
        let (hold, fds) = holding(files);
        self.tell(&Ask::Hello { supervise: true }, &[])?;
        self.unread += 1;
        self.tell(&hold, &fds)?;
        self.unread += 1;
        Ok(())
    }

    /// Has it start the main process of a step; the inner error is the kernel's refusal.
    ///
    /// # Errors
    /// If the keeper is gone.
    pub fn start_main(
        &mut self,
        start: &Start,
        fds: &[BorrowedFd<'_>],
    ) -> Result<std::result::Result<Started, Errno>> {
        let (answer, fds) = self.ask(&Ask::Start(start.clone()), fds)?;
        match answer {
            Answer::Started { pid, pidfd } => {
                let mut fds = fds.into_iter();
                let started = Started {
                    pid,
                    pipes: fds.by_ref().take(start.output.pipes()).collect(),
                    process: pidfd.then(|| fds.next()).flatten(),
                };
                // The keeper gives the word, too, unless it has died behind its answer. One that has gone on reads no second one.
                let _ = fds.next().map(|go| file::write_all(go.as_fd(), b"g"));
                Ok(Ok(started))
            }
            Answer::NotStarted { errno } => Ok(Err(Errno::from_raw(errno))),
            _ => Err(gone()),
        }
    }

    /// Lets go of a step's output.
    ///
    /// # Errors
    /// If the keeper is gone.
    pub fn forget(&mut self, step: u32) -> Result<()> {
        self.ask(&Ask::Forget { step }, &[]).map(drop)
    }

    /// Whether some process of the job is its child: one that has left the cage, if the cage is empty.
    ///
    /// # Errors
    /// If the keeper is gone.
    pub fn has_children(&mut self) -> Result<bool> {
        match self.ask(&Ask::Children, &[])? {
            (Answer::Children { any }, _) => Ok(any),
            _ => Err(gone()),
        }
    }

    /// Tells it that the job is over, and waits until it has heard. One that is gone already is fine.
    pub fn leave(mut self) {
        let told = self.ask(&Ask::Leave, &[]).is_ok();
        if let Some(child) = &self.child {
            // Who cannot be told is ended: the job is over, so it holds nothing that anybody wants.
            if !told {
                let _ = pidfd::signal_pid(child.pid, SIGKILL);
            }
            // It ends at once; nobody else would reap it while we live.
            let _ = wait::block(wait::Whom::Pid(child.pid));
        }
    }

    /// The next end of a main process that has been told: to be called when the connection is readable, until there is none.
    ///
    /// # Errors
    /// If the keeper is gone and everything that it has told was taken.
    pub fn next_end(&mut self) -> Result<Option<MainEnd>> {
        if let Some(end) = self.ends.pop_front() {
            return Ok(Some(end));
        }
        if !is_readable(self.connection.as_fd()) {
            return Ok(None);
        }
        match hear::<Answer>(self.connection.as_fd())? {
            Some((Answer::Ended(end), _)) => Ok(Some(end)),
            Some(_) => {
                self.unread = self.unread.saturating_sub(1);
                Ok(None)
            }
            None => Err(gone()),
        }
    }

    fn tell(&self, ask: &Ask, fds: &[BorrowedFd<'_>]) -> Result<()> {
        say(self.connection.as_fd(), ask, fds).map_err(|errno| match errno {
            Errno::EPIPE | Errno::ECONNRESET => gone(),
            errno => Failure::system("ask the keeper")(errno),
        })
    }

    fn ask(&mut self, ask: &Ask, fds: &[BorrowedFd<'_>]) -> Result<(Answer, Vec<OwnedFd>)> {
        self.tell(ask, fds)?;
        loop {
            match hear::<Answer>(self.connection.as_fd())? {
                Some((Answer::Ended(end), _)) => self.ends.push_back(end),
                // They come in the order of the questions.
                Some(_) if self.unread > 0 => self.unread -= 1,
                Some(answer) => return Ok(answer),
                None => return Err(gone()),
            }
        }
    }
}

impl AsFd for Keeper {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }
}

fn holding<'fd>(files: &[(&str, BorrowedFd<'fd>)]) -> (Ask, Vec<BorrowedFd<'fd>>) {
    let names = files.iter().map(|(name, _)| (*name).to_owned()).collect();
    (Ask::Hold { names }, files.iter().map(|(_, fd)| *fd).collect())
}

fn plan<'p>(
    id: &JobId,
    places: &Places,
    leaf: &'p Dir,
    listener: &'p OwnedFd,
    null: &'p OwnedFd,
) -> Plan<'p> {
    let words = host::words_of_job(c"__keep", places, id);
    Plan {
        cgroup: Some(leaf.fd()),
        signal_mask: Some(SigSet::all()),
        ..host::helper(words, [listener.as_fd(), null.as_fd(), null.as_fd()])
    }
}

fn listen_in(record: &Path) -> jobcage_sys::Result<OwnedFd> {
    let listener = socket::seqpacket()?;
    short_address(record, SOCKET, |address| bind(listener.as_raw_fd(), address))?;
    nix::sys::socket::listen(&listener, Backlog::MAXCONN)?;
    Ok(listener)
}

fn reach(record: &Path) -> jobcage_sys::Result<OwnedFd> {
    let connection = socket::seqpacket()?;
    short_address(record, SOCKET, |address| connect(connection.as_raw_fd(), address))?;
    Ok(connection)
}
