//! Who was alive in a cage, written down before the kill. What they had started elsewhere is looked for by what they were, and whoever kills
//! them may not live to do that.

use jobcage_job::{Census, JobSpec, Left};
use jobcage_ledger::Record;

/// Gets a census before the kill.
pub(crate) type Seen<'a> = &'a mut dyn FnMut(&Census);

/// For a job of which nothing has to be known after its kill.
pub(crate) fn nobody(_: &Census) {}

/// Writes it down for whoever comes after us, where the job has something to give back that does not end with its cage.
pub(crate) fn of(record: &Record, spec: &JobSpec) -> impl FnMut(&Census) {
    move |census| {
        let is_needed = spec.guests.as_ref().is_some_and(jobcage_guests::is_for_later);
        if is_needed && !census.left.is_empty() {
            // The kill does not wait for a disk that is full: then a crash at this very moment would cost what is known.
            let _ = record.write_census(&all(record, census));
        }
    }
}

/// With those of earlier kills of the same job.
pub(crate) fn all(record: &Record, census: &Census) -> Census {
    let mut all = record.census().ok().flatten().unwrap_or_default();
    add(&mut all, &census.left);
    all.method = census.method;
    all.count = all.count.max(census.count);
    all
}

fn add(known: &mut Census, more: &[Left]) {
    for left in more {
        // The pid alone may be another one's by now.
        let is_same = |known: &Left| (known.pid, &known.started) == (left.pid, &left.started);
        if !known.left.iter().any(is_same) {
            known.left.push(left.clone());
            known.count += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jobcage_job::{Death, FoundBy};

    #[test]
    fn a_process_that_two_kills_have_seen_is_one() {
        let left = |pid, started: &str| Left {
            pid,
            started: Some(started.into()),
            ..jobcage_cage::describe(-1, FoundBy::Cgroup(String::new()), Death::Killed)
        };
        let mut known = Census {
            count: 2,
            left: vec![left(7, "a"), left(8, "a")],
            ..Census::default()
        };
        add(&mut known, &[left(8, "a"), left(7, "b")]);
        let pids: Vec<_> = known.left.iter().map(|left| left.pid).collect();
        assert_eq!((known.count, pids), (3, vec![7, 8, 7]));
    }
}
