//! `jobcage gc`: what it finds after a crash, safe by two at once.

use crate::support::PATIENCE;
use crate::support::job::Job;
use crate::support::process::Process;
use crate::support::world::World;
use crate::{create, leave_process, listed, words};
use nix::sys::signal::Signal;
use serde_json::json;
use std::fs;

/// A job under way, and a hold on a process in its background.
fn started(world: &mut World) -> (Job, Process) {
    let script = "sleep 300 > /dev/null & echo $!; echo up; sleep 300";
    let mut job = world.run(&[], &[], &words(&["sh", "-c", script]));
    assert!(job.wait_line("up"), "{}", job.stderr());
    let left = Process::open(job.stdout().lines().next().unwrap().parse().unwrap());
    (job, left)
}

/// Kills the supervisors in a world without a watcher: nobody closes the jobs.
fn abandon(world: &World, jobs: &mut [(Job, Process)]) {
    // Stopped first, so that none can replace its watcher.
    jobs.iter().for_each(|(job, _)| job.stop());
    world.kill_watchers();
    for (job, left) in jobs {
        job.signal(Signal::SIGKILL);
        assert_eq!(job.wait(PATIENCE), 137);
        assert!(!left.has_ended(), "somebody has killed it");
    }
}

#[test]
fn an_orphan_is_closed_as_lost() {
    let mut world = World::new("gc-orphan");
    let mut jobs = [started(&mut world)];
    abandon(&world, &mut jobs);
    let id = listed(&world)[0].clone();
    assert_eq!(id.1, "orphan");
    let done = world.call(&["gc"]).expect(0);
    assert!(
        done.told().contains(&id.0) && done.told().contains("3 of its processes were left"),
        "{}",
        done.told()
    );
    assert!(jobs[0].1.has_ended());
    let report = world.call(&["show", &id.0, "--json"]).expect(0).json()["report"].clone();
    assert_eq!(
        report["ending"],
        json!({"kind": "lost", "why": "its supervisor died"})
    );
    assert_eq!(
        (&report["closed_by"], &report["clean"], &report["exit_code"]),
        (&json!("gc"), &json!(true), &json!(125))
    );
    // Once is enough.
    assert_eq!(world.call(&["gc", "--json"]).expect(0).json(), json!([]));
    let quiet = world.call(&["gc", "--quiet"]).expect(0);
    assert_eq!(quiet.told(), "");
    world.assert_nothing_left();
}

#[test]
fn two_at_once_close_each_job_once() {
    let mut world = World::new("gc-two");
    let mut jobs: Vec<_> = (0..6).map(|_| started(&mut world)).collect();
    abandon(&world, &mut jobs);
    let script =
        "\"$JOBCAGE\" gc --json > one & a=$!; \"$JOBCAGE\" gc --json > two & b=$!; wait $a && wait $b";
    world.shell(script).expect(0);
    let read = |name: &str| -> serde_json::Value {
        serde_json::from_slice(&fs::read(world.dir.join(name)).unwrap()).unwrap()
    };
    let mut closed: Vec<String> = Vec::new();
    for done in [read("one"), read("two")] {
        for one in done.as_array().unwrap() {
            assert_eq!(one["result"], json!("closed"), "{one:#}");
            closed.push(one["job"].as_str().unwrap().to_owned());
        }
    }
    closed.sort();
    let all: Vec<String> = listed(&world).into_iter().map(|(id, _)| id).collect();
    // A gc that finds a job locked leaves it to the other, which may still be at it when both have listed.
    assert_eq!(closed, all);
    assert!(jobs.iter().all(|(_, left)| left.has_ended()));
    world.assert_nothing_left();
}

#[test]
fn living_and_open_jobs_are_left_alone() {
    let mut world = World::new("gc-alive");
    let open = create(&world, &[]);
    let kept = leave_process(&world, &open);
    let mut job = world.run(&[], &[], &words(&["sh", "-c", "echo up; sleep 300"]));
    assert!(job.wait_line("up"));
    assert_eq!(world.call(&["gc", "--json"]).expect(0).json(), json!([]));
    assert!(!kept.has_ended() && !job.jobcage.has_ended());
    job.signal(Signal::SIGTERM);
    assert_eq!(job.wait(PATIENCE), 143);
    world.call(&["cleanup", &open]).expect(0);
    world.assert_nothing_left();
}

/// A record of another boot: nothing of it can be alive, and its path may be another job's by now.
#[test]
fn a_job_from_before_a_reboot_is_closed_without_touching_its_path() {
    let mut world = World::new("gc-reboot");
    let id = create(&world, &[]);
    let left = leave_process(&world, &id);
    let spec = world.dir.join("state").join(&id).join("spec.json");
    let text = fs::read_to_string(&spec).unwrap();
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    fs::write(
        &spec,
        text.replace(boot.trim(), "00000000-0000-4000-8000-000000000000"),
    )
    .unwrap();
    world.call(&["gc"]).expect(0);
    assert!(!left.has_ended(), "it killed in a cage of this boot");
    let report = world.call(&["show", &id, "--json"]).expect(0).json()["report"].clone();
    assert_eq!(
        report["ending"],
        json!({"kind": "lost", "why": "the host went down"})
    );
    // Ours to tidy up, since no job knows of it any more.
    crate::support::cgroup::remove(&world.cgroup_root.join(&id)).unwrap();
    world.assert_nothing_left();
}

#[test]
fn old_reports_are_pruned_and_new_ones_kept() {
    let world = World::new("gc-prune");
    let (old, new) = (
        create(&world, &["--name", "old"]),
        create(&world, &["--name", "new"]),
    );
    for id in [&old, &new] {
        world.call(&["cleanup", id]).expect(0);
    }
    let report = world.dir.join("state").join(&old).join("report.json");
    let mut value: serde_json::Value = serde_json::from_slice(&fs::read(&report).unwrap()).unwrap();
    value["ended"] = json!("2001-01-01T00:00:00.000000Z");
    fs::write(&report, value.to_string()).unwrap();
    let done = world.call(&["gc", "--json"]).expect(0).json();
    assert_eq!(done.as_array().unwrap().len(), 1, "{done:#}");
    assert_eq!(
        (&done[0]["result"], &done[0]["job"]),
        (&json!("pruned"), &json!(old))
    );
    assert_eq!(world.records(), [new]);
}
