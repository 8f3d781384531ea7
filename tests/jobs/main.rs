//! Jobs that are more than one call: `create`, `run --job`, `cleanup`, `list`, `show`, `stop`, `wait`, `exec`, `gc`, `logs`,
//! `attach`, leases and records.

#[path = "../support/mod.rs"]
mod support;

mod exec;
mod forgotten;
mod gc;
mod handed;
mod hook;
mod hostile;
mod lease;
mod leftover;
mod logs;
mod look;
mod machines;
mod prune;
mod reboot;
mod records;
mod steps;
mod stop;
mod wait;

use support::process::Process;
use support::world::World;

/// `jobcage create options…`: the id.
fn create(world: &World, options: &[&str]) -> String {
    let mut words = vec!["create"];
    words.extend(options);
    let id = world.call(&words).expect(0).text();
    assert!(
        id.parse::<jobcage_job::JobId>().is_ok_and(|id| id.is_generated()),
        "{id}"
    );
    id
}

/// A step that ends at once and leaves a process in the cage: that process.
fn leave_process(world: &World, id: &str) -> Process {
    let script = "sleep 300 > /dev/null 2>&1 & echo $!";
    let step = world.call(&["run", "--job", id, "--", "sh", "-c", script]);
    Process::open(step.expect(0).text().parse().unwrap())
}

/// `list --json` as id and state.
fn listed(world: &World) -> Vec<(String, String)> {
    let jobs = world.call(&["list", "--json"]).expect(0).json();
    let word = |job: &serde_json::Value, key: &str| job[key].as_str().unwrap_or_default().to_owned();
    let jobs = jobs.as_array().unwrap().iter();
    jobs.map(|job| (word(job, "job"), word(job, "state"))).collect()
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|w| (*w).to_owned()).collect()
}
