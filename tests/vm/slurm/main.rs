//! jobcage under Slurm (docs/fleets.md): a cluster of one node in the VM, with Debian's Slurm and its plugin for cgroup v2. Output and
//! exit code come through; nothing is left by a job that ends, is cancelled, is killed or runs out of Slurm's time; Slurm's limits
//! hold. As root and as a user. On Debian 12's own kernel, since nothing here depends on it.
//!
//! `cargo test --test slurm`; like the other tests of the VM it is left out of a plain `cargo test`.

#[path = "../disk.rs"]
#[allow(dead_code, reason = "a power cut needs more of it")]
mod disk;

use disk::{Machine, has_vm, here, json, line};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::{Command, Stdio};

const CLUSTER: &str = include_str!("cluster");
const SCENES: &str = include_str!("scenes");

/// The program under test.
fn jobcage() -> PathBuf {
    std::env::var_os("JOBCAGE_BIN")
        .map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_jobcage")), PathBuf::from)
}

/// The disk with Slurm's files, which is made with the image.
fn slurm() -> String {
    let made = Command::new(here("tests/vm/image"))
        .stderr(Stdio::inherit())
        .output()
        .expect("tests/vm/image can be run");
    assert!(made.status.success(), "tests/vm/image failed");
    format!("{}/slurm.img", String::from_utf8(made.stdout).unwrap().trim())
}

#[test]
fn jobs_under_srun() {
    if !has_vm() {
        return;
    }
    let files = [
        ("jobcage", jobcage()),
        ("give-task", here("packaging/slurm/give-task")),
        ("task-prolog", here("packaging/slurm/task-prolog")),
    ];
    let files = files.each_ref().map(|(name, path)| (*name, path.as_path()));
    let machine = Machine::new("slurm", "6.1", &files);
    let told = machine.boot(&[CLUSTER, SCENES].concat(), &["--more-disk", &slurm()]);
    for scene in ["root", "user"] {
        check_ended(&told, scene);
    }
    for scene in ["asked", "asked-user", "limit"] {
        check_asked(&told, scene);
    }
    check_killed(&told);
    check_memory(&told);
    check_refusals(&told);
    // What cannot be ended has its node drained.
    assert_eq!(line(&told, "node"), "idle", "{told}");
}

/// Neither a process nor a directory of the step's.
fn check_nothing_left(told: &str, scene: &str) {
    assert_eq!(line(told, &format!("{scene}-left")), "0", "{scene}: {told}");
    assert_eq!(line(told, &format!("{scene}-steps")), "", "{scene}: {told}");
}

fn report(told: &str, scene: &str) -> Value {
    let report = json(told, &format!("{scene}-report"));
    assert_eq!(report["clean"], true, "{scene}: {report:#}");
    report
}

fn check_ended(told: &str, scene: &str) {
    assert_eq!(line(told, &format!("{scene}-code")), "3", "{scene}: {told}");
    let out = line(told, &format!("{scene}-out"));
    assert!(
        out.starts_with("task_0/sh-") && out.ends_with("/01-step;after failed ;"),
        "{scene}: {out}"
    );
    let report = report(told, scene);
    assert_eq!(
        (&report["root"]["kind"], &report["census"]["count"]),
        (&json!("slurm"), &json!(3)),
        "{scene}: {report:#}"
    );
    check_nothing_left(told, scene);
}

/// By scancel, or by Slurm's own clock: jobcage has the time to end its job in order.
fn check_asked(told: &str, scene: &str) {
    assert_eq!(line(told, &format!("{scene}-code")), "143", "{scene}: {told}");
    assert_eq!(line(told, &format!("{scene}-out")), "after canceled signal;");
    let report = report(told, scene);
    assert_eq!(report["ending"]["kind"], "cancelled", "{scene}: {report:#}");
    check_nothing_left(told, scene);
}

/// The job does not heed the signal, and after KillWait Slurm kills jobcage: others end the job, after phase and all.
fn check_killed(told: &str) {
    for scene in ["killed", "killed-user"] {
        let waited = line(told, &format!("{scene}-wait"));
        assert!(waited.ends_with(" lost 125"), "{scene}: {waited}");
        assert_eq!(line(told, &format!("{scene}-after")), "after lost ;");
        assert_eq!(line(told, &format!("{scene}-left")), "0", "{scene}: {told}");
    }
    report(told, "killed");
    // Root's helpers are beside the step; a user's are in it, and Slurm has given up its directories by the time they end.
    check_nothing_left(told, "killed");
    assert_eq!(line(told, "gc"), "[];");
}

/// Slurm's limit on its job holds for what is in the cage.
fn check_memory(told: &str) {
    assert_ne!(line(told, "memory-code"), "0", "{told}");
    assert!(line(told, "memory-err").contains("Out Of Memory"), "{told}");
    let report = report(told, "memory");
    assert_eq!(
        report["ending"],
        json!({"kind": "signalled", "signal": 9}),
        "{report:#}"
    );
}

/// What cannot be in a step is refused, and says why.
fn check_refusals(told: &str) {
    for (word, why) in [
        ("detached", "ends with the step"),
        ("limited", "srun or sbatch (--mem"),
        ("not-given", "is not writable for uid 1001"),
    ] {
        let said = line(told, word);
        // srun's own word of the exit code comes before or behind.
        let is_ours =
            said.starts_with("125 jobcage: ") || said.starts_with("125 ") && said.contains(";jobcage: ");
        assert!(is_ours && said.contains(why), "{said}");
    }
}
