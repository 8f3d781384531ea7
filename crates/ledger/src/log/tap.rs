//! Who takes the output of a job as pieces that carry their place, to send them on. It never waits: its caller has other things to
//! listen to, and asks [`Tap::fd`] when there is more.

use super::pace::{Pace, ROUND};
use super::sources::{End, Sources, Start, Wanted, io};
use super::watch::{LOOK_AGAIN, Watch};
use crate::error::Result;
use crate::record::Record;
use jobcage_job::{CaptureSpec, Stream};
use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

/// A log of a job: its step and its stream.
pub type Place = (u32, Stream);

/// What a look came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tapped {
    /// So many bytes are in the buffer, the first of which stands at `offset` of this log.
    Bytes {
        /// Which log.
        place: Place,
        /// Where in it.
        offset: u64,
        /// How many.
        bytes: usize,
    },
    /// So many bytes of this log are lost: they were dropped at its limit before they could be read.
    Lost {
        /// Which log.
        place: Place,
        /// How many.
        bytes: u64,
    },
    /// There is no more for now.
    Nothing,
    /// The job is over, and all its output was taken.
    Over,
    /// The record was removed before the job was seen to be over.
    Removed,
}

/// All logs of one job.
#[derive(Debug)]
pub struct Tap<'a> {
    sources: Sources<'a>,
    /// Where to begin with logs that have not been met yet.
    points: BTreeMap<Place, u64>,
    met: usize,
    /// Whose turn it was last: the other stream of its step comes first now.
    last: Option<Place>,
    watch: Watch,
    is_armed: bool,
    pace: Pace,
}

impl<'a> Tap<'a> {
    /// A tap of a job whose output is captured, which begins with each log at its point, or at its first byte.
    ///
    /// # Errors
    /// If the record cannot be read.
    pub fn new(record: &'a Record, capture: CaptureSpec, points: BTreeMap<Place, u64>) -> Result<Self> {
        let mut tap = Self {
            sources: Sources::new(record, capture, Wanted::default(), Start::Offset(0))?,
            points,
            met: 0,
            last: None,
            watch: Watch::new(record.dir()),
            is_armed: false,
            pace: Pace::new(Instant::now()),
        };
        tap.meet();
        Ok(tap)
    }

    /// What is readable when there is more; `None`: look again after [`Tap::PAUSE`].
    #[must_use]
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.watch.fd()
    }

    /// Between two looks where nothing tells of more.
    pub const PAUSE: Duration = LOOK_AGAIN;

    /// To be called when [`Tap::fd`] is readable: it tells once.
    pub fn woken(&mut self) {
        self.is_armed = false;
    }

    /// Whether to wait so long before the next look: who takes each line of many by itself is slower than their writer.
    pub fn rest(&mut self) -> Option<Duration> {
        self.pace.is_to_rest(Instant::now()).then_some(ROUND)
    }

    /// Takes the next piece. A log of a later step has its turn when the earlier ones have nothing.
    ///
    /// # Errors
    /// If a log cannot be read.
    pub fn next(&mut self, buffer: &mut [u8]) -> Result<Tapped> {
        loop {
            if let Some(piece) = self.piece(buffer)? {
                return Ok(piece);
            }
            match self.sources.end {
                End::Over => return Ok(Tapped::Over),
                End::Removed => return Ok(Tapped::Removed),
                End::NotYet if self.is_armed => return Ok(Tapped::Nothing),
                End::NotYet => {}
            }
            // What was told is on its way already; what comes before the watch is there is not told: look at everything once more.
            self.watch.clear();
            self.watch.arm();
            self.is_armed = true;
            self.sources.list()?;
            self.meet();
        }
    }

    fn piece(&mut self, buffer: &mut [u8]) -> Result<Option<Tapped>> {
        let last = self.last;
        let mut sources: Vec<_> = self.sources.all.iter_mut().collect();
        sources.sort_by_key(|source| (source.step, last == Some((source.step, source.stream))));
        for source in sources {
            let place = (source.step, source.stream);
            let read = source.log.read(buffer);
            let piece = read.map_err(|errno| io(self.sources.record, source, errno))?;
            let offset = source.log.offset() - piece.bytes as u64;
            if piece.lost > 0 {
                // The bytes behind the loss have their turn next.
                source.log.seek(offset);
                return Ok(Some(Tapped::Lost {
                    place,
                    bytes: piece.lost,
                }));
            }
            if piece.bytes > 0 {
                self.last = Some(place);
                return Ok(Some(Tapped::Bytes {
                    place,
                    offset,
                    bytes: piece.bytes,
                }));
            }
        }
        Ok(None)
    }

    /// Sends those that were not met yet to their points.
    fn meet(&mut self) {
        if self.met == self.sources.all.len() {
            return;
        }
        for source in &mut self.sources.all {
            if let Some(point) = self.points.remove(&(source.step, source.stream)) {
                source.log.seek(point);
            }
        }
        self.met = self.sources.all.len();
    }
}
