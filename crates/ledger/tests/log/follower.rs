//! What a follower passes on, when it wakes and when it ends.

use crate::support::{CAPTURE, first_wrong, middle, record, report, step};
use jobcage_job::{CaptureSpec, LogFull, LogReport, Stream, Streams};
use jobcage_ledger::Record;
use jobcage_ledger::log::{Follower, Happening, LogWriter, Outlet, Start, Taken, Until, Wanted, name};
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{pipe2, read, write};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

const SPLIT: CaptureSpec = CaptureSpec {
    streams: Streams::Split,
    ..CAPTURE
};

/// How a follower is to work.
#[derive(Clone, Copy)]
struct Plan {
    capture: CaptureSpec,
    wanted: Wanted,
    start: Start,
    until: Until,
}

const PLAN: Plan = Plan {
    capture: CAPTURE,
    wanted: Wanted {
        step: None,
        stream: None,
    },
    start: Start::Offset(0),
    until: Until::JobOver,
};

/// Follows in a thread of its own, into these; what happened, in order.
fn follow<'scope>(
    scope: &'scope Scope<'scope, '_>,
    record: &'scope Record,
    plan: Plan,
    out: OwnedFd,
    err: OwnedFd,
) -> ScopedJoinHandle<'scope, Vec<Happening>> {
    scope.spawn(move || {
        let mut outlets = [out, err].map(|fd| Outlet::new(fd.as_fd()).unwrap());
        let [out, err] = &mut outlets;
        let mut follower = Follower::new(record, plan.capture, plan.wanted, plan.start, plan.until).unwrap();
        let mut happened = Vec::new();
        loop {
            let one = follower.next(out, err, None).unwrap();
            happened.push(one);
            if !matches!(one, Happening::Lost { .. } | Happening::Woken) {
                return happened;
            }
        }
    })
}

fn pipe() -> (File, OwnedFd) {
    let (reading, writing) = pipe2(OFlag::O_CLOEXEC).unwrap();
    (reading.into(), writing)
}

fn nowhere() -> OwnedFd {
    File::options().write(true).open("/dev/null").unwrap().into()
}

fn log(record: &Record, name: &str) -> File {
    let path = record.path().join(name);
    File::options().create(true).append(true).open(path).unwrap()
}

fn expect(from: &mut File, wanted: &str) {
    let mut found = vec![0; wanted.len()];
    from.read_exact(&mut found).unwrap();
    assert_eq!(String::from_utf8_lossy(&found), wanted);
}

fn rest(mut from: File) -> String {
    let mut text = String::new();
    from.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn it_follows_from_before_the_first_byte_through_all_steps_to_the_report() {
    let place = tempfile::tempdir().unwrap();
    let (record, _lock) = record(place.path(), CAPTURE);
    let (mut reading, writing) = pipe();
    std::thread::scope(|scope| {
        let follower = follow(scope, &record, PLAN, writing, nowhere());
        let mut main = log(&record, "log-01");
        for piece in ["a", "bc\n", ".", "."] {
            main.write_all(piece.as_bytes()).unwrap();
            expect(&mut reading, piece);
        }
        record.write_step(&step(1, true, Vec::new())).unwrap();
        let mut after = log(&record, "log-03");
        after.write_all(b"after").unwrap();
        expect(&mut reading, "after");
        main.write_all(b"late").unwrap();
        expect(&mut reading, "late");
        main.write_all(b"last").unwrap();
        record.close(&report(&record)).unwrap();
        assert_eq!(follower.join().unwrap(), [Happening::Over]);
    });
    assert_eq!(rest(reading), "last");
}

#[test]
fn what_is_over_already_is_passed_on_step_by_step() {
    let place = tempfile::tempdir().unwrap();
    let (record, _lock) = record(place.path(), SPLIT);
    for (name, text) in [
        ("log-02.stderr", "E2"),
        ("log-01.stderr", "E1"),
        ("log-02.stdout", "O2"),
        ("log-01.stdout", "O1"),
    ] {
        log(&record, name).write_all(text.as_bytes()).unwrap();
    }
    let outcome = |plan: Plan| {
        let ((out, to_out), (err, to_err)) = (pipe(), pipe());
        std::thread::scope(|scope| {
            let follower = follow(scope, &record, plan, to_out, to_err);
            assert_eq!(follower.join().unwrap(), [Happening::Over]);
        });
        (rest(out), rest(err))
    };
    let now = Plan {
        capture: SPLIT,
        until: Until::Now,
        ..PLAN
    };
    let texts = |out: &str, err: &str| (out.to_owned(), err.to_owned());
    assert_eq!(outcome(now), texts("O1O2", "E1E2"));
    let wanted = |step, stream| Plan {
        wanted: Wanted { step, stream },
        ..now
    };
    assert_eq!(outcome(wanted(Some(2), None)), texts("O2", "E2"));
    assert_eq!(outcome(wanted(Some(9), None)), texts("", ""));
    // One stream alone is what was asked for, so it comes where it can be piped on.
    assert_eq!(outcome(wanted(None, Some(Stream::Stderr))), texts("E1E2", ""));
    let from_one = Plan {
        start: Start::Offset(1),
        ..wanted(Some(2), Some(Stream::Stdout))
    };
    assert_eq!(outcome(from_one), texts("2", ""));
    record.close(&report(&record)).unwrap();
    assert_eq!(
        outcome(Plan {
            capture: SPLIT,
            ..PLAN
        }),
        texts("O1O2", "E1E2")
    );
}

#[test]
fn a_look_at_what_is_there_now_ends_while_the_job_writes_on() {
    let place = tempfile::tempdir().unwrap();
    let (record, _lock) = record(place.path(), CAPTURE);
    let (reading, writing) = pipe();
    let mut main = log(&record, "log-01");
    main.write_all(&[b'x'; 100_000]).unwrap();
    std::thread::scope(|scope| {
        let plan = Plan {
            until: Until::Now,
            ..PLAN
        };
        let follower = follow(scope, &record, plan, writing, nowhere());
        // It is stuck in the pipe until we read, so this is written behind its start.
        let mut reading = reading;
        expect(&mut reading, "x");
        main.write_all(b"more").unwrap();
        assert_eq!(rest(reading).len(), 99_999);
        assert_eq!(follower.join().unwrap(), [Happening::Over]);
    });
}

/// What is written while the follower arms its watch is told by no event: in one round of 500 it is.
#[test]
fn a_step_is_over_when_what_its_main_process_wrote_is_passed_on() {
    for _ in 0..100 {
        follow_a_step_to_its_end();
    }
}

fn follow_a_step_to_its_end() {
    let place = tempfile::tempdir().unwrap();
    let (record, _lock) = record(place.path(), CAPTURE);
    let (mut reading, writing) = pipe();
    std::thread::scope(|scope| {
        let plan = Plan {
            wanted: Wanted {
                step: Some(1),
                stream: None,
            },
            until: Until::StepEnded(1),
            ..PLAN
        };
        let follower = follow(scope, &record, plan, writing, nowhere());
        let mut main = log(&record, "log-01");
        record.write_step(&step(1, false, Vec::new())).unwrap();
        main.write_all(b"abc").unwrap();
        expect(&mut reading, "abc");
        log(&record, "log-02").write_all(b"not asked for").unwrap();
        let logs = vec![LogReport {
            stream: Stream::Merged,
            bytes: 6,
            at_exit: Some(6),
            dropped: None,
            whole: false,
        }];
        record.write_step(&step(1, true, logs)).unwrap();
        main.write_all(b"def").unwrap();
        assert_eq!(follower.join().unwrap(), [Happening::Over]);
    });
    assert_eq!(rest(reading), "def");
}

#[test]
fn a_record_that_is_removed_ends_it_with_what_could_still_be_read() {
    let place = tempfile::tempdir().unwrap();
    let (record, _lock) = record(place.path(), CAPTURE);
    let same = Record::open(place.path(), record.id(), jobcage_sys::file::Durability::Kernel).unwrap();
    let (mut reading, writing) = pipe();
    let mut main = log(&record, "log-01");
    std::thread::scope(|scope| {
        let follower = follow(scope, &record, PLAN, writing, nowhere());
        main.write_all(b"abc").unwrap();
        expect(&mut reading, "abc");
        main.write_all(b"def").unwrap();
        same.remove().unwrap();
        assert_eq!(follower.join().unwrap(), [Happening::Removed]);
    });
    assert_eq!(rest(reading), "def");
}

#[test]
fn it_ends_when_its_reader_goes_and_nothing_is_written() {
    let place = tempfile::tempdir().unwrap();
    let (record, _lock) = record(place.path(), CAPTURE);
    let (mut reading, writing) = pipe();
    std::thread::scope(|scope| {
        let follower = follow(scope, &record, PLAN, writing, nowhere());
        log(&record, "log-01").write_all(b"abc").unwrap();
        expect(&mut reading, "abc");
        drop(reading);
        assert_eq!(follower.join().unwrap(), [Happening::OutputGone]);
    });
}

#[test]
fn an_output_that_cannot_be_written_to_is_not_called_a_fault_of_the_log() {
    let place = tempfile::tempdir().unwrap();
    let (record, _lock) = record(place.path(), CAPTURE);
    log(&record, "log-01").write_all(b"abc").unwrap();
    let full = File::options().write(true).open("/dev/full").unwrap();
    std::thread::scope(|scope| {
        let happened = follow(scope, &record, PLAN, full.into(), nowhere())
            .join()
            .unwrap();
        assert_eq!(happened, [Happening::OutputFailed(nix::errno::Errno::ENOSPC)]);
    });
}

#[test]
fn a_stuck_stdout_does_not_keep_stderr_back() {
    let place = tempfile::tempdir().unwrap();
    let (record, _lock) = record(place.path(), SPLIT);
    let ((out, to_out), (mut err, to_err)) = (pipe(), pipe());
    std::thread::scope(|scope| {
        let plan = Plan {
            capture: SPLIT,
            ..PLAN
        };
        let follower = follow(scope, &record, plan, to_out, to_err);
        log(&record, "log-01.stdout").write_all(&[b'x'; 200_000]).unwrap();
        let mut errors = log(&record, "log-01.stderr");
        for piece in ["a", "b"] {
            errors.write_all(piece.as_bytes()).unwrap();
            expect(&mut err, piece);
        }
        record.close(&report(&record)).unwrap();
        assert_eq!(rest(out).len(), 200_000);
        assert_eq!(follower.join().unwrap(), [Happening::Over]);
    });
}

#[test]
fn a_stderr_that_nobody_reads_does_not_end_stdout() {
    let place = tempfile::tempdir().unwrap();
    let (record, _lock) = record(place.path(), SPLIT);
    let ((mut out, to_out), (err, to_err)) = (pipe(), pipe());
    drop(err);
    std::thread::scope(|scope| {
        let plan = Plan {
            capture: SPLIT,
            ..PLAN
        };
        let follower = follow(scope, &record, plan, to_out, to_err);
        log(&record, "log-01.stderr").write_all(b"lost").unwrap();
        log(&record, "log-01.stdout").write_all(b"abc").unwrap();
        expect(&mut out, "abc");
        record.close(&report(&record)).unwrap();
        assert_eq!(follower.join().unwrap(), [Happening::Over]);
    });
}

#[test]
fn the_caller_is_woken_asleep_busy_and_stuck() {
    let place = tempfile::tempdir().unwrap();
    let (record, _lock) = record(place.path(), CAPTURE);
    let (mut reading, writing) = pipe();
    let (bell, button) = pipe2(OFlag::O_CLOEXEC).unwrap();
    let mut out = Outlet::new(writing.as_fd()).unwrap();
    let mut err = Outlet::new(nowhere().as_fd()).unwrap();
    let mut follower = Follower::new(
        &record,
        CAPTURE,
        Wanted::default(),
        Start::Offset(0),
        Until::JobOver,
    )
    .unwrap();
    let mut ring = |follower: &mut Follower<'_>| {
        write(&button, b"!").unwrap();
        let woken = follower.next(&mut out, &mut err, Some(bell.as_fd())).unwrap();
        assert_eq!(woken, Happening::Woken);
        read(&bell, &mut [0]).unwrap();
    };
    ring(&mut follower);
    let mut main = log(&record, "log-01");
    main.write_all(b"abc").unwrap();
    // The caller comes first, and what it has not seen yet after it.
    ring(&mut follower);
    ring(&mut follower);
    expect(&mut reading, "abc");
    main.write_all(&[b'x'; 100_000]).unwrap();
    ring(&mut follower);
    ring(&mut follower);
    assert!(follower.offset(1, Stream::Merged).unwrap() < 100_003);
}

/// Every byte is there within 50 ms, asleep as the follower is between them.
#[test]
fn a_dot_now_and_then_is_there_at_once() {
    let place = tempfile::tempdir().unwrap();
    let (record, _lock) = record(place.path(), CAPTURE);
    let (mut reading, writing) = pipe();
    std::thread::scope(|scope| {
        let follower = follow(scope, &record, PLAN, writing, nowhere());
        let mut main = log(&record, "log-01");
        let mut late = 0;
        for round in 0..60 {
            std::thread::sleep(Duration::from_millis(round % 7));
            let begin = Instant::now();
            main.write_all(b".").unwrap();
            expect(&mut reading, ".");
            late += u32::from(begin.elapsed() > Duration::from_millis(50));
        }
        // A machine that is busy with other tests may stop us now and then.
        assert!(late <= 3, "{late} of 60 came too late");
        record.close(&report(&record)).unwrap();
        follower.join().unwrap();
    });
}

/// The job's own pipe, a writer that drops the middle, and a follower that is far too slow for it.
#[test]
fn a_slow_follower_is_told_what_it_lost_and_the_writer_does_not_wait_for_it() {
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let capture = CaptureSpec {
        log_max: Some(1 << 20),
        log_full: LogFull::Middle,
        ..CAPTURE
    };
    let (record, _lock) = record(place.path(), capture);
    let limit = middle(1 << 20);
    let mut writer = LogWriter::open(record.dir(), &name(1, Stream::Merged), limit, false).unwrap();
    let (source, job) = pipe2(OFlag::O_CLOEXEC).unwrap();
    let (mut reading, writing) = pipe();
    std::thread::scope(|scope| {
        let plan = Plan { capture, ..PLAN };
        let follower = follow(scope, &record, plan, writing, nowhere());
        let mut found = vec![0; 1000];
        let mut written = 0_u64;
        for round in 0..500_u64 {
            write(&job, &crate::support::bytes(written, written + 65536)).unwrap();
            written += 65536;
            assert_eq!(writer.take(source.as_fd(), 65536), Taken::Bytes(65536));
            if round == 0 {
                // It has begun.
                reading.read_exact(&mut found).unwrap();
            }
        }
        record.close(&report(&record)).unwrap();
        reading.read_to_end(&mut found).unwrap();
        let happened = follower.join().unwrap();
        let lost: u64 = happened
            .iter()
            .map(|one| match one {
                Happening::Lost { bytes, .. } => *bytes,
                _ => 0,
            })
            .sum();
        assert_eq!(happened.len(), 2, "one marker, then the end: {happened:?}");
        assert_eq!(found.len() as u64 + lost, written);
        let from = (1 << 20) / 4;
        assert_eq!(first_wrong(0, &found[..from]), None);
        assert_eq!(first_wrong(from as u64 + lost, &found[from..]), None);
    });
}

/// A follower that sleeps has no business with what is written while nobody takes its output.
#[test]
fn a_stuck_follower_is_not_woken_by_the_writer() {
    let place = tempfile::tempdir().unwrap();
    let (record, _lock) = record(place.path(), CAPTURE);
    let (reading, writing) = pipe();
    let mut main = log(&record, "log-01");
    main.write_all(&[b'x'; 300_000]).unwrap();
    let mut out = Outlet::new(writing.as_fd()).unwrap();
    let mut err = Outlet::new(nowhere().as_fd()).unwrap();
    let switches = || {
        let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_THREAD).unwrap();
        usage.voluntary_context_switches()
    };
    let (bell, button) = pipe2(OFlag::O_CLOEXEC).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for _ in 0..1000 {
                main.write_all(b"line\n").unwrap();
                let mut never = [PollFd::new(main.as_fd(), PollFlags::empty())];
                poll(&mut never, PollTimeout::ZERO).unwrap();
                std::thread::sleep(Duration::from_micros(50));
            }
            write(&button, b"!").unwrap();
        });
        let before = switches();
        let mut follower = Follower::new(
            &record,
            CAPTURE,
            Wanted::default(),
            Start::Offset(0),
            Until::JobOver,
        )
        .unwrap();
        let woken = follower.next(&mut out, &mut err, Some(bell.as_fd())).unwrap();
        assert_eq!(woken, Happening::Woken);
        let slept = switches() - before;
        assert!(slept < 20, "{slept} sleeps");
    });
    drop(reading);
}
