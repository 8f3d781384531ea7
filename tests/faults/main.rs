//! The sweep over killed processes: many detached jobs at once write checksummed output, while their clients, supervisors,
//! keepers and watchers are killed at random moments. Afterwards every byte and every status is compared
//! (docs/reliability.md).
//!
//! `JOBCAGE_SWEEP=full` does at least 1 000 kills among 100 jobs; otherwise it is a sample. The choices come from the seed; the
//! moments are the machine's.

#[path = "../support/mod.rs"]
mod support;

mod counts;
mod job;
mod killer;
mod points;
mod writer;

use counts::Counts;
use job::Live;
use libtest_mimic::{Arguments, Failed, Trial};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;
use support::needs::{Need, met};
use support::seed::{full_sweep, seed};
use support::world::World;
use support::{commit, say};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().collect();
    if words.get(1).is_some_and(|word| word == writer::WORD) {
        writer::run(&words[2..]);
    }
    let sweep = Trial::test("killed_at_random", || {
        sweep();
        Ok::<(), Failed>(())
    });
    let mut trials = vec![sweep];
    trials.extend(points::TARGETS.map(|target| {
        Trial::test(format!("killed_at_each_call::{}", target.word), move || {
            points::row(target);
            Ok(())
        })
    }));
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// How much is done.
pub struct Extent {
    /// Jobs at once.
    slots: u32,
    /// Kills in all, at least.
    kills: u32,
    /// The longest time between two of them, milliseconds.
    pace: u64,
    /// The longest time that a job waits between two writes, milliseconds.
    pause: u64,
}

/// What all threads share.
pub struct Sweep {
    extent: Extent,
    world: World,
    next: AtomicU32,
    enough: AtomicBool,
    live: Mutex<Vec<Arc<Live>>>,
    counts: Mutex<Counts>,
    failures: Mutex<Vec<String>>,
}

impl Sweep {
    fn fail(&self, why: String) {
        say(&format!("FAILED {why}"));
        self.failures.lock().unwrap().push(why);
    }
}

fn sweep() {
    if !met("faults", &[Need::Root]) {
        return;
    }
    let extent = if full_sweep() {
        Extent {
            slots: 100,
            kills: 1000,
            pace: 60,
            pause: 200,
        }
    } else {
        Extent {
            slots: 12,
            kills: 60,
            pace: 300,
            pause: 20,
        }
    };
    let began = Instant::now();
    let world = World::new("faults");
    job::open_to_all(&world);
    let mut sweep = Sweep {
        extent,
        world,
        next: AtomicU32::new(0),
        enough: AtomicBool::new(false),
        live: Mutex::default(),
        counts: Mutex::default(),
        failures: Mutex::default(),
    };
    std::thread::scope(|scope| {
        for _ in 0..sweep.extent.slots {
            scope.spawn(|| {
                while !sweep.enough.load(Ordering::Relaxed) {
                    job::play(&sweep, sweep.next.fetch_add(1, Ordering::Relaxed));
                }
            });
        }
        killer::kill_until_enough(&sweep);
    });
    finish(&mut sweep, began);
}

fn finish(sweep: &mut Sweep, began: Instant) {
    // What nobody was left to close: the watcher may have been the last to be killed.
    sweep.world.call(&["gc"]).expect(0);
    job::look_at_the_unknown(sweep);
    let left = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| sweep.world.assert_nobody_left()));
    let mut counts = sweep.counts.lock().unwrap().clone();
    counts.left = u32::from(left.is_err());
    let extent = if full_sweep() { "full sweep" } else { "sample" };
    say(&format!(
        "faults: {counts} ({extent}, commit {}, seed {}, {} s)",
        commit::commit(),
        seed(),
        began.elapsed().as_secs()
    ));
    let failures = sweep.failures.lock().unwrap();
    assert!(
        failures.is_empty() && left.is_ok(),
        "{} failures: {failures:#?}",
        failures.len()
    );
}
