//! `--guest-hook`: the site's own program at the end of a job.

use crate::create;
use crate::support::call::Done;
use crate::support::job::Job;
use crate::support::needs::{Need, met};
use crate::support::process::Process;
use crate::support::world::World;
use crate::support::{PATIENCE, programs};
use jobcage_job::{Outcome, Report};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

/// Writes the hook of a world: this script, started in the world's directory.
fn hook(world: &World, script: &str) -> String {
    let path = world.dir.join("hook");
    let new = world.dir.join("hook.new");
    let dir = world.dir.display();
    fs::write(
        &new,
        format!("#!/bin/sh\ncd {dir} && echo call >> calls\n{script}\n"),
    )
    .unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(&new, &path).unwrap();
    path.display().to_string()
}

fn read(world: &World, name: &str) -> String {
    fs::read_to_string(world.dir.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn calls(world: &World) -> usize {
    read(world, "calls").lines().count()
}

/// What the hook has left, by the report: its name and the reason.
fn left(report: &Report) -> Vec<(&str, &str)> {
    let left = report.guests.iter().filter(|guest| guest.is_left());
    left.map(|guest| (guest.what.as_str(), guest.why.as_deref().unwrap_or_default()))
        .collect()
}

/// A job that ended well, and of which the hook has left something.
#[track_caller]
fn failed(world: &World, done: Done, why: &str) {
    let done = done.expect(125);
    let report = done.report();
    let found = left(&report);
    assert!(
        !report.clean && found.len() == 1 && found[0].0 == "hook" && found[0].1.contains(why),
        "{found:?} {}",
        done.told()
    );
    let line = format!("the guest hook {:?}: LEFT: ", world.dir.join("hook"));
    assert!(done.told().contains(&line), "{}", done.told());
}

/// gc has the hook do its work, once, and there is nothing more to do.
#[track_caller]
fn gc_gives_back(world: &mut World) {
    let before = calls(world);
    hook(world, r#"echo '{"what":"port","name":"7","outcome":"deleted"}'"#);
    let done = world.call(&["gc", "--json"]).expect(0).json();
    assert_eq!(done[0]["result"], json!("released"), "{done:#}");
    let guests = &done[0]["detail"]["guests"];
    assert_eq!(
        (&guests[0]["what"], guests.as_array().unwrap().len()),
        (&json!("port"), 1)
    );
    assert_eq!(world.call(&["gc", "--json"]).expect(0).json(), json!([]));
    assert_eq!(calls(world), before + 1);
    world.assert_nothing_left();
}

#[test]
fn it_is_called_once_with_the_job_and_its_entries_are_in_the_report() {
    let mut world = World::new("hook");
    let path = hook(
        &world,
        r#"cat > seen; printf '%s\n' "$@" > words; tr '\0' '\n' < /proc/$$/environ | sort > environ
        cat /proc/self/cgroup > cgroup; id -u > uid; ls -d guests-dir 2> /dev/null
        echo '{"what":"port","name":"a\u001b[1m","id":"sw1","outcome":"deleted","bytes":2048}'
        echo 'said by the way'; echo complaint >&2"#,
    );
    let config = format!("[run]\nguest_hook = [{path:?}, '--all', 'a b']\n");
    fs::write(world.dir.join("config.toml"), config).unwrap();
    world.fifo("up");
    let script = "sh -c 'echo up > up; sleep 300; true' > /dev/null 2>&1 & read word < up";
    let options = ["--guests", "off", "--env", "SECRET=value", "--name", "web"];
    let done = world.finish(&options, &["sh", "-c", script]).expect(0);
    let report = done.report();
    assert_eq!((calls(&world), read(&world, "words")), (1, "--all\na b\n".into()));
    let mut seen: Value = serde_json::from_str(&read(&world, "seen")).unwrap();
    let census = seen["census"].take();
    let programs: Vec<&Value> = census["left"]
        .as_array()
        .unwrap()
        .iter()
        .map(|left| &left["command"])
        .collect();
    assert!(
        programs[0] == "sh" && census["count"].as_u64() == Some(programs.len() as u64),
        "{census:#}"
    );
    for secret in ["SECRET", "value", "sleep 300"] {
        assert!(!read(&world, "seen").contains(secret), "{census:#}");
    }
    let uid = nix::unistd::getuid().as_raw();
    let home = world.dir.join("home");
    let expected = json!({"job": report.job, "name": "web", "uid": uid, "home": home, "cage": report.cage,
                          "labels": {}, "census": null});
    assert_eq!(seen, expected);
    let environ = read(&world, "environ");
    let names: Vec<&str> = environ
        .lines()
        .filter_map(|line| Some(line.split_once('=')?.0))
        .collect();
    assert_eq!(names, ["LC_ALL", "PATH"], "{environ}");
    assert!(read(&world, "cgroup").contains(&format!("/guests/{}", report.job)));
    assert_eq!(read(&world, "uid").trim(), uid.to_string());
    let [entry] = report.guests.as_slice() else {
        panic!("{:#?}", report.guests)
    };
    assert_eq!(
        (entry.kind.as_str(), entry.what.as_str(), entry.outcome),
        ("exec", "port", Outcome::Deleted)
    );
    assert_eq!((entry.id.as_deref(), entry.bytes), (Some("sw1"), 2048));
    let line = r#"guest hook: port "a\u{1b}[1m" {sw1}: deleted, 2.0 KiB freed"#;
    assert!(done.told().contains(line), "{}", done.told());
    let note = "the guest hook's output: 1 line is no entry; line 2: it is no JSON object";
    assert!(report.notes.iter().any(|told| told == note), "{:?}", report.notes);
    world.assert_nothing_left();
    world.assert_clean();
}

#[test]
fn one_that_fails_leaves_the_job_open_for_gc() {
    let mut world = World::new("hook-fails");
    let path = hook(
        &world,
        r#"echo '{"what":"port","name":"7","outcome":"deleted"}'; echo boom >&2; exit 3"#,
    );
    let done = world.finish(&["--guest-hook", &path], &["true"]);
    failed(&world, done, "it ended with the code 3: boom");
    // Nothing has changed: it stays open.
    world.call(&["gc"]).expect(0);
    assert_eq!(calls(&world), 2);
    gc_gives_back(&mut world);
}

#[test]
fn what_it_says_is_left_is_tried_again() {
    let mut world = World::new("hook-left");
    let path = hook(
        &world,
        r#"echo '{"what":"disk","name":"/","outcome":"left","why":"busy"}'"#,
    );
    let done = world.finish(&["--guest-hook", &path], &["true"]).expect(125);
    assert_eq!(left(&done.report()), [("disk", "busy")]);
    gc_gives_back(&mut world);
}

#[test]
fn one_that_hangs_or_is_deaf_is_killed_and_tried_again() {
    for (name, script) in [
        ("hook-hangs", "exec sleep 300"),
        ("hook-deaf", "trap '' TERM INT HUP; while :; do sleep 300; done"),
    ] {
        let mut world = World::new(name);
        let path = hook(&world, &format!("echo $$ > pid; {script}"));
        let done = world.finish(&["--guest-hook", &path, "--guest-timeout", "2s"], &["true"]);
        failed(&world, done, "has not ended within");
        assert!(Process::open(read(&world, "pid").trim().parse().unwrap()).has_ended());
        gc_gives_back(&mut world);
    }
}

#[test]
fn one_that_prints_for_ever_is_killed() {
    let mut world = World::new("hook-loud");
    for stream in ["1", "2"] {
        let path = hook(&world, &format!("exec yes 0123456789 >&{stream}"));
        let done = world.finish(&["--guest-hook", &path], &["true"]);
        failed(&world, done, "said more than 4 MiB");
        gc_gives_back(&mut world);
    }
}

#[test]
fn one_that_is_not_there_is_told_of() {
    let mut world = World::new("hook-missing");
    let path = world.dir.join("hook").display().to_string();
    fs::write(world.dir.join("calls"), "").unwrap();
    let done = world.finish(&["--guest-hook", &path], &["true"]);
    failed(&world, done, "it did not start");
    gc_gives_back(&mut world);
}

#[test]
fn what_it_leaves_in_its_background_ends_with_it() {
    let mut world = World::new("hook-daemon");
    let daemon = "setsid sleep 300 > /dev/null 2>&1 & echo $! > daemon; sleep 300 & echo $! > holder";
    let path = hook(&world, daemon);
    let done = world.finish(&["--guest-hook", &path], &["true"]).expect(0);
    assert!(done.report().clean);
    for name in ["daemon", "holder"] {
        assert!(
            Process::open(read(&world, name).trim().parse().unwrap()).has_ended(),
            "{name}"
        );
    }
    world.assert_nothing_left();
}

#[test]
fn gc_runs_it_again_where_jobcage_was_killed_meanwhile() {
    let mut world = World::new("hook-killed");
    world.fifo("up");
    let path = hook(&world, "echo $$ > up; exec sleep 300");
    let id = create(&world, &["--guest-hook", &path]);
    let mut command = world.command(programs::jobcage());
    command.args(["cleanup", &id]);
    let mut cleanup = Job::start(command, PathBuf::new(), world.dir.join("stderr-cleanup"));
    let first = Process::open(read(&world, "up").trim().parse().unwrap());
    cleanup.signal(Signal::SIGKILL);
    assert_eq!(cleanup.wait(PATIENCE), 137);
    assert!(!first.has_ended());
    hook(&world, r#"echo '{"what":"port","name":"7","outcome":"deleted"}'"#);
    world.call(&["gc"]).expect(0);
    assert!(first.has_ended(), "the first one lives beside the second");
    assert_eq!(calls(&world), 2);
    let shown = world.call(&["show", &id, "--json"]).expect(0).json();
    assert_eq!(shown["report"]["guests"][0]["what"], json!("port"), "{shown:#}");
    world.assert_nothing_left();
}

#[test]
fn a_later_boot_knows_it() {
    let mut world = World::new("hook-boot");
    let path = hook(
        &world,
        r#"cat > seen; echo '{"what":"port","name":"7","outcome":"deleted"}'"#,
    );
    let id = create(&world, &["--guest-hook", &path]);
    world.call(&["run", "--job", &id, "--", "true"]).expect(0);
    let cage = world.cages()[0].clone();
    let spec = world.dir.join("state").join(&id).join("spec.json");
    let text = fs::read_to_string(&spec).unwrap();
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let earlier = text.replace(boot.trim(), "00000000-0000-4000-8000-000000000000");
    fs::write(&spec, earlier).unwrap();
    world.call(&["gc"]).expect(0);
    assert_eq!(calls(&world), 1);
    let seen: Value = serde_json::from_str(&read(&world, "seen")).unwrap();
    assert_eq!((&seen["job"], &seen["census"]["count"]), (&json!(id), &json!(0)));
    fs::remove_dir(cage.join("01-step")).ok();
    fs::remove_dir(&cage).unwrap();
    world.assert_nothing_left();
}

/// Until the first job of a boot nobody has made the cgroup in which cages are. Then the host's own is taken, as by any gc at its start: for a
/// moment a cgroup of this test is there.
#[test]
fn a_later_boot_needs_no_cgroup_of_the_earlier_one() {
    if !met("a_later_boot_needs_no_cgroup_of_the_earlier_one", &[Need::Root]) {
        return;
    }
    let mut world = World::new("hook-root");
    let path = hook(&world, "cat /proc/self/cgroup > cgroup; exit 1");
    let id = create(&world, &["--guest-hook", &path]);
    let cage = world.cages()[0].clone();
    let spec = world.dir.join("state").join(&id).join("spec.json");
    let mut earlier: Value = serde_json::from_str(&fs::read_to_string(&spec).unwrap()).unwrap();
    earlier["boot_id"] = json!("00000000-0000-4000-8000-000000000000");
    earlier["cage"] = json!(world.cgroup_root.join("gone").join(&id));
    fs::write(&spec, earlier.to_string()).unwrap();
    world.call(&["gc"]).expect(0);
    let place = read(&world, "cgroup");
    assert!(place.contains(&format!("/guests/{id}")), "{place}");
    fs::remove_dir(&cage).unwrap();
    gc_gives_back(&mut world);
}

/// Whoever comes next is started by the watcher, and ends what the first has left.
#[test]
fn a_captured_job_whose_supervisor_is_killed_meanwhile_has_it_run_again() {
    let mut world = World::new("hook-captured");
    world.fifo("up");
    let path = hook(&world, "echo $$ > up; exec sleep 300");
    let started = world.finish(&["--detach", "--guest-hook", &path], &["true"]);
    let id = started.expect(0).text();
    let first = Process::open(read(&world, "up").trim().parse().unwrap());
    let shown = world.call(&["show", &id, "--json"]).expect(0).json();
    let supervisor = shown["supervisor"]
        .as_i64()
        .unwrap_or_else(|| panic!("{shown:#}"));
    hook(&world, r#"echo '{"what":"port","name":"7","outcome":"deleted"}'"#);
    Process::open(i32::try_from(supervisor).unwrap()).signal(Signal::SIGKILL);
    world.call(&["wait", &id]).expect(0);
    assert!(first.has_ended(), "the first one lives beside the second");
    assert_eq!(calls(&world), 2);
    let shown = world.call(&["show", &id, "--json"]).expect(0).json();
    assert_eq!(shown["report"]["guests"][0]["what"], json!("port"), "{shown:#}");
    world.assert_nothing_left();
    world.assert_clean_after_gc();
}

#[test]
fn it_waits_until_the_last_process_is_dead() {
    if !met("it_waits_until_the_last_process_is_dead", &[Need::Fuse]) {
        return;
    }
    let mut world = World::new("hook-quarantine");
    let path = hook(&world, r#"echo '{"what":"port","name":"7","outcome":"deleted"}'"#);
    let (point, server) = world.dead_mount();
    let zoo = world.zoo.display().to_string();
    let victim = [
        &zoo,
        "fuse-victim",
        "--exit",
        "0",
        point.to_str().unwrap(),
        "stat",
    ];
    let mut job = world.run(
        &[],
        &crate::words(&["--guest-hook", &path]),
        &crate::words(&victim),
    );
    assert_eq!(job.wait(PATIENCE), 125, "{}", job.stderr());
    let report = job.report();
    assert!(report.guests.is_empty(), "{report:#?}");
    let survivor = Process::open(report.quarantine.unwrap().survivors[0].pid);
    assert!(
        !world.dir.join("calls").exists(),
        "it was called while a process lives"
    );
    server.signal(Signal::SIGTERM);
    assert!(server.wait_end(PATIENCE) && survivor.wait_end(PATIENCE));
    let done = world.call(&["gc", "--json"]).expect(0).json();
    assert_eq!(
        (&done[0]["result"], calls(&world)),
        (&json!("released"), 1),
        "{done:#}"
    );
    assert_eq!(done[0]["detail"]["guests"][0]["what"], json!("port"), "{done:#}");
    world.assert_nothing_left();
}
