//! Who writes a log: pipe → file by splice(2), so that a byte is in the pipe or in the file, and a SIGKILL between two
//! instructions loses none. With read(2) and write(2) it would take its buffer with it.

use super::gap::GapFile;
use super::limit::{LogLimit, Middle};
use jobcage_job::{LogFull, LogGap};
use jobcage_sys::{Errno, Result};
use nix::fcntl::{FallocateFlags, OFlag, SpliceFFlags, fallocate, openat, splice};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::{Mode, fstat};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// What one [`LogWriter::take`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// So many bytes, at least one, are in the log now and no longer in the pipe.
    Bytes(usize),
    /// The pipe is empty.
    Nothing,
    /// The pipe is empty and nobody can write to it any more.
    EndOfFile,
    /// There is more, and the log is at its limit ([`LogFull::Stop`]). The pipe is as it was.
    Full,
    /// It failed. What is in the pipe is still there, what came into the log before is in [`LogWriter::len`].
    /// `ENOSPC`: the disk is full. `EFBIG`: the file may not get longer. `EOPNOTSUPP`: the log is at its limit, and this
    /// file system cannot punch the middle out of it.
    Failed(Errno),
}

/// The writer of one log. One at a time: whoever holds the record's lock. The kernel gives that lock away only when the
/// last system call of a killed holder has ended, so the size that a successor finds is final.
#[derive(Debug)]
pub struct LogWriter {
    dir: OwnedFd,
    file: OwnedFd,
    len: u64,
    limit: Limit,
    gap: Option<LogGap>,
    gap_file: GapFile,
    sync: bool,
    nowhere: Option<OwnedFd>,
}

#[derive(Debug, Clone, Copy)]
enum Limit {
    None,
    Stop { max: u64 },
    Middle(Middle),
}

impl LogWriter {
    /// Creates a log with mode 0600, or goes on with it where it ends. With `sync` every [`LogWriter::take`] ends with the
    /// bytes on the disk.
    ///
    /// # Errors
    /// As openat(2) and fallocate(2). `EBADMSG`: what is written down of its gap makes no sense.
    pub fn open(dir: BorrowedFd<'_>, name: &str, limit: LogLimit, sync: bool) -> Result<Self> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        let file = openat(dir, name, flags, Mode::S_IRUSR | Mode::S_IWUSR)?;
        let stat = fstat(&file)?;
        let mut gap_file = GapFile::of(name);
        let gap = gap_file.read(dir)?;
        let block = u64::try_from(stat.st_blksize).unwrap_or(0);
        let writer = Self {
            dir: dir.try_clone_to_owned().map_err(super::errno)?,
            file,
            len: u64::try_from(stat.st_size).unwrap_or(0),
            limit: match (limit.max, limit.full) {
                (None, _) => Limit::None,
                (Some(max), LogFull::Stop) => Limit::Stop { max },
                (Some(max), LogFull::Middle) => Limit::Middle(Middle::new(max, block)),
            },
            gap,
            gap_file,
            sync,
            nowhere: None,
        };
        // Whoever published it may have been killed before the punch.
        if let Some(gap) = gap {
            writer.punch(gap)?;
        }
        if sync {
            nix::unistd::fsync(dir)?;
        }
        Ok(writer)
    }

    /// Moves what is in the pipe into the log, without waiting, at most so many bytes.
    pub fn take(&mut self, pipe: BorrowedFd<'_>, at_most: usize) -> Taken {
        let room = match self.room(at_most) {
            Ok(0) => return look(pipe),
            Ok(room) => room,
            Err(errno) => return Taken::Failed(errno),
        };
        let Ok(mut end) = i64::try_from(self.len) else {
            return Taken::Failed(Errno::EFBIG);
        };
        let taken = loop {
            let file = self.file.as_fd();
            match splice(
                pipe,
                None,
                file,
                Some(&mut end),
                room,
                SpliceFFlags::SPLICE_F_NONBLOCK,
            ) {
                Err(Errno::EINTR) => {}
                other => break moved(other),
            }
        };
        let Taken::Bytes(n) = taken else { return taken };
        self.len += n as u64;
        match self.make_room().and_then(|()| self.sync_if_asked()) {
            Ok(()) => taken,
            Err(errno) => Taken::Failed(errno),
        }
    }

    /// How much may be taken at once.
    fn room(&mut self, at_most: usize) -> Result<usize> {
        let room = match self.limit {
            Limit::None => return Ok(at_most),
            Limit::Stop { max } => max.saturating_sub(self.len),
            // Too much is there if the last punch failed, or its writer was killed before it.
            Limit::Middle(middle) => self.make_room().map(|()| middle.step)?,
        };
        Ok(usize::try_from(room).unwrap_or(usize::MAX).min(at_most))
    }

    /// Drops the middle where more than the limit is kept.
    fn make_room(&mut self) -> Result<()> {
        let Limit::Middle(middle) = self.limit else {
            return Ok(());
        };
        if self.len - self.gap.map_or(0, LogGap::bytes) <= middle.max {
            return Ok(());
        }
        let from = self.gap.map_or(middle.head, |gap| gap.from);
        let gap = LogGap {
            from,
            to: middle.tail(self.len),
        };
        if self.gap.is_none() {
            // Nothing is behind the end; whether it can be done is answered all the same.
            self.punch(LogGap {
                from: self.len.next_multiple_of(middle.block),
                to: self.len.next_multiple_of(middle.block) + middle.block,
            })?;
        }
        if gap.bytes() > self.gap.map_or(0, LogGap::bytes) {
            self.gap_file.publish(self.dir.as_fd(), gap, self.sync)?;
            let done = self.gap.map_or(from, |old| old.to);
            self.gap = Some(gap);
            self.punch(LogGap {
                from: done,
                to: gap.to,
            })?;
        }
        Ok(())
    }

    fn punch(&self, gap: LogGap) -> Result<()> {
        let signed = |n| i64::try_from(n).map_err(|_| Errno::EFBIG);
        let mode = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        fallocate(&self.file, mode, signed(gap.from)?, signed(gap.bytes())?)
    }

    /// Takes from the pipe and keeps nothing: for a job that goes on while its log is full. Never says [`Taken::Full`].
    pub fn discard(&mut self, pipe: BorrowedFd<'_>, at_most: usize) -> Taken {
        if self.nowhere.is_none() {
            let flags = OFlag::O_WRONLY | OFlag::O_CLOEXEC;
            match nix::fcntl::open("/dev/null", flags, Mode::empty()) {
                Ok(null) => self.nowhere = Some(null),
                Err(errno) => return Taken::Failed(errno),
            }
        }
        let Some(nowhere) = &self.nowhere else {
            return Taken::Nothing;
        };
        loop {
            match splice(
                pipe,
                None,
                nowhere,
                None,
                at_most,
                SpliceFFlags::SPLICE_F_NONBLOCK,
            ) {
                Err(Errno::EINTR) => {}
                other => return moved(other),
            }
        }
    }

    /// How long the log is: how many bytes were ever taken into it.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "nobody asks whether it is empty")]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// What was dropped of its middle.
    #[must_use]
    pub fn dropped(&self) -> Option<LogGap> {
        self.gap
    }

    fn sync_if_asked(&self) -> Result<()> {
        if self.sync { self.sync() } else { Ok(()) }
    }

    /// Waits until the log is on the disk.
    ///
    /// # Errors
    /// As fdatasync(2).
    pub fn sync(&self) -> Result<()> {
        nix::unistd::fdatasync(&self.file)
    }
}

fn moved(result: Result<usize>) -> Taken {
    match result {
        Ok(0) => Taken::EndOfFile,
        Ok(n) => Taken::Bytes(n),
        Err(Errno::EAGAIN) => Taken::Nothing,
        Err(errno) => Taken::Failed(errno),
    }
}

/// What is in the pipe of a log that takes no more. A job that wrote exactly as much as the limit allows has not passed it.
fn look(pipe: BorrowedFd<'_>) -> Taken {
    let mut fds = [PollFd::new(pipe, PollFlags::POLLIN)];
    if let Err(errno) = poll(&mut fds, PollTimeout::ZERO) {
        return Taken::Failed(errno);
    }
    let events = fds[0].revents().unwrap_or(PollFlags::empty());
    if events.contains(PollFlags::POLLIN) {
        Taken::Full
    } else if events.contains(PollFlags::POLLHUP) {
        Taken::EndOfFile
    } else {
        Taken::Nothing
    }
}
