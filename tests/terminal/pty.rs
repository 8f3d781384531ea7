//! A terminal with somebody at it.

use crate::support::world::World;
use crate::support::{PATIENCE, left, programs};
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, poll};
use nix::pty::{PtyMaster, grantpt, posix_openpt, ptsname_r, unlockpt};
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

pub const CTRL_C: &str = "\x03";
pub const CTRL_Z: &str = "\x1a";
pub const CTRL_BACKSLASH: &str = "\x1c";

/// The prompt of the shell: nothing else writes it.
const PROMPT: &str = "=prompt=";

/// A terminal, the session on it, and what it has shown.
pub struct Terminal {
    master: Option<PtyMaster>,
    /// The name of its device.
    pub name: String,
    seen: String,
    /// What was looked at already.
    mark: usize,
    pub child: Child,
}

impl Terminal {
    /// Starts a program as the leader of a session on a new terminal.
    pub fn start(mut command: Command) -> Self {
        // Never inherited by chance: a terminal hangs up only when nobody holds its master.
        let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname_r(&master).unwrap();
        let open = || -> File {
            let mut options = std::fs::OpenOptions::new();
            options
                .read(true)
                .write(true)
                .custom_flags(OFlag::O_NOCTTY.bits());
            options.open(&name).unwrap()
        };
        let child = command
            .stdin(open())
            .stdout(open())
            .stderr(open())
            .spawn()
            .unwrap();
        Self {
            master: Some(master),
            name,
            seen: String::new(),
            mark: 0,
            child,
        }
    }

    /// An interactive bash with job control, whose commands are not echoed.
    pub fn bash(world: &World) -> Self {
        let mut command = world.command("setsid");
        command.args(["--ctty", "bash", "--norc", "--noprofile", "--noediting", "-i"]);
        command
            .env("JOBCAGE", programs::jobcage())
            .env("PS1", PROMPT)
            .env("TERM", "dumb");
        command.env_remove("PROMPT_COMMAND").env("HISTFILE", "/dev/null");
        let mut terminal = Self::start(command);
        terminal.shows(PROMPT);
        terminal.line("stty -echo rows 33 cols 77; ulimit -c 0");
        terminal.shows(PROMPT);
        terminal
    }

    /// Types.
    pub fn keys(&mut self, keys: &str) {
        self.master.as_mut().unwrap().write_all(keys.as_bytes()).unwrap();
    }

    /// Types a line.
    pub fn line(&mut self, line: &str) {
        self.keys(&format!("{line}\n"));
    }

    /// Waits until the terminal shows this, behind what was waited for before; returns what came in between.
    #[track_caller]
    pub fn shows(&mut self, text: &str) -> String {
        match self.shows_within(text, PATIENCE) {
            Some(between) => between,
            None => panic!(
                "{text:?} does not come; behind {:?} there is {:?}",
                &self.seen[..self.mark],
                &self.seen[self.mark..]
            ),
        }
    }

    /// As [`Terminal::shows`], for what may not come.
    pub fn shows_within(&mut self, text: &str, within: Duration) -> Option<String> {
        let end = Instant::now() + within;
        loop {
            if let Some(at) = self.seen[self.mark..].find(text) {
                let between = self.seen[self.mark..self.mark + at].to_owned();
                self.mark += at + text.len();
                return Some(between);
            }
            let master = self.master.as_mut().unwrap();
            let ready = poll(&mut [PollFd::new(master.as_fd(), PollFlags::POLLIN)], left(end));
            if ready == Ok(0) {
                return None;
            }
            let mut chunk = [0; 4096];
            // EIO: nobody has the terminal open any more.
            let got = master.read(&mut chunk).ok()?;
            self.seen.push_str(&String::from_utf8_lossy(&chunk[..got]));
        }
    }

    /// Waits for the next prompt; returns what was shown before it.
    #[track_caller]
    pub fn prompt(&mut self) -> String {
        self.shows(PROMPT)
    }

    /// Has the shell do this and returns what was shown until the next prompt.
    #[track_caller]
    pub fn does(&mut self, line: &str) -> String {
        self.line(line);
        self.prompt()
    }

    /// Closes the master: the line is cut.
    pub fn hang_up(&mut self) {
        self.master = None;
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.hang_up();
        // bash ends by the hangup; if not, its world is no longer there for anybody.
        if crate::support::call::wait(&mut self.child, PATIENCE).is_none() && !std::thread::panicking() {
            panic!("the session on {} does not end at the hangup", self.name);
        }
    }
}
