//! `jobcage list`, `show` and `guests`.

use super::{Outcome, pages, places, print_json};
use crate::cli::request::{GuestsRequest, ListRequest, ShowRequest};
use crate::render;
use jobcage_cage::{Cage, Dir, count, describe as describe_process, listed, usage};
use jobcage_job::{Death, FoundBy, JobId, JobSpec};
use jobcage_ledger::{LedgerError, Places, Record, State};
use jobcage_supervisor::look_at_guests;
use serde_json::{Value, json};
use std::path::Path;

/// `jobcage list`.
///
/// # Errors
/// If the records cannot be listed. A record that cannot be read is shown as such.
pub fn list(request: ListRequest) -> Outcome {
    let places = places(&request.common.places);
    let jobs: Vec<Value> = places.all()?.iter().map(|id| describe(&places, id)).collect();
    if request.json {
        return print_json(&jobs);
    }
    pages::print(render::table(&jobs).as_bytes())
}

/// `jobcage show`.
///
/// # Errors
/// If there is no such job.
pub fn show(request: ShowRequest) -> Outcome {
    let places = places(&request.common.places);
    places.open(&request.id)?;
    let job = describe(&places, &request.id);
    if request.json {
        return print_json(&job);
    }
    pages::print(render::details(&job).as_bytes())
}

/// `jobcage guests`.
///
/// # Errors
/// If the records cannot be listed, or there is no such job.
pub fn guests(request: GuestsRequest) -> Outcome {
    let places = places(&request.common.places);
    let ids = match request.id {
        Some(id) => vec![places.open(&id)?.id().clone()],
        None => places.all()?,
    };
    let specs = ids.iter().filter_map(|id| places.open(id).ok()?.spec().ok()?);
    let jobs: Vec<Value> = specs.filter_map(|spec| guests_of(&spec)).collect();
    if request.json {
        return print_json(&jobs);
    }
    pages::print(render::guests::table(&jobs).as_bytes())
}

/// The machines in the place of a job, as its registry and its processes tell. `None`: it has no place, or not any more.
fn guests_of(spec: &JobSpec) -> Option<Value> {
    let dir = Dir::open(Path::new(&spec.cage)).ok();
    let pids = dir.and_then(|dir| listed(&dir).ok()).unwrap_or_default();
    let processes: Vec<_> = pids
        .into_iter()
        .map(|pid| describe_process(pid, FoundBy::Cgroup(String::new()), Death::Killed))
        .collect();
    let looked = look_at_guests(spec, &processes)?;
    let machines = looked.machines.iter().map(
        |machine| json!({"kind": machine.kind, "name": machine.name, "id": machine.id, "pid": machine.pid}),
    );
    Some(json!({
        "job": spec.id,
        "place": looked.dir,
        "bytes": looked.bytes,
        "machines": machines.collect::<Vec<_>>(),
    }))
}

/// What is known of a job: its state, and its report or what it uses now.
fn describe(places: &Places, id: &JobId) -> Value {
    let looked = places.open(id).and_then(|record| {
        let state = record.state()?;
        let spec = record.spec()?;
        Ok((state, spec, record))
    });
    let (state, record) = match looked {
        Ok((state, spec, record)) => (Ok((state, spec)), Some(record)),
        Err(error) => (Err(error), None),
    };
    let mut job = describe_state(id, state);
    if let Some(record) = record {
        add_files(&record, &mut job);
    }
    job
}

/// What else is in the record: the room that it takes when the job is over, and who has asked for its end before.
fn add_files(record: &Record, job: &mut Value) {
    if job["report"].is_object() {
        job["bytes"] = json!(record.size().ok());
    } else if let Ok(Some(asked)) = record.asked() {
        job["stop"] = json!(asked);
    }
}

fn describe_state(id: &JobId, state: Result<(State, Option<JobSpec>), LedgerError>) -> Value {
    match state {
        Err(error) => json!({"job": id, "state": "unreadable", "error": error.to_string()}),
        Ok((State::Over(report), _)) => {
            let state = if report.quarantine.is_some() {
                "quarantined"
            } else {
                "over"
            };
            json!({"job": id, "state": state, "name": report.name, "started": report.started, "report": report})
        }
        Ok((State::NeverBegun, _) | (_, None)) => json!({"job": id, "state": "cut off before it began"}),
        Ok((State::Alive { supervisor }, Some(spec))) => running(id, "running", Some(supervisor), &spec),
        Ok((State::Closing { by }, Some(spec))) => running(id, "closing", Some(by), &spec),
        Ok((State::Unattended(_), Some(spec))) => {
            let open = !spec.created_by.is_tended();
            running(id, if open { "open" } else { "orphan" }, None, &spec)
        }
    }
}

fn running(id: &JobId, state: &str, supervisor: Option<i32>, spec: &JobSpec) -> Value {
    let dir = Dir::open(Path::new(&spec.cage)).ok();
    let cage = Cage::open(Path::new(&spec.cage), spec.limited).ok().flatten();
    json!({
        "job": id,
        "state": state,
        "name": spec.name,
        "program": spec.program,
        "supervisor": supervisor,
        "uid": spec.uid,
        "started": jiff::Timestamp::from_nanosecond(i128::from(spec.created_ns)).ok().map(|at| format!("{at:.3}")),
        "cage": spec.cage,
        "limits": spec.limits,
        "processes": dir.as_ref().and_then(|dir| count(dir).ok()),
        "usage": cage.as_ref().map(|cage| usage(cage.limits().unwrap_or(cage.dir()))),
    })
}
