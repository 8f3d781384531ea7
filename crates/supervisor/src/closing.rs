//! The one way out: empty the cage, look for what has left it, read the counters, remove it, write the report. Used for
//! every ending, by whoever closes a job. Every part first looks whether it is done, so that it can be repeated.

use crate::error::Result;
use crate::host;
use crate::remotes;
use crate::witness::{self, Seen};
use jiff::Timestamp;
use jobcage_cage::{
    Cage, Dir, Emptied, Fence, Patience, carriers, descendants, empty_seen, read_back, usage,
};
use jobcage_job::{
    Census, Ending, EnforcedLimit, Escape, ExitStatus, Guarantee, GuestReport, JobSpec, Quarantine,
    REPORT_VERSION, Report, Root, StepReport, Usage,
};
use jobcage_ledger::{Places, Record};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// What became of a cage.
#[derive(Debug, Default)]
pub struct Closed {
    /// The emptying.
    pub emptied: Emptied,
    /// The final counters, where they were wanted.
    pub usage: Usage,
    /// Who was outside.
    pub escaped: Vec<Escape>,
    /// What could not be looked at.
    pub notes: Vec<String>,
    /// What is still there.
    pub quarantine: Option<Quarantine>,
    /// The machines that the job had.
    pub guests: Vec<GuestReport>,
}

/// Ends everything in a cage and removes it. `None`: it is gone already. `detail`: the counters are wanted even if all is
/// well. `seen` gets each census before the kill.
///
/// # Errors
/// If the cage can be neither read nor killed.
pub fn end_cage(cage: Option<&Cage>, detail: bool, seen: Seen<'_>) -> Result<Closed> {
    let mut closed = Closed::default();
    if let Some(cage) = cage {
        empty_and_remove(cage, detail, seen, &mut closed)?;
    }
    Ok(closed)
}

/// [`end_cage`] of a whole job: its jobs on other hosts are told to end before, and who was there is written down.
///
/// # Errors
/// As [`end_cage`].
pub fn end_job(cage: Option<&Cage>, detail: bool, record: &Record, spec: &JobSpec) -> Result<Closed> {
    let mut told = Closed::default();
    if let Some(above) = Path::new(&spec.cage).parent().filter(|_| cage.is_some()) {
        remotes::tell(above, record, spec, &mut told);
    }
    let mut closed = end_cage(cage, detail, &mut witness::of(record, spec))?;
    closed.guests.extend(told.guests);
    closed.notes.extend(told.notes);
    Ok(closed)
}

/// The limits of a job that somebody else has started, as they are enforced now: to be asked before its cage goes.
#[must_use]
pub fn limits(spec: &JobSpec, cage: Option<&Cage>) -> BTreeMap<String, EnforcedLimit> {
    let dir = cage.and_then(Cage::limits);
    dir.map(|dir| read_back(dir, &spec.limits)).unwrap_or_default()
}

/// How those can be found who have left the cage.
#[derive(Debug, Clone, Copy)]
pub enum Outside<'a> {
    /// The job's descendants are ours; these children of ours are not the job's.
    Descendants(&'a [i32]),
    /// Whoever the job's descendants belong to has none left.
    Nobody,
    /// The job's descendants are nobody's that we know (after a crash, or in cleanup): by what they carry.
    Unknown,
}

/// Looks for what has left the cage of a job that was emptied, kills what is the job's for certain, and names the rest.
pub fn look_outside(spec: &JobSpec, outside: Outside<'_>, closed: &mut Closed) {
    let orders = Fence::new(began(spec), spec.uid).orders();
    let mut look = |found: std::io::Result<Vec<Escape>>| match found {
        Ok(found) => closed.escaped.extend(found),
        Err(e) => closed.notes.push(format!(
            "nobody looked for processes that had left the cage: /proc: {e}"
        )),
    };
    match outside {
        Outside::Descendants(own) if jobcage_sys::wait::other_child_than(own) => {
            look(descendants(own, Path::new(&spec.cage)))
        }
        Outside::Descendants(_) | Outside::Nobody => {}
        Outside::Unknown => look(carriers(&spec.id)),
    }
    // Something was ordered from others, so what it started may carry the job's name by now.
    if !orders.is_empty() && !matches!(outside, Outside::Unknown) {
        look(carriers(&spec.id));
    }
    closed.escaped.extend(orders);
}

fn empty_and_remove(cage: &Cage, detail: bool, seen: Seen<'_>, closed: &mut Closed) -> Result<()> {
    let mut first = true;
    let patience = &Patience {
        ours: Some(Cage::OURS),
        ..Patience::default()
    };
    // A process can come into an emptied cage only from outside, by an administrator's hand: twice is much.
    for _ in 0..3 {
        let emptied = empty_seen(cage.dir(), patience, seen)?;
        let proven = emptied.proven();
        if first || !emptied.census.left.is_empty() {
            let before = std::mem::replace(&mut closed.emptied, emptied);
            closed.emptied.census.count += before.census.count;
        } else {
            closed.emptied.proof.populated = emptied.proof.populated;
        }
        if !proven {
            closed.usage = usage(cage.dir());
            closed.quarantine = Some(quarantine(cage.dir(), &closed.emptied));
            return Ok(());
        }
        if first && (detail || closed.emptied.census.count > 0) {
            closed.usage = usage(cage.limits().unwrap_or(cage.dir()));
        }
        first = false;
        match cage.remove() {
            Ok(()) => {
                closed.emptied.proof.removed = true;
                return Ok(());
            }
            // Somebody has just made a cgroup in it: a `jobcage exec` at this very moment, for one. No further one, then.
            Err(error) if error.errno() == Some(jobcage_sys::Errno::EBUSY) => {
                let _ = cage.dir().write("cgroup.max.descendants", "0");
            }
            Err(error) => return Err(error.into()),
        }
    }
    closed.quarantine = Some(quarantine(cage.dir(), &closed.emptied));
    Ok(())
}

/// Gives back the machines of a job whose processes are all dead, those of its after phase too. Of one with survivors nothing: they may hold
/// a daemon that a tool would wait for, and gc comes again.
pub(crate) fn give_back(record: &Record, spec: &JobSpec, closed: &mut Closed) {
    if let Some(above) = Path::new(&spec.cage).parent() {
        give_back_in(above, record, spec, closed);
    }
}

/// As [`give_back`], and it may be another boot, in which the cgroups of the job's time are not there: then in those of this one.
pub(crate) fn give_back_later(places: &Places, record: &Record, spec: &JobSpec, closed: &mut Closed) {
    let above = Path::new(&spec.cage).parent();
    if spec.guests.is_none() || above.is_none_or(Path::exists) {
        return give_back(record, spec, closed);
    }
    match host::root(None, places) {
        Ok(found) => give_back_in(found.dir.path(), record, spec, closed),
        // It says where there is nothing.
        Err(_) => give_back(record, spec, closed),
    }
}

fn give_back_in(above: &Path, record: &Record, spec: &JobSpec, closed: &mut Closed) {
    if spec.guests.is_some() && closed.quarantine.is_none() {
        remotes::tell(above, record, spec, closed);
        let census = witness::all(record, &closed.emptied.census);
        let earlier = record.given_back().ok().flatten();
        let mut given = jobcage_guests::give_back(spec, above, &census, earlier);
        if given.place_goes.is_some() && !given.guests.is_empty() {
            // Where it cannot be written, a crash at this very moment costs what the tools have said.
            given.notes.extend(
                record
                    .write_given_back(&given.guests)
                    .err()
                    .map(|why| why.to_string()),
            );
        }
        jobcage_guests::remove_place(spec, &mut given);
        let settled = jobcage_guests::settle(spec, record.path(), !given.guests.is_empty());
        closed.guests.extend(given.guests);
        closed.notes.extend(given.notes);
        closed.notes.extend(settled.err().map(|why| why.to_string()));
    }
}

/// Names the cause of a survival as far as the kernel tells it.
#[must_use]
pub fn quarantine(dir: &Dir, emptied: &Emptied) -> Quarantine {
    let survivors = emptied.survivors.clone();
    let sleeping = survivors.iter().filter(|left| left.state == 'D').count();
    let tracer = survivors.iter().find_map(|left| left.tracer);
    let why = match (sleeping, tracer) {
        (_, Some(tracer)) => format!(
            "a process outside, pid {tracer}, traces a process of the job and holds it at its exit: end pid {tracer}"
        ),
        (n, None) if n > 0 => {
            let wchan = survivors
                .iter()
                .find_map(|left| left.wchan.as_deref())
                .unwrap_or("the kernel");
            format!(
                "uninterruptible sleep (state D) in {wchan}, which only the device or file system behind it can end: \
                 umount -f it, or repair it"
            )
        }
        _ => "it took the SIGKILL and did not die within the time".to_owned(),
    };
    Quarantine {
        cage: dir.path().display().to_string(),
        survivors,
        why,
    }
}

/// Everything that a report is made of.
#[derive(Debug)]
pub struct Story<'a> {
    /// The job.
    pub spec: &'a JobSpec,
    /// How it ended.
    pub ending: Ending,
    /// What the main process said.
    pub status: Option<ExitStatus>,
    /// Later causes.
    pub notes: Vec<String>,
    /// Its steps.
    pub steps: Vec<StepReport>,
    /// Limits as enforced.
    pub limits: BTreeMap<String, EnforcedLimit>,
    /// Where the cage was.
    pub root: Option<Root>,
    /// Who closed it.
    pub closed_by: &'a str,
    /// From its start to now.
    pub wall: Duration,
}

/// Writes the story down.
#[must_use]
pub fn report(story: Story<'_>, closed: Closed) -> Report {
    let spec = story.spec;
    let survived = closed.escaped.iter().any(Escape::has_survived);
    let left = closed.guests.iter().any(GuestReport::is_left);
    let clean = closed.quarantine.is_none() && closed.emptied.proven() && !survived && !left;
    let census = Census {
        count: closed.emptied.census.count,
        ..closed.emptied.census
    };
    Report {
        version: REPORT_VERSION,
        jobcage: env!("CARGO_PKG_VERSION").into(),
        job: spec.id.clone(),
        host: None,
        name: spec.name.clone(),
        exit_code: if clean { story.ending.exit_code() } else { 125 },
        ending: story.ending,
        status: story.status,
        notes: [story.notes, closed.notes].concat(),
        clean,
        closed_by: story.closed_by.into(),
        started: timestamp(spec.created_ns),
        ended: now(),
        wall_seconds: story.wall.as_secs_f64(),
        boot_id: spec.boot_id.clone(),
        guarantee: guarantee(spec),
        cage: spec.cage.clone(),
        root: story.root,
        steps: story.steps,
        census,
        escaped: closed.escaped,
        guests: closed.guests,
        proof: Some(closed.emptied.proof),
        quarantine: closed.quarantine,
        limits: story.limits,
        usage: closed.usage,
    }
}

fn guarantee(spec: &JobSpec) -> Guarantee {
    match spec.uid {
        _ if spec.guard => Guarantee::Guarded,
        0 => Guarantee::Root,
        uid if uid == spec.owner => Guarantee::SameUser,
        _ => Guarantee::OtherUser,
    }
}

/// The moment at which a job was made.
pub(crate) fn began(spec: &JobSpec) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_nanos(u64::try_from(spec.created_ns).unwrap_or(0))
}

/// The present moment in RFC 3339, UTC.
#[must_use]
pub fn now() -> String {
    format!("{:.6}", Timestamp::now())
}

/// Nanoseconds since 1970 in RFC 3339, UTC.
pub(crate) fn timestamp(ns: i64) -> String {
    Timestamp::from_nanosecond(i128::from(ns)).map_or_else(|_| String::new(), |at| format!("{at:.6}"))
}

/// Nanoseconds since 1970.
pub(crate) fn now_ns() -> i64 {
    i64::try_from(Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}
