//! What others want of whoever looks after a job: files that they put into its record.

use crate::error::{LedgerError, Result};
use crate::record::Record;
use jobcage_job::{STOP_VERSION, StopRequest};
use jobcage_sys::Errno;
use jobcage_sys::file::{self, Durability};
use nix::fcntl::{AtFlags, renameat};
use nix::sys::stat::fstat;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, unlinkat};
use std::os::fd::AsFd;

const STOP: &str = "stop.json";
const WANTED: &str = "wanted";

impl Record {
    /// Writes down that, and how, the job is to be ended; the signal to its supervisor comes after it. It replaces what
    /// somebody has asked before.
    ///
    /// # Errors
    /// What the file system answers; `ENOENT` if the record was removed meanwhile, since the job has ended.
    pub fn ask_stop(&self, request: &StopRequest) -> Result<()> {
        let io = |errno| LedgerError::io("write", &self.path().join(STOP), errno);
        let mut text = serde_json::to_vec_pretty(request).map_err(|e| LedgerError::Damaged {
            path: self.path().join(STOP),
            why: e.to_string(),
        })?;
        text.push(b'\n');
        // Two may ask at the same time: each writes a file of its own, and the later rename holds.
        let unfinished = format!("{STOP}.{}.new", std::process::id());
        let dir = self.dir.as_fd();
        // For a moment: a host that goes down ends the job anyway.
        let written = file::write_new(dir, &unfinished, &text, Durability::Kernel)
            .and_then(|()| self.hand_over(&unfinished))
            .and_then(|()| renameat(dir, unfinished.as_str(), dir, STOP));
        if written.is_err() {
            // The first error is the one to tell.
            let _ = unlinkat(dir, unfinished.as_str(), UnlinkatFlags::NoRemoveDir);
        }
        written.map_err(io)
    }

    /// A file that root puts into a user's record is for that user's supervisor to read.
    fn hand_over(&self, name: &str) -> jobcage_sys::Result<()> {
        let owner = fstat(&self.dir)?;
        if owner.st_uid == nix::unistd::geteuid().as_raw() {
            return Ok(());
        }
        let (uid, gid) = (Uid::from_raw(owner.st_uid), Gid::from_raw(owner.st_gid));
        fchownat(
            &self.dir,
            name,
            Some(uid),
            Some(gid),
            AtFlags::AT_SYMLINK_NOFOLLOW,
        )
    }

    /// What was asked last. `None`: nobody has asked.
    ///
    /// # Errors
    /// If it cannot be read, is damaged, or of a newer version: the end is to be by the job's own settings then.
    pub fn asked(&self) -> Result<Option<StopRequest>> {
        match self.read::<StopRequest>(STOP, STOP_VERSION)? {
            Some(request) if !request.is_sane() => Err(LedgerError::Damaged {
                path: self.path().join(STOP),
                why: "it names no signal".into(),
            }),
            other => Ok(other),
        }
    }

    /// Asks whoever looks after the job to leave its report here, even if it ends cleanly.
    ///
    /// # Errors
    /// What the file system answers; `ENOENT` if the record was removed meanwhile.
    pub fn want(&self) -> Result<()> {
        file::write_new(self.dir.as_fd(), WANTED, b"", Durability::Kernel)
            .map_err(|errno: Errno| LedgerError::io("write", &self.path().join(WANTED), errno))
    }

    pub(crate) fn is_wanted(&self) -> bool {
        file::exists_at(self.dir.as_fd(), WANTED).unwrap_or(false)
    }
}
