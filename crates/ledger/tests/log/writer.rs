//! What a writer keeps.

use crate::support::{LOG, Output, PIPE, UNLIMITED, bytes, first_wrong, middle, places, skip};
use jobcage_job::{LogFull, LogGap};
use jobcage_ledger::log::{LogLimit, LogWriter, Taken};
use jobcage_sys::Errno;
use nix::fcntl::OFlag;
use nix::unistd::{pipe2, write};
use proptest::prelude::*;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What is on the disk of a log with a limit, and that it is right.
fn assert_kept(output: &Output, max: u64, step: u64) {
    let found = std::fs::read(&output.path).unwrap();
    assert_eq!(found.len() as u64, output.written);
    let gap = output.writer.dropped().unwrap_or(LogGap { from: 0, to: 0 });
    let (head, rest) = found.split_at(usize::try_from(gap.from).unwrap());
    let (hole, tail) = rest.split_at(usize::try_from(gap.bytes()).unwrap());
    assert_eq!(first_wrong(0, head), None);
    assert_eq!(first_wrong(gap.to, tail), None);
    assert!(hole.iter().all(|b| *b == 0), "the gap is not punched");
    let kept = output.written - gap.bytes();
    assert!(kept <= max, "{kept} of {max} bytes are kept");
    let on_disk = std::fs::metadata(&output.path).unwrap().blocks() * 512;
    assert!(on_disk <= max + step, "{on_disk} bytes on the disk for {max}");
    if output.written > max {
        assert!(
            gap.from >= max / 4 / 4096 * 4096 && kept + 2 * step >= max,
            "{kept} of {max} bytes, {gap:?}"
        );
    } else {
        assert_eq!(gap.bytes(), 0, "nothing is to be dropped before {max}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Whatever comes in whatever pieces to whatever limit: what is said to be there is there, nothing else is, and a
    /// successor goes on where the first writer was.
    #[test]
    fn head_and_tail_are_kept_and_the_middle_is_gone(
        blocks in 0_u64..64,
        odd in 0_u64..4096,
        pieces in prop::collection::vec((1_usize..=PIPE, 1_usize..=PIPE, prop::bool::weighted(0.1)), 1..40),
    ) {
        let max = 32768 + blocks * 4096 + odd;
        let step = (max / 16).div_ceil(4096) * 4096;
        for place in places() {
            let mut output = Output::new(place.path(), middle(max));
            for (n, at_most, reopened) in &pieces {
                output.write(*n, (*at_most).max(n / 100));
                if *reopened {
                    output.reopen();
                }
                assert_kept(&output, max, step);
            }
        }
    }
}

#[test]
fn a_log_without_a_limit_is_the_output_and_ends_with_it() {
    for place in places() {
        let (source, job) = pipe2(OFlag::O_CLOEXEC).unwrap();
        let dir = jobcage_sys::file::open_dir(place.path()).unwrap();
        let mut writer = LogWriter::open(dir.as_fd(), LOG, UNLIMITED, true).unwrap();
        assert_eq!(writer.take(source.as_fd(), PIPE), Taken::Nothing);
        write(&job, &bytes(0, 5)).unwrap();
        assert_eq!(writer.take(source.as_fd(), 3), Taken::Bytes(3));
        assert_eq!(writer.take(source.as_fd(), PIPE), Taken::Bytes(2));
        drop(job);
        assert_eq!(writer.take(source.as_fd(), PIPE), Taken::EndOfFile);
        let path = place.path().join(LOG);
        assert_eq!(std::fs::read(&path).unwrap(), bytes(0, 5));
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(writer.dropped(), None);
    }
}

#[test]
fn a_log_that_stops_the_job_never_passes_its_limit_and_what_is_too_much_can_be_thrown_away() {
    let place = tempfile::tempdir().unwrap();
    let dir = jobcage_sys::file::open_dir(place.path()).unwrap();
    let limit = LogLimit {
        max: Some(1000),
        full: LogFull::Stop,
    };
    let (source, job) = pipe2(OFlag::O_CLOEXEC).unwrap();
    let mut writer = LogWriter::open(dir.as_fd(), LOG, limit, false).unwrap();
    write(&job, &bytes(0, 1000)).unwrap();
    assert_eq!(writer.take(source.as_fd(), PIPE), Taken::Bytes(1000));
    assert_eq!(
        writer.take(source.as_fd(), PIPE),
        Taken::Nothing,
        "exactly the limit is not too much"
    );
    write(&job, &bytes(1000, 1500)).unwrap();
    assert_eq!(writer.take(source.as_fd(), PIPE), Taken::Full);
    let mut writer = LogWriter::open(dir.as_fd(), LOG, limit, false).unwrap();
    assert_eq!(
        writer.take(source.as_fd(), PIPE),
        Taken::Full,
        "a successor knows"
    );
    assert_eq!(writer.discard(source.as_fd(), 200), Taken::Bytes(200));
    assert_eq!(writer.discard(source.as_fd(), PIPE), Taken::Bytes(300));
    assert_eq!(writer.discard(source.as_fd(), PIPE), Taken::Nothing);
    drop(job);
    assert_eq!(writer.take(source.as_fd(), PIPE), Taken::EndOfFile);
    assert_eq!(writer.discard(source.as_fd(), PIPE), Taken::EndOfFile);
    assert_eq!(writer.len(), 1000);
    assert_eq!(std::fs::read(place.path().join(LOG)).unwrap(), bytes(0, 1000));
}

#[test]
fn a_writer_that_was_killed_between_publishing_and_punching_is_made_up_for() {
    for place in places() {
        let mut output = Output::new(place.path(), UNLIMITED);
        output.write_more(200_000);
        std::fs::write(place.path().join("log-01.gap"), gap_bytes(16384, 131_072)).unwrap();
        output.limit = middle(65536);
        output.reopen();
        assert_eq!(
            output.writer.dropped(),
            Some(LogGap {
                from: 16384,
                to: 131_072
            })
        );
        let found = std::fs::read(&output.path).unwrap();
        assert!(found[16384..131_072].iter().all(|b| *b == 0));
        output.write_more(200_000);
        let gap = output.writer.dropped().unwrap();
        assert!(gap.from == 16384 && gap.to > 300_000, "{gap:?}");
        assert_eq!(
            std::fs::read(place.path().join("log-01.gap")).unwrap(),
            gap_bytes(gap.from, gap.to)
        );
        let found = std::fs::read(&output.path).unwrap();
        assert_eq!(
            first_wrong(gap.to, &found[usize::try_from(gap.to).unwrap()..]),
            None
        );
    }
}

pub fn gap_bytes(from: u64, to: u64) -> Vec<u8> {
    [from.to_le_bytes(), to.to_le_bytes()].concat()
}

#[test]
fn a_gap_file_that_was_never_written_is_no_gap_and_one_that_makes_no_sense_is_refused() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("log-01.gap");
    let dir = jobcage_sys::file::open_dir(place.path()).unwrap();
    let open = || LogWriter::open(dir.as_fd(), LOG, middle(65536), false);
    for short in [0, 1, 15] {
        std::fs::write(&file, vec![7; short]).unwrap();
        assert_eq!(open().unwrap().dropped(), None);
    }
    std::fs::write(&file, gap_bytes(9, 9)).unwrap();
    assert_eq!(open().unwrap().dropped(), None);
    std::fs::write(&file, gap_bytes(9, 8)).unwrap();
    assert_eq!(open().unwrap_err(), Errno::EBADMSG);
}

/// The rest of the pipe is for whoever can keep it: a disk that is full loses nothing of it.
#[test]
fn what_does_not_fit_stays_in_the_pipe() {
    let mounted = match Mounted::tmpfs("size=128k") {
        Ok(mounted) => mounted,
        Err(why) => return skip("the right to mount", why),
    };
    let dir = jobcage_sys::file::open_dir(mounted.path()).unwrap();
    let mut writer = LogWriter::open(dir.as_fd(), LOG, UNLIMITED, false).unwrap();
    let (source, job) = pipe2(OFlag::O_CLOEXEC).unwrap();
    let mut written = 0;
    let failed = loop {
        write(&job, &bytes(written, written + 50_000)).unwrap();
        written += 50_000;
        match writer.take(source.as_fd(), PIPE) {
            Taken::Bytes(50_000) => {}
            // As much as there was room for; the next call has none.
            Taken::Bytes(_) => break writer.take(source.as_fd(), PIPE),
            other => break other,
        }
    };
    assert_eq!(failed, Taken::Failed(Errno::ENOSPC));
    let kept = writer.len();
    assert!(kept < written);
    assert_eq!(std::fs::read(mounted.path().join(LOG)).unwrap(), bytes(0, kept));
    let mut rest = vec![0; PIPE];
    let n = nix::unistd::read(&source, &mut rest).unwrap();
    assert_eq!(&rest[..n], bytes(kept, written));
}

#[test]
fn a_file_system_that_cannot_punch_says_so_at_the_limit_and_before_anything_is_published() {
    let mounted = match Mounted::without_holes() {
        Ok(mounted) => mounted,
        Err(why) => return skip("a file system without holes", why),
    };
    let dir = jobcage_sys::file::open_dir(mounted.path()).unwrap();
    let mut writer = LogWriter::open(dir.as_fd(), LOG, middle(65536), false).unwrap();
    let (source, job) = pipe2(OFlag::O_CLOEXEC).unwrap();
    let mut written = 0;
    let failed = loop {
        write(&job, &bytes(written, written + 4096)).unwrap();
        written += 4096;
        match writer.take(source.as_fd(), PIPE) {
            Taken::Bytes(4096) => {}
            other => break other,
        }
    };
    assert_eq!(failed, Taken::Failed(Errno::EOPNOTSUPP));
    assert_eq!((writer.dropped(), writer.len()), (None, written));
    assert!(written <= 65536 + 4096);
    assert_eq!(
        writer.take(source.as_fd(), PIPE),
        Taken::Failed(Errno::EOPNOTSUPP),
        "and again"
    );
    let found = std::fs::read(mounted.path().join(LOG)).unwrap();
    assert_eq!(first_wrong(0, &found), None);
}

/// A file system of our own, in a directory of our own.
struct Mounted {
    dir: tempfile::TempDir,
}

impl Mounted {
    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn new(kind: &str, options: Option<&str>) -> nix::Result<Self> {
        let dir = tempfile::tempdir().unwrap();
        nix::mount::mount(
            Some("jobcage-test"),
            dir.path(),
            Some(kind),
            nix::mount::MsFlags::empty(),
            options,
        )?;
        Ok(Self { dir })
    }

    fn tmpfs(options: &str) -> nix::Result<Self> {
        Self::new("tmpfs", Some(options))
    }

    fn without_holes() -> nix::Result<Self> {
        Self::new("ramfs", None)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(self.dir.path(), nix::mount::MntFlags::MNT_DETACH);
    }
}
