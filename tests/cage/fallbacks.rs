//! Kernels that lack something, made so by what they answer: a filter gives ENOSYS, or a file is not found. The endings
//! are the same, and the report says how they were reached.

use crate::support::PATIENCE;
use crate::support::world::World;
use crate::tools::{Ran, run, words};
use jobcage_job::{CensusMethod, Ending, Kill};
use nix::sys::signal::Signal;

/// Runs `sh -c script` below a wrapper of the zoo. `$ZOO` is the zoo.
fn below(world: &mut World, filter: &[&str], options: &[&str], script: &str) -> Ran {
    let zoo = world.zoo.display().to_string();
    let wrap = [&[zoo.as_str()], filter, &["--"]].concat();
    let script = script.replace("$ZOO", &zoo);
    run(world, &wrap, options, &["sh", "-c", &script])
}

/// Each way in which a job without clone3, pidfds or both ends.
fn every_ending(test: &str, calls: &[&str]) {
    let filter = [&["seccomp-enosys"], calls].concat();
    let mut world = World::new(test);
    let ran = below(&mut world, &filter, &[], "cat /proc/self/cgroup; exit 7");
    assert_eq!(ran.code, 7, "{}", ran.stderr);
    assert!(
        ran.report.clean && ran.report.census.count == 0,
        "{:#?}",
        ran.report
    );
    let cage = ran.report.cage.rsplit_once('/').unwrap().1.to_owned();
    assert!(
        ran.stdout.trim_end().ends_with(&format!("/{cage}/01-step")),
        "the job was not in its cage: {}",
        ran.stdout
    );
    world.assert_nothing_left();

    let ran = below(&mut world, &filter, &[], "exec /nonexistent/program");
    assert_eq!(ran.code, 127, "{}", ran.stderr);

    let ran = below(
        &mut world,
        &filter,
        &[],
        "$ZOO ignore-term --exit 0 & sleep 0.2; exit 0",
    );
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(
        ran.report.clean && ran.report.census.count > 0,
        "{:#?}",
        ran.report
    );
    assert_eq!(ran.report.census.method, CensusMethod::Frozen);
    world.assert_nothing_left();

    let ran = below(
        &mut world,
        &filter,
        &["--timeout", "1s", "--grace", "200ms"],
        "$ZOO bomb tree 50",
    );
    assert_eq!((ran.code, ran.report.clean), (124, true), "{:#?}", ran.report);
    world.assert_nothing_left();
}

#[test]
fn without_clone3_the_child_moves_itself() {
    every_ending("no-clone3", &["clone3"]);
}

#[test]
fn without_pidfds_pids_do() {
    every_ending("no-pidfd", &["pidfd_open", "pidfd_send_signal"]);
}

#[test]
fn without_clone3_and_pidfds() {
    every_ending("no-both", &["clone3", "pidfd_open", "pidfd_send_signal"]);
}

/// Everybody gets the signal of a stop, pidfds or not.
#[test]
fn a_stop_reaches_all_without_pidfds() {
    let mut world = World::new("stop-no-pidfd");
    let zoo = world.zoo.display().to_string();
    let calls = ["clone3", "pidfd_open", "pidfd_send_signal"];
    let wrap = [&[zoo.as_str(), "seccomp-enosys"], &calls[..], &["--"]].concat();
    // The child, not the main process, says that TERM has come.
    let script = "(trap 'echo heard; exit 0' TERM; echo ready $$; while :; do sleep 0.1; done) & wait; wait";
    let mut job = world.run(
        &words(&wrap),
        &words(&["--grace", "20s"]),
        &words(&["sh", "-c", script]),
    );
    assert!(job.wait_ready().is_some(), "{}", job.stderr());
    job.signal(Signal::SIGTERM);
    assert_eq!(job.wait(PATIENCE), 128 + 15, "{}", job.stderr());
    assert!(job.stdout().contains("heard"), "{}", job.stdout());
    world.assert_nothing_left();
}

/// Rabbits and bombs die without one or both of the files.
fn every_crowd(test: &str, files: &[&str]) {
    let filter = [&["mask-file"], files].concat();
    for animal in [
        &["double-fork"][..],
        &["leader-exit"],
        &["rabbits"],
        &["bomb", "tree", "300"],
        &["bomb", "hop", "400"],
    ] {
        let mut world = World::new(test);
        let zoo = world.zoo.display().to_string();
        let wrap = [&[zoo.as_str()], &filter[..], &["--"]].concat();
        let argv = [&[zoo.as_str()], animal].concat();
        let mut job = world.run(&words(&wrap), &words(&["--grace", "0"]), &words(&argv));
        assert!(job.wait_ready().is_some(), "{animal:?}: {}", job.stderr());
        job.signal(Signal::SIGTERM);
        assert_eq!(job.wait(2 * PATIENCE), 128 + 15, "{animal:?}: {}", job.stderr());
        let report = job.report();
        assert!(report.clean, "{animal:?}: {report:#?}");
        assert!(
            matches!(report.ending, Ending::Cancelled(_)),
            "{:?}",
            report.ending
        );
        let proof = report.proof.expect("there was something to kill");
        if files.contains(&"cgroup.kill") {
            assert_eq!(proof.kill, Kill::Walk, "{animal:?}");
        } else {
            assert_eq!(proof.kill, Kill::CgroupKill, "{animal:?}");
        }
        if files.contains(&"cgroup.freeze") {
            assert_eq!(report.census.method, CensusMethod::Running, "{animal:?}");
            assert_eq!(proof.frozen_us, None, "{animal:?}");
        }
        world.assert_nothing_left();
    }
}

#[test]
fn without_cgroup_kill_each_is_killed() {
    every_crowd("no-kill", &["cgroup.kill"]);
}

#[test]
fn without_cgroup_freeze_the_look_is_less_exact() {
    every_crowd("no-freeze", &["cgroup.freeze"]);
}

#[test]
fn without_both_files_the_walk_wins() {
    every_crowd("no-kill-no-freeze", &["cgroup.kill", "cgroup.freeze"]);
}
