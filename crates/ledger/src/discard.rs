//! Taking away the record of a job that is over.
//!
//! A reader must never find half of one. So it goes by one rename, to a name that is no job's, and is emptied there. What a
//! crash leaves in the middle is found by that name and emptied by the next one who comes.

use crate::dirs::Places;
use crate::error::{LedgerError, Result};
use crate::record::{Lock, REPORT, Record};
use jobcage_job::JobId;
use jobcage_sys::file::{self, Durability};
use jobcage_sys::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, renameat};
use nix::sys::stat::{FileStat, fstat, fstatat};
use std::os::fd::AsFd;
use std::path::Path;

/// No job's id begins with a dot.
const GONE: &str = ".gone-";

impl Record {
    /// What it takes on its disk, holes not counted.
    ///
    /// # Errors
    /// If it cannot be listed.
    pub fn size(&self) -> Result<u64> {
        // Units of 512 bytes, whatever the file system's own are (stat(2)).
        let room = |stat: FileStat| u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
        let mut size = fstat(&self.dir).map_or(0, room);
        for name in self.names()? {
            // One that is gone takes nothing.
            size += fstatat(&self.dir, name.as_str(), AtFlags::AT_SYMLINK_NOFOLLOW).map_or(0, room);
        }
        Ok(size)
    }

    /// Takes away the record of a job that is over, whose lock the caller holds. `false`: somebody else has done so.
    ///
    /// # Errors
    /// What the file system answers. Once the record is renamed it is gone for every reader, even if this fails.
    pub fn discard(mut self, lock: Lock) -> Result<bool> {
        let gone = self.path.with_file_name(format!("{GONE}{}", self.id));
        match renameat(AT_FDCWD, &self.path, AT_FDCWD, &gone) {
            Ok(()) => {}
            Err(Errno::ENOENT) => return Ok(false),
            Err(errno) => return Err(LedgerError::io("rename", &self.path, errno)),
        }
        self.path = gone;
        // Else a power cut might bring back the old name with half of its files.
        if self.durability == Durability::Disk
            && let Some(base) = self.path.parent()
        {
            let synced = file::open_dir(base).and_then(nix::unistd::fsync);
            synced.map_err(|errno| LedgerError::io("sync", base, errno))?;
        }
        self.remove()?;
        drop(lock);
        Ok(true)
    }

    /// Whether its report is still there: of a discarded record it goes last, so whoever takes it away finds it.
    #[must_use]
    pub fn has_report(&self) -> bool {
        file::exists_at(self.dir.as_fd(), REPORT).unwrap_or(false)
    }
}

impl Places {
    /// Records that somebody has begun to take away. Where nobody holds their lock, that was cut off.
    #[must_use]
    pub fn discarded(&self) -> Vec<Record> {
        let found = self.both().map(|(base, durability)| discarded_in(base, durability));
        found.into_iter().flatten().collect()
    }
}

fn discarded_in(base: &Path, durability: Durability) -> Vec<Record> {
    let entries = std::fs::read_dir(base).into_iter().flatten().flatten();
    let open = |entry: std::fs::DirEntry| {
        let id: JobId = entry.file_name().to_str()?.strip_prefix(GONE)?.parse().ok()?;
        let real = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let dir = file::open_dir(&entry.path()).ok().filter(|_| real)?;
        Some(Record {
            dir,
            path: entry.path(),
            id,
            durability,
        })
    };
    entries.filter_map(open).collect()
}
