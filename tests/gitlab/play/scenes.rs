//! The scenarios of the traces, played with the same minimal driver that the real runner had.

use super::payload;
use super::plan::Generation;
use super::player::{Live, fixture};
use super::trace::Real;
use nix::sys::signal::Signal;
use serde_json::Value;
use std::fs;

/// What the test does while a job is played.
pub type Act = fn(&mut Live<'_>, &Real);

/// How a scenario is played.
pub struct Scene {
    pub job: Value,
    /// `FAKE_…` of the driver.
    pub fake: Vec<(&'static str, &'static str)>,
    pub graceful: f64,
    pub force: f64,
    pub second_ms: u64,
    pub act: Act,
}

/// As the traces have it: under 14.7 it outlives the runner, under 18.4 it ended by itself before.
const PREPARE_UNTIL_TOLD: &str = "if [ -z \"${BUILD_EXIT_CODE_FILE:-}\" ]; then attend sleep 50; \
                                  else until [ -e \"$TRACE.go\" ]; do sleep 0.02; done; fi";

const AFTER: &str = "echo AFTER-SCRIPT status=$CI_JOB_STATUS";

/// Six helpers, and then what `more` says.
fn with_helpers(more: &str) -> Value {
    let six = fs::read_to_string(fixture("six")).unwrap();
    let wait = "while [ \"$(grep -c 'spy.* started' \"$TRACE\")\" -lt 6 ]; do sleep 0.02; done";
    job(&[&six, wait, more])
}

fn job(script: &[&str]) -> Value {
    let mut job = payload::job(4242, script);
    payload::step(&mut job, "after_script", &[AFTER]);
    job
}

fn foreground_is_up(live: &Live<'_>) {
    live.wait_for("driver", "spy[foreground] started");
}

fn nothing(_: &mut Live<'_>, _: &Real) {}

fn cancel(live: &mut Live<'_>, real: &Real) {
    foreground_is_up(live);
    live.say(&format!("cancel {}", real.cancel_mode().unwrap()));
}

fn expire(live: &mut Live<'_>, _: &Real) {
    foreground_is_up(live);
    live.say("expire job");
}

fn stop(live: &mut Live<'_>, _: &Real) {
    foreground_is_up(live);
    live.signal(Signal::SIGTERM);
}

/// Is the name of a call that is to fail with a code: `run-rc-3`.
fn failing(name: &str, scene: &mut Scene) -> bool {
    let calls = [
        ("run", "FAKE_run_build_script"),
        ("after", "FAKE_run_after_script"),
        ("getsrc", "FAKE_run_get_sources"),
        ("prepscript", "FAKE_run_prepare_script"),
        ("filevars", "FAKE_run_cleanup_file_variables"),
        ("prepare", "FAKE_prepare"),
        ("config", "FAKE_config"),
        ("cleanup", "FAKE_cleanup"),
    ];
    let ends = [
        ("1", "rc=1"),
        ("2", "rc=2"),
        ("3", "rc=3"),
        ("126", "rc=126"),
        ("127", "rc=127"),
        ("1-x3", "rc=1"),
        ("2-x3", "rc=2"),
        ("KILL", "kill -KILL $$"),
        (
            "1-file-42",
            "rc=1; echo 42 > \"${BUILD_EXIT_CODE_FILE:-/dev/null}\"",
        ),
        (
            "1-file-junk",
            "rc=1; echo junk > \"${BUILD_EXIT_CODE_FILE:-/dev/null}\"",
        ),
    ];
    let Some((call, end)) = name.split_once("-rc-") else {
        return false;
    };
    let fake = calls.iter().find(|(word, _)| *word == call).unwrap().1;
    scene
        .fake
        .push((fake, ends.iter().find(|(word, _)| *word == end).unwrap().1));
    true
}

/// How a scenario is played for one generation, whose traces may differ in what the driver did.
pub fn scene(generation: Generation, name: &str) -> Scene {
    let mut scene = Scene {
        job: job(&["echo hello"]),
        fake: Vec::new(),
        // Where it does not pass, a slow machine must not make it pass.
        graceful: if name.contains("stubborn") || name.contains("holds") {
            5.0
        } else {
            300.0
        },
        force: 3.0,
        second_ms: 200,
        act: nothing,
    };
    if failing(name, &mut scene) || answering(name, &mut scene) || ending(name, &mut scene) {
        return scene;
    }
    let is_new = generation == Generation::V18;
    match name {
        "success" => {}
        "fail3" => scene.job = job(&["exit 3"]),
        "steps" => {
            payload::with_files(&mut scene.job, "on_success");
            (scene.job["cache"], scene.job["dependencies"]) = (Value::Null, Value::Null);
            payload::step(&mut scene.job, "release", &["echo released"]);
            // There was nothing to upload, of which one version makes a failure.
            scene
                .fake
                .extend(is_new.then_some(("FAKE_run_upload_artifacts_on_success", "rc=1")));
        }
        "artifacts" => {
            scene.job = job(&["false"]);
            payload::with_files(&mut scene.job, "always");
            scene.job["dependencies"] = Value::Null;
            scene
                .fake
                .extend(is_new.then_some(("FAKE_run_upload_artifacts_on_failure", "rc=1")));
        }
        "leak" => scene.job = with_helpers(":"),
        "cancel-artifacts" => {
            scene.job = with_helpers("$SPY --tick foreground 300");
            payload::with_files(&mut scene.job, "always");
            (scene.job["cache"], scene.job["dependencies"]) = (Value::Null, Value::Null);
            scene.act = cancel;
        }
        "cancel-during-after" => {
            scene.job = payload::job(4242, &["true"]);
            payload::step(&mut scene.job, "after_script", &["$SPY --tick after 3"]);
            scene.act = |live, real| {
                live.wait_for("driver", "spy[after] started");
                live.say(&format!("cancel {}", real.cancel_mode().unwrap()));
            };
        }
        "after-timeout-var" => {
            scene.job = payload::job(4242, &["true"]);
            payload::step(&mut scene.job, "after_script", &["sleep 300"]);
            payload::set(&mut scene.job, "RUNNER_AFTER_SCRIPT_TIMEOUT", "3");
            scene.second_ms = 600;
        }
        "prepare-timeout" => {
            scene.fake.push((
                "FAKE_prepare",
                "attend sh -c 'echo > \"$TRACE.up\"; exec sleep 50'; rc=0",
            ));
            scene.act = |live, _| {
                live.wait_file("trace.up");
                live.say("expire job");
            };
        }
        other => panic!("there is no scene for {other}"),
    }
    scene
}

/// What config answers.
fn answering(name: &str, scene: &mut Scene) -> bool {
    let answer = match name {
        "config-bad-json" => "echo '{'",
        "config-empty" => ":",
        "config-noise" => "echo noise; echo '{}'",
        "config-numeric" => "echo '{\"job_env\": {\"N\": 1}}'",
        _ => return false,
    };
    scene.fake.push(("FAKE_config", answer));
    true
}

/// A script that runs until somebody ends it, or the runner.
fn ending(name: &str, scene: &mut Scene) -> bool {
    let (more, act): (&str, Act) = match name {
        "cancel" | "force-cancel" | "graceful-cancel" => ("$SPY --tick foreground 300", cancel),
        "cancel-quiet" => ("$SPY foreground 300", quiet_cancel),
        "timeout" => ("$SPY foreground 300", expire),
        "stubborn-timeout" => ("$SPY --ignore foreground 300", expire),
        "script-timeout-var" => ("$SPY foreground 300", |live, _| {
            foreground_is_up(live);
            live.say("expire script");
        }),
        "runner-sigterm" => ("$SPY foreground 300", stop),
        "runner-sigquit" => ("$SPY foreground 3", |live, _| {
            foreground_is_up(live);
            live.signal(Signal::SIGQUIT);
        }),
        "runner-sigkill" => ("$SPY foreground 300", |live, _| {
            foreground_is_up(live);
            live.signal(Signal::SIGKILL);
        }),
        _ => return ending_alone(name, scene),
    };
    scene.job = with_helpers(more);
    scene.act = act;
    match name {
        "cancel-quiet" => scene.second_ms = 100,
        "stubborn-timeout" => scene.second_ms = 400,
        _ => {}
    }
    true
}

/// What was there before has been sent, and nothing more comes.
fn quiet_cancel(live: &mut Live<'_>, real: &Real) {
    foreground_is_up(live);
    live.wait_for_after("spy[foreground] started", "sent the log");
    live.say(&format!("cancel {}", real.cancel_mode().unwrap()));
}

/// The same without the six helpers.
fn ending_alone(name: &str, scene: &mut Scene) -> bool {
    match name {
        // One that ticks ends with the runner, whose pipe it writes into.
        "default-kill-timeouts" => {
            scene.job = job(&["$SPY --ignore --tick foreground 300"]);
            (scene.act, scene.second_ms) = (expire, 10);
        }
        "setsid-holds-stdout" => {
            scene.job = job(&["setsid $SPY holder 60 &", "wait"]);
            scene.act = |live, _| {
                live.wait_for("driver", "spy[holder] started");
                live.say("expire job");
            };
            return true;
        }
        "sigterm-stubborn" => {
            scene.job = job(&[
                "$SPY --ignore foreground 120 &",
                "$SPY --ignore --tick foreground2 120",
            ]);
            scene.second_ms = 100;
            scene.act = |live, real| {
                live.wait_for("driver", "spy[foreground2] started");
                stop(live, real);
            };
        }
        "sigterm-twice-stubborn" => {
            // The shell of 14.7 dies of the signal; a later one waits for its child.
            scene.job = job(&[
                "[ -z \"$CI_JOB_TIMEOUT\" ] || trap 'exit 1' TERM",
                "$SPY --ignore --tick foreground 120",
            ]);
            scene.act = |live, real| {
                stop(live, real);
                live.wait_for("driver", "spy[foreground] got SIGTERM");
                live.wait_for("driver", "run[build_script] GOT SIGTERM");
                if !ends_late(real) {
                    live.wait_for("driver", "run[build_script] EXIT");
                }
                live.signal(Signal::SIGTERM);
                live.wait_for("driver", "run[build_script] EXIT");
            };
        }
        "sigterm-during-prepare" => {
            scene.fake.push(("FAKE_prepare", PREPARE_UNTIL_TOLD));
            scene.second_ms = 100;
            scene.act = |live, real| {
                live.wait_for("driver", "prepare START");
                live.signal(Signal::SIGTERM);
                if real.facts.runner_rc == 0 {
                    live.wait_for("runner", "GOT SIGTERM");
                    fs::write(live.world.dir.join("trace.go"), "").unwrap();
                }
            };
        }
        _ => return false,
    }
    (scene.graceful, scene.force) = (600.0, 10.0);
    true
}

/// Whether the script outlives the second signal.
fn ends_late(real: &Real) -> bool {
    let at = |word: &str| real.facts.events.iter().rposition(|event| event.contains(word));
    at("run[build_script] EXIT") > at("signal_to_runner")
}
