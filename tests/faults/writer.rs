//! The job: writes what its seed says, in pieces of every length, on both streams, with pauses, and ends as it was told.

use crate::support::seed::SplitMix;
use std::io::Write as _;
use std::time::Duration;

/// The word by which this program is the job.
pub const WORD: &str = "__write";

/// One job's output and its end.
#[derive(Debug, Clone, Copy)]
pub struct Script {
    /// What everything comes from.
    pub seed: u64,
    /// How many pieces it writes.
    pub pieces: u32,
    /// The longest pause between two, milliseconds.
    pub pause: u64,
    /// The exit code, or 1000 and a signal's number.
    pub end: i32,
}

/// One write.
pub struct Piece {
    /// Whether it goes to stderr.
    pub to_stderr: bool,
    /// What is written.
    pub bytes: Vec<u8>,
    /// How long it waits afterwards.
    pub pause: Duration,
}

impl Script {
    /// All that it writes.
    pub fn play(&self) -> impl Iterator<Item = Piece> + use<> {
        let mut random = SplitMix(self.seed);
        let longest = self.pause.max(1);
        (0..self.pieces).map(move |_| {
            // Now and then more than any pipe holds.
            let len = match random.next() % 16 {
                0 => 1,
                1 => random.next() % 200_000,
                _ => random.next() % 5000,
            };
            let mut bytes = Vec::new();
            while (bytes.len() as u64) < len {
                bytes.extend(random.next().to_le_bytes());
            }
            bytes.truncate(usize::try_from(len).unwrap());
            let pause = random.next() % 3 * (random.next() % longest);
            Piece {
                to_stderr: random.next().is_multiple_of(3),
                bytes,
                pause: Duration::from_millis(pause),
            }
        })
    }

    /// What comes into the log of each stream, in the order of the logs.
    pub fn streams(&self, split: bool) -> Vec<Vec<u8>> {
        let mut streams = vec![Vec::new(); if split { 2 } else { 1 }];
        for piece in self.play() {
            streams[usize::from(split && piece.to_stderr)].extend(piece.bytes);
        }
        streams
    }

    /// The words for [`run`].
    pub fn words(&self) -> [String; 4] {
        [
            self.seed.to_string(),
            self.pieces.to_string(),
            self.pause.to_string(),
            self.end.to_string(),
        ]
    }
}

/// The job itself.
pub fn run(words: &[String]) -> ! {
    let number = |i: usize| words[i].parse::<u64>().unwrap();
    let script = Script {
        seed: number(0),
        pieces: u32::try_from(number(1)).unwrap(),
        pause: number(2),
        end: i32::try_from(number(3)).unwrap(),
    };
    // That it ran, for whoever counts.
    let file = std::fs::OpenOptions::new().append(true).open(&words[4]);
    file.and_then(|mut file| file.write_all(b"ran\n")).unwrap();
    let (mut out, mut err) = (fd(1), fd(2));
    for piece in script.play() {
        let stream = if piece.to_stderr { &mut err } else { &mut out };
        if stream.write_all(&piece.bytes).is_err() {
            // Nobody holds the other end any more.
            std::process::exit(99);
        }
        std::thread::sleep(piece.pause);
    }
    if script.end >= 1000 {
        let signal = nix::sys::signal::Signal::try_from(script.end - 1000).unwrap();
        nix::sys::signal::raise(signal).unwrap();
    }
    std::process::exit(script.end)
}

/// Without a buffer between.
fn fd(number: i32) -> std::fs::File {
    std::fs::OpenOptions::new()
        .write(true)
        .open(format!("/proc/self/fd/{number}"))
        .unwrap()
}
