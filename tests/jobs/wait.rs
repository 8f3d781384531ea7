//! `jobcage wait`: any job, also one that would leave no record.

use crate::support::PATIENCE;
use crate::support::cgroup::wait_change;
use crate::support::job::Job;
use crate::support::process::status;
use crate::support::world::World;
use crate::{create, leave_process, listed, words};
use nix::sys::signal::Signal;
use serde_json::json;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// A job that ends with this code when something is said into the FIFO of its name.
fn job(world: &mut World, name: &str, code: u8) -> (Job, String) {
    world.fifo(name);
    let script = format!("echo up; read line < {name}; exit {code}");
    let mut job = world.run(&[], &words(&["--name", name]), &words(&["sh", "-c", &script]));
    assert!(job.wait_line("up"), "{}", job.stderr());
    let id = listed(world)
        .into_iter()
        .find(|(id, _)| id.starts_with(&format!("{name}-")));
    (job, id.unwrap().0)
}

fn record(world: &World, id: &str) -> PathBuf {
    world.dir.join("run").join(id)
}

/// `jobcage wait words…`, begun: it returns when all these jobs know of it.
fn waiting(world: &World, words: &[&str], ids: &[&str]) -> Job {
    static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let n = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let mut command = world.shell_command("exec \"$JOBCAGE\" wait \"$@\"");
    command.arg("wait").args(words);
    let waiting = Job::start(
        command,
        PathBuf::new(),
        world.dir.join(format!("stderr-wait-{n}")),
    );
    for id in ids {
        let dir = record(world, id);
        assert!(
            wait_change(&dir, PATIENCE, || dir.join("wanted").exists()),
            "{}",
            waiting.stderr()
        );
    }
    waiting
}

fn ended(mut waiting: Job, code: i32) -> (String, String) {
    assert_eq!(waiting.wait(PATIENCE), code, "{}", waiting.stderr());
    assert!(waiting.output_ended(PATIENCE));
    (waiting.stdout(), waiting.stderr())
}

#[test]
fn the_code_of_a_foreground_job_is_told_though_it_leaves_no_record() {
    let mut world = World::new("wait-one");
    let (mut run, id) = job(&mut world, "one", 3);
    let first = waiting(&world, &[&id], &[&id]);
    let second = waiting(&world, &[&id, "--json"], &[]);
    let quiet = waiting(&world, &[&id, "-q"], &[]);
    // Nobody looks again and again.
    let switches = || status(first.jobcage.pid, "voluntary_ctxt_switches");
    let asleep = |w: &Job| status(w.jobcage.pid, "State").is_some_and(|state| state.starts_with('S'));
    while !asleep(&first) {
        std::thread::yield_now();
    }
    let before = switches();
    assert!(!first.jobcage.wait_end(Duration::from_millis(400)));
    assert_eq!(switches(), before, "it woke up though nothing had happened");
    let _held = world.say_into("one", "go");
    assert_eq!(run.wait(PATIENCE), 3);
    assert_eq!(ended(first, 3), (format!("{id} exited 3\n"), String::new()));
    let (line, _) = ended(second, 3);
    let value: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(
        (&value["job"], &value["exit_code"], &value["clean"]),
        (&json!(id), &json!(3), &json!(true))
    );
    assert_eq!(value["ending"], json!({"kind": "exited", "code": 3}));
    assert_eq!(ended(quiet, 3), (String::new(), String::new()));
    // The report stays, and a later one is told the same.
    assert_eq!(
        world.call(&["wait", &id]).expect(3).text(),
        format!("{id} exited 3")
    );
    assert_eq!(listed(&world), [(id, "over".to_owned())]);
    world.assert_nothing_left();
    world.call(&["gc", "--keep", "0"]).expect(0);
    world.assert_clean();
}

#[test]
fn of_several_the_first_that_failed_in_the_order_given() {
    let mut world = World::new("wait-several");
    let (mut a, a_id) = job(&mut world, "a", 0);
    let (mut b, b_id) = job(&mut world, "b", 5);
    let (mut c, c_id) = job(&mut world, "c", 7);
    let ids = [a_id.as_str(), &b_id, &c_id];
    let all = waiting(&world, &ids, &ids);
    let any = waiting(&world, &["--any", &a_id, &b_id, &c_id], &[]);
    // What was over before counts as well, so the one that looks for any must have begun.
    assert!(!any.jobcage.wait_end(Duration::from_millis(300)));
    for (name, job, code) in [("c", &mut c, 7), ("a", &mut a, 0), ("b", &mut b, 5)] {
        let _held = world.say_into(name, "go");
        assert_eq!(job.wait(PATIENCE), code);
        if name == "c" {
            assert!(wait_change(&record(&world, &c_id), PATIENCE, || record(
                &world, &c_id
            )
            .join("report.json")
            .exists()));
        }
    }
    let (lines, _) = ended(all, 5);
    assert_eq!(
        lines,
        format!("{c_id} exited 7\n{a_id} exited 0\n{b_id} exited 5\n")
    );
    assert_eq!(ended(any, 7).0, format!("{c_id} exited 7\n"));
    assert_eq!(
        world.call(&["wait", "--any", &a_id, &b_id]).expect(0).text(),
        format!("{a_id} exited 0")
    );
    world.assert_nothing_left();
}

#[test]
fn the_time_may_be_over_first() {
    let mut world = World::new("wait-timeout");
    let (mut run, id) = job(&mut world, "one", 0);
    let done = world.call(&["wait", &id, "--timeout", "100ms"]).expect(124);
    assert!(
        done.text().is_empty() && done.told().contains(&id),
        "{}",
        done.told()
    );
    world.call(&["wait", &id, "--timeout", "0"]).expect(124);
    let _held = world.say_into("one", "go");
    assert_eq!(run.wait(PATIENCE), 0);
    world.call(&["wait", &id, "--timeout", "0"]).expect(0);
    world.assert_nothing_left();
}

/// A job that nobody can tell of any more is an error, and the others are waited for all the same.
#[test]
fn a_job_that_vanished_is_an_honest_error() {
    let mut world = World::new("wait-vanished");
    let told = world.call(&["wait", "job-00000000"]).refused();
    assert!(told.contains("no such job"), "{told}");
    let (mut a, a_id) = job(&mut world, "a", 4);
    let (mut b, b_id) = job(&mut world, "b", 5);
    let both = waiting(&world, &[&a_id, "job-00000000", &b_id], &[&a_id, &b_id]);
    // Somebody's hand; jobcage itself keeps a record that is waited for. Whoever writes there at this moment is in its way.
    let end = Instant::now() + PATIENCE;
    while let Err(error) = fs::remove_dir_all(record(&world, &b_id)) {
        assert!(Instant::now() < end, "{error}");
    }
    let _held = world.say_into("b", "go");
    assert_eq!(b.wait(PATIENCE), 5, "{}", b.stderr());
    let _held = world.say_into("a", "go");
    assert_eq!(a.wait(PATIENCE), 4);
    let (lines, told) = ended(both, 4);
    assert_eq!(lines, format!("{a_id} exited 4\n"));
    assert!(
        told.contains(&format!("{b_id}: its record was removed")),
        "{told}"
    );
    assert!(told.contains("job-00000000: there is no such job"), "{told}");
    world.assert_nothing_left();
}

#[test]
fn a_created_job_is_over_at_its_cleanup() {
    let mut world = World::new("wait-created");
    let id = create(&world, &[]);
    let left = leave_process(&world, &id);
    world
        .call(&["run", "--job", &id, "--", "sh", "-c", "exit 6"])
        .expect(6);
    let waiting = waiting(&world, &[&id], &[]);
    assert!(!waiting.jobcage.wait_end(Duration::from_millis(300)));
    world.call(&["cleanup", &id]).expect(0);
    assert!(left.has_ended());
    assert_eq!(ended(waiting, 6).0, format!("{id} exited 6\n"));
    assert!(!world.dir.join("state").join(&id).join("wanted").exists());
    world.assert_nothing_left();
}

/// The supervisor is killed: the watcher closes the job, and the wait tells what that comes to. Without a watcher it says
/// that nobody comes, and waits for gc.
#[test]
fn a_lost_job_is_told_as_lost() {
    let mut world = World::new("wait-lost");
    let (mut watched, id) = job(&mut world, "watched", 0);
    let waiting_for = waiting(&world, &[&id], &[&id]);
    watched.signal(Signal::SIGKILL);
    assert_eq!(watched.wait(PATIENCE), 137);
    assert_eq!(ended(waiting_for, 125).0, format!("{id} lost 125\n"));
    let (mut alone, id) = job(&mut world, "alone", 0);
    let waiting_for = waiting(&world, &[&id], &[&id]);
    alone.stop();
    world.kill_watchers();
    alone.signal(Signal::SIGKILL);
    assert_eq!(alone.wait(PATIENCE), 137);
    let until = Instant::now() + PATIENCE;
    while !waiting_for.stderr().contains("nobody looks after") {
        assert!(Instant::now() < until, "it does not say that nobody comes");
        // A file that grows tells nobody here, so its text is read again; its writer must not end meanwhile.
        assert!(!waiting_for.jobcage.wait_end(Duration::from_millis(20)));
    }
    world.call(&["gc"]).expect(0);
    assert_eq!(ended(waiting_for, 125).0, format!("{id} lost 125\n"));
    world.assert_nothing_left();
}

/// The marker comes at any moment of the job's end: either the report is there, or the wait says that it is not. The job
/// itself never notices.
#[test]
fn a_wait_that_comes_at_the_very_end_is_told_the_truth() {
    let mut world = World::new("wait-race");
    let (mut told, mut missed) = (0, 0);
    for n in 0..30 {
        let name = format!("r{n}");
        let (mut run, id) = job(&mut world, &name, 3);
        let mut wait = world.shell_command(&format!("exec \"$JOBCAGE\" wait {id}"));
        let _held = world.say_into(&name, "go");
        let done = wait.output().unwrap();
        assert_eq!(run.wait(PATIENCE), 3, "{}", run.stderr());
        match done.status.code() {
            Some(3) => told += 1,
            Some(125) => missed += 1,
            other => panic!("{other:?}: {done:?}"),
        }
    }
    crate::support::say(&format!("at the end of a job: {told} told, {missed} too late"));
    assert_eq!(told + missed, 30);
    world.assert_nothing_left();
    world.call(&["gc", "--keep", "0"]).expect(0);
    world.assert_clean();
}
