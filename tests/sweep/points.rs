//! The points of a scene: which system calls it makes, and which of them are chosen.

use super::Kind;
use super::run::{self, Traced};
use super::scenes::Scene;
use crate::support::seed::Random;
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

/// The errors that each call gives once.
const ERRORS: [&str; 6] = ["ENOSPC", "EMFILE", "EACCES", "EINTR", "ENOMEM", "EBUSY"];

/// Who cleans up behind a killed jobcage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heir {
    /// The watcher is killed as well, whatever it is doing, and a person comes along with `jobcage gc`.
    Gc,
    /// The watcher alone.
    Watcher,
}

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL.
    Kill(Heir),
    /// The call is not carried out and gives this.
    Error(&'static str),
}

/// One point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Point {
    /// The system call.
    pub call: String,
    /// Which one of these, from 1.
    pub when: u32,
    /// What happens there.
    pub fault: Fault,
}

impl Point {
    /// strace's option for it.
    pub fn injection(&self) -> String {
        let Self { call, when, fault } = self;
        match fault {
            Fault::Kill(_) => format!("inject={call}:signal=KILL:when={when}"),
            Fault::Error(errno) => format!("inject={call}:error={errno}:when={when}"),
        }
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.fault {
            Fault::Kill(Heir::Gc) => "killed,gc",
            Fault::Kill(Heir::Watcher) => "killed,watcher",
            Fault::Error(errno) => errno,
        };
        write!(f, "{} {} {what}", self.call, self.when)
    }
}

/// Runs the scene once without a fault and lists every point of it.
pub fn enumerate(scene: &Scene, kind: Kind, dir: &Path) -> Vec<Point> {
    let trace = run::undisturbed(scene, dir, Traced::All)
        .unwrap_or_else(|why| panic!("{} does not even pass without a fault: {why}", scene.name));
    let mut points = Vec::new();
    for (call, first, last) in calls(&trace) {
        for when in first..=last {
            let point = |fault| Point {
                call: call.clone(),
                when,
                fault,
            };
            match kind {
                Kind::Killed => {
                    points.push(point(Fault::Kill(Heir::Gc)));
                    if scene.watched {
                        points.push(point(Fault::Kill(Heir::Watcher)));
                    }
                }
                Kind::Failing => points.extend(ERRORS.map(|errno| point(Fault::Error(errno)))),
            }
        }
    }
    points
}

/// The calls in a trace, each with the first and last number that is jobcage's own: what comes before the exec was made
/// by strace itself, in the process that becomes jobcage.
fn calls(trace: &str) -> Vec<(String, u32, u32)> {
    let mut seen: BTreeMap<&str, (u32, u32)> = BTreeMap::new();
    let mut started = false;
    for line in trace.lines() {
        let Some(name) = line
            .split('(')
            .next()
            .filter(|n| !n.is_empty() && n.bytes().all(is_word))
        else {
            continue;
        };
        let (before, last) = seen.entry(name).or_insert((0, 0));
        *last += 1;
        if !started {
            *before = *last;
        }
        // Never made to fail itself: it is strace's.
        started = started || name == "execve";
    }
    let own = seen.into_iter().filter(|(_, (before, last))| last > before);
    own.map(|(name, (before, last))| (name.to_owned(), before + 1, last))
        .collect()
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// A choice by the seed, in the order of the whole.
pub fn sample(scene: &Scene, kind: Kind, mut all: Vec<Point>, most: usize) -> Vec<Point> {
    let mut random = Random::of(&format!("{}-{}", kind.word(), scene.name));
    while all.len() > most {
        let index = usize::try_from(random.next() % all.len() as u64).unwrap();
        all.remove(index);
    }
    all
}
