//! Who reads a log: from any byte, binary-safe, and never a zero of a hole.
//!
//! The order is the whole secret: first the bytes are read, then the gap. The writer publishes a gap before it punches, so
//! bytes that were read before they were in a published gap are output, and any other ones are thrown away.
//!
//! Pages that go into a pipe by reference (splice, sendfile) could still be wiped there, behind that look: the kernel
//! clears a part of a large folio in place, whoever else refers to it. So they go that way only where nothing is ever
//! dropped: in a log without a limit, and in the head of one with a limit.

use super::gap::GapFile;
use super::limit::LogLimit;
use super::outlet::Outlet;
use jobcage_job::LogGap;
use jobcage_sys::{Errno, Result};
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, fstat};
use nix::sys::uio::pread;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// What one read found; nothing at all: there is no more for now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Piece {
    /// So many bytes before these are lost to this reader: they were dropped before it came.
    pub lost: u64,
    /// So many bytes were read.
    pub bytes: usize,
}

/// What one copy did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copied {
    /// So many bytes went on, or wait in the outlet.
    Bytes(usize),
    /// There is no more for now.
    Nothing,
    /// The outlet takes no more for now.
    Blocked,
    /// So many bytes are lost; what comes next is what stands behind them.
    Lost(u64),
    /// Nobody reads what comes out of the outlet any more.
    Gone,
}

/// The reader of one log.
#[derive(Debug)]
pub struct LogReader {
    dir: OwnedFd,
    file: OwnedFd,
    gap_file: GapFile,
    offset: u64,
    /// Read no further than this.
    end: u64,
    /// As the file was last seen.
    size: u64,
    /// Nothing before this offset is ever dropped.
    never_dropped: u64,
}

impl LogReader {
    /// Opens a log at its first byte. The limit is the one that its writer has.
    ///
    /// # Errors
    /// As openat(2): `ENOENT` if there is no such log.
    pub fn open(dir: BorrowedFd<'_>, name: &str, limit: LogLimit) -> Result<Self> {
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        let file = openat(dir, name, flags, Mode::empty())?;
        let block = u64::try_from(fstat(&file)?.st_blksize).unwrap_or(0);
        Ok(Self {
            dir: dir.try_clone_to_owned().map_err(super::errno)?,
            file,
            gap_file: GapFile::of(name),
            offset: 0,
            end: u64::MAX,
            size: 0,
            never_dropped: limit.never_dropped(block),
        })
    }

    /// Where it stands: the offset of the next byte.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Goes to an offset, which may be one that is not there yet.
    pub fn seek(&mut self, offset: u64) {
        self.offset = offset;
    }

    /// Reads no further than this offset.
    pub fn stop_at(&mut self, end: u64) {
        self.end = end;
    }

    /// How long the log is now, with what was dropped of it.
    ///
    /// # Errors
    /// As fstat(2).
    #[expect(clippy::len_without_is_empty, reason = "nobody asks whether it is empty")]
    pub fn len(&self) -> Result<u64> {
        Ok(u64::try_from(fstat(&self.file)?.st_size).unwrap_or(0))
    }

    /// What is dropped of it now.
    ///
    /// # Errors
    /// As pread(2); `EBADMSG`: the file that says so is damaged.
    pub fn gap(&mut self) -> Result<Option<LogGap>> {
        self.gap_file.read(self.dir.as_fd())
    }

    /// Reads what is there, at most a buffer full, and goes on behind it.
    ///
    /// # Errors
    /// As pread(2); `EBADMSG`: the file that says what was dropped is damaged.
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<Piece> {
        let mut lost = 0;
        loop {
            let room = usize::try_from(self.end.saturating_sub(self.offset)).unwrap_or(usize::MAX);
            let room = room.min(buffer.len());
            let mut bytes = self.read_at(self.offset, &mut buffer[..room])?;
            if bytes == 0 {
                return Ok(Piece { lost, bytes });
            }
            let behind = self.offset + bytes as u64;
            if behind > self.never_dropped
                && let Some(gap) = self.gap()?
                && gap.from < behind
                && self.offset < gap.to
            {
                if self.offset >= gap.from {
                    lost += gap.to.min(self.end) - self.offset;
                    self.offset = gap.to;
                    continue;
                }
                bytes = usize::try_from(gap.from - self.offset).unwrap_or(bytes);
            }
            self.offset += bytes as u64;
            return Ok(Piece { lost, bytes });
        }
    }

    /// Reads at an offset, and does not ask whether it is a hole.
    pub(super) fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let Ok(at) = i64::try_from(offset) else {
            return Ok(0);
        };
        loop {
            match pread(&self.file, buffer, at) {
                Err(Errno::EINTR) => {}
                other => return other,
            }
        }
    }

    /// Passes on what is there, without waiting, at most so many bytes.
    ///
    /// # Errors
    /// As [`LogReader::read`], and as write(2) of the outlet, but for `EPIPE`, which is [`Copied::Gone`].
    pub fn copy(&mut self, outlet: &mut Outlet, at_most: usize) -> Result<Copied> {
        if !outlet.flush()? {
            return Ok(outlet.why_not());
        }
        if !self.has_more()? {
            return Ok(Copied::Nothing);
        }
        let safe = self.never_dropped.min(self.size).min(self.end);
        if self.offset < safe && outlet.takes_pages() {
            let room = usize::try_from(safe - self.offset).unwrap_or(usize::MAX);
            if let Some(n) = outlet.send(self.file.as_fd(), self.offset, room.min(at_most))? {
                self.offset += n as u64;
                return Ok(if n == 0 {
                    outlet.why_not()
                } else {
                    Copied::Bytes(n)
                });
            }
        }
        let piece = outlet.fill(at_most, |buffer| self.read(buffer))?;
        if piece.lost > 0 {
            return Ok(Copied::Lost(piece.lost));
        }
        if piece.bytes == 0 {
            // Somebody has cut the file off since it was measured.
            self.size = self.offset;
            return Ok(Copied::Nothing);
        }
        outlet.flush()?;
        Ok(Copied::Bytes(piece.bytes))
    }

    /// Whether there is something behind the offset: the outlet is not to be asked for nothing.
    fn has_more(&mut self) -> Result<bool> {
        if self.offset >= self.size {
            self.size = self.len()?;
        }
        Ok(self.offset < self.size.min(self.end))
    }
}
