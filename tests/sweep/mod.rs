//! One row of the sweep: a scene, and a kind of fault at each of its system calls.
//!
//! A row runs in a pid namespace of its own: what jobcage finds in /proc, and so the number of its system calls, does
//! not depend on who else lives on the host, and whatever a failing point leaves behind ends with the row.

pub mod place;
pub mod points;
pub mod progress;
pub mod run;
pub mod scenes;
pub mod verdict;

use crate::support::needs::{Need, met};
use crate::support::seed::{full_sweep, seed};
use crate::support::{cgroup, say};
use progress::{Counts, Progress};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

/// What happens at a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// SIGKILL at the entry of the call, which is not carried out.
    Killed,
    /// The call fails.
    Failing,
}

impl Kind {
    /// Its word; the tests' module.
    pub fn word(self) -> &'static str {
        match self {
            Self::Killed => "killed",
            Self::Failing => "failing",
        }
    }
}

/// Set in the process that runs a row inside its namespace: the directory it works in.
const INSIDE: &str = "JOBCAGE_CRASH_DIR";

/// How many points a row of the sample has: all rows together take about a minute on two cores.
const SAMPLE: usize = 90;

/// Runs a row, or skips it.
pub fn row(scene: &str, kind: Kind) {
    let test = format!("{}::{scene}", kind.word());
    if let Some(dir) = std::env::var_os(INSIDE) {
        inside(Path::new(&dir), scene, kind);
        return;
    }
    if !met(
        &test,
        &[
            Need::Root,
            Need::Program("strace"),
            Need::Program("unshare"),
            Need::Program("setpriv"),
        ],
    ) {
        return;
    }
    let name = test.replace("::", "-");
    // In memory, where there is such a place: what jobcage keeps in memory only is beside its records then, and what is
    // left of it is seen.
    let memory = Path::new("/dev/shm");
    let base = if memory.is_dir() {
        memory.to_owned()
    } else {
        std::env::temp_dir()
    };
    let dir = base.join(format!("jobcage-crash-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let group = cgroup::make(&name);
    let passed = in_namespace(&test, &dir, &group);
    // On failure, too: everything is said by then, and the namespace has ended with all that was in it.
    cgroup::remove(&group).unwrap();
    cgroup::remove_base();
    let counts = Counts::read(&dir.join("counts"));
    std::fs::remove_dir_all(&dir).unwrap();
    add_up(counts);
    assert!(passed, "{test}: see above");
}

fn in_namespace(test: &str, dir: &Path, group: &Path) -> bool {
    let exe = std::env::current_exe().unwrap();
    // The namespace ends with this process, even if that is killed.
    let status = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "--", "unshare"])
        .args(["--pid", "--fork", "--mount-proc", "--kill-child"])
        // The shell is the namespace's init: while it waits it reaps all orphans.
        .args(["sh", "-c", "\"$0\" \"$@\"; exit $?"])
        .arg(exe)
        .args(["--exact", test, "--nocapture", "--test-threads", "1"])
        .env(INSIDE, dir)
        .env("JOBCAGE_TEST_CGROUP", group)
        .env("JOBCAGE_SEED", seed().to_string())
        .env(progress::COMMIT, progress::commit())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .expect("setpriv, unshare");
    status.success()
}

/// The last of these lines is the sum over all rows that were run.
fn add_up(counts: Counts) {
    static SUM: Mutex<Counts> = Mutex::new(Counts::ZERO);
    let mut sum = SUM.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    sum.add(&counts);
    let extent = if full_sweep() { "full sweep" } else { "sample" };
    say(&format!(
        "crash points: {sum} ({extent}, commit {}, seed {})",
        progress::commit(),
        seed()
    ));
}

fn inside(dir: &Path, scene: &str, kind: Kind) {
    let scene = scenes::all()
        .into_iter()
        .find(|s| s.name == scene)
        .expect("it is in the table");
    let all = points::enumerate(&scene, kind, dir);
    let chosen = if full_sweep() {
        all
    } else {
        points::sample(&scene, kind, all, SAMPLE)
    };
    let mut progress = Progress::open(&scene, kind);
    let mut failures = Vec::new();
    for point in &chosen {
        if progress.is_done(point) {
            continue;
        }
        let result = run::point(&scene, point, dir);
        if let Err(why) = &result {
            say(&format!("FAILED {}::{}: {point}\n{why}", kind.word(), scene.name));
            failures.push(point.to_string());
        }
        progress.note(point, &result);
    }
    progress.counts.write(&dir.join("counts"));
    say(&format!(
        "{}::{}: {} points: {}",
        kind.word(),
        scene.name,
        chosen.len(),
        progress.counts
    ));
    assert!(
        failures.is_empty(),
        "{} points failed: {failures:#?}",
        failures.len()
    );
}

/// Where the sweep notes how far it is.
pub fn target() -> PathBuf {
    // Beside cargo's own results, wherever these are: OUT/TRIPLE/PROFILE/jobcage.
    Path::new(env!("CARGO_BIN_EXE_jobcage"))
        .ancestors()
        .nth(3)
        .unwrap()
        .join("crash-sweep")
}
