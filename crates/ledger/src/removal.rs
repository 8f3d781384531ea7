//! Taking away records: of jobs that ended cleanly or never began, and of those that are over.
//!
//! Of the latter a reader must never find half of one. So it goes by one rename, to a name that is no job's, and is emptied there. What a
//! crash leaves in the middle is found by that name and emptied by the next one who comes.

use crate::dirs::Places;
use crate::error::{LedgerError, Result};
use crate::record::{LOCK, Lock, REPORT, Record, SPEC};
use jobcage_job::JobId;
use jobcage_sys::Errno;
use jobcage_sys::file::{self, Durability};
use nix::fcntl::{AT_FDCWD, AtFlags, renameat};
use nix::sys::stat::{FileStat, fstat, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use std::os::fd::AsFd;
use std::path::Path;

/// No job's id begins with a dot.
const GONE: &str = ".gone-";

impl Record {
    /// Removes the record with everything in it.
    ///
    /// # Errors
    /// What the file system answers. A record that is gone already is fine.
    pub fn remove(&self) -> Result<()> {
        let io = |errno| LedgerError::io("remove", &self.path, errno);
        // Without a spec there is nothing to look after any more.
        match unlinkat(&self.dir, SPEC, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => self.remove_rest(),
            Err(errno) => Err(io(errno)),
        }
    }

    /// Removes the record of a job that ended cleanly and never wrote more than lock and spec, in as few calls as can be. A
    /// lock, held again: somebody wants the report ([`Record::want`]), and it is to be written instead.
    ///
    /// # Errors
    /// As [`Record::remove`].
    pub fn remove_plain(&self) -> Result<Option<Lock>> {
        let _ = unlinkat(&self.dir, SPEC, UnlinkatFlags::NoRemoveDir);
        let _ = unlinkat(&self.dir, LOCK, UnlinkatFlags::NoRemoveDir);
        match unlinkat(AT_FDCWD, &self.path, UnlinkatFlags::RemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => return Ok(None),
            Err(_) => {}
        }
        // Something else is in it. Locked before the look: for gc this is a job that never began.
        if let Ok(Some(lock)) = self.lock_to_end()
            && self.is_wanted()
        {
            return Ok(Some(lock));
        }
        self.remove().map(|()| None)
    }

    /// The lock goes last, so that a record that is half removed is still locked, and the report before it.
    fn remove_rest(&self) -> Result<()> {
        let io = |errno| LedgerError::io("remove", &self.path, errno);
        let gone = |errno: &Errno| *errno == Errno::ENOENT;
        let mut last = Errno::ENOTEMPTY;
        // Whoever asks for something or looks at the lock may make a file meanwhile: each of them one.
        for _ in 0..1000 {
            let mut names = match self.names() {
                Err(error) if error.errno().as_ref().is_some_and(gone) => return Ok(()),
                other => other?,
            };
            names.sort_by_key(|name| {
                [REPORT, LOCK]
                    .iter()
                    .position(|late| late == name)
                    .map_or(0, |n| n + 1)
            });
            for name in names {
                match unlinkat(&self.dir, name.as_str(), UnlinkatFlags::NoRemoveDir) {
                    Ok(()) | Err(Errno::ENOENT) => {}
                    Err(errno) => return Err(io(errno)),
                }
            }
            match unlinkat(AT_FDCWD, &self.path, UnlinkatFlags::RemoveDir) {
                Ok(()) | Err(Errno::ENOENT) => return Ok(()),
                Err(errno @ (Errno::ENOTEMPTY | Errno::EEXIST)) => last = errno,
                Err(errno) => return Err(io(errno)),
            }
        }
        Err(io(last))
    }

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
        let found = self
            .both()
            .map(|(base, durability)| discarded_in(base, durability));
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
