//! A detached job and its memory limit, which not every host can give.

use crate::support::needs::{Need, met};
use crate::support::world::World;
use jobcage_job::Ending;
use std::fs;

/// The kernel ends it, the report says so, and its after phase runs.
#[test]
fn a_detached_job_that_takes_too_much_is_ended() {
    if !met("detached-oom", &[Need::Controller("memory")]) {
        return;
    }
    let mut world = World::new("detached-oom");
    let after = "echo $JOBCAGE_RESULT $JOBCAGE_ENDING > after; echo after";
    let options = ["--memory", "64M", "--swap", "0", "--after", after];
    let job = world.detach(&options, &["tail", "/dev/zero"]);
    let report = job.wait_over();
    assert_eq!(report.ending, Ending::OutOfMemory, "{report:#?}");
    assert!(report.clean, "{report:#?}");
    assert_eq!(job.text("log-02"), "after\n");
    let told = fs::read_to_string(world.dir.join("after")).unwrap();
    assert_eq!(told, "failed out_of_memory\n");
    world.assert_nobody_left();
}
