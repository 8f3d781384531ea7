//! One cell of the matrix: one animal, one ending.

use super::{Animal, Ending, Helper, expect};
use crate::support::job::{Job, Ready};
use crate::support::process::Process;
use crate::support::world::World;
use crate::support::{PATIENCE, cgroup, say};
use jobcage_job::Report;
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Everything that a cell knows at its end.
pub struct Outcome {
    /// How it was ended.
    pub ending: Ending,
    /// What the animal said.
    pub ready: Ready,
    /// The report, from `--report` or from whoever closed the job.
    pub report: Report,
    /// What jobcage wrote for a person.
    pub stderr: String,
}

/// A job in the state that its animal wanted.
pub struct Started {
    /// The job.
    pub job: Job,
    /// What the animal said.
    pub ready: Ready,
    /// A hold on each pid of that.
    pub held: Vec<Process>,
    /// The helper outside, if there is one.
    pub helper: Option<Process>,
    /// The cage.
    pub cage: PathBuf,
}

/// Runs one cell.
pub fn run(animal: &Animal, ending: Ending) {
    let before = Instant::now();
    let mut world = World::new(&format!("{}-{}", animal.name, ending.word()));
    let mut started = start(&mut world, animal, ending);
    let code = end(&mut world, &mut started, ending);
    expect::fate(&mut world, animal, ending, started, code);
    drop(world);
    say(&format!(
        "zoo: {} × {}: {} ms",
        animal.name,
        ending.word(),
        before.elapsed().as_millis()
    ));
}

fn start(world: &mut World, animal: &Animal, ending: Ending) -> Started {
    nix::unistd::mkfifo(&world.dir.join("go"), Mode::from_bits_truncate(0o666)).unwrap();
    let mut helper = None;
    if animal.helper == Helper::FuseServer {
        let point = world.dir.join("mnt");
        std::fs::create_dir(&point).unwrap();
        helper = Some(world.helper(&["fuse-server", point.to_str().unwrap()]));
    }
    let (job, ready) = start_until_ready(world, animal, ending);
    let held: Vec<Process> = ready.pids.iter().map(|&pid| Process::open(pid)).collect();
    if animal.helper == Helper::Tracer {
        helper = Some(world.helper(&["ptrace-outside", &ready.pids[1].to_string()]));
    }
    if ending == Ending::Timeout {
        // What was set up after `ready` must be there before the clock runs out.
        assert!(
            !job.jobcage.has_ended(),
            "the timeout came before the helper: {}",
            job.stderr()
        );
    }
    let cages = world.cages();
    assert_eq!(cages.len(), 1, "one job, one cage; {}", job.stderr());
    if let Some(code) = ending.exit() {
        assert!(
            !job.jobcage.has_ended(),
            "it was to exit with {code} only when told"
        );
    }
    let cage = cages.into_iter().next().unwrap();
    Started {
        job,
        ready,
        held,
        helper,
        cage,
    }
}

fn start_until_ready(world: &mut World, animal: &Animal, ending: Ending) -> (Job, Ready) {
    let wrap = (animal.wrap)(world);
    let argv = (animal.argv)(world, ending.exit());
    // A short clock first; a machine that is too slow for it gets a longer one.
    for clock in ["2s", "10s", "40s"] {
        let mut options: Vec<String> = ["--name", animal.name, "--grace", "300ms"]
            .map(String::from)
            .to_vec();
        options.extend(animal.options.iter().map(|o| (*o).to_owned()));
        if ending == Ending::Timeout {
            options.extend(["--timeout".into(), clock.into()]);
        }
        let mut job = world.run(&wrap, &options, &argv);
        match job.wait_ready() {
            Some(ready) => return (job, ready),
            None if ending == Ending::Timeout && job.wait(PATIENCE) == 124 => {}
            None => panic!(
                "{} never said ready:\n{}{}",
                animal.name,
                job.stdout(),
                job.stderr()
            ),
        }
    }
    panic!("{} is not ready in 40 s", animal.name);
}

/// Opens the gate for the main process. The file is to be kept until the job has ended.
fn open_gate(world: &World) -> File {
    // Read and write: this open waits for nobody.
    let mut gate = OpenOptions::new()
        .read(true)
        .write(true)
        .open(world.dir.join("go"))
        .unwrap();
    gate.write_all(b"go\n").unwrap();
    gate
}

/// Ends the job and returns what jobcage exited with.
fn end(world: &mut World, started: &mut Started, ending: Ending) -> i32 {
    world.phase(format!("ending it by {ending:?}, ready {:?}", started.ready));
    // As long as the slowest honest end takes: the kill's deadline before a quarantine.
    let within = 2 * PATIENCE;
    match ending {
        Ending::Success | Ending::Failure => {
            let _gate = open_gate(world);
            started.job.wait(within)
        }
        Ending::Timeout => started.job.wait(within),
        Ending::Term => {
            started.job.signal(Signal::SIGTERM);
            started.job.wait(within)
        }
        Ending::KilledThenGc => {
            // A supervisor that sees its watcher die starts another one, unless it is stopped.
            started.job.stop();
            world.kill_watchers();
            started.job.signal(Signal::SIGKILL);
            started.job.wait(within)
        }
        Ending::KilledAlone => {
            let kill = Instant::now();
            started.job.signal(Signal::SIGKILL);
            let code = started.job.wait(within);
            time_to_empty(world, started, kill);
            code
        }
    }
}

fn time_to_empty(world: &mut World, started: &Started, kill: Instant) {
    // What sits in D or with a tracer cannot be ended: then there is nothing to time.
    if started.helper.is_some() {
        return;
    }
    world.phase("waiting for the watcher to end what its jobcage left");
    assert!(
        cgroup::wait_empty(&started.cage, PATIENCE),
        "nobody emptied {}",
        started.cage.display()
    );
    let empty = kill.elapsed();
    assert!(
        cgroup::wait_gone(&started.cage, PATIENCE),
        "nobody removed {}",
        started.cage.display()
    );
    let ms = |d: Duration| d.as_secs_f64() * 1e3;
    let name = world
        .dir
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let (empty, gone) = (ms(empty), ms(kill.elapsed()));
    say(&format!(
        "zoo: {name}: {empty:.1} ms from SIGKILL to empty, {gone:.1} ms to gone, by the watcher alone"
    ));
}
