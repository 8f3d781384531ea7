//! Closing what nobody looks after: jobs whose supervisor died, jobs of another boot, jobs whose lease is over; and another
//! try at what is quarantined. Safe at any time and by two at once: whoever has the lock does it. Then old records go.

use crate::closing::{self, Outside, Story};
use crate::error::{Failure, Result};
use crate::hand;
use crate::host;
use crate::journal;
use crate::keeper::{self, Keeper};
use crate::kept::{self, TakeOver};
use crate::left_guests;
use crate::prune::{self, Keep, Pruned};
use crate::session;
use crate::sessions;
use crate::signals::Signals;
use crate::unheard::{self, Wait};
use crate::watcher::{self, Lease, lease};
use jobcage_cage::{Cage, Patience, empty};
use jobcage_job::{CreatedBy, Ending, JobId, JobSpec, Report};
use jobcage_ledger::{Places, Record, State, boot_id};
use jobcage_sys::{pidfd, wait};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What `gc` did with one record.
#[derive(Debug)]
pub enum Done {
    /// It closed the job.
    Closed(Box<Report>),
    /// A quarantined cage could be emptied at last.
    Released(Box<Report>),
    /// Something of it is left: it is quarantined, or something that it had made could not be given back.
    Quarantined(Box<Report>),
    /// Its keeper lives: another supervisor has it, or is on its way.
    HandedOn(JobId),
    /// It removed the record of a job that never began.
    Swept(JobId),
    /// Its place for machines had outlived its record, and is removed.
    Freed {
        /// The job that it was made for.
        id: JobId,
        /// Where it was.
        path: PathBuf,
        /// What it took on the disk.
        bytes: u64,
    },
    /// It would remove it.
    WouldFree {
        /// The job that it was made for.
        id: JobId,
        /// Where it is.
        path: PathBuf,
        /// What it takes on the disk.
        bytes: u64,
    },
    /// It would try again to give back what is left of a job that is over.
    WouldGiveBack(Box<Report>),
    /// It has tried, and it is still there.
    StillLeft(Box<Report>),
    /// It removed the record of a job that is over.
    Pruned(Pruned),
    /// It would close this orphan, or sweep away the record of a job that never began.
    Planned(JobId, &'static str),
    /// It would remove the record of a job that is over.
    WouldPrune(Pruned),
    /// It could not.
    Failed(JobId, String),
}

/// Looks at every record, and at the places of machines in `base`. `dry_run`: and changes none.
///
/// # Errors
/// If the records cannot be listed; trouble with one of them is in the result.
pub fn gc(places: &Places, keep: &Keep, base: &Path, dry_run: bool) -> Result<Vec<Done>> {
    gc_as(Role::Passing, places, keep, base, dry_run)
}

/// As [`gc`], for a caller whose own job waits for it.
///
/// # Errors
/// As [`gc`].
pub fn gc_before_a_job(places: &Places) -> Result<Vec<Done>> {
    let base = jobcage_guests::beside(&places.state);
    gc_as(Role::Hurrying, places, &Keep::default(), &base, false)
}

fn gc_as(role: Role, places: &Places, keep: &Keep, base: &Path, dry_run: bool) -> Result<Vec<Done>> {
    if !dry_run {
        watcher::sweep_sockets(&places.runtime);
    }
    let mut done = Vec::new();
    for id in places.all()? {
        let one = if dry_run {
            plan(places, &id)
        } else {
            close_if_orphaned(places, &id, role)
        };
        match one {
            Ok(one) => done.extend(one),
            Err(failure) => done.push(Done::Failed(id, failure.to_string())),
        }
    }
    left_guests::free_places(places, base, dry_run, &mut done);
    prune::prune(places, keep, dry_run, &mut done)?;
    Ok(done)
}

/// What [`close_if_orphaned`] would do.
fn plan(places: &Places, id: &JobId) -> Result<Option<Done>> {
    let record = match places.open(id) {
        Err(jobcage_ledger::LedgerError::NoSuchJob(_)) => return Ok(None),
        other => other?,
    };
    Ok(match record.state()? {
        State::NeverBegun => Some(Done::Planned(id.clone(), "swept")),
        State::Unattended(spec) if is_orphan(&record, &spec)? => Some(Done::Planned(id.clone(), "closed")),
        State::Over(report) if left_guests::is_left(&report) => Some(Done::WouldGiveBack(report)),
        State::Unattended(_) | State::Alive { .. } | State::Closing { .. } | State::Over(_) => None,
    })
}

/// Whether a process has the time to look after a job to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It was started for that: it becomes the job's supervisor where the keeper lives.
    Staying,
    /// It has other things to do: it starts one that stays.
    Passing,
    /// As that, and a job waits for it: a hook of the site that has failed before would take its whole time again, for each such job.
    Hurrying,
}

/// Closes a job if nobody looks after it, or has it taken over if it still can be. `None`: there was nothing to do.
///
/// # Errors
/// If its record or its cage cannot be read.
pub fn close_if_orphaned(places: &Places, id: &JobId, role: Role) -> Result<Option<Done>> {
    let record = match places.open(id) {
        Err(jobcage_ledger::LedgerError::NoSuchJob(_)) => return Ok(None),
        other => other?,
    };
    match record.state()? {
        State::Alive { .. } => return Ok(None),
        State::Closing { by } => return wait_for_closing(by),
        State::Over(report) if role == Role::Hurrying && left_guests::waits_for_others(&report) => {
            return Ok(None);
        }
        State::Over(report) => return look_again(places, &record, &report),
        State::Unattended(spec) if !is_orphan(&record, &spec)? => return Ok(None),
        State::Unattended(spec) if role != Role::Staying && Keeper::find(&record)?.is_some() => {
            // The one that we would start has nobody to tell that it does not understand the record.
            kept::check(&record)?;
            host::start_closer(places, &spec.id)
                .map_err(Failure::system("start the next supervisor of the job"))?;
            return Ok(Some(Done::HandedOn(id.clone())));
        }
        // Its after phase may take its time, and shall not die with us.
        State::Unattended(spec) if role != Role::Staying && spec.after_reboot.is_some() => {
            return have_closed(places, &record);
        }
        State::Unattended(_) | State::NeverBegun => {}
    }
    // Before the lock: a stop may come as soon as somebody has it, by a signal that would end this process.
    let signals = if role == Role::Staying && Keeper::find(&record)?.is_some() {
        Some(Signals::block()?)
    } else {
        None
    };
    // Whoever takes a job over has it for long; others who find it being ended wait for that.
    let taken = match &signals {
        Some(_) => record.lock_to_tend()?,
        None => record.lock_to_end()?,
    };
    let Some(mut lock) = taken else {
        // Somebody was faster: the watcher's closing, or another gc.
        return match record.state()? {
            State::Closing { by } => wait_for_closing(by),
            _ => Ok(None),
        };
    };
    // Looked at again under the lock: another gc may have been here.
    match record.state_under(&lock)? {
        State::NeverBegun => {
            record.remove()?;
            Ok(Some(Done::Swept(id.clone())))
        }
        // A step has ended meanwhile, and was heard of.
        State::Unattended(spec) if !is_orphan(&record, &spec)? => Ok(None),
        State::Unattended(spec) => {
            let same_boot = spec.boot_id == boot_id()?;
            let mut why = Vec::new();
            if same_boot && let Some(signals) = signals {
                (lock, why) = match kept::take_over(places.open(id)?, *spec.clone(), lock, signals)? {
                    TakeOver::Done => return Ok(Some(Done::HandedOn(id.clone()))),
                    TakeOver::Lost(lock, why) => (lock, why),
                };
            }
            let report = if same_boot && spec.created_by == CreatedBy::Create && record.is_closing() {
                // A cleanup that was cut off: what it was about to do.
                sessions::close_created(places, &record, &spec, None, "gc")?
            } else {
                close_lost(places, &record, &spec, same_boot, why)?
            };
            drop(lock);
            Ok(Some(if report.clean {
                Done::Closed(report.into())
            } else {
                Done::Quarantined(report.into())
            }))
        }
        State::Over(_) | State::Alive { .. } | State::Closing { .. } => Ok(None),
    }
}

/// Has an orphan closed, or taken over, and does not wait for it: for who follows the record, and has other things to do.
///
/// # Errors
/// If its record cannot be read, or nobody can be started.
pub fn have_seen_to(places: &Places, id: &JobId) -> Result<()> {
    let record = match places.open(id) {
        Err(jobcage_ledger::LedgerError::NoSuchJob(_)) => return Ok(()),
        other => other?,
    };
    let State::Unattended(spec) = record.state()? else {
        return Ok(());
    };
    if is_orphan(&record, &spec)? {
        // Whether another one is faster is decided between the two.
        host::start_closer(places, id).map_err(Failure::system("start the closing of the job"))?;
    }
    Ok(())
}

/// Starts the closing of an orphan, and waits for it.
fn have_closed(places: &Places, record: &Record) -> Result<Option<Done>> {
    wait::expect_children().map_err(Failure::system("reset SIGCHLD"))?;
    let closer =
        host::start_closer(places, record.id()).map_err(Failure::system("start the closing of the job"))?;
    wait::block(wait::Whom::Pid(closer.pid)).map_err(Failure::system("wait for the closing of the job"))?;
    match record.state()? {
        State::Over(report) if report.clean => Ok(Some(Done::Closed(report))),
        State::Over(report) => Ok(Some(Done::Quarantined(report))),
        // Another gc's closer has it.
        State::Closing { by } => wait_for_closing(by),
        State::Alive { .. } => Ok(Some(Done::HandedOn(record.id().clone()))),
        State::Unattended(_) | State::NeverBegun => Err(Failure::Refused(
            "the process that was to close it ended before it had; run \"jobcage gc\" again".into(),
        )),
    }
}

/// Another process ends the job at this moment: when `gc` returns, what it found is done, whoever did it.
pub(crate) fn wait_for_closing(by: i32) -> Result<Option<Done>> {
    // One that has ended already is no trouble, and one out of our sight cannot be waited for.
    if let Ok(process) = pidfd::open(by) {
        pidfd::wait_end(process.as_fd()).map_err(Failure::system("wait for the closing of the job"))?;
    }
    Ok(None)
}

fn is_orphan(record: &Record, spec: &JobSpec) -> Result<bool> {
    Ok(spec.created_by.is_tended()
        || record.is_closing()
        || spec.boot_id != boot_id()?
        || matches!(lease(spec), Lease::Over)
        || unheard::look(record, spec) == Wait::Over)
}

fn close_lost(
    places: &Places,
    record: &Record,
    spec: &JobSpec,
    same_boot: bool,
    why: Vec<String>,
) -> Result<Report> {
    let ending = if !same_boot {
        Ending::Lost {
            why: "the host went down".into(),
        }
    } else if spec.created_by == CreatedBy::Create {
        Ending::Cancelled(match lease(spec) {
            Lease::None | Lease::Held(_) => jobcage_job::Cause::Silence,
            _ => jobcage_job::Cause::Lease,
        })
    } else {
        Ending::Lost {
            why: "its supervisor died".into(),
        }
    };
    // After a reboot there is no process of it, and its path may be another job's.
    let cage = if same_boot {
        Cage::open(Path::new(&spec.cage), spec.limited)?
    } else {
        None
    };
    let limits = closing::limits(spec, cage.as_ref());
    let mut closed = closing::end_job(cage.as_ref(), true, record, spec)?;
    if same_boot {
        closing::look_outside(spec, Outside::Unknown, &mut closed);
    }
    let mut notes = why;
    if spec.capture.is_some() {
        notes.push(
            "its log has what was written while somebody looked after it; the tail may be missing".into(),
        );
    }
    hand::forget(spec, &mut closed.notes);
    let told = kept::run_recorded(places, record, spec, &ending, &mut closed);
    closing::give_back_later(places, record, spec, &mut closed);
    notes.extend(told.notes);
    let mut steps = record.steps()?;
    sessions::add_step(&mut steps, told.step);
    if spec.after && spec.after_reboot.is_none() {
        notes.push(
            "its after phase did not run, or nobody saw its end: the script died with the supervisor".into(),
        );
    }
    let story = Story {
        spec,
        ending,
        status: None,
        notes,
        steps,
        limits,
        root: None,
        closed_by: "gc",
        wall: closing::began(spec).elapsed().unwrap_or_default(),
    };
    let report = closing::report(story, closed);
    record.close(&report)?;
    journal::ended(spec, &report);
    forget_life(record);
    Ok(report)
}

/// Takes away what only a living captured job needs, and whoever wrote the report may not have lived to.
fn forget_life(record: &Record) {
    for name in [keeper::SOCKET, session::SOCKET, "phase.json"] {
        record.forget(name);
    }
}

/// A job that is over: its quarantine may be over as well, and something of its machines or of what it handed on may be left.
pub(crate) fn look_again(places: &Places, record: &Record, report: &Report) -> Result<Option<Done>> {
    forget(record);
    forget_life(record);
    if !report.is_unfinished() {
        return Ok(None);
    }
    let Some(lock) = record.lock_to_end()? else {
        return Ok(None);
    };
    // As above.
    let State::Over(mut report) = record.state_under(&lock)? else {
        return Ok(None);
    };
    if !report.is_unfinished() {
        return Ok(None);
    }
    // Its after phase may have had a cage in a later boot than its command.
    let after = record.after_mark().ok().flatten();
    let boots = [Some(&report.boot_id), after.as_ref().map(|mark| &mark.boot_id)];
    let same_boot = boots.contains(&Some(&boot_id()?));
    let was_quarantined = report.quarantine.is_some();
    if !release(&mut report, same_boot)? {
        return Ok(Some(Done::Quarantined(report)));
    }
    let spec = record.spec();
    if let Ok(Some(spec)) = &spec {
        give_back_again(places, record, spec, &mut report);
    }
    // Who had survived outside of the cage was not looked for again, but no process outlives its boot.
    let outside = same_boot && report.has_survivors();
    report.clean = !outside && !report.is_unfinished();
    record.close(&report)?;
    // A record that cannot be read is told of: without it nothing can be given back.
    let spec = spec?;
    if !was_quarantined && !report.clean {
        return Ok(None);
    }
    if let Some(spec) = spec {
        journal::ended(&spec, &report);
    }
    Ok(Some(Done::Released(report)))
}

/// Empties and removes a quarantined cage. `false`: something in it still lives.
fn release(report: &mut Report, same_boot: bool) -> Result<bool> {
    let Some(quarantine) = &report.quarantine else {
        return Ok(true);
    };
    if let Some(cage) = Cage::open(Path::new(&quarantine.cage), false)?.filter(|_| same_boot) {
        let patience = Patience {
            kill: Duration::from_secs(1),
            ..Patience::default()
        };
        let emptied = empty(cage.dir(), &patience)?;
        if !emptied.proven() {
            return Ok(false);
        }
        cage.remove()?;
    }
    report.notes.push(format!(
        "released from quarantine at {}: {}",
        closing::now(),
        quarantine.why
    ));
    report.quarantine = None;
    if let Some(proof) = &mut report.proof {
        proof.populated = Some(false);
        proof.removed = true;
    }
    Ok(true)
}

/// The first try at the machines of a job that was quarantined, or another one at those that could not be given back.
fn give_back_again(places: &Places, record: &Record, spec: &JobSpec, report: &mut Report) {
    let mut closed = closing::Closed::default();
    closed.emptied.census = report.census.clone();
    closing::give_back_later(places, record, spec, &mut closed);
    report
        .guests
        .retain(|guest| !guest.is_left() || jobcage_guests::is_elsewhere(guest));
    // Of those that ended with the cage the first try has told.
    report.notes.extend(closed.notes);
    closed.guests.retain(|guest| !report.guests.contains(guest));
    report.guests.extend(closed.guests);
}

/// Another try at what was handed from step to step, should something of it have stayed.
pub(crate) fn forget(record: &Record) -> bool {
    match record.spec() {
        Ok(Some(spec)) => hand::forget(&spec, &mut Vec::new()),
        _ => true,
    }
}
