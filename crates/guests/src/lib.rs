//! What a job starts outside of its own processes is given back: virtual machines, their disks, and the files of both.
//!
//! Each job has a **place** of its own, made before its first process: VirtualBox and Vagrant keep everything in it, so nothing
//! in it is anybody else's. When all processes of the job are dead (a tool that meets a frozen daemon hangs for ever), the tools empty
//! their registries, as the job's user, in a cgroup of their own, each call with a limit of time. What no tool knows, such as
//! half of an import, goes with the place.

mod place;
mod tools;
mod vagrant;
mod virtualbox;

pub use place::{beside, make, of_earlier_boots, remove_orphan, remove_unused, variables};

use jobcage_cage::Dir;
use jobcage_job::{Census, GuestPlace, GuestReport, JobSpec, Left, Outcome};
use std::path::Path;
use std::time::{Duration, Instant};
use tools::Tools;

/// Why something could not be done.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// The kernel says no.
    #[error("cannot {what} {path}: {}", errno.desc())]
    Io {
        /// What was tried.
        what: &'static str,
        /// Where.
        path: String,
        /// Why.
        errno: jobcage_sys::Errno,
    },
    /// A cgroup could not be made, read or emptied.
    #[error(transparent)]
    Cage(#[from] jobcage_cage::CageError),
    /// A tool did not come to its end in time.
    #[error("{tool} has not ended within {} s, and was killed", limit.as_secs())]
    Slow {
        /// The tool and what it was to do.
        tool: String,
        /// Its time.
        limit: Duration,
    },
    /// A tool has said no.
    #[error("{tool}: {said}")]
    Tool {
        /// The tool and what it was to do.
        tool: String,
        /// The first line of what it said.
        said: String,
    },
    /// There is no time left for all of them.
    #[error("there was no time left")]
    NoTime,
}

pub(crate) type Result<T> = std::result::Result<T, GuestError>;

/// A kind of machine: one file each.
pub(crate) trait Kind {
    /// The variables by which its tools keep everything in the place.
    fn variables(&self, place: &GuestPlace) -> Vec<(&'static str, String)>;

    /// Writes what has to be there before the job's first process; as the job's user may, since the place is its own.
    ///
    /// # Errors
    /// If it cannot be written.
    fn prepare(&self, dir: &place::Making<'_>) -> Result<()>;

    /// Empties its registry, and tells what was in it. Again and again, also after a crash; what is gone is no failure.
    fn give_back(&self, work: &Work<'_>) -> Vec<GuestReport>;
}

const KINDS: [&dyn Kind; 2] = [&virtualbox::VirtualBox, &vagrant::Vagrant];

/// What a kind gets to give its machines back.
pub(crate) struct Work<'a> {
    pub place: &'a GuestPlace,
    /// Who was alive in the cage when it was frozen.
    pub census: &'a Census,
    pub tools: Tools<'a>,
}

/// What is in a place at this moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Looked {
    /// The place.
    pub dir: String,
    /// What it takes on the disk.
    pub bytes: u64,
    /// The machines that are registered in it.
    pub machines: Vec<Machine>,
}

/// A machine of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// Whose it is: `virtualbox`.
    pub kind: &'static str,
    /// Its name, which the job gave it.
    pub name: String,
    /// What its tool knows it by.
    pub id: String,
    /// The process that runs it, by its arguments; it may be another one, as those are the job's word.
    pub pid: Option<i32>,
}

/// Looks into the place of a job without starting a tool. `processes`: those of its cage. `None`: it has none, or not any more.
#[must_use]
pub fn look(spec: &JobSpec, processes: &[Left]) -> Option<Looked> {
    let place = spec.guests.as_ref()?;
    Path::new(&place.dir).exists().then(|| Looked {
        dir: place.dir.clone(),
        bytes: place::size(place),
        machines: virtualbox::registered(place, processes),
    })
}

/// Whether there is a tool on this host that makes machines of a kind that is known here.
#[must_use]
pub fn has_tools() -> bool {
    const TOOLS: [&str; 3] = [virtualbox::MANAGE, "/usr/bin/vagrant", "/opt/vagrant/bin/vagrant"];
    TOOLS.iter().any(|tool| Path::new(tool).exists())
}

/// Gives back what a job has left in its place, whose processes are all dead, and removes the place. Can be repeated, in a later boot
/// too. `above`: the cgroup that the job's cage was in.
#[must_use]
pub fn give_back(spec: &JobSpec, above: &Path, census: &Census) -> Vec<GuestReport> {
    let Some(place) = &spec.guests else {
        return Vec::new();
    };
    if !Path::new(&place.dir).exists() {
        return Vec::new();
    }
    // More than a day is for ever.
    let until = Instant::now() + place.timeout.min(Duration::from_secs(86400));
    let mut reports = Vec::new();
    match Dir::open(above) {
        Ok(above) => {
            let tools = Tools::new(&above, spec, place, until);
            // Of somebody who did not live to end them: they have the place open.
            match tools.end_all() {
                Ok(()) => {
                    let work = Work { place, census, tools };
                    for kind in KINDS {
                        reports.extend(kind.give_back(&work));
                    }
                }
                Err(error) => reports.push(left("files", "directory", &place.dir, &error, 0)),
            }
        }
        Err(error) => reports.push(left("files", "directory", &place.dir, &error, 0)),
    }
    let removed = place::remove(place, until);
    let is_gone = removed
        .as_ref()
        .is_none_or(|report| report.outcome == Outcome::Deleted);
    for report in reports.iter_mut().filter(|_| is_gone) {
        forget_registered(report);
    }
    reports.extend(removed);
    reports
}

/// With the place went the registry, whatever its tools said of it; only a disk may lie elsewhere.
fn forget_registered(report: &mut GuestReport) {
    if report.outcome == Outcome::Left && !is_elsewhere(report) {
        report.outcome = Outcome::Deleted;
    }
}

/// Whether what was left is a file that is still there. The name is the job's word, and nothing is done to it but to look.
#[must_use]
pub fn is_elsewhere(report: &GuestReport) -> bool {
    report.what == "disk" && Path::new(&report.name).is_absolute() && Path::new(&report.name).exists()
}

fn left(kind: &str, what: &str, name: &str, why: &dyn std::fmt::Display, bytes: u64) -> GuestReport {
    GuestReport {
        kind: kind.into(),
        what: what.into(),
        name: name.into(),
        id: None,
        ran: None,
        outcome: Outcome::Left,
        why: Some(why.to_string()),
        bytes,
    }
}
