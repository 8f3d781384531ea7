//! `jobcage list` and `show`.

use super::{Outcome, pages, places, print_json};
use crate::cli::request::{ListRequest, ShowRequest};
use crate::render;
use jobcage_cage::{Cage, Dir, count, usage};
use jobcage_job::{JobId, JobSpec};
use jobcage_ledger::{LedgerError, Places, Record, State};
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
