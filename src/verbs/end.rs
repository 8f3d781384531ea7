//! `jobcage cleanup`, `stop` and `gc`: the end of jobs that others began.

use super::run::{tell, write_report};
use super::{Outcome, places, print_json};
use crate::cli::request::{CleanupRequest, GcRequest, StopHow, StopRequest, Voice};
use crate::render;
use jobcage_supervisor::gc::Done;
use jobcage_supervisor::{gc as collector, sessions};
use serde_json::json;

/// Something of a job survived.
const NOT_CLEAN: u8 = 125;

/// `jobcage cleanup`.
///
/// # Errors
/// If there is no such job, or its cage cannot be ended.
pub fn cleanup(request: CleanupRequest) -> Outcome {
    let report = sessions::cleanup(&places(&request.common.places), &request.id, None)?;
    tell(&report, request.common.voice);
    if let Some(path) = &request.report {
        write_report(path, &report)?;
    }
    Ok(if report.clean { 0 } else { NOT_CLEAN })
}

/// `jobcage stop`.
///
/// # Errors
/// If there is no such job, or it is not ours to stop.
pub fn stop(request: StopRequest) -> Outcome {
    const TERM: i32 = 15;
    let (signal, now) = match request.how {
        StopHow::Polite(signal) => (signal.map_or(TERM, |signal| signal.number()), false),
        StopHow::Now => (TERM, true),
    };
    let stopped = sessions::stop(&places(&request.common.places), &request.id, signal, now)?;
    let (word, report) = match &stopped {
        sessions::Stopped::Asked => ("stopped", None),
        sessions::Stopped::Closed(report) => ("closed", Some(report)),
        sessions::Stopped::Over(report) => ("over", Some(report)),
    };
    if request.json {
        print_json(&json!({"job": request.id, "result": word, "report": report}))?;
    } else if let Some(report) = report {
        tell(report, request.common.voice);
    }
    Ok(if report.is_none_or(|report| report.clean) {
        0
    } else {
        NOT_CLEAN
    })
}

/// `jobcage gc`.
///
/// # Errors
/// If the records cannot be listed.
pub fn gc(request: GcRequest) -> Outcome {
    let done = collector::gc(&places(&request.common.places))?;
    let mut code = 0;
    let mut list = Vec::new();
    for one in &done {
        let (word, line, value) = match one {
            Done::Closed(report) => ("closed", render::gc_line(report, "closed"), json!(report)),
            Done::Released(report) => ("released", render::gc_line(report, "released"), json!(report)),
            Done::Quarantined(report) => {
                code = NOT_CLEAN;
                (
                    "quarantined",
                    render::gc_line(report, "still quarantined"),
                    json!(report),
                )
            }
            Done::HandedOn(id) => (
                "handed on",
                format!("{id}: its supervisor had died; another one has it now"),
                json!({"job": id}),
            ),
            Done::Swept(id) => (
                "swept",
                format!("{id}: never began; its record is removed"),
                json!({"job": id}),
            ),
            Done::Pruned(id) => ("pruned", format!("{id}: old report removed"), json!({"job": id})),
            Done::Failed(id, why) => {
                code = NOT_CLEAN;
                ("failed", format!("{id}: {why}"), json!({"job": id, "error": why}))
            }
        };
        if request.json {
            list.push(json!({"result": word, "job": value.get("job"), "detail": value}));
        } else if request.common.voice != Voice::Quiet || code != 0 {
            crate::complain(&line);
        }
    }
    if request.json {
        print_json(&list)?;
    }
    Ok(code)
}
