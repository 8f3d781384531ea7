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
            && kind.starts_with("supervisor")
        {
            // And the next one, while it takes over.
            for _ in 0..random.next() % 4 {
                std::thread::sleep(Duration::from_micros(random.next() % 8000));
                strike(sweep, &job, "supervisor");
            }
        }
        // The moments are to be random: there is no event to wait for.
        std::thread::sleep(Duration::from_millis(pace));
    }
    sweep.enough.store(true, Ordering::Relaxed);
}

fn pick(sweep: &Sweep, choice: u64) -> Option<Arc<Live>> {
    let live = sweep.live.lock().unwrap();
    // One that is just beginning as often as any other.
    if choice.is_multiple_of(4) {
        return live.last().cloned();
    }
    let index = usize::try_from(choice / 4 % live.len().max(1) as u64).unwrap();
    live.get(index).cloned()
}

/// Kills; whether somebody was there to be killed.
fn strike(sweep: &Sweep, job: &Live, kind: &'static str) -> bool {
    // Whoever looks at the job's fate waits: what is known of it and what was done belong together.
    let mut fate = job.fate.lock().unwrap();
    let Some(id) = job.find_id(sweep) else {
        return false;
    };
    let holder = holder(sweep, &id);
    let supervisor = holder
        .map(|holder| Process::open(holder.pid))
        .filter(|_| kind.contains("supervisor"));
    let keeper = if kind.contains("keeper") {
        keeper(sweep, &id)
    } else {
        None
    };
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
        // One who is about to take over has not the pipes yet: what the keeper held goes with it.
        fate.hopeless |= !holder.is_some_and(|holder| holder.tends);
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
        fate.hopeless |= self::holder(sweep, &id) != holder;
    }
    *sweep.counts.lock().unwrap().kills.entry(kind).or_default() += 1;
    true
}

/// Who has a job.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Holder {
    pid: i32,
    /// It looks after the job; else it is about to take it over, or to close it.
    tends: bool,
}

fn holder(sweep: &Sweep, id: &str) -> Option<Holder> {
    let record = Record::open(
        &sweep.world.dir.join("state"),
        &id.parse().ok()?,
        Durability::Kernel,
    )
    .ok()?;
    let (pid, tends) = match record.state() {
        Ok(State::Alive { supervisor }) => (supervisor, true),
        Ok(State::Closing { by }) => (by, false),
        _ => return None,
    };
    // It may be `jobcage gc` of the sweep itself, which is not to be killed.
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let is_ours = [&b"\0__supervise\0"[..], b"\0__close\0"]
        .iter()
        .any(|word| command.windows(word.len()).any(|w| w == *word));
    is_ours.then_some(Holder { pid, tends })
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
