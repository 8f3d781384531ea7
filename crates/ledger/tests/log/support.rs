//! A place for a log, a pipe to fill it from, and output of which every byte says where it belongs.

use jobcage_job::LogFull;
use jobcage_ledger::log::{LogLimit, LogWriter, Taken};
use nix::fcntl::OFlag;
use nix::unistd::pipe2;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

pub const LOG: &str = "log-01";

/// As much as a pipe holds.
pub const PIPE: usize = 65536;

/// Byte `at` of the output: words of eight bytes that count, so that a lost or doubled byte shifts all that follow, and no
/// byte of a hole can pass for one of it for long.
pub fn byte(at: u64) -> u8 {
    let word = (at / 8).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 0x0101_0101_0101_0101;
    word.to_le_bytes()[usize::try_from(at % 8).unwrap()]
}

pub fn bytes(from: u64, to: u64) -> Vec<u8> {
    (from..to).map(byte).collect()
}

/// The first byte of `found` that is not the output's, if it stands at `from`.
pub fn first_wrong(from: u64, found: &[u8]) -> Option<u64> {
    (from..)
        .zip(found)
        .find(|(at, b)| byte(*at) != **b)
        .map(|(at, _)| at)
}

pub fn middle(max: u64) -> LogLimit {
    LogLimit {
        max: Some(max),
        full: LogFull::Middle,
    }
}

pub const UNLIMITED: LogLimit = LogLimit {
    max: None,
    full: LogFull::Stop,
};

/// What this machine lacks is told; where everything is required, it is a failure.
pub fn skip(what: &str, why: impl std::fmt::Display) {
    println!("skipped: needs {what}: {why}");
    let required = std::env::var("JOBCAGE_REQUIRE").is_ok_and(|all| all == "all");
    assert!(!required, "this machine must have {what}: {why}");
}

/// A directory on a tmpfs, where there is one, and one on the disk of the build.
pub fn places() -> Vec<tempfile::TempDir> {
    let shm = PathBuf::from("/dev/shm");
    let memory = shm.is_dir().then(|| tempfile::tempdir_in(shm).unwrap());
    let disk = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    memory.into_iter().chain([disk]).collect()
}

/// A log that is written to here, byte by byte known.
pub struct Output {
    pub dir: OwnedFd,
    pub path: PathBuf,
    pub writer: LogWriter,
    pub limit: LogLimit,
    pub written: u64,
    source: OwnedFd,
    job: File,
}

impl Output {
    pub fn new(place: &std::path::Path, limit: LogLimit) -> Self {
        let (source, job) = pipe2(OFlag::O_CLOEXEC).unwrap();
        let dir = jobcage_sys::file::open_dir(place).unwrap();
        Self {
            writer: LogWriter::open(dir.as_fd(), LOG, limit, false).unwrap(),
            dir,
            path: place.join(LOG),
            limit,
            written: 0,
            source,
            job: job.into(),
        }
    }

    /// The job writes so many bytes, at most a pipe full, and the writer takes them, at most `at_most` at a time.
    pub fn write(&mut self, n: usize, at_most: usize) {
        assert!(n <= PIPE);
        self.job
            .write_all(&bytes(self.written, self.written + n as u64))
            .unwrap();
        self.written += n as u64;
        loop {
            match self.writer.take(self.source.as_fd(), at_most) {
                Taken::Bytes(_) => {}
                Taken::Nothing => break,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(self.writer.len(), self.written);
    }

    pub fn write_more(&mut self, mut n: usize) {
        while n > 0 {
            let some = n.min(PIPE);
            self.write(some, PIPE);
            n -= some;
        }
    }

    /// As after the death of a writer and the coming of another one.
    pub fn reopen(&mut self) {
        self.writer = LogWriter::open(self.dir.as_fd(), LOG, self.limit, false).unwrap();
    }
}
