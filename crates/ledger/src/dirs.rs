//! Where records are.

use crate::error::{LedgerError, Result};
use crate::record::Record;
use jobcage_job::JobId;
use jobcage_sys::file::Durability;
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
            // A list that was cut off must not pass for a short one: gc would call the rest gone.
            let entries = match std::fs::read_dir(base).and_then(Iterator::collect::<std::io::Result<Vec<_>>>)
            {
                Ok(entries) => entries,
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
                Err(e) => {
                    let errno = jobcage_sys::Errno::from_raw(e.raw_os_error().unwrap_or(0));
                    return Err(LedgerError::io("list", base, errno));
                }
            };
            let dirs = entries
                .into_iter()
                .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
            ids.extend(dirs.filter_map(|entry| entry.file_name().to_str()?.parse::<JobId>().ok()));
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
