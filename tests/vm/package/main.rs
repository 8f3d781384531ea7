//! The Debian package on a system of its own: installed, upgraded under a running job, kept from going while jobs run, taken
//! through a shutdown and a boot, and purged. On one kernel, since nothing here depends on it.
//!
//! `cargo test --test package`; like the other tests of the VM it is left out of a plain `cargo test`.

#[path = "../disk.rs"]
#[allow(dead_code, reason = "a power cut needs more of it")]
mod disk;

use disk::{Machine, has_vm, json, line};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;

const INSTALL: &str = include_str!("install");
const REBOOT: &str = include_str!("reboot");
const NEW: &str = "9.9.9";

/// Builds the package, into a directory of the test's own.
fn build(name: &str, words: &[&str]) -> PathBuf {
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("package").join(name);
    let _ = std::fs::remove_dir_all(&out);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/build-deb");
    let output = Command::new(script)
        .args(words)
        .arg("--out")
        .arg(&out)
        .output()
        .unwrap_or_else(|e| panic!("{script}: {e}"));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {told}");
    let path = String::from_utf8(output.stdout).unwrap();
    let path = PathBuf::from(path.trim());
    assert!(path.starts_with(&out) && path.exists(), "{}", path.display());
    path
}

/// The pages and completions are for people, and the guest's dpkg leaves them out.
fn check_files(package: &Path) {
    let listed = Command::new("dpkg-deb")
        .arg("--contents")
        .arg(package)
        .output()
        .unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    for file in [
        "usr/bin/jobcage",
        "etc/jobcage/config.toml",
        "usr/lib/systemd/system/jobcage-gc.timer",
        "usr/share/man/man1/jobcage.1.gz",
        "usr/share/man/man1/jobcage-gitlab-prepare.1.gz",
        "usr/share/bash-completion/completions/jobcage",
        "usr/share/zsh/vendor-completions/_jobcage",
        "usr/share/fish/vendor_completions.d/jobcage.fish",
        "usr/share/doc/jobcage/gitlab-runner.conf",
        "usr/share/doc/jobcage/shim/gitlab-runner.conf",
        "usr/share/doc/jobcage/slurm/give-task",
        "usr/share/doc/jobcage/slurm/task-prolog",
    ] {
        assert!(
            listed.lines().any(|line| line.ends_with(&format!(" ./{file}"))),
            "no {file} in\n{listed}"
        );
    }
    let page = Command::new("sh")
        .args([
            "-c",
            "dpkg-deb --fsys-tarfile \"$1\" | tar -xO ./usr/share/man/man1/jobcage-stop.1.gz | gzip -d",
            "sh",
        ])
        .arg(package)
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&page.stdout).contains("at a shutdown"));
}

#[test]
fn the_package_lives_its_life() {
    if !has_vm() {
        return;
    }
    let (old, new) = (build("old", &[]), build("new", &["--version", NEW]));
    check_files(&old);
    let drop_in = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/systemd/gitlab-runner.conf");
    let files = [
        ("old.deb", &*old),
        ("new.deb", &*new),
        ("gitlab-runner.conf", &*drop_in),
    ];
    let machine = Machine::new("package", "6.12", &files);
    let first = machine.boot(INSTALL, &[]);
    check_installed(&first);
    check_upgraded(&first);
    check_closed_by_the_timer(&first);
    check_journal(&first);
    // By the drop-in for the runner's service.
    assert_eq!(
        (line(&first, "stopped"), line(&first, "of-it")),
        ("with gc", "over"),
        "{first}"
    );
    check_refusal(&first);
    let second = machine.boot(REBOOT, &[]);
    check_shutdown(&second);
    check_purged(&second);
}

fn check_installed(first: &str) {
    assert_eq!(line(first, "installed"), "0", "{first}");
    assert!(
        line(first, "version").starts_with(env!("CARGO_PKG_VERSION")),
        "{first}"
    );
    assert_eq!(line(first, "active"), "active;active;active;", "{first}");
    assert_eq!(line(first, "enabled"), "enabled;enabled;enabled;", "{first}");
    assert_eq!(json(first, "root")["root"]["kind"], "systemd", "{first}");
    let complaints = line(first, "verified");
    assert!(
        !complaints.contains("jobcage") && !complaints.contains("gitlab-runner"),
        "{complaints}"
    );
}

/// The job goes on under the program that it was started by, and not a byte of it is lost.
fn check_upgraded(first: &str) {
    assert_eq!(line(first, "upgraded"), "0", "{first}");
    assert_eq!(line(first, "to"), NEW);
    assert_eq!(line(first, "program"), "another one");
    assert_eq!(line(first, "supervisor"), "the same");
    assert_eq!(line(first, "still"), "active;active;active;", "{first}");
    assert_eq!(line(first, "waited"), "5", "{first}");
    assert_eq!(line(first, "logged"), "one;two on;");
    assert_eq!(line(first, "whole"), "0", "{first}");
}

fn check_closed_by_the_timer(first: &str) {
    assert_eq!(line(first, "orphan"), "left", "{first}");
    let report = json(first, "closed");
    assert_eq!(
        (&report["ending"]["kind"], &report["closed_by"], &report["clean"]),
        (&json!("lost"), &json!("gc"), &json!(true)),
        "{report:#}"
    );
}

/// All entries of one job, in order, with its labels, whatever the job's variables say.
fn check_journal(first: &str) {
    // It failed the job, with the job's own code.
    assert_eq!(line(first, "runner"), "0", "{first}");
    let entries = json(first, "entries");
    let told: Vec<_> = entries.as_array().unwrap().iter().collect();
    let [begun, stage, over] = told[..] else {
        panic!("{entries:#}")
    };
    for (entry, text, priority, ending) in [
        (begun, ": begun, uid 1000, cage /", "6", Value::Null),
        (stage, ": stage \"build_script\": exited with 4", "6", Value::Null),
        (
            over,
            ": over: exited with 4, closed by supervisor; killed 1 that were left",
            "4",
            json!("exited"),
        ),
    ] {
        let message = entry["MESSAGE"].as_str().unwrap();
        assert!(
            message.starts_with("gitlab-42-") && message.contains(text),
            "{entries:#}"
        );
        for (field, value) in [
            ("PRIORITY", json!(priority)),
            ("JOBCAGE_ENDING", ending),
            ("GITLAB_PROJECT_ID", json!("7")),
            ("GITLAB_TOLD_RUNNER_ID", json!("3")),
            ("GITLAB_TOLD_CONCURRENT_ID", json!("1")),
        ] {
            assert_eq!(entry[field], value, "{field}: {entries:#}");
        }
    }
    assert_eq!(line(first, "followed"), "3", "{first}");
    assert_eq!(
        (line(first, "secrets"), line(first, "strangers")),
        ("0", "0"),
        "{first}"
    );
}

/// It says which jobs and what to do, and nothing has changed.
fn check_refusal(first: &str) {
    assert_ne!(line(first, "purged"), "0", "{first}");
    let told = line(first, "refused");
    for word in [
        "kept-",
        "created-",
        "gitlab-43-",
        "jobcage stop --all",
        "jobcage wait",
    ] {
        assert!(told.contains(word), "{word}: {told}");
    }
    assert!(!told.contains("upgraded-"), "{told}");
    assert_eq!(line(first, "kept"), "3 active;active;active;", "{first}");
}

/// The runner goes first, the jobs in their order, and the network is there until they are over.
fn check_shutdown(second: &str) {
    let kept = json(second, "kept");
    assert_eq!(
        (&kept["ending"]["kind"], &kept["ending"]["by"], &kept["clean"]),
        (&json!("cancelled"), &json!("stop"), &json!(true)),
        "{kept:#}"
    );
    assert_eq!(line(second, "logged"), "up;asked;", "{second}");
    assert_eq!(
        line(second, "after"),
        "canceled active active inactive active",
        "{second}"
    );
    let created = json(second, "created");
    assert_eq!(
        (&created["ending"]["by"], &created["clean"]),
        (&json!("stop"), &json!(true)),
        "{created:#}"
    );
    let runner = json(second, "runner");
    assert_eq!(
        (&runner["ending"]["by"], &runner["clean"]),
        (&json!("lease"), &json!(true)),
        "{runner:#}"
    );
    // The runner was not there to clean up: whoever did tells of it.
    let told = line(second, "ends");
    assert!(
        told.starts_with("gitlab-43-") && told.contains(": over: "),
        "{told}"
    );
    let ended = |report: &Value| report["ended"].as_str().unwrap().to_owned();
    for job in [&kept, &created] {
        assert!(ended(&runner) < ended(job), "{runner:#}\n{job:#}");
    }
}

fn check_purged(second: &str) {
    assert_eq!(line(second, "active"), "active;active;active;active;", "{second}");
    assert_eq!(line(second, "gc"), "0", "{second}");
    assert_eq!(line(second, "failed"), "", "{second}");
    assert_eq!(line(second, "purged"), "0", "{second}");
    for (word, none) in [
        ("left", ""),
        ("run", ""),
        ("cgroups", ""),
        ("units", ""),
        ("processes", "0"),
    ] {
        assert_eq!(line(second, word), none, "{word}: {second}");
    }
    assert_eq!(line(second, "end"), "of it");
}
