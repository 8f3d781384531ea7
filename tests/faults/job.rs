//! One job of the sweep: started, perhaps with its client killed, waited for, and compared with what it should be.

use crate::Sweep;
use crate::support::call::wait;
use crate::support::captured::{Captured, wait_written};
use crate::support::process::Process;
use crate::support::seed::Random;
use crate::support::world::World;
use crate::support::{PATIENCE, programs};
use crate::writer::{self, Script};
use jobcage_job::{Clock, Ending, ExitStatus, Report};
use nix::sys::signal::Signal;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

/// What happened to those who look after a job.
#[derive(Debug, Default)]
pub struct Fate {
    /// So many supervisors were killed.
    pub supervisors: u32,
    /// The keeper was killed.
    pub keeper_dead: bool,
    /// There was a moment in which nobody held the pipe: it may be lost.
    pub hopeless: bool,
}

/// A job under way.
pub struct Live {
    number: u32,
    /// Its id, as soon as it is known.
    pub id: OnceLock<String>,
    /// What happened.
    pub fate: Mutex<Fate>,
}

impl Live {
    /// Its id, which may be known by its record before its client has told it.
    pub fn find_id(&self, sweep: &Sweep) -> Option<String> {
        if self.id.get().is_none()
            && let Some(id) = record_of(sweep, self.number)
        {
            let _ = self.id.set(id);
        }
        self.id.get().cloned()
    }
}

/// The record of the job of this number.
fn record_of(sweep: &Sweep, number: u32) -> Option<String> {
    let prefix = format!("f{number}x-");
    let listed = fs::read_dir(sweep.world.dir.join("state"))
        .into_iter()
        .flatten()
        .flatten();
    let mut names = listed.map(|e| e.file_name().to_string_lossy().into_owned());
    names.find(|name| name.starts_with(&prefix))
}

/// What a job is to do.
struct Plan {
    script: Script,
    split: bool,
    other_user: bool,
    timeout: bool,
    /// The client is killed so long after its start.
    client_dies: Option<Duration>,
}

impl Plan {
    fn new(sweep: &Sweep, number: u32) -> Self {
        let mut random = Random::of(&format!("job {number}"));
        let end = match random.next() % 4 {
            0 => 1000 + i32::try_from(random.next() % 3).unwrap() * 3 + 9,
            _ => i32::try_from(random.next() % 256).unwrap(),
        };
        Self {
            script: Script {
                seed: random.next(),
                pieces: 20 + u32::try_from(random.next() % 80).unwrap(),
                pause: sweep.extent.pause,
                // 9, 12 and 15: no core is dumped.
                end,
            },
            split: random.next().is_multiple_of(2),
            other_user: random.next().is_multiple_of(3),
            timeout: random.next().is_multiple_of(8),
            client_dies: (random.next().is_multiple_of(10))
                .then(|| Duration::from_micros(random.next() % 40_000)),
        }
    }

    fn right(&self) -> (Ending, Option<ExitStatus>) {
        if self.timeout {
            return (Ending::TimedOut { clock: Clock::Wall }, None);
        }
        let status = if self.script.end >= 1000 {
            ExitStatus::Signal(self.script.end - 1000)
        } else {
            ExitStatus::Code(self.script.end)
        };
        (status.into(), Some(status))
    }
}

/// Jobs of other users write here.
pub fn open_to_all(world: &World) {
    fs::set_permissions(&world.dir, Permissions::from_mode(0o777)).unwrap();
    // Where cargo has put this program, others may not look.
    let program = world.dir.join("writer");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    fs::set_permissions(program, Permissions::from_mode(0o755)).unwrap();
}

/// Plays one job to its end.
pub fn play(sweep: &Sweep, number: u32) {
    let plan = Plan::new(sweep, number);
    let live = Arc::new(Live {
        number,
        id: OnceLock::new(),
        fate: Mutex::default(),
    });
    let promised = start(sweep, &plan, &live);
    sweep.counts.lock().unwrap().jobs += 1;
    if live.id.get().is_none() {
        // Its client was killed or failed: it may have begun all the same.
        find_by_name(sweep, &live);
    }
    if let Some(id) = live.id.get() {
        let job = sweep.world.captured(id);
        if wait_over(sweep, &job) {
            judge(sweep, &plan, &live, &job, promised);
        } else {
            sweep.fail(format!(
                "job {number}: {id} does not end: {:?} {}",
                job.files(),
                job.text("phase.json")
            ));
        }
    }
    if !promised {
        sweep.counts.lock().unwrap().unpromised += 1;
    }
    sweep.live.lock().unwrap().retain(|other| other.number != number);
}

/// Starts it; whether the client has promised that it runs.
fn start(sweep: &Sweep, plan: &Plan, live: &Arc<Live>) -> bool {
    let (world, number) = (&sweep.world, live.number);
    for file in ["main", "after"] {
        let path = world.dir.join(format!("{file}-{number}"));
        File::create(&path).unwrap();
        fs::set_permissions(path, Permissions::from_mode(0o666)).unwrap();
    }
    let after = format!("echo $JOBCAGE_RESULT >> after-{number}; echo after; sleep 0.03; echo end");
    let (name, file) = (format!("f{number}x"), format!("main-{number}"));
    let mut command = world.command(programs::jobcage());
    command.args(["run", "--detach", "--name", &name, "--after", &after]);
    command.args(["--streams", if plan.split { "split" } else { "merged" }]);
    if plan.other_user {
        command.args(["--user", "nobody"]);
    }
    if plan.timeout {
        command.args(["--timeout", "300ms"]);
    }
    command
        .args(["--", "./writer", writer::WORD])
        .args(plan.script.words())
        .arg(file);
    let told = world.dir.join(format!("client-{number}"));
    command
        .stdin(Stdio::null())
        .stdout(File::create(&told).unwrap())
        .stderr(File::create(told.with_extension("err")).unwrap());
    let mut client = command.spawn().unwrap();
    sweep.live.lock().unwrap().push(Arc::clone(live));
    if let Some(after) = plan.client_dies {
        let process = Process::open(client.id().cast_signed());
        if !process.wait_end(after) {
            process.signal(Signal::SIGKILL);
            *sweep.counts.lock().unwrap().kills.entry("client").or_default() += 1;
        }
    }
    let Some(status) = wait(&mut client, PATIENCE) else {
        sweep.fail(format!("job {number}: its client does not end"));
        return false;
    };
    let text = fs::read_to_string(&told).unwrap();
    if let Some(id) = text.strip_suffix('\n') {
        let id = live.id.get_or_init(|| id.to_owned());
        assert!(
            text == format!("{id}\n"),
            "the client says {text:?}, the record is {id}"
        );
    }
    status.success()
}

/// A record of its name, if there is one or comes soon: whoever makes it may be at it now.
fn find_by_name(sweep: &Sweep, live: &Live) {
    // Its supervisor is in no cgroup that would tell: those of all jobs are in one.
    let supervisors = || crate::support::cgroup::pids(&sweep.world.cgroup_root.join("supervisors"));
    let there: Vec<Process> = supervisors().into_iter().map(Process::open).collect();
    let sure = std::time::Instant::now() + Duration::from_secs(2);
    while live.find_id(sweep).is_none()
        && std::time::Instant::now() < sure
        && !there.iter().all(Process::has_ended)
    {
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whether it came to its report, or its record went, as that of a job that never began.
fn wait_over(sweep: &Sweep, job: &Captured) -> bool {
    let over = || job.record.join("report.json").exists() || !job.record.exists();
    // If its watcher was killed together with all others, it waits for the next gc.
    for _ in 0..3 {
        if wait_written(&job.record, over) {
            return true;
        }
        sweep.world.call(&["gc"]);
    }
    over()
}

/// Jobs whose client was killed, whose record came only later.
pub fn look_at_the_unknown(sweep: &Sweep) {
    for id in fs::read_dir(sweep.world.dir.join("state")).unwrap().flatten() {
        let id = id.file_name().to_string_lossy().into_owned();
        if !sweep
            .world
            .dir
            .join("state")
            .join(&id)
            .join("report.json")
            .exists()
        {
            sweep.fail(format!("{id} has no report"));
        }
    }
    for number in 0..sweep.next.load(Ordering::Relaxed) {
        for file in ["main", "after"] {
            let text =
                fs::read_to_string(sweep.world.dir.join(format!("{file}-{number}"))).unwrap_or_default();
            if text.lines().count() > 1 {
                sweep.fail(format!("job {number}: {file} ran twice: {text:?}"));
            }
        }
    }
}

fn judge(sweep: &Sweep, plan: &Plan, live: &Live, job: &Captured, promised: bool) {
    let lines = |file: &str| {
        let path = sweep.world.dir.join(format!("{file}-{}", live.number));
        fs::read_to_string(path).unwrap().lines().count()
    };
    let (mains, afters) = (lines("main"), lines("after"));
    let fate = live.fate.lock().unwrap();
    let text = job.text("report.json");
    let Ok(report) = serde_json::from_str::<Report>(&text) else {
        // Swept, as a job that never began.
        if promised || mains + afters > 0 {
            sweep.fail(format!(
                "{}: it ran, and there is no report: {:?} {text}",
                job.id,
                job.files()
            ));
        }
        return;
    };
    let mut wrong = Vec::new();
    let mut counts = sweep.counts.lock().unwrap();
    counts.taken_over +=
        u32::try_from(report.notes.iter().filter(|n| n.contains("took over")).count()).unwrap();
    let lost = matches!(report.ending, Ending::Lost { .. });
    if mains > 1 || afters > 1 {
        counts.twice += 1;
        wrong.push(format!("main ran {mains} times, the after phase {afters} times"));
    }
    if lost && (fate.hopeless || (!promised && mains == 0)) {
        // An honest loss; what is in the log has to be right all the same.
        counts.lost += u32::from(fate.hopeless);
    } else {
        if afters == 0 {
            counts.never += 1;
            wrong.push("the after phase never ran".into());
        }
        let (ending, status) = plan.right();
        let is_right = report.ending == ending && (plan.timeout || report.status == status);
        // One that was faster than its timeout is right, too.
        let quick = plan.timeout && matches!(report.ending, Ending::Exited { .. } | Ending::Signalled { .. });
        if !is_right && !quick {
            counts.statuses += 1;
            wrong.push(format!(
                "{:?} and {:?} instead of {ending:?}",
                report.ending, report.status
            ));
        }
        if !report.clean
            || report
                .steps
                .iter()
                .flat_map(|step| &step.logs)
                .any(|log| !log.whole)
        {
            wrong.push("it is not clean, or a log is not whole".into());
        }
    }
    let names: &[&str] = if plan.split {
        &["log-01.stdout", "log-01.stderr"]
    } else {
        &["log-01"]
    };
    for (name, right) in names.iter().zip(plan.script.streams(plan.split)) {
        let log = job.file(name);
        counts.bytes += log.len() as u64;
        if !right.starts_with(&log) {
            counts.damaged += 1;
            let at = right.iter().zip(&log).position(|(a, b)| a != b);
            wrong.push(format!(
                "{name}: {} of {} bytes, wrong at {at:?}",
                log.len(),
                right.len()
            ));
        } else if log.len() < right.len() && !lost && !matches!(report.ending, Ending::TimedOut { .. }) {
            counts.missing += (right.len() - log.len()) as u64;
            wrong.push(format!("{name}: {} of {} bytes", log.len(), right.len()));
        }
    }
    drop(counts);
    for name in names {
        // Compared: a long sweep is not to fill the disk.
        let _ = File::create(job.record.join(name));
    }
    if !wrong.is_empty() {
        sweep.fail(format!(
            "job {} ({}, promised {promised}, {fate:?}): {wrong:?}\n{text}\n{}",
            live.number,
            job.id,
            fs::read_to_string(sweep.world.dir.join(format!("client-{}.err", live.number)))
                .unwrap_or_default()
        ));
    }
}
