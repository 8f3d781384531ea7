//! `jobcage gitlab prepare` and `cleanup`: the job's cage, from its beginning to its end.

use super::contract::Response;
use super::stage::login_shell;
use super::{GitlabError, debris, end};
use crate::cli::request::{CageChoice, Common, GitlabSettings, GuestRest, Quarantine, Voice};
use crate::verbs::{self, VerbError, places, tell, tell_done};
use jobcage_cage::{Dir, EventsFile, Process, describe, listed};
use jobcage_job::{CaptureSpec, CreatedBy, Death, FoundBy, JobId, JobSpec, LogFull, Streams};
use jobcage_ledger::{Places, Record};
use jobcage_supervisor::gc::{self, Done};
use jobcage_supervisor::{Job, Target, sessions};
use std::path::{Path, PathBuf};

/// `jobcage gitlab prepare`.
///
/// # Errors
/// If the cage cannot be made as the host's configuration asks for it.
pub fn prepare(response: &Response, settings: GitlabSettings) -> Result<(), VerbError> {
    let run = settings.run;
    let CageChoice::New { mut cage, .. } = run.cage else {
        unreachable!("no word of gitlab names a cage");
    };
    let records = places(&run.common.places);
    let count = close_orphans(&records, run.common.voice);
    debris::sweep(&records);
    if settings.quarantine == Quarantine::Refuse && count > settings.quarantine_max {
        let most = settings.quarantine_max;
        return Err(GitlabError::Quarantined { count, most }.into());
    }
    // A first attempt to prepare may have been killed behind its cage.
    end_all(&records, response, Voice::Quiet)?;
    let command = login_shell(run.step, None)?;
    // The job's word, for what the job could remove itself.
    cage.project = std::env::var_os("CUSTOM_ENV_CI_PROJECT_DIR").map(PathBuf::from);
    let guests = verbs::guest_home::home(&cage, GuestRest::Isolate, &command, &run.common.places);
    let created = sessions::open(&Job {
        places: records.clone(),
        cgroup_root: run.common.places.cgroup_root.clone(),
        target: Target::New {
            name: Some(response.cage_name()),
            limits: cage.limits,
            best_effort: cage.best_effort,
            // The job's script is not there yet, and after it nothing is to be cleaned up before it has begun.
            after: None,
        },
        command,
        timeout: run.timeout,
        idle_timeout: None,
        signal: run.signal.number(),
        grace: run.grace,
        detail: true,
        agent: verbs::read_keys(cage.ssh_agent.as_deref())?,
        spare: run.spare,
        lease: Some(sessions::lease_holder(runner()?)?),
        capture: Some(CAPTURE),
        copied: None,
        session: true,
        silence: None,
        id: None,
        step: None,
        sweep: false,
        keep_log: false,
        labels: response.labels(),
        guests,
    })?;
    header(&records, response, &created.id)?;
    let notes = settings.notes.iter().chain(&created.notes);
    notes.for_each(|note| say(&format!("note: {note}")));
    Ok(())
}

/// How the output of an after phase is kept that jobcage runs itself.
const CAPTURE: CaptureSpec = CaptureSpec {
    streams: Streams::Merged,
    log_max: Some(64 << 20),
    log_full: LogFull::Middle,
    sync: false,
};

/// Into the job's log.
pub fn say(line: &str) {
    crate::complain(&line);
}

/// The runner: whoever has started us, and has not died since.
fn runner() -> Result<i32, GitlabError> {
    let parent = nix::unistd::getppid().as_raw();
    if parent > 1 {
        return Ok(parent);
    }
    Err(GitlabError::Contract {
        what: "the runner".into(),
        why: "it is gone, or it has not started this call itself".into(),
    })
}

/// What nobody looks after any more is closed first: its VMs and processes are in this job's way. How many cages there are
/// that cannot be emptied.
fn close_orphans(records: &Places, voice: Voice) -> u64 {
    let done = match gc::gc_before_a_job(records) {
        Ok(done) => done,
        Err(failure) => {
            // It is no fault of this job.
            say(&format!("note: orphans could not be looked for: {failure}"));
            return 0;
        }
    };
    let mut count = 0;
    for one in &done {
        match one {
            Done::Quarantined(report) if report.has_survivors() => {
                count += 1;
                say(&format!(
                    "warning: processes of the job {id} survive on this host; \"jobcage show {id}\" names them",
                    id = report.job
                ));
            }
            one if voice == Voice::Verbose || matches!(one, Done::Quarantined(_)) => say(&tell_done(one).1),
            _ => {}
        }
    }
    count
}

fn header(records: &Places, response: &Response, id: &JobId) -> Result<(), VerbError> {
    let record = records.open(id)?;
    let Some(spec) = record.spec()? else {
        return Err(GitlabError::NoCage(response.id).into());
    };
    let user = nix::unistd::User::from_uid(spec.uid.into()).ok().flatten();
    let user = user.map_or_else(
        || spec.uid.to_string(),
        |user| format!("{} ({})", user.name, spec.uid),
    );
    say(&format!(
        "{}: job {} {:?} of {:?}, user {user}, cage {}",
        env!("CARGO_PKG_VERSION"),
        response.id,
        response.job_info.name,
        response.job_info.project_name,
        spec.cage
    ));
    say(&format!("limits: {}", limits(&spec)));
    say(
        "what leaves the cage with the help of others (systemd-run, at, a service) is named at the end and not killed",
    );
    Ok(())
}

fn limits(spec: &JobSpec) -> String {
    let value = serde_json::to_value(&spec.limits).unwrap_or_default();
    let set: Vec<String> = value
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(_, limit)| !limit.is_null() && !limit.as_array().is_some_and(Vec::is_empty))
        .map(|(name, limit)| format!("{name} {limit}"))
        .collect();
    if set.is_empty() {
        "none".into()
    } else {
        set.join(", ")
    }
}

/// The cages of a job under this runner, or under one that is gone; the newest last.
fn cages(records: &Places, response: &Response) -> Result<Vec<(Record, JobSpec)>, VerbError> {
    let name = response.cage_name();
    let runner = nix::unistd::getppid().as_raw();
    let mut found = Vec::new();
    // An id begins with the name. There may be thousands of records, and each stage comes here.
    for record in records.lasting(&format!("{name}-"))? {
        // One that cannot be read is not this job's to complain about.
        let Ok(Some(spec)) = record.spec() else { continue };
        let is_ours = spec.created_by == CreatedBy::Session && spec.name.as_deref() == Some(&name);
        // Two runners of two GitLabs may have jobs of the same number.
        let is_near = spec.lease.is_none_or(|lease| {
            let is_it = |process: &Process| process.start_ticks == lease.start_ticks;
            lease.pid == runner || Process::read(lease.pid).filter(is_it).is_none()
        });
        if is_ours && is_near {
            found.push((record, spec));
        }
    }
    found.sort_by_key(|(_, spec)| spec.created_ns);
    Ok(found)
}

/// Those that are open.
fn open_cages(records: &Places, response: &Response) -> Result<Vec<(Record, JobSpec)>, VerbError> {
    let mut all = cages(records, response)?;
    all.retain(|(record, _)| !record.has_report());
    Ok(all)
}

/// The record of the newest one, if it is over.
///
/// # Errors
/// If the records cannot be listed.
pub fn last_over(records: &Places, response: &Response) -> Result<Option<Record>, VerbError> {
    let newest = cages(records, response)?.pop().map(|(record, _)| record);
    Ok(newest.filter(Record::has_report))
}

/// The cage that this job's stages run in.
///
/// # Errors
/// If there is none.
pub fn current(records: &Places, response: &Response) -> Result<(Record, JobSpec), VerbError> {
    let newest = open_cages(records, response)?.pop();
    newest.ok_or_else(|| GitlabError::NoCage(response.id).into())
}

/// Tells who is still there, while somebody reads it: the output of cleanup reaches no user.
pub fn tell_who_is_left(id: &JobId, spec: &JobSpec) {
    let left = Dir::open(Path::new(&spec.cage)).ok().and_then(|dir| {
        let events = EventsFile::open(&dir).ok()??.read().ok()?;
        // Asked first: nearly always it is nobody, and each step has a leaf to be listed.
        events?.populated.then(|| listed(&dir).ok())?
    });
    let left = left.unwrap_or_default();
    let (verb, them) = match left.len() {
        0 => return,
        1 => ("process is", "it ends"),
        _ => ("processes are", "they end"),
    };
    say(&format!(
        "{id}: {} {verb} left over; {them} with the job:",
        left.len()
    ));
    const MOST: usize = 10;
    for pid in left.iter().take(MOST) {
        let process = describe(*pid, FoundBy::Cgroup(String::new()), Death::Killed);
        say(&format!("  {}", crate::render::process(&process)));
    }
    if left.len() > MOST {
        say(&format!("  and {} more", left.len() - MOST));
    }
}

/// `jobcage gitlab cleanup`: again and again, also where nothing was prepared.
///
/// # Errors
/// If a cage cannot be ended, or something survived.
pub fn cleanup(common: &Common) -> Result<(), VerbError> {
    let response = Response::of_this_call()?;
    if !end_all(&places(&common.places), &response, common.voice)? {
        return Err(GitlabError::NotClean(response.id).into());
    }
    Ok(())
}

/// Ends every cage of a job; whether nothing survived.
fn end_all(records: &Places, response: &Response, voice: Voice) -> Result<bool, VerbError> {
    let mut clean = true;
    for (record, _) in open_cages(records, response)? {
        let report = end::finish(records, record.id(), end::ending_of(&record.steps()?))?;
        tell(&report, voice);
        clean &= report.clean;
    }
    Ok(clean)
}
