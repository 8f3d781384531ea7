//! Two builds of jobcage at one job: an upgrade under running jobs, and records of a newer one.

use crate::support::PATIENCE;
use crate::support::captured::{Captured, kill_all};
use crate::support::process::{Process, stat};
use crate::support::world::World;
use crate::support::{cgroup, programs};
use jobcage_job::Ending;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Instant;

const AFTER: [&str; 2] = ["--after", "echo $JOBCAGE_RESULT >> after"];
const SCRIPT: &str =
    "exec 3<> go; echo up; while read word <&3 && [ $word != end ]; do echo $word; done; exit 7";

/// Another file with the same program, and some more bytes at its end.
fn build(world: &World, name: &str) -> PathBuf {
    let path = world.dir.join(name);
    let mut program = fs::read(programs::jobcage()).unwrap();
    program.extend_from_slice(name.as_bytes());
    fs::write(&path, program).unwrap();
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    path
}

fn call(world: &World, build: &Path, words: &[&str]) -> String {
    let mut command = world.command(build);
    let out = command.args(words).stdin(Stdio::null()).output().unwrap();
    assert!(out.status.success(), "{words:?}: {out:?}");
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}

fn begin(world: &World, build: &Path) -> Captured {
    world.fifo("go");
    let id = call(
        world,
        build,
        &["run", "--detach", AFTER[0], AFTER[1], "--", "sh", "-c", SCRIPT],
    );
    let job = world.captured(&id);
    job.wait_log("log-01", "up\n");
    job
}

/// Stops it, so that it starts nobody meanwhile.
fn stop(process: &Process) {
    process.signal(Signal::SIGSTOP);
    let end = Instant::now() + PATIENCE;
    while stat(process.pid).is_none_or(|(_, state, _)| state != 'T') {
        assert!(Instant::now() < end, "{} does not stop", process.pid);
        std::thread::yield_now();
    }
}

/// The watchers are stopped before, so that they see nothing of it: a supervisor that lives would start another one.
fn kill_with_watchers(world: &World, supervisor: &Process) {
    let watchers = cgroup::pids(&world.cgroup_root.join("hold"));
    let watchers: Vec<Process> = watchers.into_iter().map(Process::open).collect();
    for watcher in &watchers {
        stop(watcher);
    }
    kill_all(&std::iter::once(supervisor).chain(&watchers).collect::<Vec<_>>());
}

/// What is said into the job comes out, and it ends as it should.
fn goes_on(world: &mut World, job: &Captured) {
    let _held = [world.say_into("go", "two"), world.say_into("go", "end")];
    let report = job.wait_over();
    assert_eq!(report.ending, Ending::Exited { code: 7 }, "{report:#?}");
    assert!(report.steps[0].logs[0].whole);
    assert_eq!(job.text("log-01"), "up\ntwo\n");
    assert_eq!(fs::read_to_string(world.dir.join("after")).unwrap(), "failed\n");
    world.assert_nobody_left();
}

/// The file is replaced or gone: the old program goes on in memory, and starts itself from there.
#[test]
fn a_program_whose_file_is_gone_is_followed_by_itself() {
    for replaced in [true, false] {
        let mut world = World::new("build-gone");
        let old = build(&world, "old");
        let job = begin(&world, &old);
        if replaced {
            fs::rename(build(&world, "new"), &old).unwrap();
        } else {
            fs::remove_file(&old).unwrap();
        }
        let first = job.supervisor(&world);
        kill_all(&[&first]);
        let next = job.next_supervisor(&world, first.pid);
        assert!(!next.has_ended());
        goes_on(&mut world, &job);
    }
}

/// The next supervisor is another build: it has to understand what the first has left with the keeper and on the disk.
#[test]
fn another_build_takes_over() {
    let mut world = World::new("build-other");
    let (old, new) = (build(&world, "old"), build(&world, "new"));
    let job = begin(&world, &old);
    let (first, keeper) = (job.supervisor(&world), job.keeper());
    stop(&keeper);
    kill_with_watchers(&world, &first);
    // It gives the job to a supervisor of its own kind, which waits for the keeper's word with the lock in its hands.
    call(&world, &new, &["gc"]);
    let end = Instant::now() + PATIENCE;
    let next = loop {
        let shown = world.call(&["show", &job.id, "--json"]).json();
        if let Some(pid) = shown["supervisor"].as_i64() {
            break i32::try_from(pid).unwrap();
        }
        assert!(Instant::now() < end, "nobody takes over: {shown:#}");
    };
    assert_eq!(fs::read_link(format!("/proc/{next}/exe")).unwrap(), new);
    keeper.signal(Signal::SIGCONT);
    assert_eq!(job.next_supervisor(&world, first.pid).pid, next);
    goes_on(&mut world, &job);
}

/// The page faults of the children that a process has reaped (proc_pid_stat(5), `cminflt`): not 0 once there was one.
fn faults_of_reaped(pid: i32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let field = text.rsplit_once(')').unwrap().1.split_whitespace().nth(8);
    field.unwrap().parse().unwrap()
}

/// Whoever does not understand a record keeps away from it, says so, and kills nobody.
#[test]
fn a_newer_record_is_refused_by_everybody() {
    for file in ["spec.json", "phase.json"] {
        let mut world = World::new("build-newer");
        let job = begin(&world, programs::jobcage());
        let (first, keeper) = (job.supervisor(&world), job.keeper());
        stop(&keeper);
        kill_with_watchers(&world, &first);
        let path = job.record.join(file);
        let before = fs::read(&path).unwrap();
        let mut newer: Value = serde_json::from_slice(&before).unwrap();
        newer["version"] = json!(99);
        fs::write(&path, newer.to_string()).unwrap();
        let done = world.call(&["gc"]);
        assert_eq!(done.code, 125, "{file}: {} {}", done.text(), done.told());
        assert!(
            done.told().contains(&path.display().to_string()) && done.told().contains("newer"),
            "{file}: {}",
            done.told()
        );
        if file == "spec.json" {
            let told = world.call(&["stop", &job.id]).refused();
            assert!(told.contains("newer"), "{told}");
            let shown = world.call(&["show", &job.id, "--json"]).json();
            assert_eq!(shown["state"], "unreadable", "{shown:#}");
        }
        // What the keeper starts looks at it, too, and goes.
        keeper.signal(Signal::SIGCONT);
        let end = Instant::now() + PATIENCE;
        while faults_of_reaped(keeper.pid) == 0 {
            assert!(Instant::now() < end, "{}", cgroup::tree(&world.cgroup_root));
            std::thread::yield_now();
        }
        assert!(!keeper.has_ended() && world.cages().len() == 1 && !job.record.join("report.json").exists());
        // With a program that understands it, it goes on.
        fs::write(&path, before).unwrap();
        world.call(&["gc"]).expect(0);
        job.next_supervisor(&world, first.pid);
        goes_on(&mut world, &job);
    }
}
