//! LXC: its containers have a name and no label, and a running one of root's is in cgroups of its own, outside of any cage. What is the job's is
//! told by the name alone: the job's id, or that, a dot and more. Whoever makes a container chooses it: he can give his own to a job, and
//! take none from another.
//!
//! There are two registries. That of the job's user is asked as that user. That of the system is root's: its tools run as root, but only where
//! nobody else can have written what they would read.

use crate::place::open_below;
use crate::tools::{LISTING, Pass, REMOVING};
use crate::{Fate, Found, GuestError, Kind, Result, Work};
use jobcage_cage::mount_points;
use jobcage_job::{Census, GuestMode, GuestPlace, Left};
use jobcage_sys::Errno;
use jobcage_sys::file::{exists_at, open_dir, open_dir_at};
use nix::fcntl::AtFlags;
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};
use nix::unistd::{UnlinkatFlags, geteuid, unlinkat};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

pub struct Lxc;

const DESTROY: &str = "/usr/bin/lxc-destroy";
const INFO: &str = "/usr/bin/lxc-info";
const SNAPSHOT: &str = "/usr/bin/lxc-snapshot";

/// Where LXC keeps the containers of root's, and those of a user's in his home.
const SYSTEM: &str = "/var/lib/lxc";
const OF_USER: &str = ".local/share/lxc";

/// Without it LXC knows of no container.
const CONFIG: &str = "config";

/// What `lxc-destroy` says of a container with snapshots, which are in its own directory.
const SNAPSHOTS: &str = "has snapshots";

impl Kind for Lxc {
    fn name(&self) -> &'static str {
        "lxc"
    }

    fn modes(&self) -> &'static [GuestMode] {
        &[GuestMode::Shared]
    }

    fn tools(&self) -> &'static [&'static str] {
        &[DESTROY]
    }

    /// LXC has none for its directory.
    fn variables(&self, _: &GuestPlace, _: GuestMode) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    /// They start no daemon.
    fn leaf(&self, _: GuestMode) -> GuestMode {
        GuestMode::Isolate
    }

    fn lists(&self) -> &'static [&'static str] {
        &["container"]
    }

    fn is_used(&self, work: &Work<'_>) -> bool {
        !containers(work).is_empty()
    }

    fn registry(&self, work: &Work<'_>) -> String {
        let [user, system] = registries(work.place);
        format!("{user} and {system}")
    }

    /// A directory of that name is a container, or was one, or half of one.
    fn inventory(&self, _: &str, work: &Work<'_>, pass: &Pass<'_>) -> Result<Vec<Found>> {
        let found = containers(work).into_iter().map(|container| Found {
            ran: container.ran(work, pass),
            id: container.path(),
            name: container.name,
        });
        Ok(found.collect())
    }

    fn destroy(&self, _: &str, found: &Found, work: &Work<'_>, pass: &Pass<'_>) -> Fate {
        let Some((registry, name)) = found.id.rsplit_once('/') else {
            return Fate::Gone;
        };
        let container = Container {
            is_system: registry == SYSTEM,
            registry: registry.into(),
            name: name.into(),
        };
        container.destroy(work, pass)
    }
}

/// The job that a container was given to by its name. No id that jobcage makes has a dot in it; one that has is no container's.
fn job_of(name: &str) -> &str {
    name.split('.').next().unwrap_or(name)
}

fn registries(place: &GuestPlace) -> [String; 2] {
    [format!("{}/{OF_USER}", place.home), SYSTEM.into()]
}

/// All that have the job's name, by the names of directories alone. None where the registry is a link; that of the system may be a mount.
fn containers(work: &Work<'_>) -> Vec<Container> {
    let user = open_below(Path::new(&work.place.home), OF_USER);
    let [of_user, of_system] = registries(work.place);
    let mut all = Vec::new();
    for (dir, registry, is_system) in [(user, of_user, false), (system().ok(), of_system, true)] {
        let names = dir
            .map(|dir| names(dir, work.spec.id.as_str()))
            .unwrap_or_default();
        all.extend(names.into_iter().map(|name| Container {
            registry: registry.clone(),
            is_system,
            name,
        }));
    }
    all
}

fn system() -> jobcage_sys::Result<OwnedFd> {
    let path = Path::new(SYSTEM);
    let (Some(above), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Errno::EINVAL);
    };
    open_dir_at(open_dir(above)?.as_fd(), name)
}

fn names(dir: OwnedFd, id: &str) -> Vec<String> {
    let Ok(mut listing) = nix::dir::Dir::from_fd(dir) else {
        return Vec::new();
    };
    let entries = listing.iter().flatten();
    let names = entries.filter_map(|entry| entry.file_name().to_str().ok().map(str::to_owned));
    let mut names: Vec<String> = names.filter(|name| job_of(name) == id).collect();
    names.sort_unstable();
    names
}

/// A directory with a job's name in one of the registries.
struct Container {
    registry: String,
    is_system: bool,
    name: String,
}

impl Container {
    fn path(&self) -> String {
        format!("{}/{}", self.registry, self.name)
    }

    fn open(&self, work: &Work<'_>) -> jobcage_sys::Result<OwnedFd> {
        if self.is_system {
            return open_dir_at(system()?.as_fd(), &self.name);
        }
        let path = format!("{OF_USER}/{}", self.name);
        open_below(Path::new(&work.place.home), &path).ok_or(Errno::ENOTDIR)
    }

    /// Why no tool is to be called for it.
    fn distrust(&self, work: &Work<'_>) -> Option<String> {
        let path = self.path();
        if self.is_system && !geteuid().is_root() {
            return Some("it belongs to root, and jobcage does not run as root".into());
        }
        let dir = match self.open(work) {
            Ok(dir) => dir,
            Err(errno) => return Some(format!("{path} cannot be opened: {}", errno.desc())),
        };
        let config = match fstatat(&dir, CONFIG, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(config) => config,
            Err(Errno::ENOENT) => return Some("LXC does not know it: it has no config".into()),
            Err(errno) => return Some(format!("{path}/{CONFIG}: {}", errno.desc())),
        };
        if let Some(why) = mounted(&dir) {
            return Some(why);
        }
        if !self.is_system {
            return None;
        }
        // Whoever may write into one of these could give root's tools another config, with a program to be run in it.
        let registry = system().and_then(fstat);
        let (registry, dir) = match (registry, fstat(dir)) {
            (Ok(registry), Ok(dir)) => (registry, dir),
            (Err(errno), _) | (_, Err(errno)) => return Some(format!("{path}: {}", errno.desc())),
        };
        not_roots(SYSTEM, &registry, SFlag::S_IFDIR)
            .or_else(|| not_roots(&path, &dir, SFlag::S_IFDIR))
            .or_else(|| not_roots(&format!("{path}/{CONFIG}"), &config, SFlag::S_IFREG))
    }

    /// Asks one of LXC's tools about it: as the job's user, or of root's as root.
    fn call(&self, tool: &str, more: &[&str], pass: &Pass<'_>) -> Result<String> {
        let words = [&[tool, "-P", &self.registry, "-n", &self.name], more].concat();
        let limit = if tool == INFO { LISTING } else { REMOVING };
        if self.is_system {
            pass.call_own(&words, limit)
        } else {
            pass.call(&words, limit)
        }
    }

    /// By what it is known to have run. That of a user's was in the cage, perhaps, and is dead by now.
    fn ran(&self, work: &Work<'_>, pass: &Pass<'_>) -> Option<String> {
        if self.distrust(work).is_some() {
            return None;
        }
        let state = || {
            let state = self.call(INFO, &["-s", "-H"], pass).ok()?;
            Some(state.trim().to_lowercase()).filter(|state| !state.is_empty() && state != "stopped")
        };
        self.monitor(work.census).or_else(state)
    }

    /// Where it has its root file system, if that is not in its own directory: `lxc-destroy` would remove it wherever it is, and others may have
    /// the same.
    fn elsewhere(&self, pass: &Pass<'_>) -> Result<Option<String>> {
        let told = self.call(INFO, &["-H", "-c", "lxc.rootfs.path"], pass)?;
        let root = told.trim_end_matches('\n');
        let is_own = root.is_empty() || is_in(&self.path(), root);
        Ok((!is_own).then(|| root.to_owned()))
    }

    fn monitor(&self, census: &Census) -> Option<String> {
        let title = format!("[lxc monitor] {} {}", self.registry, self.name);
        let is_it = |left: &&Left| left.command.trim_end() == title;
        let left = census.left.iter().find(is_it)?;
        Some(format!("pid {}", left.pid))
    }

    /// Killed and removed by one call. Not with its `-s`, which takes a neighbour's clones, too: they are looked for by their own names.
    fn destroy(&self, work: &Work<'_>, pass: &Pass<'_>) -> Fate {
        if self
            .registry(work)
            .is_ok_and(|dir| remove_bare(dir.as_fd(), &self.name))
        {
            return Fate::Done;
        }
        if let Some(why) = self.distrust(work) {
            return Fate::Spared(why);
        }
        match self.elsewhere(pass) {
            Ok(None) => {}
            Ok(Some(path)) => return Fate::Spared(format!("its files are not in its own directory: {path}")),
            Err(why) => return self.became(Err(why), work),
        }
        let destroy = || self.call(DESTROY, &["-f"], pass);
        let said = match destroy() {
            Err(GuestError::Tool { said, .. }) if said.contains(SNAPSHOTS) => {
                let removed = self.call(SNAPSHOT, &["-d", "ALL"], pass);
                removed.and_then(|_| destroy())
            }
            said => said,
        };
        self.became(said, work)
    }

    /// What the tool says does not count: one that has gone meanwhile is no failure, and one that is still there is no success.
    fn became(&self, said: Result<String>, work: &Work<'_>) -> Fate {
        match (self.is_there(work), said) {
            (false, _) => Fate::Done,
            (true, Err(why @ GuestError::NoTime)) => Fate::Failed(why),
            (true, Err(why)) => Fate::Retry(why),
            (true, Ok(_)) => Fate::Retry(GuestError::Tool {
                tool: DESTROY.into(),
                said: format!("{} is still there", self.path()),
            }),
        }
    }

    /// The directory that it is in.
    fn registry(&self, work: &Work<'_>) -> jobcage_sys::Result<OwnedFd> {
        if self.is_system {
            system()
        } else {
            open_below(Path::new(&work.place.home), OF_USER).ok_or(Errno::ENOENT)
        }
    }

    fn is_there(&self, work: &Work<'_>) -> bool {
        match self.registry(work) {
            Ok(dir) => exists_at(dir.as_fd(), &self.name).unwrap_or(true),
            Err(errno) => errno != Errno::ENOENT,
        }
    }
}

/// Removes what `lxc-destroy` leaves if it is killed at its last step but one: it takes the config first, and then LXC does not know the container
/// any more. Whatever has something in it stays, and so do links and mounts.
fn remove_bare(registry: BorrowedFd<'_>, name: &str) -> bool {
    unlinkat(registry, name, UnlinkatFlags::RemoveDir).is_ok()
}

/// Whether a root file system is below a directory. Of an overlay, `LOWER:UPPER`, it is the upper one that is removed.
fn is_in(dir: &str, root: &str) -> bool {
    let own = root.rsplit(':').next().unwrap_or(root);
    let below = own.strip_prefix(dir).and_then(|rest| rest.strip_prefix('/'));
    below.is_some_and(|below| below.split('/').all(|part| part != ".."))
}

/// What is mounted in a container's directory: `lxc-destroy` empties a bind mount of the same file system. What a running one has mounted is not seen here.
fn mounted(dir: &OwnedFd) -> Option<String> {
    let path = std::fs::read_link(format!("/proc/self/fd/{}", dir.as_raw_fd()));
    match (path, mount_points()) {
        (Ok(path), Ok(points)) => {
            let point = points.into_iter().find(|point| point.starts_with(&path))?;
            Some(format!("something is mounted at {}", point.display()))
        }
        _ => Some("what is mounted in it cannot be told".into()),
    }
}

/// Why this is not root's alone. Its group may write if that is root's, too: LXC makes directories like that.
fn not_roots(path: &str, of: &FileStat, kind: SFlag) -> Option<String> {
    let mode = Mode::from_bits_truncate(of.st_mode);
    if SFlag::from_bits_truncate(of.st_mode) & SFlag::S_IFMT != kind {
        return Some(format!("{path} is of another type than LXC makes it"));
    }
    if of.st_uid != 0 {
        return Some(format!("{path} belongs to the user {}, not to root", of.st_uid));
    }
    let of_group = mode.contains(Mode::S_IWGRP) && of.st_gid != 0;
    (of_group || mode.contains(Mode::S_IWOTH)).then(|| {
        let mode = mode.bits();
        format!(
            "{path} may be written by others than root (mode {mode:04o}, group {})",
            of.st_gid
        )
    })
}

#[cfg(test)]
#[path = "lxc_test.rs"]
mod tests;
