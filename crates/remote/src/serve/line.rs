//! The line as the host has it: frames by standard input and output.

use super::SILENCE;
use crate::buffer::Buffer;
use crate::error::{RemoteError, Result};
use crate::frame::{Answer, Ask, DATA_HEAD, Frames, PIECE, data_head};
use crate::wait::wait_for;
use jobcage_ledger::log::{Outlet, Tap, Tapped};
use jobcage_sys::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::poll::{PollFd, PollFlags};
use nix::unistd::read;
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

/// What may wait for the line before no more is read of the logs: little, since more of it is in the pipe.
const QUEUE: usize = PIECE;
/// What the pipe to sshd takes.
const PIPE: i32 = 1 << 19;

/// Standard input and output, which are the line.
pub(super) struct Line {
    out: Outlet,
    frames: Frames,
    /// Heard, and not heeded yet.
    later: VecDeque<Ask>,
    queue: Buffer,
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
            queue: Buffer::default(),
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
        self.queue.len() < QUEUE
    }

    pub(super) fn say(&mut self, answer: &Answer<'_>) {
        self.put(&answer.encode());
    }

    pub(super) fn put(&mut self, bytes: &[u8]) {
        self.queue.push(bytes);
    }

    /// Has the next piece of output put right behind what waits. Whatever else is there to be said of it is the caller's.
    pub(super) fn take_output(&mut self, tap: &mut Tap<'_>) -> Result<Tapped> {
        let (head, piece) = self.queue.room(DATA_HEAD + PIECE).split_at_mut(DATA_HEAD);
        let tapped = tap.next(piece)?;
        if let Tapped::Bytes { place, offset, bytes } = tapped {
            head.copy_from_slice(&data_head(place, offset, bytes));
            self.queue.filled(DATA_HEAD + bytes);
        }
        Ok(tapped)
    }

    fn push(&mut self) {
        while !self.queue.is_empty() && !self.is_over {
            match self.out.offer(self.queue.front()) {
                Ok(0) => break,
                Ok(n) => self.queue.taken(n),
                Err(_) => self.is_over = true,
            }
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

    /// Waits for the line, for others, for a time, and for room where there was none; moves what can be moved.
    pub(super) fn turn_with<const N: usize>(
        &mut self,
        also: &[Option<BorrowedFd<'_>>; N],
        time: Option<Duration>,
    ) -> Result<([bool; N], bool)> {
        let had_room = self.has_room();
        self.push();
        if self.is_over {
            return Ok(([false; N], true));
        }
        // Who has waited for room is not told of it by poll: nothing is waiting any more.
        let time = if self.has_room() && !had_room {
            Some(Duration::ZERO)
        } else {
            time
        };
        let left = (self.heard + self.silence).saturating_duration_since(Instant::now());
        let stdin = std::io::stdin();
        let ours = [
            Some(PollFd::new(stdin.as_fd(), PollFlags::POLLIN)),
            self.out.poll_fd(),
        ];
        let theirs = also.map(|fd| fd.map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        let time = time.unwrap_or(left).min(left);
        let ([heard, room], told) = wait_for(ours, theirs, Some(time))?;
        self.out.told(room);
        if !heard.is_empty() {
            self.hear();
        }
        let told = told.map(|events| !events.is_empty());
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
