//! A writer that is killed at any instruction loses nothing and doubles nothing.

use crate::support::{LOG, PIPE, UNLIMITED, bytes, first_wrong, middle};
use jobcage_ledger::log::{LogLimit, LogWriter, Taken};
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::pipe2;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Where the writer of [`the_writing_process`] writes, and its limit, 0 for none.
const DIR: &str = "LOG_TEST_DIR";
const MAX: &str = "LOG_TEST_MAX";

fn limit(max: u64) -> LogLimit {
    if max == 0 { UNLIMITED } else { middle(max) }
}

/// Not a test of its own: the process that is killed. Its standard input is the pipe.
#[test]
#[ignore = "the process that the other tests here start"]
fn the_writing_process() {
    let dir = std::env::var_os(DIR).expect("only the tests here start this");
    let max: u64 = std::env::var(MAX).unwrap().parse().unwrap();
    let dir = jobcage_sys::file::open_dir(Path::new(&dir)).unwrap();
    let pipe = std::io::stdin();
    let mut writer = LogWriter::open(dir.as_fd(), LOG, limit(max), false).unwrap();
    loop {
        match writer.take(pipe.as_fd(), PIPE) {
            Taken::Bytes(_) => {}
            Taken::Nothing => {
                let mut fds = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
                poll(&mut fds, PollTimeout::NONE).unwrap();
            }
            Taken::EndOfFile => return,
            other => panic!("{other:?}"),
        }
    }
}

fn start(dir: &Path, max: u64, pipe: &OwnedFd) -> std::process::Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "killed::the_writing_process"])
        .env(DIR, dir)
        .env(MAX, max.to_string())
        .stdin(pipe.try_clone().unwrap())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// Kills writers while a producer writes in pieces of all sizes; what it wrote, and how many were killed.
fn kill_writers(dir: &Path, max: u64, kills: u32) -> u64 {
    let (source, job) = pipe2(OFlag::O_CLOEXEC).unwrap();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let producer = scope.spawn(|| {
            let mut job: File = job.into();
            let (mut written, mut seed) = (0_u64, 1_u64);
            while !over.load(Ordering::Relaxed) {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let n = 1 + (seed >> 33) % (1 << ((seed >> 20) % 18));
                job.write_all(&bytes(written, written + n)).unwrap();
                written += n;
            }
            written
        });
        for round in 0..kills {
            let mut writer = start(dir, max, &source);
            // Any moment, from before its first call to long after it.
            std::thread::sleep(Duration::from_micros(u64::from(round) * 137 % 12_000));
            writer.kill().unwrap();
            writer.wait().unwrap();
        }
        over.store(true, Ordering::Relaxed);
        let mut last = start(dir, max, &source);
        let written = producer.join().unwrap();
        assert!(last.wait().unwrap().success());
        written
    })
}

#[test]
fn nothing_is_lost_or_doubled_when_writers_are_killed() {
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let written = kill_writers(place.path(), 0, 150);
    let found = std::fs::read(place.path().join(LOG)).unwrap();
    assert_eq!(found.len() as u64, written);
    assert_eq!(first_wrong(0, &found), None);
    assert!(
        written > 1 << 20,
        "only {written} bytes: the writers were killed before they wrote"
    );
}

#[test]
fn a_middle_is_dropped_right_when_writers_are_killed() {
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let max = 256 << 10;
    let written = kill_writers(place.path(), max, 150);
    let found = std::fs::read(place.path().join(LOG)).unwrap();
    assert_eq!(found.len() as u64, written);
    let dir = jobcage_sys::file::open_dir(place.path()).unwrap();
    let gap = LogWriter::open(dir.as_fd(), LOG, middle(max), false)
        .unwrap()
        .dropped()
        .unwrap();
    let at = |n: u64| usize::try_from(n).unwrap();
    assert_eq!(first_wrong(0, &found[..at(gap.from)]), None);
    assert_eq!(first_wrong(gap.to, &found[at(gap.to)..]), None);
    assert!(found[at(gap.from)..at(gap.to)].iter().all(|b| *b == 0));
    assert!(written - gap.bytes() <= max);
}
