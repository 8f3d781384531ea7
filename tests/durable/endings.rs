//! Every ending of a detached job, as its report tells it.

use crate::support::PATIENCE;
use crate::support::captured::Captured;
use crate::support::needs::{Need, met};
use crate::support::world::World;
use jobcage_job::{Clock, Ending, ExitStatus};
use nix::mount::{MsFlags, mount};
use nix::sys::signal::Signal;
use std::fs;
use std::process::Stdio;

const STUBBORN: &str = "exec 2> /dev/null; trap 'echo asked' TERM; echo up; while :; do sleep 0.02; done";
const POLITE: &str =
    "exec 2> /dev/null; trap 'echo asked; exit 9' TERM; echo up; while :; do sleep 0.02; done";

#[test]
fn exit_codes() {
    let mut world = World::new("end-codes");
    let codes = [0, 1, 42, 124, 125, 126, 127, 128, 255];
    let jobs: Vec<Captured> = codes
        .iter()
        .map(|code| world.detach(&[], &["sh", "-c", &format!("exit {code}")]))
        .collect();
    for (code, job) in codes.into_iter().zip(jobs) {
        let report = job.wait_over();
        assert_eq!(
            (report.ending, report.status, report.exit_code),
            (Ending::Exited { code }, Some(ExitStatus::Code(code)), code)
        );
    }
    world.assert_nobody_left();
}

#[test]
fn signals() {
    let mut world = World::new("end-signals");
    for signal in [1, 9, 11, 13, 15] {
        let script = format!("ulimit -c 0; echo last; kill -{signal} $$");
        let job = world.detach(&[], &["sh", "-c", &script]);
        let report = job.wait_over();
        assert_eq!(
            (report.ending, report.status, report.exit_code),
            (
                Ending::Signalled { signal },
                Some(ExitStatus::Signal(signal)),
                128 + signal
            )
        );
        assert_eq!(job.text("log-01"), "last\n");
    }
    world.assert_nobody_left();
}

#[test]
fn commands_that_cannot_be_started() {
    let mut world = World::new("end-never");
    fs::write(world.dir.join("plain"), "x").unwrap();
    let plain = world.dir.join("plain").display().to_string();
    for (program, argv, code, errno) in [
        ("no-such-program", "no-such-program", 127, 2),
        ("plain", plain.as_str(), 126, 13),
    ] {
        let job = world.detach(&["--after", "echo $JOBCAGE_ENDING"], &[argv]);
        let report = job.wait_over();
        let Ending::NeverStarted(never) = &report.ending else {
            panic!("{report:#?}")
        };
        assert_eq!(
            (report.exit_code, never.errno, never.stage.as_str()),
            (code, errno, "exec")
        );
        assert_eq!(
            (never.what.as_str(), job.text("log-02").as_str()),
            (program, "never_started\n")
        );
    }
    world.assert_nobody_left();
}

#[test]
fn a_stop_is_polite_and_a_second_one_is_not() {
    let mut world = World::new("end-stop");
    let job = world.detach(&["--after", "echo $JOBCAGE_RESULT"], &["sh", "-c", POLITE]);
    job.wait_log("log-01", "up\n");
    world.call(&["stop", &job.id]).expect(0);
    let report = job.wait_over();
    assert!(matches!(report.ending, Ending::Cancelled(_)), "{report:#?}");
    assert_eq!(
        (report.status, report.exit_code),
        (Some(ExitStatus::Code(9)), 143)
    );
    assert_eq!(
        (job.text("log-01"), job.text("log-02")),
        ("up\nasked\n".into(), "canceled\n".into())
    );

    let job = world.detach(&["--grace", "1h"], &["sh", "-c", STUBBORN]);
    job.wait_log("log-01", "up\n");
    let mut first = world.command(crate::support::programs::jobcage());
    let mut first = first
        .args(["stop", &job.id])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    job.wait_log("log-01", "up\nasked\n");
    world.call(&["stop", &job.id]).expect(0);
    let report = job.wait_over();
    assert!(matches!(report.ending, Ending::Cancelled(_)), "{report:#?}");
    assert!(crate::support::call::wait(&mut first, PATIENCE).is_some_and(|status| status.success()));

    let job = world.detach(&["--grace", "1h"], &["sh", "-c", STUBBORN]);
    job.wait_log("log-01", "up\n");
    world.call(&["stop", &job.id, "--now"]).expect(0);
    assert_eq!(job.wait_over().exit_code, 143);
    world.assert_nobody_left();
}

#[test]
fn clocks() {
    let mut world = World::new("end-clocks");
    let wall = world.detach(
        &["--timeout", "300ms", "--after", "echo $JOBCAGE_RESULT"],
        &["sleep", "300"],
    );
    let talk = "i=0; while [ $i -lt 20 ]; do printf .; sleep 0.05; i=$((i+1)); done; exec sleep 300";
    let idle = world.detach(&["--idle-timeout", "500ms"], &["sh", "-c", talk]);
    let stubborn = world.detach(
        &["--timeout", "100ms", "--grace", "300ms"],
        &["sh", "-c", STUBBORN],
    );
    let after = world.detach(
        &["--after", "echo it; exec sleep 300", "--after-timeout", "300ms"],
        &["true"],
    );

    let report = wall.wait_over();
    assert_eq!(
        (report.ending, report.exit_code),
        (Ending::TimedOut { clock: Clock::Wall }, 124)
    );
    assert_eq!(
        (report.status, wall.text("log-02").as_str()),
        (Some(ExitStatus::Signal(15)), "timedout\n")
    );
    let report = idle.wait_over();
    assert_eq!(report.ending, Ending::TimedOut { clock: Clock::Idle });
    assert_eq!(idle.text("log-01"), ".".repeat(20), "output is no silence");
    let report = stubborn.wait_over();
    assert_eq!(report.status, Some(ExitStatus::Signal(9)));
    assert!(report.wall_seconds >= 0.4, "{}", report.wall_seconds);
    let report = after.wait_over();
    assert_eq!(
        report.ending,
        Ending::Exited { code: 0 },
        "the after phase does not change it"
    );
    assert_eq!(report.steps[1].ending, Ending::TimedOut { clock: Clock::Wall });
    assert_eq!(after.text("log-02"), "it\n");
    world.assert_nobody_left();
}

#[test]
fn a_full_log_can_stop_the_job() {
    let mut world = World::new("end-log-full");
    let options = [
        "--log-max",
        "64K",
        "--log-full",
        "stop",
        "--after",
        "echo $JOBCAGE_ENDING $JOBCAGE_RESULT",
    ];
    let job = world.detach(&options, &["yes"]);
    let report = job.wait_over();
    assert_eq!(
        (&report.ending, report.exit_code),
        (&Ending::LogFull { errno: None }, 125)
    );
    assert_eq!(job.file("log-01"), b"y\n".repeat(32 * 1024));
    let log = &report.steps[0].logs[0];
    assert!(!log.whole && log.bytes == 65536, "{log:?}");
    assert_eq!(job.text("log-02"), "log_full failed\n");
    // Exactly the limit is not too much.
    let argv = ["head", "-c", "65536", "/dev/zero"];
    let job = world.detach(&options, &argv);
    let report = job.wait_over();
    assert_eq!(report.ending, Ending::Exited { code: 0 });
    assert!(report.steps[0].logs[0].whole);
    world.assert_nobody_left();
}

#[test]
fn a_full_disk_ends_the_job_and_never_hangs_it() {
    if !met("detach_full_disk", &[Need::Root]) {
        return;
    }
    let mut world = World::new("end-disk-full");
    let state = world.dir.join("state");
    mount(
        Some("none"),
        &state,
        Some("tmpfs"),
        MsFlags::empty(),
        Some("size=256k,mode=700"),
    )
    .unwrap();
    let job = world.detach(
        &["--after", ": > after"],
        &["sh", "-c", "trap 'exit 0' TERM; yes; sleep 300"],
    );
    // The report needs room that the log has taken: it may have to wait for it.
    let over = job.wait(|job| job.record.join("report.json").exists());
    assert!(over, "{:?} {}", job.files(), job.text("phase.json"));
    let report = job.wait_over();
    assert_eq!(report.ending, Ending::LogFull { errno: Some(28) }, "{report:#?}");
    assert!(world.dir.join("after").exists(), "the after phase has run");
    let log = &report.steps[0].logs[0];
    assert!(!log.whole && log.bytes > 0, "{log:?}");
    world.assert_nobody_left();
}

/// A signal that is sent to the supervisor itself is a stop; others mean nothing to it.
#[test]
fn signals_to_the_supervisor() {
    let mut world = World::new("end-sent");
    for (signal, code) in [
        (Signal::SIGTERM, 143),
        (Signal::SIGHUP, 129),
        (Signal::SIGINT, 130),
    ] {
        let job = world.detach(&[], &["sh", "-c", "echo up; exec sleep 300"]);
        job.wait_log("log-01", "up\n");
        job.supervisor(&world).signal(signal);
        let report = job.wait_over();
        assert!(matches!(report.ending, Ending::Cancelled(_)), "{report:#?}");
        assert_eq!(report.exit_code, code);
    }
    world.assert_nobody_left();
}
