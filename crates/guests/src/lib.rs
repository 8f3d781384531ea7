//! What a job starts outside of its own processes is given back: virtual machines, their disks, and the files of both; and what only the
//! site knows of, by a hook of its own.
//!
//! Each job has a **place** of its own, made before its first process: VirtualBox and Vagrant keep everything in it, so nothing
//! in it is anybody else's. When all processes of the job are dead (a tool that meets a frozen daemon hangs for ever), the tools empty
//! their registries, as the job's user, in a cgroup of their own, each call with a limit of time. What no tool knows, such as
//! half of an import, goes with the place.

mod docker;
mod engine;
mod hook;
mod libvirt;
mod libvirt_system;
mod listed;
mod lxc;
mod place;
mod podman;
mod qemu;
mod remote;
mod tools;
mod vagrant;
mod vagrant_index;
mod virtualbox;
mod virtualbox_disks;
mod virtualbox_shared;
mod xdg;

pub use place::{
    beside, make, of_earlier_boots, remove_orphan, remove_unused, settle, size_of_orphan, variables,
};

pub use remote::{REMOTES_TRY, RemoteFate, close_remotes, is_remote, tells_remotes};

use engine::{Fate, Found, Work, fate};
use jobcage_cage::Dir;
use jobcage_job::{Census, GuestMode, GuestPlace, GuestReport, JobSpec, Left, Outcome};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};
use tools::{Pass, Tools};

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
    /// A tool says no end.
    #[error("{tool} said more than {} MiB, and was killed", tools::MOST >> 20)]
    Loud {
        /// The tool and what it was to do.
        tool: String,
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

/// A kind of thing that a job can start outside of its own processes: one file each.
pub(crate) trait Kind: Sync {
    /// Its name in options, records and reports.
    fn name(&self) -> &'static str;

    /// The modes that it knows.
    fn modes(&self) -> &'static [GuestMode];

    /// Its mode in jobs of GitLab and of `jobcage create` for which nobody says otherwise; `None`: it is off.
    fn usual(&self) -> Option<GuestMode> {
        None
    }

    /// Its programs, any of them: on a host with none of them it is not there.
    fn tools(&self) -> &'static [&'static str];

    /// Whether this host has one of its programs.
    fn is_here(&self) -> bool {
        self.tools().iter().any(|tool| Path::new(tool).exists())
    }

    /// Whether all of it that is here lives in the cage and ends with it: it needs no place, and can be root's.
    fn is_of_the_cage(&self) -> bool {
        false
    }

    /// What of it has ended with the cage, by the look at it before the kill.
    fn ended(&self, _census: &Census) -> Vec<GuestReport> {
        Vec::new()
    }

    /// The variables of the job's steps, and of the tools.
    fn variables(&self, place: &GuestPlace, mode: GuestMode) -> Vec<(&'static str, String)>;

    /// Writes what has to be there before the job's first process, where it is isolated; as the job's user may, since the place is
    /// its own.
    ///
    /// # Errors
    /// If it cannot be written.
    fn prepare(&self, _dir: &place::Making<'_>) -> Result<()> {
        Ok(())
    }

    /// What a user has to know of it before his job begins.
    fn forewarns(&self, _uid: u32, _mode: GuestMode) -> Option<String> {
        None
    }

    /// The cgroup of its tools: the job's own, which is killed behind them with all that they have started, or the one whose daemons others may
    /// have come to use.
    fn leaf(&self, mode: GuestMode) -> GuestMode {
        mode
    }

    /// What its tool is asked for, in this order: `vm`, `disk`. Without any no tool is started.
    fn lists(&self) -> &'static [&'static str] {
        &[]
    }

    /// Whether there can be anything, by files and by what the frozen processes have shown. No tool is started to find out.
    fn is_used(&self, _work: &Work<'_>) -> bool {
        false
    }

    /// What the frozen processes have shown and its tool does not know of in the place: it is told, and not touched.
    fn strays(&self, _work: &Work<'_>) -> Vec<String> {
        Vec::new()
    }

    /// Where its tool keeps what it knows, for a report.
    fn registry(&self, work: &Work<'_>) -> String {
        work.place.dir.clone()
    }

    /// Asks its tool for what is the job's, in the order in which it can be given back.
    ///
    /// # Errors
    /// If the tool does not tell.
    fn inventory(&self, _what: &str, _work: &Work<'_>, _pass: &Pass<'_>) -> Result<Vec<Found>> {
        Ok(Vec::new())
    }

    /// What it has noted elsewhere than in the place and is still there when its tool has been asked.
    fn noted(&self, _work: &Work<'_>) -> Vec<GuestReport> {
        Vec::new()
    }

    /// Gives one of it back. Again and again, also after a crash: what is gone is no failure.
    fn destroy(&self, _what: &str, _found: &Found, _work: &Work<'_>, _pass: &Pass<'_>) -> Fate {
        Fate::Gone
    }

    /// What is known of it in the place of a job that runs; no tool is started.
    fn registered(&self, _place: &GuestPlace, _processes: &[Left]) -> Vec<Machine> {
        Vec::new()
    }
}

const KINDS: [&dyn Kind; 8] = [
    &virtualbox::VirtualBox,
    &vagrant::Vagrant,
    &libvirt::Libvirt,
    &podman::Podman,
    &docker::Docker,
    &lxc::Lxc,
    &qemu::Qemu,
    &remote::Remote,
];

/// The kinds of a job, with their modes.
pub(crate) fn kinds(place: &GuestPlace) -> impl Iterator<Item = (&'static dyn Kind, GuestMode)> {
    KINDS
        .iter()
        .filter_map(|kind| Some((*kind, *place.kinds.get(kind.name())?)))
}

fn named(kind: &str) -> Option<&'static dyn Kind> {
    KINDS.into_iter().find(|known| known.name() == kind)
}

/// What a job gets that nobody has said anything for: the kinds that are on this host, and are usually looked after.
#[must_use]
pub fn usual() -> BTreeMap<String, GuestMode> {
    let kinds = KINDS.iter().filter(|kind| kind.is_here());
    kinds
        .filter_map(|kind| Some((kind.name().to_owned(), kind.usual()?)))
        .collect()
}

/// Whether a kind needs neither a tool nor a place, so that it may be looked after for root's jobs, too.
#[must_use]
pub fn is_of_the_cage(kind: &str) -> bool {
    named(kind).is_some_and(|known| known.is_of_the_cage())
}

/// Whether the directory is wanted: some kind keeps something in it.
#[must_use]
pub fn has_dir(place: &GuestPlace) -> bool {
    kinds(place).any(|(kind, _)| !kind.is_of_the_cage())
}

/// Whether something is to be given back in a later boot, too, should the host go down.
#[must_use]
pub fn is_for_later(place: &GuestPlace) -> bool {
    has_dir(place) || !place.hook.is_empty()
}

/// Whether this host has a program of this kind.
#[must_use]
pub fn is_here(kind: &str) -> bool {
    named(kind).is_some_and(|known| known.is_here())
}

/// What a user has to know before his job begins, of the kinds that are looked after.
#[must_use]
pub fn forewarnings(spec: &JobSpec) -> Vec<String> {
    let place = spec.guests.iter();
    let kinds = place.flat_map(kinds);
    kinds
        .filter_map(|(kind, mode)| kind.forewarns(spec.uid, mode))
        .collect()
}

/// The modes of a kind.
///
/// # Errors
/// The names of the kinds that there are, if it is none of them.
pub fn modes(kind: &str) -> std::result::Result<&'static [GuestMode], Vec<&'static str>> {
    named(kind)
        .map(|known| known.modes())
        .ok_or_else(|| KINDS.iter().map(|known| known.name()).collect())
}

/// What is in a place at this moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Looked {
    /// The place, where there is one.
    pub dir: Option<String>,
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
    let machines: Vec<Machine> = kinds(place)
        .flat_map(|(kind, _)| kind.registered(place, processes))
        .collect();
    let is_there = Path::new(&place.dir).exists();
    (is_there || !machines.is_empty()).then(|| Looked {
        dir: is_there.then(|| place.dir.clone()),
        bytes: place::size(place),
        machines,
    })
}

/// What became of what a job had.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct GivenBack {
    /// One entry for each thing.
    pub guests: Vec<GuestReport>,
    /// What else is to be told.
    pub notes: Vec<String>,
    /// The place is now to be removed ([`remove_place`]), which may take until then. `None`: there is none, or it is still needed.
    pub place_goes: Option<Instant>,
}

/// Gives back what a job has left, whose processes are all dead; the site's hook has its turn behind the tools. Can be repeated, in a later boot
/// too. `above`: the cgroup that the job's cage was in. `earlier`: what the tools have said to somebody who did not live to remove the place:
/// half of it may be gone, so they are not asked again.
#[must_use]
pub fn give_back(
    spec: &JobSpec,
    above: &Path,
    census: &Census,
    earlier: Option<Vec<GuestReport>>,
) -> GivenBack {
    let mut given = GivenBack::default();
    let Some(place) = &spec.guests else {
        return given;
    };
    // More than a day is for ever.
    let until = Instant::now() + place.timeout.min(Duration::from_secs(86400));
    let asks_tools = earlier.is_none();
    given.guests = earlier.unwrap_or_else(|| {
        let ended = kinds(place).flat_map(|(kind, _)| kind.ended(census));
        ended.collect()
    });
    let has_place = has_dir(place) && Path::new(&place.dir).exists();
    if !has_place {
        // Somebody has removed it and could not tell any more.
        given.guests.iter_mut().for_each(forget_registered);
        if place.hook.is_empty() {
            return given;
        }
    }
    let why = match Dir::open(above) {
        Ok(above) => {
            let tools = Tools::new(&above, spec, place, until);
            let kinds = asks_tools && has_place;
            use_tools(&tools, kinds, spec, place, census, &mut given).err()
        }
        Err(error) => Some(error.into()),
    };
    match why {
        Some(why) if has_place => given.guests.push(left("files", "directory", &place.dir, &why, 0)),
        Some(why) => given.guests.push(hook::left(place, &why)),
        None => {}
    }
    // As long as the place is there, something is to be given back: what lies elsewhere, too.
    let keeps = |report: &GuestReport| report.is_left() && outlives(place, report);
    given.place_goes = (has_place && !given.guests.iter().any(keeps)).then_some(until);
    given
}

/// Has the tools give back what is in a place (`asked`: they are to be), and then the hook, as it may know more.
fn use_tools(
    tools: &Tools<'_>,
    asked: bool,
    spec: &JobSpec,
    place: &GuestPlace,
    census: &Census,
    given: &mut GivenBack,
) -> Result<()> {
    // Of somebody who did not live to end them: they have the place open.
    tools.end_all()?;
    if asked {
        for (kind, mode) in kinds(place) {
            let work = Work {
                spec,
                place,
                mode,
                census,
                tools,
            };
            given.notes.extend(kind.strays(&work));
            given.guests.extend(engine::give_back(kind, &work));
        }
    }
    if !place.hook.is_empty() {
        given
            .guests
            .retain(|report| !(report.is_left() && is_of_the_hook(report)));
        hook::run(tools, spec, place, census, given);
    }
    Ok(())
}

/// Removes the place of a job with all that no tool knew, as far as [`give_back`] has said that it goes.
pub fn remove_place(spec: &JobSpec, given: &mut GivenBack) {
    let (Some(place), Some(until)) = (&spec.guests, given.place_goes.take()) else {
        return;
    };
    let removed = place::remove(place, until);
    let is_gone = removed
        .as_ref()
        .is_none_or(|report| report.outcome == Outcome::Deleted);
    for report in given.guests.iter_mut().filter(|_| is_gone) {
        forget_registered(report);
    }
    given.guests.extend(removed);
}

/// Whether it lies somewhere else than in the place, and its tool is wanted again.
fn outlives(place: &GuestPlace, report: &GuestReport) -> bool {
    let mode = place.kinds.get(&report.kind);
    mode.is_some_and(|mode| *mode != GuestMode::Isolate)
}

/// With the place went the registry, whatever its tools said of it; only a disk may lie elsewhere.
fn forget_registered(report: &mut GuestReport) {
    if report.is_left() && !is_elsewhere(report) && !is_of_the_hook(report) {
        report.outcome = Outcome::Deleted;
    }
}

/// Whether what was left is a file that is still there. The name is the job's word, and nothing is done to it but to look.
#[must_use]
pub fn is_elsewhere(report: &GuestReport) -> bool {
    // The hook is asked again, and tells.
    !is_of_the_hook(report)
        && ["disk", virtualbox_disks::SETTINGS].contains(&report.what.as_str())
        && Path::new(&report.name).is_absolute()
        && Path::new(&report.name).exists()
}

/// Whether it is the site's hook that has left it.
#[must_use]
pub fn is_of_the_hook(report: &GuestReport) -> bool {
    report.kind == hook::KIND
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
