//! Who kills.

use crate::job::Live;
use crate::support::cgroup;
use crate::support::process::Process;
use crate::support::seed::Random;
use crate::{Sweep, support};
use jobcage_ledger::{Record, State};
use jobcage_sys::file::Durability;
use nix::sys::signal::Signal;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Clients are killed by those who start them. The supervisor most often, since everything has to go on without it.
const KINDS: [&str; 16] = [
    "supervisor",
    "supervisor",
    "supervisor",
    "supervisor",
    "supervisor",
    "supervisor",
    "supervisor",
    "keeper",
    "keeper",
    "watcher",
    "watcher",
    "supervisor+watcher",
    "supervisor+watcher",
    "keeper+watcher",
    "supervisor+keeper",
    "gc",
];

/// Kills until there were enough, then lets everybody finish.
pub fn kill_until_enough(sweep: &Sweep) {
    let mut random = Random::of("killer");
    while sweep.counts.lock().unwrap().killed() < sweep.extent.kills {
        let kind = *random.pick(&KINDS);
        let choice = random.next();
        let pace = random.next() % sweep.extent.pace;
        if kind == "gc" {
            let done = sweep.world.call(&["gc"]);
            if done.code != 0 {
                sweep.fail(format!("gc: {}", done.told()));
            }
            sweep.counts.lock().unwrap().gc += 1;
        } else if let Some(job) = pick(sweep, choice)
            && strike(sweep, &job, kind)
        {
            *sweep.counts.lock().unwrap().kills.entry(kind).or_default() += 1;
        }
        // The moments are to be random: there is no event to wait for.
        std::thread::sleep(Duration::from_millis(pace));
    }
    sweep.enough.store(true, Ordering::Relaxed);
}

fn pick(sweep: &Sweep, choice: u64) -> Option<Arc<Live>> {
    let live = sweep.live.lock().unwrap();
    let index = usize::try_from(choice % live.len().max(1) as u64).unwrap();
    live.get(index).cloned()
}

/// Kills; whether somebody was there to be killed.
fn strike(sweep: &Sweep, job: &Live, kind: &str) -> bool {
    // Whoever looks at the job's fate waits: what is known of it and what was done belong together.
    let mut fate = job.fate.lock().unwrap();
    let holder = job.id.get().and_then(|id| holder(sweep, id));
    let supervisor = holder.map(Process::open).filter(|_| kind.contains("supervisor"));
    let keeper = job
        .id
        .get()
        .and_then(|id| keeper(sweep, id))
        .filter(|_| kind.contains("keeper"));
    let watchers = if kind.contains("watcher") {
        cgroup::pids(&sweep.world.cgroup_root.join("hold"))
    } else {
        Vec::new()
    };
    let wanted = [
        ("supervisor", supervisor.is_some()),
        ("keeper", keeper.is_some()),
        ("watcher", !watchers.is_empty()),
    ];
    if wanted.iter().any(|(who, there)| kind.contains(who) && !there) {
        return false;
    }
    if let Some(supervisor) = &supervisor {
        fate.supervisors += 1;
        // Without a keeper it was the last who held the pipe.
        fate.hopeless |= fate.keeper_dead || keeper.is_some();
        supervisor.signal(Signal::SIGKILL);
    }
    if let Some(keeper) = &keeper {
        fate.keeper_dead = true;
        // Nobody has the job at this moment: what the keeper held goes with it.
        fate.hopeless |= holder.is_none();
        keeper.signal(Signal::SIGKILL);
    }
    for watcher in watchers.into_iter().map(Process::open) {
        watcher.signal(Signal::SIGKILL);
    }
    if let Some(supervisor) = &supervisor {
        // Or it could still be found as the holder, and counted again.
        supervisor.wait_end(support::PATIENCE);
    }
    if let Some(keeper) = &keeper {
        keeper.wait_end(support::PATIENCE);
        // It may have ended by itself between the look and the kill of the keeper: then nobody had the pipe.
        let still = job.id.get().and_then(|id| self::holder(sweep, id));
        fate.hopeless |= still.is_none() || still != holder;
    }
    true
}

/// Who looks after the job.
fn holder(sweep: &Sweep, id: &str) -> Option<i32> {
    let record = Record::open(
        &sweep.world.dir.join("state"),
        &id.parse().ok()?,
        Durability::Kernel,
    )
    .ok()?;
    match record.state() {
        Ok(State::Alive { supervisor }) => Some(supervisor),
        _ => None,
    }
}

fn keeper(sweep: &Sweep, id: &str) -> Option<Process> {
    let pids = cgroup::pids(&sweep.world.cgroup_root.join("keepers"));
    let own = pids.into_iter().find(|pid| {
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut words = command.split(|b| *b == 0);
        words.clone().any(|word| word == b"__keep") && words.any(|word| word == id.as_bytes())
    })?;
    Some(Process::open(own))
}
