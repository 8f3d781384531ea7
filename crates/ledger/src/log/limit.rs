//! How long a log may get, and what is kept of one that gets longer.

use jobcage_job::{CaptureSpec, LogFull};
use nix::unistd::{SysconfVar, sysconf};

/// How long a log may get, and what happens then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogLimit {
    /// How many bytes are kept at most; `None`: all.
    pub max: Option<u64>,
    /// What happens at that limit.
    pub full: LogFull,
}

impl From<CaptureSpec> for LogLimit {
    fn from(spec: CaptureSpec) -> Self {
        Self {
            max: spec.log_max,
            full: spec.log_full,
        }
    }
}

impl LogLimit {
    /// Up to which offset nothing of a log is ever dropped.
    pub(super) fn never_dropped(self, block: u64) -> u64 {
        match (self.max, self.full) {
            (Some(max), LogFull::Middle) => Middle::new(max, block).head,
            _ => u64::MAX,
        }
    }
}

/// The sizes of a log that loses its middle, in whole blocks, since only these can be punched out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Middle {
    pub(super) max: u64,
    pub(super) block: u64,
    /// What is kept of the beginning.
    pub(super) head: u64,
    /// How much is dropped at a time, so that it is rare, and how much is taken at a time, so that no more than this is on
    /// the disk beyond `max`.
    pub(super) step: u64,
}

impl Middle {
    pub(super) fn new(max: u64, block: u64) -> Self {
        // The pages of a hole that is not made of whole ones are wiped, not given back.
        let page = sysconf(SysconfVar::PAGE_SIZE).ok().flatten().unwrap_or(4096);
        let block = block.max(u64::try_from(page).unwrap_or(4096));
        Self {
            max,
            block,
            head: max / 4 / block * block,
            step: (max / 16).max(1).div_ceil(block) * block,
        }
    }

    /// Where the tail of a log of this length begins once the middle is dropped.
    pub(super) fn tail(&self, len: u64) -> u64 {
        let kept = self.max.saturating_sub(self.head + self.step);
        (len.saturating_sub(kept) / self.block * self.block).max(self.head)
    }
}
