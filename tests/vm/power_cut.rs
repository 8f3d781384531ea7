//! A power cut: QEMU is killed while a job of `jobcage create` runs a step and a detached job its command, and the same
//! disk boots again. Then `jobcage gc` closes both records as lost, whole, and once, and the after phase that was to outlive
//! a reboot runs once.
//!
//! `cargo test --test power_cut`; like the other tests of the VM it is left out of a plain `cargo test`.

mod disk;
mod host_lost;
mod registered;

use disk::{Machine, has_vm, json, line};
use serde_json::Value;
use std::path::PathBuf;

/// Starts a detached job; makes a cage, starts a step in it, and says so when the step runs. The cut comes with that line.
/// Of the detached job nothing but its log is put on the disk here: the rest is jobcage's to do.
const BEFORE: &str = r#"
printf '#!/bin/sh\necho "$JOBCAGE_RESULT $TOKEN $*" >>/root/ran\necho printed\nexit 7\n' >/root/tidy
chmod +x /root/tidy
echo TOKEN=kept >/root/variables
sync
kept=$(/payload/jobcage run --detach --name kept --after-reboot --after '/root/tidy one' \
    --after-env-file /root/variables -- sh -c 'echo written; sleep 1000') || exit 1
until [ -s "/var/lib/jobcage/$kept/log-01" ]; do sleep 0.1; done
sync -d "/var/lib/jobcage/$kept/log-01"
echo "detached $kept"
id=$(/payload/jobcage create --name cut --pids 50) || exit 1
/payload/jobcage run --job "$id" -- sleep 1000 &
until grep -q . /sys/fs/cgroup/jobcage.slice/jobcage-root.scope/"$id"/steps/*/cgroup.procs 2>/dev/null; do sleep 0.1; done
echo "boot $(cat /proc/sys/kernel/random/boot_id)"
echo "the step runs: $id"
sleep 1000
"#;

/// What the next boot finds and does, a line for each.
const AFTER: &str = r#"
cd /var/lib/jobcage || exit 1
echo "files $(find . -type f | sort | tr '\n' ' ')"
/payload/jobcage gc --json >/tmp/gc || echo "gc failed: $?"
echo "gc $(tr -d '\n' </tmp/gc)"
echo "again $(/payload/jobcage gc --json | tr -d '\n')"
echo "list $(/payload/jobcage list --json | tr -d '\n')"
echo "boot $(cat /proc/sys/kernel/random/boot_id)"
echo "left $(find . -type f | sort | tr '\n' ' ')"
echo "report $(tr -d '\n' <./cut-*/report.json)"
echo "detached $(tr -d '\n' <./kept-*/report.json)"
echo "logged $(/payload/jobcage logs "$(basename ./kept-*)" | tr '\n' ' ')"
echo "ran $(tr '\n' ';' </root/ran)"
"#;

/// The program under test.
fn jobcage() -> PathBuf {
    std::env::var_os("JOBCAGE_BIN")
        .map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_jobcage")), PathBuf::from)
}

fn cut(kernel: &'static str) {
    if !has_vm() {
        return;
    }
    let machine = Machine::new("power-cut", kernel, &[("jobcage", &jobcage())]);
    let before = machine.boot(BEFORE, &["--power-cut-on", "the step runs:"]);
    let id = line(&before, "the step runs:").to_owned();
    let after = machine.boot(AFTER, &[]);
    assert_ne!(
        line(&before, "boot"),
        line(&after, "boot"),
        "it was no other boot"
    );

    // The record was on the disk at once, without anybody's sync, and no half-written file beside it.
    let files: Vec<&str> = line(&after, "files").split(' ').collect();
    assert!(files.contains(&format!("./{id}/spec.json").as_str()), "{files:?}");
    assert!(
        files.iter().all(|file| !file.contains("report.json")),
        "{files:?}"
    );

    let done = json(&after, "gc");
    // The watcher that gc starts with the scope of all cages may be faster with one of them: it closes orphans, too.
    assert!(matches!(done.as_array().map(Vec::len), Some(1 | 2)), "{done:#}");
    check_detached(line(&before, "detached"), &after);
    let report = json(&after, "report");
    assert_eq!(report["job"], id.as_str(), "{report:#}");
    assert_eq!(report["ending"]["kind"], "lost", "{report:#}");
    assert!(
        report["ending"]["why"]
            .as_str()
            .is_some_and(|why| why.contains("went down")),
        "{report:#}"
    );
    assert_eq!(report["closed_by"], "gc", "{report:#}");
    assert_eq!(report["boot_id"], line(&before, "boot"), "{report:#}");
    assert_eq!(report["steps"][0]["ending"]["kind"], "lost", "{report:#}");

    assert_eq!(
        json(&after, "again"),
        Value::Array(Vec::new()),
        "a second gc did something"
    );
    let listed = json(&after, "list");
    for job in listed.as_array().unwrap() {
        assert_eq!(job["state"], "over", "{listed:#}");
    }
    let left = line(&after, "left");
    assert!(
        !left.contains("tmp") && !left.contains(".new"),
        "half-written: {left}"
    );
}

/// The detached job: lost, with its log, and with its after phase, once.
fn check_detached(id: &str, after: &str) {
    let report = json(after, "detached");
    assert_eq!(report["job"], id, "{report:#}");
    assert_eq!(report["ending"]["why"], "the host went down", "{report:#}");
    let notes = report["notes"].to_string();
    assert!(notes.contains("the tail may be missing"), "{report:#}");
    assert!(notes.contains("its after phase ran afterwards"), "{report:#}");
    // What was not synced of the command's own step may be gone.
    let steps = report["steps"].as_array().unwrap();
    let ran = steps.last().unwrap_or(&Value::Null);
    assert_eq!(
        (&ran["kind"], &ran["status"]["code"]),
        (&"after".into(), &7.into()),
        "{report:#}"
    );
    assert_eq!(report["clean"], true, "{report:#}");
    assert_eq!(line(after, "logged"), "written printed");
    assert_eq!(line(after, "ran"), "lost kept one;", "not once");
}

#[test]
fn what_ran_in_the_boot_before_is_closed_as_lost_6_1() {
    cut("6.1");
}

#[test]
fn what_ran_in_the_boot_before_is_closed_as_lost_6_12() {
    cut("6.12");
}
