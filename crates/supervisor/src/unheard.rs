//! The lease of a cage of `jobcage create` that waits for its steps (`--lease`): over when there was no step for so long. A step shows that it runs by a
//! lock on the file in which it is noted, so one that was killed counts as ended.

use crate::error::Result;
use jobcage_job::JobSpec;
use jobcage_ledger::{Attended, Record};
use jobcage_sys::clock::boot_time;
use std::time::Duration;

/// The lease of such a cage.
fn lease(spec: &JobSpec) -> Option<Duration> {
    spec.silence.filter(|_| !spec.created_by.is_tended())
}

/// Begins the wait for the first step.
///
/// # Errors
/// If it cannot be written down.
pub(crate) fn begin(record: &Record, spec: &JobSpec) -> Result<()> {
    match lease(spec) {
        Some(_) => Ok(record.hear(boot_time())?),
        None => Ok(()),
    }
}

/// To be held while a step runs. `None`: nobody asks.
pub(crate) fn attend(record: &Record, spec: &JobSpec) -> Option<Attended> {
    lease(spec)?;
    let _ = record.hear(boot_time());
    record.attend().ok()
}

/// The end of such a step.
pub(crate) fn leave(record: &Record, attended: Option<Attended>) {
    if attended.is_some() {
        let _ = record.hear(boot_time());
    }
}

/// How it stands with the lease of a cage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    /// It has none.
    None,
    /// It has this time left, and is to be looked at again then.
    Left(Duration),
    /// It has waited too long.
    Over,
}

pub(crate) fn look(record: &Record, spec: &JobSpec) -> Wait {
    let Some(lease) = lease(spec) else {
        return Wait::None;
    };
    if record.is_attended() {
        // A step that is killed leaves at least half of the lease for the next one.
        let _ = record.hear(boot_time());
        return Wait::Left(lease / 2);
    }
    // Whoever cannot be heard of is not: nothing is to live for ever over a damaged disk.
    let heard = record.heard().ok().flatten().unwrap_or_default();
    match heard.saturating_add(lease).saturating_sub(boot_time()) {
        Duration::ZERO => Wait::Over,
        left => Wait::Left(left),
    }
}
