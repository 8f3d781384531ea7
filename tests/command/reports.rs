//! `--report`, `--quiet`, `--verbose`: what is told, to whom, and what is not.

use crate::support::PATIENCE;
use crate::support::world::World;
use jobcage_job::{Death, ExitStatus, FoundBy, REPORT_VERSION};
use serde_json::{Value, json};
use std::fs;

fn raw(world: &World) -> Value {
    serde_json::from_slice(&fs::read(world.dir.join("report.json")).unwrap()).unwrap()
}

/// Every key of a report, with its value where it can be known.
#[test]
fn the_whole_report_of_a_plain_job() {
    let world = World::new("report");
    let before = jiff_now();
    let done = world
        .finish(&["--name", "plain"], &["sh", "-c", "exit 3"])
        .expect(3);
    let report = raw(&world);
    let keys: Vec<&str> = report.as_object().unwrap().keys().map(String::as_str).collect();
    let mut expected = vec![
        "version",
        "jobcage",
        "job",
        "name",
        "ending",
        "status",
        "exit_code",
        "clean",
        "closed_by",
        "started",
        "ended",
        "wall_seconds",
        "boot_id",
        "guarantee",
        "cage",
        "root",
        "steps",
        "census",
        "proof",
        "usage",
    ];
    expected.sort_unstable();
    let mut sorted = keys.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, expected);
    assert_eq!(report["version"], json!(REPORT_VERSION));
    assert_eq!(report["name"], json!("plain"));
    assert_eq!(report["ending"], json!({"kind": "exited", "code": 3}));
    assert_eq!(report["status"], json!({"code": 3}));
    assert_eq!(report["exit_code"], json!(3));
    assert_eq!(
        (&report["clean"], &report["closed_by"]),
        (&json!(true), &json!("supervisor"))
    );
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    assert_eq!(report["boot_id"], json!(boot.trim()));
    assert_eq!(report["census"], json!({"method": "empty", "count": 0}));
    let proof = &report["proof"];
    assert_eq!(
        (&proof["populated"], &proof["removed"], &proof["kill"]),
        (&json!(false), &json!(true), &json!("not_needed"))
    );
    let step = &report["steps"][0];
    assert_eq!(
        (&step["number"], &step["name"], &step["kind"]),
        (&json!(1), &json!("main"), &json!("step"))
    );
    assert_eq!(
        (&step["ending"], &step["status"]),
        (&report["ending"], &report["status"])
    );
    let times = [
        &report["started"],
        &step["started"],
        &step["ended"],
        &report["ended"],
    ];
    let mut last = before;
    for time in times {
        let time = time.as_str().unwrap().to_owned();
        assert!(
            time.ends_with('Z') && time.len() == "2026-01-01T00:00:00.000000Z".len(),
            "{time}"
        );
        assert!(time >= last, "{time} is before {last}");
        last = time;
    }
    assert!(
        report["wall_seconds"]
            .as_f64()
            .is_some_and(|s| s > 0.0 && s < PATIENCE.as_secs_f64())
    );
    assert!(
        report["usage"]["cpu_us"].as_u64().is_some_and(|us| us > 0),
        "{report:#}"
    );
    assert_eq!(done.told(), "", "a normal end is silent");
}

fn jiff_now() -> String {
    let now = std::time::SystemTime::now();
    // The first six digits of a second are cut off in the report, so ours are zeros.
    let seconds = now.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    format!(
        "{:.6}",
        jiff::Timestamp::from_second(i64::try_from(seconds).unwrap()).unwrap()
    )
}

#[test]
fn the_left_are_described() {
    let world = World::new("report-left");
    let done = world
        .finish(
            &[],
            &[
                "sh",
                "-c",
                "setsid sleep 4242 & echo $!; while ! grep -q sleep /proc/$!/comm; do :; done",
            ],
        )
        .expect(0);
    let report = done.report();
    assert_eq!(report.census.count, 1);
    let left = &report.census.left[0];
    assert_eq!(left.pid.to_string(), done.text());
    assert_eq!(
        (left.comm.as_str(), left.command.as_str()),
        ("sleep", "sleep 4242")
    );
    assert_eq!(
        (left.died, left.uid),
        (Death::Killed, nix::unistd::getuid().as_raw())
    );
    assert!(
        matches!(&left.found, FoundBy::Cgroup(place) if place.starts_with("01-")),
        "{left:?}"
    );
    let started = left.started.clone().unwrap();
    assert!(
        started.as_str() <= report.ended.as_str(),
        "{started} {}",
        report.ended
    );
    let proof = report.proof.unwrap();
    assert!(
        proof.empty_us.is_some() && proof.populated == Some(false),
        "{proof:?}"
    );
}

#[test]
fn a_report_comes_whatever_happens() {
    let world = World::new("report-always");
    for (options, argv, code) in [
        (&[][..], &["false"][..], 1),
        (&[], &["/no/such/command"], 127),
        (&["--dir", "/no/such/dir"], &["true"], 125),
        (&["--timeout", "50ms"], &["sleep", "60"], 124),
    ] {
        let report = world.finish(options, argv).expect(code).report();
        assert_eq!(report.exit_code, code);
        assert!(report.clean);
    }
    let report = world
        .finish(&["--rlimit", "core=0"], &["sh", "-c", "kill -11 $$"])
        .expect(139)
        .report();
    assert_eq!(report.status, Some(ExitStatus::Signal(11)));
}

#[test]
fn an_old_report_is_replaced_as_a_whole() {
    let world = World::new("report-replace");
    let path = world.dir.join("kept.json");
    fs::write(&path, "x".repeat(100_000)).unwrap();
    let link = world.dir.join("link.json");
    fs::hard_link(&path, &link).unwrap();
    let argument = path.display().to_string();
    world
        .call(&["run", "--report", &argument, "--", "true"])
        .expect(0);
    assert!(serde_json::from_slice::<Value>(&fs::read(&path).unwrap()).is_ok());
    assert_eq!(
        fs::read(&link).unwrap().len(),
        100_000,
        "it was written into the old file"
    );
    let names: Vec<_> = fs::read_dir(&world.dir)
        .unwrap()
        .flatten()
        .map(|e| e.file_name())
        .collect();
    assert!(
        !names.iter().any(|n| n.to_string_lossy().contains(".new")),
        "{names:?}"
    );
    // A relative path is the caller's, whatever --dir says.
    world
        .call(&["run", "--dir", "/", "--report", "relative.json", "--", "true"])
        .expect(0);
    assert!(world.dir.join("relative.json").is_file());
}

#[test]
fn a_report_can_go_into_a_pipe() {
    let world = World::new("report-pipe");
    let done = world
        .call(&[
            "run",
            "--report",
            "/dev/stderr",
            "--",
            "sh",
            "-c",
            "echo out; exit 2",
        ])
        .expect(2);
    assert_eq!(done.text(), "out");
    let report: Value = serde_json::from_slice(&done.err).unwrap();
    assert_eq!(report["exit_code"], json!(2));
    let done = world
        .shell("mkfifo pipe; cat pipe > got & \"$JOBCAGE\" run --report pipe -- false; echo $?; wait")
        .expect(0);
    assert_eq!(done.text(), "1");
    let report: Value = serde_json::from_slice(&fs::read(world.dir.join("got")).unwrap()).unwrap();
    assert_eq!(report["ending"]["kind"], json!("exited"));
}

/// The job is what counts: its exit code stays, and the error is told.
#[test]
fn a_report_that_cannot_be_written_does_not_change_the_result() {
    let world = World::new("report-unwritable");
    for (path, code) in [
        ("/no/such/dir/report.json", 0),
        ("/no/such/dir/report.json", 7),
        ("/proc/version", 3),
    ] {
        let done = world
            .call(&[
                "run",
                "--report",
                path,
                "--",
                "sh",
                "-c",
                &format!("echo ran; exit {code}"),
            ])
            .expect(code);
        assert_eq!(done.text(), "ran");
        let told = done.told();
        assert!(
            told.starts_with("jobcage: ") && told.contains(path) && told.lines().count() == 1,
            "{told}"
        );
        // Quiet means errors only, and this is one.
        let done = world
            .call(&["run", "--quiet", "--report", path, "--", "true"])
            .expect(0);
        assert!(done.told().contains(path), "{}", done.told());
    }
    world.assert_clean();
}

#[test]
fn quiet_tells_errors_only_and_verbose_everything() {
    let world = World::new("voice");
    let leaves = ["sh", "-c", "sleep 300 & exit 1"];
    let told = world.finish(&[], &leaves).expect(1).told();
    assert!(
        told.lines().all(|l| l.starts_with("jobcage: ")) && told.contains("sleep 300"),
        "{told}"
    );
    assert_eq!(world.finish(&["--quiet"], &leaves).expect(1).told(), "");
    assert_eq!(
        world
            .finish(&["-q", "--timeout", "50ms"], &["sleep", "60"])
            .expect(124)
            .told(),
        ""
    );
    let told = world
        .finish(&["--quiet"], &["/no/such/command"])
        .expect(127)
        .told();
    assert!(
        told.contains("/no/such/command") || told.contains("command"),
        "a command that cannot run is an error: {told:?}"
    );
    for option in ["--verbose", "-v"] {
        let told = world.finish(&[option], &["true"]).expect(0).told();
        assert!(
            told.contains("exited with 0") && told.contains("used: wall"),
            "{told}"
        );
    }
    assert_eq!(world.finish(&[], &["false"]).expect(1).told(), "");
}
