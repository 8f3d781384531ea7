//! A power cut over machines of real VirtualBox: QEMU is killed while two jobs have machines and disks in its registry, and once more in the
//! middle of giving others back. In the next boot `jobcage gc` finishes it, and what the users have of their own is as it was.
//!
//! VirtualBox comes from the root that `tests/guests` uses, on a disk of its own (`tests/vm/virtualbox-disk`). On one kernel, since nothing
//! here depends on it.

use crate::disk::{Machine, has_vm, here, json, line};
use crate::jobcage;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::{Command, Stdio};

const ENTER: &str = include_str!("registered/enter");
const REGISTER: &str = include_str!("registered/register");
const TEARDOWN: &str = include_str!("registered/teardown");
const LOOK: &str = include_str!("registered/look");

/// The disk with VirtualBox on it.
fn virtualbox() -> String {
    let made = Command::new(here("tests/vm/virtualbox-disk"))
        .stderr(Stdio::inherit())
        .output()
        .expect("tests/vm/virtualbox-disk can be run");
    assert!(made.status.success(), "tests/vm/virtualbox-disk failed");
    String::from_utf8(made.stdout).unwrap().trim().to_owned()
}

#[test]
fn machines_of_the_boot_before_are_given_back() {
    if !has_vm() {
        return;
    }
    let disk = virtualbox();
    let files: [(&str, PathBuf); 2] = [
        ("jobcage", jobcage()),
        ("machine", here("tests/vm/registered/machine")),
    ];
    let files = files.each_ref().map(|(name, path)| (*name, path.as_path()));
    let machine = Machine::new("registered", "6.12", &files);
    let boot = |script: &str, cut: &[&str]| {
        let more = [&["--more-disk", &disk], cut].concat();
        machine.boot(&[ENTER, script].concat(), &more)
    };
    let first = boot(REGISTER, &["--power-cut-on", "the machines are registered"]);
    let second = boot(TEARDOWN, &["--power-cut-on", "half of it is gone"]);
    let third = boot(LOOK, &[]);
    check_registered(&first, &second);
    check_half_given_back(&second, &third);
    check_over(&second, &third);
    for boot in [&second, &third] {
        assert_eq!(line(boot, "gc-code"), "0", "{boot}");
        assert_eq!(json(boot, "again"), json!([]), "a second gc did something");
    }
    for user in ["own-ci1", "own-ci2"] {
        let own = line(&first, user);
        assert!(own.contains("\"own\" {") && own.contains("/own.vdi;"), "{own}");
        assert_eq!(line(&second, user), own, "after the first cut");
        assert_eq!(line(&third, user), own, "after the second cut");
    }
}

/// The ids of the two jobs of a boot: what the first one had done was on the disk when the power was cut.
fn jobs(boot: &str) -> [&str; 2] {
    let ids: Vec<&str> = line(boot, "jobs").split(' ').collect();
    ids.try_into().expect("two jobs")
}

/// The words of a line in which `;` ends each.
fn words<'t>(boot: &'t str, word: &str) -> Vec<&'t str> {
    line(boot, word).split_terminator(';').collect()
}

/// Name and process of each machine that is in the registry of a job, without its tool; by their names.
fn registered(boot: &str, job: &str) -> Vec<(String, bool)> {
    let all = json(boot, "registered");
    let place = all.as_array().unwrap().iter().find(|place| place["job"] == job);
    let machines = place.and_then(|place| place["machines"].as_array());
    let told = machines.into_iter().flatten();
    let mut told: Vec<_> = told
        .map(|machine| (text(machine, "name").to_owned(), machine["pid"].is_i64()))
        .collect();
    told.sort();
    told
}

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value[key].as_str().unwrap_or_default()
}

/// The report of a job over which the host went down, closed in the boot after it.
fn report(boot: &str, before: &str, job: &str) -> Value {
    let report = json(boot, &format!("report-{job}"));
    assert_eq!(
        (&report["ending"], &report["closed_by"], &report["boot_id"]),
        (
            &json!({"kind": "lost", "why": "the host went down"}),
            &json!("gc"),
            &json!(line(before, "boot"))
        ),
        "{report:#}"
    );
    report
}

/// What became of what: `vm web deleted`.
fn fates(report: &Value) -> Vec<String> {
    let fate = |guest: &Value| {
        let name = text(guest, "name").rsplit('/').next().unwrap_or_default();
        format!("{} {name} {}", text(guest, "what"), text(guest, "outcome"))
    };
    report["guests"]
        .as_array()
        .into_iter()
        .flatten()
        .map(fate)
        .collect()
}

/// What is said to be left, by its path.
fn named_as_left(report: &Value) -> Vec<&str> {
    let guests = report["guests"].as_array().into_iter().flatten();
    let left = guests.filter(|guest| guest["outcome"] == "left");
    left.map(|guest| text(guest, "name")).collect()
}

/// The first cut: a machine runs, two do not, and disks are in the place, elsewhere, and nobody's.
fn check_registered(first: &str, second: &str) {
    assert_ne!(line(first, "boot"), line(second, "boot"), "it was no other boot");
    let [synced, quick] = jobs(first);
    let machine = |name: &str, runs| (name.to_owned(), runs);
    assert_eq!(
        registered(first, synced),
        [machine("db", false), machine("web", true)]
    );
    assert_eq!(registered(first, quick), [machine("quick", false)]);

    // A machine's processes are gone with the boot, and nothing else is.
    assert_eq!(
        registered(second, synced),
        [machine("db", false), machine("web", false)]
    );
    for disk in ["/home/ci1/db.vdi", "vms/web/web.vdi", "vms/orphan.vdi"] {
        let is_there = |boot: &str, word| words(boot, word).iter().any(|path| path.ends_with(disk));
        assert!(is_there(first, "made") && is_there(second, "before"), "{disk}");
    }
    let given = report(second, first, synced);
    assert_eq!(
        fates(&given),
        ["vm web deleted", "vm db deleted", "disk orphan.vdi deleted"],
        "{given:#}"
    );
    assert_eq!(given["clean"], true, "{given:#}");
    check_unwritten(&report(second, first, quick), second);
}

/// Of what nobody had synced may be anything. Usually the head of the disk outside of the place is missing, so that VirtualBox does not remove it:
/// what is still there is named, by `gc --guests` each time, and until it is gone the job is not clean.
fn check_unwritten(given: &Value, second: &str) {
    let left = named_as_left(given);
    assert_eq!(words(second, "after"), left, "{given:#}");
    assert_eq!(given["clean"], left.is_empty(), "{given:#}");
    let still = json(second, "still");
    assert_eq!(still.as_array().map(Vec::len), Some(left.len()), "{still:#}");

    let closed = json(second, "closed");
    assert_eq!((&closed["clean"], words(second, "rest")), (&json!(true), vec![]));
}

/// The second cut: of each job one machine of two was gone, and the tool stood before the other one.
fn check_half_given_back(second: &str, third: &str) {
    assert_ne!(line(second, "boot"), line(third, "boot"), "it was no other boot");
    let [synced, quick] = jobs(second);
    assert_eq!(registered(third, synced), [("two".to_owned(), false)]);
    let held: Vec<&str> = line(second, "held").split(' ').collect();
    for (job, held) in [synced, quick].into_iter().zip(held) {
        let given = report(third, second, job);
        let mut guests = given["guests"].as_array().unwrap().iter();
        assert!(
            guests.any(|guest| guest["id"] == held && guest["outcome"] == "deleted"),
            "{held}: {given:#}"
        );
        assert_eq!(
            (named_as_left(&given), &given["clean"]),
            (vec![], &json!(true)),
            "{given:#}"
        );
    }
    // What had been given back before the cut is not told of again.
    let given = report(third, second, synced);
    assert_eq!(
        fates(&given),
        ["vm two deleted", "disk orphan.vdi deleted"],
        "{given:#}"
    );
    assert_eq!(json(third, "still"), json!([]));
    assert_eq!(words(third, "after"), Vec::<&str>::new());
}

/// A job that is over in its record is over on every disk: its place is not back, for which nobody would come.
fn check_over(second: &str, third: &str) {
    assert_ne!(line(second, "away"), "0", "it had no place there");
    assert_eq!(line(second, "cleaned"), "0", "{second}");
    let back = words(third, "before")
        .into_iter()
        .filter(|path| path.starts_with("/home/places"));
    assert_eq!(back.collect::<Vec<_>>(), Vec::<&str>::new());
    let report = json(third, "over");
    assert_eq!(
        (&report["closed_by"], &report["clean"]),
        (&json!("cleanup"), &json!(true)),
        "{report:#}"
    );
}
