//! The driver is killed at each of the system calls of a stage: its step is ended, and it is not forgotten. The runner is killed at
//! each of those of `prepare`: nothing of the job stays.

use crate::runner::{Runner, world};
use crate::support::captured::wait_written;
use crate::support::needs::{Need, met};
use crate::support::process::Process;
use crate::support::seed::{Random, full_sweep, seed};
use crate::support::world::World;
use crate::support::{PATIENCE, cgroup, commit, say};
use jobcage_job::Report;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

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
    thin_out(&mut points, "gitlab-points");
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

/// Driver and supervisor both die between the start of a step and its first word on the disk: the kernel knows that it ran.
#[test]
fn a_step_that_nobody_lives_to_tell_of_is_known() {
    if !met("gitlab-both", &[Need::Program("strace")]) {
        return;
    }
    let Some(mut world) = world("gitlab-both") else {
        return;
    };
    let point = behind_the_start(&play(&world, 7000, None).trace);
    let id = 7001;
    let mut runner = Runner::new(&world, id);
    runner.host.push(("JOBCAGE_SIGNAL", "WINCH".into()));
    assert_eq!(runner.call("prepare", &[]).code, 0);
    let script = runner.script("echo ran >> both");
    let trace = world.dir.join("trace-both");
    let command = runner.command("run", &[script.to_str().unwrap(), "build_script"]);
    let mut driver = traced(&command, &trace, Some(&point), "STOP").spawn().unwrap();
    assert!(
        wait_written(&world.dir, || is_told(&trace)),
        "{point:?} is not reached"
    );
    let project = world.dir.join("project");
    assert!(wait_written(&project, || runner.read("both") == "ran\n"));
    let record = record(&world, id);
    assert!(!record.join("begun-01.json").exists(), "{point:?} is too late");
    let session = world.captured(record.file_name().unwrap().to_str().unwrap());
    let first = session.supervisor(&world);
    first.signal(Signal::SIGKILL);
    session.next_supervisor(&world, first.pid);
    driver.kill().unwrap();
    driver.wait().unwrap();
    assert_eq!(runner.call("cleanup", &[]).code, 0);
    let report: Report = serde_json::from_slice(&fs::read(record.join("report.json")).unwrap()).unwrap();
    let steps: Vec<_> = report.steps.iter().map(|step| step.number).collect();
    assert_eq!(steps, [1], "{report:?}");
    world.assert_nothing_left();
}

/// The call behind that which starts the step: it runs, and is not written down.
fn behind_the_start(trace: &str) -> Point {
    let name = |line: &str| line.split('(').next().unwrap_or_default().to_owned();
    let lines: Vec<String> = trace.lines().map(name).collect();
    let start = lines.iter().rposition(|name| name == "clone3").expect("a start");
    let next = lines[start + 1].clone();
    let count = lines[..=start + 1].iter().filter(|name| **name == next).count();
    (next, u32::try_from(count).unwrap())
}

#[test]
fn a_runner_that_is_killed_at_any_call_of_prepare_leaves_nothing() {
    if !met("gitlab-prepare-points", &[Need::Program("strace")]) {
        return;
    }
    let Some(mut world) = world("gitlab-prepare-points") else {
        return;
    };
    let mut job = 8000;
    let trace = world.dir.join("trace-all");
    let runner = Runner::new(&world, job);
    let mut whole = traced(&runner.command("prepare", &[]), &trace, None, "");
    assert!(whole.status().unwrap().success());
    assert_eq!(runner.call("cleanup", &[]).code, 0);
    let ended = || fs::read_to_string(&trace).is_ok_and(|text| text.contains("+++ "));
    assert!(wait_written(&world.dir, ended));
    let mut points = enumerate(&fs::read_to_string(&trace).unwrap());
    thin_out(&mut points, "gitlab-prepare-points");
    let (mut reached, mut made) = (0, 0);
    for point in &points {
        job += 1;
        let runner = Runner::new(&world, job);
        let trace = world.dir.join(format!("trace-{job}"));
        reached += u32::from(is_orphaned_at(&runner, &trace, point));
        let end = Instant::now() + PATIENCE;
        while !world.cages().is_empty() {
            assert!(Instant::now() < end, "{point:?}: its cage stays");
            std::thread::sleep(Duration::from_millis(5));
        }
        made += u32::from(!reports(&world, job).is_empty());
        assert!(
            reports(&world, job).iter().all(|report| report.clean),
            "{point:?}"
        );
    }
    say(&format!(
        "runners killed at the calls of prepare: {} points, {reached} reached, there was a session in {made} ({}, commit {}, seed {})",
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
    // It is made near the end of prepare, and a sample may miss that.
    assert!(
        made < reached && (made > 0 || !full_sweep()),
        "{made} of {reached}"
    );
    world.assert_nothing_left();
}

/// A runner that is killed while its `prepare` stands still at a system call, which goes on then. Whether it came there.
fn is_orphaned_at(runner: &Runner<'_>, trace: &PathBuf, point: &Point) -> bool {
    let traced = traced(&runner.command("prepare", &[]), trace, Some(point), "STOP");
    let mut shell = Command::new("sh");
    shell.args(["-c", "\"$@\"; true", "sh"]).arg(traced.get_program());
    shell.args(traced.get_args());
    for (name, value) in traced.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell.current_dir(traced.get_current_dir().unwrap());
    shell
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut shell = shell.spawn().unwrap();
    let children = format!("/proc/{0}/task/{0}/children", shell.id());
    let end = Instant::now() + PATIENCE;
    // Nobody tells of a stop but the parent, which is the one to be killed.
    let stopped = loop {
        assert!(Instant::now() < end, "{point:?}: prepare neither stops nor ends");
        if shell.try_wait().unwrap().is_some() {
            return false;
        }
        let pids = fs::read_to_string(&children).unwrap_or_default();
        let mut pids = pids.split_whitespace().filter_map(|pid| pid.parse().ok());
        if let Some(pid) =
            pids.find(|pid| state(*pid).is_some_and(|state| matches!(state, 'T' | 't')) && is_told(trace))
        {
            break pid;
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    shell.kill().unwrap();
    shell.wait().unwrap();
    let prepare = Process::open(stopped);
    kill(Pid::from_raw(stopped), Signal::SIGCONT).unwrap();
    assert!(prepare.wait_end(PATIENCE), "{point:?}: prepare does not end");
    true
}

/// strace has written that it stopped it: before, it stops it at each call for itself.
fn is_told(trace: &PathBuf) -> bool {
    fs::read_to_string(trace).is_ok_and(|text| text.contains("--- stopped by SIGSTOP ---"))
}

/// The state letter of a process (proc_pid_stat(5)).
fn state(pid: i32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(") ").next()?.chars().next()
}

fn reports(world: &World, id: u64) -> Vec<Report> {
    let begins = format!("gitlab-{id}-");
    let entries = fs::read_dir(world.dir.join("state"))
        .into_iter()
        .flatten()
        .flatten();
    let of_job = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(&begins));
    of_job
        .filter_map(|entry| fs::read(entry.path().join("report.json")).ok())
        .map(|text| serde_json::from_slice(&text).unwrap())
        .collect()
}

fn thin_out(points: &mut Vec<Point>, what: &str) {
    let mut random = Random::of(what);
    while !full_sweep() && points.len() > SAMPLE {
        let index = usize::try_from(random.next() % points.len() as u64).unwrap();
        points.remove(index);
    }
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
        "KILL",
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
fn traced(command: &Command, trace: &PathBuf, point: Option<&Point>, signal: &str) -> Command {
    let mut strace = Command::new("strace");
    strace.args(["-D", "-q", "-o"]).arg(trace);
    if let Some((call, when)) = point {
        strace.args(["-e", &format!("trace={call}")]);
        strace.args(["-e", &format!("inject={call}:signal={signal}:when={when}")]);
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
