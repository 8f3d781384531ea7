//! The end of the jobs that a job has on other hosts: they are told while its agents still live, as the keys may be nowhere else; and once more, after the
//! kill, those that were begun meanwhile.

use crate::closing::Closed;
use jobcage_guests::{close_remotes, tells_remotes};
use jobcage_job::{JobSpec, RemoteJob};
use jobcage_ledger::Record;
use jobcage_ledger::handed::HandedDir;
use std::path::Path;

/// Tells them; those that `closed` has already are not told again. `above`: the cgroup that the job's cage is or was in.
pub(crate) fn tell(above: &Path, record: &Record, spec: &JobSpec, closed: &mut Closed) {
    if !tells_remotes(spec) {
        return;
    }
    let mut remotes = noted(record, spec, &mut closed.notes);
    let is_told = |job: &RemoteJob| {
        let mut told = closed
            .guests
            .iter()
            .filter(|report| jobcage_guests::is_remote(report));
        told.any(|report| report.id.as_deref() == Some(job.id.as_str()))
    };
    remotes.retain(|job| !is_told(job));
    if remotes.is_empty() {
        return;
    }
    // Their notes are in memory, and whoever tells them may not live to see what came of it.
    let mut write = |remotes: &[RemoteJob]| {
        closed
            .notes
            .extend(record.write_remotes(remotes).err().map(|why| why.to_string()))
    };
    write(&remotes);
    let reports = close_remotes(spec, above, &remotes);
    let left = remotes
        .into_iter()
        .zip(&reports)
        .filter(|(_, report)| report.is_left());
    write(&left.map(|(job, _)| job).collect::<Vec<_>>());
    closed.guests.extend(reports);
}

/// Those that may be there still.
fn noted(record: &Record, spec: &JobSpec, notes: &mut Vec<String>) -> Vec<RemoteJob> {
    let mut remotes = record.remotes().unwrap_or_else(|why| {
        notes.push(why.to_string());
        Vec::new()
    });
    // In a later boot the directory is gone.
    let dir = spec
        .state_dir
        .as_deref()
        .map(|dir| HandedDir::open(dir.as_ref(), spec.uid));
    let Some(Ok(dir)) = dir else { return remotes };
    match dir.remotes() {
        Ok((more, skipped)) => {
            if skipped > 0 {
                notes.push(format!(
                    "{skipped} lines about jobs on other hosts are skipped: they are wrong, or too many"
                ));
            }
            remotes.retain(|known| more.iter().all(|job| job.id != known.id));
            remotes.extend(more);
        }
        Err(why) => notes.push(format!(
            "the jobs on other hosts are not told to end: their notes are ignored: {why}"
        )),
    }
    remotes
}
