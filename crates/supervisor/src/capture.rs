//! Captured output that is passed on: for `--idle-timeout`, which has to see it.
//!
//! The job writes into a pipe of ours, and we write the same bytes where it would have written. A destination that does
//! not take them stalls the job, as it would without us, but never us: we write only when poll says that a write of
//! `PIPE_BUF` will not block.

use crate::error::{Failure, Result};
use jobcage_sys::Errno;
use nix::fcntl::OFlag;
use nix::libc::PIPE_BUF;
use nix::poll::{PollFd, PollFlags};
use nix::unistd::{Gid, Uid, fchown, pipe2, read, write};
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
