//! Where the cages of this host live: the first place that fits, and why.

use crate::dir::Dir;
use crate::empty::remove;
use crate::error::{CageError, Result};
use crate::events::EventsFile;
use crate::mount::{Mount, is_cgroup2, own_cgroup};
use crate::systemd::Bus;
use jobcage_job::{JobId, Root};
use jobcage_sys::{Errno, file};
use nix::unistd::{AccessFlags, access};
use std::path::{Path, PathBuf};

/// The leaf of the root's holder, the watcher.
pub const HOLD: &str = "hold";

/// The scope and slice of the root on a host with systemd.
const SCOPE: &str = "jobcage.slice/jobcage-root.scope";

/// What kind of place a root is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Named by the user.
    Configured,
    /// The host's own scope, `jobcage-root.scope`.
    Systemd,
    /// The cgroup that we were started in, which is delegated to us.
    Delegated,
    /// A scope that the user's manager has made for this very process.
    UserScope,
    /// `jobcage/` below the mount point, without systemd.
    Plain,
    /// Below the leaf of the cage that we run in.
    Nested,
    /// Below the task of a Slurm step that we run in.
    Slurm,
}

impl Kind {
    /// Its word in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Configured => "configured",
            Self::Systemd => "systemd",
            Self::Delegated => "delegated",
            Self::UserScope => "user-scope",
            Self::Plain => "plain",
            Self::Nested => "nested",
            Self::Slurm => "slurm",
        }
    }
}

/// A root that was found.
#[derive(Debug)]
pub struct Found {
    /// The directory that cages are made in.
    pub dir: Dir,
    /// What it is.
    pub kind: Kind,
    /// Why this one.
    pub why: String,
    /// The mount that it lies in.
    pub mount: Mount,
    /// Our own cgroup, as `/proc/self/cgroup` has it.
    pub own: String,
}

impl Found {
    /// A root that another process of ours has found.
    ///
    /// # Errors
    /// If it is gone.
    pub fn again(root: &Root) -> Result<Self> {
        let all = [
            Kind::Systemd,
            Kind::Delegated,
            Kind::UserScope,
            Kind::Plain,
            Kind::Nested,
            Kind::Slurm,
        ];
        Ok(Self {
            dir: Dir::open(Path::new(&root.path))?,
            kind: all
                .into_iter()
                .find(|kind| kind.name() == root.kind)
                .unwrap_or(Kind::Configured),
            why: root.why.clone(),
            mount: Mount::find()?,
            own: own_cgroup()?,
        })
    }

    /// As it stands in reports.
    #[must_use]
    pub fn root(&self) -> Root {
        Root {
            kind: self.kind.name().into(),
            path: self.dir.path().display().to_string(),
            why: self.why.clone(),
        }
    }
}

/// What the search came to.
#[derive(Debug)]
pub enum Search {
    /// Here it is.
    Found(Box<Found>),
    /// None yet: a scope has to be started by systemd on this bus.
    NeedsScope(Bus),
}

/// Finds the root. `configured` is `--cgroup-root`.
///
/// # Errors
/// If there is no cgroup2, or no place in it that we may use; the message says what to do.
pub fn find(configured: Option<&Path>) -> Result<Search> {
    let mount = Mount::find()?;
    let own = own_cgroup()?;
    let found = |dir: Dir, kind: Kind, why: String| {
        Ok(Search::Found(Box::new(Found {
            dir,
            kind,
            why,
            mount: mount.clone(),
            own: own.clone(),
        })))
    };
    let own_dir = mount.dir_of(&own);
    if is_in_cage(&own) && !configured.is_some_and(|path| path.starts_with(&own_dir)) {
        let dir = Dir::open(&own_dir)?;
        let why = "jobcage was started inside a cage, so the new one is below and ends with it".to_owned();
        return found(dir, Kind::Nested, why);
    }
    if let Some(path) = configured {
        return found(
            open_configured(path)?,
            Kind::Configured,
            "named by --cgroup-root or the configuration".into(),
        );
    }
    if is_in_slurm_step(Path::new(&own)) {
        return found(open_slurm_task(&own, &own_dir)?, Kind::Slurm, SLURM.into());
    }
    let root = nix::unistd::geteuid().is_root();
    let systemd = has_systemd();
    if root && systemd {
        return match open_host_scope(&mount)? {
            Some(dir) => found(
                dir,
                Kind::Systemd,
                "the host's own scope, delegated by systemd".into(),
            ),
            None => Ok(Search::NeedsScope(Bus::System)),
        };
    }
    if !root && is_ours(&own_dir) && (!systemd || is_delegated(&mount.point, &own_dir)) {
        return found(Dir::open(&own_dir)?, Kind::Delegated, OURS.into());
    }
    if !root && systemd {
        return Ok(Search::NeedsScope(Bus::User));
    }
    let path = mount.point.join("jobcage");
    match open_plain(&path) {
        Ok(dir) => found(
            dir,
            Kind::Plain,
            "there is no systemd, so a directory of our own".into(),
        ),
        Err(error) => Err(CageError::NoRoot(format!(
            "{error}: there is no cgroup that uid {} may use. {}",
            nix::unistd::geteuid(),
            if error.errno() == Some(Errno::EROFS) {
                "The cgroup file system is read-only: in a container, mount it writable (docker: --cgroupns=private \
                 and -v /sys/fs/cgroup:/sys/fs/cgroup:rw)"
            } else {
                "Ask the administrator for a directory of your own and give it as --cgroup-root (mkdir, chown -R; you \
                 must be started inside of it)"
            }
        ))),
    }
}

/// The cgroup of this process as root: of the kind [`Kind::Delegated`], or the scope that was just made for it.
///
/// # Errors
/// If it is not ours to use.
pub fn own_place(kind: Kind) -> Result<Found> {
    let mount = Mount::find()?;
    let own = own_cgroup()?;
    let path = mount.dir_of(&own);
    if !is_ours(&path) {
        return Err(CageError::NoRoot(format!(
            "systemd says that the cgroup {own} is delegated to this user, but it cannot be written"
        )));
    }
    let why = match kind {
        Kind::UserScope => "this user's systemd gave jobcage a scope of its own, which ends with it",
        _ => OURS,
    };
    Ok(Found {
        dir: Dir::open(&path)?,
        kind,
        why: why.into(),
        mount,
        own,
    })
}

/// Whether this host's first process is systemd.
fn has_systemd() -> bool {
    Path::new("/run/systemd/system").exists()
}

/// The scope in which root's cages are on a host with systemd. `None`: it is not there or on its way out, or this is no such
/// host or user.
///
/// # Errors
/// If it is there and cannot be opened.
pub fn host_scope() -> Result<Option<Dir>> {
    if !(nix::unistd::geteuid().is_root() && has_systemd()) {
        return Ok(None);
    }
    open_host_scope(&Mount::find()?)
}

/// One in which nothing lives is on its way out: systemd removes it at any moment, and what is made in it meanwhile would stay
/// in a cgroup that systemd has forgotten.
fn open_host_scope(mount: &Mount) -> Result<Option<Dir>> {
    let dir = match Dir::open(&mount.point.join(SCOPE)) {
        Ok(dir) => dir,
        Err(error) if error.errno() == Some(Errno::ENOENT) => return Ok(None),
        Err(error) => return Err(error),
    };
    let lives = EventsFile::open(&dir).and_then(|file| file.map_or(Ok(None), |file| file.read()));
    let lives = lives.map_err(|errno| CageError::io("read cgroup.events", dir.path(), errno))?;
    Ok(lives.is_some_and(|events| events.populated).then_some(dir))
}

/// Removes what is left of a host's scope that systemd knows no more: it was not empty when systemd tried, and systemd would put
/// no process into it, since its controllers are enabled.
///
/// # Errors
/// If something has come to live in it.
pub(crate) fn remove_forgotten_scope() -> Result<()> {
    let path = Mount::find()?.point.join(SCOPE);
    let (Some(slice), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(());
    };
    match Dir::open(slice) {
        Ok(slice) => remove(&slice, name),
        Err(error) if error.errno() == Some(Errno::ENOENT) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Outside of its step, neither Slurm's limits nor its signals would reach the job: so it is here or nowhere.
fn open_slurm_task(own: &str, dir: &Path) -> Result<Dir> {
    if !is_ours(dir) {
        return Err(CageError::NoRoot(format!(
            "the cgroup of this task of Slurm's, {own}, is not writable for uid {}, and outside of it Slurm's limits and scancel \
             would not reach the job. The administrator can have each task's cgroup given to its user (docs/fleets.md)",
            nix::unistd::geteuid()
        )));
    }
    Dir::open(dir)
}

/// Whether a cgroup path leads through a step of a Slurm job, as its plugin for cgroup v2 names them. The environment is not
/// asked: a variable of Slurm's may be set anywhere.
#[must_use]
pub fn is_in_slurm_step(cgroup: &Path) -> bool {
    let mut parts = cgroup.iter().map(|part| part.to_string_lossy()).peekable();
    let is_job = |part: &str| {
        part.strip_prefix("job_")
            .is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    };
    std::iter::from_fn(|| {
        parts
            .next()
            .map(|part| is_job(&part) && parts.peek().is_some_and(|next| next.starts_with("step_")))
    })
    .any(|found| found)
}

const SLURM: &str =
    "jobcage was started in a step of Slurm's, so the cage is below it: Slurm's limits hold for the job";

const OURS: &str = "the cgroup that jobcage was started in is ours";

/// Whether a cgroup path leads through a cage: a generated job id, then a leaf `NN-name`, with `steps` or `after` between
/// them or not. The environment is not asked, since a job may scrub it.
fn is_in_cage(cgroup: &str) -> bool {
    let parts: Vec<&str> = cgroup.split('/').collect();
    let is_leaf = |part: &str| {
        part.split_once('-').is_some_and(|(n, name)| {
            n.len() >= 2 && n.bytes().all(|b| b.is_ascii_digit()) && !name.is_empty()
        })
    };
    let is_cage = |part: &str| part.parse::<JobId>().is_ok_and(|id| id.is_generated());
    (1..parts.len()).any(|at| {
        let up = if matches!(parts[at - 1], "steps" | "after") && at >= 2 {
            at - 2
        } else {
            at - 1
        };
        is_leaf(parts[at]) && is_cage(parts[up])
    })
}

/// Whether systemd has delegated a cgroup, or one above it: it marks them. What it has not, it may change at any time, and
/// every unit of a user's manager belongs to the user.
fn is_delegated(mount: &Path, dir: &Path) -> bool {
    // The manager's own cgroup is delegated to the manager, which then owns what it makes below.
    let is_managers = |dir: &Path| {
        dir.file_name()
            .is_some_and(|n| n.as_encoded_bytes().starts_with(b"user@"))
    };
    let above = dir
        .ancestors()
        .take_while(|above| *above != mount && is_ours(above) && !is_managers(above));
    // The managers of older users (252) do not mark: they are asked, once there is something to ask.
    let mut marks = above.map(|above| file::has_xattr(above, c"user.delegate", b"1"));
    marks.any(|marked| marked)
}

fn is_ours(dir: &Path) -> bool {
    let writable = |path: PathBuf| access(&path, AccessFlags::W_OK).is_ok();
    writable(dir.into()) && writable(dir.join("cgroup.procs"))
}

fn open_configured(path: &Path) -> Result<Dir> {
    let dir = open_plain(path)?;
    if is_cgroup2(path) {
        Ok(dir)
    } else {
        Err(CageError::NoRoot(format!(
            "{} is no cgroup2 directory: --cgroup-root has to lie below the cgroup2 mount point",
            path.display()
        )))
    }
}

/// Opens a directory, or makes it if its parent is a cgroup.
fn open_plain(path: &Path) -> Result<Dir> {
    match Dir::open(path) {
        Err(error) if error.errno() == Some(Errno::ENOENT) => {
            let (Some(parent), Some(name)) = (path.parent(), path.file_name().and_then(|n| n.to_str()))
            else {
                return Err(error);
            };
            if !is_cgroup2(parent) {
                return Err(CageError::NoRoot(format!(
                    "{} does not exist and lies on no cgroup2 file system",
                    path.display()
                )));
            }
            Dir::open(parent)?.create_or_open(name)
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_the_inside_of_a_step_of_slurm() {
        for inside in [
            "/system.slice/slurmstepd.scope/job_7/step_0/user/task_0",
            "/system.slice/node1_slurmstepd.scope/job_7/step_batch/user/task_0",
            "/sys/fs/cgroup/system.slice/slurmstepd.scope/job_7/step_1/user/task_3/main-0123abcd",
        ] {
            assert!(is_in_slurm_step(Path::new(inside)), "{inside}");
        }
        for outside in [
            "/",
            "/system.slice/slurmd.service",
            "/system.slice/slurmstepd.scope/system",
            "/job_7/x/step_0",
            "/job_/step_0",
            "/job_a/step_0",
        ] {
            assert!(!is_in_slurm_step(Path::new(outside)), "{outside}");
        }
    }

    #[test]
    fn knows_the_inside_of_a_cage() {
        for inside in [
            "/jobcage/main-0123abcd/01-main",
            "/jobcage/main-0123abcd/steps/12-build/own/cgroup",
            "/jobcage/main-0123abcd/after/01-after",
            "/a.slice/x.scope/job-zzzzzzzz/01-main",
        ] {
            assert!(is_in_cage(inside), "{inside}");
        }
        for outside in [
            "/",
            "/jobcage/hold",
            "/user.slice/user-1000.slice/session-2.scope",
            "/01-main",
            "/steps/01-x",
            "",
        ] {
            assert!(!is_in_cage(outside), "{outside}");
        }
    }
}
