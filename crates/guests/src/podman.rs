//! Rootless podman. Its containers are in the job's cage, but their storage and the process that keeps its user namespace are the user's.
//!
//! When all containers that its records call running have lost their watcher, every podman command of the user fails until `podman system
//! migrate`. That stops whatever still runs, also a neighbour's: so it is called only when podman itself asks for it, and nothing can run then.

use crate::place::{Making, open_below};
use crate::tools::{LISTING, Pass, REMOVING};
use crate::{Fate, Found, GuestError, Kind, Result, Work, fate, listed, xdg};
use jobcage_job::{Census, GuestMode, GuestPlace, Left};
use jobcage_sys::Errno;
use jobcage_sys::file::open_dir;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::stat::fstat;
use std::fs::File;
use std::path::Path;
use std::sync::mpsc::channel;

pub struct Podman;

const KIND: &str = "podman";
const PODMAN: &str = "/usr/bin/podman";

/// What podman says, since 2020, when it cannot work before it is reset.
const LOST: &str = "podman system migrate";

/// So that no container's processes leave the cage: systemd would put them into units of the user.
const CONF: &str = "[engine]\ncgroup_manager = \"cgroupfs\"\n";

impl Kind for Podman {
    fn name(&self) -> &'static str {
        KIND
    }

    fn modes(&self) -> &'static [GuestMode] {
        &[GuestMode::Isolate, GuestMode::Shared]
    }

    fn tools(&self) -> &'static [&'static str] {
        &[PODMAN]
    }

    fn variables(&self, place: &GuestPlace, mode: GuestMode) -> Vec<(&'static str, String)> {
        match mode {
            GuestMode::Shared => Vec::new(),
            _ => xdg::variables(place),
        }
    }

    /// The variables are those of all programs: what others keep there is found by links. A storage.conf of the user's names his own storage.
    fn prepare(&self, dir: &Making<'_>) -> Result<()> {
        xdg::prepare(dir)?;
        let (own, parts) = ("xdg/config/containers", "xdg/config/containers/containers.conf.d");
        dir.dir(own)?;
        dir.dir(parts)?;
        let of_user = ".config/containers";
        dir.link_all(own, of_user, &["storage.conf", "containers.conf.d"])?;
        dir.link_all(parts, &format!("{of_user}/containers.conf.d"), &[OURS])?;
        dir.file(&format!("{parts}/{OURS}"), CONF)
    }

    /// What its tools start there is a process that keeps a namespace; whoever has joined that keeps it, too.
    fn leaf(&self, _: GuestMode) -> GuestMode {
        GuestMode::Isolate
    }

    fn lists(&self) -> &'static [&'static str] {
        &["storage", "container"]
    }

    fn is_used(&self, work: &Work<'_>) -> bool {
        match work.mode {
            // Root can remove what belongs to a user's further ids.
            GuestMode::Isolate | GuestMode::Destroy => {
                !nix::unistd::geteuid().is_root() && storage(work.place).exists()
            }
            GuestMode::Shared => work.census.left.iter().any(is_ours) || has_changed(work),
        }
    }

    fn registry(&self, work: &Work<'_>) -> String {
        match work.mode {
            GuestMode::Isolate | GuestMode::Destroy => storage(work.place).display().to_string(),
            GuestMode::Shared => format!("{}/.local/share/containers", work.place.home),
        }
    }

    fn inventory(&self, what: &str, work: &Work<'_>, pass: &Pass<'_>) -> Result<Vec<Found>> {
        match (what, work.mode) {
            ("storage", GuestMode::Isolate) => Ok(of_further_ids(work.place).into_iter().collect()),
            ("container", GuestMode::Shared) => {
                let text = match containers(work, pass) {
                    Err(GuestError::Tool { said, .. }) if said.contains(LOST) => reset(work, pass)?,
                    told => told?,
                };
                let found = listed::found(&text, listed::is_id).into_iter();
                let ran = |found: Found| Found {
                    ran: ran(work.census, &found.id),
                    ..found
                };
                Ok(found.map(ran).collect())
            }
            _ => Ok(Vec::new()),
        }
    }

    fn destroy(&self, what: &str, found: &Found, work: &Work<'_>, pass: &Pass<'_>) -> Fate {
        if what == "storage" {
            return fate(remove_storage(work.place, pass), &[]);
        }
        let words = [
            PODMAN,
            "--log-level=error",
            "rm",
            "--force",
            "--volumes",
            "--",
            &found.id,
        ];
        fate(
            pass.call(&words, REMOVING),
            &["no such container", "no container with"],
        )
    }
}

/// After what the user's own say, in the order of their names.
const OURS: &str = "zz-jobcage.conf";

fn is_ours(left: &Left) -> bool {
    matches!(
        left.comm.as_str(),
        "podman" | "conmon" | "catatonit" | "crun" | "runc"
    )
}

/// Whether a container of this user was made or removed since the job began. A job whose podman had ended before has no process to show.
fn has_changed(work: &Work<'_>) -> bool {
    let home = Path::new(&work.place.home);
    let drivers = ["overlay-containers", "vfs-containers", "btrfs-containers"];
    // A file's time is that of the last tick of the kernel's clock.
    let began = work.spec.created_ns / 1_000_000_000 - 1;
    drivers.iter().any(|driver| {
        let dir = open_below(home, &format!(".local/share/containers/storage/{driver}"));
        dir.is_some_and(|dir| fstat(&dir).is_ok_and(|of| of.st_mtime >= began))
    })
}

/// By what the container is known to have run when the job ended.
fn ran(census: &Census, id: &str) -> Option<String> {
    let runs = |left: &&Left| left.comm == "conmon" && left.command.contains(id);
    census
        .left
        .iter()
        .find(runs)
        .map(|left| format!("pid {}", left.pid))
}

/// Those with the job's label. Whose process has run one is no evidence: any process may be called conmon, with a neighbour's id.
fn containers(work: &Work<'_>, pass: &Pass<'_>) -> Result<String> {
    let filter = format!("label=jobcage.job={}", work.spec.id);
    let words = [
        PODMAN,
        // Its warnings would hide what it fails of.
        "--log-level=error",
        "ps",
        "--all",
        "--no-trunc",
        "--format",
        "{{.ID}} {{.Names}}",
        "--filter",
        &filter,
    ];
    pass.call(&words, LISTING)
}

/// Makes podman work again, unless another job's closer has done so meanwhile: what was started since would be stopped.
fn reset(work: &Work<'_>, pass: &Pass<'_>) -> Result<String> {
    let lock = lock(work.place)?;
    let told = match containers(work, pass) {
        Err(GuestError::Tool { said, .. }) if said.contains(LOST) => {
            // It has worked also where it says that something could not be stopped: what counts is whether podman works now.
            let migrated = pass.call(&[PODMAN, "--log-level=error", "system", "migrate"], REMOVING);
            match containers(work, pass) {
                Err(GuestError::Tool { said, .. }) if said.contains(LOST) => migrated.and(Err(lost(said))),
                told => told,
            }
        }
        told => told,
    };
    drop(lock);
    told
}

fn lost(said: String) -> GuestError {
    GuestError::Tool {
        tool: format!("{PODMAN} ps"),
        said,
    }
}

/// Held by one closer of this host at a time, in the directory above the places, where no job can come at it.
fn lock(place: &GuestPlace) -> Result<Flock<File>> {
    let above = Path::new(&place.dir).parent().unwrap_or(Path::new("/"));
    let io = |errno| GuestError::Io {
        what: "lock",
        path: above.display().to_string(),
        errno,
    };
    let dir = File::from(open_dir(above).map_err(io)?);
    let (tell, hear) = channel();
    // The kernel knows no limit of time for it.
    std::thread::spawn(move || {
        tell.send(Flock::lock(dir, FlockArg::LockExclusive).map_err(|(_, errno)| errno))
    });
    let answer = hear.recv_timeout(REMOVING);
    answer.unwrap_or(Err(Errno::ETIMEDOUT)).map_err(io)
}

fn storage(place: &GuestPlace) -> std::path::PathBuf {
    Path::new(&place.dir).join(xdg::DATA).join("containers")
}

/// The job's storage, if there is one. Podman makes the directory above whenever it is called.
fn of_further_ids(place: &GuestPlace) -> Option<Found> {
    let name = storage(place).display().to_string();
    let found = Found {
        id: name.clone(),
        name,
        ran: None,
    };
    storage(place).join("storage").exists().then_some(found)
}

/// In the user namespace of podman, where the user's further ids are its own. A storage of its own for that: the job's may be damaged.
fn remove_storage(place: &GuestPlace, pass: &Pass<'_>) -> Result<String> {
    // Podman takes no longer path than 50 bytes for that of its sockets.
    let other = format!("{}/tool", place.runtime_dir());
    let storage = storage(place).display().to_string();
    let words = [
        PODMAN,
        "--log-level=error",
        "--root",
        &other,
        "--runroot",
        &other,
        "--tmpdir",
        &other,
        "unshare",
        "rm",
        "-rf",
        "--",
        &storage,
    ];
    pass.call(&words, REMOVING)
}
