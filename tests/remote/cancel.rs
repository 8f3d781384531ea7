//! Ctrl-C and SIGTERM to the client are for the job, whether there is a line or not.

use crate::door::Break;
use crate::rig::{Rig, can};
use crate::support::{PATIENCE, cgroup};
use nix::sys::signal::Signal;
use std::fs;

#[test]
fn a_signal_stops_the_job_there() {
    if !can("cancel::a_signal_stops_the_job_there") {
        return;
    }
    let mut rig = Rig::new("remote-cancel");
    let script = "trap 'echo asked; exit 9' TERM; echo one; while :; do sleep 0.05; done";
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let running = rig.start(
            "run",
            &["--after", "echo after $JOBCAGE_RESULT", "--", "sh", "-c", script],
        );
        running.wait_for("one");
        running.process().signal(signal);
        let ended = running.end().expect(143);
        assert_eq!(ended.text(), "one\nasked\nafter canceled\n");
    }
    rig.assert_nothing_left();
}

#[test]
fn a_second_signal_skips_the_grace() {
    if !can("cancel::a_second_signal_skips_the_grace") {
        return;
    }
    let mut rig = Rig::new("remote-twice");
    let script = "trap 'echo asked' TERM; echo one; while :; do sleep 0.05; done";
    let running = rig.start("run", &["--grace", "10m", "--", "sh", "-c", script]);
    running.wait_for("one");
    running.process().signal(Signal::SIGTERM);
    running.wait_for("asked");
    running.process().signal(Signal::SIGTERM);
    running.end().expect(143);
    rig.assert_nothing_left();
}

#[test]
fn a_cancel_without_a_line_is_kept_for_the_next_one() {
    if !can("cancel::a_cancel_without_a_line_is_kept_for_the_next_one") {
        return;
    }
    let mut rig = Rig::new("remote-kept");
    let script = "trap 'echo asked; exit 9' TERM; echo one; while :; do sleep 0.05; done";
    let running = rig.start("run", &["--keepalive", "300ms", "--", "sh", "-c", script]);
    running.wait_for("one");
    rig.door.shut();
    rig.door.cut(Break::Close);
    // Its ssh has ended, and the next one is turned away.
    while running.ssh().is_some_and(|ssh| !ssh.wait_end(PATIENCE)) {}
    running.process().signal(Signal::SIGTERM);
    running.wait_told("will be stopped as soon as there is one");
    rig.door.unshut();
    let ended = running.end().expect(143);
    assert_eq!(ended.text(), "one\nasked\n");
    rig.assert_nothing_left();
}

#[test]
fn whoever_gives_up_is_told_and_the_lease_does_the_rest() {
    if !can("cancel::whoever_gives_up_is_told_and_the_lease_does_the_rest") {
        return;
    }
    let mut rig = Rig::new("remote-give-up");
    let words = [
        "--keepalive",
        "300ms",
        "--lease",
        "2s",
        "--grace",
        "1s",
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
    rig.door.cut(Break::Close);
    while running.ssh().is_some_and(|ssh| !ssh.wait_end(PATIENCE)) {}
    running.process().signal(Signal::SIGINT);
    running.wait_told("will be stopped as soon as there is one");
    running.process().signal(Signal::SIGINT);
    let ended = running.end().expect(123);
    assert!(ended.err.contains("may not have heard of it"), "{}", ended.err);
    assert!(cgroup::wait_gone(cage, PATIENCE), "its lease does not end it");
    rig.assert_nothing_left();
}

/// `head` has enough: the job is stopped, as one here would be by its next write.
#[test]
fn nobody_reads_the_output_any_more() {
    if !can("cancel::nobody_reads_the_output_any_more") {
        return;
    }
    let rig = Rig::new("remote-head");
    let mut command = rig.command("run", &["--", "sh", "-c", "while :; do echo y; done"]);
    let mut child = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut out = child.stdout.take().unwrap();
    let mut first = [0; 2];
    std::io::Read::read_exact(&mut out, &mut first).unwrap();
    drop(out);
    let status = crate::support::call::wait(&mut child, PATIENCE).expect("it ends");
    assert_eq!((&first, status.code()), (b"y\n", Some(141)));
    assert_eq!(fs::read_dir(rig.world.dir.join("state")).unwrap().count(), 1);
    rig.assert_nothing_left();
}
