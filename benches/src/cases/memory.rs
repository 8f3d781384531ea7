//! M1: what waiting costs. One idle job alone, and one among many.

use super::Context;
use crate::Result;
use crate::contest::Contestant;
use crate::peers::bwrap;
use crate::procs::{self, Process};
use crate::table::{Table, Target};
use crate::watcher;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::Read;
use std::process::{Child, Command};
use std::time::Duration;

/// Alone, and among 50.
pub fn memory(context: &Context<'_>) -> Result<Vec<Table>> {
    let many = context.options.size(50, 3);
    let mut tables = Vec::new();
    for (count, limit) in [(1, 512.0), (many, 160.0)] {
        let title =
            format!("memory (PSS) per job of an idle supervisor, {count} at once, the job not counted");
        let (measures, notes) = context.hold(&context.rules(3, 2), contestants(context, count)?)?;
        let [pss, idle] = measures.try_into().map_err(|_| "two measures expected")?;
        let targets = vec![Target::value("M1", "jobcage", limit)];
        tables.push(
            Table::new("M1", &title, "KiB", "floor", pss)
                .note(&notes)
                .aim(targets),
        );
        if count == 1 {
            let title = "context switches of an idle supervisor in a second: none without a system call";
            let targets = vec![Target::value("M1", "jobcage", 0.0)];
            tables.push(Table::new("M1", title, "switches", "floor", idle).aim(targets));
        }
    }
    for pid in watcher::pids(context.ground) {
        let note = format!("the watcher, one for all jobs: {} KiB", procs::memory(pid)?.pss);
        tables
            .iter_mut()
            .take(1)
            .for_each(|table| table.notes.push(note.clone()));
    }
    Ok(tables)
}

fn contestants<'a>(context: &'a Context<'a>, count: usize) -> Result<Vec<Contestant<'a>>> {
    let (tools, job) = (context.tools, ["idle"]);
    let floor = tools.floor("end", &[], &job)?;
    let mut contestants = vec![Contestant::needed(
        "floor",
        weighing(context, count, Ok(floor), Signal::SIGTERM),
    )];
    if tools.has_jobcage() {
        let jobcage = tools.jobcage(&[], &job)?;
        contestants.push(Contestant::needed(
            "jobcage",
            weighing(context, count, Ok(jobcage), Signal::SIGTERM),
        ));
    }
    contestants.push(Contestant::peer(
        "bwrap-pid",
        weighing(context, count, bwrap(tools, true, &job), Signal::SIGKILL),
    ));
    Ok(contestants)
}

pub fn weighing<'a>(
    context: &'a Context<'a>,
    count: usize,
    command: Result<Command>,
    ending: Signal,
) -> impl FnMut() -> Result<Vec<f64>> + 'a {
    let mut command = command.map_err(|why| why.to_string());
    move || {
        let command = command.as_mut().map_err(|why| why.clone())?;
        let children = start_all(context, command, count)?;
        let weighed = weigh(context, count);
        let ended = end_all(context, children, ending);
        let weighed = weighed?;
        ended.map(|()| weighed)
    }
}

/// Starts many at once and waits until all their jobs are there.
pub fn start_all(context: &Context<'_>, command: &mut Command, count: usize) -> Result<Vec<Child>> {
    let (mut reader, writer) = std::io::pipe()?;
    let mut children = Vec::with_capacity(count);
    for _ in 0..count {
        children.push(context.tools.start(command, writer.try_clone()?)?);
    }
    drop(writer);
    let mut ready = vec![0; count];
    reader
        .read_exact(&mut ready)
        .map_err(|_| format!("not all jobs came up{}", context.tools.last_error()))?;
    Ok(children)
}

/// The supervisors of all running jobs: our descendants but for the jobs themselves and the watcher.
pub fn supervisors(context: &Context<'_>) -> Result<Vec<Process>> {
    let watchers = watcher::pids(context.ground);
    let mut found = procs::descendants()?;
    found.retain(|process| process.name != "idle" && !watchers.contains(&process.pid));
    Ok(found)
}

pub fn weigh(context: &Context<'_>, count: usize) -> Result<Vec<f64>> {
    let found = supervisors(context)?;
    // The job may be there before its supervisor has come to rest, and what waits for hours is what is weighed. Nobody
    // announces rest.
    std::thread::sleep(Duration::from_millis(300));
    let mut pss = 0.0;
    for process in &found {
        pss += procs::memory(process.pid)?.pss;
    }
    let switches = |found: &[Process]| -> Result<u64> { found.iter().map(|p| procs::switches(p.pid)).sum() };
    let before = switches(&found)?;
    if count == 1 {
        // The second is the measure: nothing may happen in it.
        std::thread::sleep(Duration::from_secs(1));
    }
    let after = switches(&found)?;
    Ok(vec![pss / count as f64, (after - before) as f64])
}

/// Ends them. A peer need not pass SIGTERM on, so peers are killed.
pub fn end_all(context: &Context<'_>, mut children: Vec<Child>, ending: Signal) -> Result<()> {
    for child in &children {
        kill(Pid::from_raw(child.id().cast_signed()), ending)?;
    }
    for child in &mut children {
        child.wait()?;
    }
    let watchers = watcher::pids(context.ground);
    let mut left = procs::descendants()?;
    left.retain(|process| !watchers.contains(&process.pid));
    procs::end(&left);
    procs::reap_strays();
    Ok(())
}
