//! What a step hands on: made with the job, read before a later step and before the after phase, gone with the job.
//!
//! That it cannot be had is no reason not to run a job: it is a note.

use crate::agent;
use crate::host::cstring;
use crate::job::Command;
use jobcage_job::handed::{Handed, WrongLine, wrong_lines};
use jobcage_job::{JobId, JobSpec};
use jobcage_ledger::Places;
use jobcage_ledger::handed::{HandedDir, HandedPlace, Reading, remove};
use std::ffi::CString;

/// The hand of a job that has none.
const NONE: &str =
    "nothing is handed from step to step: when the job was made there was no place in memory for it";

/// Where a new job's is going to be; `None`, with a note, if there is no place.
pub fn choose(places: &Places, uid: u32, notes: &mut Vec<String>) -> Option<HandedPlace> {
    HandedPlace::choose(places, uid)
        .map_err(|why| notes.push(why))
        .ok()
}

/// What `spec.json` says of it.
#[must_use]
pub fn recorded(place: Option<&HandedPlace>, id: &JobId) -> Option<String> {
    place.and_then(|place| place.of(id).into_os_string().into_string().ok())
}

/// What the steps of a job hand on to each other, open.
#[derive(Debug)]
pub struct Hand {
    dir: HandedDir,
    /// Wrong lines that were told of already.
    told: Vec<WrongLine>,
}

/// What every process of a job finds in its environment, by whomever it is started: the job's name, what its kind gets
/// (`more`), where to hand on, and the job's agent.
pub(crate) fn name_the_job(
    env: &mut Vec<CString>,
    spec: &JobSpec,
    hand: Option<&Hand>,
    more: Vec<CString>,
    uid: u32,
) {
    env.push(cstring(format!("JOBCAGE_JOB={}", spec.id).as_ref()));
    env.extend(more);
    env.extend(hand.into_iter().flat_map(Hand::variables));
    agent::name_in(env, spec, uid);
    name_place(env, spec, uid);
}

/// Where the machines of a job are to live, for a process of this uid.
pub(crate) fn name_place(env: &mut Vec<CString>, spec: &JobSpec, uid: u32) {
    if let Some(place) = spec.guests.as_ref().filter(|_| uid == spec.uid) {
        for (name, value) in jobcage_guests::variables(place) {
            let own = format!("{name}=");
            env.retain(|entry| !entry.to_bytes().starts_with(own.as_bytes()));
            env.push(cstring((own + &value).as_ref()));
        }
    }
}

impl Hand {
    /// Makes that of a new job, whose spec is on disk: from then on whoever closes the job finds and removes it.
    pub fn make(place: Option<&HandedPlace>, spec: &JobSpec, notes: &mut Vec<String>) -> Option<Self> {
        spec.state_dir.as_ref()?;
        let made = place?.make(&spec.id, spec.uid);
        let dir = made.map_err(|error| notes.push(format!("nothing is handed from step to step: {error}")));
        dir.ok().map(Self::from)
    }

    /// Opens that of a job that is there, for a step of this uid.
    pub fn open(spec: &JobSpec, uid: u32, notes: &mut Vec<String>) -> Option<Self> {
        let Some(path) = &spec.state_dir else {
            notes.push(NONE.into());
            return None;
        };
        // Who runs as another user trusts the job's user with nothing, least of all with its PATH and LD_PRELOAD.
        if uid != spec.uid {
            notes.push(format!(
                "this step has no JOBCAGE_ENV: it runs as uid {uid}, and state is handed on among steps of uid {}",
                spec.uid
            ));
            return None;
        }
        let opened = HandedDir::open(path.as_ref(), spec.uid);
        let dir = opened.map_err(|error| notes.push(format!("nothing is handed on to this step: {error}")));
        dir.ok().map(Self::from)
    }

    /// `JOBCAGE_ENV` and `JOBCAGE_PATH`, for the environment of every step.
    #[must_use]
    pub fn variables(&self) -> Vec<CString> {
        self.dir.variables()
    }

    /// Reads what was handed on so far, with a note for what has to be ignored.
    pub fn read(&mut self, notes: &mut Vec<String>) -> Reading {
        let reading = self.dir.read();
        notes.extend(reading.notes());
        self.told.clone_from(&reading.wrong);
        reading
    }

    /// A command as a later step, or as the after phase: with what was handed on so far. `None`: as it is, since that is
    /// nothing.
    pub fn pass(&mut self, command: &Command, notes: &mut Vec<String>) -> Option<Command> {
        let handed = self.read(notes).handed;
        (handed != Handed::default()).then(|| command.after(&handed))
    }

    /// At the end of a step: ends a line that it has left open, and tells whoever has just written them of lines that no
    /// later step will have.
    pub fn look(&mut self, notes: &mut Vec<String>) {
        let mut reading = self.dir.read();
        if reading.has_open_line {
            self.dir.end_lines();
            reading = self.dir.read();
        }
        reading.wrong.retain(|line| !self.told.contains(line));
        notes.extend(wrong_lines(&reading.wrong));
        notes.extend(reading.ignored);
    }
}

impl From<HandedDir> for Hand {
    fn from(dir: HandedDir) -> Self {
        Self {
            dir,
            told: Vec::new(),
        }
    }
}

/// Removes what the steps of a job that is over have handed on. `false`, with a note: something is left, and its record is
/// to stay, for gc to try again.
pub fn forget(spec: &JobSpec, notes: &mut Vec<String>) -> bool {
    match remove(spec) {
        Ok(()) => true,
        Err(error) => {
            notes.push(format!(
                "what was handed from step to step is still there, and gc will try again: {error}"
            ));
            false
        }
    }
}
