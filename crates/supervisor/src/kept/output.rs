//! The output of a step on its way from the pipe to the log.

use crate::error::{Failure, Result};
use jobcage_job::{CaptureSpec, LogReport, Stream, Streams};
use jobcage_ledger::log::{self, LogLimit, LogWriter, Taken};
use jobcage_sys::{Errno, file};
use nix::fcntl::{FcntlArg, fcntl};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// A pipe's usual capacity (pipe(7)).
const USUAL: usize = 64 * 1024;

/// The capacity of a pipe that was once found full: its writer goes on while we move, and both are woken up less often. No more than
/// this, since all pipes of a user without privileges may have 64 MiB together (pipe(7), `pipe-user-pages-soft`).
const WIDE: i32 = 256 * 1024;

/// What one splice moves at most.
const AT_ONCE: usize = WIDE as usize;

/// How long a pipe is left alone after a move of less than [`USUAL`], while its writer is busy: wake-ups are the
/// cost of lines, not bytes. Shorter than the time in which the writer could fill the pipe at its fastest.
const REST: Duration = Duration::from_micros(65);

/// How soon after a move the next one makes its writer a busy one.
const BUSY: Duration = Duration::from_millis(1);

/// What moving came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moved {
    /// Some output, or none.
    On,
    /// The log takes no more; the errno if a write failed. Told once: from here on output is dropped.
    Full(Option<i32>),
}

/// One pipe and its log.
#[derive(Debug)]
pub(super) struct Output {
    stream: Stream,
    /// `None`: read to its end.
    pipe: Option<OwnedFd>,
    log: LogWriter,
    at_exit: Option<u64>,
    /// Whether something was dropped, or the log's writer was lost.
    lost: bool,
    discarding: bool,
    is_wide: bool,
    last: Option<Instant>,
    rest_until: Option<Instant>,
}

/// The streams of a capture.
fn streams(capture: &CaptureSpec) -> &'static [Stream] {
    match capture.streams {
        Streams::Merged => &[Stream::Merged],
        Streams::Split => &[Stream::Stdout, Stream::Stderr],
    }
}

/// Opens or continues the logs of a step.
///
/// # Errors
/// If one of them cannot be opened.
pub(super) fn open(dir: BorrowedFd<'_>, step: u32, capture: &CaptureSpec) -> Result<Vec<Output>> {
    let logs = streams(capture).iter();
    let opened: jobcage_sys::Result<_> = logs
        .map(|stream| Output::new(dir, step, *stream, capture))
        .collect();
    opened.map_err(Failure::system("open the log of the step"))
}

impl Output {
    /// Opens or continues the log of a stream.
    ///
    /// # Errors
    /// If the log cannot be opened.
    fn new(
        dir: BorrowedFd<'_>,
        step: u32,
        stream: Stream,
        capture: &CaptureSpec,
    ) -> jobcage_sys::Result<Self> {
        let limit = LogLimit {
            max: capture.log_max,
            full: capture.log_full,
        };
        Ok(Self {
            stream,
            pipe: None,
            log: LogWriter::open(dir, &log::name(step, stream), limit, capture.sync)?,
            at_exit: None,
            lost: false,
            discarding: false,
            is_wide: false,
            last: None,
            rest_until: None,
        })
    }

    /// Which one it is.
    pub(super) fn stream(&self) -> Stream {
        self.stream
    }

    /// Reads from this pipe.
    pub(super) fn connect(&mut self, pipe: OwnedFd) {
        self.pipe = Some(pipe);
    }

    /// Goes on where a predecessor has given its log up.
    pub(super) fn go_on_dropping(&mut self) {
        self.discarding = true;
        self.lost = true;
    }

    /// The pipe to wait for; `None`: it has ended, or rests.
    pub(super) fn waiting(&self, now: Instant) -> Option<BorrowedFd<'_>> {
        let rests = self.rest_until.is_some_and(|until| until > now);
        self.pipe.as_ref().filter(|_| !rests).map(AsFd::as_fd)
    }

    /// When its rest is over.
    pub(super) fn rests_until(&self) -> Option<Instant> {
        self.rest_until.filter(|_| self.pipe.is_some())
    }

    /// Moves what is there, once: to be called when the pipe is readable. Notes in `last` that there was output.
    pub(super) fn step(&mut self, last: &mut Option<Instant>) -> Moved {
        self.rest_until = None;
        let (taken, told) = self.take(AT_ONCE);
        if let Taken::Bytes(n) = taken {
            let now = Instant::now();
            let busy = self.last.is_some_and(|before| now - before < BUSY);
            self.last = Some(now);
            *last = Some(now);
            if n >= USUAL {
                self.widen();
            } else if busy {
                self.rest_until = Some(now + REST);
            }
        }
        told
    }

    /// Gives the pipe more room, once. Where the user's limit forbids it, it stays as it is.
    fn widen(&mut self) {
        if let Some(pipe) = self.pipe.as_ref().filter(|_| !self.is_wide) {
            let _ = fcntl(pipe, FcntlArg::F_SETPIPE_SZ(WIDE));
        }
        self.is_wide = true;
    }

    fn take(&mut self, at_most: usize) -> (Taken, Moved) {
        let Some(pipe) = &self.pipe else {
            return (Taken::EndOfFile, Moved::On);
        };
        let taken = if self.discarding {
            self.log.discard(pipe.as_fd(), at_most)
        } else {
            self.log.take(pipe.as_fd(), at_most)
        };
        let told = match taken {
            Taken::Bytes(_) if self.discarding => {
                self.lost = true;
                Moved::On
            }
            Taken::Bytes(_) | Taken::Nothing => Moved::On,
            Taken::EndOfFile => {
                self.pipe = None;
                Moved::On
            }
            Taken::Full => self.give_up(None),
            Taken::Failed(_) if self.discarding => {
                self.pipe = None;
                Moved::On
            }
            Taken::Failed(errno) => self.give_up(Some(errno)),
        };
        (taken, told)
    }

    /// What comes from here on is dropped, so that the job never hangs on its log.
    fn give_up(&mut self, errno: Option<Errno>) -> Moved {
        self.discarding = true;
        self.lost = true;
        Moved::Full(errno.map(|errno| errno as i32))
    }

    /// Moves what the main process wrote before it ended, and no more: whoever is left of the step may go on for ever.
    pub(super) fn drain_to_exit(&mut self) -> Moved {
        let waiting = self
            .pipe
            .as_ref()
            .map_or(0, |pipe| file::bytes_waiting(pipe.as_fd()).unwrap_or(0));
        let told = self.drain(waiting);
        self.at_exit.get_or_insert(self.log.len());
        told
    }

    /// Moves everything that is in the pipe, whose writers are dead.
    pub(super) fn drain_to_end(&mut self) -> Moved {
        // Bounded, since a writer that was handed the pipe outside of the cage could fill it for ever.
        self.drain(4 << 20)
    }

    fn drain(&mut self, mut left: usize) -> Moved {
        let mut told = Moved::On;
        while left > 0 {
            let (taken, now) = self.take(left.min(AT_ONCE));
            if now != Moved::On {
                told = now;
            }
            match taken {
                Taken::Bytes(n) => left -= n.min(left),
                // The first failure turns to dropping, which then goes on.
                Taken::Full | Taken::Failed(_) if now != Moved::On => {}
                _ => break,
            }
        }
        told
    }

    /// Where the log was when the main process had ended, as another supervisor has written down.
    pub(super) fn remember(&mut self, report: &LogReport) {
        self.at_exit = report.at_exit;
    }

    /// Lets go of the pipe.
    pub(super) fn close(&mut self) {
        self.pipe = None;
    }

    /// What is said of it. `over`: nobody writes any more and everything was read.
    pub(super) fn report(&self, over: bool) -> LogReport {
        LogReport {
            stream: self.stream,
            bytes: self.log.len(),
            at_exit: self.at_exit,
            dropped: self.log.dropped(),
            whole: over && !self.lost,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jobcage_job::LogFull;
    use nix::unistd::{pipe, write};
    use std::fs::File;

    #[test]
    fn a_pipe_is_widened_once_its_writer_has_filled_it() {
        let dir = tempfile::tempdir().unwrap();
        let place = File::open(dir.path()).unwrap();
        let capture = CaptureSpec {
            streams: Streams::Merged,
            log_max: None,
            log_full: LogFull::Middle,
            sync: false,
        };
        let mut outputs = open(place.as_fd(), 1, &capture).unwrap();
        let output = &mut outputs[0];
        let (reader, writer) = pipe().unwrap();
        output.connect(reader);
        let capacity = || fcntl(&writer, FcntlArg::F_GETPIPE_SZ).unwrap();
        let usual = capacity();
        let bytes = vec![b'x'; usize::try_from(usual).unwrap()];
        for (amount, wanted) in [(1, usual), (bytes.len(), WIDE), (1, WIDE)] {
            write(&writer, &bytes[..amount]).unwrap();
            assert_eq!(output.step(&mut None), Moved::On);
            assert_eq!(capacity(), wanted);
        }
        assert_eq!(output.report(true).bytes, bytes.len() as u64 + 2);
    }
}
