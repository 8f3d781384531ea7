//! `--tail`: where the last lines begin, told by what a follower passes on.

use crate::support::{CAPTURE, record};
use crate::writer::gap_bytes;
use jobcage_job::{CaptureSpec, LogFull};
use jobcage_ledger::Record;
use jobcage_ledger::log::{Follower, Happening, Outlet, Start, Until, Wanted};
use proptest::prelude::*;
use std::os::fd::AsFd;

/// What a reader of the last lines gets, with `<N>` for what is lost.
fn last_lines(record: &Record, capture: CaptureSpec, lines: u64) -> String {
    let file = tempfile::tempfile().unwrap();
    let mut out = Outlet::new(file.as_fd()).unwrap();
    let null = std::fs::File::create("/dev/null").unwrap();
    let mut err = Outlet::new(null.as_fd()).unwrap();
    let mut follower = Follower::new(
        record,
        capture,
        Wanted::default(),
        Start::Lines(lines),
        Until::Now,
    )
    .unwrap();
    let mut lost = String::new();
    loop {
        match follower.next(&mut out, &mut err, None).unwrap() {
            Happening::Lost { bytes, .. } => lost = format!("<{bytes}>"),
            Happening::Over => break,
            other => panic!("{other:?}"),
        }
    }
    lost + &read_back(&file)
}

fn read_back(file: &std::fs::File) -> String {
    use std::os::unix::fs::FileExt;
    let mut text = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
    file.read_exact_at(&mut text, 0).unwrap();
    String::from_utf8(text).unwrap()
}

#[test]
fn a_line_ends_with_a_newline_or_with_the_log() {
    let place = tempfile::tempdir().unwrap();
    let (record, _lock) = record(place.path(), CAPTURE);
    for (text, lines, wanted) in [
        ("", 3, ""),
        ("a\nb\nc\n", 0, ""),
        ("a\nb\nc\n", 1, "c\n"),
        ("a\nb\nc", 1, "c"),
        ("a\nb\nc", 2, "b\nc"),
        ("a\nb\n", 2, "a\nb\n"),
        ("a\nb\n", 9, "a\nb\n"),
        ("\n\n\n", 2, "\n\n"),
        ("abc", 1, "abc"),
    ] {
        std::fs::write(record.path().join("log-01"), text).unwrap();
        assert_eq!(last_lines(&record, CAPTURE, lines), wanted, "{lines} of {text:?}");
    }
}

#[test]
fn lines_of_earlier_steps_come_before_those_of_the_last_one() {
    let place = tempfile::tempdir().unwrap();
    let (record, _lock) = record(place.path(), CAPTURE);
    std::fs::write(record.path().join("log-01"), "a\nb\nc\n").unwrap();
    std::fs::write(record.path().join("log-02"), "d\ne\n").unwrap();
    for (lines, wanted) in [
        (0, ""),
        (1, "e\n"),
        (2, "d\ne\n"),
        (3, "c\nd\ne\n"),
        (99, "a\nb\nc\nd\ne\n"),
    ] {
        assert_eq!(last_lines(&record, CAPTURE, lines), wanted);
    }
}

#[test]
fn the_dropped_middle_is_told_when_lines_stand_before_it() {
    let capture = CaptureSpec {
        log_max: Some(65536),
        log_full: LogFull::Middle,
        ..CAPTURE
    };
    let place = tempfile::tempdir().unwrap();
    let (record, _lock) = record(place.path(), capture);
    let log = ["h\n".repeat(8192), "\0".repeat(4096), "t\n".repeat(100)].concat();
    std::fs::write(record.path().join("log-01"), log).unwrap();
    std::fs::write(record.path().join("log-01.gap"), gap_bytes(16384, 20480)).unwrap();
    assert_eq!(last_lines(&record, capture, 99), "t\n".repeat(99));
    // The hundredth from the end may have begun before it.
    let all = format!("<4096>{}", "t\n".repeat(100));
    assert_eq!(last_lines(&record, capture, 100), all);
    let more = format!("<4096>h\n{}", "t\n".repeat(100));
    assert_eq!(last_lines(&record, capture, 101), more);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// As whoever splits the text would say, also where lines are longer than what is read at a time.
    #[test]
    fn the_last_lines_are_the_last_lines(
        lengths in prop::collection::vec(prop_oneof![0_usize..100, 0_usize..100_000], 0..12),
        ends_with_newline: bool,
        wanted in 0_u64..15,
    ) {
        let place = tempfile::tempdir().unwrap();
        let (record, _lock) = record(place.path(), CAPTURE);
        let mut text: String = lengths.iter().map(|n| "x".repeat(*n) + "\n").collect();
        if !ends_with_newline {
            text.pop();
        }
        std::fs::write(record.path().join("log-01"), &text).unwrap();
        let lines: Vec<&str> = text.split_inclusive('\n').collect();
        let skipped = lines.len().saturating_sub(usize::try_from(wanted).unwrap());
        prop_assert_eq!(last_lines(&record, CAPTURE, wanted), lines[skipped..].concat());
    }
}
