//! The host of `--host` loses its power while two jobs run there. There are two VMs with a cable between them: in one are the clients, in the other a
//! real sshd and the jobs; it is cut off, and boots again from the same disk. The clients come back by themselves, see that it is another boot, and say
//! so; the host closes what it finds, and runs the after phase that was to outlive a reboot.

use crate::disk::{Machine, has_vm, json, line};
use crate::jobcage;
use serde_json::Value;
use std::path::Path;

const LINK: &str = include_str!("host_lost/link");
const HERE: &str = include_str!("host_lost/here");
const THERE: &str = include_str!("host_lost/there");

/// A script for the guest at this end of the cable.
fn script(end: u8, script: &str) -> String {
    format!("set -- {end}\n{LINK}\n{script}")
}

/// Both hosts in all their boots: the consoles of the clients' boot, and of the two of the other host.
fn boot_both() -> [String; 3] {
    let jobcage = jobcage();
    let files: [(&str, &Path); 1] = [("jobcage", &jobcage)];
    // Of one kernel each, since they are two.
    let here = Machine::new("host-lost-here", "6.1", &files);
    let there = Machine::new("host-lost-there", "6.12", &files);
    // Not below `target`: the path of a socket must be short.
    let sockets = tempfile::tempdir().unwrap();
    let [a, b] = ["here", "there"].map(|name| sockets.path().join(name).display().to_string());
    let (link_here, link_there) = (format!("{a},{b}"), format!("{b},{a}"));
    std::thread::scope(|threads| {
        let clients = threads.spawn(|| {
            let words = ["--link", &link_here, "--power-cut-on", "the look is over"];
            here.boot_once(&script(1, HERE), &words)
        });
        let boot = || {
            let words = ["--link", &link_there, "--power-cut-on", "it is enough"];
            there.boot(&script(2, THERE), &words)
        };
        let boots = [boot(), boot()];
        let clients = clients
            .join()
            .unwrap_or_else(|why| std::panic::resume_unwind(why));
        let [first, second] = boots;
        [clients, first, second]
    })
}

#[test]
fn a_host_that_loses_its_power_is_no_host_without_a_line() {
    if !has_vm() {
        return;
    }
    let [clients, first, second] = boot_both();
    assert_ne!(
        line(&first, "boot"),
        line(&second, "boot"),
        "it was no other boot"
    );
    assert_eq!(line(&clients, "boot"), line(&second, "boot"), "{clients}");
    let [plain, kept] = ["plain", "kept"].map(|name| check_client(name, &clients, line(&first, "boot")));

    assert_eq!(
        plain["steps"].as_array().map_or(0, Vec::len),
        steps_before(&plain),
        "{plain:#}"
    );
    let ran = kept["steps"].as_array().unwrap().last().unwrap();
    assert_eq!(
        (&ran["kind"], &ran["status"]["code"]),
        (&"after".into(), &7.into()),
        "{kept:#}"
    );
    // Once, and after the reboot.
    assert_eq!(line(&clients, "ran"), format!("lost {};", line(&second, "boot")));
    assert_eq!(numbers(line(&clients, "plain-out")), "");
    assert_eq!(numbers(line(&clients, "kept-out")), "tidied");
    check_host(&clients);
}

/// The steps of a report but for its after phase.
fn steps_before(report: &Value) -> usize {
    let steps = report["steps"].as_array().into_iter().flatten();
    steps.filter(|step| step["kind"] != "after").count()
}

/// What follows the numbers of a job's output, which are those from 1 on: each once, in their order, and as many as had been seen before the cut.
fn numbers(out: &str) -> String {
    let words: Vec<&str> = out.split_whitespace().collect();
    let count = words
        .iter()
        .zip(1..)
        .take_while(|(word, number)| **word == format!("{number}"))
        .count();
    assert!(count >= 20, "{out}");
    words[count..].join(" ")
}

/// One client: its exit code, what it has told, and its report, which it hands back.
fn check_client(name: &str, clients: &str, boot: &str) -> Value {
    let told = line(clients, &format!("{name}-err"));
    assert_eq!(line(clients, &format!("{name}-code")), "125", "{told}");
    // One line was lost with the host, and the next one holds for as long as the after phase takes.
    assert_eq!(told.matches("is there again").count(), 1, "{told}");
    for word in [
        "the host was started anew",
        "was lost: there went down while it ran",
    ] {
        assert!(told.contains(word), "{told}");
    }
    let report = json(clients, &format!("{name}-report"));
    assert_eq!(
        report["ending"],
        serde_json::json!({"kind": "host_lost", "host": "there"}),
        "{report:#}"
    );
    assert_eq!(
        (&report["exit_code"], &report["host"], &report["closed_by"]),
        (&125.into(), &"there".into(), &"gc".into()),
        "{report:#}"
    );
    assert_eq!(
        (&report["boot_id"], &report["clean"]),
        (&boot.into(), &true.into()),
        "{report:#}"
    );
    report
}

/// The host afterwards: each record is closed, once, and nothing of a job is left.
fn check_host(clients: &str) {
    for name in ["plain", "kept"] {
        let report = json(clients, &format!("there-{name}"));
        assert_eq!(
            (
                &report["ending"]["kind"],
                &report["ending"]["why"],
                &report["closed_by"]
            ),
            (&"lost".into(), &"the host went down".into(), &"gc".into()),
            "{report:#}"
        );
    }
    assert_eq!(
        json(clients, "again"),
        Value::Array(Vec::new()),
        "a second gc did something"
    );
    let listed = json(clients, "list");
    let states: Vec<&Value> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|job| &job["state"])
        .collect();
    assert_eq!(states, ["over", "over"], "{listed:#}");
    for what in ["cages", "runtime"] {
        assert_eq!(line(clients, what), "", "{what}");
    }
}
