//! Captured output that is passed on: for `--idle-timeout`, which has to see it.
//!
//! The job writes into a pipe of ours, and we write the same bytes where it would have written. A destination that does
//! not take them stalls the job, as it would without us, but never us: we write only when poll says that a write of
//! `PIPE_BUF` will not block.

use crate::error::{Failure, Result};
use jobcage_job::LogReport;
use jobcage_sys::Errno;
use nix::fcntl::OFlag;
use nix::libc::PIPE_BUF;
use nix::poll::{PollFd, PollFlags};
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Uid, fchown, pipe2, read, write};
use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

/// One captured stream.
#[derive(Debug)]
pub(crate) struct Stream {
    /// `None`: the job's end is closed and all was read, or nobody wants it any more.
    source: Option<OwnedFd>,
    /// The job's end, until the job has it.
    pub(crate) job_end: Option<OwnedFd>,
    to_stderr: bool,
    buffer: Vec<u8>,
    log: Option<Log>,
}

/// Where the same bytes are kept. The reader on the other side matters more: a log that takes no more is given up.
#[derive(Debug)]
struct Log {
    file: File,
    bytes: u64,
    whole: bool,
}

/// So much of a stream is kept at most.
const MOST: u64 = 64 << 20;

impl Log {
    fn take(&mut self, piece: &[u8]) {
        let fits = self.bytes + piece.len() as u64 <= MOST;
        if self.whole && fits && self.file.write_all(piece).is_ok() {
            self.bytes += piece.len() as u64;
        } else {
            self.whole = false;
        }
    }
}

impl Stream {
    /// A pipe for stdout or stderr. A pipe belongs to whoever made it, and `/dev/stdout` is opened by name: so it is given
    /// to the job's user.
    pub(crate) fn new(to_stderr: bool, owner: Option<u32>) -> Result<Self> {
        let (source, job_end) = pipe2(OFlag::O_CLOEXEC).map_err(Failure::system("make a pipe"))?;
        if let Some(uid) = owner {
            fchown(&job_end, Some(Uid::from_raw(uid)), None::<Gid>)
                .map_err(Failure::system("give the pipe away"))?;
        }
        Ok(Self {
            source: Some(source),
            job_end: Some(job_end),
            to_stderr,
            buffer: Vec::new(),
            log: None,
        })
    }

    /// Keeps what comes in a new log of this name in the directory of a record.
    pub(crate) fn keep_in(&mut self, record: BorrowedFd<'_>, name: &str) -> jobcage_sys::Result<()> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        let file = nix::fcntl::openat(record, name, flags, Mode::S_IRUSR | Mode::S_IWUSR)?;
        self.log = Some(Log {
            file: file.into(),
            bytes: 0,
            whole: true,
        });
        Ok(())
    }

    /// What is said of its log, if it has one.
    pub(crate) fn log(&self) -> Option<LogReport> {
        let log = self.log.as_ref()?;
        Some(LogReport {
            stream: jobcage_job::Stream::Merged,
            bytes: log.bytes,
            at_exit: Some(log.bytes),
            dropped: None,
            whole: log.whole && self.source.is_none(),
        })
    }

    /// What to wait for: for room if there is something to write, else for something to read.
    pub(crate) fn poll_fd<'a>(&'a self, stdio: &'a Stdio) -> Option<PollFd<'a>> {
        let source = self.source.as_ref()?;
        Some(if self.buffer.is_empty() {
            PollFd::new(source.as_fd(), PollFlags::POLLIN)
        } else {
            PollFd::new(stdio.fd(self.to_stderr), PollFlags::POLLOUT)
        })
    }

    /// Moves what can be moved without waiting; to be called when poll says so. Notes in `last` that there was output.
    pub(crate) fn step(&mut self, stdio: &Stdio, last: &mut Instant) {
        if self.buffer.is_empty() {
            self.fill(last);
        } else {
            self.drain(stdio);
        }
    }

    fn fill(&mut self, last: &mut Instant) {
        let Some(source) = &self.source else { return };
        let mut chunk = [0; PIPE_BUF];
        match read(source, &mut chunk) {
            Ok(0) => self.source = None,
            Ok(n) => {
                *last = Instant::now();
                self.buffer.extend_from_slice(&chunk[..n]);
                if let Some(log) = &mut self.log {
                    log.take(&chunk[..n]);
                }
            }
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(_) => self.source = None,
        }
    }

    fn drain(&mut self, stdio: &Stdio) {
        let n = self.buffer.len().min(PIPE_BUF);
        match write(stdio.fd(self.to_stderr), &self.buffer[..n]) {
            Ok(n) => drop(self.buffer.drain(..n)),
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            // The reader is gone: so is ours, and the job gets the SIGPIPE that it would have had without us.
            Err(_) => {
                self.buffer.clear();
                self.source = None;
            }
        }
    }

    /// Whether nothing is left to move for now: for the end, when nobody writes any more.
    pub(crate) fn is_dry(&self) -> bool {
        let Some(source) = &self.source else { return true };
        let mut fds = [PollFd::new(source.as_fd(), PollFlags::POLLIN)];
        let readable = nix::poll::poll(&mut fds, nix::poll::PollTimeout::ZERO).unwrap_or(0) > 0;
        let data = fds[0]
            .revents()
            .is_some_and(|events| events.contains(PollFlags::POLLIN));
        self.buffer.is_empty() && !(readable && data)
    }
}

/// Our own standard output and error.
#[derive(Debug)]
pub(crate) struct Stdio {
    out: std::io::Stdout,
    err: std::io::Stderr,
}

impl Stdio {
    pub(crate) fn new() -> Self {
        Self {
            out: std::io::stdout(),
            err: std::io::stderr(),
        }
    }

    fn fd(&self, stderr: bool) -> BorrowedFd<'_> {
        if stderr {
            self.err.as_fd()
        } else {
            self.out.as_fd()
        }
    }
}
