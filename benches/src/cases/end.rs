//! K1, K2: from SIGTERM to the end of the program that keeps the job. Everything is dead, reaped and removed then.

use super::Context;
use crate::Result;
use crate::contest::Contestant;
use crate::ground::loudly;
use crate::procs;
use crate::table::{Table, Target};
use std::fs;
use std::process::Command;

/// How a job takes SIGTERM.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// It dies of it: the grace period ends at once.
    Polite,
    /// It ignores it, and jobcage is told not to wait.
    Deaf,
}

impl Manner {
    fn words(self) -> &'static str {
        if self == Self::Polite {
            "that die of SIGTERM"
        } else {
            "that ignore SIGTERM, --grace 0s"
        }
    }
}

/// All sizes, both manners.
pub fn end(context: &Context<'_>) -> Result<Vec<Table>> {
    let size = |full, smoke| context.options.size(full, smoke);
    let mut tables = Vec::new();
    for (id, count, rounds) in [
        ("K2", 1, 100),
        ("K1", size(1_000, 20), 10),
        ("K1", size(10_000, 50), 5),
    ] {
        if let Some(why) = too_many(count) {
            loudly(&format!("SKIPPED {id} with {count} processes: {why}"));
            continue;
        }
        for manner in [Manner::Polite, Manner::Deaf] {
            tables.extend(one(context, id, count, rounds, manner)?);
        }
    }
    Ok(tables)
}

fn one(context: &Context<'_>, id: &str, count: usize, rounds: usize, manner: Manner) -> Result<Vec<Table>> {
    let tools = context.tools;
    let number = count.to_string();
    let mut job = vec!["hive", number.as_str()];
    let mut options = Vec::new();
    if manner == Manner::Deaf {
        job.push("deaf");
        options.extend(["--grace", "0s"]);
    }
    let mut floor = tools.floor("end", &[], &job)?;
    let mut contestants = vec![Contestant::needed("floor", move || {
        ended(context, &mut floor, "floor")
    })];
    if tools.has_jobcage() {
        let mut jobcage = tools.jobcage(&options, &job)?;
        contestants.push(Contestant::needed("jobcage", move || {
            ended(context, &mut jobcage, "jobcage")
        }));
    }
    let (mut measures, mut notes) = context.hold(&context.rules(rounds, 2), contestants)?;
    notes.push("floor: raw `cgroup.kill`, then reaping everything".into());
    notes.push(left_over(&measures.pop().unwrap_or_default().values));
    let mut targets = vec![Target::ratio(id, "jobcage", "floor", 1.15)];
    if id == "K2" {
        let p99 = Target {
            p99: true,
            ..Target::value(id, "jobcage", 5.0)
        };
        targets = vec![Target::value(id, "jobcage", 2.0), p99];
    }
    let title = format!("SIGTERM until all gone: {count} processes {}", manner.words());
    let table = |samples| {
        Table::new(id, &title, "ms", "floor", samples)
            .note(&notes)
            .aim(targets.clone())
    };
    Ok(measures.into_iter().map(table).collect())
}

/// Starts, ends, and looks for what is left: the time, and the number of processes and cgroups.
fn ended(context: &Context<'_>, command: &mut Command, group: &str) -> Result<Vec<f64>> {
    let (child, _pipe) = context.tools.start_ready(command)?;
    let passed = context.tools.time_end(child)?;
    let alive = procs::descendants()?
        .iter()
        .filter(|process| process.name == "hive")
        .count();
    let left = alive + context.ground.left_below(group)?;
    procs::reap_strays();
    Ok(vec![passed, left as f64])
}

/// The note on what was left, in all rounds together.
pub fn left_over(values: &[Vec<f64>]) -> String {
    let sums: Vec<_> = values
        .iter()
        .map(|rounds| rounds.iter().sum::<f64>().to_string())
        .collect();
    format!(
        "left over in all rounds, processes and cgroups: {}",
        sums.join(", ")
    )
}

/// Why the host does not allow that many processes, if it does not.
fn too_many(count: usize) -> Option<String> {
    let room = count + 500;
    let read = |file: &str| {
        fs::read_to_string(file)
            .ok()
            .and_then(|text| text.trim().parse::<usize>().ok())
    };
    let running = procs::all().map_or(0, |all| all.len());
    if let Some(most) = read("/proc/sys/kernel/pid_max").filter(|most| *most < running + room) {
        return Some(format!("pid_max is {most}"));
    }
    let (soft, _) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NPROC).ok()?;
    let bound = !nix::unistd::geteuid().is_root() && soft < room as u64;
    bound.then(|| format!("ulimit -u is {soft}"))
}
