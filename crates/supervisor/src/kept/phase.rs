//! `phase.json`: where the supervisor of a captured job stands, for the one who comes after it.

use crate::machine::{Machine, State};
use crate::wish::Wish;
use jobcage_job::{LeaseHolder, Root};
use jobcage_ledger::Record;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The version of `phase.json`. A reader refuses what is newer.
pub const PHASE_VERSION: u32 = 1;

/// After so many supervisors that failed by themselves there is no further one: the job is closed as lost.
pub const MOST_FAILURES: usize = 3;

/// What is written down at every change of state. Times are of `CLOCK_BOOTTIME`, which runs on while nobody looks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Phase {
    /// [`PHASE_VERSION`] of the writer.
    pub version: u32,
    /// State, ending and notes.
    pub machine: Machine,
    /// When the job was started.
    pub began: Duration,
    /// When its whole time is over.
    pub timeout_at: Option<Duration>,
    /// How it is stopped, and by which request it is.
    pub wish: Wish,
    /// When its grace time is over.
    pub grace_until: Option<Duration>,
    /// Whether its processes have had their signal.
    pub signalled: bool,
    /// When the time of the after phase is over.
    pub after_until: Option<Duration>,
    /// The number of the after phase's step, from the moment before it is started.
    pub after: Option<u32>,
    /// The time of the after phase that a session was given.
    #[serde(default)]
    pub after_timeout: Option<Duration>,
    /// The process that has taken the after phase of a session upon itself.
    #[serde(default)]
    pub after_taken_by: Option<i32>,
    /// The after phase's main process, where it is not the keeper's child: of a command in the foreground.
    pub after_process: Option<LeaseHolder>,
    /// How many OOM kills the cage had seen before.
    pub oom_before: u64,
    /// The pid of the supervisor that wrote this.
    pub supervisor: i32,
    /// Where the cage is, and why.
    pub root: Option<Root>,
    /// For the report.
    pub notes: Vec<String>,
    /// Why supervisors gave up.
    pub failures: Vec<String>,
}

/// As much of `phase.json` as tells where a job stands.
#[derive(Debug, Deserialize)]
struct Standing {
    machine: StandingMachine,
}

#[derive(Debug, Deserialize)]
struct StandingMachine {
    state: State,
}

/// Where the supervisor of a job stands. `None`: it has not begun, or the job is over.
///
/// # Errors
/// As [`Record::phase`].
pub fn standing(record: &Record) -> jobcage_ledger::Result<Option<State>> {
    let standing: Option<Standing> = record.phase(PHASE_VERSION)?;
    Ok(standing.map(|standing| standing.machine.state))
}

impl Phase {
    /// Of a job that began at `began`, with no clock running.
    #[must_use]
    pub fn new(machine: Machine, began: Duration, root: Option<Root>, wish: Wish) -> Self {
        Self {
            version: PHASE_VERSION,
            machine,
            began,
            timeout_at: None,
            wish,
            grace_until: None,
            signalled: false,
            after_until: None,
            after: None,
            after_timeout: None,
            after_taken_by: None,
            after_process: None,
            oom_before: 0,
            supervisor: std::process::id().cast_signed(),
            root,
            notes: Vec::new(),
            failures: Vec::new(),
        }
    }
}
