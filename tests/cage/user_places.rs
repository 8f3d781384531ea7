//! Where the cages of a user without privileges stand: a delegated cgroup, or a scope that the user's manager makes.

use crate::places::{free, in_vm, jobcage, output, settings, succeed};
use crate::support::process::cgroup_of;
use crate::support::world::World;
use crate::support::{job::read_report, say};
use crate::tools::run;
use jobcage_job::{Ending, FoundBy, Report};
use std::path::Path;
use std::process::Command;

const LIMITS: [&str; 8] = ["--cpu", "0.5", "--memory", "48M", "--swap", "0", "--pids", "20"];

/// `systemd-run --user words… jobcage run --report FILE more…`: its exit code, stderr and report.
fn by_user_manager(world: &World, words: &[&str], more: &[&str]) -> (i32, String, Report) {
    let report = world.dir.join("report.json").display().to_string();
    let mut command = free(world, "systemd-run", &["--user", "--quiet", "--collect"]);
    command.args(words);
    if !words.contains(&"--scope") {
        // A service has the environment of the manager, a scope ours.
        command.args(["--wait", "--pipe"]).args(settings(world));
    }
    command
        .args(["--", &jobcage(), "run", "--report", &report])
        .args(more);
    let (code, stdout, stderr) = output(command);
    assert!(Path::new(&report).exists(), "{code}: {stdout}{stderr}");
    (code, stderr, read_report(Path::new(&report)))
}

fn has_limits(report: &Report) {
    for (file, value) in [
        ("cpu.max", "50000 100000"),
        ("memory.max", "50331648"),
        ("memory.swap.max", "0"),
        ("pids.max", "20"),
    ] {
        assert_eq!(
            report.limits[file].enforced.as_deref(),
            Some(value),
            "{file}: {report:#?}"
        );
    }
}

#[test]
fn a_delegated_scope_takes_cages_with_limits() {
    if !in_vm("delegated_scope", false) {
        return;
    }
    let world = World::new("delegated-scope");
    let words = ["--scope", "--property=Delegate=yes"];
    let (code, stderr, report) = by_user_manager(
        &world,
        &words,
        &[&LIMITS[..], &["--", "tail", "/dev/zero"]].concat(),
    );
    assert_eq!((code, &report.ending), (137, &Ending::OutOfMemory), "{stderr}");
    assert!(report.clean, "{report:#?}");
    has_limits(&report);
    let root = report.root.unwrap();
    assert_eq!(root.kind, "delegated", "{root:?}");
    assert!(
        root.path.contains("/user@") && root.path.ends_with(".scope"),
        "{root:?}"
    );
}

#[test]
fn what_systemd_has_not_delegated_is_left_to_it() {
    if !in_vm("not_delegated", false) {
        return;
    }
    let world = World::new("not-delegated");
    // The directory of every unit belongs to the user; that alone is no delegation.
    let (code, stderr, report) = by_user_manager(&world, &[], &[&LIMITS[..], &["--", "true"]].concat());
    assert_eq!(code, 0, "{stderr}");
    assert!(report.clean, "{report:#?}");
    has_limits(&report);
    let root = report.root.unwrap();
    assert_eq!(root.kind, "user-scope", "{root:?}");
    assert!(root.path.contains("/app.slice/jobcage-"), "{root:?}");
}

#[test]
fn a_cage_that_would_vanish_is_refused() {
    if !in_vm("user_create", false) {
        return;
    }
    let world = World::new("user-create");
    let mut command = free(
        &world,
        "systemd-run",
        &["--user", "--quiet", "--collect", "--wait", "--pipe"],
    );
    command.args(settings(&world)).args(["--", &jobcage(), "create"]);
    let (code, stdout, stderr) = output(command);
    assert_eq!((code, stdout.as_str()), (125, ""), "{stderr}");
    assert!(stderr.contains("has to outlive this process"), "{stderr}");
}

#[test]
fn a_delegated_cgroup_with_others_in_it_takes_no_limits() {
    if !in_vm("delegated_busy", false) {
        return;
    }
    // The guest's `as-user` has put this test into a leaf of a delegated service.
    let world = World::new("delegated-busy");
    let bin = jobcage();
    let report = world.dir.join("report.json").display().to_string();
    succeed(free(&world, &bin, &["run", "--report", &report, "--", "true"]));
    let root = read_report(Path::new(&report)).root.unwrap();
    assert_eq!(root.kind, "delegated", "{root:?}");
    let own = cgroup_of(i32::try_from(std::process::id()).unwrap()).unwrap();
    assert!(root.path.ends_with(&own), "{root:?}");
    let (code, _, stderr) = output(free(&world, &bin, &["run", "--memory", "32M", "--", "true"]));
    assert_eq!(code, 125, "{stderr}");
    assert!(stderr.contains("processes are in this very cgroup"), "{stderr}");
    world.kill_watchers();
}

#[test]
fn a_login_session_gets_a_scope() {
    if !in_vm("login_session", true) {
        return;
    }
    // Only root can log somebody in without a password. The cages are those of tester, in its own places.
    let login = |script: &str| {
        let mut command = Command::new("su");
        command.args(["-", "tester", "-c", script]);
        output(command)
    };
    let bin = jobcage();
    let limits = LIMITS.join(" ");
    let (code, stdout, stderr) = login(&format!(
        "export XDG_RUNTIME_DIR=/run/user/1000; {bin} run {limits} -- sh -c 'cat /proc/self/cgroup; exit 6'"
    ));
    assert_eq!(code, 6, "{stdout}{stderr}");
    assert!(
        stdout.contains("/user@1000.service/app.slice/jobcage-"),
        "{stdout}"
    );
    let (code, stdout, stderr) = login(&format!("unset XDG_RUNTIME_DIR; {bin} run -- echo it ran"));
    assert_eq!((code, stdout.as_str()), (125, ""), "{stderr}");
    assert!(
        stderr.contains("XDG_RUNTIME_DIR is not set") && stderr.contains("there is no cgroup for this user"),
        "{stderr}"
    );
}

#[test]
fn a_named_root_is_used_as_it_is() {
    let mut world = World::new("named");
    let ran = run(&mut world, &[], &[], &["cat", "/proc/self/cgroup"]);
    let root = ran.report.root.unwrap();
    assert_eq!(
        (root.kind.as_str(), root.path),
        ("configured", world.cgroup_root.display().to_string())
    );
    // One that is not there is made, where its parent is a cgroup.
    let below = world.cgroup_root.join("made").display().to_string();
    let ran = run(&mut world, &[], &["--cgroup-root", &below], &["true"]);
    assert_eq!((ran.code, ran.report.root.unwrap().path), (0, below.clone()));
    assert!(Path::new(&below).is_dir());
    let elsewhere = world.dir.display().to_string();
    for wrong in [elsewhere.clone(), format!("{elsewhere}/none")] {
        let out = world.jobcage(&[], &["run", "--cgroup-root", &wrong, "--", "echo", "it ran"]);
        let stderr = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(
            (out.status.code(), out.stdout.as_slice()),
            (Some(125), &b""[..]),
            "{stderr}"
        );
        assert!(stderr.contains(&wrong) && stderr.contains("cgroup2"), "{stderr}");
    }
}

/// A job of the same user can leave by itself: no privilege stands in its way. It is found and named.
#[test]
fn what_leaves_is_named_as_escaped() {
    let mut world = World::new("leaves");
    std::fs::create_dir(&world.outside).unwrap();
    let (zoo, outside) = (
        world.zoo.display().to_string(),
        world.outside.display().to_string(),
    );
    let ran = run(
        &mut world,
        &[],
        &[],
        &[&zoo, "leave-by-itself", "--exit", "0", &outside],
    );
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let escape = ran
        .report
        .escaped
        .first()
        .unwrap_or_else(|| panic!("nobody is named: {:#?}", ran.report));
    assert!(
        matches!(&escape.found, FoundBy::Descendant(place) if outside.ends_with(place.as_str())),
        "{escape:?}"
    );
    let pid = escape.process.as_ref().unwrap().pid;
    assert!(ran.stderr.contains(&format!("pid {pid}")), "{}", ran.stderr);
    say(&format!("cage: pid {pid} left, was named and killed"));
    world.assert_nothing_left();
}
