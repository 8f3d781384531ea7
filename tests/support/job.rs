//! One `jobcage run` of a test: started, spoken with, ended, read.

use super::process::{Process, stat};
use super::{PATIENCE, left};
use jobcage_job::Report;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signal::Signal;
use std::fs;
use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// A `jobcage run` under way.
pub struct Job {
    child: Child,
    /// A hold on jobcage itself.
    pub jobcage: Process,
    stdout: ChildStdout,
    seen: Vec<u8>,
    /// Where its report goes.
    pub report_file: PathBuf,
    stderr_file: PathBuf,
}

/// The line by which an animal says that it is in its state.
#[derive(Debug, Clone, Default)]
pub struct Ready {
    /// The main process first.
    pub pids: Vec<i32>,
    /// `key=value` words.
    pub words: Vec<String>,
}

impl Ready {
    fn parse(line: &str) -> Option<Self> {
        let mut ready = Self::default();
        for word in line.strip_prefix("ready ")?.split_whitespace() {
            match word.parse() {
                Ok(pid) => ready.pids.push(pid),
                Err(_) => ready.words.push(word.to_owned()),
            }
        }
        Some(ready)
    }
}

impl Job {
    /// Starts a command whose stdout and stderr are ours to read.
    pub fn start(mut command: Command, report_file: PathBuf, stderr_file: PathBuf) -> Self {
        let stderr = fs::File::create(&stderr_file).unwrap();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let stdout = child.stdout.take().unwrap();
        let jobcage = Process::open(i32::try_from(child.id()).unwrap());
        Self {
            child,
            jobcage,
            stdout,
            seen: Vec::new(),
            report_file,
            stderr_file,
        }
    }

    /// Reads what is there, or waits for it. `false`: end of file, or nothing until `end`.
    fn read_more(&mut self, end: Instant) -> Option<usize> {
        let ready = poll(
            &mut [PollFd::new(self.stdout.as_fd(), PollFlags::POLLIN)],
            left(end),
        );
        if ready == Ok(0) {
            return None;
        }
        let mut buffer = [0; 4096];
        let got = self.stdout.read(&mut buffer).unwrap();
        self.seen.extend_from_slice(&buffer[..got]);
        Some(got)
    }

    fn find_ready(&self) -> Option<Ready> {
        let text = String::from_utf8_lossy(&self.seen);
        let whole = &text[..=text.rfind('\n')?];
        whole.lines().find_map(|l| Ready::parse(l.trim_end()))
    }

    /// Waits for the animal's `ready`. `None`: the output ended, or the time did, without it.
    pub fn wait_ready(&mut self) -> Option<Ready> {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(ready) = self.find_ready() {
                return Some(ready);
            }
            match self.read_more(end) {
                None | Some(0) => return None,
                Some(_) => {}
            }
        }
    }

    /// Waits for a line of output; whether it came.
    pub fn wait_line(&mut self, wanted: &str) -> bool {
        let end = Instant::now() + PATIENCE;
        loop {
            if self.stdout().lines().any(|line| line.trim_end() == wanted) {
                return true;
            }
            if matches!(self.read_more(end), None | Some(0)) {
                return false;
            }
        }
    }

    /// Waits until jobcage has ended, and returns its exit code, or 128 + the signal that ended it.
    pub fn wait(&mut self, within: Duration) -> i32 {
        let end = Instant::now() + within;
        while !self.jobcage.has_ended() {
            assert!(
                Instant::now() < end,
                "jobcage has not ended after {within:?}\n{}",
                self.stderr()
            );
            // Output is read meanwhile, so that nobody blocks on a full pipe.
            let fds = &mut [
                PollFd::new(self.stdout.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.jobcage.fd().unwrap(), PollFlags::POLLIN),
            ];
            let _ = poll(fds, left(end));
            let readable = fds[0].revents().is_some_and(|r| r.contains(PollFlags::POLLIN));
            if readable {
                self.read_more(end);
            } else if !self.jobcage.has_ended() && fds[0].revents().is_some_and(|r| !r.is_empty()) {
                // Nobody holds the output any more: only jobcage's own end is left to wait for.
                assert!(
                    self.jobcage.wait_end(within),
                    "jobcage has not ended\n{}",
                    self.stderr()
                );
            }
        }
        // Its last words may have come with its end.
        let ended = Instant::now();
        while Instant::now() < end && self.read_more(ended).is_some_and(|got| got > 0) {}
        let status = self.child.wait().unwrap();
        status
            .code()
            .unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
    }

    /// Waits for the end of the output: from then on no process holds it, wherever it may be.
    pub fn output_ended(&mut self, within: Duration) -> bool {
        let end = Instant::now() + within;
        loop {
            match self.read_more(end) {
                None => return false,
                Some(0) => return true,
                Some(_) => {}
            }
        }
    }

    /// Sends a signal to jobcage.
    pub fn signal(&self, signal: Signal) {
        self.jobcage.signal(signal);
    }

    /// Stops jobcage itself, as Ctrl-Z or a debugger would, and waits until it has stopped.
    pub fn stop(&self) {
        self.signal(Signal::SIGSTOP);
        let end = Instant::now() + PATIENCE;
        while !stat(self.jobcage.pid).is_some_and(|(_, state, _)| matches!(state, 'T' | 't')) {
            assert!(
                Instant::now() < end && !self.jobcage.has_ended(),
                "jobcage does not stop"
            );
            // It is not our place to wait for its stop by waitid, so /proc is read again; it takes microseconds.
            std::thread::yield_now();
        }
    }

    /// What was written to stdout until now.
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.seen).into_owned()
    }

    /// What was written to stderr until now.
    pub fn stderr(&self) -> String {
        let text = fs::read(&self.stderr_file).unwrap_or_default();
        String::from_utf8_lossy(&text).into_owned()
    }

    /// The report that `--report` wrote.
    pub fn report(&self) -> Report {
        read_report(&self.report_file)
    }
}

/// Reads a report, strictly: what a reader with these types cannot read is a fault.
pub fn read_report(path: &std::path::Path) -> Report {
    let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("no report at {}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}\n{text}", path.display()))
}
