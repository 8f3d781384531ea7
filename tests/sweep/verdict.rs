//! What is right after a fault.

use super::place::{Ended, Place, Record};
use super::points::{Heir, Point};
use super::run::Over;
use super::scenes::Scene;
use jobcage_job::{Ending, Report};
use std::collections::BTreeMap;
use std::fs;

type Verdict = Result<(), String>;

/// jobcage's own failure.
const FAILED: i32 = 125;

/// The list of a thread's destructors is allocated by std itself, past the program's allocator and its message.
const STD_OWN: &str = "memory allocation of 64 bytes failed";

/// Without a fault, or where it did not strike: the right result, and nothing is left.
pub fn undisturbed(scene: &Scene, place: &Place, over: &Over) -> Verdict {
    if !over.by_scene && over.ended.code != Some(scene.right) {
        return Err(told("not the right result", &over.ended));
    }
    settle(scene, place)?;
    nothing_left(place)
}

/// After a kill: whoever comes next finishes it, and the record tells.
pub fn killed(scene: &Scene, place: &Place, heir: Heir) -> Verdict {
    let before = place.records();
    let began = place.dir.join("began").exists();
    let lived = !place.cages().is_empty();
    if heir == Heir::Watcher {
        // Where it had not heard of the job yet, there is no cage either, and the record waits for gc.
        place.wait_over(|| place.cages().is_empty());
        let cages = place.cages();
        if !cages.is_empty() {
            return Err(format!("the watcher did not close it: {cages:?}"));
        }
        if !place.alive().is_empty() {
            return Err(format!("the watcher left: {:#?}", place.alive()));
        }
    }
    collect(place)?;
    if heir == Heir::Watcher {
        // What it had begun to close is left to it by gc.
        place.wait_settled();
    }
    settle(scene, place)?;
    nothing_left(place)?;
    let after = place.records();
    records_tell(scene, &before, &after)?;
    if began && lived && !after.values().any(|r| r.report.is_some()) {
        return Err(format!(
            "a job ran and was cut off, and no record tells it: before {before:#?}, after {after:#?}"
        ));
    }
    steps_tell(began, &after)
}

/// Every record of a job that had begun has its report, which is the one it had, or says that the end was not seen.
fn records_tell(
    scene: &Scene,
    before: &BTreeMap<String, Record>,
    after: &BTreeMap<String, Record>,
) -> Verdict {
    for (id, record) in after {
        let Some(report) = &record.report else {
            return Err(format!("{id} has no report, and gc left it: {record:?}"));
        };
        let earlier = before.get(id).and_then(|r| r.report.as_ref());
        let right = match earlier {
            Some(earlier) => earlier == report,
            None => match report.closed_by.as_str() {
                "gc" => scene.open || matches!(report.ending, Ending::Lost { .. } | Ending::Cancelled(_)),
                _ => true,
            },
        };
        if !right {
            return Err(format!(
                "{id}: the report does not tell what happened: {:?}",
                report.ending
            ));
        }
    }
    for (id, record) in before.iter().filter(|(_, r)| r.spec) {
        if !after.contains_key(id) {
            return Err(format!("{id} had begun ({record:?}), and its record is gone"));
        }
    }
    Ok(())
}

/// A report of a command that ran names its step, where steps are written down as they begin.
fn steps_tell(began: bool, after: &BTreeMap<String, Record>) -> Verdict {
    for (id, record) in after {
        let Some(report) = &record.report else { continue };
        if began && report.closed_by == "cleanup" && report.steps.is_empty() {
            return Err(format!("{id}: a step ran, and the report has none"));
        }
    }
    Ok(())
}

/// After a call that failed: a right result with nothing left, or a clear error, after which gc leaves nothing.
pub fn failing(scene: &Scene, point: &Point, place: &Place, over: &Over) -> Verdict {
    let ended = &over.ended;
    if point.runtime && !over.by_scene {
        return swept(scene, place).map_err(|why| told(&why, ended));
    }
    if matches!(point.call.as_str(), "mmap" | "brk") && ended.stderr.starts_with(STD_OWN) {
        return swept(scene, place).map_err(|why| told(&why, ended));
    }
    if ended.stderr.contains("panicked") || ended.stderr.contains("memory allocation") {
        return Err(told("it panicked", ended));
    }
    if over.by_scene {
        // A watcher lives on; what it was to do is done.
        return nothing_left(place);
    }
    match (ended.code, ended.signal) {
        (Some(code), _) if code == scene.right => {}
        (Some(FAILED | 126 | 127), _) if ended.stderr.lines().any(|l| l.starts_with("jobcage: ")) => {
            return swept(scene, place).map_err(|why| told(&why, ended));
        }
        _ => return Err(told("neither a right result nor a clear error", ended)),
    }
    // That does not change the result (docs/outcomes.md), but it is never passed over.
    let told_so = ended.stderr.contains("jobcage: cannot write the report");
    if over.wants_report && !told_so && !place.dir.join("report.json").exists() {
        return Err(told(
            "it calls this a right result, and the report that was asked for is not there",
            ended,
        ));
    }
    if !scene.open {
        nothing_left(place).map_err(|why| told(&format!("it calls this a right result: {why}"), ended))?;
        let open: Vec<_> = place
            .records()
            .into_iter()
            .filter(|(_, r)| r.report.is_none())
            .collect();
        if !open.is_empty() {
            return Err(told(
                &format!("a right result, but the record is left: {open:?}"),
                ended,
            ));
        }
        return Ok(());
    }
    settle(scene, place)?;
    nothing_left(place)
}

/// Nobody is there any more but a person with `jobcage gc`.
fn swept(scene: &Scene, place: &Place) -> Verdict {
    place.kill_watchers(None);
    collect(place)?;
    settle(scene, place)?;
    nothing_left(place)
}

fn collect(place: &Place) -> Verdict {
    let gc = place.jobcage(&["gc"]);
    if gc.code != Some(0) {
        return Err(told("gc failed", &gc));
    }
    let open = place
        .records()
        .into_iter()
        .find(|(_, r)| r.report.is_none() && r.files.iter().any(|f| f == "closing"));
    open.map_or(Ok(()), |(id, _)| {
        Err(format!("{id} was being closed, and gc did not finish it"))
    })
}

/// Ends the cages that rightly stay open.
fn settle(scene: &Scene, place: &Place) -> Verdict {
    if !scene.open {
        return Ok(());
    }
    let open = place
        .records()
        .into_iter()
        .filter(|(_, record)| record.report.is_none());
    for (id, record) in open {
        let ended = place.jobcage(&["cleanup", &id]);
        if ended.code != Some(0) {
            return Err(told(&format!("cleanup of {id} failed ({record:?})"), &ended));
        }
    }
    Ok(())
}

fn nothing_left(place: &Place) -> Verdict {
    let cages = place.cages();
    if !cages.is_empty() {
        return Err(format!("cages are left: {cages:?}"));
    }
    let alive = place.alive();
    if !alive.is_empty() {
        return Err(format!("processes are left: {alive:#?}"));
    }
    let handed = fs::read_dir(place.dir.join("run.env"))
        .into_iter()
        .flatten()
        .flatten();
    let handed: Vec<_> = handed.map(|entry| entry.file_name()).collect();
    if !handed.is_empty() {
        return Err(format!("what steps hand on is left: {handed:?}"));
    }
    let report = fs::read(place.dir.join("report.json")).unwrap_or_default();
    if !report.is_empty() && serde_json::from_slice::<Report>(&report).is_err() {
        return Err("the file of --report is half written".into());
    }
    let unfinished = place.unfinished();
    if !unfinished.is_empty() {
        return Err(format!("files are left: {unfinished:?}"));
    }
    Ok(())
}

fn told(what: &str, ended: &Ended) -> String {
    let Ended {
        code, signal, stderr, ..
    } = ended;
    format!(
        "{what}: exit code {code:?}, signal {signal:?}, stderr:\n{}",
        stderr.trim_end()
    )
}
