//! Those who follow a job that runs: attach, logs, wait, exec, stop, and `run --log`, also while it changes hands.

use crate::support::call::{to_end, wait};
use crate::support::process::Process;
use crate::support::world::World;
use crate::support::{PATIENCE, programs};
use nix::sys::signal::Signal;
use std::io::{Read as _, Write as _};
use std::process::{Child, Command, Stdio};

/// A command of jobcage that goes on beside the test.
fn start(world: &World, words: &[&str]) -> Child {
    let mut command = world.command(programs::jobcage());
    command.args(words).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// Its exit code and output.
fn end(mut child: Child) -> (i32, String, String) {
    let status = wait(&mut child, PATIENCE).expect("it does not end");
    let text = |from: &mut dyn std::io::Read| {
        let mut text = String::new();
        from.read_to_string(&mut text).unwrap();
        text
    };
    let out = text(child.stdout.as_mut().unwrap());
    let err = text(child.stderr.as_mut().unwrap());
    (status.code().unwrap_or(-1), out, err)
}

/// Reads exactly so much.
fn read(child: &mut Child, length: usize) -> String {
    let mut bytes = vec![0; length];
    child.stdout.as_mut().unwrap().read_exact(&mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn followers_see_a_partial_line_and_the_end() {
    let mut world = World::new("follow");
    world.fifo("go");
    let script = "printf first; read word < go; echo; echo second; exit 7";
    let job = world.detach(&["--after", "echo after: $JOBCAGE_RESULT"], &["sh", "-c", script]);
    let mut all = start(&world, &["attach", &job.id]);
    let mut later = start(&world, &["logs", "-f", "--offset", "3", &job.id]);
    assert_eq!(read(&mut all, 5), "first");
    assert_eq!(read(&mut later, 2), "st");
    let _held = world.say_into("go", "on");
    let (code, out, err) = end(all);
    assert_eq!((code, out.as_str()), (7, "\nsecond\nafter: failed\n"), "{err}");
    let (code, out, err) = end(later);
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.starts_with("\nsecond\n"), "{out:?}");
    world.assert_nobody_left();
}

#[test]
fn a_follower_goes_on_when_the_job_changes_hands() {
    let mut world = World::new("follow-hands");
    world.fifo("go");
    let script = "echo one; read word < go; echo two; exit 3";
    let job = world.detach(&[], &["sh", "-c", script]);
    let mut follower = start(&world, &["attach", &job.id]);
    let waiting = start(&world, &["wait", &job.id]);
    assert_eq!(read(&mut follower, 4), "one\n");
    let first = job.supervisor(&world);
    first.signal(Signal::SIGKILL);
    let next = job.next_supervisor(&world, first.pid);
    next.signal(Signal::SIGKILL);
    job.next_supervisor(&world, next.pid);
    let _held = world.say_into("go", "on");
    let (code, out, err) = end(follower);
    assert_eq!((code, out.as_str()), (3, "two\n"), "{err}");
    let (code, out, _) = end(waiting);
    assert_eq!((code, out.trim()), (3, format!("{} exited 3", job.id).as_str()));
    world.assert_nobody_left();
}

#[test]
fn an_interrupt_leaves_the_job_alone_unless_it_is_to_stop_it() {
    let mut world = World::new("interrupt");
    let job = world.detach(&[], &["sh", "-c", "echo here; exec sleep 60"]);
    for (options, code) in [(&["attach"][..], 130), (&["attach", "--stop-on-interrupt"], 143)] {
        let mut follower = start(&world, &[options, &[job.id.as_str()]].concat());
        assert_eq!(read(&mut follower, 5), "here\n");
        Process::open(i32::try_from(follower.id()).unwrap()).signal(Signal::SIGINT);
        let (ended, _, err) = end(follower);
        assert_eq!(ended, code, "{options:?}: {err}");
        assert_eq!(err.contains("goes on"), code == 130, "{err}");
    }
    assert_eq!(job.wait_over().ending.kind(), "cancelled");
    world.assert_nobody_left();
}

#[test]
fn run_with_log_is_run_and_keeps_the_output() {
    let mut world = World::new("run-log");
    let report = world.dir.join("report.json").display().to_string();
    let words = [
        "run",
        "--log",
        "--report",
        &report,
        "--",
        "sh",
        "-c",
        "echo out; echo err >&2; exit 4",
    ];
    let done = world.call(&words).expect(4);
    assert_eq!((done.text().as_str(), done.told().as_str()), ("out", "err\n"));
    let id = crate::support::job::read_report(report.as_ref()).job.to_string();
    let logs = world.call(&["logs", &id]).expect(0);
    assert_eq!((logs.text().as_str(), logs.told().as_str()), ("out", "err\n"));
    // Of one stream alone it is what a pipeline wants.
    let stderr = world.call(&["logs", "--stream", "stderr", &id]).expect(0);
    assert_eq!(stderr.text(), "err");
    world.call(&["logs", "--verify", &id]).expect(0);
    world.assert_nobody_left();
}

/// Its output has to be captured, so it is there for others, too; what it reads is still ours.
#[test]
fn a_job_with_idle_timeout_can_be_followed() {
    let mut world = World::new("idle-followed");
    let mut client: Command = world.command(programs::jobcage());
    let script = "echo up; read word; echo $word; exit 4";
    client.args(["run", "--idle-timeout", "1h", "--", "sh", "-c", script]);
    client
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut client = client.spawn().unwrap();
    assert_eq!(read(&mut client, 3), "up\n");
    let id = world.records()[0].clone();
    let mut follower = start(&world, &["attach", &id]);
    assert_eq!(read(&mut follower, 3), "up\n");
    assert_eq!(world.call(&["logs", &id]).expect(0).text(), "up");
    client.stdin.take().unwrap().write_all(b"word\n").unwrap();
    for child in [client, follower] {
        let (code, out, err) = end(child);
        assert_eq!((code, out.as_str()), (4, "word\n"), "{err}");
    }
    assert_eq!(world.call(&["logs", &id]).expect(0).text(), "up\nword");
    world.assert_nobody_left();
}

#[test]
fn a_job_with_log_ends_with_its_client() {
    let mut world = World::new("run-log-killed");
    let words = ["run", "--log", "--", "sh", "-c", "echo here; exec sleep 60"];
    let mut client = start(&world, &words);
    assert_eq!(read(&mut client, 5), "here\n");
    let job = world.captured(&world.records()[0].clone());
    client.kill().unwrap();
    client.wait().unwrap();
    let report = job.wait_over();
    assert_eq!(report.ending.kind(), "cancelled", "{report:#?}");
    assert_eq!(job.text("log-01.stdout"), "here\n");
    world.assert_nobody_left();
}

#[test]
fn exec_has_the_jobs_own_surroundings() {
    let mut world = World::new("exec-captured");
    let job = world.detach(&["--env", "COLOUR=green", "--dir", "/usr"], &["sleep", "60"]);
    let words = [
        "exec",
        &job.id,
        "--",
        "sh",
        "-c",
        "echo $COLOUR $JOBCAGE_JOB; pwd; exit 6",
    ];
    let done = world.call(&words).expect(6);
    assert_eq!(done.text(), format!("green {}\n/usr", job.id));
    world.call(&["stop", "--now", &job.id]).expect(0);
    world.assert_nobody_left();
}

#[test]
fn a_stop_reaches_a_job_that_is_changing_hands() {
    let mut world = World::new("stop-hands");
    let script =
        "exec 2> /dev/null; trap 'echo asked; exit 9' USR1; echo ready; while :; do sleep 0.05; done";
    for _ in 0..5 {
        let job = world.detach(&["--after", "echo after >> afters"], &["sh", "-c", script]);
        job.wait_log("log-01", "ready\n");
        job.supervisor(&world).signal(Signal::SIGKILL);
        // At once: nobody may have the lock at this moment.
        world.call(&["stop", "--signal", "USR1", &job.id]).expect(0);
        let report = job.wait_over();
        assert_eq!(report.ending.kind(), "cancelled", "{report:#?}");
        assert_eq!(job.text("log-01"), "ready\nasked\n");
    }
    let afters = std::fs::read_to_string(world.dir.join("afters")).unwrap();
    assert_eq!(afters, "after\n".repeat(5));
    world.assert_nobody_left();
}

#[test]
fn state_goes_from_the_command_to_its_after_phase_across_a_change_of_hands() {
    let mut world = World::new("state-hands");
    // What is handed on is in memory only.
    let runtime = tempfile::Builder::new()
        .prefix("jobcage-test-")
        .tempdir_in("/dev/shm")
        .unwrap();
    world.fifo("go");
    let script =
        "echo DONE=half >> \"$JOBCAGE_ENV\"; echo ready; read word < go; echo DONE=all >> \"$JOBCAGE_ENV\"";
    let mut command = world.command(programs::jobcage());
    command.env("JOBCAGE_RUNTIME_DIR", runtime.path().join("run"));
    command.args([
        "run",
        "--detach",
        "--after",
        "echo $DONE",
        "--",
        "sh",
        "-c",
        script,
    ]);
    let job = world.captured(&to_end(command, b"").expect(0).text());
    job.wait_log("log-01", "ready\n");
    let lock: Vec<Process> = supervisors(&world);
    for supervisor in &lock {
        supervisor.signal(Signal::SIGKILL);
    }
    let _held = world.say_into("go", "on");
    assert_eq!(job.wait_over().exit_code, 0);
    assert_eq!(job.text("log-02"), "all\n");
    assert_eq!(
        std::fs::read_dir(runtime.path().join("run.env")).map_or(0, Iterator::count),
        0
    );
    world.assert_nobody_left();
}

fn supervisors(world: &World) -> Vec<Process> {
    let pids = crate::support::cgroup::pids(&world.cgroup_root.join("supervisors"));
    pids.into_iter().map(Process::open).collect()
}

#[test]
fn ten_slow_followers_do_not_slow_the_job() {
    let mut world = World::new("slow-followers");
    world.fifo("go");
    // More than any pipe holds.
    let script = "echo up; read word < go; head -c 8000000 /dev/zero; exit 2";
    let job = world.detach(&[], &["sh", "-c", script]);
    let mut followers: Vec<Child> = (0..10).map(|_| start(&world, &["attach", &job.id])).collect();
    for follower in &mut followers {
        assert_eq!(read(follower, 3), "up\n");
    }
    // Half of them are stopped, and nobody reads what the others show.
    let stopped = |follower: &Child| Process::open(i32::try_from(follower.id()).unwrap());
    followers
        .iter()
        .take(5)
        .for_each(|follower| stopped(follower).signal(Signal::SIGSTOP));
    let _go = world.say_into("go", "on");
    let report = job.wait_over();
    assert_eq!((report.exit_code, report.steps[0].logs[0].bytes), (2, 8_000_003));
    followers
        .iter()
        .take(5)
        .for_each(|follower| stopped(follower).signal(Signal::SIGCONT));
    for mut follower in followers {
        let mut rest = Vec::new();
        follower.stdout.as_mut().unwrap().read_to_end(&mut rest).unwrap();
        assert_eq!(rest.len(), 8_000_000);
        assert_eq!(follower.wait().unwrap().code(), Some(2));
    }
    world.assert_nobody_left();
}

#[test]
fn what_is_not_captured_says_where_its_output_is() {
    let mut world = World::new("not-captured");
    world.fifo("go");
    let mut command: Command = world.command(programs::jobcage());
    command.args([
        "run",
        "--name",
        "plain",
        "--",
        "sh",
        "-c",
        "echo ready; read word < go",
    ]);
    command.stdout(Stdio::piped());
    let mut client = command.spawn().unwrap();
    assert_eq!(read(&mut client, 6), "ready\n");
    let id = world.records()[0].clone();
    for verb in ["attach", "logs"] {
        let told = world.call(&[verb, &id]).refused();
        assert!(
            told.contains("not captured") && told.contains(&client.id().to_string()),
            "{told}"
        );
    }
    let _held = world.say_into("go", "on");
    client.wait().unwrap();
    world.assert_nobody_left();
}
