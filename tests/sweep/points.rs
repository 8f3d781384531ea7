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

/// Calls that cannot fail so on any kernel, and why; all are made to fail with EINTR all the same where a signal could come.
const IMPOSSIBLE: [(&str, &str); 4] = [
    (
        "close",
        "it closes whatever it says; the runtime ends at an error for a directory (close(2), NOTES)",
    ),
    (
        "waitid",
        "it refuses only wrong arguments, and ECHILD is none of these errors (waitid(2))",
    ),
    (
        "getrandom",
        "16 bytes are given whole or not at all (getrandom(2))",
    ),
    (
        "rt_sigprocmask",
        "it refuses only wrong arguments, and these are constant (sigprocmask(2))",
    ),
];

/// One point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Point {
    /// The system call.
    pub call: String,
    /// Which one of these, from 1.
    pub when: u32,
    /// What happens there.
    pub fault: Fault,
    /// Whether the C library and Rust's runtime make this call, before the first instruction of jobcage: an error ends
    /// them by rules of their own.
    pub runtime: bool,
}

impl Point {
    /// strace's option for it.
    pub fn injection(&self) -> String {
        let Self {
            call, when, fault, ..
        } = self;
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
    for (name, range) in ranges(&trace) {
        for when in range.before + 1..=range.last {
            let runtime = when <= range.runtime;
            let point = |fault| Point {
                call: name.clone(),
                when,
                fault,
                runtime,
            };
            match kind {
                Kind::Killed => {
                    points.push(point(Fault::Kill(Heir::Gc)));
                    if scene.watched {
                        points.push(point(Fault::Kill(Heir::Watcher)));
                    }
                }
                Kind::Failing => points.extend(errors(&name).map(|errno| point(Fault::Error(errno)))),
            }
        }
    }
    points
}

/// The errors that a call is made to fail with.
fn errors(call: &str) -> impl Iterator<Item = &'static str> {
    let impossible = IMPOSSIBLE.iter().any(|(name, _)| *name == call);
    let interruptible = matches!(call, "close" | "waitid");
    ERRORS
        .into_iter()
        .filter(move |errno| !impossible || (interruptible && *errno == "EINTR"))
}

/// How often a call was made.
#[derive(Default)]
struct Range {
    /// By strace itself, in the process that becomes jobcage.
    before: u32,
    /// Until the first instruction of jobcage.
    runtime: u32,
    /// In all.
    last: u32,
}

fn ranges(trace: &str) -> BTreeMap<String, Range> {
    // The last that Rust's runtime does is to handle SIGBUS, for the message of a stack overflow.
    let start = trace
        .rfind("\nrt_sigaction(SIGBUS")
        .expect("the trace shows the start of Rust's runtime");
    let mut ranges: BTreeMap<String, Range> = BTreeMap::new();
    let (mut executed, mut offset) = (false, 0);
    for line in trace.lines() {
        offset += line.len() + 1;
        let name = line.split('(').next().unwrap_or_default();
        if name.is_empty() || !name.bytes().all(is_word) {
            continue;
        }
        let range = ranges.entry(name.to_owned()).or_default();
        range.last += 1;
        if offset <= start + 2 + line.len() {
            range.runtime = range.last;
        }
        if !executed {
            range.before = range.last;
        }
        executed = executed || name == "execve";
    }
    ranges
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
