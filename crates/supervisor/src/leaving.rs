//! How a step is asked to leave: agents are spared, everybody else gets the signal, and the end of the last one is waited
//! for. For the supervisor in the foreground and for that of a captured job.

use crate::error::{Failure, Result};
use jobcage_cage::{Cage, Dir, EventsFile, signal_all, spare};
use nix::libc::SIGCONT;
use std::os::fd::{AsFd, BorrowedFd};

/// The leaves that are waited for.
#[derive(Debug)]
pub(crate) struct Leaving(Vec<EventsFile>);

impl Leaving {
    /// Waits for these leaves. One that is gone is empty.
    pub(crate) fn of<'d>(leaves: impl IntoIterator<Item = &'d Dir>) -> Result<Self> {
        let open = |leaf| EventsFile::open(leaf).map_err(Failure::system("open cgroup.events"));
        let opened = leaves.into_iter().map(open).collect::<Result<Vec<_>>>()?;
        Ok(Self(opened.into_iter().flatten().collect()))
    }

    /// Whether a process lives in one of them.
    pub(crate) fn is_populated(&self) -> Result<bool> {
        for leaf in &self.0 {
            let now = leaf.read().map_err(Failure::system("read cgroup.events"))?;
            if now.is_some_and(|now| now.populated) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// For poll(2), `POLLPRI`.
    pub(crate) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.0.iter().map(AsFd::as_fd)
    }
}

/// The leaves of those who are asked: the step's, and, of a job that is our own, those of commands that run beside it.
pub(crate) fn leaves<'d>(leaf: &'d Dir, others: &'d [Dir]) -> Vec<&'d Dir> {
    std::iter::once(leaf).chain(others).collect()
}

/// Sends the first signal; how many took it.
pub(crate) fn signal(leaves: &[&Dir], signal: i32, notes: &mut Vec<String>) -> usize {
    let mut signalled = 0;
    for leaf in leaves {
        match signal_all(leaf, &[signal, SIGCONT]) {
            Ok(reached) => signalled += reached,
            Err(errno) => notes.push(format!("not all could be signalled: {}", errno.desc())),
        }
    }
    signalled
}

/// Agents that the job has started itself, by the names of their programs: where somebody comes after the step, they are
/// moved out of it, before the first signal and the kill, since they would die of either.
pub(crate) fn spare_agents(
    cage: &Cage,
    leaves: &[&Dir],
    names: &[String],
    uid: u32,
    notes: &mut Vec<String>,
) {
    if names.is_empty() {
        return;
    }
    for leaf in leaves {
        if let Err(error) = spare(leaf, names, uid, || cage.kept()) {
            notes.push(format!(
                "agents of the job could not be spared (--spare): {error}"
            ));
        }
    }
}
