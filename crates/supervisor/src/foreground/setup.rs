//! What has to be there before a command starts: record, watcher, cage, limits and leaf.

use crate::agent;
use crate::closing::{self};
use crate::error::{Failure, Result};
use crate::hand::{self, Hand};
use crate::host::{self};
use crate::job::{Command, Job, Known, Target};
use crate::keeper::{KEEPERS, Keeper};
use crate::package;
use crate::session::Guest;
use crate::unheard;
use crate::watcher::{self, Watch};
use crate::witness;
use jobcage_cage::{Cage, Found, Leaf, apply, enable};
use jobcage_job::{
    AfterReboot, Controller, CreatedBy, EnforcedLimit, JobId, JobSpec, Limits, Root, SPEC_VERSION, StepKind,
};
use jobcage_ledger::handed::HandedPlace;
use jobcage_ledger::{Attended, EndFile, Lock, Record, boot_id};
use jobcage_sys::Errno;
use jobcage_sys::file::Durability;
use std::collections::BTreeMap;
use std::os::fd::AsFd;

/// What is there before the command starts.
pub(super) struct Setup {
    pub(super) spec: JobSpec,
    pub(super) record: Record,
    pub(super) lock: Option<Lock>,
    pub(super) cage: Cage,
    pub(super) leaf: Leaf,
    pub(super) watch: Option<Watch>,
    /// Holds what an after phase needs, should we be killed before it.
    pub(super) keeper: Option<Keeper>,
    pub(super) limits: BTreeMap<String, EnforcedLimit>,
    pub(super) root: Option<Root>,
    pub(super) notes: Vec<String>,
    /// The supervisor of the session that this is a step of.
    pub(super) guest: Option<Guest>,
    /// Where the end of its step is to be written, made ready meanwhile.
    pub(super) end: Option<EndFile>,
    /// Shows to the lease of a cage of another that this step runs.
    pub(super) attended: Option<Attended>,
    /// What its steps hand on to each other.
    pub(super) hand: Option<Hand>,
    /// The command with what was handed on to it, or, for the after phase, to that.
    pub(super) command: Option<Command>,
}

/// Makes the record and the cage of a new job.
pub(super) fn new_cage(
    job: &Job,
    name: Option<&str>,
    limits: &Limits,
    best_effort: bool,
    after: bool,
) -> Result<Setup> {
    host::while_root_lasts(|| try_new_cage(job, name, limits, best_effort, after))
}

fn try_new_cage(
    job: &Job,
    name: Option<&str>,
    limits: &Limits,
    best_effort: bool,
    after: bool,
) -> Result<Setup> {
    let found = host::root(job.cgroup_root.as_deref(), &job.places)?;
    if !limits.is_empty() {
        host::check_limits(&found, best_effort)?;
        host::step_aside(&found)?;
    }
    let mut notes = Vec::new();
    // Without an after phase nobody could read what the command hands on.
    let place = (after || job.agent.is_some())
        .then(|| hand::choose(&job.places, uid_of(&job.command), &mut notes))
        .flatten();
    agent::check_place(job.agent.is_some(), place.is_some(), &notes)?;
    let boot = boot_id()?;
    let make_spec = || new_spec(job, name, limits, after, &boot, place.as_ref());
    let (spec, record, lock) = make_record(&job.places.runtime, &found, make_spec, Durability::Kernel)?;
    let watch = watcher::register_or_note(&job.places, &found.dir, &spec.id, &mut notes);
    let root = Some(found.root());
    let keeper = if after {
        keep_after(job, &record, &found, &mut notes)
    } else {
        None
    };
    let hand = Hand::make(place.as_ref(), &spec, &mut notes);
    let furnished = make_place(&spec, &mut notes).and_then(|()| furnish(found, &spec, best_effort));
    let furnished = furnished.and_then(|furnished| {
        let dir = (hand.is_some(), &notes[..]);
        agent::start_if(job.agent.as_ref(), &furnished.0, &spec, &job.command, dir)?;
        Ok(furnished)
    });
    match furnished {
        Ok((cage, leaf, limits)) => Ok(Setup {
            // Without an after phase it is the agent's alone.
            hand: hand.filter(|_| after),
            guest: None,
            attended: None,
            end: None,
            command: None,
            spec,
            record,
            lock: Some(lock),
            cage,
            leaf,
            watch,
            keeper,
            limits,
            root,
            notes,
        }),
        Err(failure) => {
            if let Some(keeper) = keeper {
                keeper.leave();
            }
            take_back(&record, &spec);
            Err(failure)
        }
    }
}

/// Takes back what was made of a job that cannot begin; the failure is what to tell. Nothing but its ssh-agent has run in
/// it. Where something is left, the record stays, for gc.
pub(crate) fn take_back(record: &Record, spec: &JobSpec) {
    if let Ok(Some(cage)) = Cage::open(spec.cage.as_ref(), spec.limited) {
        let ended = if spec.ssh_agent {
            closing::end_cage(Some(&cage), false, &mut witness::nobody)
                .is_ok_and(|closed| closed.quarantine.is_none())
        } else {
            let _ = cage.remove();
            true
        };
        if !ended {
            return;
        }
    }
    jobcage_guests::remove_unused(spec);
    if hand::forget(spec, &mut Vec::new()) {
        let _ = record.remove();
    }
}

/// Has a keeper hold the script, the environment and the caller's files: whoever closes the job if we are killed runs the
/// after phase with them. The job can run without.
fn keep_after(job: &Job, record: &Record, found: &Found, notes: &mut Vec<String>) -> Option<Keeper> {
    let kept = (|| {
        let package = package::seal_job(job, &found.root())?;
        let leaf = host::leaf(&found.dir, KEEPERS)?;
        let mut keeper = Keeper::start(record, &job.places, &leaf)?;
        let (out, err) = (std::io::stdout(), std::io::stderr());
        let files = [
            ("package", package.as_fd()),
            ("stdout", out.as_fd()),
            ("stderr", err.as_fd()),
        ];
        match keeper.hello(true).and_then(|_| keeper.hold(&files)) {
            Ok(()) => Ok(keeper),
            Err(failure) => {
                keeper.leave();
                Err(failure)
            }
        }
    })();
    kept.map_err(|failure| {
        notes.push(format!(
            "no keeper: {failure}; if jobcage is killed, the after phase is lost"
        ))
    })
    .ok()
}

fn after_reboot(job: &Job) -> Option<AfterReboot> {
    match &job.target {
        Target::New {
            after: Some(after), ..
        } => after.reboot.as_deref().cloned(),
        _ => None,
    }
}

/// What is written down of a new job, under a new id; its cage is still to be named.
pub(crate) fn new_spec(
    job: &Job,
    name: Option<&str>,
    limits: &Limits,
    after: bool,
    boot: &str,
    place: Option<&HandedPlace>,
) -> JobSpec {
    let program = (!job.session).then(|| job.command.program_name());
    let word = name.map(str::to_owned).or_else(|| program.clone());
    let id = job.id.clone();
    let id = id.unwrap_or_else(|| JobId::generate(word.as_deref().unwrap_or("job"), random()));
    JobSpec {
        version: SPEC_VERSION,
        state_dir: hand::recorded(place, &id),
        guests: job.guests.as_ref().map(|home| home.place(&id)),
        id,
        name: name.map(str::to_owned),
        created_by: if job.session {
            CreatedBy::Session
        } else {
            CreatedBy::Run
        },
        program,
        cage: String::new(),
        limited: !limits.is_empty(),
        boot_id: boot.to_owned(),
        owner: nix::unistd::getuid().as_raw(),
        uid: uid_of(&job.command),
        created_ns: closing::now_ns(),
        grace: job.grace,
        limits: limits.clone(),
        lease: job.lease,
        silence: job.silence,
        after,
        ssh_agent: job.agent.is_some(),
        after_reboot: after_reboot(job),
        guard: job.command.guard,
        capture: job.capture,
        labels: job.labels.clone(),
        login: job.command.login.clone().filter(|_| job.session),
    }
}

/// Makes the place of the machines of a job whose record is there. What its user should know before, a note says.
pub(crate) fn make_place(spec: &JobSpec, notes: &mut Vec<String>) -> Result<()> {
    notes.extend(jobcage_guests::forewarnings(spec));
    jobcage_guests::make(spec).map_err(|error| Failure::Refused(error.to_string()))
}

/// Makes the record of a new job. An id that is taken, or that `gc` swept away in the moment before its spec was whole,
/// is left for another one.
pub(crate) fn make_record(
    base: &std::path::Path,
    found: &Found,
    make_spec: impl Fn() -> JobSpec,
    durability: Durability,
) -> Result<(JobSpec, Record, Lock)> {
    let mut tries = 0;
    loop {
        let mut spec = make_spec();
        spec.cage = found.dir.path().join(spec.id.as_str()).display().to_string();
        match Record::create(base, &spec, durability) {
            Ok((record, lock)) => return Ok((spec, record, lock)),
            Err(error)
                if matches!(error.errno(), Some(Errno::EEXIST | Errno::EAGAIN | Errno::ENOENT))
                    && tries < 3 =>
            {
                tries += 1
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Makes the cage, its limits and its first leaf.
fn furnish(
    found: Found,
    spec: &JobSpec,
    best_effort: bool,
) -> Result<(Cage, Leaf, BTreeMap<String, EnforcedLimit>)> {
    let (mut cage, limits) = make_cage(found, spec, best_effort)?;
    let leaf = cage.leaf(StepKind::Step)?;
    Ok((cage, leaf, limits))
}

/// Makes a cage with its limits.
///
/// # Errors
/// If it cannot be made, or a limit cannot be enforced and has to be.
pub(crate) fn make_cage(
    found: Found,
    spec: &JobSpec,
    best_effort: bool,
) -> Result<(Cage, BTreeMap<String, EnforcedLimit>)> {
    let mut needed: Vec<Controller> = spec
        .limits
        .writes()
        .iter()
        .map(|limit| limit.controller)
        .collect();
    needed.sort();
    needed.dedup();
    let mut missing = None;
    if !needed.is_empty() {
        // One by one: with best effort, those that there are shall hold.
        for controller in &needed {
            match host::enable_below(&found, &[*controller]) {
                Err(failure) if !best_effort => return Err(failure),
                Err(failure) => missing = Some(failure),
                Ok(()) => {}
            }
        }
    }
    let cage = Cage::create(found.dir, &spec.id, spec.limited)?;
    let Some(steps) = cage.limits() else {
        return Ok((cage, BTreeMap::new()));
    };
    for controller in &needed {
        match enable(cage.dir(), &[*controller]) {
            Err(error) if !best_effort => return Err(error.into()),
            Err(error) => missing = missing.or(Some(error.into())),
            Ok(()) => {}
        }
    }
    let mut limits = apply(steps, &spec.limits, best_effort)?;
    if let Some(failure) = missing {
        for limit in limits.values_mut().filter(|limit| limit.error.is_some()) {
            limit.error = Some(failure.to_string());
        }
    }
    Ok((cage, limits))
}

pub(super) fn existing_cage(job: &Job, id: &JobId, known: Option<&Known>) -> Result<Setup> {
    let (record, spec, mut cage) = open_cage(job, id, known, "its cage takes no further step")?;
    if !spec.created_by.is_open() {
        return Err(Failure::Refused(format!(
            "the job {id} was started by \"jobcage run\" and ends with its own command; make a cage for several steps with \
             \"jobcage create\", or run a command beside that one with \"jobcage exec\""
        )));
    }
    // The report of a session has its steps, and comes onto the disk.
    let record = if spec.created_by == CreatedBy::Session {
        record.for_this_boot()
    } else {
        record
    };
    let leaf = cage.leaf(StepKind::Step)?;
    // Let in just before the start: the supervisor wakes up meanwhile.
    let guest = (spec.created_by == CreatedBy::Session)
        .then(|| Guest::announce(&record, leaf.number, job.step_name(), job.signal, job.grace));
    let mut notes = Vec::new();
    let mut hand = Hand::open(&spec, uid_of(&job.command), &mut notes);
    let command = hand.as_mut().and_then(|hand| hand.pass(&job.command, &mut notes));
    Ok(Setup {
        command,
        guest,
        hand,
        notes,
        ..of_another(record, spec, cage, leaf)
    })
}

/// The place of a command of `jobcage exec`.
pub(super) fn cage_beside(job: &Job, id: &JobId) -> Result<Setup> {
    let (record, spec, cage) = open_cage(job, id, None, "nothing can run in it any more")?;
    let leaf = cage.exec_leaf()?;
    Ok(of_another(record, spec, cage, leaf))
}

fn open_cage(job: &Job, id: &JobId, known: Option<&Known>, so: &str) -> Result<(Record, JobSpec, Cage)> {
    let (record, spec) = match known {
        Some(known) => (known.record.again()?, Some(known.spec.clone())),
        None => {
            let record = job.places.open(id)?;
            let spec = record.spec()?;
            let spec = spec.filter(|_| matches!(record.report(), Ok(None)));
            (record, spec)
        }
    };
    let spec = spec.filter(|_| !record.is_closing());
    let gone = || Failure::Refused(format!("the job {id} is over: {so}"));
    let spec = spec.ok_or_else(gone)?;
    let cage = Cage::open(spec.cage.as_ref(), spec.limited)?.ok_or_else(gone)?;
    Ok((record, spec, cage))
}

/// What is somebody else's, but for the leaf.
fn of_another(record: Record, spec: JobSpec, cage: Cage, leaf: Leaf) -> Setup {
    Setup {
        attended: unheard::attend(&record, &spec),
        command: None,
        guest: None,
        end: None,
        hand: None,
        spec,
        record,
        lock: None,
        cage,
        leaf,
        watch: None,
        keeper: None,
        limits: BTreeMap::new(),
        root: None,
        notes: Vec::new(),
    }
}

/// The uid that a command runs as.
pub(crate) fn uid_of(command: &Command) -> u32 {
    let identity = command.identity.as_ref();
    identity.map_or_else(|| nix::unistd::getuid().as_raw(), |identity| identity.uid)
}

/// Random bits for an id: the hasher's keys come from getrandom(2).
#[must_use]
pub fn random() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::hash::RandomState::new().build_hasher().finish()
}
