//! The line as the host has it: frames by standard input and output.

use super::SILENCE;
use crate::error::{RemoteError, Result};
use crate::frame::{Answer, Ask, Frames, PIECE, Place, put_data};
use jobcage_ledger::log::Outlet;
use jobcage_sys::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use nix::unistd::read;
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

/// What may wait for the line before no more is read of the logs.
const QUEUE: usize = 1 << 20;
/// What the pipe to sshd takes.
const PIPE: i32 = 1 << 19;

/// Standard input and output, which are the line.
pub(super) struct Line {
    out: Outlet,
    frames: Frames,
    /// Heard, and not heeded yet.
    later: VecDeque<Ask>,
    queue: Vec<u8>,
    sent: usize,
    heard: Instant,
    silence: Duration,
    is_over: bool,
}

/// What a turn came to.
pub(super) struct Turned {
    /// The caller's descriptor is readable.
    pub(super) told: bool,
    /// The line has ended.
    pub(super) ended: bool,
}

impl Line {
    pub(super) fn new() -> Result<Self> {
        // Fewer turns for the same output; where sshd has given us a socket, it has its own size.
        let _ = fcntl(std::io::stdout(), FcntlArg::F_SETPIPE_SZ(PIPE));
        Ok(Self {
            out: Outlet::new(std::io::stdout().as_fd()).map_err(RemoteError::system("look at the line"))?,
            frames: Frames::default(),
            later: VecDeque::new(),
            queue: Vec::new(),
            sent: 0,
            heard: Instant::now(),
            silence: SILENCE,
            is_over: false,
        })
    }

    /// How long a client may say nothing.
    pub(super) fn set_silence(&mut self, silence: Duration) {
        self.silence = silence;
    }

    pub(super) fn has_room(&self) -> bool {
        self.queue.len() - self.sent < QUEUE
    }

    pub(super) fn say(&mut self, answer: &Answer) {
        self.put(&answer.encode());
    }

    pub(super) fn put(&mut self, bytes: &[u8]) {
        self.queue().extend_from_slice(bytes);
    }

    pub(super) fn data(&mut self, place: Place, offset: u64, bytes: &[u8]) {
        put_data(self.queue(), place, offset, bytes);
    }

    fn queue(&mut self) -> &mut Vec<u8> {
        if self.sent == self.queue.len() {
            self.queue.clear();
            self.sent = 0;
        }
        &mut self.queue
    }

    fn push(&mut self) {
        while self.sent < self.queue.len() {
            match self.out.offer(&self.queue[self.sent..]) {
                Ok(0) => break,
                Ok(n) => self.sent += n,
                Err(_) => self.is_over = true,
            }
            if self.is_over {
                break;
            }
        }
        if self.sent >= QUEUE {
            self.queue.drain(..self.sent);
            self.sent = 0;
        }
        self.is_over |= self.out.is_gone();
    }

    /// What was heard already.
    pub(super) fn take(&mut self) -> Result<Option<Ask>> {
        // What came before.
        if let Some(ask) = self.later.pop_front() {
            return Ok(Some(ask));
        }
        Ok(match self.frames.next()? {
            Some((kind, text)) => Some(Ask::decode(kind, text)?),
            None => None,
        })
    }

    /// Answers that we are there; other words wait.
    pub(super) fn beat(&mut self) -> Result<()> {
        while let Some((kind, text)) = self.frames.next()? {
            match Ask::decode(kind, text)? {
                Ask::Ping => self.say(&Answer::Pong),
                other => self.later.push_back(other),
            }
        }
        Ok(())
    }

    /// The next word; `None`: the line has ended.
    pub(super) fn next(&mut self, time: Option<Duration>) -> Result<Option<Ask>> {
        loop {
            if let Some(ask) = self.take()? {
                return Ok(Some(ask));
            }
            if self.turn(None, time)?.ended {
                return Ok(None);
            }
        }
    }

    pub(super) fn turn(&mut self, also: Option<BorrowedFd<'_>>, time: Option<Duration>) -> Result<Turned> {
        let (told, ended) = self.turn_with(&[also], time)?;
        Ok(Turned { told: told[0], ended })
    }

    /// Waits for the line, for others, and for a time; moves what can be moved.
    pub(super) fn turn_with<const N: usize>(
        &mut self,
        also: &[Option<BorrowedFd<'_>>; N],
        time: Option<Duration>,
    ) -> Result<([bool; N], bool)> {
        self.push();
        if self.is_over {
            return Ok(([false; N], true));
        }
        let left = (self.heard + self.silence).saturating_duration_since(Instant::now());
        let stdin = std::io::stdin();
        let mut fds = vec![PollFd::new(stdin.as_fd(), PollFlags::POLLIN), self.out.poll_fd()];
        let at: Vec<Option<usize>> = also
            .iter()
            .map(|fd| {
                fd.map(|fd| {
                    fds.push(PollFd::new(fd, PollFlags::POLLIN));
                    fds.len() - 1
                })
            })
            .collect();
        match ppoll(
            &mut fds,
            Some(TimeSpec::from(time.unwrap_or(left).min(left))),
            None,
        ) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(RemoteError::system("wait")(errno)),
        }
        let events: Vec<PollFlags> = fds
            .iter()
            .map(|fd| fd.revents().unwrap_or(PollFlags::empty()))
            .collect();
        drop(fds);
        self.out.told(events[1]);
        let mut told = [false; N];
        for (told, at) in told.iter_mut().zip(at) {
            *told = at.is_some_and(|at| !events[at].is_empty());
        }
        if !events[0].is_empty() {
            self.hear();
        }
        self.push();
        self.is_over |= self.heard.elapsed() >= self.silence;
        Ok((told, self.is_over))
    }

    fn hear(&mut self) {
        match read(std::io::stdin().as_fd(), self.frames.room(PIECE)) {
            Ok(0) => self.is_over = true,
            Ok(n) => {
                self.heard = Instant::now();
                self.frames.filled(n);
            }
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(_) => self.is_over = true,
        }
    }

    /// Has all of it heard, and leaves when the client does.
    pub(super) fn finish(&mut self) -> Result<()> {
        while self.next(None)?.is_some() {}
        Ok(())
    }
}
