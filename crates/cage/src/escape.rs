//! Processes of a job that are not in its cage any more.
//!
//! A cgroup cannot hold a process that a service outside was asked to start, nor one that may write into another
//! `cgroup.procs`. Whoever descends from the job is known all the same, because orphans become children of the
//! supervisor; a process that carries the job's `JOBCAGE_JOB` is known by that; and what `at` and systemd were asked to
//! do leaves a file. The first two are the job's for certain, the last two are only named.

use crate::census::{Process, describe, read};
use crate::mount::{Mount, cgroup_of};
use jobcage_job::{Death, Escape, FoundBy, JobId};
use jobcage_sys::{Errno, pidfd, wait};
use nix::libc::SIGKILL;
use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Every pid on the host that we can see. A list that breaks off is an error: whoever is not on it would go unnamed.
fn all_pids() -> io::Result<Vec<i32>> {
    let mut pids = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        pids.extend(
            entry?
                .file_name()
                .to_str()
                .and_then(|name| name.parse::<i32>().ok()),
        );
    }
    Ok(pids)
}

/// Kills all living descendants of this process but `except`, which are ours, and names them. To be called when the cage
/// is empty: whoever is left is outside of it, or has been killed and is on its last steps in the kernel, which count no
/// more. Reaps what dies.
///
/// # Errors
/// If `/proc` cannot be listed: nothing is known of escaped processes then.
pub fn descendants(except: &[i32], cage: &Path) -> io::Result<Vec<Escape>> {
    let mount = Mount::find().ok();
    let is_dying = |place: &str| {
        mount
            .as_ref()
            .is_some_and(|mount| mount.dir_of(place).starts_with(cage))
    };
    let me = std::process::id().cast_signed();
    let mut found: Vec<Escape> = Vec::new();
    // Each round kills what it finds; children of the killed become ours and are found in the next. A process that forks
    // faster than this outside of any cgroup of ours cannot be beaten from here, so the rounds are counted.
    for _ in 0..64 {
        reap(except);
        let parents: HashMap<i32, Process> = all_pids()?
            .into_iter()
            .filter_map(|pid| Some((pid, Process::read(pid)?)))
            .collect();
        let is_ours = |mut pid: i32| {
            for _ in 0..parents.len() {
                match parents.get(&pid) {
                    Some(process) if process.ppid == me => return !except.contains(&pid),
                    Some(process) if !except.contains(&pid) => pid = process.ppid,
                    _ => return false,
                }
            }
            false
        };
        let living = parents
            .iter()
            .filter(|(pid, p)| !matches!(p.state, 'Z' | 'X') && is_ours(**pid));
        let outside: Vec<(i32, String)> = living
            .filter_map(|(pid, _)| Some((*pid, cgroup_of(*pid)?)))
            .filter(|(_, place)| !is_dying(place))
            .collect();
        if outside.is_empty() {
            return Ok(found);
        }
        for (pid, place) in outside {
            let escape = kill(pid, &parents[&pid], FoundBy::Descendant(place));
            if !found
                .iter()
                .any(|known| known.process.as_ref().is_some_and(|p| p.pid == pid))
            {
                found.extend(escape);
            }
        }
    }
    Ok(found)
}

/// Reaps every child that has ended, but those in `except`.
fn reap(except: &[i32]) {
    while let Ok(Some((pid, _))) = wait::poll(wait::Whom::Any, false) {
        debug_assert!(!except.contains(&pid), "{pid} is not ours to reap");
    }
}

/// Kills the processes that carry this job's `JOBCAGE_JOB` outside of its cage, and names them. Reads the environment of
/// every process that may be read, so it is for the rare cases: after a crash, or where something hints at an escape.
///
/// # Errors
/// If `/proc` cannot be listed.
pub fn carriers(id: &JobId) -> io::Result<Vec<Escape>> {
    let mark = format!("JOBCAGE_JOB={id}");
    let me = std::process::id().cast_signed();
    let carries = |pid: &i32| {
        *pid != me
            && read(*pid, "environ")
                .is_some_and(|env| env.split(|b| *b == 0).any(|var| var == mark.as_bytes()))
    };
    let found = all_pids()?.into_iter().filter(carries).filter_map(|pid| {
        let place = cgroup_of(pid)?;
        kill(pid, &Process::read(pid)?, FoundBy::Environment(place))
    });
    Ok(found.collect())
}

/// Names and kills one process, if it is still the one that `seen` describes.
fn kill(pid: i32, seen: &Process, found: FoundBy) -> Option<Escape> {
    let process = match pidfd::open(pid) {
        Ok(process) => Some(process),
        // Before 5.3: the start time, which is read next, names it nearly as well.
        Err(Errno::ENOSYS) => None,
        Err(_) => return None,
    };
    // The pidfd was opened after `seen` was read: same start time, same process.
    if Process::read(pid)?.start_ticks != seen.start_ticks {
        return None;
    }
    let mut left = describe(pid, found.clone(), Death::Killed);
    let sent = match &process {
        Some(process) => pidfd::send_signal(process.as_fd(), SIGKILL),
        None => pidfd::signal_pid(pid, SIGKILL),
    };
    if sent.is_err() {
        left.died = Death::Survived;
    }
    Some(Escape {
        found,
        died: left.died,
        process: Some(left),
    })
}

/// The places where a job may have left an order to others, as they were when it began.
#[derive(Debug, Clone)]
pub struct Fence {
    since: SystemTime,
    uid: u32,
}

/// Where `at` keeps its jobs, on Debian and on Red Hat.
const AT_SPOOLS: [&str; 2] = ["/var/spool/cron/atjobs", "/var/spool/at"];

impl Fence {
    /// For a job of `uid` that began at `since`.
    #[must_use]
    pub fn new(since: SystemTime, uid: u32) -> Self {
        Self { since, uid }
    }

    /// Orders that appeared since then: `at` jobs of the job's user, transient units of its manager. They are not known
    /// to be the job's and are not touched. Costs a stat(2) a place where nothing has changed.
    #[must_use]
    pub fn orders(&self) -> Vec<Escape> {
        let mut found = Vec::new();
        for spool in AT_SPOOLS {
            found.extend(
                self.new_files(Path::new(spool), true)
                    .into_iter()
                    .map(|path| FoundBy::AtJob(text(&path))),
            );
        }
        let units = match self.uid {
            0 => PathBuf::from("/run/systemd/transient"),
            uid => PathBuf::from(format!("/run/user/{uid}/systemd/transient")),
        };
        let new = self
            .new_files(&units, false)
            .into_iter()
            .filter(|path| is_foreign_unit(path));
        found.extend(new.map(|path| FoundBy::TransientUnit(text(&path))));
        found
            .into_iter()
            .map(|found| Escape {
                found,
                process: None,
                died: Death::Spared,
            })
            .collect()
    }

    fn new_files(&self, dir: &Path, of_user: bool) -> Vec<PathBuf> {
        let new = |meta: &std::fs::Metadata| meta.modified().is_ok_and(|at| at >= self.since);
        if !std::fs::metadata(dir).is_ok_and(|meta| new(&meta)) {
            return Vec::new();
        }
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        let files = entries.filter(|entry| {
            entry
                .metadata()
                .is_ok_and(|meta| meta.is_file() && new(&meta) && (!of_user || meta.uid() == self.uid))
        });
        files.map(|entry| entry.path()).collect()
    }
}

/// Logins, and scopes of our own, come and go without the job. Only names that logind and we give, so that no job hides a
/// unit behind a prefix.
fn is_foreign_unit(path: &Path) -> bool {
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    let numbered = |prefix: &str, suffix: &str| {
        name.strip_prefix(prefix)
            .and_then(|rest| rest.strip_suffix(suffix))
            .is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    };
    name != "jobcage-root.scope" && !numbered("jobcage-", ".scope") && !numbered("session-", ".scope")
}

fn text(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    crate::census::escape(name.as_encoded_bytes(), 100)
}
