//! Where records are.

use crate::error::{LedgerError, Result};
use crate::record::Record;
use jobcage_job::JobId;
use jobcage_sys::file::{self, Durability};
use jobcage_sys::{Errno, listing};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// The two places of records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// Records that end with the boot: foreground jobs. A tmpfs on most hosts.
    pub runtime: PathBuf,
    /// Records that survive it.
    pub state: PathBuf,
}

impl Places {
    /// Opens the record of a job.
    ///
    /// # Errors
    /// [`LedgerError::NoSuchJob`] if it is in neither place.
    pub fn open(&self, id: &JobId) -> Result<Record> {
        for (base, durability) in self.both() {
            match Record::open(base, id, durability) {
                Err(LedgerError::NoSuchJob(_)) => {}
                other => return other,
            }
        }
        Err(LedgerError::NoSuchJob(id.clone()))
    }

    /// The ids of all records in both places, sorted. A place that is not there has none; what is no job id is not ours.
    ///
    /// # Errors
    /// If a place cannot be read.
    pub fn all(&self) -> Result<Vec<JobId>> {
        let mut ids = Vec::new();
        for (base, _) in self.both() {
            if let Some(dir) = open_place(base)? {
                list(&dir, base, "", |id| ids.push(id))?;
            }
        }
        ids.sort();
        ids.dedup();
        Ok(ids)
    }

    /// Opens the records that survive the boot whose ids begin with this, in no order; one that cannot be opened is not among
    /// them.
    ///
    /// # Errors
    /// As [`Places::all`].
    pub fn lasting(&self, start: &str) -> Result<Vec<Record>> {
        let mut records = Vec::new();
        if let Some(dir) = open_place(&self.state)? {
            list(&dir, &self.state, start, |id| {
                records.extend(Record::open_in(dir.as_fd(), &self.state, &id, Durability::Disk));
            })?;
        }
        Ok(records)
    }

    pub(crate) fn both(&self) -> [(&Path, Durability); 2] {
        [
            (&self.runtime, Durability::Kernel),
            (&self.state, Durability::Disk),
        ]
    }
}

/// `None`: it is not there.
fn open_place(base: &Path) -> Result<Option<OwnedFd>> {
    match file::open_dir(base) {
        Ok(dir) => Ok(Some(dir)),
        Err(Errno::ENOENT) => Ok(None),
        Err(errno) => Err(LedgerError::io("open", base, errno)),
    }
}

fn list(dir: &OwnedFd, base: &Path, start: &str, mut found: impl FnMut(JobId)) -> Result<()> {
    let listed = listing::directories(dir.as_fd(), start.as_bytes(), |name| {
        if let Some(id) = name.to_str().and_then(|name| name.parse().ok()) {
            found(id);
        }
    });
    // A list that was cut off must not pass for a short one: gc would call the rest gone.
    listed.map_err(|errno| LedgerError::io("list", base, errno))
}
