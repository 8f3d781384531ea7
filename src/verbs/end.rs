//! `jobcage cleanup`, `stop` and `gc`: the end of jobs that others began.

use super::run::{tell, write_report};
use super::{Outcome, places, print_json};
use crate::cli::request::{CleanupRequest, GcRequest, StopHow, StopRequest, Voice};
use crate::render;
use jobcage_job::format_bytes;
use jobcage_supervisor::asking::{self, How, Stopped};
use jobcage_supervisor::beside;
use jobcage_supervisor::gc::Done;
use jobcage_supervisor::left_guests::gc_guests;
use jobcage_supervisor::prune::{Keep, Pruned};
use jobcage_supervisor::{gc as collector, sessions};
use serde_json::{Value, json};

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
    let Some(id) = &request.id else {
        return super::stop_all::stop_all(&request);
    };
    let how = match request.how {
        StopHow::Polite { signal, grace } => How {
            signal: signal.map(|signal| signal.number()),
            grace,
            ..How::default()
        },
        StopHow::Now => How {
            now: true,
            ..How::default()
        },
    };
    let stopped = asking::stop(&places(&request.common.places), id, &how)?;
    let (word, report) = match &stopped {
        Stopped::Asked(report) => ("stopped", report.as_ref()),
        Stopped::Closed(report) => ("closed", Some(report)),
        Stopped::Over(report) => ("over", Some(report)),
    };
    if request.json {
        print_json(&json!({"job": id, "result": word, "report": report}))?;
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
    let keep = Keep {
        time: request.keep,
        size: request.keep_size,
    };
    let places = places(&request.common.places);
    let base = request.guests_dir.unwrap_or_else(|| beside(&places.state));
    let done = if request.guests {
        gc_guests(&places, &base, request.dry_run)?
    } else {
        collector::gc(&places, &keep, &base, request.dry_run)?
    };
    if !request.guests && !request.dry_run {
        crate::gitlab::sweep_host(&places);
    }
    let told: Vec<_> = done.iter().map(tell_done).collect();
    let failed = told
        .iter()
        .any(|(word, ..)| matches!(*word, "quarantined" | "failed" | "left"));
    if request.json {
        let list = told.iter();
        let list =
            list.map(|(word, _, value)| json!({"result": word, "job": value.get("job"), "detail": value}));
        print_json(&list.collect::<Vec<_>>())?;
    } else if request.common.voice != Voice::Quiet || failed {
        told.iter().for_each(|(_, line, _)| crate::complain(line));
        if let Some(line) = render::freed(&done) {
            crate::complain(&line);
        }
    }
    Ok(if failed { NOT_CLEAN } else { 0 })
}

/// The word, the line and the value of what gc did with one record.
pub fn tell_done(one: &Done) -> (&'static str, String, Value) {
    let pruned = |pruned: &Pruned, word: &str| {
        let Pruned { id, bytes, why } = pruned;
        let line = format!("{id}: its record {word}, {}: {why}", format_bytes(*bytes));
        (line, json!({"job": id, "bytes": bytes, "why": why}))
    };
    match one {
        Done::Closed(report) => ("closed", render::gc_line(report, "closed"), json!(report)),
        Done::Released(report) => ("released", render::gc_line(report, "released"), json!(report)),
        Done::Quarantined(report) if report.quarantine.is_none() => {
            let line = render::gc_line(report, "closed, but not clean");
            ("closed", line, json!(report))
        }
        Done::Quarantined(report) => {
            let line = render::gc_line(report, "still quarantined");
            ("quarantined", line, json!(report))
        }
        Done::HandedOn(id) => {
            let line = format!("{id}: its supervisor had died; another one has it now");
            ("handed on", line, json!({"job": id}))
        }
        Done::Swept(id) => {
            let line = format!("{id}: never began; its record is removed");
            ("swept", line, json!({"job": id}))
        }
        Done::Freed { id, path, bytes } => {
            let freed = format_bytes(*bytes);
            let line =
                format!("{id}: its place for machines had outlived its record and is removed, {freed} freed");
            ("freed", line, json!({"job": id, "path": path, "bytes": bytes}))
        }
        Done::WouldFree { id, path, bytes } => {
            let (place, freed) = (path.display(), format_bytes(*bytes));
            let line = format!(
                "{id}: its place for machines has outlived its record; {place} would be removed, {freed}"
            );
            let value = json!({"job": id, "plan": "freed", "path": path, "bytes": bytes});
            ("planned", line, value)
        }
        Done::WouldGiveBack(report) => {
            let left: Vec<_> = report.guests.iter().filter(|guest| guest.is_left()).collect();
            let value = json!({"job": report.job, "plan": "given back", "guests": left});
            ("planned", render::gc_line(report, "would be tried again"), value)
        }
        Done::StillLeft(report) => (
            "left",
            render::gc_line(report, "still not given back"),
            json!(report),
        ),
        Done::Pruned(one) => {
            let (line, value) = pruned(one, "is removed");
            ("pruned", line, value)
        }
        Done::WouldPrune(one) => {
            let (line, mut value) = pruned(one, "would be removed");
            value["plan"] = json!("pruned");
            ("planned", line, value)
        }
        Done::Planned(id, word) => {
            let line = format!("{id}: would be {word}");
            ("planned", line, json!({"job": id, "plan": word}))
        }
        Done::Failed(id, why) => {
            let line = format!("{id}: {why}");
            ("failed", line, json!({"job": id, "error": why}))
        }
    }
}
