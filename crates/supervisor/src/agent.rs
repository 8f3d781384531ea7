//! The ssh-agent of a job (`--ssh-agent`): there from before its first step until its cage is killed, so that every step and
//! the after phase have the keys, and no file has them.
//!
//! It runs as the job's user in a leaf of its own, `<job>/kept/agent`, which no end of a step touches.

use crate::error::{Failure, Result};
use crate::foreground::uid_of;
use crate::job::{Command, candidates};
use jobcage_cage::{Cage, Dir};
use jobcage_job::JobSpec;
use jobcage_job::handed::name_of;
use jobcage_sys::spawn::{Child, Plan, spawn, spawn_moved};
use jobcage_sys::wait::{self, Change, Whom};
use jobcage_sys::{Errno, file, pidfd};
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::signal::Signal;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket as new_socket};
use nix::sys::time::TimeSpec;
use nix::unistd::{Whence, lseek, pipe2, read};
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The variable by which ssh finds it.
const VARIABLE: &[u8] = b"SSH_AUTH_SOCK";
/// The variable of one that was started by `eval $(ssh-agent)`: beside ours it would name another one.
const PID_VARIABLE: &[u8] = b"SSH_AGENT_PID";
/// Its socket, in the directory in memory that the job has for its steps.
const SOCKET: &str = "ssh-agent.sock";
/// The longest that one of the two programs may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The most of what a program says that is passed on.
const MOST_TOLD: usize = 400;

/// A private key, in memory alone: a sealed file that `ssh-add` reads and we do not.
#[derive(Debug)]
pub struct Key {
    /// What it is called in messages.
    pub name: String,
    pub(crate) content: OwnedFd,
}

impl Key {
    /// Takes a key over.
    ///
    /// # Errors
    /// If there is no memory for it.
    pub fn new(name: String, content: &[u8]) -> Result<Self> {
        let failed = Failure::system("keep a key in memory");
        let content = file::sealed(c"jobcage-key", content).map_err(&failed)?;
        // Written up to here, and to be read from the start.
        lseek(&content, 0, Whence::SeekSet).map_err(&failed)?;
        Ok(Self { name, content })
    }
}

/// Where the agent of this job listens; `None`: it has none.
fn socket(spec: &JobSpec) -> Option<PathBuf> {
    let dir = spec.state_dir.as_ref().filter(|_| spec.ssh_agent)?;
    Some(Path::new(dir).join(SOCKET))
}

/// Names the agent in the environment of a process of the job. One of another user could not use it.
pub(crate) fn name_in(env: &mut Vec<CString>, spec: &JobSpec, uid: u32) {
    let Some(socket) = socket(spec).filter(|_| uid == spec.uid) else {
        return;
    };
    env.retain(|entry| name_of(entry) != VARIABLE && name_of(entry) != PID_VARIABLE);
    env.push(entry(&socket));
}

fn entry(socket: &Path) -> CString {
    let text = [VARIABLE, b"=", socket.as_os_str().as_bytes()].concat();
    // The path is one of ours, without a NUL.
    CString::new(text).unwrap_or_default()
}

/// Starts the agent of a new job and gives it the keys. `command`: whose user it is of, and whose `PATH` has the programs.
///
/// # Errors
/// If it cannot be started, or does not take a key. What was started is in the cage, and ends with it.
pub(crate) fn start(cage: &Cage, spec: &JobSpec, command: &Command, keys: &[Key]) -> Result<()> {
    let socket = socket(spec).ok_or_else(|| {
        refused("there is no directory in memory for its socket (see \"jobcage doctor\")".into())
    })?;
    let leaf = cage.agent_leaf()?;
    let of = Of {
        spec,
        command,
        socket: &socket,
        leaf: &leaf,
    };
    // In the foreground of nobody: its parent stays known, and it writes no file of its own.
    let agent = of.start(&[c"ssh-agent", c"-D", c"-a", &cstring(&socket)], None)?;
    agent.until_it_listens(&socket)?;
    for key in keys {
        of.add(key)?;
    }
    Ok(())
}

fn refused(why: String) -> Failure {
    Failure::Refused(format!("cannot give the job an ssh-agent (--ssh-agent): {why}"))
}

fn cstring(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap_or_default()
}

/// Whose helpers are started.
struct Of<'a> {
    spec: &'a JobSpec,
    command: &'a Command,
    socket: &'a Path,
    leaf: &'a Dir,
}

impl Of<'_> {
    /// Starts one of the two programs. Without a terminal, so that it asks nobody and no Ctrl-C reaches it.
    fn start(&self, args: &[&CStr], stdin: Option<&OwnedFd>) -> Result<Program> {
        let name = args.first().map(|name| name.to_string_lossy().into_owned());
        let name = name.unwrap_or_default();
        let failed = |errno: Errno| refused(format!("{name}: {}", errno.desc()));
        let (output, theirs) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).map_err(failed)?;
        let null = file::open_null().map_err(failed)?;
        let plan = Plan {
            programs: candidates(args[0], self.variable(b"PATH")),
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            env: self.env(),
            cgroup: Some(self.leaf.fd()),
            stdio: [
                Some(stdin.unwrap_or(&null).as_fd()),
                Some(theirs.as_fd()),
                Some(theirs.as_fd()),
            ],
            identity: self.command.identity.clone(),
            dir: Some(c"/".into()),
            new_session: true,
            // It listens before it says so: its first words may come when nobody hears them any more, and are not to end it.
            signal_mask: Some([Signal::SIGPIPE].into_iter().collect()),
            ..Plan::default()
        };
        let mut child = spawn(&plan).map_err(failed)?;
        // A kernel with the bug of kernel-facts 3 kills it at birth where our own cgroup was once killed as a whole.
        if matches!(wait::peek(Whom::Pid(child.pid)), Ok(Some(_))) && child.died_at_birth() {
            let _ = wait::block(Whom::Pid(child.pid));
            child = spawn_moved(&plan).map_err(failed)?;
        }
        Ok(Program { name, child, output })
    }

    fn variable(&self, name: &[u8]) -> Option<&[u8]> {
        let entry = self
            .command
            .env
            .iter()
            .rev()
            .find(|entry| name_of(entry) == name)?;
        entry.to_bytes().get(name.len() + 1..)
    }

    /// Of the job's variables those that the programs need. The id says whose they are.
    fn env(&self) -> Vec<CString> {
        let kept = |entry: &&CString| matches!(name_of(entry), b"PATH" | b"HOME");
        let mut env: Vec<CString> = self.command.env.iter().filter(kept).cloned().collect();
        env.extend(CString::new(format!("JOBCAGE_JOB={}", self.spec.id)));
        env.push(c"SSH_ASKPASS_REQUIRE=never".into());
        env.push(entry(self.socket));
        env
    }

    fn add(&self, key: &Key) -> Result<()> {
        let program = self.start(&[c"ssh-add", c"-"], Some(&key.content))?;
        let (told, change) = program.wait_end()?;
        if change == Change::Exited(0) {
            return Ok(());
        }
        Err(refused(format!(
            "ssh-add did not take the key {} (--ssh-key): {}. It has to be a private key without a passphrase, since nobody \
             is asked for one",
            key.name,
            if told.is_empty() {
                "it does not say why"
            } else {
                &told
            }
        )))
    }
}

/// A started program and what it says.
struct Program {
    name: String,
    child: Child,
    output: OwnedFd,
}

impl Program {
    /// Waits for the agent. That it says something is the event; what it says is of no interest. Should it keep that in a
    /// buffer, there is a timer beside it: the kernel tells nobody of a listen(2).
    fn until_it_listens(self, socket: &Path) -> Result<()> {
        let address = UnixAddr::new(socket)
            .map_err(|errno| refused(format!("{}: {}", socket.display(), errno.desc())))?;
        let until = Instant::now() + PATIENCE;
        let mut pause = Duration::from_millis(1);
        let mut told = Vec::new();
        loop {
            let more = self.hear(
                &mut told,
                pause.min(until.saturating_duration_since(Instant::now())),
            )?;
            if !more {
                let (told, change) = self.ended(&told);
                return Err(refused(format!("{told} (ssh-agent ended at once: {change:?})")));
            }
            if listens(&address)? {
                return Ok(());
            }
            if Instant::now() >= until {
                return Err(self.too_slow());
            }
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }

    /// Waits for its end.
    fn wait_end(self) -> Result<(String, Change)> {
        let until = Instant::now() + PATIENCE;
        let mut told = Vec::new();
        while self.hear(&mut told, until.saturating_duration_since(Instant::now()))? {
            if Instant::now() >= until {
                return Err(self.too_slow());
            }
        }
        Ok(self.ended(&told))
    }

    /// Waits for a moment for something to be said; whether there may be more.
    fn hear(&self, told: &mut Vec<u8>, most: Duration) -> Result<bool> {
        let mut fds = [PollFd::new(self.output.as_fd(), PollFlags::POLLIN)];
        match ppoll(&mut fds, Some(TimeSpec::from_duration(most)), None) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(Failure::system("wait for the ssh-agent")(errno)),
        }
        let mut chunk = [0; 1024];
        loop {
            match read(&self.output, &mut chunk) {
                Ok(0) => return Ok(false),
                Ok(n) => {
                    let room = MOST_TOLD.saturating_sub(told.len());
                    told.extend_from_slice(&chunk[..n.min(room)]);
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(true),
                Err(errno) => return Err(Failure::system("hear the ssh-agent")(errno)),
            }
        }
    }

    /// What it said, as one harmless line, and how it ended. Its output is over, so it ends.
    fn ended(&self, told: &[u8]) -> (String, Change) {
        let change = wait::block(Whom::Pid(self.child.pid)).map_or(Change::Exited(-1), |(_, change)| change);
        if let Some((_, errno)) = self.child.failure() {
            let why = format!("{} cannot be started: {}", self.name, errno.desc());
            return (why + "; it is part of OpenSSH's client", change);
        }
        let text = String::from_utf8_lossy(told);
        let lines: Vec<&str> = text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .collect();
        (lines.join("; ").replace(|c: char| c.is_control(), "?"), change)
    }

    fn too_slow(&self) -> Failure {
        // Our own child, unreaped: its pid is its own.
        let _ = pidfd::signal_pid(self.child.pid, nix::libc::SIGKILL);
        let _ = wait::block(Whom::Pid(self.child.pid));
        refused(format!(
            "{} was not ready within {} s",
            self.name,
            PATIENCE.as_secs()
        ))
    }
}

/// Whether somebody listens there. Whoever could put something else there is the job's user, and is told nothing.
fn listens(address: &UnixAddr) -> Result<bool> {
    let failed = Failure::system("make a socket");
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = new_socket(AddressFamily::Unix, SockType::Stream, flags, None).map_err(failed)?;
    Ok(connect(socket.as_raw_fd(), address).is_ok())
}

/// The keys of a new job that has an agent; an error before anything is made where there is no place for its socket.
pub(crate) fn check_place(wanted: bool, has_place: bool, notes: &[String]) -> Result<()> {
    if wanted && !has_place {
        return Err(refused(notes.last().cloned().unwrap_or_default()));
    }
    Ok(())
}

/// Starts that of a new job, if it is to have one.
pub(crate) fn start_if(
    keys: Option<&Vec<Key>>,
    cage: &Cage,
    spec: &JobSpec,
    command: &Command,
    (has_dir, notes): (bool, &[String]),
) -> Result<()> {
    let Some(keys) = keys else { return Ok(()) };
    check_place(true, has_dir, notes)?;
    debug_assert_eq!(uid_of(command), spec.uid, "it is the job's user's");
    start(cage, spec, command, keys)
}
