//! Much of everything: a job that writes without an end, and jobs by the hundred. Small samples here; with
//! `JOBCAGE_SWEEP=full` it is 10 GB and a thousand.

use crate::support::call::wait;
use crate::support::captured::{Captured, wait_written};
use crate::support::process::{Process, stat};
use crate::support::seed::full_sweep;
use crate::support::world::World;
use crate::support::{PATIENCE, cgroup, programs, say};
use jobcage_job::Ending;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What `seq 1000000000 …` writes is known at every offset: so long is each line.
const LINE: u64 = 11;

/// Compares a part of the log, of whole lines, with what `seq` has written there.
fn compare(log: &mut impl std::io::BufRead, lines: std::ops::Range<u64>) {
    let mut line = [0; LINE as usize];
    for number in lines {
        log.read_exact(&mut line).unwrap();
        let seen = std::str::from_utf8(&line[..10])
            .ok()
            .and_then(|text| text.parse().ok());
        assert_eq!(
            (seen, line[10]),
            (Some(1_000_000_000 + number), b'\n'),
            "line {number}"
        );
    }
}

/// The log keeps its limit on the disk, offsets stay, and the follower gets every byte or is told how many it missed.
#[test]
fn a_job_that_writes_ten_gigabytes() {
    let (lines, max) = if full_sweep() {
        (10_000_000_000 / LINE, 1 << 30)
    } else {
        (400_000_000 / LINE, 32 << 20)
    };
    let total = lines * LINE;
    let mut world = World::new("log-large");
    let last = (1_000_000_000 + lines - 1).to_string();
    let job = world.detach(&["--log-max", &max.to_string()], &["seq", "1000000000", &last]);
    let mut follower: Command = world.command(programs::jobcage());
    follower.args(["attach", &job.id]).stdin(Stdio::null());
    follower
        .stdout(Stdio::piped())
        .stderr(File::create(world.dir.join("told")).unwrap());
    let mut follower = follower.spawn().unwrap();
    let passed_on = std::io::copy(&mut follower.stdout.take().unwrap(), &mut std::io::sink()).unwrap();
    assert_eq!(
        wait(&mut follower, PATIENCE).and_then(|status| status.code()),
        Some(0)
    );
    let report = job.wait_over();
    assert_eq!(report.ending, Ending::Exited { code: 0 }, "{report:#?}");
    let log = &report.steps[0].logs[0];
    let gap = log.dropped.expect("something was dropped");
    assert_eq!((log.bytes, log.whole), (total, true), "{report:#?}");
    assert!(total - (gap.to - gap.from) <= max, "{gap:?}");
    let told = fs::read_to_string(world.dir.join("told")).unwrap();
    let missed: u64 = told.lines().filter_map(missed).sum();
    assert_eq!(passed_on + missed, total, "{told}");
    let path = job.record.join("log-01");
    let data = fs::metadata(&path).unwrap();
    // Blocks of a file system may be larger than what was punched.
    assert!(
        data.len() == total && data.blocks() * 512 <= max + (4 << 20),
        "{} blocks",
        data.blocks()
    );
    let (head, tail) = (gap.from / LINE, gap.to.div_ceil(LINE));
    let open = |at: u64| {
        let mut file = File::open(&path).unwrap();
        std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(at * LINE)).unwrap();
        std::io::BufReader::with_capacity(1 << 20, file)
    };
    compare(&mut open(0), 0..head);
    compare(&mut open(tail), tail..lines);
    say(&format!(
        "{total} bytes: {passed_on} passed on, {missed} missed by the follower, {} kept",
        total - (gap.to - gap.from)
    ));
    world.assert_nobody_left();
}

/// The bytes of the follower's own line about a gap.
fn missed(line: &str) -> Option<u64> {
    let (number, _) = line.split_once(" bytes")?;
    number.rsplit(' ').next()?.parse().ok()
}

/// Those who look after the jobs.
fn attendants(world: &World) -> Vec<i32> {
    let leaves = ["keepers", "supervisors"].map(|leaf| world.cgroup_root.join(leaf));
    leaves.iter().flat_map(|leaf| cgroup::pids(leaf)).collect()
}

/// How often they have run.
fn switches(pids: &[i32]) -> u64 {
    let of = |pid: &i32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let lines = status.lines().filter(|line| line.contains("ctxt_switches"));
        let counts = lines.filter_map(|line| line.rsplit('\t').next()?.parse::<u64>().ok());
        counts.sum::<u64>()
    };
    pids.iter().map(of).sum()
}

/// Started and stopped by many at once, so many at a time.
const AT_ONCE: usize = 50;

fn start_all(world: &World, count: usize) -> Vec<Captured> {
    let mut jobs = Vec::new();
    while jobs.len() < count {
        let clients: Vec<Child> = (0..AT_ONCE.min(count - jobs.len()))
            .map(|_| {
                let mut client: Command = world.command(programs::jobcage());
                client.args(["run", "--detach", "--", "sh", "-c", "echo up; exec sleep 3600"]);
                client
                    .stdin(Stdio::null())
                    .stdout(Stdio::piped())
                    .spawn()
                    .unwrap()
            })
            .collect();
        for client in clients {
            let done = client.wait_with_output().unwrap();
            assert!(done.status.success(), "{}", done.status);
            jobs.push(world.captured(String::from_utf8_lossy(&done.stdout).trim()));
        }
    }
    jobs
}

fn follow(world: &World, job: &Captured) -> Child {
    let mut follower: Command = world.command(programs::jobcage());
    follower.args(["attach", "--quiet", &job.id]).stdin(Stdio::null());
    let shown = File::create(world.dir.join(format!("shown-{}", job.id))).unwrap();
    follower.stdout(shown).spawn().unwrap()
}

#[test]
fn many_jobs_at_once() {
    let count = if full_sweep() { 1000 } else { 60 };
    let mut world = World::new("many");
    let started = Instant::now();
    let jobs = start_all(&world, count);
    let started = started.elapsed();
    let mut followers: Vec<Child> = jobs.iter().map(|job| follow(&world, job)).collect();
    for job in &jobs {
        let shown = world.dir.join(format!("shown-{}", job.id));
        assert!(wait_written(&world.dir, || fs::read(&shown).unwrap() == b"up\n"));
    }
    let attendants = attendants(&world);
    assert_eq!(attendants.len(), 2 * count);
    // That nothing happens can only be seen by looking twice. At first they still settle down.
    let end = Instant::now() + PATIENCE;
    loop {
        let before = switches(&attendants);
        std::thread::sleep(Duration::from_millis(500));
        if switches(&attendants) == before {
            break;
        }
        assert!(Instant::now() < end, "{count} jobs are never all asleep");
    }
    let stopped = Instant::now();
    for part in jobs.chunks(AT_ONCE) {
        let stops = part.iter().map(|job| {
            let mut stop: Command = world.command(programs::jobcage());
            stop.args(["stop", "--quiet", &job.id]).stdin(Stdio::null());
            stop.spawn().unwrap()
        });
        for mut stop in stops.collect::<Vec<_>>() {
            assert!(wait(&mut stop, PATIENCE).is_some_and(|status| status.success()));
        }
    }
    for follower in &mut followers {
        assert_eq!(
            wait(follower, PATIENCE).and_then(|status| status.code()),
            Some(143)
        );
    }
    say(&format!(
        "{count} jobs: started in {started:?}, asleep, stopped in {:?}",
        stopped.elapsed()
    ));
    for job in &jobs {
        let report = job.wait_over();
        assert!(report.clean && report.ending.kind() == "cancelled", "{report:#?}");
    }
    let gone = |pid: &i32| stat(*pid).is_none() || Process::open(*pid).wait_end(PATIENCE);
    assert!(attendants.iter().all(gone));
    world.assert_nobody_left();
}
