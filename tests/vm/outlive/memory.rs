//! A detached job and its memory limit, which not every host can give.

use crate::runner::{self, Runner};
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

/// The job log names who died of it, also where the shell goes on; with the facts.
#[test]
fn a_stage_of_gitlab_is_told_what_it_lost_for_memory() {
    if !met("gitlab-oom", &[Need::Controller("memory")]) {
        return;
    }
    let Some(mut world) = runner::world("gitlab-oom") else {
        return;
    };
    {
        let mut job = Runner::new(&world, 90);
        job.host.push(("JOBCAGE_MEMORY", "64M".into()));
        job.host.push(("JOBCAGE_SWAP", "0".into()));
        assert_eq!(job.call("prepare", &[]).code, 0);
        let ended = job.stage("build_script", "tail /dev/zero || echo tail: $?");
        assert_eq!(ended.code, 0, "{}", ended.log);
        assert!(ended.log.contains("tail: 137"), "{}", ended.log);
        let told = ended.log.lines().find(|line| line.contains("out of memory"));
        let told = told.unwrap_or_else(|| panic!("{}", ended.log));
        assert!(
            told.contains("killed 1 process of this stage: tail (pid "),
            "{told}"
        );
        assert!(told.contains("the job's limit is 64.0 MiB, its peak 6"), "{told}");
        assert_eq!(job.call("cleanup", &[]).code, 0);
    }
    world.assert_nothing_left();
}
