//! Who follows the output of a job: from log to outlet, and asleep while there is nothing to do. It asks nobody and is known
//! to nobody: a job cannot be slowed by whoever reads its files.

use super::outlet::Outlet;
use super::pace::{Pace, ROUND};
use super::reader::Copied;
use super::sources::{End, Sources, Start, Wanted, io};
use super::watch::{LOOK_AGAIN, Watch};
use crate::error::Result;
use crate::record::Record;
use jobcage_job::{CaptureSpec, Stream};
use jobcage_sys::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

/// The most that is passed on at once.
const AT_MOST: usize = 1 << 20;
/// Less than this is little: what a pipe holds.
const MUCH: usize = 65536;
/// Between two looks at one stream while the other one is stuck: a watch would wake us at each write into the stuck one.
const BESIDE_A_STUCK_ONE: Duration = Duration::from_millis(40);

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
    /// An outlet could not be written to.
    OutputFailed(Errno),
}

/// What one look at all logs came to.
enum Look {
    Happened(Happening),
    Moved { much: bool },
    Stuck,
    Nothing,
}

/// The follower of one job.
#[derive(Debug)]
pub struct Follower<'a> {
    until: Until,
    sources: Sources<'a>,
    watch: Watch,
    is_armed: bool,
    /// Whether the step's end was looked for since something was passed on.
    is_end_known: bool,
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
        let mut sources = Sources::new(record, capture, wanted, start)?;
        if until == Until::Now {
            sources.stop_now()?;
        }
        Ok(Self {
            watch: Watch::new(record.dir()),
            until,
            sources,
            is_armed: false,
            is_end_known: false,
            pace: Pace::new(Instant::now()),
        })
    }

    /// How many logs there are to follow by now.
    #[must_use]
    pub fn logs(&self) -> usize {
        self.sources.all.len()
    }

    /// Where it stands in a log; `None`: that log is not there yet.
    #[must_use]
    pub fn offset(&self, step: u32, stream: Stream) -> Option<u64> {
        self.sources.get(step, stream).map(|source| source.log.offset())
    }

    /// Passes on what comes until something happens that is the caller's business. `wake` is a descriptor of the caller
    /// that ends the wait when it is readable.
    ///
    /// # Errors
    /// If a log cannot be read.
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
                    self.is_end_known = false;
                    let rest = !much && self.pace.is_to_rest(Instant::now());
                    let time = if rest { ROUND } else { Duration::ZERO };
                    // Without a rest only to hear the caller's signals.
                    let wait = rest || wake.is_some();
                    wait.then(|| self.wait(out, err, wake, Some(time), false))
                        .flatten()
                }
                Look::Stuck if self.sources.have_two_ways_out() => {
                    let happened = self.wait(out, err, wake, Some(BESIDE_A_STUCK_ONE), false);
                    self.sources.list()?;
                    happened
                }
                Look::Stuck => self.wait(out, err, wake, None, false),
                Look::Nothing if self.sources.end == End::Over => Some(Happening::Over),
                Look::Nothing if self.sources.end == End::Removed => Some(Happening::Removed),
                Look::Nothing if !self.is_armed => {
                    // Only now: what was told is on its way already.
                    self.watch.clear();
                    self.watch.arm();
                    self.is_armed = true;
                    // What came before the watch was there is not told by it: look at everything once more.
                    self.sources.list()?;
                    self.is_end_known = false;
                    None
                }
                // After all that came before the watch has been passed on, and anew when more has: neither is told again.
                Look::Nothing if !self.is_end_known => {
                    self.look_for_the_end()?;
                    self.is_end_known = true;
                    None
                }
                Look::Nothing => self.wait(out, err, wake, None, true),
            };
            if let Some(happening) = happened {
                return Ok(happening);
            }
        }
    }

    /// One look at the logs. One of a later step has its turn when the earlier ones have nothing.
    fn look(&mut self, out: &mut Outlet, err: &mut Outlet) -> Result<Look> {
        let (mut moved, mut much, mut stuck) = (false, false, false);
        let mut busy_step = None;
        for source in &mut self.sources.all {
            if busy_step.is_some_and(|step| step < source.step) {
                break;
            }
            let outlet = if source.to_stderr { &mut *err } else { &mut *out };
            if source.to_stderr && outlet.is_gone() {
                continue;
            }
            let copied = match source.log.copy(outlet, AT_MOST) {
                Err(errno) if outlet.has_failed() => {
                    return Ok(Look::Happened(Happening::OutputFailed(errno)));
                }
                other => other.map_err(|errno| io(self.sources.record, source, errno))?,
            };
            match copied {
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
        let mut fds = Vec::new();
        let out_at = out.poll_fd().map(|fd| push(&mut fds, fd));
        let err_at = err.poll_fd().map(|fd| push(&mut fds, fd));
        let wake_at = wake.map(|fd| push(&mut fds, PollFd::new(fd, PollFlags::POLLIN)));
        let watch_at = watch.map(|fd| push(&mut fds, PollFd::new(fd, PollFlags::POLLIN)));
        // Interrupted: look again.
        let _ = ppoll(&mut fds, time.map(TimeSpec::from), None);
        let events: Vec<PollFlags> = fds
            .iter()
            .map(|fd| fd.revents().unwrap_or(PollFlags::empty()))
            .collect();
        let told = |at: Option<usize>| at.map_or(PollFlags::empty(), |at| events[at]);
        out.told(told(out_at));
        err.told(told(err_at));
        if watching && (watch_at.is_none() || !told(watch_at).is_empty()) {
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

    /// For one step: whether its main process has ended and all that was in its logs then is passed on.
    fn look_for_the_end(&mut self) -> Result<()> {
        let Until::StepEnded(number) = self.until else {
            return Ok(());
        };
        let step = self.sources.record.step(number)?;
        let Some(step) = step.filter(|step| step.ended.is_some()) else {
            return Ok(());
        };
        let is_passed_on = step.logs.iter().all(|log| {
            let source = self.sources.get(number, log.stream);
            source.is_none_or(|source| source.log.offset() >= log.bytes)
        });
        if is_passed_on {
            self.sources.end = End::Over;
        }
        Ok(())
    }
}

fn push<'fd>(fds: &mut Vec<PollFd<'fd>>, fd: PollFd<'fd>) -> usize {
    fds.push(fd);
    fds.len() - 1
}
