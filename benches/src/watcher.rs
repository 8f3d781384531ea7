//! jobcage's watcher. The first job that finds none starts it, in the leaf `hold`; so one job is run before anything is
//! measured, as on a host where jobs run all day.

use crate::Result;
use crate::ground::Ground;
use crate::tools::Tools;
use std::fs;

/// Runs that first job, which also shows that jobcage works at all.
pub fn wake(tools: &Tools) -> Result<()> {
    let mut command = tools.jobcage(&[], &["busybox", "true"])?;
    let why =
        |why| format!("jobcage cannot run `busybox true`: {why}; --without-jobcage measures the others");
    tools
        .time(&mut command)
        .map(drop)
        .map_err(|error| why(error).into())
}

/// The processes in `hold`: no part of any job, so they are not counted as one.
pub fn pids(ground: &Ground) -> Vec<i32> {
    let list = fs::read_to_string(ground.cgroup.join("jobcage/hold/cgroup.procs")).unwrap_or_default();
    list.lines().filter_map(|line| line.parse().ok()).collect()
}
