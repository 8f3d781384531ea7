//! `create --lease-pid`: the job ends with the process that holds it.

use crate::support::PATIENCE;
use crate::support::cgroup;
use crate::support::process::Process;
use crate::support::world::World;
use crate::{create, leave_process};
use nix::sys::signal::Signal;
use serde_json::json;
use std::process::{Child, Command, Stdio};

fn holder(world: &World) -> Child {
    let mut command: Command = world.command("sleep");
    command
        .arg("300")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// What `show` says of a job that somebody else closes.
fn shown_when_over(world: &World, id: &str) -> serde_json::Value {
    let record = world.dir.join("state").join(id);
    assert!(cgroup::wait_change(&record, PATIENCE, || record
        .join("report.json")
        .exists()));
    world.call(&["show", id, "--json"]).expect(0).json()
}

#[test]
fn the_watcher_closes_the_job_when_the_holder_dies() {
    let mut world = World::new("lease");
    let mut holder = holder(&world);
    let id = create(&world, &["--lease-pid", &holder.id().to_string()]);
    let left = leave_process(&world, &id);
    let cage = world.cages()[0].clone();
    assert!(!left.has_ended());
    // gc has nothing to do with a job whose holder lives.
    assert_eq!(world.call(&["gc", "--json"]).expect(0).json(), json!([]));
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert!(cgroup::wait_gone(&cage, PATIENCE), "nobody has closed it");
    assert!(left.has_ended());
    let shown = shown_when_over(&world, &id);
    assert_eq!(
        shown["report"]["ending"],
        json!({"kind": "cancelled", "by": "lease"}),
        "{shown:#}"
    );
    assert_eq!(shown["report"]["closed_by"], json!("gc"));
    world.call(&["run", "--job", &id, "--", "true"]).refused();
    world.assert_nothing_left();
}

/// Without a watcher the next gc does it.
#[test]
fn gc_closes_it_where_no_watcher_is() {
    let mut world = World::new("lease-gc");
    let mut holder = holder(&world);
    let id = create(&world, &["--lease-pid", &holder.id().to_string()]);
    world
        .call(&[
            "run",
            "--job",
            &id,
            "--",
            "sh",
            "-c",
            "sleep 300 > /dev/null 2>&1 & :",
        ])
        .expect(0);
    world.kill_watchers();
    holder.kill().unwrap();
    holder.wait().unwrap();
    let done = world.call(&["gc", "--json"]).expect(0).json();
    assert_eq!(
        (&done[0]["job"], &done[0]["result"]),
        (&json!(id), &json!("closed")),
        "{done:#}"
    );
    world.assert_nothing_left();
}

/// The watcher may die and be replaced: it finds the lease again.
#[test]
fn a_new_watcher_knows_the_old_leases() {
    let mut world = World::new("lease-new-watcher");
    let mut holder = holder(&world);
    create(&world, &["--lease-pid", &holder.id().to_string()]);
    let cage = world.cages()[0].clone();
    world.kill_watchers();
    // Any job starts a new one.
    world.call(&["run", "--", "true"]).expect(0);
    let watchers: Vec<Process> = world.watchers().into_iter().map(Process::open).collect();
    assert_eq!(watchers.len(), 1);
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert!(cgroup::wait_gone(&cage, PATIENCE), "nobody has closed it");
    world.assert_nothing_left();
}

#[test]
fn a_cleanup_before_the_holder_dies_is_the_end() {
    let mut world = World::new("lease-cleanup");
    let mut holder = holder(&world);
    let id = create(&world, &["--lease-pid", &holder.id().to_string()]);
    world.call(&["cleanup", &id]).expect(0);
    let before = world.call(&["show", &id, "--json"]).expect(0).json();
    Process::open(i32::try_from(holder.id()).unwrap()).signal(Signal::SIGTERM);
    holder.wait().unwrap();
    world.call(&["gc"]).expect(0);
    assert_eq!(world.call(&["show", &id, "--json"]).expect(0).json(), before);
    world.assert_nothing_left();
}

/// `create --lease`: for so long it waits for its next step, and no longer.
#[test]
fn the_watcher_closes_a_cage_that_has_waited_too_long() {
    let mut world = World::new("lease-wait");
    let id = create(&world, &["--lease", "1s"]);
    let cage = world.cages()[0].clone();
    let job = format!("--job={id}");
    // A step that takes longer than that is waited for, and what it leaves is not.
    let script = "sleep 2.5; sleep 300 >/dev/null 2>&1 & exit 3";
    world.call(&["run", &job, "--", "sh", "-c", script]).expect(3);
    assert!(cage.exists());
    assert!(cgroup::wait_gone(&cage, PATIENCE), "nobody has closed it");
    let shown = shown_when_over(&world, &id);
    assert_eq!(
        shown["report"]["ending"],
        json!({"kind": "cancelled", "by": "silence"}),
        "{shown:#}"
    );
    world.assert_nothing_left();
}

/// Without a watcher the next gc does it, and not before its time.
#[test]
fn gc_knows_a_cage_that_still_waits() {
    let mut world = World::new("lease-wait-gc");
    let waiting = create(&world, &["--lease", "10m"]);
    let tired = create(&world, &["--lease", "10s"]);
    world.kill_watchers();
    // As if nobody had come since the boot.
    std::fs::write(world.dir.join("state").join(&tired).join("heard"), [0; 8]).unwrap();
    world.call(&["gc"]);
    assert!(world.call(&["show", &tired, "--json"]).expect(0).json()["report"]["ending"]["by"] == "silence");
    assert_eq!(world.cages().len(), 1);
    world.call(&["cleanup", &waiting]).expect(0);
    world.assert_nothing_left();
}
