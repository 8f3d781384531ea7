//! What a reader sees: the output, and what is lost of it once.

use crate::support::{LOG, Output, PIPE, UNLIMITED, byte, bytes, first_wrong, middle, places};
use crate::writer::gap_bytes;
use jobcage_ledger::log::{LogReader, Piece};
use jobcage_sys::Errno;
use proptest::prelude::*;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};

/// Follows one log and checks each byte of it.
struct Checked {
    log: LogReader,
    at: u64,
    lost: u64,
    was_lost: bool,
}

impl Checked {
    fn new(output: &Output, from: u64) -> Self {
        let mut log = LogReader::open(output.dir.as_fd(), LOG, output.limit).unwrap();
        log.seek(from);
        Self {
            log,
            at: from,
            lost: 0,
            was_lost: false,
        }
    }

    /// Reads once; whether there was something.
    fn read(&mut self, size: usize) -> bool {
        let mut buffer = vec![0xee; size];
        let piece = self.log.read(&mut buffer).unwrap();
        self.at += piece.lost;
        self.lost += piece.lost;
        assert_eq!(first_wrong(self.at, &buffer[..piece.bytes]), None, "{piece:?}");
        assert!(
            !(self.was_lost && piece.lost > 0),
            "the same loss was told in two pieces"
        );
        self.was_lost = piece.lost > 0 && piece.bytes == 0;
        self.at += piece.bytes as u64;
        assert_eq!(self.log.offset(), self.at);
        piece.lost > 0 || piece.bytes > 0
    }

    fn read_all(&mut self) {
        while self.read(PIPE) {}
    }
}

#[derive(Debug, Clone)]
enum Act {
    Write(usize),
    Read(usize, usize),
    Come(u16),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        (1_usize..=PIPE).prop_map(Act::Write),
        (0_usize..5, 1_usize..=2 * PIPE).prop_map(|(who, size)| Act::Read(who, size)),
        any::<u16>().prop_map(Act::Come),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(30))]

    /// Readers come at any offset, also one that is dropped or not there yet, and read in any pieces.
    #[test]
    fn every_reader_gets_every_byte_or_is_told_how_many_are_lost(
        max in prop::option::of(16384_u64..400_000),
        acts in prop::collection::vec(act(), 1..60),
    ) {
        for place in places() {
            let mut output = Output::new(place.path(), max.map_or(UNLIMITED, middle));
            let mut readers = vec![Checked::new(&output, 0)];
            for act in &acts {
                match act {
                    Act::Write(n) => output.write(*n, PIPE),
                    Act::Read(who, size) => {
                        let who = who % readers.len();
                        readers[who].read(*size);
                    }
                    Act::Come(part) => {
                        let from = (output.written + 1000) * u64::from(*part) / u64::from(u16::MAX);
                        readers.push(Checked::new(&output, from));
                    }
                }
            }
            for mut reader in readers {
                reader.read_all();
                prop_assert_eq!(reader.at, output.written.max(reader.at));
                prop_assert!(reader.at >= output.written);
                if max.is_none() {
                    prop_assert_eq!(reader.lost, 0);
                }
            }
        }
    }
}

/// The writer drops at full speed what the readers are reading.
#[test]
fn no_zero_of_a_hole_is_ever_shown_to_a_reader_that_is_overtaken() {
    for place in places() {
        let mut output = Output::new(place.path(), middle(192 << 10));
        let readers: Vec<_> = [1000, 10_000, PIPE, 4 * PIPE]
            .map(|size| (size, Checked::new(&output, 0)))
            .into_iter()
            .collect();
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let all: Vec<_> = readers
                .into_iter()
                .map(|(size, mut reader)| {
                    let over = &over;
                    scope.spawn(move || {
                        while !over.load(Ordering::Relaxed) || reader.log.offset() < reader.log.len().unwrap()
                        {
                            reader.read(size);
                        }
                        (reader.lost, reader.at)
                    })
                })
                .collect();
            output.write_more(16 << 20);
            over.store(true, Ordering::Relaxed);
            let all: Vec<_> = all.into_iter().map(|reader| reader.join().unwrap()).collect();
            assert!(all.iter().all(|(_, at)| *at == output.written));
            assert!(
                all.iter().any(|(lost, _)| *lost > 0),
                "nobody was overtaken: {all:?}"
            );
        });
    }
}

#[test]
fn a_hole_of_a_terabyte_is_one_step() {
    for place in places() {
        let to = 1 << 40;
        let mut output = Output::new(place.path(), middle(65536));
        output.write_more(16384);
        let file = std::fs::OpenOptions::new()
            .write(true)
            .open(&output.path)
            .unwrap();
        file.write_all_at(&bytes(to, to + 5), to).unwrap();
        std::fs::write(place.path().join("log-01.gap"), gap_bytes(16384, to)).unwrap();
        let mut log = LogReader::open(output.dir.as_fd(), LOG, output.limit).unwrap();
        let mut buffer = vec![0; PIPE];
        let mut read = |log: &mut LogReader| log.read(&mut buffer).unwrap();
        assert_eq!(
            read(&mut log),
            Piece {
                lost: 0,
                bytes: 16384
            }
        );
        assert_eq!(
            read(&mut log),
            Piece {
                lost: to - 16384,
                bytes: 5
            }
        );
        assert_eq!(read(&mut log), Piece::default());
        log.seek(to - 7);
        log.stop_at(to + 3);
        assert_eq!(read(&mut log), Piece { lost: 7, bytes: 3 });
    }
}

#[test]
fn a_gap_file_without_a_gap_hides_nothing_and_a_senseless_one_is_an_error() {
    let place = tempfile::tempdir().unwrap();
    let mut output = Output::new(place.path(), middle(65536));
    output.write_more(60000);
    let file = place.path().join("log-01.gap");
    let read = || {
        let mut log = LogReader::open(output.dir.as_fd(), LOG, output.limit).unwrap();
        log.seek(30000);
        log.read(&mut [0; 100])
    };
    let all = Ok(Piece { lost: 0, bytes: 100 });
    for harmless in [
        vec![],
        vec![1; 8],
        vec![0; 15],
        vec![0; 16],
        gap_bytes(9, 9),
        gap_bytes(40000, 50000),
    ] {
        std::fs::write(&file, harmless).unwrap();
        assert_eq!(read(), all);
    }
    for senseless in [gap_bytes(9, 8), gap_bytes(u64::MAX, 0)] {
        std::fs::write(&file, senseless).unwrap();
        assert_eq!(read(), Err(Errno::EBADMSG));
    }
}

#[test]
fn there_is_no_log_before_its_writer_came() {
    let place = tempfile::tempdir().unwrap();
    let dir = jobcage_sys::file::open_dir(place.path()).unwrap();
    assert_eq!(
        LogReader::open(dir.as_fd(), LOG, UNLIMITED).unwrap_err(),
        Errno::ENOENT
    );
}

#[test]
fn the_known_output_is_not_zeroes() {
    assert!((0..100_000).filter(|at| byte(*at) == 0).count() < 10);
}
