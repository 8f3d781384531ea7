//! Running a scene under strace, with a fault or without, and having what is left cleaned up.

use super::place::{Ended, Place};
use super::points::{Fault, Heir, Point};
use super::scenes::Scene;
use super::verdict;
use crate::support::process::Process;
use crate::support::{cgroup, programs};
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// How the jobcage under strace is started.
pub struct Start {
    /// Its words.
    pub words: Vec<String>,
    /// Its standard input.
    pub stdin: Option<OwnedFd>,
    /// The cgroup that it is in.
    pub inside: Option<PathBuf>,
}

impl Start {
    /// With these words.
    pub fn words(words: &[&str]) -> Self {
        Self {
            words: words.iter().map(|&w| w.to_owned()).collect(),
            stdin: None,
            inside: None,
        }
    }
}

/// What strace writes down.
pub enum Traced<'a> {
    /// Every call.
    All,
    /// Only the call of a point, where it is made to fail.
    Point(&'a Point),
}

/// What came of a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passed {
    /// The fault happened, and all was well.
    Reached,
    /// This time the call was not made so often, and all was well.
    Missed,
}

/// A scene that is over.
pub struct Over {
    /// What became of the jobcage under strace.
    pub ended: Ended,
    /// Whether the scene ended it, as it would not have ended by itself.
    pub by_scene: bool,
    /// The trace.
    pub trace: String,
}

/// Runs a scene without a fault; its trace.
pub fn undisturbed(scene: &Scene, dir: &Path, traced: Traced<'_>) -> Result<String, String> {
    let mut place = Place::new(dir);
    let result = play(scene, &mut place, traced)
        .and_then(|over| verdict::undisturbed(scene, &place, &over).map(|()| over.trace));
    finish(place, result)
}

/// Runs a scene with a fault and judges it.
pub fn point(scene: &Scene, point: &Point, dir: &Path) -> Result<Passed, String> {
    let mut place = Place::new(dir);
    let mut repeat = String::new();
    let result = play_noting(scene, &mut place, Traced::Point(point), &mut repeat)
        .and_then(|over| judge(scene, point, &place, &over))
        .map_err(|why| format!("{why}\nto repeat: {repeat}"));
    finish(place, result)
}

fn finish<T>(place: Place, result: Result<T, String>) -> Result<T, String> {
    let result = result.map_err(|why| format!("{why}\n{}", cgroup::tree(&place.root)));
    place.end();
    result
}

fn judge(scene: &Scene, point: &Point, place: &Place, over: &Over) -> Result<Passed, String> {
    match point.fault {
        Fault::Kill(heir) => {
            if over.ended.signal != Some(9) || over.by_scene {
                verdict::undisturbed(scene, place, over)?;
                return Ok(Passed::Missed);
            }
            if heir == Heir::Gc {
                place.kill_watchers(None);
            }
            verdict::killed(scene, place, heir)?;
            Ok(Passed::Reached)
        }
        Fault::Error(_) => {
            verdict::failing(scene, point, place, over)?;
            Ok(if over.trace.contains("(INJECTED)") {
                Passed::Reached
            } else {
                Passed::Missed
            })
        }
    }
}

fn play(scene: &Scene, place: &mut Place, traced: Traced<'_>) -> Result<Over, String> {
    play_noting(scene, place, traced, &mut String::new())
}

fn play_noting(
    scene: &Scene,
    place: &mut Place,
    traced: Traced<'_>,
    repeat: &mut String,
) -> Result<Over, String> {
    let start = (scene.prepare)(place);
    let mut words = strace(place, &traced);
    words.push(programs::jobcage().display().to_string());
    words.extend(start.words);
    *repeat = line(place, &words);
    let mut command = match &start.inside {
        None => place.command(Path::new(&words[0]), "traced"),
        Some(group) => {
            let mut command = place.command(Path::new("sh"), "traced");
            command
                .args(["-c", "echo 0 > \"$0\"/cgroup.procs && exec \"$@\""])
                .arg(group)
                .arg(&words[0]);
            command
        }
    };
    command.args(&words[1..]);
    if let Some(stdin) = start.stdin {
        command.stdin(stdin);
    }
    let mut child = command.spawn().map_err(|e| format!("strace: {e}"))?;
    // The socket of a watcher is its own alone, so that its end can be seen.
    drop(command);
    let process = Process::open(i32::try_from(child.id()).unwrap());
    let by_scene = (scene.during)(place, &process);
    let ended = place.finish(&mut child, "traced")?;
    let trace = fs::read(place.dir.join("trace")).unwrap_or_default();
    Ok(Over {
        ended,
        by_scene,
        trace: String::from_utf8_lossy(&trace).into_owned(),
    })
}

/// strace as a detached grandchild (`-D`), so that the one that we start, signal and wait for is jobcage itself. Without
/// `-f`: its children run free.
fn strace(place: &Place, traced: &Traced<'_>) -> Vec<String> {
    let trace = place.dir.join("trace").display().to_string();
    let mut words: Vec<String> = ["strace", "-D", "-qq", "-o", &trace].map(str::to_owned).to_vec();
    if let Traced::Point(point) = traced {
        words.extend([
            "-e".into(),
            format!("trace={}", point.call),
            "-e".into(),
            point.injection(),
        ]);
    }
    words
}

/// The line by which a person repeats it.
fn line(place: &Place, words: &[String]) -> String {
    let quoted = |w: &String| {
        if w.bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_=./:,".contains(&b))
        {
            w.clone()
        } else {
            format!("'{}'", w.replace('\'', r"'\''"))
        }
    };
    let variables = place
        .variables()
        .into_iter()
        .map(|(key, value)| format!("{key}={}", value.display()));
    variables
        .chain(words.iter().map(quoted))
        .collect::<Vec<_>>()
        .join(" ")
}
