//! Jobs of several steps: `jobcage create`, `run --job`, `cleanup`.

use crate::agent::{self, Key};
use crate::asking::{self, How, Stopped};
use crate::closing::{self, Outside, Story, report};
use crate::error::{Failure, Result};
use crate::foreground::{make_cage, make_place, make_record, random, take_back};
use crate::hand::{self, Hand};
use crate::job::{Command, GuestHome, Job};
use crate::{gc, host, journal, kept, unheard, watcher};
use jobcage_cage::{Cage, Process};
use jobcage_job::{
    Cause, CreatedBy, Ending, JobId, JobSpec, LeaseHolder, Limits, Report, SPEC_VERSION, StepReport,
};
use jobcage_ledger::{Places, Record, State, boot_id};
use jobcage_sys::file::{self, Durability};
use jobcage_sys::spawn::Identity;
use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A cage to make.
#[derive(Debug)]
pub struct Create {
    /// Where records are.
    pub places: Places,
    /// `--cgroup-root`.
    pub cgroup_root: Option<PathBuf>,
    /// Decorates the id.
    pub name: Option<String>,
    /// What the job may use.
    pub limits: Limits,
    /// Whether a limit that cannot be had is only noted.
    pub best_effort: bool,
    /// The uid its steps run as, unless they say otherwise.
    pub uid: u32,
    /// The user to become for that, if it is another one.
    pub identity: Option<Identity>,
    /// Where the machines that it starts are to live; `None`: where they always do.
    pub guests: Option<GuestHome>,
    /// The keys of its own ssh-agent; `None`: it has none.
    pub agent: Option<Vec<Key>>,
    /// From the signal of `stop` to the kill.
    pub grace: Duration,
    /// The process whose end is the job's.
    pub lease_pid: Option<i32>,
    /// How long it waits for a step; `None`: for ever.
    pub silence: Option<Duration>,
    /// Its id; `None`: a new one.
    pub id: Option<JobId>,
}

/// A cage that was made.
#[derive(Debug)]
pub struct Created {
    /// The job.
    pub id: JobId,
    /// What its user should know.
    pub notes: Vec<String>,
}

/// Makes a cage that stays open.
///
/// # Errors
/// If it cannot be made, or a limit cannot be enforced and has to be.
pub fn create(request: &Create) -> Result<Created> {
    host::while_root_lasts(|| try_create(request))
}

fn try_create(request: &Create) -> Result<Created> {
    let lease = request.lease_pid.map(lease_holder).transpose()?;
    let found = host::lasting_root(request.cgroup_root.as_deref(), &request.places)?;
    if !request.limits.is_empty() {
        host::step_aside(&found)?;
    }
    let mut notes = Vec::new();
    let place = hand::choose(&request.places, request.uid, &mut notes);
    agent::check_place(request.agent.is_some(), place.is_some(), &notes)?;
    let boot = boot_id()?;
    let make_spec = |id: JobId| JobSpec {
        version: SPEC_VERSION,
        state_dir: hand::recorded(place.as_ref(), &id),
        guests: request.guests.as_ref().map(|home| home.place(&id)),
        id,
        name: request.name.clone(),
        created_by: CreatedBy::Create,
        program: None,
        cage: String::new(),
        limited: !request.limits.is_empty(),
        boot_id: boot.clone(),
        owner: nix::unistd::getuid().as_raw(),
        uid: request.uid,
        created_ns: closing::now_ns(),
        grace: request.grace,
        limits: request.limits.clone(),
        lease,
        silence: request.silence,
        after: false,
        ssh_agent: request.agent.is_some(),
        after_reboot: None,
        guard: false,
        capture: None,
        labels: BTreeMap::new(),
        login: None,
    };
    let word = request.name.as_deref().unwrap_or("job");
    let make_spec = || {
        make_spec(
            request
                .id
                .clone()
                .unwrap_or_else(|| JobId::generate(word, random())),
        )
    };
    // Systemd removes a scope, cages and all, when the last process in it ends; that would be this one.
    if found.kind == jobcage_cage::Kind::UserScope {
        return Err(Failure::Refused(
            "a cage of \"jobcage create\" has to outlive this process, and the cgroup that this user's systemd gave it \
             does not: start it inside a unit of this user that lasts and has Delegate=yes"
                .into(),
        ));
    }
    let (spec, record, lock) = make_record(&request.places.state, &found, make_spec, Durability::Disk)?;
    let root = jobcage_cage::Dir::open(found.dir.path())?;
    let hand = Hand::make(place.as_ref(), &spec, &mut notes);
    let made = make_place(&spec, &mut notes).and_then(|()| {
        unheard::begin(&record, &spec)?;
        let (cage, _) = make_cage(found, &spec, request.best_effort)?;
        let command = Command {
            env: host::environment(&["PATH", "HOME"]),
            identity: request.identity.clone(),
            ..Command::default()
        };
        let dir = (hand.is_some(), &notes[..]);
        agent::start_if(request.agent.as_ref(), &cage, &spec, &command, dir)
    });
    if let Err(failure) = made {
        take_back(&record, &spec);
        return Err(failure);
    }
    drop(lock);
    if spec.lease.is_some() || spec.silence.is_some() {
        jobcage_ledger::open_base(&request.places.runtime)?;
        watcher::announce_lease(&request.places, &root, &spec.id)?;
    }
    Ok(Created { id: spec.id, notes })
}

/// Opens a session ([`crate::session`]): a cage with a supervisor. The command of `job` is what its after phase is fed to.
///
/// # Errors
/// If it cannot be made, or a limit cannot be enforced and has to be.
pub fn open(job: &Job) -> Result<Created> {
    let null = file::open_null().map_err(Failure::system("open /dev/null"))?;
    let id = kept::detach(job, null.as_fd())?;
    let phase: Option<kept::Phase> = job.places.open(&id)?.phase(kept::PHASE_VERSION)?;
    let notes = phase.map(|phase| phase.notes).unwrap_or_default();
    Ok(Created { id, notes })
}

/// Ends a session whose steps are over: the report. `ending` is what came of them.
///
/// # Errors
/// If there is no such job, or it is not ours to end.
pub fn finish(places: &Places, id: &JobId, ending: Ending) -> Result<Report> {
    let how = How {
        finished: Some(ending),
        ..How::default()
    };
    match asking::stop(places, id, &how)? {
        Stopped::Asked(Some(report)) | Stopped::Closed(report) | Stopped::Over(report) => Ok(*report),
        Stopped::Asked(None) => Err(Failure::Refused(format!(
            "the record of the job {id} was removed meanwhile: how it ended is not known here"
        ))),
    }
}

/// A process, so that its pid names it for ever.
///
/// # Errors
/// If there is no such process.
pub fn lease_holder(pid: i32) -> Result<LeaseHolder> {
    let process = Process::read(pid).ok_or_else(|| {
        Failure::Refused(format!(
            "there is no process {pid} to hold the lease (--lease-pid)"
        ))
    })?;
    Ok(LeaseHolder {
        pid,
        start_ticks: process.start_ticks,
    })
}

/// Ends a job of `jobcage create`, or closes one that nobody looks after. Can be repeated; a job that is over gives its
/// report again.
///
/// # Errors
/// If there is no such job, or a supervisor has it.
pub fn cleanup(places: &Places, id: &JobId, cause: Option<Cause>) -> Result<Report> {
    let record = places.open(id)?;
    let busy = |supervisor: i32| {
        Failure::Refused(format!(
            "the job {id} is looked after by pid {supervisor}: use \"jobcage stop {id}\""
        ))
    };
    let closing =
        |by: i32| Failure::Refused(format!("the job {id} is being ended at this moment, by pid {by}"));
    let lock = match record.state()? {
        State::Over(report) => return Ok(*report),
        State::Alive { supervisor } => return Err(busy(supervisor)),
        State::Closing { by: 0 } => return Err(closing(0)),
        State::Closing { by } => {
            // What it comes to is what we were asked for.
            gc::wait_for_closing(by)?;
            return cleanup(places, id, cause);
        }
        State::NeverBegun => {
            record.remove()?;
            return Err(Failure::Refused(format!(
                "the job {id} was cut off before it began; its record is removed now"
            )));
        }
        State::Unattended(_) => record.lock_to_end()?.ok_or_else(|| closing(0))?,
    };
    // Looked at again under the lock: somebody else may have been faster.
    let spec = match record.state_under(&lock)? {
        State::Unattended(spec) => spec,
        State::Over(report) => return Ok(*report),
        State::NeverBegun | State::Alive { .. } | State::Closing { .. } => return Err(closing(0)),
    };
    record.mark_closing()?;
    let report = close_created(places, &record, &spec, cause, "cleanup")?;
    drop(lock);
    Ok(report)
}

/// Ends everything of a job of `jobcage create`, whose lock the caller holds, and writes its report.
pub(crate) fn close_created(
    places: &Places,
    record: &Record,
    spec: &JobSpec,
    cause: Option<Cause>,
    closed_by: &'static str,
) -> Result<Report> {
    let cage = if spec.boot_id == boot_id()? {
        Cage::open(Path::new(&spec.cage), spec.limited)?
    } else {
        None
    };
    let limits = closing::limits(spec, cage.as_ref());
    let mut closed = closing::end_job(cage.as_ref(), true, record, spec)?;
    closing::look_outside(spec, Outside::Unknown, &mut closed);
    hand::forget(spec, &mut closed.notes);
    let mut steps = record.steps()?;
    // A stop that was cut off had begun to end it.
    let cause = cause.or_else(|| Some(record.asked().ok()??.cause()));
    let ending = match (cause, steps.last()) {
        (Some(cause), _) => Ending::Cancelled(cause),
        // The job is what its last step was; a job without steps is nothing that could fail.
        (None, Some(step)) => step.ending.clone(),
        (None, None) => Ending::Exited { code: 0 },
    };
    let told = kept::run_recorded(places, record, spec, &ending, &mut closed);
    closing::give_back_later(places, record, spec, &mut closed);
    let status = steps.last().and_then(|step| step.status);
    add_step(&mut steps, told.step);
    let story = Story {
        spec,
        status,
        ending,
        notes: told.notes,
        steps,
        limits,
        root: None,
        closed_by,
        wall: closing::began(spec).elapsed().unwrap_or_default(),
    };
    let report = report(story, closed);
    record.close(&report)?;
    journal::ended(spec, &report);
    Ok(report)
}

/// Adds what is known of a step, or replaces what was.
pub(crate) fn add_step(steps: &mut Vec<StepReport>, step: Option<StepReport>) {
    let Some(step) = step else { return };
    steps.retain(|known| known.number != step.number);
    steps.push(step);
}
