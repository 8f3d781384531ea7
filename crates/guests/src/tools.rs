//! Tools of other people: as the job's user, in a cgroup of their own that is emptied behind them, with a limit of time and of what they may say.

use crate::{GuestError, Result};
use jobcage_cage::{Dir, Patience, empty, remove};
use jobcage_job::{GuestMode, GuestPlace, JobSpec};
use jobcage_sys::file::open_null;
use jobcage_sys::spawn::{Identity, Plan, spawn, spawn_moved};
use jobcage_sys::{Errno, pidfd, wait};
use nix::fcntl::{Flock, FlockArg};
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::signal::{SigSet, Signal, killpg};
use nix::sys::time::TimeSpec;
use nix::unistd::Pid;
use std::ffi::{CString, OsStr};
use std::io::{PipeReader, Read, pipe};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// The cgroup in which tools run, beside the cages.
const GUESTS: &str = "guests";

/// Below it, for the tools of daemons that a user's jobs share; no id of a job is as short.
const SHARED: &str = "shared";

/// To list what there is. VirtualBox takes 40 ms, and the first call, which starts the daemon, more; libvirt took 1.5 to 4.1 s after a crash.
pub(crate) const LISTING: Duration = Duration::from_secs(15);

/// To remove one thing.
pub(crate) const REMOVING: Duration = Duration::from_secs(120);

/// Who says more than this is not listened to any more.
pub(crate) const MOST: usize = 4 << 20;

pub(crate) struct Tools<'a> {
    above: &'a Dir,
    name: String,
    identity: Option<Identity>,
    env: Vec<CString>,
    until: Instant,
}

/// With what a tool is started.
struct Start<'a> {
    words: &'a [&'a str],
    identity: Option<Identity>,
    env: Vec<CString>,
    stdin: Option<BorrowedFd<'a>>,
    limit: Duration,
}

/// How a tool has ended, and what it said.
struct Said {
    status: wait::Change,
    out: String,
    err: String,
}

/// A cgroup for some calls.
pub(crate) struct Pass<'a> {
    tools: &'a Tools<'a>,
    leaf: Dir,
    /// `Shared`: daemons that others may use live on in it. Else it is the job's own, and they end with it.
    mode: GuestMode,
    /// Nobody removes a shared one that somebody has.
    _held: Option<Flock<OwnedFd>>,
}

impl<'a> Tools<'a> {
    pub(crate) fn new(above: &'a Dir, spec: &JobSpec, place: &GuestPlace, until: Instant) -> Self {
        // Not root's word: what the tools read was written by the job.
        let identity = nix::unistd::geteuid().is_root().then(|| Identity {
            uid: spec.uid,
            gid: place.gid,
            groups: place.groups.clone(),
        });
        let own = [
            ("PATH", "/usr/local/bin:/usr/bin:/bin".to_owned()),
            ("LC_ALL", "C".into()),
            ("HOME", place.home.clone()),
        ];
        let env = own.into_iter().chain(crate::variables(place));
        Self {
            above,
            name: spec.id.to_string(),
            identity,
            env: env
                .filter_map(|(name, value)| CString::new(format!("{name}={value}")).ok())
                .collect(),
            until,
        }
    }

    /// Kills what calls have left, ours or a predecessor's, and removes their cgroup.
    pub(crate) fn end_all(&self) -> Result<()> {
        let gone = |error: &jobcage_cage::CageError| error.errno() == Some(Errno::ENOENT);
        let guests = match self.above.child(GUESTS) {
            Err(error) if gone(&error) => return Ok(()),
            other => other?,
        };
        match guests.child(&self.name) {
            Err(error) if gone(&error) => {}
            other => {
                empty(&other?, &Patience::default())?;
                remove(&guests, OsStr::new(&self.name))?;
            }
        }
        remove_shared(&guests);
        // Refused for as long as another job's tools run in it.
        let _ = self.above.remove_child(GUESTS);
        Ok(())
    }

    /// The job's own is a fresh one: kernels of 2025 and 2026 kill what is born in a cgroup that was ever killed as a whole.
    pub(crate) fn pass(&'a self, mode: GuestMode) -> Result<Pass<'a>> {
        self.end_all()?;
        let make = || {
            let guests = self.above.create_or_open(GUESTS)?;
            match mode {
                GuestMode::Shared => hold_shared(&guests),
                GuestMode::Isolate | GuestMode::Destroy => Ok((guests.create(&self.name)?, None)),
            }
        };
        let (leaf, held) = match make() {
            // Another job's tools have just ended, and took the directory with them.
            Err(error) if error.errno() == Some(Errno::ENOENT) => make()?,
            made => made?,
        };
        Ok(Pass {
            tools: self,
            leaf,
            mode,
            _held: held,
        })
    }
}

/// Opens the one for the tools of daemons that jobs share, so that nobody removes it while it is empty.
fn hold_shared(guests: &Dir) -> jobcage_cage::Result<(Dir, Option<Flock<OwnedFd>>)> {
    loop {
        let leaf = guests.create_or_open(SHARED)?;
        let held = lock(&leaf, FlockArg::LockShared);
        // Whoever had it may have removed it before we got it.
        if leaf.read("cgroup.procs") != Err(Errno::ENODEV) {
            return Ok((leaf, held));
        }
    }
}

/// Removes it, if nobody is in it and no tools are about to be.
fn remove_shared(guests: &Dir) {
    let Ok(leaf) = guests.child(SHARED) else { return };
    if lock(&leaf, FlockArg::LockExclusiveNonblock).is_some() {
        let _ = guests.remove_child(SHARED);
    }
}

fn lock(leaf: &Dir, how: FlockArg) -> Option<Flock<OwnedFd>> {
    Flock::lock(leaf.fd().try_clone_to_owned().ok()?, how).ok()
}

impl Pass<'_> {
    /// What a tool says on standard output.
    ///
    /// # Errors
    /// If it cannot be started, fails, says no end, or takes longer than this.
    pub(crate) fn call(&self, words: &[&str], limit: Duration) -> Result<String> {
        self.ask(self.as_job(words, None, limit))
    }

    /// The same for a program that reads its standard input.
    ///
    /// # Errors
    /// As [`Pass::call`].
    pub(crate) fn call_with(&self, words: &[&str], stdin: BorrowedFd<'_>, limit: Duration) -> Result<String> {
        self.ask(self.as_job(words, Some(stdin), limit))
    }

    /// As the job's user, in its environment.
    fn as_job<'s>(&self, words: &'s [&'s str], stdin: Option<BorrowedFd<'s>>, limit: Duration) -> Start<'s> {
        Start {
            words,
            identity: self.tools.identity.clone(),
            env: self.tools.env.clone(),
            stdin,
            limit,
        }
    }

    /// The same as whoever we are, which may be root: only for what nobody but we can have written.
    ///
    /// # Errors
    /// As [`Pass::call`].
    pub(crate) fn call_own(&self, words: &[&str], limit: Duration) -> Result<String> {
        self.ask(own(words, None, limit))
    }

    fn ask(&self, start: Start<'_>) -> Result<String> {
        let words = start.words;
        let tool = words[..words.len().min(3)].join(" ");
        let said = self.run(&tool, start)?;
        match said.status {
            wait::Change::Exited(0) => Ok(said.out),
            _ => Err(GuestError::Tool {
                tool,
                said: first_words(&said.err),
            }),
        }
    }

    /// What the site's own program says on standard output: as whoever we are. It has all the time that is left.
    ///
    /// # Errors
    /// As [`Pass::call`].
    pub(crate) fn call_site(&self, words: &[&str], stdin: BorrowedFd<'_>) -> Result<String> {
        let tool = words[0].to_owned();
        let left = self.tools.until.saturating_duration_since(Instant::now());
        let said = self.run(&tool, own(words, Some(stdin), left))?;
        let how = match said.status {
            wait::Change::Exited(0) => return Ok(said.out),
            wait::Change::Exited(code) => format!("it ended with the code {code}"),
            wait::Change::Killed(signal) | wait::Change::Stopped(signal) => {
                format!("the signal {signal} ended it")
            }
        };
        let said = format!("{how}: {}", first_words(&said.err));
        Err(GuestError::Tool { tool, said })
    }

    /// Runs a tool to its end.
    fn run(&self, tool: &str, start: Start<'_>) -> Result<Said> {
        let left = self.tools.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(GuestError::NoTime);
        }
        let until = Instant::now() + start.limit.min(left);
        let io = |errno: Errno| GuestError::Io {
            what: "start",
            path: tool.to_owned(),
            errno,
        };
        let std_io = |error: std::io::Error| io(Errno::from_raw(error.raw_os_error().unwrap_or(0)));
        let (mut out, out_end) = pipe().map_err(std_io)?;
        let (mut err, err_end) = pipe().map_err(std_io)?;
        let null = open_null().map_err(io)?;
        let c = |word: &str| CString::new(word).map_err(|_| io(Errno::EINVAL));
        let stdin = start.stdin.unwrap_or(null.as_fd());
        let plan = Plan {
            programs: vec![c(start.words[0])?],
            args: start.words.iter().map(|word| c(word)).collect::<Result<_>>()?,
            env: start.env,
            cgroup: Some(self.leaf.fd()),
            stdio: [Some(stdin), Some(out_end.as_fd()), Some(err_end.as_fd())],
            identity: start.identity,
            dir: Some(c"/".into()),
            new_session: true,
            signal_mask: Some(SigSet::empty()),
            // Where nobody kills the cgroup behind us, one that hangs would do so for ever.
            dies_with_us: self.mode == GuestMode::Shared,
            ..Plan::default()
        };
        let mut child = spawn(&plan).map_err(io)?;
        if matches!(wait::peek(wait::Whom::Pid(child.pid)), Ok(Some(_))) && child.died_at_birth() {
            child = spawn_moved(&plan).map_err(io)?;
        }
        drop((out_end, err_end));
        let process = pidfd::open(child.pid).map_err(io)?;
        let mut heard = [Vec::new(), Vec::new()];
        let ended = listen(&mut [&mut out, &mut err], &mut heard, process.as_fd(), until);
        if ended != Heard::End {
            self.cut(child.pid)?;
            let _ = wait::poll(wait::Whom::Pid(child.pid), false);
            let (tool, limit) = (tool.to_owned(), start.limit);
            return Err(match ended {
                Heard::TooMuch => GuestError::Loud { tool },
                _ => GuestError::Slow { tool, limit },
            });
        }
        let status = wait::block(wait::Whom::Pid(child.pid)).map_err(io)?.1;
        let [out, err] = heard.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        if let Some((stage, errno)) = child.failure() {
            let said = format!("it did not start ({stage:?}): {}", errno.desc());
            let tool = tool.to_owned();
            return Err(GuestError::Tool { tool, said });
        }
        Ok(Said { status, out, err })
    }

    /// Ends a tool that is too slow, with whatever it has started. One that cannot die, on a dead file server, is not waited for.
    fn cut(&self, pid: i32) -> Result<()> {
        match self.mode {
            GuestMode::Isolate | GuestMode::Destroy => drop(empty(&self.leaf, &Patience::default())?),
            // It leads a process group, in which daemons are not; it is not reaped yet, so the number is its own.
            GuestMode::Shared => {
                let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        Ok(())
    }

    /// Ends every process that the calls have left, such as a daemon that waits for the next one. A shared one ends by itself, and others may
    /// have come to use it: it is left alone, and the last who finds the cgroup empty removes it.
    ///
    /// # Errors
    /// If one of them survives.
    pub(crate) fn end(self) -> Result<()> {
        let tools = self.tools;
        drop(self);
        tools.end_all()
    }
}

/// As whoever we are, and with nothing of the job's in its environment.
fn own<'a>(words: &'a [&'a str], stdin: Option<BorrowedFd<'a>>, limit: Duration) -> Start<'a> {
    let env = [
        c"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        c"LC_ALL=C",
    ];
    Start {
        words,
        identity: None,
        env: env.map(CString::from).into(),
        stdin,
        limit,
    }
}

/// What it complained of, without its progress bar, on one line.
fn first_words(text: &str) -> String {
    let lines = text.lines().map(str::trim);
    let words: Vec<&str> = lines
        .filter(|line| !line.is_empty() && !line.starts_with("0%"))
        .take(3)
        .collect();
    let line: String = words.join("; ").chars().take(400).collect();
    if line.is_empty() {
        "it failed without a word".into()
    } else {
        line
    }
}

/// Why nobody listens any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Heard {
    /// The process has ended.
    End,
    /// Its time is over.
    TooLong,
    /// It says more than anybody wants to know.
    TooMuch,
}

/// Reads until the process has ended: a daemon may hold the pipes for ever.
fn listen(
    pipes: &mut [&mut PipeReader; 2],
    heard: &mut [Vec<u8>; 2],
    process: BorrowedFd<'_>,
    until: Instant,
) -> Heard {
    let mut open = [true; 2];
    loop {
        let mut fds = vec![PollFd::new(process, PollFlags::POLLIN)];
        let polled: Vec<usize> = (0..2).filter(|at| open[*at]).collect();
        fds.extend(
            polled
                .iter()
                .map(|at| PollFd::new(pipes[*at].as_fd(), PollFlags::POLLIN)),
        );
        let left = until.saturating_duration_since(Instant::now());
        match ppoll(&mut fds, Some(TimeSpec::from_duration(left)), None) {
            Ok(0) => return Heard::TooLong,
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return Heard::TooLong,
        }
        let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(false)).collect();
        drop(fds);
        for (at, _) in polled.iter().zip(&ready[1..]).filter(|(_, ready)| **ready) {
            let mut piece = [0; 65536];
            match pipes[*at].read(&mut piece) {
                Ok(0) | Err(_) => open[*at] = false,
                Ok(n) => heard[*at].extend_from_slice(&piece[..n]),
            }
        }
        if heard.iter().any(|bytes| bytes.len() > MOST) {
            return Heard::TooMuch;
        }
        // Only when nothing is left to read: the kernel tells of both at once.
        if ready[0] && ready[1..].iter().all(|ready| !ready) {
            return Heard::End;
        }
    }
}
