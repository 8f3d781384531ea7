//! G1: what a driver of GitLab Runner costs by itself: each call, a whole job, and the end of a job that has left many processes.

use super::Context;
use super::end::left_over;
use crate::Result;
use crate::captured;
use crate::contest::{Contestant, Samples};
use crate::drivers::{Driver, Job, Place};
use crate::ground::loudly;
use crate::procs;
use crate::table::{Table, Target};
use crate::tools::{milliseconds, on_path};
use crate::watcher;
use std::time::{Duration, Instant};

/// The stages of a job that has something to do in each of them.
const STAGES: [&str; 6] = [
    "prepare_script",
    "get_sources",
    "restore_cache",
    "build_script",
    "after_script",
    "cleanup_file_variables",
];

const PATIENCE: Duration = Duration::from_secs(30);

const MEASURES: [&str; 5] = [
    "prepare",
    "run, a stage whose script is empty (mean of six)",
    "run, the same without the shell that runs the script",
    "cleanup of a clean job",
    "a whole job of six stages with empty scripts, all calls",
];

/// All of it. This program is the runner: the calls are its children.
pub fn driver(context: &Context<'_>) -> Result<Vec<Table>> {
    let needed = [on_path("bash"), on_path("runuser")];
    if let Some(Err(why)) = needed.into_iter().find(Result::is_err) {
        loudly(&format!("SKIPPED G1: {why}"));
        return Ok(Vec::new());
    }
    if !nix::unistd::geteuid().is_root() {
        loudly("SKIPPED G1: the drivers become the build user, so this needs root");
        return Ok(Vec::new());
    }
    let place = Place::make(context.tools, &context.ground.temp)?;
    let mut tables = calls(context, &place)?;
    tables.extend(leftovers(context, &place)?);
    Ok(tables)
}

fn who(context: &Context<'_>) -> Vec<Driver> {
    let mut all = vec![Driver::Plain, Driver::Old];
    all.extend(context.tools.has_jobcage().then_some(Driver::Jobcage));
    all
}

fn calls(context: &Context<'_>, place: &Place<'_>) -> Result<Vec<Table>> {
    let job = |driver| Contestant::needed(driver_name(driver), move || whole(context, place, driver));
    let contestants = who(context).into_iter().map(job).collect();
    let (measures, mut notes) = context.hold(&context.rules(25, MEASURES.len()), contestants)?;
    notes.push("without the shell: the same script was run by the same shell alone, `bash SCRIPT` or the build user's login shell, with the variables that the driver gives it, and that time taken away".into());
    notes.push("plain: four shell scripts of three lines, `bash SCRIPT` as root; old: its calls as they were, into files".into());
    let table = |(title, samples): (&&str, Samples)| {
        let goals = match *title {
            "cleanup of a clean job" => vec![
                Target::value("G1", "jobcage", 50.0),
                Target::ratio("G1", "jobcage", "old", 1.0),
                Target::beside("G1", "jobcage", "plain"),
            ],
            _ => vec![
                Target::ratio("G1", "jobcage", "plain", 1.5),
                Target::ratio("G1", "jobcage", "old", 1.0),
            ],
        };
        Table::new("G1", title, "ms", "plain", samples)
            .note(&notes)
            .aim(goals)
    };
    Ok(MEASURES.iter().zip(measures).map(table).collect())
}

fn driver_name(driver: Driver) -> &'static str {
    match driver {
        Driver::Plain => "plain",
        Driver::Old => "old",
        Driver::Jobcage => "jobcage",
    }
}

/// One job from config to cleanup: the times of [`MEASURES`].
fn whole(context: &Context<'_>, place: &Place<'_>, driver: Driver) -> Result<Vec<f64>> {
    let job = Job::new(place, driver)?;
    let script = job.script("")?;
    let time = |call: &str, more: &[&str]| context.tools.time(&mut job.call(call, more)?);
    let mut all = time("config", &[])?;
    let prepare = time("prepare", &[])?;
    let (mut stages, mut shells) = (0.0, 0.0);
    for stage in STAGES {
        stages += time("run", &[&script, stage])?;
        shells += context.tools.time(&mut job.shell(&script)?)?;
    }
    let cleanup = time("cleanup", &[])?;
    all += prepare + stages + cleanup;
    // Whoever looked after it ends when it is over.
    captured::Place::in_memory(context.tools, context.ground).alone()?;
    let count = STAGES.len() as f64;
    Ok(vec![
        prepare,
        stages / count,
        (stages - shells) / count,
        cleanup,
        all,
    ])
}

/// What a stage has left in the background is ended by cleanup, or is not.
fn leftovers(context: &Context<'_>, place: &Place<'_>) -> Result<Vec<Table>> {
    let count = context.options.size(1_000, 20);
    let job = |driver| Contestant::needed(driver_name(driver), move || crowd(context, place, driver, count));
    // A plain driver does not even look.
    let contestants = who(context).into_iter().filter(|driver| *driver != Driver::Plain);
    let (mut measures, mut notes) = context.hold(&context.rules(5, 2), contestants.map(job).collect())?;
    notes.push("old: looks for them, and stops at an error of its own".into());
    notes.push(left_over(&measures.pop().unwrap_or_default().values));
    let title = format!("cleanup of a job that has left {count} processes");
    let table = |samples| {
        Table::new("G1", &title, "ms", "old", samples)
            .note(&notes)
            .aim(vec![Target::value("G1", "jobcage", 1_000.0)])
    };
    Ok(measures.into_iter().map(table).collect())
}

/// The time of cleanup, and how many it has left alive, whom we end then.
fn crowd(context: &Context<'_>, place: &Place<'_>, driver: Driver, count: usize) -> Result<Vec<f64>> {
    let job = Job::new(place, driver)?;
    let sleeper = context.tools.path("busybox");
    let script = job.script(&format!(
        "for i in $(seq {count}); do {} sleep 600 > /dev/null 2>&1 & done",
        sleeper.display()
    ))?;
    context.tools.time(&mut job.call("prepare", &[])?)?;
    context
        .tools
        .time(&mut job.call("run", &[&script, "build_script"])?)?;
    wait_for(count)?;
    let mut cleanup = job.call("cleanup", &[])?;
    let start = Instant::now();
    // Whether it calls that a success is not measured.
    cleanup.spawn()?.wait()?;
    let passed = milliseconds(start);
    let left = sleepers()?;
    captured::Place::in_memory(context.tools, context.ground).alone()?;
    procs::kill_descendants(&watcher::pids(context.ground));
    procs::reap_strays();
    Ok(vec![passed, left as f64])
}

/// The last of them have only just been forked: nobody announces that they have become what they are to be.
fn wait_for(count: usize) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    while sleepers()? < count {
        if Instant::now() > end {
            return Err(format!("{} of {count} processes were there before cleanup", sleepers()?).into());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

fn sleepers() -> Result<usize> {
    let all = procs::descendants()?;
    Ok(all.iter().filter(|process| process.name == "busybox").count())
}
