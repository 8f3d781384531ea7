//! `jobcage gitlab prepare` and `cleanup`: the job's cage, from its beginning to its end.

use super::GitlabError;
use super::config::build_user;
use super::contract::Response;
use crate::cli::request::{CageChoice, Common, RunRequest, Voice};
use crate::verbs::{self, VerbError, places, tell, tell_done};
use jobcage_cage::{Dir, Process, describe, listed};
use jobcage_job::{CreatedBy, Death, FoundBy, JobId, JobSpec};
use jobcage_ledger::Places;
use jobcage_supervisor::gc::{self, Done};
use jobcage_supervisor::prune::Keep;
use jobcage_supervisor::sessions;
use std::path::Path;

/// `jobcage gitlab prepare`.
///
/// # Errors
/// If the cage cannot be made as the host's configuration asks for it.
pub fn prepare(run: RunRequest) -> Result<(), VerbError> {
    let response = Response::of_this_call()?;
    let CageChoice::New { cage, .. } = run.cage else {
        unreachable!("no word of gitlab names a cage");
    };
    let records = places(&run.common.places);
    close_orphans(&records, run.common.voice);
    // A first attempt to prepare may have been killed behind its cage.
    end_all(&records, &response, Voice::Quiet)?;
    let user = build_user(&run.step.identity)?;
    let created = sessions::create(&sessions::Create {
        places: records.clone(),
        cgroup_root: run.common.places.cgroup_root.clone(),
        name: Some(response.cage_name()),
        limits: cage.limits,
        best_effort: cage.best_effort,
        uid: verbs::uid(&user)?,
        identity: verbs::identity(&user)?,
        agent: verbs::read_keys(cage.ssh_agent.as_deref())?,
        grace: run.grace,
        lease_pid: Some(runner()?),
    })?;
    header(&records, &response, &created.id)?;
    created
        .notes
        .iter()
        .for_each(|note| say(&format!("note: {note}")));
    Ok(())
}

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

/// What nobody looks after any more is closed first: its VMs and processes are in this job's way.
fn close_orphans(records: &Places, voice: Voice) {
    match gc::gc(records, &Keep::default(), false) {
        Ok(done) => done.iter().for_each(|one| match one {
            Done::Quarantined(report) => say(&format!(
                "warning: processes of the job {id} survive on this host; \"jobcage show {id}\" names them",
                id = report.job
            )),
            one if voice == Voice::Verbose => say(&tell_done(one).1),
            _ => {}
        }),
        // It is no fault of this job.
        Err(failure) => say(&format!("note: orphans could not be looked for: {failure}")),
    }
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

/// The open cages of a job under this runner, or under one that is gone; the newest last.
fn open_cages(records: &Places, response: &Response) -> Result<Vec<(JobId, JobSpec)>, VerbError> {
    let name = response.cage_name();
    let runner = nix::unistd::getppid().as_raw();
    let mut found = Vec::new();
    // An id begins with the name. There may be thousands of records, and each stage comes here.
    let begins = format!("{name}-");
    for id in records
        .all()?
        .into_iter()
        .filter(|id| id.as_str().starts_with(&begins))
    {
        // One that cannot be read is not this job's to complain about.
        let Ok(record) = records.open(&id) else { continue };
        let Ok(Some(spec)) = record.spec() else { continue };
        let is_ours = spec.created_by == CreatedBy::Create && spec.name.as_deref() == Some(&name);
        // Two runners of two GitLabs may have jobs of the same number.
        let is_near = spec.lease.is_none_or(|lease| {
            let holder = Process::read(lease.pid).filter(|process| process.start_ticks == lease.start_ticks);
            lease.pid == runner || holder.is_none()
        });
        if is_ours && is_near && matches!(record.report(), Ok(None)) {
            found.push((id, spec));
        }
    }
    found.sort_by_key(|(_, spec)| spec.created_ns);
    Ok(found)
}

/// The cage that this job's stages run in.
///
/// # Errors
/// If there is none.
pub fn current(records: &Places, response: &Response) -> Result<(JobId, JobSpec), VerbError> {
    let newest = open_cages(records, response)?.pop();
    newest.ok_or_else(|| GitlabError::NoCage(response.id).into())
}

/// Tells who is still there, while somebody reads it: the output of cleanup reaches no user.
pub fn tell_who_is_left(id: &JobId, spec: &JobSpec) {
    let pids = Dir::open(Path::new(&spec.cage))
        .ok()
        .and_then(|dir| listed(&dir).ok());
    let left = pids.unwrap_or_default();
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
    for (id, _) in open_cages(records, response)? {
        let report = sessions::cleanup(records, &id, None)?;
        tell(&report, voice);
        clean &= report.clean;
    }
    Ok(clean)
}
