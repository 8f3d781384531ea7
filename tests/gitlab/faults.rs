//! Whoever looks after a job of GitLab is killed at random moments: `after_script` runs once all the same, and nothing is left.

use crate::after::{assert_one, response};
use crate::runner::{Call, Runner, world};
use crate::support::PATIENCE;
use crate::support::captured::Captured;
use crate::support::process::Process;
use crate::support::seed::{Random, full_sweep, seed};
use crate::support::world::World;
use nix::sys::signal::Signal;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

/// How a round ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The runner runs it.
    Success,
    /// `cleanup` does.
    Forced,
    /// The call does, at a job timeout.
    Timeout,
    /// The driver is killed, and the runner goes on.
    Driver,
}

const ENDS: [End; 4] = [End::Success, End::Forced, End::Timeout, End::Driver];

#[test]
fn after_script_runs_once_whoever_is_killed_when() {
    let Some(mut world) = world("gitlab-faults") else {
        return;
    };
    let rounds = if full_sweep() { 400 } else { 24 };
    let mut random = Random::of("gitlab-faults");
    let kills = AtomicU32::new(0);
    // Which moments a kill meets is chance: more rounds, if it met too few.
    let is_met = || u64::from(kills.load(std::sync::atomic::Ordering::Relaxed)) > rounds / 4;
    for round in (0..rounds * 3).take_while(|round| *round < rounds || !is_met()) {
        let end = *random.pick(&ENDS);
        let pauses: Vec<u64> = (0..8).map(|_| random.next() % 40).collect();
        play(&world, round, end, &pauses, &kills);
    }
    let kills = kills.into_inner();
    crate::support::say(&format!(
        "{kills} supervisors killed in {rounds} jobs (seed {})",
        seed()
    ));
    assert!(
        u64::from(kills) > rounds / 4,
        "only {kills} kills in {rounds} rounds"
    );
    world.assert_nothing_left();
}

/// One job, whose supervisors are killed after these pauses in milliseconds.
fn play(world: &World, round: u64, end: End, pauses: &[u64], kills: &AtomicU32) {
    let runner = Runner::new(world, 5000 + round);
    let timeout = if end == End::Timeout { 1 } else { 3600 };
    runner.make_tmp(&response(5000 + round, timeout));
    let _ = std::fs::remove_file(world.dir.join("project/after"));
    let before = world.records();
    let prepared = runner.call("prepare", &[]);
    assert_eq!(prepared.code, 0, "{}", prepared.log);
    let id = world
        .records()
        .into_iter()
        .find(|id| !before.contains(id))
        .unwrap();
    let session = world.captured(&id);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| kill(world, &session, pauses, &over, kills));
        act(&runner, end);
        let cleanup = runner.call("cleanup", &[]);
        over.store(true, Ordering::Relaxed);
        assert_eq!(cleanup.code, 0, "round {round}, {end:?}: {}", cleanup.log);
    });
    let by = if matches!(end, End::Success | End::Driver) {
        "runner"
    } else {
        "jobcage"
    };
    assert_one(&runner, by, &format!("round {round}, {end:?}"));
    let report = session.wait_over();
    assert!(report.clean, "round {round}, {end:?}: {report:#?}");
}

fn act(runner: &Runner<'_>, end: End) {
    let up = |stage: &mut Call| stage.wait_line("up");
    let after = || {
        let after = runner.stage("after_script", "echo runner >> after");
        assert_eq!(after.code, 0, "{}", after.log);
    };
    match end {
        End::Success => {
            let script = runner.stage("build_script", "sleep 300 > /dev/null 2>&1 & echo up");
            assert_eq!(script.code, 0, "{}", script.log);
            after();
        }
        End::Forced | End::Timeout | End::Driver => {
            let mut stage = runner.start_stage("build_script", "sleep 300 & echo up; wait");
            up(&mut stage);
            stage.signal(if end == End::Driver {
                Signal::SIGKILL
            } else {
                Signal::SIGTERM
            });
            stage.end();
            if end == End::Driver {
                after();
            }
        }
    }
}

/// Kills one supervisor after the other.
fn kill(world: &World, session: &Captured, pauses: &[u64], over: &AtomicBool, kills: &AtomicU32) {
    for pause in pauses {
        // A random moment is what is wanted: no event tells of one.
        std::thread::sleep(Duration::from_millis(*pause));
        if over.load(Ordering::Relaxed) {
            return;
        }
        if let Some(pid) = session.supervisor_now(world) {
            let process = Process::open(pid);
            // Held by now: if it still has the job, it is the one that was meant.
            if session.supervisor_now(world) == Some(pid) {
                process.signal(Signal::SIGKILL);
                kills.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// The keeper gets what it is to hold without being waited for. It is frozen here, so that it reads of it only when whoever gave it is dead,
/// and its successor already asks.
#[test]
fn what_a_keeper_was_given_counts_though_the_giver_is_dead() {
    let Some(mut world) = world("gitlab-late-keeper") else {
        return;
    };
    {
        let keepers = world.cgroup_root.join("keepers");
        std::fs::create_dir(&keepers).unwrap();
        let freeze = |word: &str| std::fs::write(keepers.join("cgroup.freeze"), word).unwrap();
        let runner = Runner::new(&world, 4999);
        freeze("1");
        let prepared = runner.call("prepare", &[]);
        assert_eq!(prepared.code, 0, "{}", prepared.log);
        let session = world.captured(&world.records()[0]);
        let first = session.supervisor(&world);
        first.signal(Signal::SIGKILL);
        assert!(first.wait_end(PATIENCE));
        // The watcher has started it; it waits for the keeper's word.
        session.next_supervisor(&world, first.pid);
        freeze("0");
        let stage = runner.stage("build_script", "echo up");
        assert_eq!((stage.code, stage.log.as_str()), (0, "up\n"));
        assert_eq!(runner.call("cleanup", &[]).code, 0);
    }
    world.assert_nobody_left();
}
