//! Each limit: the kernel has it, it holds, and the report says what was asked and what is enforced.

use crate::support::needs::{Need, met};
use crate::support::world::World;
use crate::tools::{Ran, run};
use jobcage_job::{Ending, ExitStatus, Report, StepKind};

/// Prints files of the cgroup that carries the job's limits: the one above the leaf.
fn look(files: &str) -> String {
    format!(
        "m=$(awk '/ - cgroup2 /{{print $5; exit}}' /proc/self/mountinfo); \
         cd $m$(sed -n s/^0:://p /proc/self/cgroup)/.. && grep -H . {files} </dev/null"
    )
}

fn sh(world: &mut World, options: &[&str], script: &str) -> Ran {
    run(world, &[], options, &["sh", "-c", script])
}

/// What was asked of a file, what is enforced, and that no error stands there.
fn entry<'r>(report: &'r Report, file: &str) -> (&'r str, &'r str) {
    let limit = &report.limits[file];
    assert_eq!(limit.error, None, "{file}");
    (&limit.asked, limit.enforced.as_deref().expect("it is enforced"))
}

#[test]
fn each_limit_is_in_the_kernel_and_in_the_report() {
    let all = ["memory", "pids", "cpu", "cpuset"].map(Need::Controller);
    if !met("each_limit", &all) {
        return;
    }
    let mut world = World::new("limits");
    let options = [
        "--memory",
        "64M",
        "--memory-high",
        "48M",
        "--swap",
        "8M",
        "--pids",
        "50",
        "--cpu",
        "0.5",
        "--cpus",
        "0",
    ];
    let files = "memory.max memory.high memory.swap.max pids.max cpu.max cpuset.cpus";
    let ran = sh(
        &mut world,
        &options,
        &format!("{}; grep Cpus_allowed_list /proc/self/status", look(files)),
    );
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    for (file, value) in [
        ("memory.max", "67108864"),
        ("memory.high", "50331648"),
        ("memory.swap.max", "8388608"),
        ("pids.max", "50"),
        ("cpu.max", "50000 100000"),
        ("cpuset.cpus", "0"),
    ] {
        assert!(
            ran.stdout.contains(&format!("{file}:{value}\n")),
            "{file}: {}",
            ran.stdout
        );
        assert_eq!(entry(&ran.report, file), (value, value));
    }
    // What the job itself is told by sched_getaffinity(2).
    assert!(ran.stdout.contains("Cpus_allowed_list:\t0\n"), "{}", ran.stdout);
    world.assert_nothing_left();
}

#[test]
fn a_job_that_needs_too_much_memory_is_out_of_memory() {
    if !met("out_of_memory", &[Need::Controller("memory")]) {
        return;
    }
    let mut world = World::new("oom");
    // One line without an end is kept in memory by the main process itself.
    let ran = run(
        &mut world,
        &[],
        &["--memory", "48M", "--swap", "0"],
        &["tail", "/dev/zero"],
    );
    assert_eq!(ran.code, 137, "{}", ran.stderr);
    assert_eq!(ran.report.ending, Ending::OutOfMemory);
    assert_eq!(ran.report.status, Some(ExitStatus::Signal(9)));
    assert_eq!(ran.report.usage.oom_kills, Some(1));
    let summary = ran.stderr.lines().find(|line| line.contains("out of memory"));
    let summary = summary.unwrap_or_else(|| panic!("no summary: {}", ran.stderr));
    assert!(summary.contains("its limit is 48.0 MiB"), "{summary}");
    // memory.peak is there since 5.19.
    if let Some(peak) = ran.report.usage.memory_peak {
        assert!((40 << 20..=48 << 20).contains(&peak), "{peak}");
        assert!(summary.contains("its peak was 4"), "{summary}");
    }
    world.assert_nothing_left();
}

#[test]
fn a_child_out_of_memory_is_the_jobs_own_affair() {
    if !met("oom_of_a_child", &[Need::Controller("memory")]) {
        return;
    }
    let mut world = World::new("oom-child");
    let options = ["--memory", "48M", "--swap", "0"];
    let ran = sh(&mut world, &options, "tail /dev/zero; echo child=$?; exit 3");
    assert!(ran.stdout.contains("child=137"), "{}", ran.stdout);
    assert_eq!(ran.code, 3, "{}", ran.stderr);
    assert_eq!(ran.report.ending, Ending::Exited { code: 3 });
    assert_eq!(ran.report.usage.oom_kills, Some(1));
    world.assert_nothing_left();
}

#[test]
fn a_bomb_meets_pids_max() {
    if !met("pids_max", &[Need::Controller("pids")]) {
        return;
    }
    let mut world = World::new("pids");
    let zoo = world.zoo.display().to_string();
    let options = ["--pids", "30"];
    let ran = run(
        &mut world,
        &[],
        &options,
        &[&zoo, "bomb", "--exit", "5", "tree", "200"],
    );
    assert_eq!(ran.code, 5, "{} {}", ran.stdout, ran.stderr);
    assert!(
        ran.report.usage.forks_refused.is_some_and(|n| n >= 100),
        "{:?}",
        ran.report.usage
    );
    assert!(
        ran.report.usage.pids_peak.is_none_or(|n| n == 30),
        "{:?}",
        ran.report.usage
    );
    assert!(ran.report.census.count <= 30, "{}", ran.report.census.count);
    world.assert_nothing_left();
}

#[test]
fn a_share_of_cpu_throttles() {
    if !met("cpu_max", &[Need::Controller("cpu")]) {
        return;
    }
    let mut world = World::new("cpu");
    let options = ["--cpu", "10%", "--timeout", "3s", "--grace", "0"];
    let ran = sh(&mut world, &options, "while :; do :; done");
    assert_eq!(ran.code, 124, "{}", ran.stderr);
    let usage = &ran.report.usage;
    assert!(usage.throttled_us.is_some_and(|us| us > 500_000), "{usage:?}");
    // A tenth of the time, and a slice more for what is accounted late.
    let allowed = ran.report.wall_seconds * 1e6 * 0.1 + 300_000.0;
    assert!(usage.cpu_us.is_some_and(|us| (us as f64) < allowed), "{usage:?}");
    world.assert_nothing_left();
}

#[test]
fn io_limits_find_their_device() {
    if !met("io_max", &[Need::Controller("io")]) {
        return;
    }
    let mut world = World::new("io");
    // The device of a file system, by a directory on it.
    let ran = sh(&mut world, &["--io", "/:rbps=10M,wiops=200"], &look("io.max"));
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let (asked, enforced) = entry(&ran.report, "io.max /");
    assert_eq!(asked, "/ rbps=10485760 wiops=200");
    assert!(
        enforced.ends_with("rbps=10485760 wbps=max riops=max wiops=200"),
        "{enforced}"
    );
    assert!(ran.stdout.contains(enforced), "{}", ran.stdout);
    world.assert_nothing_left();
}

#[test]
fn the_after_phase_is_outside_of_the_limits() {
    if !met("after_unlimited", &["memory", "pids"].map(Need::Controller)) {
        return;
    }
    let mut world = World::new("after");
    let marker = world.dir.join("after.txt");
    // 20 MiB and 12 processes: neither would fit.
    let script = format!(
        "x=$(head -c 20000000 /dev/zero | tr '\\0' x); for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 30 & done; \
         echo ${{#x}} $JOBCAGE_ENDING > {}",
        marker.display()
    );
    let options = [
        "--memory", "12M", "--swap", "0", "--pids", "8", "--after", &script,
    ];
    let ran = run(&mut world, &[], &options, &["tail", "/dev/zero"]);
    assert_eq!(ran.report.ending, Ending::OutOfMemory, "{}", ran.stderr);
    assert_eq!(
        std::fs::read_to_string(&marker).unwrap_or_default(),
        "20000000 out_of_memory\n",
        "{}",
        ran.stderr
    );
    let after = ran
        .report
        .steps
        .iter()
        .find(|step| step.kind == StepKind::After)
        .unwrap();
    assert_eq!(after.status, Some(ExitStatus::Code(0)));
    assert!(ran.report.census.count >= 12, "{:?}", ran.report.census);
    world.assert_nothing_left();
}

/// Runs a job with a limit that cannot be, strictly and with best effort.
fn cannot(test: &str, options: &[&str], file: &str, why: &str) {
    let mut world = World::new(test);
    let out = world.jobcage(&[], &[&["run"], options, &["--", "echo", "it ran"]].concat());
    let stderr = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(125), "{stderr}");
    assert_eq!(out.stdout, b"", "the command ran all the same");
    assert!(
        stderr.starts_with("jobcage: ") && stderr.contains(why) && stderr.contains("jobcage doctor"),
        "{stderr}"
    );
    world.assert_nothing_left();

    let ran = run(
        &mut world,
        &[],
        &[&["--best-effort"], options].concat(),
        &["echo", "it ran"],
    );
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "it ran\n"), "{}", ran.stderr);
    let limit = &ran.report.limits[file];
    assert_eq!(limit.enforced, None);
    assert!(
        limit.error.as_ref().is_some_and(|error| error.contains(why)),
        "{limit:?}"
    );
    assert!(
        ran.stderr.contains(file),
        "stderr names no {file}: {}",
        ran.stderr
    );
    world.assert_nothing_left();
}

#[test]
fn a_limit_that_the_kernel_refuses_is_an_error_or_is_named() {
    if !met("refused_limit", &[Need::Controller("cpuset")]) {
        return;
    }
    // No machine of these tests has that processor: the kernel's own list cannot even hold it.
    cannot(
        "no-such-cpu",
        &["--cpus", "99999"],
        "cpuset.cpus",
        "this host has no such processor",
    );
}

#[test]
fn a_controller_that_is_not_there_is_an_error_or_is_named() {
    // On a hybrid host v1 has the controllers; elsewhere a root is made that hands none on.
    let test = "no-controller";
    if crate::support::cgroup::has_controller("memory") {
        let mut world = World::new(test);
        let bare = world.cgroup_root.join("bare");
        std::fs::create_dir(&bare).unwrap();
        let root = bare.join("root");
        std::fs::create_dir(&root).unwrap();
        let place = root.display().to_string();
        let options = ["--cgroup-root", &place, "--memory", "32M"];
        let out = world.jobcage(&[], &[&["run"], &options[..], &["--", "true"]].concat());
        let stderr = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(125), "{stderr}");
        assert!(stderr.contains("enable the controller \"memory\""), "{stderr}");
        let ran = run(
            &mut world,
            &[],
            &[&["--best-effort"], &options[..]].concat(),
            &["true"],
        );
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        assert!(ran.report.limits["memory.max"].error.is_some() && ran.stderr.contains("memory.max"));
    } else {
        cannot(
            test,
            &["--memory", "32M"],
            "memory.max",
            "enable the controller \"memory\"",
        );
    }
}
