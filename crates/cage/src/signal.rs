//! Signals to all processes of a cgroup, without ever hitting a stranger.
//!
//! A pid read from `cgroup.procs` may be reused before it is signalled. So: read the list, open a pidfd of each, read
//! the list again, and signal only those that are in both. A pidfd that was opened between the two readings and whose
//! process still lives at the second one is the process that the second one lists, since a living pid is unique; if it
//! has died meanwhile, the signal fails and hits nobody. This needs no look into `/proc`.

use crate::dir::Dir;
use crate::error::CageError;
use jobcage_sys::{Errno, pidfd};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};

/// How many pidfds are open at a time where the limit of descriptors is unknown.
const BATCH: usize = 256;

/// As many descriptors as we may have, for as long as this lives: the second reading is needed once for each batch, so a
/// crowd of thousands wants large ones. Children would inherit the limit, so it is put back.
struct ManyDescriptors {
    before: Option<(u64, u64)>,
    batch: usize,
}

impl ManyDescriptors {
    fn new() -> Self {
        let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
            return Self {
                before: None,
                batch: BATCH,
            };
        };
        let most = hard.min(1 << 16);
        let raised = soft < most && setrlimit(Resource::RLIMIT_NOFILE, most, hard).is_ok();
        let limit = usize::try_from(if raised { most } else { soft }).unwrap_or(0);
        Self {
            before: raised.then_some((soft, hard)),
            batch: limit.saturating_sub(64).max(BATCH),
        }
    }
}

impl Drop for ManyDescriptors {
    fn drop(&mut self) {
        if let Some((soft, hard)) = self.before {
            // It was the limit a moment ago, so the kernel takes it back.
            let _ = setrlimit(Resource::RLIMIT_NOFILE, soft, hard);
        }
    }
}

/// The pids in one cgroup, without those below it. Pid 0 is left out: the kernel lists it for a process that was reaped
/// during the reading, and for one in a pid namespace that we cannot see; `kill(0)` would hit ourselves.
fn pids(dir: &Dir) -> Result<Vec<i32>, Errno> {
    match dir.read("cgroup.procs") {
        Ok(text) => Ok(numbers(&text)),
        // Gone; or a threaded cgroup, whose processes are listed in its threaded domain above.
        Err(Errno::ENOENT | Errno::EOPNOTSUPP) => Ok(Vec::new()),
        Err(errno) => Err(errno),
    }
}

/// The processes that have a thread in one threaded cgroup: it lists threads alone.
fn pids_by_thread(dir: &Dir) -> Result<Vec<i32>, Errno> {
    let threads = match dir.read("cgroup.threads") {
        Ok(text) => numbers(&text),
        Err(Errno::ENOENT) => Vec::new(),
        Err(errno) => return Err(errno),
    };
    let mut pids: Vec<i32> = threads
        .into_iter()
        .filter_map(crate::census::process_of)
        .collect();
    pids.sort_unstable();
    pids.dedup();
    Ok(pids)
}

fn numbers(text: &str) -> Vec<i32> {
    let parsed = text.lines().filter_map(|line| line.parse().ok());
    parsed.filter(|pid| *pid > 1).collect()
}

/// How the processes of a whole tree are listed. A job may turn the very leaf that it lives in into a threaded cgroup;
/// then nothing below its top can be asked for processes.
#[derive(Clone, Copy)]
pub(crate) struct Lister {
    threaded: bool,
}

impl Lister {
    /// For the tree with this top.
    pub(crate) fn of(top: &Dir) -> Self {
        Self {
            threaded: top.read("cgroup.procs") == Err(Errno::EOPNOTSUPP),
        }
    }

    /// The pids in one cgroup of the tree, without those below it.
    pub(crate) fn pids(self, dir: &Dir) -> Result<Vec<i32>, Errno> {
        if self.threaded {
            pids_by_thread(dir)
        } else {
            pids(dir)
        }
    }
}

/// Calls `visit` for the cgroup and everything below it, parents first. A cgroup that goes away meanwhile is passed over.
///
/// It holds one descriptor however deep the tree is, since a job may nest its cgroups deeper than we may have files
/// open. It climbs by `..`, which leads nowhere else: a cgroup cannot be renamed or moved.
pub(crate) fn walk(dir: &Dir, visit: &mut dyn FnMut(&Dir) -> Result<(), Errno>) -> Result<(), Errno> {
    visit(dir)?;
    let mut levels = vec![dir.children()?];
    let mut here: Option<Dir> = None;
    while let Some(names) = levels.last_mut() {
        let Some(name) = names.pop() else {
            levels.pop();
            here = match here {
                Some(child) if levels.len() > 1 => Some(child.above().map_err(errno_of)?),
                _ => None,
            };
            continue;
        };
        match here.as_ref().unwrap_or(dir).child(&name) {
            Ok(child) => {
                visit(&child)?;
                levels.push(child.children()?);
                here = Some(child);
            }
            Err(error) if error.errno() == Some(Errno::ENOENT) => {}
            Err(error) => return Err(errno_of(error)),
        }
    }
    Ok(())
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn errno_of(error: CageError) -> Errno {
    error.errno().unwrap_or(Errno::EIO)
}

/// How many processes are listed in a cgroup and below it.
///
/// # Errors
/// As the reading of `cgroup.procs`.
pub fn count(dir: &Dir) -> Result<usize, Errno> {
    listed(dir).map(|pids| pids.len())
}

/// The pids that are listed in a cgroup and below it. Each may be another process's by now.
///
/// # Errors
/// As the reading of `cgroup.procs`.
pub fn listed(dir: &Dir) -> Result<Vec<i32>, Errno> {
    let mut all = Vec::new();
    let lister = Lister::of(dir);
    walk(dir, &mut |dir| {
        all.extend(lister.pids(dir)?);
        Ok(())
    })?;
    Ok(all)
}

/// Sends `signals` in their order to every process in a cgroup and below it; the number of processes that took them.
///
/// # Errors
/// As the reading of `cgroup.procs`; `EPERM` where every process refused.
pub fn signal_all(dir: &Dir, signals: &[i32]) -> Result<usize, Errno> {
    let descriptors = ManyDescriptors::new();
    let mut reached = 0;
    let mut refused = None;
    let lister = Lister::of(dir);
    walk(dir, &mut |dir| {
        let listed = lister.pids(dir)?;
        let mut rest = &listed[..];
        while !rest.is_empty() {
            let held;
            (held, rest) = hold(rest, descriptors.batch)?;
            let still: HashSet<i32> = lister.pids(dir)?.into_iter().collect();
            for process in held.iter().filter(|process| still.contains(&process.pid())) {
                match signals.iter().try_for_each(|signal| process.signal(*signal)) {
                    Ok(()) => reached += 1,
                    Err(Errno::ESRCH) => {}
                    Err(errno) => refused = Some(errno),
                }
            }
        }
        Ok(())
    })?;
    match refused {
        Some(errno) if reached == 0 => Err(errno),
        _ => Ok(reached),
    }
}

/// A process that was listed.
enum Held {
    ByPidfd(i32, OwnedFd),
    /// Before 5.3 there is only its pid. The second reading of the list comes a moment before the signal, so a stranger
    /// would have to be born with this very pid, of the millions, within these microseconds.
    ByPid(i32),
}

impl Held {
    fn pid(&self) -> i32 {
        match self {
            Self::ByPidfd(pid, _) | Self::ByPid(pid) => *pid,
        }
    }

    fn signal(&self, signal: i32) -> Result<(), Errno> {
        match self {
            Self::ByPidfd(_, process) => pidfd::send_signal(process.as_fd(), signal),
            Self::ByPid(pid) => pidfd::signal_pid(*pid, signal),
        }
    }
}

/// Takes hold of the first of these processes, at most so many, and gives those that are left for the next time. Fewer
/// where there are no more descriptors.
fn hold(pids: &[i32], most: usize) -> Result<(Vec<Held>, &[i32]), Errno> {
    let mut held = Vec::new();
    for (at, &pid) in pids.iter().enumerate() {
        if held.len() == most {
            return Ok((held, &pids[at..]));
        }
        match pidfd::open(pid) {
            Ok(fd) => held.push(Held::ByPidfd(pid, fd)),
            Err(Errno::ENOSYS) => held.push(Held::ByPid(pid)),
            // Ended and reaped since it was listed; EINVAL: its main thread's pid is in use by a thread now.
            Err(Errno::ESRCH | Errno::EINVAL) => {}
            // The second reading of the list needs descriptors, too.
            Err(Errno::EMFILE) if held.len() > 2 => {
                held.truncate(held.len() - 2);
                let last = held.last().map_or(0, Held::pid);
                let next = pids.iter().position(|pid| *pid == last).map_or(at, |at| at + 1);
                return Ok((held, &pids[next..]));
            }
            Err(errno) => return Err(errno),
        }
    }
    Ok((held, &[]))
}
