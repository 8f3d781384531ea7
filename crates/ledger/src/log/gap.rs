//! `NAME.gap`: which bytes of a log are dropped. 16 bytes, two little-endian `u64`: from, to.

use super::gap_name;
use jobcage_job::LogGap;
use jobcage_sys::{Errno, Result};
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use nix::sys::uio::{pread, pwrite};
use std::os::fd::{BorrowedFd, OwnedFd};

/// The gap's file, which appears with the first gap.
#[derive(Debug)]
pub(super) struct GapFile {
    name: String,
    file: Option<OwnedFd>,
}

impl GapFile {
    pub(super) fn of(log: &str) -> Self {
        Self {
            name: gap_name(log),
            file: None,
        }
    }

    /// The gap that is published now. A file that is too short is one whose writer was killed before it wrote: nothing
    /// was punched.
    ///
    /// # Errors
    /// `EBADMSG`: it ends before it begins; else what the file system answers.
    pub(super) fn read(&mut self, dir: BorrowedFd<'_>) -> Result<Option<LogGap>> {
        if self.file.is_none() {
            self.file = match self.open(dir, OFlag::O_RDONLY) {
                Ok(file) => Some(file),
                Err(Errno::ENOENT) => return Ok(None),
                Err(errno) => return Err(errno),
            };
        }
        let Some(file) = &self.file else { return Ok(None) };
        let mut words = [0; 16];
        match pread(file, &mut words, 0)? {
            16 => parse(words),
            _ => Ok(None),
        }
    }

    /// Publishes a gap, which may then be punched. One write: of two words, of which the first never changes, a reader
    /// sees the old or the new second.
    pub(super) fn publish(&mut self, dir: BorrowedFd<'_>, gap: LogGap, sync: bool) -> Result<()> {
        // A handle that only reads is the one of a writer that has just looked.
        let file = self.open(dir, OFlag::O_RDWR | OFlag::O_CREAT)?;
        let mut words = [0; 16];
        words[..8].copy_from_slice(&gap.from.to_le_bytes());
        words[8..].copy_from_slice(&gap.to.to_le_bytes());
        if pwrite(&file, &words, 0)? != words.len() {
            return Err(Errno::EIO);
        }
        if sync {
            nix::unistd::fsync(&file)?;
            nix::unistd::fsync(dir)?;
        }
        self.file = Some(file);
        Ok(())
    }

    fn open(&self, dir: BorrowedFd<'_>, flags: OFlag) -> Result<OwnedFd> {
        let flags = flags | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        openat(dir, self.name.as_str(), flags, Mode::S_IRUSR | Mode::S_IWUSR)
    }
}

fn parse(words: [u8; 16]) -> Result<Option<LogGap>> {
    let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| words[at + i]));
    let gap = LogGap {
        from: word(0),
        to: word(8),
    };
    match gap.from.cmp(&gap.to) {
        std::cmp::Ordering::Less => Ok(Some(gap)),
        std::cmp::Ordering::Equal => Ok(None),
        std::cmp::Ordering::Greater => Err(Errno::EBADMSG),
    }
}
