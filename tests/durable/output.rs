//! What a detached job writes is in its log: all of it, in order, at once, and never twice.

use crate::support::PATIENCE;
use crate::support::needs::{Need, met};
use crate::support::process::Process;
use crate::support::seed::Random;
use crate::support::world::World;
use jobcage_job::{Ending, LogReport, Report};
use std::fs;
use std::io::{BufRead as _, BufReader};
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

/// The logs of a step in a report.
fn logs(report: &Report, step: usize) -> &[LogReport] {
    &report.steps[step - 1].logs
}

#[test]
fn merged_has_both_in_their_exact_order() {
    let mut world = World::new("log-merged");
    let script = "i=0; while [ $i -lt 2000 ]; do echo out $i; echo err $i >&2; i=$((i+1)); done; exit 3";
    let job = world.detach(&[], &["sh", "-c", script]);
    let report = job.wait_over();
    assert_eq!(report.exit_code, 3);
    let wanted: String = (0..2000).map(|i| format!("out {i}\nerr {i}\n")).collect();
    assert!(job.text("log-01") == wanted, "{} bytes", job.file("log-01").len());
    let [log] = logs(&report, 1) else {
        panic!("{report:#?}")
    };
    assert!(
        log.whole && log.bytes == wanted.len() as u64 && log.dropped.is_none(),
        "{log:?}"
    );
    world.assert_nobody_left();
}

#[test]
fn split_has_each_byte_for_byte() {
    let mut world = World::new("log-split");
    let (out, err) = (noise("out", 30_000_000), noise("err", 5_000_000));
    fs::write(world.dir.join("out"), &out).unwrap();
    fs::write(world.dir.join("err"), &err).unwrap();
    let job = world.detach(
        &["--streams", "split"],
        &["sh", "-c", "cat err >&2 & cat out; wait; exit 3"],
    );
    let report = job.wait_over();
    assert_eq!(report.exit_code, 3);
    for (name, wanted, log) in [
        ("log-01.stdout", &out, &logs(&report, 1)[0]),
        ("log-01.stderr", &err, &logs(&report, 1)[1]),
    ] {
        assert!(
            job.file(name) == *wanted,
            "{name}: {} bytes",
            job.file(name).len()
        );
        assert!(log.whole && log.bytes == wanted.len() as u64, "{log:?}");
    }
    world.assert_nobody_left();
}

#[test]
fn nothing_and_what_has_no_line_end() {
    let mut world = World::new("log-little");
    for (argv, wanted) in [
        (&["true"][..], &b""[..]),
        (&["printf", "a"], b"a"),
        (&["printf", "\\0\\377"], b"\0\xff"),
    ] {
        let job = world.detach(&[], argv);
        let report = job.wait_over();
        assert_eq!(job.file("log-01"), wanted);
        let log = &logs(&report, 1)[0];
        assert_eq!(
            (log.bytes, log.at_exit, log.whole),
            (wanted.len() as u64, Some(log.bytes), true)
        );
    }
    world.assert_nobody_left();
}

/// Each byte is in the log before the next is written: the job waits for that.
#[test]
fn one_byte_at_a_time() {
    let mut world = World::new("log-bytes");
    world.fifo("go");
    let script = "exec 3<> go; i=0; while [ $i -lt 50 ]; do printf .; read word <&3; i=$((i+1)); done";
    let job = world.detach(&[], &["sh", "-c", script]);
    let mut held = Vec::new();
    for i in 1..=50 {
        job.wait_log("log-01", &".".repeat(i));
        held.push(world.say_into("go", "on"));
    }
    assert_eq!(job.wait_over().exit_code, 0);
    world.assert_nobody_left();
}

#[test]
fn a_job_that_closes_its_output_goes_on() {
    let mut world = World::new("log-closed");
    world.fifo("go");
    let script = "echo before; exec > /dev/null 2>&1; : > closed; read word < go; exit 5";
    let job = world.detach(&["--after", "echo after"], &["sh", "-c", script]);
    job.wait_log("log-01", "before\n");
    assert!(crate::support::captured::wait_written(&world.dir, || world
        .dir
        .join("closed")
        .exists()));
    // The end of its output is not its end.
    assert!(!job.supervisor(&world).has_ended() && !job.record.join("report.json").exists());
    let _held = world.say_into("go", "on");
    let report = job.wait_over();
    assert_eq!(report.ending, Ending::Exited { code: 5 });
    assert!(logs(&report, 1)[0].whole);
    assert_eq!(job.text("log-02"), "after\n");
    world.assert_nobody_left();
}

/// The status is known as soon as the main process ends; what the others write until they are killed still comes.
#[test]
fn a_background_child_keeps_the_output() {
    let mut world = World::new("log-background");
    for fifo in ["late", "go"] {
        world.fifo(fifo);
    }
    let script = "(read word < late; echo $word; exec sleep 300) & echo $! > child; echo first; exit 3";
    let job = world.detach(&["--after", "read word < go"], &["sh", "-c", script]);
    assert!(job.wait(|job| job.text("status-01.json").contains("code") && job.step(1).status.is_some()));
    let log = &job.step(1).logs[0];
    assert_eq!(
        (log.bytes, log.at_exit, log.whole),
        (6, Some(6), false),
        "{log:?}"
    );
    let child = fs::read_to_string(world.dir.join("child")).unwrap();
    let child = Process::open(child.trim().parse().unwrap());
    let _late = world.say_into("late", "late");
    job.wait_log("log-01", "first\nlate\n");
    let _go = world.say_into("go", "on");
    let report = job.wait_over();
    assert_eq!(report.ending, Ending::Exited { code: 3 });
    let log = &logs(&report, 1)[0];
    assert_eq!(
        (log.bytes, log.at_exit, log.whole),
        (11, Some(6), true),
        "{log:?}"
    );
    assert!(
        child.wait_end(PATIENCE) && report.census.count == 1,
        "{:#?}",
        report.census
    );
    world.assert_nobody_left();
}

/// The last words of what is killed at the end come into the log, too.
#[test]
fn the_pipe_is_drained_behind_the_kill() {
    let mut world = World::new("log-kill");
    // The pipe is never empty: the writer is killed in the middle of its work.
    let job = world.detach(&["--log-max", "none"], &["sh", "-c", "yes & sleep 0.2; exit 3"]);
    let report = job.wait_over();
    let log = job.file("log-01");
    assert_eq!(logs(&report, 1)[0].bytes, log.len() as u64);
    assert!(logs(&report, 1)[0].whole && !log.is_empty());
    let lines = log.chunks(2).filter(|line| line == b"y\n").count();
    assert!(lines >= log.len() / 2, "it is not what yes(1) writes");
    world.assert_nobody_left();
}

/// `--log-sync`: no piece is taken before the last one is on the disk.
#[test]
fn every_piece_can_be_on_the_disk_before_the_next() {
    if !met("log-sync", &[Need::Program("strace")]) {
        return;
    }
    let mut world = World::new("log-sync");
    world.fifo("go");
    let script = "echo up; read word < go; for word in one two three; do echo $word; sleep 0.05; done";
    let job = world.detach(&["--log-sync"], &["sh", "-c", script]);
    job.wait_log("log-01", "up\n");
    let supervisor = job.supervisor(&world).pid.to_string();
    let mut strace = world.command("strace");
    strace.args(["-e", "trace=splice,fdatasync", "-o", "calls", "-p", &supervisor]);
    let mut strace = strace.stderr(Stdio::piped()).spawn().unwrap();
    let mut told = String::new();
    BufReader::new(strace.stderr.as_mut().unwrap())
        .read_line(&mut told)
        .unwrap();
    assert!(told.contains("attached"), "{told}");
    let _go = world.say_into("go", "on");
    assert_eq!(job.wait_over().exit_code, 0);
    strace.wait().unwrap();
    let calls = fs::read_to_string(world.dir.join("calls")).unwrap();
    let lines: Vec<&str> = calls.lines().collect();
    let taken = |line: &&str| line.starts_with("splice(") && !line.contains("= -1") && !line.ends_with("= 0");
    let pieces: Vec<usize> = (0..lines.len()).filter(|at| taken(&lines[*at])).collect();
    assert!(pieces.len() >= 3, "{calls}");
    let synced = |at: &usize| {
        lines
            .get(at + 1)
            .is_some_and(|next| next.starts_with("fdatasync("))
    };
    assert!(pieces.iter().all(synced), "{calls}");
    assert_eq!(job.text("log-01"), "up\none\ntwo\nthree\n");
    world.assert_nobody_left();
}

#[test]
fn head_and_tail_are_kept() {
    let mut world = World::new("log-middle");
    let all = noise("middle", 3_000_001);
    fs::write(world.dir.join("in"), &all).unwrap();
    let options = ["--log-max", "256K", "--log-full", "middle", "--stdin", "in"];
    let job = world.detach(&options, &["cat"]);
    let report = job.wait_over();
    assert_eq!(report.ending, Ending::Exited { code: 0 });
    let log = &logs(&report, 1)[0];
    let gap = log.dropped.expect("something was dropped");
    assert_eq!((log.bytes, log.whole), (all.len() as u64, true));
    let (from, to) = (
        usize::try_from(gap.from).unwrap(),
        usize::try_from(gap.to).unwrap(),
    );
    let seen = job.file("log-01");
    assert_eq!(seen.len(), all.len(), "offsets stay");
    assert!(seen[..from] == all[..from] && seen[to..] == all[to..]);
    assert!(seen[from..to].iter().all(|byte| *byte == 0) && all.len() - (to - from) <= 256 * 1024);
    let written = job.file("log-01.gap");
    assert_eq!(written, [gap.from.to_le_bytes(), gap.to.to_le_bytes()].concat());
    world.assert_nobody_left();
}
