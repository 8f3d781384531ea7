//! D5: a thousand captured jobs at once, launched, followed and ended.

use super::Context;
use super::end::left_over;
use crate::Result;
use crate::captured::Place;
use crate::contest::Contestant;
use crate::procs::{self, Process};
use crate::table::{Table, Target};
use crate::tools::milliseconds;
use crate::watcher;
use std::io::{PipeReader, Read};
use std::process::Child;
use std::time::{Duration, Instant};

/// Launch, memory, sleep, followers, end.
pub fn many(context: &Context<'_>) -> Result<Vec<Table>> {
    if !context.tools.has_jobcage() {
        return Ok(Vec::new());
    }
    let count = context.options.size(1_000, 10);
    let contestants = vec![Contestant::needed("jobcage", move || lifetimes(context, count))];
    let (measures, _) = context.hold(&context.rules(3, 6), contestants)?;
    let [launch, memory, sleep, follow, end, left] =
        measures.try_into().map_err(|_| "six measures expected")?;
    let title = |what: &str| format!("{count} detached jobs of one waiting process: {what}");
    let table = |what: &str, unit: &str, samples| Table::new("D5", &title(what), unit, "jobcage", samples);
    let goals = vec![
        Target::value("D5", "jobcage", 460.0),
        Target::value("D5 (stretch)", "jobcage", 340.0),
    ];
    Ok(vec![
        table("launch of all, one after the other", "ms", launch),
        table(
            "kernel and anonymous memory per job, keeper, supervisor and job",
            "KiB",
            memory,
        )
        .aim(goals)
        .note(&["kernel memory is the growth of the whole host's: other work shows in it".into()]),
        table(
            "context switches of all keepers and supervisors in a second",
            "switches",
            sleep,
        )
        .aim(vec![Target::value("D5", "jobcage", 0.0)]),
        table(
            "`attach` to each at once until every follower has its job's output",
            "ms",
            follow,
        ),
        table(
            "`stop` of each at once until all jobs and followers are gone",
            "ms",
            end,
        )
        .note(&[left_over(&left.values)]),
    ])
}

fn lifetimes(context: &Context<'_>, count: usize) -> Result<Vec<f64>> {
    let place = Place::in_memory(context.tools, context.ground);
    let mut launch = place.detach(&["idle"])?;
    let before = procs::kernel_memory()?;
    let start = Instant::now();
    let ids: Vec<_> = (0..count)
        .map(|_| place.launch(&mut launch))
        .collect::<Result<_>>()?;
    let launched = milliseconds(start);
    // What waits for hours is weighed, and nobody announces that everybody has come to rest.
    std::thread::sleep(Duration::from_millis(500));
    let memory = (procs::kernel_memory()? - before + anonymous(context)?) / count as f64;
    let attendants = place.attendants()?;
    let switches = || -> Result<u64> { attendants.iter().map(|pid| procs::switches(*pid)).sum() };
    let asleep = switches()?;
    // The second is the measure: nothing may happen in it.
    std::thread::sleep(Duration::from_secs(1));
    let asleep = switches()? - asleep;
    let start = Instant::now();
    // The pipe stays: a follower whose output nobody reads ends at once.
    let (mut followers, _pipe) = follow(context, &place, &ids)?;
    let followed = milliseconds(start);
    let start = Instant::now();
    end(context, &place, &ids, &mut followers)?;
    let ended = milliseconds(start);
    let left = ours(context)?.len() + context.ground.left_below("jobcage")?;
    place.clear()?;
    procs::reap_strays();
    let numbers = [launched, memory, asleep as f64, followed, ended, left as f64];
    Ok(numbers.to_vec())
}

/// A follower of each job; all have read the byte that their job has written.
fn follow(context: &Context<'_>, place: &Place<'_>, ids: &[String]) -> Result<(Vec<Child>, PipeReader)> {
    let (mut reader, writer) = std::io::pipe()?;
    let mut followers = Vec::with_capacity(ids.len());
    for id in ids {
        let mut attach = place.verb("attach", id)?;
        followers.push(context.tools.start(&mut attach, writer.try_clone()?)?);
    }
    drop(writer);
    reader
        .read_exact(&mut vec![0; ids.len()])
        .map_err(|_| format!("not all followers came up{}", context.tools.last_error()))?;
    Ok((followers, reader))
}

fn end(context: &Context<'_>, place: &Place<'_>, ids: &[String], followers: &mut [Child]) -> Result<()> {
    let null = std::process::Stdio::null;
    let stops = ids
        .iter()
        .map(|id| context.tools.start(&mut place.verb("stop", id)?, null()));
    for mut stop in stops.collect::<Result<Vec<_>>>()? {
        let status = stop.wait()?;
        if !status.success() {
            return Err(format!("stop: {status}{}", context.tools.last_error()).into());
        }
    }
    for follower in followers {
        let status = follower.wait()?;
        // As if the job had ended here: of SIGTERM.
        if status.code() != Some(143) {
            return Err(format!("attach: {status}, not 143").into());
        }
    }
    place.alone()
}

/// All processes of the jobs.
fn ours(context: &Context<'_>) -> Result<Vec<Process>> {
    let watchers = watcher::pids(context.ground);
    let mut found = procs::descendants()?;
    found.retain(|process| !watchers.contains(&process.pid));
    Ok(found)
}

fn anonymous(context: &Context<'_>) -> Result<f64> {
    ours(context)?
        .iter()
        .map(|process| Ok(procs::memory(process.pid)?.anonymous))
        .sum()
}
