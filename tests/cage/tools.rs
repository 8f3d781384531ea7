//! What the tests of the cage share.

use crate::support::PATIENCE;
use crate::support::cgroup;
use crate::support::job::{Job, Ready};
use crate::support::world::World;
use jobcage_cage::Dir;
use jobcage_job::Report;
use std::path::Path;

/// Words as the helpers of `support` take them.
pub fn words(given: &[&str]) -> Vec<String> {
    given.iter().map(|word| (*word).to_owned()).collect()
}

/// Starts an animal in the cgroup `outside` of a world, and waits until it is what it says.
pub fn settle(world: &mut World, animal: &[&str]) -> (Job, Ready) {
    let mut command = world.command(&world.zoo);
    command
        .arg("in-cgroup")
        .arg(&world.outside)
        .arg(&world.zoo)
        .args(animal);
    world.phase(format!("starting {command:?}"));
    let stderr = world.dir.join(format!("stderr-{}", animal[0]));
    let mut job = Job::start(command, world.dir.join("none"), stderr);
    let ready = job
        .wait_ready()
        .unwrap_or_else(|| panic!("{animal:?} is not ready: {}", job.stderr()));
    (job, ready)
}

/// Opens the cgroup `outside` of a world.
pub fn outside(world: &World) -> Dir {
    Dir::open(&world.outside).expect("the cgroup is there")
}

/// What came of a job that has run to its end.
pub struct Ran {
    /// What jobcage returned.
    pub code: i32,
    /// The report.
    pub report: Report,
    /// What the job wrote.
    pub stdout: String,
    /// What jobcage and the job wrote for a person.
    pub stderr: String,
}

/// Runs `wrap… jobcage run options… -- argv…` to its end, and reads its report.
pub fn run(world: &mut World, wrap: &[&str], options: &[&str], argv: &[&str]) -> Ran {
    let mut job = world.run(&words(wrap), &words(options), &words(argv));
    let code = job.wait(3 * PATIENCE);
    job.output_ended(PATIENCE);
    assert!(
        job.report_file.exists(),
        "jobcage returned {code} without a report: {}",
        job.stderr()
    );
    Ran {
        code,
        report: job.report(),
        stdout: job.stdout(),
        stderr: job.stderr(),
    }
}

/// The processes in a cgroup and below it, as the kernel lists them, sorted.
pub fn everybody(dir: &Path) -> Vec<i32> {
    let mut pids: Vec<i32> = cgroup::below(dir).iter().flat_map(|d| cgroup::pids(d)).collect();
    pids.sort_unstable();
    pids
}
