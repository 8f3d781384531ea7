//! One who looks after a detached job is killed at each of its system calls, from its birth on.
//!
//! strace has to be there before the first of them, and the process is started by another one: so the leaf that it is born into is
//! frozen meanwhile.

use crate::support::captured::{Captured, wait_written};
use crate::support::needs::{Need, met};
use crate::support::process::{Process, status};
use crate::support::seed::{Random, full_sweep, seed};
use crate::support::world::World;
use crate::support::{PATIENCE, cgroup, commit, programs, say};
use jobcage_job::{Ending, Report};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

/// Who is killed.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// The tests' word.
    pub word: &'static str,
    /// The leaf that it is born into.
    leaf: &'static str,
}

pub const TARGETS: [Target; 2] = [
    Target {
        word: "supervisor",
        leaf: "supervisors",
    },
    Target {
        word: "keeper",
        leaf: "keepers",
    },
];

/// Points of a row in the sample.
const SAMPLE: usize = 25;

const SCRIPT: &str = "echo ran >> began; echo one; echo two >&2; sleep 0.02; echo three; exit 3";
const AFTER: &str = "echo $JOBCAGE_RESULT >> after; echo after";
const LOG: &str = "one\ntwo\nthree\n";

/// A system call, and which one of these.
type Point = (String, u32);

/// What a run came to.
struct Run {
    world: World,
    client: Child,
    trace: String,
}

/// All points of a target, or a choice by the seed.
pub fn row(target: Target) {
    if !met(target.word, &[Need::Root, Need::Program("strace")]) {
        return;
    }
    let mut points = enumerate(target);
    let mut random = Random::of(target.word);
    while !full_sweep() && points.len() > SAMPLE {
        let index = usize::try_from(random.next() % points.len() as u64).unwrap();
        points.remove(index);
    }
    let (mut reached, mut refused, mut failures) = (0, 0, Vec::new());
    for point in &points {
        let mut run = play(target, Some(point));
        reached += u32::from(run.trace.contains("killed by SIGKILL"));
        let judged = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| judge(&mut run)));
        match judged {
            Ok(Verdict::Ran) => {}
            Ok(Verdict::Refused) => refused += 1,
            Err(_) => {
                say(&format!("FAILED {}: {} {}", target.word, point.0, point.1));
                failures.push(format!("{} {}", point.0, point.1));
            }
        }
    }
    let extent = if full_sweep() { "full sweep" } else { "sample" };
    say(&format!(
        "{} killed at its calls: {} points, {reached} reached, {refused} before there was a job, {} failed ({extent}, commit {}, seed {})",
        target.word,
        points.len(),
        failures.len(),
        commit::commit(),
        seed()
    ));
    assert!(failures.is_empty(), "{failures:#?}");
}

fn enumerate(target: Target) -> Vec<Point> {
    let mut run = play(target, None);
    let verdict = judge(&mut run);
    assert!(
        matches!(verdict, Verdict::Ran),
        "without a fault it does not even begin"
    );
    let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
    for line in run.trace.lines() {
        let name = line.split('(').next().unwrap_or_default();
        if !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            *counts.entry(name).or_default() += 1;
        }
    }
    let of = |(name, last): (&str, u32)| {
        (1..=last)
            .map(move |when| (name.to_owned(), when))
            .collect::<Vec<_>>()
    };
    counts.into_iter().flat_map(of).collect()
}

/// Plays the job with strace at the target; comes back when the target has ended.
fn play(target: Target, point: Option<&Point>) -> Run {
    let world = World::new(&format!("points-{}", target.word));
    let leaf = world.cgroup_root.join(target.leaf);
    fs::create_dir(&leaf).unwrap();
    fs::write(leaf.join("cgroup.freeze"), "1").unwrap();
    let mut command = world.command(programs::jobcage());
    command
        .args(["run", "--detach", "--after", AFTER, "--", "sh", "-c", SCRIPT])
        .stdin(Stdio::null())
        .stdout(File::create(world.dir.join("id")).unwrap())
        .stderr(File::create(world.dir.join("stderr-client")).unwrap());
    let client = command.spawn().unwrap();
    let end = Instant::now() + PATIENCE;
    let born = loop {
        // The first who is there: what it starts is born elsewhere, or later.
        if let Some(&pid) = cgroup::pids(&leaf).first() {
            break Process::open(pid);
        }
        assert!(Instant::now() < end, "nobody is born into {}", leaf.display());
        std::thread::yield_now();
    };
    let trace = world.dir.join("trace");
    let mut strace = Command::new("strace");
    strace.args(["-q", "-p", &born.pid.to_string(), "-o"]).arg(&trace);
    if let Some((call, when)) = point {
        strace.args(["-e", &format!("trace={call}")]);
        strace.args(["-e", &format!("inject={call}:signal=KILL:when={when}")]);
    }
    let mut strace = strace.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    while status(born.pid, "TracerPid").is_some_and(|tracer| tracer == "0") {
        assert!(Instant::now() < end, "strace does not come to {}", born.pid);
        std::thread::yield_now();
    }
    fs::write(leaf.join("cgroup.freeze"), "0").unwrap();
    assert!(born.wait_end(PATIENCE), "the {} does not end", target.word);
    strace.wait().unwrap();
    Run {
        trace: fs::read_to_string(trace).unwrap_or_default(),
        client,
        world,
    }
}

enum Verdict {
    /// The job ran to its end.
    Ran,
    /// It never began, and its client was told so.
    Refused,
}

/// However it was: the command and its after phase ran once, or neither, and all that they said is there.
fn judge(run: &mut Run) -> Verdict {
    let status = crate::support::call::wait(&mut run.client, PATIENCE).expect("the client ends");
    let told = fs::read_to_string(run.world.dir.join("stderr-client")).unwrap();
    let state = run.world.dir.join("state");
    let record = || {
        let mut names = fs::read_dir(&state).unwrap().flatten();
        names
            .next()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
    };
    if let Some(id) = record() {
        let job = run.world.captured(&id);
        // The watcher has not heard of a job that was only about to begin: that is for gc.
        let over = || !job.record.exists() || job.record.join("report.json").exists();
        if !status.success() && !run.world.dir.join("began").exists() {
            run.world.call(&["gc"]).expect(0);
        }
        assert!(
            wait_written(&job.record, over),
            "it does not end: {:?} {}\n{told}",
            job.files(),
            job.text("phase.json")
        );
        look(run, &job, status.success());
        // A client that cannot know whether it runs names the job that does.
        let ran = run.world.dir.join("began").exists();
        assert!(
            status.success() || !ran || told.contains(&format!("show {id}")),
            "{told}"
        );
    } else {
        assert!(
            !status.success(),
            "the client has promised a job that is not there"
        );
    }
    let began = fs::read_to_string(run.world.dir.join("began")).unwrap_or_default();
    let after = fs::read_to_string(run.world.dir.join("after")).unwrap_or_default();
    assert!(
        matches!(
            (began.as_str(), after.as_str()),
            // The last: killed when there was a job, and before its command was started. Its client has been told.
            ("ran\n", "failed\n") | ("", "") | ("", "lost\n")
        ),
        "the command: {began:?}, the after phase: {after:?}"
    );
    run.world.assert_nobody_left();
    if began.is_empty() {
        assert!(!status.success() && told.starts_with("jobcage: "), "{told}");
        return Verdict::Refused;
    }
    Verdict::Ran
}

fn look(run: &Run, job: &Captured, promised: bool) {
    let text = job.text("report.json");
    if !run.world.dir.join("began").exists() {
        assert!(!promised, "{text}");
        return;
    }
    let report: Report = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
    assert_eq!(report.ending, Ending::Exited { code: 3 }, "{text}");
    assert!(report.clean && report.steps.len() == 2, "{text}");
    assert!(
        report
            .steps
            .iter()
            .flat_map(|step| &step.logs)
            .all(|log| log.whole),
        "{text}"
    );
    assert_eq!(
        (job.text("log-01"), job.text("log-02")),
        (LOG.into(), "after\n".into())
    );
}
