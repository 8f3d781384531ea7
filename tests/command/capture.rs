//! `--idle-timeout`: output goes through jobcage, and nobody can tell.

use crate::support::PATIENCE;
use crate::support::call::wait;
use crate::support::needs::{self, Need};
use crate::support::process::Process;
use crate::support::programs;
use crate::support::seed::Random;
use crate::support::world::World;
use jobcage_job::{Cause, Clock, Ending};
use std::fs;
use std::io::Read as _;
use std::process::Stdio;

/// Bytes of every value, and more of them than any pipe holds.
fn noise(name: &str, len: usize) -> Vec<u8> {
    let mut random = Random::of(name);
    let mut all: Vec<u8> = (0..=255).collect();
    while all.len() < len {
        all.extend(random.next().to_le_bytes());
    }
    all
}

const HOUR: [&str; 2] = ["--idle-timeout", "1h"];

#[test]
fn output_is_the_same_byte_for_byte() {
    let world = World::new("capture-bytes");
    let (out, err) = (noise("out", 3_000_000), noise("err", 1_000_000));
    fs::write(world.dir.join("out"), &out).unwrap();
    fs::write(world.dir.join("err"), &err).unwrap();
    let done = world
        .finish(&HOUR, &["sh", "-c", "cat err >&2 & cat out; wait; exit 3"])
        .expect(3);
    assert!(
        done.out == out,
        "{} bytes instead of {}",
        done.out.len(),
        out.len()
    );
    assert!(
        done.err == err,
        "{} bytes instead of {}",
        done.err.len(),
        err.len()
    );
    // Nothing at all, and what has no line end.
    assert_eq!(world.finish(&HOUR, &["true"]).expect(0).out, b"");
    assert_eq!(world.finish(&HOUR, &["printf", "a"]).expect(0).out, b"a");
    world.assert_clean_after_gc();
}

#[test]
fn a_slow_reader_gets_everything() {
    let world = World::new("capture-slow");
    // More than the pipe to the reader takes, less than that and the one to jobcage together: the command can end
    // before anybody has read a byte.
    let out = noise("slow", 100_000);
    fs::write(world.dir.join("out"), &out).unwrap();
    let mut command = world.command(programs::jobcage());
    command.args([
        "run",
        "--idle-timeout",
        "1h",
        "--",
        "sh",
        "-c",
        "echo $$ > pid; mv pid main; cat out; exit 3",
    ]);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    assert!(crate::support::cgroup::wait_change(&world.dir, PATIENCE, || {
        world.dir.join("main").exists()
    }));
    let main: i32 = fs::read_to_string(world.dir.join("main"))
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    assert!(
        Process::open(main).wait_end(PATIENCE),
        "the command waits for its reader"
    );
    let mut got = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut got).unwrap();
    assert_eq!(wait(&mut child, PATIENCE).unwrap().code(), Some(3));
    assert!(got == out, "{} bytes instead of {}", got.len(), out.len());
}

#[test]
fn a_reader_that_goes_ends_the_command_as_without_us() {
    let world = World::new("capture-closed");
    for options in [&[][..], &HOUR] {
        let report = world.dir.join("report.json").display().to_string();
        let script = format!(
            "\"$JOBCAGE\" run --report {report} {} -- yes | head -n 1",
            options.join(" ")
        );
        let done = world.shell(&script).expect(0);
        assert_eq!(done.text(), "y", "{}", done.told());
        // The shell tells the exit code of the last one only; the report that of jobcage. The pipeline may be over
        // before jobcage is, so it is asked for by the lock of the record.
        let dir = world.dir.clone();
        assert!(crate::support::cgroup::wait_change(&dir, PATIENCE, || dir
            .join("report.json")
            .exists()));
        let report = crate::support::job::read_report(&dir.join("report.json"));
        // A captured job does not write to its reader itself: jobcage stops it.
        let right = match (options, &report.ending) {
            ([], ending) => *ending == Ending::Signalled { signal: 13 },
            (_, ending) => matches!(ending, Ending::Cancelled(Cause::Stop { .. })),
        };
        assert!(right, "{options:?}: {report:#?}");
        fs::remove_file(dir.join("report.json")).unwrap();
    }
}

#[test]
fn a_background_process_that_keeps_stdout_open_does_not_hold_us() {
    let mut world = World::new("capture-held");
    for options in [&[][..], &HOUR] {
        let done = world
            .finish(options, &["sh", "-c", "sleep 300 & echo told; exit 6"])
            .expect(6);
        assert_eq!(done.text(), "told");
        assert!(
            done.told().contains("1 process was left and killed"),
            "{}",
            done.told()
        );
    }
    world.assert_nothing_left();
}

#[test]
fn silence_ends_the_job_and_chatter_does_not() {
    let mut world = World::new("idle");
    let done = world
        .finish(
            &["--idle-timeout", "300ms"],
            &["sh", "-c", "echo first; sleep 60"],
        )
        .expect(124);
    assert_eq!(done.text(), "first");
    assert_eq!(done.report().ending, Ending::TimedOut { clock: Clock::Idle });
    assert!(done.told().contains("was silent for too long"), "{}", done.told());
    // Twice the idle time, with a word now and then on either stream.
    let chatter = "for i in 1 2 3 4; do sleep 0.3; echo $i; sleep 0.3; echo $i >&2; done";
    let done = world
        .finish(&["--idle-timeout", "1200ms"], &["sh", "-c", chatter])
        .expect(0);
    assert_eq!(
        (done.text().as_str(), done.told().as_str()),
        ("1\n2\n3\n4", "1\n2\n3\n4\n")
    );
    world.assert_nothing_left();
}

/// A pipe belongs to whoever made it, and opening `/dev/stderr` opens it by name.
#[test]
fn another_user_can_open_its_own_output() {
    if !needs::met("capture-user", &[Need::Root]) {
        return;
    }
    let world = World::new("capture-user");
    let done = world
        .finish(
            &["--idle-timeout", "1h", "--user", "61234"],
            &[
                "sh",
                "-c",
                "echo one > /dev/stdout; echo two > /dev/stderr; echo three",
            ],
        )
        .expect(0);
    assert_eq!(
        (done.text().as_str(), done.told().as_str()),
        ("one\nthree", "two\n")
    );
}
