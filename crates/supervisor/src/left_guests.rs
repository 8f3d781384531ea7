//! What of jobs that are over is still to be given back: machines that could not be, and places that have outlived their records.

use crate::error::Result;
use crate::gc::{self, Done};
use jobcage_job::{JobId, Report};
use jobcage_ledger::{LedgerError, Places, Record, State};
use std::path::Path;

/// The part of `gc` that is about this alone. `base`: above the places of all jobs. `dry_run`: it only tells.
///
/// # Errors
/// If the records cannot be listed; trouble with one of them is in the result.
pub fn gc_guests(places: &Places, base: &Path, dry_run: bool) -> Result<Vec<Done>> {
    let mut done = Vec::new();
    for id in places.all()? {
        match try_again(places, &id, dry_run) {
            Ok(one) => done.extend(one),
            Err(failure) => done.push(Done::Failed(id, failure.to_string())),
        }
    }
    free_places(places, base, dry_run, &mut done);
    Ok(done)
}

/// Whether the machines of a job that is over are all that is left of it.
pub(crate) fn is_left(report: &Report) -> bool {
    report.quarantine.is_none() && report.is_unfinished()
}

/// Whether nothing but the site's hook or another host can give back what is left of a job: that may take its time.
pub(crate) fn waits_for_others(report: &Report) -> bool {
    let mut left = report.guests.iter().filter(|guest| guest.is_left());
    is_left(report)
        && left.all(|guest| jobcage_guests::is_of_the_hook(guest) || jobcage_guests::is_remote(guest))
}

/// Another try at what a job has left. `None`: it has left nothing, or somebody else is at it.
fn try_again(places: &Places, id: &JobId, dry_run: bool) -> Result<Option<Done>> {
    let record = match places.open(id) {
        Err(LedgerError::NoSuchJob(_)) => return Ok(None),
        other => other?,
    };
    let Some(report) = left_of(&record)? else {
        return Ok(None);
    };
    if dry_run {
        return Ok(Some(Done::WouldGiveBack(report)));
    }
    let done = gc::look_again(places, &record, &report)?;
    if done.is_some() {
        return Ok(done);
    }
    Ok(left_of(&record)?.map(Done::StillLeft))
}

fn left_of(record: &Record) -> Result<Option<Box<Report>>> {
    Ok(match record.state()? {
        State::Over(report) if is_left(&report) => Some(report),
        _ => None,
    })
}

/// Removes places of machines that have outlived their records, such as after a power cut: those of a job in the foreground are in memory.
pub(crate) fn free_places(places: &Places, base: &Path, dry_run: bool, done: &mut Vec<Done>) {
    for id in jobcage_guests::of_earlier_boots(base) {
        if !matches!(places.open(&id), Err(LedgerError::NoSuchJob(_))) {
            continue;
        }
        let path = base.join(id.as_str());
        done.push(if dry_run {
            let bytes = jobcage_guests::size_of_orphan(base, &id);
            Done::WouldFree { id, path, bytes }
        } else {
            match jobcage_guests::remove_orphan(base, &id) {
                Ok(bytes) => Done::Freed { id, path, bytes },
                Err(error) => Done::Failed(id, error.to_string()),
            }
        });
    }
}
