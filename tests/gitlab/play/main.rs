//! A whole job as GitLab Runner plays it: a runner that is a process of its own (this program under another word), held against the
//! traces of the real one, and the drivers that it drives.

#[path = "../../support/mod.rs"]
mod support;

#[path = "../runner.rs"]
#[allow(dead_code, reason = "single calls are the other target's")]
mod runner;

#[path = "../../remote/cable.rs"]
#[allow(dead_code, reason = "the tests of other hosts need more of it")]
mod cable;
#[path = "../../remote/door.rs"]
#[allow(dead_code, reason = "the tests of other hosts need more of it")]
mod door;
#[path = "../../remote/rig.rs"]
#[allow(dead_code, reason = "the tests of other hosts need more of it")]
mod rig;

mod attend;
mod build;
mod call;
mod contract;
mod deploy;
mod drivers;
mod environment;
mod hub;
mod payload;
mod pipeline;
mod plan;
mod player;
mod scenes;
mod script;
mod trace;
mod traces;

use libtest_mimic::{Arguments, Failed, Trial};
use plan::Generation;
use std::process::ExitCode;

/// A test of one generation.
type Play = fn(Generation);

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().collect();
    if words.get(1).is_some_and(|word| word == player::WORD) {
        // What whoever runs the tests has left open is not the driver's to see.
        jobcage_sys::file::close_from(3);
        let plan = std::fs::read(&words[2]).unwrap();
        build::Build::new(hub::Hub::new(serde_json::from_slice(&plan).unwrap())).play();
        return ExitCode::SUCCESS;
    }
    let trial = |name: String, test: Box<dyn FnOnce() + Send>| {
        Trial::test(name, move || {
            test();
            Ok::<(), Failed>(())
        })
    };
    let mut trials = vec![trial(
        "traces::a_comparison_can_fail".into(),
        Box::new(traces::mutated),
    )];
    let old: [(&str, fn()); 3] = [
        ("leaves_all_six", drivers::old_leaves_all_six),
        (
            "takes_a_failure_for_its_own",
            drivers::old_takes_a_failure_for_its_own,
        ),
        ("tells_nobody_of_a_cancel", drivers::old_tells_nobody_of_a_cancel),
    ];
    let pipelines: [(&str, fn()); 6] = [
        ("success", pipeline::success),
        ("failure", pipeline::failure),
        ("cancel", pipeline::cancel),
        ("forced_cancel", pipeline::forced_cancel),
        ("timeout", pipeline::timeout),
        ("runner_sigkill", pipeline::runner_sigkill),
    ];
    trials.extend(pipelines.map(|(name, test)| trial(format!("pipeline::{name}"), Box::new(test))));
    trials.extend(old.map(|(name, test)| trial(format!("old_driver::{name}"), Box::new(test))));
    let each: [(&str, Play); 11] = [
        ("contract::surroundings", contract::surroundings),
        ("jobcage::success", drivers::success),
        ("jobcage::failure", drivers::failure),
        ("jobcage::graceful_cancel", drivers::graceful_cancel),
        ("jobcage::forced_cancel", drivers::forced_cancel),
        ("jobcage::job_timeout", drivers::job_timeout),
        (
            "jobcage::job_timeout_by_the_clock",
            drivers::job_timeout_by_the_clock,
        ),
        ("jobcage::runner_sigterm", drivers::runner_sigterm),
        ("jobcage::runner_sigkill", drivers::runner_sigkill),
        ("deploy::success", deploy::success),
        ("deploy::cancel_without_a_line", deploy::cancel_without_a_line),
    ];
    for generation in Generation::BOTH {
        for (name, test) in each {
            let (part, name) = name.split_once("::").unwrap();
            let name = format!("{part}::{}::{name}", generation.name());
            trials.push(trial(name, Box::new(move || test(generation))));
        }
        for name in traces::names(generation) {
            let told = format!("traces::{}::{name}", generation.name());
            trials.push(trial(told, Box::new(move || traces::play(generation, &name))));
        }
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}
