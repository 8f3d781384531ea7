//! Old records: those of jobs that have been over for long, and the oldest of those that take too much room. Never one of a
//! job of which something is left, since it is all that is known of that.

use crate::error::Result;
use crate::gc::{self, Done};
use jiff::Timestamp;
use jobcage_job::{JobId, format_bytes, format_duration};
use jobcage_ledger::{LedgerError, Places, Record, State};
use std::time::{Duration, SystemTime};

/// What is kept of jobs that are over. `None`: no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Keep {
    /// For how long.
    pub time: Option<Duration>,
    /// How much in all, as it takes room on disk.
    pub size: Option<u64>,
}

/// A record that was removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pruned {
    /// The job.
    pub id: JobId,
    /// The room that it took on its disk.
    pub bytes: u64,
    /// Why.
    pub why: String,
}

/// The record of a job that is over.
struct Over {
    id: JobId,
    /// `None`: its report tells no time.
    ended: Option<SystemTime>,
    bytes: u64,
    unfinished: bool,
}

/// Removes what is not to be kept.
///
/// # Errors
/// If the records cannot be listed; trouble with one of them is in `done`.
pub(crate) fn prune(places: &Places, keep: &Keep, dry_run: bool, done: &mut Vec<Done>) -> Result<()> {
    finish_what_was_begun(places, dry_run, done);
    if keep.time.is_none() && keep.size.is_none() {
        return Ok(());
    }
    let mut over: Vec<Over> = places
        .all()?
        .into_iter()
        .filter_map(|id| look(places, id))
        .collect();
    over.sort_by(|a, b| (a.ended, &a.id).cmp(&(b.ended, &b.id)));
    let mut bytes: u64 = over.iter().map(|job| job.bytes).sum();
    for job in over.into_iter().filter(|job| !job.unfinished) {
        let Some(why) = reason(keep, &job, bytes) else {
            continue;
        };
        // Also where another gc has it in hand: who did not count it would remove one more instead.
        bytes = bytes.saturating_sub(job.bytes);
        let pruned = Pruned {
            id: job.id,
            bytes: job.bytes,
            why,
        };
        if dry_run {
            done.push(Done::WouldPrune(pruned));
            continue;
        }
        match discard(places, &pruned.id) {
            Ok(true) => done.push(Done::Pruned(pruned)),
            Ok(false) => {}
            Err(failure) => done.push(Done::Failed(pruned.id, failure.to_string())),
        }
    }
    Ok(())
}

/// Why a record is to go; `bytes`: what all that are left take.
fn reason(keep: &Keep, job: &Over, bytes: u64) -> Option<String> {
    // One from the future, by a clock that was wrong, is as young as can be.
    let age = job.ended.map(|ended| ended.elapsed().unwrap_or_default());
    match (keep.time, keep.size) {
        (Some(time), _) if age.is_some_and(|age| age >= time) => Some(format!(
            "it has been over for more than {}",
            format_duration(time)
        )),
        (_, Some(size)) if bytes > size => Some(format!(
            "it was the oldest, and all of them took more than {}",
            format_bytes(size)
        )),
        _ => None,
    }
}

/// `None`: the job is not over, or its record is not to be read; the latter was told already.
fn look(places: &Places, id: JobId) -> Option<Over> {
    let record = places.open(&id).ok()?;
    let report = record.report().ok()??;
    Some(Over {
        ended: report.ended.parse::<Timestamp>().ok().map(SystemTime::from),
        bytes: record.size().ok()?,
        unfinished: report.is_unfinished(),
        id,
    })
}

/// `false`: somebody else has removed it, or has it in hand.
fn discard(places: &Places, id: &JobId) -> Result<bool> {
    let record = match places.open(id) {
        Err(LedgerError::NoSuchJob(_)) => return Ok(false),
        other => other?,
    };
    let lock = match record.lock_to_end() {
        Ok(Some(lock)) => lock,
        Ok(None) => return Ok(false),
        // Renamed since it was opened.
        Err(error) if error.errno() == Some(jobcage_sys::Errno::ENOENT) => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    match record.state_under(&lock)? {
        // What it handed on and could not be removed is found by its record alone.
        State::Over(report) if !report.is_unfinished() && gc::forget(&record) => Ok(record.discard(lock)?),
        _ => Ok(false),
    }
}

/// Records whose removal was cut off.
fn finish_what_was_begun(places: &Places, dry_run: bool, done: &mut Vec<Done>) {
    for record in places.discarded() {
        let pruned = |record: &Record| Pruned {
            id: record.id().clone(),
            bytes: record.size().unwrap_or(0),
            why: "its removal was cut off".into(),
        };
        if dry_run {
            done.push(Done::WouldPrune(pruned(&record)));
            continue;
        }
        // Locked: another gc is at it.
        let Ok(Some(lock)) = record.lock_to_end() else {
            continue;
        };
        // It goes last of all, so whoever takes it away has removed the record, and tells.
        let tell = record.has_report().then(|| pruned(&record));
        match record.remove() {
            Ok(()) => done.extend(tell.map(Done::Pruned)),
            Err(error) => done.push(Done::Failed(record.id().clone(), error.to_string())),
        }
        drop(lock);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(age: Option<u64>) -> Over {
        Over {
            id: "main-00000000".parse().unwrap(),
            ended: age.map(|age| SystemTime::now() - Duration::from_secs(age)),
            bytes: 1,
            unfinished: false,
        }
    }

    #[test]
    fn each_limit_is_a_reason_of_its_own() {
        let keep = |time: Option<u64>, size| Keep {
            time: time.map(Duration::from_secs),
            size,
        };
        let goes = |keep: Keep, age, bytes| reason(&keep, &job(age), bytes).is_some();
        assert!(goes(keep(Some(60), None), Some(61), 0));
        assert!(!goes(keep(Some(60), None), Some(10), u64::MAX));
        assert!(goes(keep(Some(60), Some(5)), Some(10), 6));
        assert!(!goes(keep(Some(60), Some(5)), Some(10), 5));
        assert!(!goes(keep(None, None), Some(u64::from(u32::MAX) / 4), u64::MAX));
        // Nothing is that old that has no age.
        assert!(!goes(keep(Some(0), None), None, 0));
        assert!(goes(keep(Some(0), None), Some(0), 0));
    }

    #[test]
    fn one_from_the_future_is_young() {
        let mut tomorrow = job(None);
        tomorrow.ended = Some(SystemTime::now() + Duration::from_secs(86_400));
        let keep = Keep {
            time: Some(Duration::from_secs(1)),
            size: None,
        };
        assert_eq!(reason(&keep, &tomorrow, 0), None);
    }
}
