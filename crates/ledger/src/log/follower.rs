//! Who follows the output of a job: from log to outlet, and asleep while there is nothing to do. It asks nobody and is known
//! to nobody: a job cannot be slowed by whoever reads its files.

use super::outlet::Outlet;
use super::pace::{Pace, ROUND};
use super::reader::{Copied, LogReader};
use super::tail::tail;
use super::watch::{LOOK_AGAIN, Watch};
use super::{name, parse_name};
use crate::error::{LedgerError, Result};
use crate::record::{REPORT, Record, SPEC};
use jobcage_job::{CaptureSpec, Stream, Streams};
use jobcage_sys::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::stat::Mode;
use nix::sys::time::TimeSpec;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

/// The most that is passed on at once.
const AT_MOST: usize = 1 << 20;
/// Less than this is little: what a pipe holds.
const MUCH: usize = 65536;
/// Between two looks at one stream while the other one is stuck: a watch would wake us at each write into the stuck one.
const BESIDE_A_STUCK_ONE: Duration = Duration::from_millis(40);

/// Which logs to follow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Of this step only; `None`: of all steps, in their order.
    pub step: Option<u32>,
    /// This stream only, to the outlet for stdout; `None`: all that there are.
    pub stream: Option<Stream>,
}

/// Where to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// With this byte of the first step's log; later steps from their first.
    Offset(u64),
    /// With the last lines that are there now.
    Lines(u64),
}

/// When to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// With what is there now.
    Now,
    /// When the job is over.
    JobOver,
    /// When this step's main process has ended and what it wrote is passed on.
    StepEnded(u32),
}

/// Why [`Follower::next`] came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happening {
    /// So many bytes of this log were dropped before they could be read; what comes next stands behind them.
    Lost {
        /// The step.
        step: u32,
        /// Its stream.
        stream: Stream,
        /// How many.
        bytes: u64,
    },
    /// The caller's descriptor is readable.
    Woken,
    /// Everything was passed on.
    Over,
    /// The record was removed before the job was seen to be over. What could be read of it was passed on.
    Removed,
    /// Nobody reads the outlet for stdout any more.
    OutputGone,
}

#[derive(Debug)]
struct Source {
    step: u32,
    stream: Stream,
    log: LogReader,
    to_stderr: bool,
}

/// What one look at all logs came to.
enum Look {
    Happened(Happening),
    Moved { much: bool },
    Stuck,
    Nothing,
}

/// What is known of the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    NotYet,
    Over,
    Removed,
}

/// The follower of one job.
#[derive(Debug)]
pub struct Follower<'a> {
    record: &'a Record,
    listing: nix::dir::Dir,
    capture: CaptureSpec,
    wanted: Wanted,
    start: Start,
    until: Until,
    sources: Vec<Source>,
    end: End,
    watch: Watch,
    is_armed: bool,
    pace: Pace,
}

impl<'a> Follower<'a> {
    /// A follower of a job whose output is captured.
    ///
    /// # Errors
    /// If the record cannot be read.
    pub fn new(
        record: &'a Record,
        capture: CaptureSpec,
        wanted: Wanted,
        start: Start,
        until: Until,
    ) -> Result<Self> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let listing = nix::dir::Dir::openat(record.dir(), ".", flags, Mode::empty())
            .map_err(|errno| LedgerError::io("list", record.path(), errno))?;
        let mut follower = Self {
            watch: Watch::new(record.dir()),
            record,
            listing,
            capture,
            wanted,
            start,
            until,
            sources: Vec::new(),
            end: End::NotYet,
            is_armed: false,
            pace: Pace::new(Instant::now()),
        };
        follower.list()?;
        if let Start::Lines(lines) = start {
            follower.begin_with_lines(lines)?;
        }
        if until == Until::Now {
            follower.end = End::Over;
            for source in &mut follower.sources {
                let len = source.log.len();
                source
                    .log
                    .stop_at(len.map_err(|errno| io(record, source, errno))?);
            }
        }
        Ok(follower)
    }

    /// How many logs there are to follow by now.
    #[must_use]
    pub fn logs(&self) -> usize {
        self.sources.len()
    }

    /// Where it stands in a log; `None`: that log is not there yet.
    #[must_use]
    pub fn offset(&self, step: u32, stream: Stream) -> Option<u64> {
        let found = self.sources.iter().find(|s| (s.step, s.stream) == (step, stream));
        found.map(|source| source.log.offset())
    }

    /// Passes on what comes until something happens that is the caller's business. `wake` is a descriptor of the caller
    /// that ends the wait when it is readable.
    ///
    /// # Errors
    /// If a log cannot be read or an outlet not be written to.
    pub fn next(
        &mut self,
        out: &mut Outlet,
        err: &mut Outlet,
        wake: Option<BorrowedFd<'_>>,
    ) -> Result<Happening> {
        loop {
            let look = self.look(out, err)?;
            let happened = match look {
                Look::Happened(happening) => Some(happening),
                Look::Moved { much } => {
                    let rest = !much && self.pace.is_to_rest(Instant::now());
                    let time = if rest { ROUND } else { Duration::ZERO };
                    // Without a rest only to hear the caller's signals.
                    let wait = rest || wake.is_some();
                    wait.then(|| self.wait(out, err, wake, Some(time), false))
                        .flatten()
                }
                Look::Stuck if self.has_two_ways_out() => {
                    let happened = self.wait(out, err, wake, Some(BESIDE_A_STUCK_ONE), false);
                    self.list()?;
                    happened
                }
                Look::Stuck => self.wait(out, err, wake, None, false),
                Look::Nothing if self.end == End::Over => Some(Happening::Over),
                Look::Nothing if self.end == End::Removed => Some(Happening::Removed),
                Look::Nothing if !self.is_armed => {
                    self.watch.arm();
                    self.is_armed = true;
                    // What came before the watch was there is not told by it: look at everything once more.
                    self.list()?;
                    self.look_for_the_end()?;
                    None
                }
                Look::Nothing => self.wait(out, err, wake, None, true),
            };
            if let Some(happening) = happened {
                return Ok(happening);
            }
        }
    }

    /// Whether stderr may come while stdout is stuck, or the other way round.
    fn has_two_ways_out(&self) -> bool {
        self.capture.streams == Streams::Split && self.wanted.stream.is_none()
    }

    /// One look at the logs. One of a later step has its turn when the earlier ones have nothing.
    fn look(&mut self, out: &mut Outlet, err: &mut Outlet) -> Result<Look> {
        let (mut moved, mut much, mut stuck) = (false, false, false);
        let mut busy_step = None;
        for source in &mut self.sources {
            if busy_step.is_some_and(|step| step < source.step) {
                break;
            }
            let outlet = if source.to_stderr { &mut *err } else { &mut *out };
            if source.to_stderr && outlet.is_gone() {
                continue;
            }
            let copied = source.log.copy(outlet, AT_MOST);
            match copied.map_err(|errno| io(self.record, source, errno))? {
                Copied::Bytes(n) => {
                    moved = true;
                    much |= n >= MUCH || outlet.is_full();
                }
                Copied::Blocked => stuck = true,
                Copied::Nothing => continue,
                Copied::Lost(bytes) => {
                    return Ok(Look::Happened(Happening::Lost {
                        step: source.step,
                        stream: source.stream,
                        bytes,
                    }));
                }
                Copied::Gone if !source.to_stderr => return Ok(Look::Happened(Happening::OutputGone)),
                Copied::Gone => continue,
            }
            busy_step = Some(source.step);
        }
        Ok(match (moved, stuck) {
            (true, _) => Look::Moved { much },
            (false, true) => Look::Stuck,
            (false, false) => Look::Nothing,
        })
    }

    /// Waits for the outlets, for the caller's descriptor and, `watching`, for the record.
    fn wait(
        &mut self,
        out: &mut Outlet,
        err: &mut Outlet,
        wake: Option<BorrowedFd<'_>>,
        time: Option<Duration>,
        watching: bool,
    ) -> Option<Happening> {
        let watch = self.watch.fd().filter(|_| watching);
        let time = if watching && watch.is_none() {
            Some(LOOK_AGAIN)
        } else {
            time
        };
        let mut fds = vec![out.poll_fd()];
        let err_at = (!err.is_gone()).then(|| push(&mut fds, err.poll_fd()));
        let wake_at = wake.map(|fd| push(&mut fds, PollFd::new(fd, PollFlags::POLLIN)));
        let watch_at = watch.map(|fd| push(&mut fds, PollFd::new(fd, PollFlags::POLLIN)));
        // Interrupted: look again.
        let _ = ppoll(&mut fds, time.map(TimeSpec::from), None);
        let events: Vec<PollFlags> = fds
            .iter()
            .map(|fd| fd.revents().unwrap_or(PollFlags::empty()))
            .collect();
        let told = |at: Option<usize>| at.map_or(PollFlags::empty(), |at| events[at]);
        out.told(events[0]);
        err.told(told(err_at));
        if watching && (watch_at.is_none() || !told(watch_at).is_empty()) {
            self.watch.clear();
            self.is_armed = false;
        }
        if out.is_gone() {
            Some(Happening::OutputGone)
        } else if !told(wake_at).is_empty() {
            Some(Happening::Woken)
        } else {
            None
        }
    }

    /// Looks which logs there are by now, and whether the job is over.
    fn list(&mut self) -> Result<()> {
        let (mut is_over, mut is_there, mut logs) = (false, false, Vec::new());
        for entry in self.listing.iter() {
            // A directory that was removed lists nothing, or this.
            let Ok(entry) = entry else { break };
            match entry.file_name().to_str() {
                Ok(REPORT) => is_over = true,
                Ok(SPEC) => is_there = true,
                Ok(other) => logs.extend(parse_name(other)),
                Err(_) => {}
            }
        }
        for (step, stream) in logs {
            self.add(step, stream)?;
        }
        self.sources.sort_by_key(|source| (source.step, source.stream));
        if self.end != End::NotYet {
            return Ok(());
        }
        // Whoever removes a record begins with the spec.
        self.end = match (is_over, is_there) {
            (true, _) => End::Over,
            (false, true) => return Ok(()),
            (false, false) => End::Removed,
        };
        // The report may have come while the names were read, and a log before it that was not seen.
        self.list()
    }

    fn add(&mut self, step: u32, stream: Stream) -> Result<()> {
        let is_wanted = self.wanted.step.is_none_or(|wanted| wanted == step)
            && self.wanted.stream.is_none_or(|wanted| wanted == stream);
        let is_known = self.sources.iter().any(|s| (s.step, s.stream) == (step, stream));
        if !is_wanted || is_known {
            return Ok(());
        }
        let mut log = match LogReader::open(self.record.dir(), &name(step, stream), self.capture.into()) {
            Ok(log) => log,
            // Removed at this moment.
            Err(Errno::ENOENT) => return Ok(()),
            Err(errno) => {
                let path = self.record.path().join(name(step, stream));
                return Err(LedgerError::io("open", &path, errno));
            }
        };
        match self.start {
            Start::Offset(offset) if step == self.wanted.step.unwrap_or(1) => log.seek(offset),
            _ => {}
        }
        self.sources.push(Source {
            step,
            stream,
            log,
            to_stderr: stream == Stream::Stderr && self.wanted.stream.is_none(),
        });
        Ok(())
    }

    /// Of each stream so many lines, from the last step's log backwards.
    fn begin_with_lines(&mut self, lines: u64) -> Result<()> {
        for stream in [Stream::Merged, Stream::Stdout, Stream::Stderr] {
            let mut left = lines;
            for source in self.sources.iter_mut().rev().filter(|s| s.stream == stream) {
                let found = tail(&mut source.log, left).map_err(|errno| io(self.record, source, errno))?;
                source.log.seek(found.offset);
                left -= found.lines;
            }
        }
        Ok(())
    }

    /// For one step: whether its main process has ended and all that was in its logs then is passed on.
    fn look_for_the_end(&mut self) -> Result<()> {
        let Until::StepEnded(number) = self.until else {
            return Ok(());
        };
        let Some(step) = self.record.step(number)?.filter(|step| step.ended.is_some()) else {
            return Ok(());
        };
        let is_passed_on = step.logs.iter().all(|log| {
            let source = self
                .sources
                .iter()
                .find(|s| (s.step, s.stream) == (number, log.stream));
            source.is_none_or(|source| source.log.offset() >= log.bytes)
        });
        if is_passed_on {
            self.end = End::Over;
        }
        Ok(())
    }
}

fn push<'fd>(fds: &mut Vec<PollFd<'fd>>, fd: PollFd<'fd>) -> usize {
    fds.push(fd);
    fds.len() - 1
}

fn io(record: &Record, source: &Source, errno: Errno) -> LedgerError {
    let path = record.path().join(name(source.step, source.stream));
    LedgerError::io("pass on", &path, errno)
}
