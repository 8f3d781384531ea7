//! What a process inherits beside its files: session and group, signal dispositions and mask, umask, and its cgroup.

use crate::support::call::Done;
use crate::support::process;
use crate::support::world::World;
use std::collections::BTreeMap;

/// Lines `Key: value` of a status file.
fn fields(text: &str) -> BTreeMap<String, String> {
    let pairs = text.lines().filter_map(|l| l.split_once(':'));
    pairs
        .map(|(key, value)| (key.to_owned(), value.trim().to_owned()))
        .collect()
}

/// `/proc/self/status` of a command, under `wrap` alone and as a job under `wrap`.
fn statuses(world: &World, wrap: &str) -> [BTreeMap<String, String>; 2] {
    let bare = world.shell(&format!("{wrap} cat /proc/self/status")).expect(0);
    let job = world
        .shell(&format!("{wrap} \"$JOBCAGE\" run -- cat /proc/self/status"))
        .expect(0);
    [bare, job].map(|done: Done| fields(&done.text()))
}

#[test]
fn signals_are_as_the_caller_left_them() {
    let world = World::new("signal-state");
    for wrap in [
        "",
        "nohup",
        "trap '' INT QUIT; ",
        "trap '' HUP TERM USR1 TSTP; ",
        "env --block-signal=USR1,WINCH",
        "env --block-signal=TERM,INT,HUP,CHLD,QUIT,USR2",
        "env --ignore-signal=TERM,CONT --block-signal=CONT",
    ] {
        let [bare, job] = statuses(&world, wrap);
        for key in ["SigBlk", "SigIgn", "SigCgt", "SigPnd", "ShdPnd"] {
            assert_eq!(bare[key], job[key], "{key} under {wrap:?}");
        }
    }
    // SIGPIPE: ignored by the runtime of Rust, but not for the command.
    let [_, job] = statuses(&world, "");
    let ignored = u64::from_str_radix(&job["SigIgn"], 16).unwrap();
    assert_eq!(ignored & (1 << 12), 0, "SIGPIPE is ignored: {ignored:x}");
}

#[test]
fn with_nohup_a_hangup_is_nothing() {
    let mut world = World::new("nohup");
    let script = "trap 'echo hup' HUP; echo up; read line < go; echo $line";
    world.fifo("go");
    let mut job = world.run(
        &["nohup".to_owned()],
        &[],
        &["sh", "-c", script].map(str::to_owned),
    );
    assert!(job.wait_line("up"));
    job.signal(nix::sys::signal::Signal::SIGHUP);
    let _held = world.say_into("go", "went on");
    assert_eq!(job.wait(crate::support::PATIENCE), 0, "{}", job.stderr());
    assert!(job.output_ended(crate::support::PATIENCE));
    assert_eq!(job.stdout(), "up\nwent on\n");
}

#[test]
fn session_group_umask_and_the_rest_are_the_callers() {
    let world = World::new("session");
    let show = "cut -d' ' -f5,6 /proc/$$/stat; umask; cat /proc/self/oom_score_adj; ulimit -c; cat /proc/self/timerslack_ns";
    std::fs::write(world.dir.join("show"), show).unwrap();
    let bare = world
        .shell("umask 027; ulimit -c 0; setsid -w sh show")
        .expect(0)
        .text();
    let job = world
        .shell("umask 027; ulimit -c 0; setsid -w \"$JOBCAGE\" run -- sh show")
        .expect(0)
        .text();
    let rest = |text: &str| text.lines().skip(1).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(rest(&bare), rest(&job));
    // Session and group are those of jobcage, which setsid has made a leader: neither is the command's own.
    let ids: Vec<&str> = job.lines().next().unwrap().split(' ').collect();
    assert_eq!(ids[0], ids[1], "{job}");
    let done = world
        .shell("exec \"$JOBCAGE\" run -- sh -c 'echo $PPID $$; cut -d\" \" -f5 /proc/$$/stat'")
        .expect(0);
    let text = done.text();
    let numbers: Vec<&str> = text.split_whitespace().collect();
    assert_ne!(numbers[1], numbers[2], "the command leads no group: {text}");
}

#[test]
fn it_is_in_a_leaf_of_its_own_cage() {
    let world = World::new("leaf");
    let done = world
        .finish(
            &[],
            &[
                "sh",
                "-c",
                "sed -n 's/^0:://p' /proc/self/cgroup; echo $JOBCAGE_JOB",
            ],
        )
        .expect(0);
    let text = done.text();
    let (cgroup, job) = text.split_once('\n').unwrap();
    let report = done.report();
    assert_eq!(job, report.job.as_str());
    let mount = crate::support::cgroup::mount().unwrap();
    let cage = std::path::Path::new(&report.cage);
    assert_eq!(cage, world.cgroup_root.join(job));
    let inside = std::path::Path::new(cgroup.trim_start_matches('/'));
    assert_eq!(mount.join(inside).parent(), Some(cage), "{cgroup}");
    // We ourselves are where we were.
    let me = process::cgroup_of(i32::try_from(std::process::id()).unwrap()).unwrap();
    assert!(!cgroup.starts_with(&format!("{me}/01")), "{cgroup}");
    world.assert_clean();
}

#[test]
fn a_job_that_makes_cgroups_in_its_leaf_loses_them() {
    let mut world = World::new("own-cgroups");
    let script = "cg=$(sed -n 's/^0:://p' /proc/self/cgroup); cd \"$MOUNT$cg\"; mkdir -p a/b/c; \
                  sleep 300 & echo $! > a/b/c/cgroup.procs; exit 0";
    let mount = crate::support::cgroup::mount().unwrap();
    let done = world
        .finish(
            &["--env", &format!("MOUNT={}", mount.display())],
            &["sh", "-c", script],
        )
        .expect(0);
    assert_eq!(done.report().census.count, 1, "{}", done.told());
    world.assert_clean();
    world.assert_nothing_left();
}
