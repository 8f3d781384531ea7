//! Ends that only a job elsewhere has: no line any more, a lease that runs out, and how they are told apart from what a script returns.

use crate::door::Break;
use crate::rig::{Rig, can};
use crate::support::job::read_report;
use crate::support::{PATIENCE, cgroup};
use jobcage_job::Ending;
use std::fs;

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
