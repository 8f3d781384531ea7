//! S1, S2: a thousand jobs at once, launched and ended.

use super::Context;
use super::end::left_over;
use super::memory::{start_all, supervisors};
use crate::Result;
use crate::contest::Contestant;
use crate::procs;
use crate::table::{Table, Target};
use crate::tools::{milliseconds, terminate};
use std::fs;
use std::io::Read;
use std::process::{Child, Command};
use std::time::Instant;

/// Launch, memory, end.
pub fn many(context: &Context<'_>) -> Result<Vec<Table>> {
    let tools = context.tools;
    let count = context.options.size(1_000, 10);
    let (number, job) = (count.to_string(), ["idle"]);
    let mut inproc = tools.floor("many", &[&number], &job)?;
    let mut floor = tools.floor("end", &[], &job)?;
    let mut contestants = vec![
        Contestant::needed("in-process", move || {
            lifetimes(context, &mut inproc, count, true, "floor")
        }),
        Contestant::needed("floor", move || {
            lifetimes(context, &mut floor, count, false, "floor")
        }),
    ];
    if tools.has_jobcage() {
        let mut jobcage = tools.jobcage(&[], &job)?;
        let run = move || lifetimes(context, &mut jobcage, count, false, "jobcage");
        contestants.push(Contestant::needed("jobcage", run));
    }
    let (measures, notes) = context.hold(&context.rules(3, 5), contestants)?;
    let [launch, end, memory, charged, left] = measures.try_into().map_err(|_| "five measures expected")?;
    let title = |what: &str| format!("{count} jobs of one waiting process: {what}");
    let mut tables = vec![
        Table::new("S1", &title("launch of all"), "ms", "in-process", launch)
            .aim(vec![Target::ratio("S1", "jobcage", "in-process", 3.0)])
            .note(&notes),
        Table::new(
            "S1",
            &title("kernel and anonymous memory per job"),
            "KiB",
            "in-process",
            memory,
        )
        .aim(vec![Target::value("S1", "jobcage", 320.0)])
        .note(&["kernel memory is the growth of the whole host's: other work shows in it".into()]),
        Table::new("S2", &title("SIGTERM to each until all gone"), "ms", "floor", end)
            .aim(vec![Target::ratio("S2", "jobcage", "floor", 1.5)])
            .note(&[left_over(&left.values)]),
    ];
    if charged.values.iter().flatten().any(|value| *value > 0.0) {
        let title = title("memory.current of the cgroup of all jobs, per job");
        tables.insert(2, Table::new("S1", &title, "KiB", "in-process", charged));
    }
    Ok(tables)
}

/// Launch and end of all jobs: milliseconds, milliseconds, KiB, KiB, left over.
fn lifetimes(
    context: &Context<'_>,
    command: &mut Command,
    count: usize,
    in_one: bool,
    group: &str,
) -> Result<Vec<f64>> {
    let before = procs::kernel_memory()?;
    let start = Instant::now();
    let mut children = if in_one {
        vec![start_one(context, command, count)?]
    } else {
        start_all(context, command, count)?
    };
    let launched = milliseconds(start);
    let kernel = procs::kernel_memory()? - before;
    let memory = (kernel + anonymous(context)?) / count as f64;
    let charged = memory_current(context, group) / count as f64;
    let start = Instant::now();
    for child in &children {
        terminate(child)?;
    }
    for child in &mut children {
        child.wait()?;
    }
    let ended = milliseconds(start);
    let alive = procs::descendants()?
        .iter()
        .filter(|process| process.name == "idle")
        .count();
    let left = alive + context.ground.left_below(group)?;
    procs::reap_strays();
    Ok(vec![launched, ended, memory, charged, left as f64])
}

/// One process with all jobs in it.
fn start_one(context: &Context<'_>, command: &mut Command, count: usize) -> Result<Child> {
    let (mut reader, writer) = std::io::pipe()?;
    let child = context.tools.start(command, writer)?;
    let mut ready = vec![0; count];
    reader
        .read_exact(&mut ready)
        .map_err(|_| format!("not all jobs came up{}", context.tools.last_error()))?;
    Ok(child)
}

/// Of supervisors and jobs.
fn anonymous(context: &Context<'_>) -> Result<f64> {
    let jobs = procs::descendants()?
        .into_iter()
        .filter(|process| process.name == "idle");
    let mut sum = 0.0;
    for process in supervisors(context)?.into_iter().chain(jobs) {
        sum += procs::memory(process.pid)?.anonymous;
    }
    Ok(sum)
}

/// In KiB, where the host has the memory controller here; else 0. It has the jobs, not their supervisors.
fn memory_current(context: &Context<'_>, group: &str) -> f64 {
    let file = context.ground.cgroup.join(group).join("memory.current");
    let text = fs::read_to_string(file).unwrap_or_default();
    text.trim().parse::<f64>().map_or(0.0, |bytes| bytes / 1024.0)
}
