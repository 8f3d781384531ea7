//! One ssh, from its start to its end, and the frames that go through it.

use crate::buffer::Buffer;
use crate::call::{From, Options};
use crate::door::{self, Binary, Said};
use crate::error::{RemoteError, Result};
use crate::frame::{Ask, Frames};
use jobcage_supervisor::candidates;
use jobcage_sys::spawn::{Child, Plan, spawn};
use jobcage_sys::{Errno, pidfd, wait};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{pipe2, read, write};
use std::ffi::{CString, OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

/// What a host may print before it says our word.
const NOISE: usize = 1 << 18;
/// What is kept of what ssh says.
const SAID: usize = 4096;
/// What the pipe from ssh takes.
const PIPE: i32 = 1 << 19;
/// How long a program whose output has ended may take for its own end.
const ON_ITS_WAY: Duration = Duration::from_secs(2);
/// What is read at once.
const CHUNK: usize = 1 << 18;

/// A connection, or an attempt at one.
pub(crate) struct Link {
    host: String,
    program: String,
    child: Child,
    is_reaped: bool,
    stdin: OwnedFd,
    stdout: OwnedFd,
    stderr: OwnedFd,
    is_silent: bool,
    /// Whether its output has ended.
    is_over: bool,
    token: String,
    binary: Binary,
    /// Whether frames come.
    is_open: bool,
    /// What came before.
    noise: Vec<u8>,
    frames: Frames,
    queue: Buffer,
    said: String,
    upload: Option<Vec<u8>>,
    is_copied: bool,
    buffer: Vec<u8>,
}

/// What is readable or writable of it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Ready {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
}

/// What a turn came to.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    /// Something has come, if only a part of an answer.
    pub has_come: bool,
    /// The line has ended.
    pub is_broken: bool,
}

fn words(options: &Options, again: bool) -> Vec<OsString> {
    let mut words = options.ssh.clone();
    let mut add = |list: &[&str]| words.extend(list.iter().map(OsString::from));
    // Without a terminal there: what the job writes is bytes.
    add(&["-T", "-o", "ConnectTimeout=10"]);
    if again {
        // A connection that others share may be the broken one.
        add(&["-o", "ControlPath=none", "-o", "ConnectionAttempts=1"]);
    }
    if options.forward_agent {
        add(&["-A"]);
    }
    if let Some(port) = options.port {
        add(&["-p", &port.to_string()]);
    }
    add(&["--", &options.target]);
    words
}

impl Link {
    /// Starts ssh. `again`: after a break.
    pub(crate) fn open(options: &Options, again: bool, random: u64) -> Result<Self> {
        let token = format!("jobcage-{random:016x}");
        let mut words = words(options, again);
        words.push(options.binary.command(&token));
        let args: Vec<CString> = words
            .iter()
            .filter_map(|word| CString::new(word.as_bytes()).ok())
            .collect();
        let pair = || pipe2(OFlag::O_CLOEXEC).map_err(RemoteError::system("make a pipe"));
        let ((their_in, stdin), (stdout, their_out), (stderr, their_err)) = (pair()?, pair()?, pair()?);
        for ours in [&stdin, &stdout, &stderr] {
            fcntl(ours, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))
                .map_err(RemoteError::system("prepare a pipe"))?;
        }
        // Fewer turns for much output; a limit of this user's leaves it as it is.
        let _ = fcntl(&stdout, FcntlArg::F_SETPIPE_SZ(PIPE));
        let path = std::env::var_os("PATH");
        let program = args.first().cloned().unwrap_or_default();
        let plan = Plan {
            programs: candidates(&program, path.as_deref().map(OsStr::as_bytes)),
            args,
            env: environment(options.from.as_ref()),
            dir: dir_of(options.from.as_ref()),
            stdio: [
                Some(their_in.as_fd()),
                Some(their_out.as_fd()),
                Some(their_err.as_fd()),
            ],
            // A Ctrl-C is for us: it must not end the line by which the job is told of it.
            signal_mask: Some([Signal::SIGINT, Signal::SIGQUIT].into_iter().collect::<SigSet>()),
            dies_with_us: true,
            ..Plan::default()
        };
        let child = spawn(&plan).map_err(RemoteError::system("start ssh"))?;
        drop((their_in, their_out, their_err));
        Ok(Self {
            host: options.host.clone(),
            program: program.to_string_lossy().into_owned(),
            child,
            is_reaped: false,
            stdin,
            stdout,
            stderr,
            is_silent: false,
            is_over: false,
            token,
            binary: options.binary.clone(),
            is_open: false,
            noise: Vec::new(),
            frames: Frames::default(),
            queue: Buffer::default(),
            said: String::new(),
            upload: None,
            is_copied: false,
            buffer: vec![0; SAID],
        })
    }

    /// What to wait for. `hungry`: whether we can take more.
    pub(crate) fn fds(&self, hungry: bool) -> [Option<PollFd<'_>>; 3] {
        let fd = |fd, events, wanted: bool| wanted.then(|| PollFd::new(fd, events));
        [
            fd(self.stdin.as_fd(), PollFlags::POLLOUT, !self.is_idle()),
            fd(self.stdout.as_fd(), PollFlags::POLLIN, hungry),
            fd(self.stderr.as_fd(), PollFlags::POLLIN, !self.is_silent),
        ]
    }

    /// Whether frames come already.
    pub(crate) fn is_open(&self) -> bool {
        self.is_open
    }

    /// Whether our program was brought there over this line.
    pub(crate) fn has_copied(&self) -> bool {
        self.is_copied
    }

    /// Whether all that was said is on its way: more can be said.
    pub(crate) fn is_idle(&self) -> bool {
        self.queue.is_empty()
    }

    pub(crate) fn say(&mut self, ask: &Ask) {
        self.put(&ask.encode());
    }

    fn put(&mut self, bytes: &[u8]) {
        self.queue.push(bytes);
        self.push();
    }

    /// Moves what can be moved. A line that breaks has its last words in the turn.
    pub(crate) fn turn(&mut self, ready: Ready) -> Result<Turn> {
        let mut turn = Turn::default();
        if ready.stdin {
            self.push();
        }
        if ready.stderr {
            self.hear_ssh();
        }
        if ready.stdout {
            self.is_over = self.hear(&mut turn)?;
            turn.is_broken = self.is_over;
        }
        Ok(turn)
    }

    /// What a pipe does not take waits; one that nobody reads is told of by the other one's end.
    fn push(&mut self) {
        while !self.queue.is_empty() {
            match write(&self.stdin, self.queue.front()) {
                Ok(n) => self.queue.taken(n),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return,
                Err(_) => self.queue.taken(self.queue.len()),
            }
        }
    }

    fn hear_ssh(&mut self) {
        let mut piece = [0; SAID];
        match read(&self.stderr, &mut piece) {
            Ok(0) => self.is_silent = true,
            Ok(n) => {
                self.said.push_str(&String::from_utf8_lossy(&piece[..n]));
                if self.said.len() > SAID {
                    let cut = self.said.len() - SAID;
                    let cut = (cut..).find(|at| self.said.is_char_boundary(*at)).unwrap_or(cut);
                    self.said.drain(..cut);
                }
            }
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(_) => self.is_silent = true,
        }
    }

    /// Takes what has come; whether that was the end.
    fn hear(&mut self, turn: &mut Turn) -> Result<bool> {
        let place = if self.is_open {
            self.frames.room(CHUNK)
        } else {
            &mut self.buffer[..]
        };
        let n = match read(&self.stdout, place) {
            Ok(0) => return Ok(true),
            Ok(n) => n,
            Err(Errno::EINTR | Errno::EAGAIN) => return Ok(false),
            Err(_) => return Ok(true),
        };
        turn.has_come = true;
        if self.is_open {
            self.frames.filled(n);
        } else {
            self.noise.extend_from_slice(&self.buffer[..n]);
            self.pass_the_door()?;
        }
        Ok(false)
    }

    /// What has come, for a caller that says something while it takes the frames out; [`Link::give_back`] takes the rest.
    pub(crate) fn take_frames(&mut self) -> Frames {
        std::mem::take(&mut self.frames)
    }

    /// What is left of [`Link::take_frames`].
    pub(crate) fn give_back(&mut self, frames: Frames) {
        self.frames = frames;
    }

    fn pass_the_door(&mut self) -> Result<()> {
        while !self.is_open
            && let Some((said, end)) = door::find(&self.noise, &self.token)
        {
            self.noise.drain(..end);
            match said {
                Said::Need(arch) => {
                    let (line, bytes) = self.binary.bytes(&self.host, &arch)?;
                    self.upload = Some(bytes);
                    self.put(line.as_bytes());
                }
                Said::Send => {
                    if let Some(bytes) = self.upload.take() {
                        self.is_copied = true;
                        self.put(&bytes);
                    }
                }
                Said::Here => {
                    self.is_open = true;
                    self.frames.push(&std::mem::take(&mut self.noise));
                }
            }
        }
        if self.noise.len() > NOISE {
            return Err(RemoteError::Unreachable {
                host: self.host.clone(),
                why: format!(
                    "it prints and prints before jobcage begins: {}",
                    self.first_noise()
                ),
            });
        }
        Ok(())
    }

    fn first_noise(&self) -> String {
        let text = String::from_utf8_lossy(&self.noise[..self.noise.len().min(SAID)]).into_owned();
        let line = text.lines().map(str::trim).find(|line| !line.is_empty());
        format!(
            "{:?}",
            line.unwrap_or_default().chars().take(80).collect::<String>()
        )
    }

    /// Ends it, and tells what is known of why it broke: the last lines of ssh and of the host's shell, harmless to a terminal.
    pub(crate) fn end(mut self) -> String {
        self.wait_for_ssh();
        let ended = self.reap(false);
        while !self.is_silent && ended.is_some() {
            // Its last words are in the pipe already.
            let before = self.said.len();
            self.hear_ssh();
            if self.said.len() == before {
                break;
            }
        }
        if let Some((_, errno)) = self.child.failure().filter(|_| ended.is_some()) {
            return format!(
                "cannot start {:?}: {} (--ssh names another one)",
                self.program,
                errno.desc()
            );
        }
        let lines: Vec<&str> = self
            .said
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .collect();
        let last = lines[lines.len().saturating_sub(3)..].join("; ");
        let said: String = last
            .chars()
            .map(|c| if c.is_control() { '?' } else { c })
            .take(400)
            .collect();
        match (said.is_empty(), self.noise.is_empty(), ended) {
            (false, ..) => said,
            (true, false, _) => format!("it said {} and nothing of jobcage", self.first_noise()),
            (true, true, Some(wait::Change::Exited(code))) => {
                format!("ssh ended with {code} and said nothing")
            }
            (true, true, Some(wait::Change::Killed(signal))) => format!("ssh was ended by signal {signal}"),
            (true, true, _) => "nothing was heard of it any more".into(),
        }
    }

    /// One whose output has ended is on its way out, for a reason that it tells: the kernel closes its pipes a moment before it
    /// has ended.
    fn wait_for_ssh(&self) {
        let Some(pidfd) = self.child.pidfd.as_ref().filter(|_| self.is_over) else {
            return;
        };
        let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        // One that stays has its reasons, and then they stay unknown.
        let _ = ppoll(&mut fds, Some(ON_ITS_WAY.into()), None);
    }

    /// Takes its end, if it has ended; `by_force`: ends it.
    fn reap(&mut self, by_force: bool) -> Option<wait::Change> {
        if self.is_reaped {
            return None;
        }
        if by_force {
            // It is our unreaped child: the number is nobody else's.
            let _ = pidfd::signal_pid(self.child.pid, Signal::SIGKILL as i32);
        }
        let whom = wait::Whom::Pid(self.child.pid);
        let change = if by_force {
            wait::block(whom).ok()
        } else {
            wait::poll(whom, false).ok().flatten()
        };
        self.is_reaped = change.is_some();
        change.map(|(_, change)| change)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.reap(true);
    }
}

/// Ours, with the agent of the call that it is for.
fn environment(from: Option<&From>) -> Vec<CString> {
    const AGENT: &str = "SSH_AUTH_SOCK";
    let own = std::env::vars_os().filter(|(name, _)| from.is_none() || name != AGENT);
    let agent = from.and_then(|from| from.agent.clone());
    let vars = own.chain(agent.map(|socket| (OsString::from(AGENT), socket)));
    let vars = vars.map(|(name, value)| {
        let mut whole = name.into_encoded_bytes();
        whole.push(b'=');
        whole.extend_from_slice(value.as_bytes());
        CString::new(whole)
    });
    vars.filter_map(std::result::Result::ok).collect()
}

fn dir_of(from: Option<&From>) -> Option<CString> {
    from.and_then(|from| CString::new(from.dir.as_bytes()).ok())
}
