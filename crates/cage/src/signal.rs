//! Signals to all processes of a cgroup, without ever hitting a stranger.
//!
//! A pid read from `cgroup.procs` may be reused before it is signalled. So: read the list, open a pidfd of each, read
//! the list again, and signal only those that are in both. A pidfd that was opened between the two readings and whose
//! process still lives at the second one is the process that the second one lists, since a living pid is unique; if it
//! has died meanwhile, the signal fails and hits nobody. This needs no look into `/proc`.

use crate::dir::Dir;
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
pub(crate) fn pids(dir: &Dir) -> Result<Vec<i32>, Errno> {
    match dir.read("cgroup.procs") {
        Ok(text) => Ok(text
            .lines()
            .filter_map(|line| line.parse().ok())
            .filter(|pid| *pid > 1)
            .collect()),
        // Gone; or a threaded cgroup, whose processes are listed in its threaded domain above.
        Err(Errno::ENOENT | Errno::EOPNOTSUPP) => Ok(Vec::new()),
        Err(errno) => Err(errno),
    }
}

/// Calls `visit` for the cgroup and everything below it, parents first. A cgroup that goes away meanwhile is passed over.
pub(crate) fn walk(dir: &Dir, visit: &mut dyn FnMut(&Dir) -> Result<(), Errno>) -> Result<(), Errno> {
    visit(dir)?;
    for name in dir.children()? {
        match dir.child(&name) {
            Ok(child) => walk(&child, visit)?,
            Err(error) if error.errno() == Some(Errno::ENOENT) => {}
            Err(error) => return Err(error.errno().unwrap_or(Errno::EIO)),
        }
    }
    Ok(())
}

/// How many processes are listed in a cgroup and below it.
///
/// # Errors
/// As the reading of `cgroup.procs`.
pub fn count(dir: &Dir) -> Result<usize, Errno> {
    let mut number = 0;
    walk(dir, &mut |dir| {
        number += pids(dir)?.len();
        Ok(())
    })?;
    Ok(number)
}

/// Sends `signals` in their order to every process in a cgroup and below it; the number of processes that took them.
/// With [`Errno::ENOSYS`] from pidfd_open (before 5.3) it is `ENOSYS`.
///
/// # Errors
/// As the reading of `cgroup.procs`; `EPERM` where every process refused.
pub fn signal_all(dir: &Dir, signals: &[i32]) -> Result<usize, Errno> {
    let descriptors = ManyDescriptors::new();
    let mut reached = 0;
    let mut refused = None;
    walk(dir, &mut |dir| {
        let listed = pids(dir)?;
        for batch in listed.chunks(descriptors.batch) {
            let held = hold(batch)?;
            let still: HashSet<i32> = pids(dir)?.into_iter().collect();
            for (_, process) in held.iter().filter(|(pid, _)| still.contains(pid)) {
                match signals
                    .iter()
                    .try_for_each(|signal| pidfd::send_signal(process.as_fd(), *signal))
                {
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

fn hold(pids: &[i32]) -> Result<Vec<(i32, OwnedFd)>, Errno> {
    let mut held = Vec::with_capacity(pids.len());
    for &pid in pids {
        match pidfd::open(pid) {
            Ok(fd) => held.push((pid, fd)),
            // Ended and reaped since it was listed; EINVAL: its main thread's pid is in use by a thread now.
            Err(Errno::ESRCH | Errno::EINVAL) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(held)
}
