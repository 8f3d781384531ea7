//! Animals × endings. Each cell is a world of its own: the animal runs as a job, is ended in one way, and then
//! nothing of it is left, or what is left is named.
//!
//! `JOBCAGE_SWEEP=full` runs every cell. Otherwise each animal gets two endings, chosen by the seed so that all
//! endings have their turn.

pub mod animals;
pub mod cell;
pub mod expect;

use crate::support::needs::{self, Need};
use crate::support::seed::{Random, full_sweep, seed};
use crate::support::world::World;

/// One way in which a job ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The main process exits with 0.
    Success,
    /// The main process exits with 7.
    Failure,
    /// SIGTERM to jobcage.
    Term,
    /// `--timeout`.
    Timeout,
    /// SIGKILL to jobcage and its watcher, then `jobcage gc`.
    KilledThenGc,
    /// SIGKILL to jobcage; nobody calls anything.
    KilledAlone,
}

impl Ending {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Success,
        Self::Failure,
        Self::Term,
        Self::Timeout,
        Self::KilledThenGc,
        Self::KilledAlone,
    ];

    /// What the main process is to exit with, where it ends by itself.
    pub fn exit(self) -> Option<i32> {
        match self {
            Self::Success => Some(0),
            Self::Failure => Some(7),
            _ => None,
        }
    }

    /// Whether jobcage is killed.
    pub fn kills_jobcage(self) -> bool {
        matches!(self, Self::KilledThenGc | Self::KilledAlone)
    }

    /// A word for directory names.
    pub fn word(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Term => "term",
            Self::Timeout => "timeout",
            Self::KilledThenGc => "killed-then-gc",
            Self::KilledAlone => "killed-alone",
        }
    }
}

/// Who must be started outside of the job, and released in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Helper {
    /// Nobody.
    None,
    /// A FUSE server that never answers, mounted on `WORLD/mnt` before the job starts.
    FuseServer,
    /// A tracer of the second pid that the animal prints.
    Tracer,
}

/// What becomes of an animal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It dies.
    Dies,
    /// It cannot die before its helper is released: it must be named in the quarantine.
    Quarantined,
    /// It is not in the cage any more: it must be named as escaped.
    Escapes,
}

/// One animal of the matrix.
pub struct Animal {
    /// Its name, also of its test.
    pub name: &'static str,
    /// The command of the job. With a code, its main process says ready, waits for `WORLD/go` and exits with it.
    pub argv: fn(&World, Option<i32>) -> Vec<String>,
    /// A command before `jobcage`.
    pub wrap: fn(&World) -> Vec<String>,
    /// Further options of `jobcage run`.
    pub options: &'static [&'static str],
    /// What the machine must have.
    pub needs: &'static [Need],
    /// Who is started outside.
    pub helper: Helper,
    /// What becomes of it.
    pub fate: Fate,
    /// Which of the pids that it prints must be named: in the census of a job that ended by itself, in the
    /// quarantine, or as escaped.
    pub named: &'static [usize],
    /// What else must be true of the end.
    pub also: fn(&cell::Outcome),
    /// Undoes what the job did outside of every process of its own.
    pub undo: fn(),
}

/// Runs the row of one animal; `index` is its place in the table.
pub fn run_row(index: usize, animal: &Animal) {
    if !needs::met(animal.name, animal.needs) {
        return;
    }
    for ending in endings(index, animal.name) {
        cell::run(animal, ending);
        (animal.undo)();
    }
}

fn endings(index: usize, name: &str) -> Vec<Ending> {
    if full_sweep() {
        return Ending::ALL.to_vec();
    }
    let turn = usize::try_from(seed() % 6).unwrap();
    let first = Ending::ALL[(index + turn) % Ending::ALL.len()];
    let others: Vec<Ending> = Ending::ALL.into_iter().filter(|e| *e != first).collect();
    vec![first, *Random::of(name).pick(&others)]
}
