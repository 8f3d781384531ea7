//! `--after-reboot`: the after phase of a job whose host went down. The reboot is one in the records alone: everything that
//! looks after the job is killed, its cage is emptied, and the record names another boot.

use crate::support::captured::wait_written;
use crate::support::cgroup;
use crate::support::needs::{Need, met};
use crate::support::process::{Process, stat};
use crate::support::programs;
use crate::support::world::World;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

const OTHER_BOOT: &str = "00000000-0000-4000-8000-000000000000";

/// A program of the world's, with this as its script.
fn program(world: &World, name: &str, script: &str) -> String {
    let path = world.dir.join(name);
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path.display().to_string()
}

fn record(world: &World, id: &str) -> PathBuf {
    world.dir.join("state").join(id)
}

/// Waits until a log has this.
fn wait_log(world: &World, id: &str, log: &str, wanted: &str) {
    let dir = record(world, id);
    let has = || fs::read_to_string(dir.join(log)).is_ok_and(|text| text.contains(wanted));
    assert!(wait_written(&dir, has), "{log} of {id} has no {wanted:?}");
}

/// A detached job with this after phase; its command is under way.
fn started(world: &World, after: &str, more: &[&str], script: &str) -> String {
    let mut words = vec!["run", "--detach", "--after-reboot", "--after", after];
    words.extend(more);
    words.extend(["--", "sh", "-c", script]);
    let id = world.call(&words).expect(0).text();
    wait_log(world, &id, "log-01", "up");
    id
}

/// Nobody looks after the job from here on.
fn abandon(world: &World) {
    // Stopped first, so that none can replace the watcher.
    for pid in cgroup::pids(&world.cgroup_root.join("supervisors")) {
        Process::open(pid).signal(Signal::SIGSTOP);
    }
    world.kill_watchers();
}

/// As a power cut and the boot after it.
fn reboot(world: &World, id: &str) {
    abandon(world);
    let cage = world.cgroup_root.join(id);
    if cage.exists() {
        cgroup::remove(&cage).unwrap();
    }
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    for name in ["spec.json", "after.json"] {
        let file = record(world, id).join(name);
        if let Ok(text) = fs::read_to_string(&file) {
            fs::write(&file, text.replace(boot.trim(), OTHER_BOOT)).unwrap();
        }
    }
}

fn report(world: &World, id: &str) -> Value {
    world.call(&["show", id, "--json"]).expect(0).json()["report"].clone()
}

fn notes(report: &Value) -> String {
    report["notes"].to_string()
}

/// What the after phase has printed.
fn printed(world: &World, id: &str) -> String {
    world.call(&["logs", id, "--step", "2"]).expect(0).text()
}

#[test]
fn it_runs_once_after_a_reboot() {
    let mut world = World::new("reboot-once");
    let script = "echo \"ran $* in $(pwd) as $(id -u): $JOBCAGE_RESULT $JOBCAGE_EXIT_CODE $JOBCAGE_ENDING $TOKEN-$OLD\"\n\
                  echo once >&2\nexit 7";
    let after = program(&world, "tidy", script);
    let variables = world.dir.join("variables");
    fs::write(&variables, "TOKEN=before\n").unwrap();
    let file = variables.display().to_string();
    let mut more = vec![
        "--after-env-file",
        &file,
        "--env",
        "OLD=value-of-old",
        "--dir",
        "home",
    ];
    let is_root = nix::unistd::geteuid().is_root();
    if is_root {
        more.extend(["--user", "4321"]);
    }
    let id = started(&world, &format!("{after} one  two"), &more, "echo up; sleep 300");
    // What it says then counts.
    fs::write(&variables, "TOKEN=value-of-token\n").unwrap();
    reboot(&world, &id);
    let done = world.call(&["gc", "--json"]).expect(0).json();
    assert_eq!(
        (&done[0]["result"], &done[0]["job"]),
        (&json!("closed"), &json!(id))
    );

    let report = report(&world, &id);
    assert_eq!(
        report["ending"],
        json!({"kind": "lost", "why": "the host went down"})
    );
    let step = &report["steps"][1];
    assert_eq!(
        (&step["kind"], &step["status"], &step["ending"]),
        (
            &json!("after"),
            &json!({"code": 7}),
            &json!({"kind": "exited", "code": 7})
        ),
        "{report:#}"
    );
    assert!(
        notes(&report).contains("ran afterwards, without the environment of the job"),
        "{report:#}"
    );
    assert!(notes(&report).contains("the tail may be missing"), "{report:#}");
    let who = if is_root {
        4321
    } else {
        nix::unistd::getuid().as_raw()
    };
    let dir = world.dir.join("home");
    let ran = format!(
        "ran one two in {} as {who}: lost 125 lost value-of-token-\nonce",
        dir.display()
    );
    assert_eq!(printed(&world, &id), ran);

    // Its log has what it printed, and nothing else has a value.
    let files = fs::read_dir(record(&world, &id)).unwrap().flatten();
    // Not the keeper's socket.
    for file in files.filter(|file| file.file_type().unwrap().is_file()) {
        let text = fs::read(file.path()).unwrap();
        let text = String::from_utf8_lossy(&text);
        let is_log = file.file_name().to_string_lossy().starts_with("log-02");
        assert!(is_log || !text.contains("value-of"), "{:?}", file.path());
    }
    assert_eq!(world.call(&["gc", "--json"]).expect(0).json(), json!([]));
    world.assert_nothing_left();
}

#[test]
fn one_that_the_host_cut_short_is_not_repeated() {
    let mut world = World::new("reboot-cut");
    let count = world.dir.join("count").display().to_string();
    let script = format!("echo again >>{count}; echo begun; sleep 300");
    let after = program(&world, "tidy", &script);
    let id = started(&world, &after, &[], "echo up");
    wait_log(&world, &id, "log-02", "begun");
    reboot(&world, &id);
    world.call(&["gc"]).expect(0);
    let report = report(&world, &id);
    assert!(
        notes(&report).contains("interrupted by the host's going down; it is not repeated"),
        "{report:#}"
    );
    assert_eq!(report["steps"][1]["ending"]["kind"], "lost", "{report:#}");
    assert_eq!(fs::read_to_string(&count).unwrap(), "again\n");
    world.assert_nothing_left();
}

/// Nor is one that was cut short after the reboot.
#[test]
fn one_whose_closing_is_killed_is_ended_and_not_repeated() {
    let mut world = World::new("reboot-killed");
    let count = world.dir.join("count").display().to_string();
    let script = format!("echo again >>{count}; echo $$; setsid sleep 300 & echo begun; wait");
    let after = program(&world, "tidy", &script);
    let id = started(&world, &after, &[], "echo up; sleep 300");
    reboot(&world, &id);
    let mut gc = world.command(programs::jobcage()).arg("gc").spawn().unwrap();
    wait_log(&world, &id, "log-02", "begun");
    let log = fs::read_to_string(record(&world, &id).join("log-02")).unwrap();
    let pid = log
        .lines()
        .find_map(|line| line.parse().ok())
        .expect("it told its pid");
    let left = Process::open(pid);
    let closer = stat(pid).expect("it lives").2;
    Process::open(closer).signal(Signal::SIGKILL);
    // Its gc says that it has not been closed.
    assert_eq!(gc.wait().unwrap().code(), Some(125));
    assert!(!left.has_ended(), "somebody has killed it");
    world.call(&["gc"]).expect(0);
    assert!(left.has_ended());
    let report = report(&world, &id);
    assert!(notes(&report).contains("it is not repeated"), "{report:#}");
    assert_eq!(report["census"]["count"], 2, "{report:#}");
    assert_eq!(fs::read_to_string(&count).unwrap(), "again\n");
    world.assert_nothing_left();
}

/// Where the host lives it is owed as well: the record has what keeper and supervisor took with them.
#[test]
fn it_runs_where_keeper_and_supervisor_are_both_killed() {
    let mut world = World::new("reboot-both");
    let script = "echo \"$JOBCAGE_RESULT\"; setsid sleep 300 & exec sleep 300";
    let after = program(&world, "tidy", script);
    let more = ["--after-timeout", "2s"];
    let id = started(&world, &after, &more, "sleep 300 & echo up; sleep 300");
    abandon(&world);
    world.call(&["gc"]).expect(0);
    let report = report(&world, &id);
    assert_eq!(report["ending"]["why"], "its supervisor died");
    assert_eq!(report["steps"][1]["ending"]["kind"], "timed_out", "{report:#}");
    // Three of the command's and two of the after phase's.
    assert_eq!(report["census"]["count"], 5, "{report:#}");
    assert_eq!(printed(&world, &id), "lost");
    world.assert_nothing_left();
}

/// Where nothing goes wrong it is an after phase as any other, with the job's environment.
#[test]
fn without_a_reboot_it_runs_as_always() {
    let mut world = World::new("reboot-none");
    let after = program(&world, "tidy", "echo \"$JOBCAGE_RESULT $OLD\"");
    let id = started(&world, &after, &["--env", "OLD=old"], "echo up");
    world.call(&["wait", &id]).expect(0);
    assert_eq!(printed(&world, &id), "success old");
    let report = report(&world, &id);
    assert_eq!(report["closed_by"], "supervisor");
    assert!(!notes(&report).contains("after phase"), "{report:#}");
    assert_eq!(world.call(&["gc", "--json"]).expect(0).json(), json!([]));
    world.assert_nothing_left();
}

/// Root reads the file, and the job's user gets what is in it: so a path is the one that was given, or none.
#[test]
fn a_link_in_the_place_of_the_variables_is_not_followed() {
    let mut world = World::new("reboot-link");
    let after = program(&world, "tidy", "echo \"token:$TOKEN\"");
    let (dir, moved) = (world.dir.join("given"), world.dir.join("moved"));
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("variables"), "TOKEN=x\n").unwrap();
    let file = dir.join("variables").display().to_string();
    let id = started(&world, &after, &["--after-env-file", &file], "echo up; sleep 300");
    fs::rename(&dir, &moved).unwrap();
    std::os::unix::fs::symlink(&moved, &dir).unwrap();
    reboot(&world, &id);
    world.call(&["gc"]).expect(0);
    let report = report(&world, &id);
    assert!(
        notes(&report).contains("there is a symbolic link on its path"),
        "{report:#}"
    );
    assert_eq!(printed(&world, &id), "token:");
    world.assert_nothing_left();
}

/// A record that somebody else may have made runs nothing.
#[test]
fn the_record_of_another_user_runs_nothing() {
    if !met("reboot-foreign", &[Need::Root]) {
        return;
    }
    let mut world = World::new("reboot-foreign");
    let count = world.dir.join("count");
    let after = program(&world, "tidy", &format!("echo again >>{}", count.display()));
    let id = started(&world, &after, &[], "echo up; sleep 300");
    reboot(&world, &id);
    std::os::unix::fs::chown(record(&world, &id), Some(4321), None).unwrap();
    world.call(&["gc"]).expect(0);
    assert!(notes(&report(&world, &id)).contains("the record is another user's"));
    assert!(!count.exists());
    world.assert_nothing_left();
}

#[test]
fn what_cannot_be_kept_is_refused_at_once() {
    let world = World::new("reboot-refused");
    let run = |words: &[&str]| {
        let mut all = vec!["run", "--after-reboot"];
        all.extend(words);
        all.extend(["--", "true"]);
        world.call(&all).refused()
    };
    let absent = world.dir.join("absent").display().to_string();
    let plain = world.dir.join("config.toml").display().to_string();
    let with_file = ["--detach", "--after", "/bin/true", "--after-env-file", &absent];
    for (words, told) in [
        (&["--after", "/bin/true"][..], "give --detach or --log"),
        (&["--detach"], "there is no --after"),
        (&["--detach", "--after", "echo $HOME"], "a plain command"),
        (&["--detach", "--after", "rm x"], "a plain command"),
        (&["--detach", "--after", &plain], "no executable file"),
        (&with_file, "No such file"),
    ] {
        let said = run(words);
        assert!(said.contains(told), "{words:?}: {said}");
    }
    fs::write(world.dir.join("wrong"), "A=1\nsecret words\n").unwrap();
    let said = run(&["--detach", "--after", "/bin/true", "--after-env-file", "wrong"]);
    assert!(said.contains("line 2") && !said.contains("secret"), "{said}");
    world.assert_clean();
}
