//! Whatever a follower writes to gets the same bytes.

use crate::support::{LOG, Output, UNLIMITED, first_wrong, middle, places};
use jobcage_ledger::log::{Copied, LogLimit, LogReader, Outlet};
use nix::fcntl::OFlag;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::pipe2;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};

/// Copies a whole log there, told by `poll` when there is room again; how often it was full.
fn copy(log: &mut LogReader, to: &OwnedFd) -> (u64, u32) {
    let mut outlet = Outlet::new(to.as_fd()).unwrap();
    let (mut lost, mut full) = (0, 0);
    loop {
        match log.copy(&mut outlet, 1 << 20).unwrap() {
            Copied::Bytes(_) => {}
            Copied::Lost(bytes) => lost += bytes,
            Copied::Blocked => {
                full += 1;
                outlet.wait();
            }
            Copied::Nothing => return (lost, full),
            Copied::Gone => panic!("nobody reads"),
        }
    }
}

fn log_of(output: &Output) -> LogReader {
    LogReader::open(output.dir.as_fd(), LOG, output.limit).unwrap()
}

fn check(found: &[u8], lost_from: u64, lost: u64, len: u64) {
    assert_eq!(found.len() as u64, len - lost);
    let (head, tail) = found.split_at(usize::try_from(lost_from).unwrap().min(found.len()));
    assert_eq!(first_wrong(0, head), None);
    assert_eq!(first_wrong(lost_from + lost, tail), None);
}

/// Through something that another thread reads to its end.
fn through(limit: LogLimit, ends: impl Fn() -> (OwnedFd, OwnedFd)) {
    for place in places() {
        let mut output = Output::new(place.path(), limit);
        output.write_more(3 << 20);
        let from = output.writer.dropped().map_or(0, |gap| gap.from);
        let (reading, writing) = ends();
        let (lost, found) = std::thread::scope(|scope| {
            let reader = scope.spawn(move || {
                let mut found = Vec::new();
                File::from(reading).read_to_end(&mut found).unwrap();
                found
            });
            let (lost, full) = copy(&mut log_of(&output), &writing);
            assert!(full > 0, "3 MiB without a wait");
            drop(writing);
            (lost, reader.join().unwrap())
        });
        assert_eq!(lost > 0, limit.max.is_some());
        check(&found, from, lost, output.written);
    }
}

fn a_pipe() -> (OwnedFd, OwnedFd) {
    pipe2(OFlag::O_CLOEXEC).unwrap()
}

fn a_socket() -> (OwnedFd, OwnedFd) {
    socketpair(
        AddressFamily::Unix,
        SockType::Stream,
        None,
        SockFlag::SOCK_CLOEXEC,
    )
    .unwrap()
}

#[test]
fn a_pipe_gets_all_of_it() {
    through(UNLIMITED, a_pipe);
    through(middle(1 << 20), a_pipe);
}

#[test]
fn a_socket_gets_all_of_it() {
    through(UNLIMITED, a_socket);
    through(middle(1 << 20), a_socket);
}

#[test]
fn a_file_gets_all_of_it_at_its_position_or_at_its_end() {
    for place in places() {
        for limit in [UNLIMITED, middle(1 << 20)] {
            let mut output = Output::new(place.path(), limit);
            output.write_more(3 << 20);
            for append in [false, true] {
                let path = place.path().join("copy");
                std::fs::write(&path, "before").unwrap();
                let mut file = File::options().append(append).write(true).open(&path).unwrap();
                if !append {
                    std::io::Seek::seek(&mut file, std::io::SeekFrom::End(0)).unwrap();
                }
                let (lost, _) = copy(&mut log_of(&output), &file.into());
                let found = std::fs::read(&path).unwrap();
                let found = found.strip_prefix(b"before").unwrap();
                let from = output.writer.dropped().map_or(0, |gap| gap.from);
                check(found, from, lost, output.written);
            }
            std::fs::remove_file(&output.path).unwrap();
            let _ = std::fs::remove_file(place.path().join("log-01.gap"));
        }
    }
}

#[test]
fn a_pipe_of_others_stays_a_waiting_one() {
    let (reading, writing) = a_pipe();
    let place = tempfile::tempdir().unwrap();
    let mut output = Output::new(place.path(), UNLIMITED);
    output.write_more(10);
    copy(&mut log_of(&output), &writing);
    let flags = nix::fcntl::fcntl(&writing, nix::fcntl::FcntlArg::F_GETFL).unwrap();
    assert!(!OFlag::from_bits_retain(flags).contains(OFlag::O_NONBLOCK));
    drop(reading);
}

#[test]
fn a_reader_that_has_gone_is_told_and_is_no_error() {
    for (reading, writing) in [a_pipe(), a_socket()] {
        for limit in [UNLIMITED, middle(1 << 20)] {
            let place = tempfile::tempdir().unwrap();
            let mut output = Output::new(place.path(), limit);
            output.write_more(100);
            let mut outlet = Outlet::new(writing.as_fd()).unwrap();
            let log = &mut log_of(&output);
            assert_eq!(log.copy(&mut outlet, 10).unwrap(), Copied::Bytes(10));
        }
        drop(reading);
        let place = tempfile::tempdir().unwrap();
        let mut output = Output::new(place.path(), UNLIMITED);
        output.write_more(100);
        let mut outlet = Outlet::new(writing.as_fd()).unwrap();
        let log = &mut log_of(&output);
        while !outlet.is_gone() {
            log.copy(&mut outlet, 10).unwrap();
        }
        assert_eq!(log.copy(&mut outlet, 10).unwrap(), Copied::Gone);
    }
}
