//! Where records are.

use crate::error::{LedgerError, Result};
use crate::record::Record;
use jobcage_job::JobId;
use jobcage_sys::file::{self, Durability};
use jobcage_sys::{Errno, listing};
use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
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
        self.all_from("")
    }

    /// As [`Places::all`], those that begin with this.
    ///
    /// # Errors
    /// As [`Places::all`].
    pub fn all_from(&self, start: &str) -> Result<Vec<JobId>> {
        let mut ids = Vec::new();
        let wanted = |name: &OsStr| name.as_bytes().starts_with(start.as_bytes());
        for (base, _) in self.both() {
            let listed = file::open_dir(base).and_then(|dir| {
                listing::directories(dir.as_fd(), wanted, |name| {
                    ids.extend(name.to_str().and_then(|name| name.parse::<JobId>().ok()));
                })
            });
            match listed {
                Ok(()) | Err(Errno::ENOENT) => {}
                // A list that was cut off must not pass for a short one: gc would call the rest gone.
                Err(errno) => return Err(LedgerError::io("list", base, errno)),
            }
        }
        ids.sort();
        ids.dedup();
        Ok(ids)
    }

    pub(crate) fn both(&self) -> [(&Path, Durability); 2] {
        [
            (&self.runtime, Durability::Kernel),
            (&self.state, Durability::Disk),
        ]
    }
}
