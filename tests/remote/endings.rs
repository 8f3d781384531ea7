//! Ends that only a job elsewhere has: no line any more, a lease that runs out, and how they are told apart from what a script returns.

use crate::door::Break;
use crate::rig::{Rig, Running, can};
use crate::support::captured::kill_all;
use crate::support::job::read_report;
use crate::support::{PATIENCE, cgroup, programs};
use jobcage_job::Ending;
use nix::sys::signal::Signal;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

#[test]
fn a_lost_line_is_no_end_of_the_job() {
    if !can("endings::a_lost_line_is_no_end_of_the_job") {
        return;
    }
    let mut rig = Rig::new("remote-lost");
    rig.world.fifo("gate");
    let report = rig.world.dir.join("report.json");
    let script = format!(
        "echo one; read x <{}; echo two; exit 5",
        rig.world.dir.join("gate").display()
    );
    let words = [
        "--keepalive",
        "300ms",
        "--reconnect-for",
        "1s",
        "--report",
        report.to_str().unwrap(),
        "--",
        "sh",
        "-c",
        &script,
    ];
    let running = rig.start("run", &words);
    running.wait_for("one");
    rig.door.shut();
    rig.door.cut(Break::Close);
    let ended = running.end().expect(123);
    let last = ended.err.lines().last().unwrap();
    assert!(
        last.starts_with("jobcage: connection lost: no line to there"),
        "{}",
        ended.err
    );
    let report = read_report(&report);
    let Ending::ConnectionLost { attach, .. } = &report.ending else {
        panic!("{report:#?}");
    };
    assert!(last.contains(attach.as_str()), "{last} {attach}");
    let id = report.job.to_string();
    assert!(attach.ends_with(&format!("--host there {id}")), "{attach}");
    // It runs on, and whoever comes back has the rest and the true end.
    assert_eq!(rig.world.cages().len(), 1);
    rig.door.unshut();
    drop(rig.world.say_into("gate", "go"));
    let done = rig.call("attach", &["--offset", "4", &id]).expect(5);
    assert_eq!(done.text(), "two");
    rig.assert_nothing_left();
}

#[test]
fn a_script_that_returns_the_same_number_is_told_apart() {
    if !can("endings::a_script_that_returns_the_same_number_is_told_apart") {
        return;
    }
    let rig = Rig::new("remote-number");
    let report = rig.world.dir.join("report.json");
    let done = rig
        .run(&["--report", report.to_str().unwrap()], &["sh", "-c", "exit 123"])
        .expect(123);
    assert!(!done.told().contains("connection lost"), "{}", done.told());
    assert_eq!(read_report(&report).ending, Ending::Exited { code: 123 });
    rig.run(&[], &["sh", "-c", "exit 255"]).expect(255);
    rig.assert_nothing_left();
}

#[test]
fn a_lease_ends_a_job_that_nobody_is_heard_of() {
    if !can("endings::a_lease_ends_a_job_that_nobody_is_heard_of") {
        return;
    }
    let mut rig = Rig::new("remote-lease");
    let after = rig.world.dir.join("after");
    let after_script = format!("echo $JOBCAGE_CAUSE >{}", after.display());
    let words = [
        "--keepalive",
        "300ms",
        "--reconnect-for",
        "200ms",
        "--lease",
        "2s",
        "--grace",
        "1s",
        "--after",
        &after_script,
        "--",
        "sh",
        "-c",
        "echo one; exec sleep 300",
    ];
    let running = rig.start("run", &words);
    running.wait_for("one");
    let [cage] = &rig.world.cages()[..] else {
        panic!("{:?}", rig.world.cages())
    };
    rig.door.shut();
    rig.door.cut(Break::Silence);
    let ended = running.end().expect(123);
    assert!(ended.err.contains("may run on"), "{}", ended.err);
    assert!(cgroup::wait_gone(cage, PATIENCE), "its lease does not end it");
    assert_eq!(fs::read_to_string(&after).unwrap(), "silence\n");
    let id = cage.file_name().unwrap().to_str().unwrap().to_owned();
    rig.door.unshut();
    let done = rig.call("attach", &[&id]).expect(143);
    assert!(done.told().contains("nobody was heard of"), "{}", done.told());
    rig.assert_nothing_left();
}

/// As long as its client is heard of, a lease is no limit.
#[test]
fn a_lease_is_renewed_by_a_line_that_lives() {
    if !can("endings::a_lease_is_renewed_by_a_line_that_lives") {
        return;
    }
    let rig = Rig::new("remote-renewed");
    let words = ["--keepalive", "200ms", "--lease", "1s"];
    let done = rig.run(&words, &["sh", "-c", "sleep 3; echo alive"]).expect(0);
    assert_eq!(done.text(), "alive");
    rig.assert_nothing_left();
}

/// Has `ssh` be a script, until the rig is gone: `$SSH` is the real one.
fn with_ssh(rig: &Rig, mut command: Command, script: &str) -> Command {
    let bin = rig.world.dir.join("bin");
    fs::create_dir_all(&bin).unwrap();
    fs::write(bin.join("ssh"), format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(bin.join("ssh"), fs::Permissions::from_mode(0o755)).unwrap();
    let path = std::env::var("PATH").unwrap();
    command.env("SSH", programs::which("ssh").unwrap());
    command.env("PATH", format!("{}:{path}", bin.display()));
    command
}

/// How many bytes a host says until it is asked for a job.
fn until_asked(rig: &Rig) -> usize {
    let file = rig.world.dir.join("said");
    let script = format!("\"$SSH\" \"$@\" | tee {}", file.display());
    let command = with_ssh(rig, rig.command("run", &["--", "true"]), &script);
    crate::support::call::to_end(command, b"").expect(0);
    let said = fs::read(file).unwrap();
    let word = b" here\n";
    let door = said.windows(word.len()).position(|piece| piece == word).unwrap() + word.len();
    // Its welcome: kind, length, text.
    assert_eq!(said[door], b'w');
    let length = u32::from_le_bytes(said[door + 1..door + 5].try_into().unwrap());
    door + 5 + usize::try_from(length).unwrap()
}

/// The host has begun it, the client has not heard so, and then nobody looks after it any more: asked for again, it is closed.
#[test]
fn a_job_that_is_asked_for_again_may_be_lost_by_then() {
    if !can("endings::a_job_that_is_asked_for_again_may_be_lost_by_then") {
        return;
    }
    let rig = Rig::new("remote-asked-again");
    rig.run(&[], &["true"]).expect(0);
    let bytes = until_asked(&rig);
    rig.world.fifo("gate");
    let dir = rig.world.dir.display();
    // The first line has no word of the job; the next one waits.
    let script = format!(
        "if mkdir {dir}/first 2>/dev/null; then \"$SSH\" \"$@\" | {{ dd bs=1 count={bytes} 2>/dev/null; exec cat >/dev/null; }}
         else read x <{dir}/gate; exec \"$SSH\" \"$@\"; fi"
    );
    let job = format!("echo begun >{dir}/begun; exec sleep 300");
    let command = rig.command("run", &["--keepalive", "300ms", "--", "sh", "-c", &job]);
    let running = Running::start(&rig.world, with_ssh(&rig, command, &script), "again");
    assert_eq!(rig.world.told("begun"), "begun");
    let [cage] = &rig.world.cages()[..] else {
        panic!("{:?}", rig.world.cages())
    };
    let job = rig.world.captured(cage.file_name().unwrap().to_str().unwrap());
    let (supervisor, keeper) = (job.supervisor(&rig.world), job.keeper());
    // Stopped first, so that it does not replace its watcher.
    supervisor.signal(Signal::SIGSTOP);
    rig.world.kill_watchers();
    kill_all(&[&keeper, &supervisor]);
    let _gate = rig.world.say_into("gate", "go");
    let ended = running.end().expect(125);
    assert!(ended.err.contains("its supervisor died"), "{}", ended.err);
    rig.assert_nothing_left();
}
