//! How far the sweep is: counts, and for a full sweep a file by which it goes on where it was interrupted.

use super::points::{Fault, Heir, Point};
use super::run::Passed;
use super::scenes::Scene;
use super::{Kind, target};
pub use crate::support::commit::{COMMIT, commit};
use crate::support::seed::full_sweep;
use std::collections::HashMap;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::Path;

/// What was done.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    killed: u32,
    watched: u32,
    injected: u32,
    missed: u32,
    failed: u32,
}

impl Counts {
    /// Nothing.
    pub const ZERO: Self = Self {
        killed: 0,
        watched: 0,
        injected: 0,
        missed: 0,
        failed: 0,
    };

    fn fields(&mut self) -> [&mut u32; 5] {
        [
            &mut self.killed,
            &mut self.watched,
            &mut self.injected,
            &mut self.missed,
            &mut self.failed,
        ]
    }

    /// Adds those of another row.
    pub fn add(&mut self, other: &Self) {
        let mut other = other.clone();
        for (sum, more) in self.fields().into_iter().zip(other.fields()) {
            *sum += *more;
        }
    }

    /// Reads what [`Counts::write`] wrote; zero if it is not there.
    pub fn read(path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap_or_default();
        let mut counts = Self::ZERO;
        for (field, word) in counts.fields().into_iter().zip(text.split_whitespace()) {
            *field = word.parse().unwrap();
        }
        counts
    }

    /// Hands them to the process outside.
    pub fn write(&self, path: &Path) {
        let text: Vec<String> = self.clone().fields().iter().map(|n| n.to_string()).collect();
        fs::write(path, text.join(" ")).unwrap();
    }

    fn count(&mut self, point: &Point, how: &str) {
        let field = match (how, point.fault) {
            ("failed", _) => &mut self.failed,
            ("missed", _) => &mut self.missed,
            (_, Fault::Kill(Heir::Gc)) => &mut self.killed,
            (_, Fault::Kill(Heir::Watcher)) => &mut self.watched,
            (_, Fault::Error(_)) => &mut self.injected,
        };
        *field += 1;
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            killed,
            watched,
            injected,
            missed,
            failed,
        } = self;
        write!(
            f,
            "{} killed ({killed} left to gc, {watched} to the watcher), {injected} errors injected, {failed} left; \
             {missed} not reached again",
            killed + watched
        )
    }
}

/// The progress of one row.
pub struct Progress {
    /// Those of this row, with what an earlier part of the same sweep did.
    pub counts: Counts,
    row: String,
    done: HashMap<String, String>,
    file: Option<File>,
}

impl Progress {
    /// Reads what was done before, for this commit and this program.
    pub fn open(scene: &Scene, kind: Kind) -> Self {
        let row = format!("{} {}", kind.word(), scene.name);
        let (mut done, mut file) = (HashMap::new(), None);
        if full_sweep() {
            fs::create_dir_all(target()).unwrap();
            let path = target().join(format!("{}.txt", commit()));
            let text = fs::read_to_string(&path).unwrap_or_default();
            for line in text.lines().filter_map(|l| l.strip_prefix(&format!("{row} "))) {
                // A failed one is tried again.
                if let Some((point, how)) = line.rsplit_once(' ').filter(|(_, how)| *how != "failed") {
                    done.insert(point.to_owned(), how.to_owned());
                }
            }
            file = Some(OpenOptions::new().append(true).create(true).open(path).unwrap());
        }
        Self {
            counts: Counts::ZERO,
            row,
            done,
            file,
        }
    }

    /// Whether an earlier part of the sweep did it; it is counted then.
    pub fn is_done(&mut self, point: &Point) -> bool {
        let how = self.done.get(&point.to_string()).cloned();
        if let Some(how) = &how {
            self.counts.count(point, how);
        }
        how.is_some()
    }

    /// Notes a point.
    pub fn note(&mut self, point: &Point, result: &Result<Passed, String>) {
        let how = match result {
            Ok(Passed::Reached) => "passed",
            Ok(Passed::Missed) => "missed",
            Err(_) => "failed",
        };
        self.counts.count(point, how);
        if let Some(file) = &mut self.file {
            // In one write: rows run side by side.
            file.write_all(format!("{} {point} {how}\n", self.row).as_bytes())
                .unwrap();
        }
    }
}
