//! Words for people. What is written here is for reading; scripts use `--json` and `--report`.

pub mod guests;

use jobcage_job::{Death, Ending, Escape, FoundBy, Left, Report, format_bytes, format_duration};
use jobcage_supervisor::gc::Done;
use jobcage_supervisor::prune::Pruned;
use serde_json::Value;
use std::fmt::Write;
use std::time::Duration;

/// What a person should know of a job's end: nothing if it ended by itself and cleanly.
pub fn summary(report: &Report, verbose: bool) -> Vec<String> {
    summary_of("the job", report, verbose)
}

/// As [`summary`], of something else than a whole job.
pub fn summary_of(what: &str, report: &Report, verbose: bool) -> Vec<String> {
    let mut lines = Vec::new();
    if verbose || !matches!(report.ending, Ending::Exited { .. } | Ending::Signalled { .. }) {
        lines.push(format!(
            "{}: {what} {}{}",
            report.job,
            report.ending,
            evidence(report)
        ));
    }
    left(report, &mut lines);
    for escape in &report.escaped {
        lines.push(escaped(escape));
    }
    if let Some(quarantine) = &report.quarantine {
        lines.push(format!(
            "NOT CLEAN: something survived in {}: {}. It stays there; \"jobcage gc\" tries again",
            quarantine.cage, quarantine.why
        ));
        lines.extend(
            quarantine
                .survivors
                .iter()
                .take(5)
                .map(|left| format!("  {}", process(left))),
        );
    }
    lines.extend(report.guests.iter().map(guests::one));
    for (file, limit) in &report.limits {
        if let Some(error) = &limit.error {
            lines.push(format!("not enforced: {file} = {}: {error}", limit.asked));
        }
    }
    lines.extend(report.notes.iter().map(|note| format!("note: {note}")));
    if verbose {
        lines.push(used(report));
    }
    lines
}

/// What is known of an ending beyond its name.
fn evidence(report: &Report) -> String {
    match &report.ending {
        Ending::OutOfMemory => {
            let peak = report
                .usage
                .memory_peak
                .map(|peak| format!(", its peak was {}", format_bytes(peak)));
            let limit = report
                .limits
                .get("memory.max")
                .and_then(|l| l.enforced.as_deref()?.parse().ok());
            let limit = limit.map(|limit: u64| format!(", its limit is {}", format_bytes(limit)));
            peak.unwrap_or_default() + &limit.unwrap_or_default()
        }
        Ending::TimedOut { .. } => format!(
            " after {}",
            format_duration(Duration::from_secs_f64(report.wall_seconds.max(0.0)))
        ),
        _ => String::new(),
    }
}

fn left(report: &Report, lines: &mut Vec<String>) {
    const MOST: usize = 8;
    let census = &report.census;
    if census.count == 0 {
        return;
    }
    let noun = if census.count == 1 {
        "process was"
    } else {
        "processes were"
    };
    let fate = if report.quarantine.is_some() {
        "killed as far as they would die"
    } else {
        "killed"
    };
    lines.push(format!("{} {noun} left and {fate}:", census.count));
    lines.extend(
        census
            .left
            .iter()
            .take(MOST)
            .map(|left| format!("  {}", process(left))),
    );
    if census.count > MOST as u64 {
        lines.push(format!(
            "  … and {} more",
            census.count - (MOST as u64).min(census.left.len() as u64)
        ));
    }
}

/// Who was left, all on one line; `None`: nobody.
pub fn left_behind(what: &str, report: &Report) -> Option<String> {
    const MOST: usize = 8;
    let census = &report.census;
    let (noun, fate) = match (census.count, &report.quarantine) {
        (0, _) => return None,
        (1, None) => ("process was", "killed"),
        (_, None) => ("processes were", "killed"),
        (_, Some(_)) => ("processes were", "killed as far as they would die"),
    };
    let named: Vec<String> = census.left.iter().take(MOST).map(process).collect();
    let more = census.count - named.len() as u64;
    let more = if more > 0 {
        format!("; and {more} more")
    } else {
        String::new()
    };
    Some(format!(
        "{} {noun} left by {what} and {fate}: {}{more}",
        census.count,
        named.join("; ")
    ))
}

/// One process, on one line.
pub fn process(left: &Left) -> String {
    let user = left.user.clone().unwrap_or_else(|| left.uid.to_string());
    let what = if left.command.is_empty() {
        format!("[{}]", left.comm)
    } else {
        left.command.clone()
    };
    let mut line = format!("pid {} ({user}): {what}", left.pid);
    if let Some(machine) = &left.kvm {
        let _ = write!(line, ", KVM machine {machine:?}");
    }
    if left.died == Death::Survived {
        let _ = write!(line, ", state {}", left.state);
        if let Some(wchan) = &left.wchan {
            let _ = write!(line, " in {wchan}");
        }
        if let Some(tracer) = left.tracer {
            let _ = write!(line, ", traced by pid {tracer}");
        }
    }
    line
}

fn escaped(escape: &Escape) -> String {
    let fate = match escape.died {
        Death::Killed => "killed",
        Death::Survived => "SURVIVED",
        Death::Spared => "not touched, since it is not known to be the job's",
    };
    let how = match &escape.found {
        FoundBy::Cgroup(place) => format!("in {place}"),
        FoundBy::Descendant(place) => format!("a descendant of the job in the cgroup {place}"),
        FoundBy::Environment(place) => format!("carries the job's JOBCAGE_JOB in the cgroup {place}"),
        FoundBy::TransientUnit(unit) => format!("the systemd unit {unit} appeared while the job ran"),
        FoundBy::AtJob(file) => format!("the at job {file} appeared while the job ran"),
    };
    let who = escape.process.as_ref().map(process).unwrap_or_default();
    format!(
        "escaped: {who}{}{how}: {fate}",
        if who.is_empty() { "" } else { "; " }
    )
}

fn used(report: &Report) -> String {
    let usage = &report.usage;
    let mut parts = vec![format!(
        "wall {}",
        format_duration(Duration::from_secs_f64(report.wall_seconds.max(0.0)))
    )];
    parts.extend(
        usage
            .cpu_us
            .map(|us| format!("CPU {}", format_duration(Duration::from_micros(us)))),
    );
    parts.extend(
        usage
            .memory_peak
            .map(|peak| format!("memory peak {}", format_bytes(peak))),
    );
    parts.extend(usage.pids_peak.map(|peak| format!("pids peak {peak}")));
    parts.extend(
        usage
            .oom_kills
            .filter(|n| *n > 0)
            .map(|n| format!("{n} OOM kills")),
    );
    if let Some(us) = report.proof.as_ref().and_then(|proof| proof.empty_us) {
        parts.push(format!(
            "empty {} after the kill",
            format_duration(Duration::from_micros(us))
        ));
    }
    format!("used: {}", parts.join(", "))
}

/// One line for what `gc` did.
pub fn gc_line(report: &Report, what: &str) -> String {
    let killed = match report.census.count {
        0 => String::new(),
        n => format!("; {n} of its processes were left"),
    };
    let empty = report.proof.as_ref().and_then(|proof| proof.empty_us);
    let empty = empty.map(|us| {
        format!(
            "; empty {} after the kill",
            format_duration(Duration::from_micros(us))
        )
    });
    let why = report.quarantine.as_ref().map(|q| {
        let stuck: Vec<String> = q.survivors.iter().take(5).map(process).collect();
        format!("; {}: {}", q.why, stuck.join("; "))
    });
    let why = why.unwrap_or_default();
    let left = report.guests.iter().filter(|guest| guest.is_left());
    let left: String = left.map(|one| format!("; {}", guests::one(one))).collect();
    format!(
        "{}: {what}: it {}{killed}{}{why}{left}",
        report.job,
        report.ending,
        empty.unwrap_or_default()
    )
}

/// What `gc` has freed, or would, in all.
pub fn freed(done: &[Done]) -> Option<String> {
    let sum = |records: Vec<&Pruned>, words: [&str; 2]| {
        let bytes: u64 = records.iter().map(|one| one.bytes).sum();
        let noun = if records.len() == 1 { "record" } else { "records" };
        let [removed, freed] = words;
        (!records.is_empty()).then(|| {
            format!(
                "{} {noun} {removed}, {} {freed}",
                records.len(),
                format_bytes(bytes)
            )
        })
    };
    let pruned = |one: &Done| matches!(one, Done::Pruned(_));
    let of = |wanted: bool| {
        let records = done.iter().filter(|one| pruned(one) == wanted);
        records
            .filter_map(|one| match one {
                Done::Pruned(one) | Done::WouldPrune(one) => Some(one),
                _ => None,
            })
            .collect()
    };
    sum(of(true), ["removed", "freed"]).or_else(|| sum(of(false), ["would be removed", "would be freed"]))
}

/// The table of `jobcage list`.
pub fn table(jobs: &[Value]) -> String {
    let word = |job: &Value, key: &str| match &job[key] {
        Value::String(text) => harmless(text),
        Value::Null => "-".into(),
        other => other.to_string(),
    };
    let mut rows = vec![["JOB", "STATE", "PROCESSES", "STARTED", "PROGRAM"].map(str::to_owned)];
    rows.extend(
        jobs.iter()
            .map(|job| ["job", "state", "processes", "started", "program"].map(|key| word(job, key))),
    );
    let width = |i: usize| rows.iter().map(|row| row[i].chars().count()).max().unwrap_or(0);
    let widths = [width(0), width(1), width(2), width(3)];
    let mut text = String::new();
    for row in &rows {
        for (cell, width) in row.iter().zip(widths) {
            let _ = write!(text, "{cell:width$}  ");
        }
        let _ = writeln!(text, "{}", row[4]);
    }
    text
}

/// A program may be called anything: what would act on a terminal, or not be seen there, is escaped.
pub fn harmless(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '"' | '\'' | '\\' => safe.push(c),
            _ => safe.extend(c.escape_debug()),
        }
    }
    safe
}

/// The text of `jobcage show`.
pub fn details(job: &Value) -> String {
    let mut text = String::new();
    outline(job, 0, &mut text);
    text
}

/// JSON as an indented outline; what is absent is not shown.
fn outline(value: &Value, depth: usize, text: &mut String) {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                match value {
                    Value::Null => {}
                    Value::Object(map) if map.is_empty() => {}
                    Value::Array(list) if list.is_empty() => {}
                    Value::Object(_) | Value::Array(_) => {
                        let _ = writeln!(text, "{indent}{key}:");
                        outline(value, depth + 1, text);
                    }
                    Value::String(word) => drop(writeln!(text, "{indent}{key}: {}", harmless(word))),
                    other => drop(writeln!(text, "{indent}{key}: {other}")),
                }
            }
        }
        Value::Array(list) => {
            for value in list {
                let mut item = String::new();
                outline(value, depth + 1, &mut item);
                let _ = writeln!(text, "{indent}- {}", item.trim_start());
            }
        }
        Value::String(word) => drop(writeln!(text, "{indent}{}", harmless(word))),
        other => drop(writeln!(text, "{indent}{other}")),
    }
}

/// The lines of `jobcage doctor`.
pub fn doctor(findings: &Value) -> String {
    let yes = |key: &str| match &findings[key] {
        Value::Bool(true) => "yes",
        Value::Bool(false) => "no",
        _ => "could not be tried",
    };
    let word = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let root = &findings["root"];
    let controllers: Vec<String> = root["controllers"]
        .as_array()
        .into_iter()
        .flatten()
        .map(word)
        .collect();
    let list = if controllers.is_empty() {
        "none".to_owned()
    } else {
        controllers.join(" ")
    };
    let bug = |key: &str| match &findings[key] {
        Value::Bool(true) => "yes; jobcage works around it",
        Value::Bool(false) => "no",
        _ => "could not be tried",
    };
    let mut text = String::new();
    for (name, value) in [
        ("jobcage", word(&findings["jobcage"])),
        ("kernel", word(&findings["kernel"])),
        ("hierarchy", word(&findings["hierarchy"])),
        ("mounted at", word(&findings["mount"])),
        ("systemd", yes("systemd").into()),
        ("running as", format!("uid {}", findings["uid"])),
        ("own cgroup", word(&findings["own_cgroup"])),
        (
            "cages in",
            format!("{} ({})", word(&root["path"]), word(&root["kind"])),
        ),
        ("because", word(&root["why"])),
        ("controllers", list),
        ("cgroup.kill", yes("kill").into()),
        ("cgroup.freeze", yes("freeze").into()),
        ("pressure (PSI)", yes("pressure").into()),
        ("pidfds", yes("pidfd").into()),
        (
            "kernel bug: an exited leader survives",
            bug("exited_leader_survives_kill").into(),
        ),
        ("kernel bug: killed at birth", bug("killed_at_birth").into()),
    ] {
        let _ = writeln!(text, "{name:<38} {value}");
    }
    for line in findings["missing"].as_array().into_iter().flatten() {
        let _ = writeln!(text, "missing: {}", word(line));
    }
    text
}
