//! One job on several hosts, side by side.

use crate::rig::{Rig, can};
use nix::sys::signal::Signal;

/// Both are this machine, which tells them apart by a variable.
const BOTH: &[&str] = &["--host", "there2"];

fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines
}

#[test]
fn lines_have_their_hosts_and_a_table_ends_it() {
    if !can("many::lines_have_their_hosts_and_a_table_ends_it") {
        return;
    }
    let rig = Rig::new("remote-many");
    rig.run(&[], &["true"]).expect(0);
    let report = rig.world.dir.join("report.json");
    let options = [BOTH, &["--report", report.to_str().unwrap()]].concat();
    let script = "echo one $WHO; echo two $WHO >&2; printf three; [ $WHO = a ] || exit 5";
    let done = rig.run(&options, &["sh", "-c", script]).expect(5);
    let text = done.text();
    let expected = [
        "there  | one a",
        "there  | three",
        "there2 | one b",
        "there2 | three",
    ];
    assert_eq!(sorted(&text), expected);
    let told = done.told();
    assert!(
        told.contains("there  | two a\n") && told.contains("there2 | two b\n"),
        "{told}"
    );
    let table: Vec<&str> = told.lines().rev().take(2).collect();
    assert!(
        table[1].starts_with("jobcage: there    0 sh-") && table[1].ends_with("exited with 0"),
        "{told}"
    );
    assert!(
        table[0].starts_with("jobcage: there2   5 sh-") && table[0].ends_with("exited with 5"),
        "{told}"
    );
    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(&report).unwrap()).unwrap();
    assert_eq!(report["hosts"][1]["exit_code"], 5, "{report:#}");
    assert_eq!(
        report["hosts"][0]["report"]["ending"]["kind"], "exited",
        "{report:#}"
    );
    rig.assert_nothing_left();
}

#[test]
fn one_failure_stops_the_others_only_where_it_shall() {
    if !can("many::one_failure_stops_the_others_only_where_it_shall") {
        return;
    }
    let rig = Rig::new("remote-fail-fast");
    rig.run(&[], &["true"]).expect(0);
    // The other one goes on until the first has failed, and longer.
    let gate = rig.world.dir.join("failed");
    let script = format!(
        "if [ $WHO = a ]; then touch {0}; exit 7; fi; while [ ! -e {0} ]; do sleep 0.02; done; echo on",
        gate.display()
    );
    let done = rig.run(BOTH, &["sh", "-c", &script]).expect(7);
    assert_eq!(done.text(), "there2 | on");
    let options = [BOTH, &["--fail-fast"]].concat();
    // Not before the other one has begun.
    let gate = rig.world.dir.join("begun");
    let script = format!(
        "[ $WHO = a ] || {{ touch {0}; exec sleep 300; }}; while [ ! -e {0} ]; do sleep 0.02; done; exit 7",
        gate.display()
    );
    let done = rig.run(&options, &["sh", "-c", &script]).expect(7);
    let told = done.told();
    assert!(
        told.lines()
            .last()
            .unwrap()
            .starts_with("jobcage: there2 143 sh-"),
        "{told}"
    );
    // A host that cannot be reached is one that has failed.
    let done = rig.run(&["--host", "nowhere.invalid"], &["true"]).expect(125);
    assert!(
        done.told()
            .contains("nowhere.invalid | jobcage: cannot reach nowhere.invalid"),
        "{}",
        done.told()
    );
    rig.assert_nothing_left();
}

#[test]
fn a_signal_is_for_all_of_them() {
    if !can("many::a_signal_is_for_all_of_them") {
        return;
    }
    let mut rig = Rig::new("remote-all");
    rig.run(&[], &["true"]).expect(0);
    let words = [BOTH, &["--", "sh", "-c", "echo up $WHO; exec sleep 300"]].concat();
    let running = rig.start("run", &words);
    running.wait_for("up a");
    running.wait_for("up b");
    running.process().signal(Signal::SIGINT);
    running.end().expect(143);
    for wrong in [
        ["--host", "b", "--job", "a-00000000"],
        ["--host", "b", "--host", "-x"],
    ] {
        rig.run(&wrong, &["true"]).refused();
    }
    let told = rig.call("list", BOTH).refused();
    assert!(told.contains("only `run` takes several hosts"), "{told}");
    rig.assert_nothing_left();
}
