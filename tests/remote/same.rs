//! A job there is as a job here.

use crate::rig::{Rig, can};
use std::fs;
use std::path::PathBuf;

#[test]
fn a_job_there_is_as_a_job_here() {
    if !can("same::a_job_there_is_as_a_job_here") {
        return;
    }
    let rig = Rig::new("remote-same");
    let done = rig
        .run(&[], &["sh", "-c", "echo out; echo err >&2; exit 7"])
        .expect(7);
    assert_eq!(done.text(), "out");
    assert!(done.told().ends_with("err\n"), "{}", done.told());
    rig.run(&[], &["/nonexistent"]).expect(127);
    rig.run(&[], &["sh", "-c", "kill -9 $$"]).expect(137);
    rig.run(&["--timeout", "200ms", "--grace", "100ms"], &["sleep", "60"])
        .expect(124);
    // What it leaves is killed there, and told here.
    let done = rig
        .run(&[], &["sh", "-c", "sleep 300 >/dev/null 2>&1 & exit 0"])
        .expect(0);
    assert!(
        done.told().contains("1 process was left and killed"),
        "{}",
        done.told()
    );
    let odd = "a b'c\"d\\e$f`g*\t;#é";
    let done = rig.run(&[], &["printf", "%s|", odd, "", "--", "-x"]).expect(0);
    assert_eq!(done.text(), format!("{odd}||--|-x|"));
    rig.assert_nothing_left();
}

/// Whoever sends has nothing to wake him up but what he waits for himself.
#[test]
fn much_output_comes_without_a_sign_of_life() {
    if !can("same::much_output_comes_without_a_sign_of_life") {
        return;
    }
    let mut rig = Rig::new("remote-much");
    let running = rig.start(
        "run",
        &["--keepalive", "10m", "--", "head", "-c", "100000000", "/dev/zero"],
    );
    assert_eq!(running.end().expect(0).out.len(), 100_000_000);
    rig.assert_nothing_left();
}

#[test]
fn variables_go_over_the_line_and_on_no_command_line() {
    if !can("same::variables_go_over_the_line_and_on_no_command_line") {
        return;
    }
    let mut rig = Rig::new("remote-env");
    let mut command = rig.command(
        "run",
        &[
            "--env",
            "SECRET",
            "--env=GIVEN=x y",
            "--",
            "sh",
            "-c",
            "echo $SECRET$GIVEN",
        ],
    );
    command.env("SECRET", "s3cr3t-word");
    let done = crate::support::call::to_end(command, b"").expect(0);
    assert_eq!(done.text(), "s3cr3t-wordx y");
    let lacking = rig.run(&["--env", "NOT_HERE"], &["true"]).refused();
    assert!(lacking.contains("NOT_HERE is not set"), "{lacking}");
    // While it runs, the value is in no list of processes, and in no file there.
    let running = rig.start(
        "run",
        &[
            "--env",
            "SECRET=0ther-w0rd",
            "--",
            "sh",
            "-c",
            "echo ready; cat; sleep 30",
        ],
    );
    running.wait_for("ready");
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let words = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let text = String::from_utf8_lossy(&words).into_owned();
        let is_ours = text.contains("--env\0SECRET=0ther-w0rd");
        assert!(is_ours || !text.contains("0ther-w0rd"), "{text:?}");
    }
    assert!(files_with(&rig.world.dir.join("state"), "0ther-w0rd").is_empty());
    running.process().signal(nix::sys::signal::Signal::SIGTERM);
    running.end().expect(143);
    rig.assert_nothing_left();
}

fn files_with(dir: &std::path::Path, word: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files_with(&path, word));
        } else if fs::read(&path)
            .is_ok_and(|text| text.windows(word.len()).any(|piece| piece == word.as_bytes()))
        {
            found.push(path);
        }
    }
    found
}

#[test]
fn the_after_phase_runs_there_and_the_report_comes_here() {
    if !can("same::the_after_phase_runs_there_and_the_report_comes_here") {
        return;
    }
    let rig = Rig::new("remote-after");
    let report = rig.world.dir.join("report.json");
    let words = [
        "--after",
        "echo after $JOBCAGE_EXIT_CODE",
        "--report",
        report.to_str().unwrap(),
    ];
    let done = rig.run(&words, &["sh", "-c", "echo main; exit 3"]).expect(3);
    assert_eq!(done.text(), "main\nafter 3");
    let report = crate::support::job::read_report(&report);
    assert_eq!(
        (report.host.as_deref(), report.exit_code, report.clean),
        (Some("there"), 3, true)
    );
    rig.assert_nothing_left();
}

#[test]
fn a_file_of_this_side_is_its_standard_input() {
    if !can("same::a_file_of_this_side_is_its_standard_input") {
        return;
    }
    let rig = Rig::new("remote-stdin");
    let file = rig.world.dir.join("input");
    let bytes: Vec<u8> = (0..3_000_000_u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    fs::write(&file, &bytes).unwrap();
    let done = rig.run(&["--stdin", file.to_str().unwrap()], &["cat"]).expect(0);
    assert!(done.out == bytes);
    let done = rig.run(&[], &["sh", "-c", "cat; echo end"]).expect(0);
    assert_eq!(done.text(), "end");
    rig.assert_nothing_left();
}

#[test]
fn a_jobcage_is_copied_once_and_told_of() {
    if !can("same::a_jobcage_is_copied_once_and_told_of") {
        return;
    }
    let rig = Rig::new("remote-copy");
    let copied = |done: &crate::support::call::Done| {
        done.told()
            .contains("had no jobcage of this version: copied there")
    };
    assert!(copied(&rig.run(&[], &["true"]).expect(0)));
    assert!(!copied(&rig.run(&[], &["true"]).expect(0)));
    let copies: Vec<_> = fs::read_dir(rig.world.dir.join("cache/jobcage"))
        .unwrap()
        .flatten()
        .collect();
    assert_eq!(copies.len(), 1, "{copies:?}");
    let own = fs::read(crate::support::programs::jobcage()).unwrap();
    assert!(fs::read(copies[0].path()).unwrap() == own);
    rig.assert_nothing_left();
}

#[test]
fn an_installed_one_is_used() {
    if !can("same::an_installed_one_is_used") {
        return;
    }
    let bin = std::env::temp_dir().join(format!("jobcage-test-{}-bin", std::process::id()));
    fs::create_dir_all(&bin).unwrap();
    std::os::unix::fs::symlink(crate::support::programs::jobcage(), bin.join("jobcage")).unwrap();
    let path = format!("{}:/usr/bin:/bin", bin.display());
    let rig = Rig::with("remote-installed", &[("PATH", &path)], "");
    rig.run(&[], &["true"]).expect(0);
    assert!(!rig.world.dir.join("cache").exists());
    // An older one, which has never heard of this.
    fs::remove_file(bin.join("jobcage")).unwrap();
    fs::write(
        bin.join("jobcage"),
        "#!/bin/sh\necho 'jobcage: no such verb' >&2\nexit 125\n",
    )
    .unwrap();
    fs::set_permissions(
        bin.join("jobcage"),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    let done = rig.run(&[], &["true"]).expect(0);
    assert!(done.told().contains("copied there"), "{}", done.told());
    fs::remove_dir_all(&bin).unwrap();
    rig.assert_nothing_left();
}
