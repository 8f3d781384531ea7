//! A place for a log, a pipe to fill it from, and output of which every byte says where it belongs.

use jobcage_job::{
    CaptureSpec, CreatedBy, JobId, JobSpec, LogFull, LogReport, Report, SPEC_VERSION, StepReport, Streams,
};
use jobcage_ledger::log::{LogLimit, LogWriter, Taken};
use jobcage_ledger::{Lock, Record, boot_id};
use jobcage_sys::file::Durability;
use nix::fcntl::OFlag;
use nix::unistd::pipe2;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

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

/// What this machine lacks is told; where everything is required, it is a failure. Not to be root is no lack.
pub fn skip(what: &str, why: nix::errno::Errno) {
    eprintln!("skipped: needs {what}: {why}");
    let required = std::env::var("JOBCAGE_REQUIRE").is_ok_and(|all| all == "all");
    assert!(
        !(required && nix::unistd::geteuid().is_root()),
        "this machine must have {what}: {why}"
    );
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
    pub fn new(place: &Path, limit: LogLimit) -> Self {
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

pub const CAPTURE: CaptureSpec = CaptureSpec {
    streams: Streams::Merged,
    log_max: None,
    log_full: LogFull::Stop,
    sync: false,
};

/// The record of a captured job without a cage.
pub fn record(place: &Path, capture: CaptureSpec) -> (Record, Lock) {
    let id = JobId::generate("log", 1);
    let spec = JobSpec {
        version: SPEC_VERSION,
        cage: format!("/nowhere/{id}"),
        id,
        name: None,
        created_by: CreatedBy::Run,
        program: None,
        limited: false,
        boot_id: boot_id().unwrap(),
        owner: 0,
        uid: 0,
        created_ns: 0,
        grace: Duration::ZERO,
        limits: jobcage_job::Limits::default(),
        lease: None,
        silence: None,
        after: false,
        ssh_agent: false,
        after_reboot: None,
        state_dir: None,
        labels: std::collections::BTreeMap::new(),
        guests: None,
        login: None,
        guard: false,
        capture: Some(capture),
    };
    Record::create(place, &spec, Durability::Kernel).unwrap()
}

/// A step that has begun, or whose main process has ended, with this log.
pub fn step(number: u32, ended: bool, logs: Vec<LogReport>) -> StepReport {
    let json = serde_json::json!({
        "number": number, "name": "main", "kind": "step", "started": "",
        "ending": {"kind": "exited", "code": 0}, "ended": ended.then_some(""), "logs": logs,
    });
    serde_json::from_value(json).unwrap()
}

/// The report of a job that is over.
pub fn report(record: &Record) -> Report {
    let json = serde_json::json!({
        "version": 1, "jobcage": "", "job": record.id(), "ending": {"kind": "exited", "code": 0}, "exit_code": 0,
        "clean": true, "closed_by": "", "started": "", "ended": "", "wall_seconds": 0.0, "boot_id": "", "cage": "",
        "steps": [], "census": {"method": "empty", "count": 0}, "usage": {},
    });
    serde_json::from_value(json).unwrap()
}
