//! Two drivers under the same plays: what the one that jobcage follows has left alive, and that `jobcage gitlab` leaves nothing.

use super::payload::{self, AWKWARD, KEY_FILE};
use super::plan::Generation;
use super::player::{Live, Played, Player, fixture, left};
use super::trace::json_of;
use crate::runner::{self, BUILD_USER, SECRET};
use crate::support::process::Process;
use crate::support::world::World;
use crate::support::{PATIENCE, cgroup};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

const HELPERS: [&str; 6] = [
    "plain-bg",
    "setsid",
    "nohup",
    "jobctl",
    "double-fork",
    "clean-env",
];

/// A job with the six helpers, all there before `more` is done. It tells the helpers where the trace is itself: a driver's
/// environment is not the job's.
fn job(world: &World, id: u64, more: &str) -> Value {
    fs::copy(fixture("spy"), world.dir.join("spy")).unwrap();
    let six = fs::read_to_string(fixture("six")).unwrap();
    let told = format!("export TRACE='{0}/trace' SPY='{0}/spy'", world.dir.display());
    let wait = "while [ \"$(grep -c 'spy.* started' \"$TRACE\")\" -lt 6 ]; do sleep 0.02; done";
    let mut job = payload::job(id, &[&told, &six, wait, more]);
    let told = format!(
        "echo \"$CI_JOB_STATUS\" >> '{}/project/after'",
        world.dir.display()
    );
    payload::step(
        &mut job,
        "after_script",
        &["echo \"after: $CI_JOB_STATUS\"", &told],
    );
    payload::with_files(&mut job, "always");
    job
}

fn played(mut player: Player<'_>, act: impl FnOnce(&mut Live<'_>)) -> Played {
    // The driver's own grace is far shorter, and a slow machine must not make this one pass.
    player.plan.timeouts.graceful_kill = 200.0;
    let mut live = player.start();
    act(&mut live);
    live.end()
}

fn foreground_is_up(live: &Live<'_>) {
    live.wait_for("driver", "spy[foreground] started");
}

impl Played {
    /// What the server was told at the end.
    pub fn state(&self) -> Value {
        let line = self.lines.iter().find(|line| line.what.starts_with("job_final"));
        line.map_or(Value::Null, |line| json_of(&line.what).unwrap()["final"].clone())
    }

    /// The helpers that got a SIGTERM.
    fn asked(&self) -> BTreeSet<&str> {
        let told = self
            .lines
            .iter()
            .filter_map(|line| line.what.strip_prefix("spy["));
        told.filter_map(|told| told.strip_suffix("] got SIGTERM"))
            .collect()
    }

    /// The helpers that there were.
    fn helpers(&self) -> Vec<Process> {
        let spies = self
            .lines
            .iter()
            .filter(|line| line.what.starts_with("spy[") && line.what.ends_with("started"));
        spies.filter_map(|line| line.pid).map(Process::open).collect()
    }

    /// How often a call was made.
    pub fn count(&self, call: &str) -> usize {
        let starts = format!("{call} START");
        self.lines
            .iter()
            .filter(|line| line.who == "runner" && line.what.starts_with(&starts))
            .count()
    }
}

/// The old driver's plays: one world each.
fn old(test: &str, more: &str, act: impl FnOnce(&mut Live<'_>), look: impl FnOnce(&World, &Played)) {
    let Some(world) = runner::world(test) else { return };
    let mut player = Player::new(&world, Generation::V14, job(&world, 4242, more));
    player.drive_with("old-driver");
    player.set("OLD_USER", BUILD_USER);
    player.set("OLD_DIR", world.dir.join("project").display());
    player.plan.timeouts.force_kill = 3.0;
    let done = played(player, act);
    look(&world, &done);
}

pub fn old_leaves_all_six() {
    old(
        "old-leak",
        "true",
        |_| {},
        |world, done| {
            assert_eq!(done.state(), json!({"state": "success"}), "{}", done.log);
            let alive = left(world);
            for helper in HELPERS {
                assert!(
                    alive.iter().any(|(_, name)| name == helper),
                    "{helper} has ended: {alive:?}"
                );
            }
            assert!(done.log.contains("unbound variable"), "{}", done.log);
            // For everybody to read, for good.
            let file = world.dir.join("project/custom_executor.build_script.env");
            assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o644);
            assert!(fs::read_to_string(file).unwrap().contains(SECRET));
            assert!(world.dir.join("project/builds/grp/proj/grp/proj").is_dir());
        },
    );
}

pub fn old_takes_a_failure_for_its_own() {
    old(
        "old-code",
        "exit 3",
        |_| {},
        |_, done| {
            let state = json!({"state": "failed", "failure_reason": "runner_system_failure"});
            assert_eq!(done.state(), state, "{}", done.log);
        },
    );
}

/// Nobody in the job hears of a cancel, and both kill timeouts pass.
pub fn old_tells_nobody_of_a_cancel() {
    let cancel = |live: &mut Live<'_>| {
        foreground_is_up(live);
        live.say("cancel canceled");
    };
    old(
        "old-cancel",
        "$SPY --tick foreground 300",
        cancel,
        |world, done| {
            assert_eq!(done.state()["failure_reason"], "job_canceled");
            let waited = |what: &str| {
                done.lines
                    .iter()
                    .any(|line| line.what.starts_with(&format!("waited {what}")))
            };
            assert!(
                waited("graceful_kill_timeout") && waited("force_kill_timeout"),
                "{:#?}",
                done.lines
            );
            assert!(done.asked().is_empty(), "{:?}", done.asked());
            let alive = left(world);
            let count = HELPERS
                .iter()
                .filter(|helper| alive.iter().any(|(_, name)| name == *helper))
                .count();
            assert_eq!(count, 6, "{alive:?}");
        },
    );
}

/// jobcage's plays: what came of it, and nothing is left.
fn ours(
    generation: Generation,
    test: &str,
    more: &str,
    act: impl FnOnce(&mut Live<'_>),
    look: impl FnOnce(&World, &Played),
) {
    ours_changed(generation, test, more, |_| {}, act, look);
}

fn ours_changed(
    generation: Generation,
    test: &str,
    more: &str,
    change: impl FnOnce(&mut Player<'_>),
    act: impl FnOnce(&mut Live<'_>),
    look: impl FnOnce(&World, &Played),
) {
    let Some(mut world) = runner::world(&format!("{test}-{}", generation.name())) else {
        return;
    };
    let mut player = Player::new(&world, generation, job(&world, 4242, more));
    change(&mut player);
    let done = played(player, act);
    let helpers = done.helpers();
    assert!(helpers.len() >= 6, "{:#?}", done.lines);
    assert!(helpers.iter().all(Process::has_ended), "{:?}", left(&world));
    assert!(!done.tmp_is_left, "{:#?}", done.lines);
    assert_eq!(after(&world).len(), 1, "after_script ran: {:?}", after(&world));
    look(&world, &done);
    world.assert_nobody_left();
}

/// `CI_JOB_STATUS` each time that `after_script` ran, whoever ran it.
fn after(world: &World) -> Vec<String> {
    let told = fs::read_to_string(world.dir.join("project/after")).unwrap_or_default();
    told.lines().map(str::to_owned).collect()
}

/// Everything that a job can have reaches its script as it was meant, and nothing else does.
pub fn success(generation: Generation) {
    let script = "printf %s \"$AWKWARD\" > awkward; cat \"$KEY_FILE\" > key; echo \"$MASKED\"; \
                  env | grep -cE '^(CUSTOM_ENV_|JOB_RESPONSE_FILE|BUILD_|TMPDIR)' || true";
    ours(
        generation,
        "ours-success",
        script,
        |_| {},
        |world, done| {
            assert_eq!(done.state(), json!({"state": "success"}), "{}", done.log);
            let project = world.dir.join("project/builds/t3_Runner/0/grp/proj");
            assert_eq!(fs::read_to_string(project.join("awkward")).unwrap(), AWKWARD);
            assert_eq!(fs::read_to_string(project.join("key")).unwrap(), KEY_FILE);
            let log = &done.log;
            assert!(
                log.contains("\n[MASKED]\n0\n")
                    && !log.contains("hunter2-is-masked")
                    && !log.contains(SECRET),
                "{log}"
            );
            assert!(log.contains("after: success\n"), "{log}");
            assert_eq!(after(world), ["success"]);
            // Six are told of while somebody reads it; they lived on until then.
            assert!(log.contains("6 processes are left over"), "{log}");
            for stage in [
                "restore_cache",
                "download_artifacts",
                "archive_cache",
                "upload_artifacts_on_success",
            ] {
                assert_eq!(
                    done.count(&format!("run[{stage}]")),
                    1,
                    "{stage}: {:#?}",
                    done.lines
                );
            }
        },
    );
}

pub fn failure(generation: Generation) {
    ours(
        generation,
        "ours-failure",
        "exit 42",
        |_| {},
        |_, done| {
            let code = if generation == Generation::V14 { 1 } else { 42 };
            let state = json!({"state": "failed", "failure_reason": "script_failure", "exit_code": code});
            assert_eq!(done.state(), state, "{}", done.log);
            assert!(done.log.contains("after: failed\n"), "{}", done.log);
        },
    );
}

/// Something from outside ends the job while its script runs: everybody in it is asked first, whatever session he is in.
fn ended(generation: Generation, how: &str, words: Option<&str>, reason: &str, by_runner: usize) {
    let act = |live: &mut Live<'_>| {
        foreground_is_up(live);
        match words {
            Some(words) => live.say(words),
            None => live.signal(Signal::SIGTERM),
        }
    };
    ours(
        generation,
        &format!("ours-{how}"),
        "$SPY --tick foreground 300",
        act,
        |world, done| {
            assert_eq!(done.state()["failure_reason"], reason, "{}", done.log);
            let all: BTreeSet<&str> = HELPERS.into_iter().chain(["foreground"]).collect();
            assert_eq!(done.asked(), all, "{}", done.log);
            // A clock that jumped is the runner's alone: jobcage takes that timeout for a cancel.
            assert_eq!(after(world), ["canceled"], "{}", done.log);
            assert_eq!(done.count("run[after_script]"), by_runner, "{:#?}", done.lines);
            let waited = done.lines.iter().any(|line| line.what.contains("kill_timeout"));
            assert!(!waited, "the runner had to kill the driver: {:#?}", done.lines);
        },
    );
}

pub fn graceful_cancel(generation: Generation) {
    // 14.7 knows only the other one.
    let after = usize::from(generation == Generation::V18);
    ended(
        generation,
        "graceful-cancel",
        Some("cancel canceling"),
        "job_canceled",
        after,
    );
}

pub fn forced_cancel(generation: Generation) {
    ended(
        generation,
        "forced-cancel",
        Some("cancel canceled"),
        "job_canceled",
        0,
    );
}

pub fn job_timeout(generation: Generation) {
    ended(
        generation,
        "timeout",
        Some("expire job"),
        "job_execution_timeout",
        0,
    );
}

/// The clock is not made to jump here: jobcage reads the same one, and lets `after_script` speak while the log is still read.
pub fn job_timeout_by_the_clock(generation: Generation) {
    let clock = |player: &mut Player<'_>| {
        player.plan.response["runner_info"]["timeout"] = json!(6);
        player.plan.second_ms = 1000;
    };
    let act = |live: &mut Live<'_>| foreground_is_up(live);
    ours_changed(
        generation,
        "ours-clock",
        "$SPY foreground 300",
        clock,
        act,
        |world, done| {
            assert_eq!(
                done.state()["failure_reason"],
                "job_execution_timeout",
                "{}",
                done.log
            );
            assert_eq!(done.count("run[after_script]"), 0, "{:#?}", done.lines);
            assert_eq!(after(world), ["timedout"]);
            assert!(done.log.contains("after: timedout\n"), "{}", done.log);
        },
    );
}

pub fn runner_sigterm(generation: Generation) {
    ended(generation, "sigterm", None, "runner_system_failure", 0);
}

/// No call comes any more, and yet nothing of the job is left. The runner's own directory is: it died.
pub fn runner_sigkill(generation: Generation) {
    let Some(mut world) = runner::world(&format!("ours-sigkill-{}", generation.name())) else {
        return;
    };
    {
        let player = Player::new(&world, generation, job(&world, 4242, "$SPY foreground 300"));
        let live = player.start();
        foreground_is_up(&live);
        let cages = world.cages();
        live.signal(Signal::SIGKILL);
        let done = live.end();
        assert_eq!((done.rc, done.count("cleanup"), done.tmp_is_left), (-9, 0, true));
        assert_eq!(cages.len(), 1);
        assert!(
            cgroup::wait_gone(&cages[0], PATIENCE),
            "nobody has closed {cages:?}"
        );
        let helpers = done.helpers();
        assert!(
            helpers.len() == 7 && helpers.iter().all(|helper| helper.wait_end(PATIENCE)),
            "{:?}",
            left(&world)
        );
        assert_eq!(after(&world), ["failed"]);
        // The driver's call ends by itself; nobody is there to reap it but init.
        for (pid, _) in left(&world) {
            assert!(Process::open(pid).wait_end(PATIENCE));
        }
    }
    world.assert_nobody_left();
}
