//! The end of everything in a cgroup: freeze, look, kill, and wait for the kernel's word that it is empty.

use crate::census::describe;
use crate::dir::Dir;
use crate::error::{CageError, Result};
use crate::events::EventsFile;
use crate::signal::{Lister, signal_all, walk};
use jobcage_job::{Census, CensusMethod, Death, FoundBy, Kill, Left, Proof};
use jobcage_sys::Errno;
use nix::libc::SIGKILL;
use std::ffi::{OsStr, OsString};
use std::time::{Duration, Instant};

/// How long to wait, and how closely to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// For `frozen 1`. One process in uninterruptible sleep keeps a freeze from ever being complete.
    pub freeze: Duration,
    /// For `populated 0`, before the survivors are named.
    pub kill: Duration,
    /// How many processes the census describes; of a crowd larger than `freeze_most`, 16.
    pub detail: usize,
    /// Above this number of processes there is no freeze: it costs up to a third of the kill itself, and a census
    /// that names a few of thousands gains nothing by being exact.
    pub freeze_most: usize,
    /// A cgroup below, by its path, whose processes are jobcage's own: killed with the others, and no part of the census.
    pub ours: Option<&'static str>,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            freeze: Duration::from_millis(500),
            kill: Duration::from_secs(5),
            detail: 256,
            freeze_most: 512,
            ours: None,
        }
    }
}

/// What [`empty`] saw.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Emptied {
    /// Who was there before the kill.
    pub census: Census,
    /// How it went. `populated` is false or absent ⇔ the cgroup is empty.
    pub proof: Proof,
    /// Who is still there.
    pub survivors: Vec<Left>,
}

impl Emptied {
    /// Whether the kernel said that nothing is alive in it.
    #[must_use]
    pub fn proven(&self) -> bool {
        self.proof.populated != Some(true)
    }
}

/// Kills everything in a cgroup and below it, and waits until it is empty. Can be repeated after any interruption.
///
/// # Errors
/// If the cgroup cannot be read or may not be killed. Processes that will not die are no error: they are in the result.
pub fn empty(dir: &Dir, patience: &Patience) -> Result<Emptied> {
    empty_seen(dir, patience, &mut |_| {})
}

/// As [`empty`]; `seen` gets the census before the kill, while what it tells of still is as it was.
///
/// # Errors
/// As [`empty`].
pub fn empty_seen(dir: &Dir, patience: &Patience, seen: &mut dyn FnMut(&Census)) -> Result<Emptied> {
    let io = |what: &'static str| move |errno| CageError::io(what, dir.path(), errno);
    let mut result = Emptied::default();
    let Some(events) = EventsFile::open(dir).map_err(io("read cgroup.events"))? else {
        return Ok(result);
    };
    match events.read().map_err(io("read cgroup.events"))? {
        None => return Ok(result),
        Some(now) if !now.populated => {
            result.proof.populated = Some(false);
            return Ok(result);
        }
        Some(_) => {}
    }
    let listed = list(dir).map_err(io("read cgroup.procs"))?;
    if listed.len() <= patience.freeze_most {
        result.proof.frozen_us = freeze(dir, &events, patience.freeze).map_err(io("freeze the processes"))?;
    }
    result.census =
        census(dir, patience, result.proof.frozen_us.is_some()).map_err(io("read cgroup.procs"))?;
    seen(&result.census);
    kill(dir, &events, patience, &mut result)?;
    Ok(result)
}

/// Freezes; the microseconds it took, or `None` where the kernel cannot (before 5.2) or did not manage in time.
fn freeze(dir: &Dir, events: &EventsFile, patience: Duration) -> std::result::Result<Option<u64>, Errno> {
    let start = Instant::now();
    match dir.write("cgroup.freeze", "1") {
        Ok(()) => {}
        Err(Errno::ENOENT) => return Ok(None),
        Err(errno) => return Err(errno),
    }
    // An emptied cgroup is never said to be frozen by old kernels, so empty counts as well.
    let reached = events.wait(start + patience, |now| now.frozen == Some(true) || !now.populated)?;
    Ok(reached.then(|| micros(start.elapsed())))
}

type Listed = Vec<(i32, String)>;

/// Every pid in the cgroup and below it, with the path below `dir` where it stands.
fn list(dir: &Dir) -> std::result::Result<Listed, Errno> {
    let mut all = Vec::new();
    let lister = Lister::of(dir);
    walk(dir, &mut |below| {
        let place = below.path().strip_prefix(dir.path()).unwrap_or(below.path());
        let place = crate::census::escape(place.as_os_str().as_encoded_bytes(), 100);
        all.extend(lister.pids(below)?.into_iter().map(|pid| (pid, place.clone())));
        Ok(())
    })?;
    Ok(all)
}

fn census(dir: &Dir, patience: &Patience, frozen: bool) -> std::result::Result<Census, Errno> {
    let mut listed = list(dir)?;
    listed.retain(|(_, place)| patience.ours != Some(place));
    // A look at a process costs as much as its death, and of a crowd a few tell what it is.
    let detail = if listed.len() > patience.freeze_most {
        patience.detail.min(16)
    } else {
        patience.detail
    };
    let describe =
        |(pid, place): &(i32, String)| describe(*pid, FoundBy::Cgroup(place.clone()), Death::Killed);
    Ok(Census {
        method: if frozen {
            CensusMethod::Frozen
        } else {
            CensusMethod::Running
        },
        count: listed.len() as u64,
        left: listed.iter().take(detail).map(describe).collect(),
    })
}

/// Kills until the cgroup is empty or the time is over.
///
/// `cgroup.kill` (since 5.14) takes the whole tree and cannot be outrun by forks. It leaves a process whose main thread
/// has exited while others live (every kernel before the autumn of 2026), so whoever is still listed a moment later
/// gets a SIGKILL by pidfd. Neither needs a thaw.
fn kill(dir: &Dir, events: &EventsFile, patience: &Patience, result: &mut Emptied) -> Result<()> {
    let io = |what: &'static str| move |errno| CageError::io(what, dir.path(), errno);
    let start = Instant::now();
    let until = start + patience.kill;
    result.proof.kill = match dir.write("cgroup.kill", "1") {
        Ok(()) => Kill::CgroupKill,
        Err(Errno::ENOENT | Errno::EOPNOTSUPP) => Kill::Walk,
        Err(errno) => return Err(io("kill the processes")(errno)),
    };
    if result.proof.kill == Kill::Walk {
        // Forks of processes that are not yet killed would go on for ever; unknown without the pids controller.
        let _ = dir.write("pids.max", "0");
    }
    let mut round = Duration::from_millis(if result.proof.kill == Kill::Walk { 0 } else { 8 });
    let mut before = usize::MAX;
    loop {
        let empty = events.wait((Instant::now() + round).min(until), |now| !now.populated);
        if empty.map_err(io("wait for populated 0"))? {
            result.proof.populated = Some(false);
            result.proof.empty_us = Some(micros(start.elapsed()));
            return Ok(());
        }
        let listed = list(dir).map_err(io("read cgroup.procs"))?;
        // While a large crowd is dying, walking it would only slow its death.
        if result.proof.kill == Kill::Walk || listed.len() >= before || listed.len() <= 64 {
            match signal_all(dir, &[SIGKILL]) {
                Ok(n) if result.proof.kill == Kill::CgroupKill => result.proof.stragglers += n as u64,
                // A process of another user in a cgroup that is ours: cgroup.kill may, kill(2) may not.
                Ok(_) | Err(Errno::EPERM) => {}
                Err(errno) => return Err(io("signal the processes")(errno)),
            }
        }
        if Instant::now() >= until {
            result.proof.populated = Some(true);
            name_survivors(&listed, result);
            return Ok(());
        }
        before = listed.len();
        round = (round * 2).clamp(Duration::from_millis(1), Duration::from_millis(200));
    }
}

fn name_survivors(listed: &Listed, result: &mut Emptied) {
    let describe =
        |(pid, place): &(i32, String)| describe(*pid, FoundBy::Cgroup(place.clone()), Death::Survived);
    result.survivors = listed.iter().take(64).map(describe).collect();
    for left in &mut result.census.left {
        if listed.iter().any(|(pid, _)| *pid == left.pid) {
            left.died = Death::Survived;
        }
    }
}

/// Removes a cgroup and everything below it, children first. What is gone already is fine. Holds one descriptor, however
/// deep the tree is.
///
/// # Errors
/// `EBUSY` if something lives in it.
pub fn remove(parent: &Dir, name: &OsStr) -> Result<()> {
    let Some((mut here, names)) = remove_or_open(parent, name)? else {
        return Ok(());
    };
    let mut levels = vec![(name.to_owned(), names)];
    while let Some((name, names)) = levels.last_mut() {
        if let Some(child) = names.pop() {
            if let Some((dir, below)) = remove_or_open(&here, &child)? {
                levels.push((child, below));
                here = dir;
            }
            continue;
        }
        // All below it is gone.
        let name = std::mem::take(name);
        levels.pop();
        if levels.is_empty() {
            return parent.remove_child(&name);
        }
        here = here.above()?;
        here.remove_child(&name)?;
    }
    Ok(())
}

/// Removes a cgroup, or opens it and lists what is below it where that keeps it.
fn remove_or_open(parent: &Dir, name: &OsStr) -> Result<Option<(Dir, Vec<OsString>)>> {
    match parent.remove_child(name) {
        Err(error) if error.errno() == Some(Errno::EBUSY) => {}
        other => return other.map(|()| None),
    }
    let dir = match parent.child(name) {
        Err(error) if error.errno() == Some(Errno::ENOENT) => return Ok(None),
        other => other?,
    };
    let names = dir
        .children()
        .map_err(|errno| CageError::io("list the cgroups", dir.path(), errno))?;
    Ok(Some((dir, names)))
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
