//! The logs of a job that somebody follows: which there are, where to begin with each, and whether more can come.

use super::reader::LogReader;
use super::tail::tail;
use super::{name, parse_name};
use crate::error::{LedgerError, Result};
use crate::record::{REPORT, Record, SPEC};
use jobcage_job::{CaptureSpec, Stream};
use jobcage_sys::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

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

#[derive(Debug)]
pub(super) struct Source {
    pub(super) step: u32,
    pub(super) stream: Stream,
    pub(super) log: LogReader,
    pub(super) to_stderr: bool,
}

/// What is known of the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    NotYet,
    Over,
    Removed,
}

/// All that are followed.
#[derive(Debug)]
pub(super) struct Sources<'a> {
    pub(super) record: &'a Record,
    listing: nix::dir::Dir,
    pub(super) capture: CaptureSpec,
    pub(super) wanted: Wanted,
    start: Start,
    /// By step and stream.
    pub(super) all: Vec<Source>,
    pub(super) end: End,
}

impl<'a> Sources<'a> {
    /// Those that are there by now.
    pub(super) fn new(
        record: &'a Record,
        capture: CaptureSpec,
        wanted: Wanted,
        start: Start,
    ) -> Result<Self> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let listing = nix::dir::Dir::openat(record.dir(), ".", flags, Mode::empty())
            .map_err(|errno| LedgerError::io("list", record.path(), errno))?;
        let mut sources = Self {
            record,
            listing,
            capture,
            wanted,
            start,
            all: Vec::new(),
            end: End::NotYet,
        };
        sources.list()?;
        if let Start::Lines(lines) = start {
            sources.begin_with_lines(lines)?;
        }
        Ok(sources)
    }

    /// Nothing that comes from now on.
    pub(super) fn stop_now(&mut self) -> Result<()> {
        self.end = End::Over;
        for source in &mut self.all {
            let len = source.log.len();
            source
                .log
                .stop_at(len.map_err(|errno| io(self.record, source, errno))?);
        }
        Ok(())
    }

    /// One of them.
    pub(super) fn get(&self, step: u32, stream: Stream) -> Option<&Source> {
        self.all.iter().find(|s| (s.step, s.stream) == (step, stream))
    }

    /// Whether stderr may come while stdout is stuck, or the other way round.
    pub(super) fn have_two_ways_out(&self) -> bool {
        self.capture.streams == jobcage_job::Streams::Split && self.wanted.stream.is_none()
    }

    /// Looks which logs there are by now, and whether the job is over.
    pub(super) fn list(&mut self) -> Result<()> {
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
        self.all.sort_by_key(|source| (source.step, source.stream));
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
        let is_known = self.get(step, stream).is_some();
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
        self.all.push(Source {
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
            for source in self.all.iter_mut().rev().filter(|s| s.stream == stream) {
                let found = tail(&mut source.log, left).map_err(|errno| io(self.record, source, errno))?;
                source.log.seek(found.offset);
                left -= found.lines;
            }
        }
        Ok(())
    }
}

pub(super) fn io(record: &Record, source: &Source, errno: Errno) -> LedgerError {
    let path = record.path().join(name(source.step, source.stream));
    LedgerError::io("read", &path, errno)
}
