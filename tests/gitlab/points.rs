//! The driver is killed at each of the system calls of a stage: its step is ended, and it is not forgotten.

use crate::runner::{Runner, world};
use crate::support::captured::wait_written;
use crate::support::needs::{Need, met};
use crate::support::seed::{Random, full_sweep, seed};
use crate::support::world::World;
use crate::support::{PATIENCE, cgroup, commit, say};
use jobcage_job::Report;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

/// Points of the sample.
const SAMPLE: usize = 30;

/// A system call, and which one of these.
type Point = (String, u32);

#[test]
fn a_step_whose_driver_is_killed_at_any_call_is_known() {
    if !met("gitlab-points", &[Need::Program("strace")]) {
        return;
    }
    let Some(mut world) = world("gitlab-points") else {
        return;
    };
    let mut job = 6000;
    let mut points = enumerate(&play(&world, job, None).trace);
    let mut random = Random::of("gitlab-points");
    while !full_sweep() && points.len() > SAMPLE {
        let index = usize::try_from(random.next() % points.len() as u64).unwrap();
        points.remove(index);
    }
    let (mut reached, mut ran) = (0, 0);
    for point in &points {
        job += 1;
        let played = play(&world, job, Some(point));
        reached += u32::from(played.trace.contains("killed by SIGKILL"));
        ran += u32::from(played.ran);
        let steps: Vec<_> = played.report.steps.iter().map(|step| &*step.name).collect();
        assert!(!played.ran || steps == ["build_script"], "{point:?}: {steps:?}");
        assert!(played.report.clean, "{point:?}: {:?}", played.report);
    }
    say(&format!(
        "drivers killed at their calls: {} points, {reached} reached, the step ran in {ran} ({}, commit {}, seed {})",
        points.len(),
        if full_sweep() { "full sweep" } else { "sample" },
        commit::commit(),
        seed()
    ));
    assert!(
        reached as usize > points.len() * 9 / 10,
        "{reached} of {}",
        points.len()
    );
    assert!(0 < ran && ran < reached, "{ran} of {reached}");
    world.assert_nothing_left();
}

/// What became of a job.
struct Played {
    trace: String,
    /// Whether the script has begun.
    ran: bool,
    report: Report,
}

/// One job with one stage, whose driver has strace at it.
fn play(world: &World, id: u64, point: Option<&Point>) -> Played {
    let mut runner = Runner::new(world, id);
    // One that ends nobody: a step that has begun runs to its end, and can be seen to have run.
    runner.host.push(("JOBCAGE_SIGNAL", "WINCH".into()));
    let prepared = runner.call("prepare", &[]);
    assert_eq!(prepared.code, 0, "{}", prepared.log);
    let began = format!("began-{id}");
    let script = runner.script(&format!("echo ran >> {began}; sleep 0.02"));
    let trace = world.dir.join(format!("trace-{id}"));
    let mut driver = traced(
        &runner.command("run", &[script.to_str().unwrap(), "build_script"]),
        &trace,
        point,
    )
    .spawn()
    .unwrap();
    driver.wait().unwrap();
    let end = Instant::now() + PATIENCE;
    let leaf = record(world, id)
        .file_name()
        .map(|cage| world.cgroup_root.join(cage).join("01-step"));
    // Not a child of ours, and its cgroup stays: nobody tells of its end.
    while !cgroup::pids(leaf.as_ref().unwrap()).is_empty() {
        assert!(Instant::now() < end, "{point:?}: the step does not end");
        std::thread::yield_now();
    }
    let cleanup = runner.call("cleanup", &[]);
    assert_eq!(cleanup.code, 0, "{point:?}: {}", cleanup.log);
    let whole = || fs::read_to_string(&trace).is_ok_and(|text| text.contains("+++ "));
    assert!(wait_written(&world.dir, whole), "{point:?}: strace does not end");
    Played {
        trace: fs::read_to_string(&trace).unwrap(),
        ran: !runner.read(&began).is_empty(),
        report: serde_json::from_slice(&fs::read(record(world, id).join("report.json")).unwrap()).unwrap(),
    }
}

/// The command as our own child, which it is to be for whoever asks for the runner, with strace as nobody's.
fn traced(command: &Command, trace: &PathBuf, point: Option<&Point>) -> Command {
    let mut strace = Command::new("strace");
    strace.args(["-D", "-q", "-o"]).arg(trace);
    if let Some((call, when)) = point {
        strace.args(["-e", &format!("trace={call}")]);
        strace.args(["-e", &format!("inject={call}:signal=KILL:when={when}")]);
    }
    strace.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => strace.env(name, value),
            None => strace.env_remove(name),
        };
    }
    strace
        .current_dir(command.get_current_dir().unwrap())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    strace
}

/// The record of a job.
fn record(world: &World, id: u64) -> PathBuf {
    let begins = format!("gitlab-{id}-");
    let entries = fs::read_dir(world.dir.join("state")).unwrap().flatten();
    let is_its = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(&begins)
    };
    entries.map(|entry| entry.path()).find(is_its).expect("a record")
}

/// All calls but the first execve(2), before which there is no driver.
fn enumerate(trace: &str) -> Vec<Point> {
    let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
    for line in trace.lines() {
        let name = line.split('(').next().unwrap_or_default();
        if !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            *counts.entry(name).or_default() += 1;
        }
    }
    counts.remove("execve");
    let of = |(name, last): (&str, u32)| {
        (1..=last)
            .map(move |when| (name.to_owned(), when))
            .collect::<Vec<_>>()
    };
    counts.into_iter().flat_map(of).collect()
}
