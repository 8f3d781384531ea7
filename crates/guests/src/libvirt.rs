//! libvirt. A user has one daemon for his session, in the cage of whichever job has called it first: each job gets one of its own.
//!
//! `undefine --remove-all-storage` also removes what is in the CD drive, such as an image that all jobs use: only disks are named to libvirt,
//! which removes those that are in a pool.

use crate::place::Making;
use crate::tools::{LISTING, Pass, REMOVING};
use crate::virtualbox::is_uuid;
use crate::{Fate, Found, GuestError, Kind, Machine, Result, Work, fate, libvirt_system, xdg};
use jobcage_job::{GuestMode, GuestPlace, Left};
use jobcage_sys::Errno;
use jobcage_sys::file::{open_dir, open_distrusted};
use nix::fcntl::OFlag;
use nix::sys::stat::SFlag;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

pub struct Libvirt;

const KIND: &str = "libvirt";
pub(crate) const VIRSH: &str = "/usr/bin/virsh";
const SESSION: &str = "-cqemu:///session";

/// It is no domain of this libvirt, or not any more.
pub(crate) const GONE: &str = "failed to get domain";
const NOT_RUNNING: &str = "domain is not running";

impl Kind for Libvirt {
    fn name(&self) -> &'static str {
        KIND
    }

    fn modes(&self) -> &'static [GuestMode] {
        &[GuestMode::Isolate, GuestMode::Shared]
    }

    fn tools(&self) -> &'static [&'static str] {
        &[VIRSH]
    }

    fn variables(&self, place: &GuestPlace, mode: GuestMode) -> Vec<(&'static str, String)> {
        match mode {
            GuestMode::Shared => Vec::new(),
            _ => xdg::variables(place),
        }
    }

    fn prepare(&self, dir: &Making<'_>) -> Result<()> {
        xdg::prepare(dir)
    }

    /// Disks first: only the machine tells of them.
    fn lists(&self) -> &'static [&'static str] {
        &["disk", "vm"]
    }

    /// A link on the way to the definitions leads to others than the job's.
    fn is_used(&self, work: &Work<'_>) -> bool {
        if work.mode == GuestMode::Shared {
            return libvirt_system::is_used(work);
        }
        match opened(work.place) {
            Ok(dir) => !files(&dir).is_empty() || work.census.left.iter().any(is_daemon),
            Err(Errno::ENOENT) => work.census.left.iter().any(is_daemon),
            Err(_) => false,
        }
    }

    fn registry(&self, work: &Work<'_>) -> String {
        match work.mode {
            GuestMode::Shared => "qemu:///system".into(),
            _ => format!("{}/{DEFINITIONS}", work.place.dir),
        }
    }

    fn inventory(&self, what: &str, work: &Work<'_>, pass: &Pass<'_>) -> Result<Vec<Found>> {
        if work.mode == GuestMode::Shared {
            return match what {
                "vm" => libvirt_system::inventory(work, pass),
                _ => Ok(Vec::new()),
            };
        }
        if what == "disk" {
            // The first call of a daemon.
            xdg::renew(work.place, work.spec.uid, KIND)?;
            forget_strange(work.place)?;
        }
        let listed = domains(&pass.call(&[VIRSH, SESSION, "list", "--all", "--uuid", "--name"], LISTING)?);
        if what == "vm" {
            let ran = |found: Found| Found {
                ran: process_of(&work.census.left, &found).map(|pid| format!("pid {pid}")),
                ..found
            };
            return Ok(listed.into_iter().map(ran).collect());
        }
        elsewhere(&listed, work.place, pass)
    }

    fn destroy(&self, what: &str, found: &Found, work: &Work<'_>, pass: &Pass<'_>) -> Fate {
        match what {
            "vm" if work.mode == GuestMode::Shared => libvirt_system::destroy(found, work, pass),
            "vm" => undefine(SESSION, &found.id, pass, |_| true),
            _ => delete_volume(&found.id, pass),
        }
    }

    fn registered(&self, place: &GuestPlace, processes: &[Left]) -> Vec<Machine> {
        let found = definitions(place).into_iter();
        let told = found.map(|found| Machine {
            kind: KIND,
            pid: process_of(processes, &found),
            name: found.name,
            id: found.id,
        });
        told.collect()
    }
}

/// The daemons of libvirt: one for all, or one for each thing.
fn is_daemon(left: &Left) -> bool {
    matches!(
        left.comm.as_str(),
        "libvirtd"
            | "virtqemud"
            | "virtlogd"
            | "virtlockd"
            | "virtproxyd"
            | "virtstoraged"
            | "virtnetworkd"
            | "virtsecretd"
            | "virtnodedevd"
            | "virtinterfaced"
            | "virtnwfilterd"
    )
}

/// For a report: a command line is anybody's word, and libvirt puts the UUID behind what is cut off.
fn process_of(processes: &[Left], found: &Found) -> Option<i32> {
    let name = format!("guest={},", found.name);
    let runs = |left: &&Left| {
        left.comm.starts_with("qemu") && (left.command.contains(&found.id) || left.command.contains(&name))
    };
    processes.iter().find(runs).map(|left| left.pid)
}

/// The disks of these machines that do not go with the place, each once. `vol-delete` takes a path that is in a pool.
fn elsewhere(listed: &[Found], place: &GuestPlace, pass: &Pass<'_>) -> Result<Vec<Found>> {
    let run = place.runtime_dir();
    let goes = |path: &Path| path.starts_with(&place.dir) || path.starts_with(&run);
    let mut paths: Vec<String> = Vec::new();
    for found in listed {
        for disk in disks_of(SESSION, &found.id, pass)?.unwrap_or_default() {
            let path = Path::new(&disk.source);
            let is_there = path.is_absolute() && path.symlink_metadata().is_ok();
            if is_there && !goes(path) && !paths.contains(&disk.source) {
                paths.push(disk.source);
            }
        }
    }
    let told = paths.into_iter().map(|path| Found {
        name: path.clone(),
        id: path,
        ran: None,
    });
    Ok(told.collect())
}

/// Has libvirt remove what is in one of its pools. What is in none may be anything that the user can name, such as the base of all his machines.
fn delete_volume(path: &str, pass: &Pass<'_>) -> Fate {
    match fate(pass.call(&[VIRSH, SESSION, "vol-delete", path], REMOVING), &[]) {
        Fate::Retry(GuestError::Tool { said, .. }) if said.contains("Storage volume not found") => {
            Fate::Spared("it is in no storage pool of this libvirt".into())
        }
        other => other,
    }
}

/// Ends a machine, and forgets it with what libvirt keeps of it and those of its disks that are in a pool. It may run again: the daemon starts those that are
/// to run always.
pub(crate) fn undefine(uri: &str, id: &str, pass: &Pass<'_>, is_wanted: impl Fn(&Disk) -> bool) -> Fate {
    match fate(pass.call(&[VIRSH, uri, "destroy", id], REMOVING), &[NOT_RUNNING]) {
        Fate::Done | Fate::Gone => {}
        Fate::Retry(GuestError::Tool { said, .. }) if said.contains(GONE) => return Fate::Gone,
        other => return other,
    }
    let disks = match disks_of(uri, id, pass) {
        Ok(Some(disks)) => disks,
        Ok(None) => return Fate::Gone,
        Err(why) => return fate(Err(why), &[]),
    };
    let targets: Vec<&str> = disks
        .iter()
        .filter(|disk| is_wanted(disk))
        .map(|disk| disk.target.as_str())
        .collect();
    let targets = targets.join(",");
    let mut words = vec![
        VIRSH,
        uri,
        "undefine",
        id,
        "--nvram",
        "--managed-save",
        "--snapshots-metadata",
        "--checkpoints-metadata",
    ];
    if !targets.is_empty() {
        words.extend(["--storage", &targets]);
    }
    fate(pass.call(&words, REMOVING), &[GONE])
}

/// `None`: the machine is gone.
fn disks_of(uri: &str, id: &str, pass: &Pass<'_>) -> Result<Option<Vec<Disk>>> {
    match pass.call(&[VIRSH, uri, "domblklist", id, "--details"], LISTING) {
        Ok(text) => Ok(Some(disks(&text))),
        Err(GuestError::Tool { said, .. }) if said.contains(GONE) => Ok(None),
        Err(why) => Err(why),
    }
}

/// `UUID NAME`. libvirt lets no line end into a name.
pub(crate) fn domains(text: &str) -> Vec<Found> {
    let mut found: Vec<Found> = Vec::new();
    for line in text.lines() {
        let (id, name) = line.split_once(' ').unwrap_or((line, ""));
        if is_uuid(id) && !found.iter().any(|known| known.id == id) {
            found.push(Found {
                name: name.trim().into(),
                id: id.into(),
                ran: None,
            });
        }
    }
    found
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Disk {
    /// `vda`.
    pub target: String,
    /// A path, or the name of a volume.
    pub source: String,
}

/// `TYPE DEVICE TARGET SOURCE` under a heading. What is in a drive is no disk.
fn disks(text: &str) -> Vec<Disk> {
    let of = |line: &str| {
        let (_, rest) = line.trim().split_once(' ')?;
        let (device, rest) = rest.trim_start().split_once(' ')?;
        let (target, source) = rest.trim_start().split_once(' ')?;
        let is_target = target.len() <= 16 && target.bytes().all(|byte| byte.is_ascii_alphanumeric());
        (device == "disk" && is_target && !target.is_empty()).then(|| Disk {
            target: target.into(),
            source: source.trim().into(),
        })
    };
    text.lines().filter_map(of).collect()
}

const DEFINITIONS: &str = "xdg/config/libvirt/qemu";

fn opened(place: &GuestPlace) -> std::result::Result<OwnedFd, Errno> {
    let dir = open_dir(Path::new(&place.dir))?;
    open_distrusted(dir.as_fd(), DEFINITIONS, OFlag::O_RDONLY | OFlag::O_DIRECTORY)
}

/// Removes what libvirt has not written where it reads: a FIFO holds it for ever, and a link leads to the machines of others.
fn forget_strange(place: &GuestPlace) -> Result<()> {
    let done = open_dir(Path::new(&place.dir)).and_then(|dir| {
        [DEFINITIONS, "xdg/config/libvirt/storage"]
            .iter()
            .try_for_each(|name| xdg::forget(&dir, name, |kind| kind == SFlag::S_IFREG))
    });
    done.map_err(|errno| GuestError::Io {
        what: "use",
        path: format!("{}/xdg/config/libvirt", place.dir),
        errno,
    })
}

/// The machines that are defined in the place, by its files; not those that cannot be read, or that libvirt has not written.
fn definitions(place: &GuestPlace) -> Vec<Found> {
    let Ok(dir) = opened(place) else {
        return Vec::new();
    };
    let texts = files(&dir).into_iter().filter_map(|name| text_of(&dir, &name));
    texts.filter_map(|text| definition(&text)).collect()
}

/// One for each machine that is defined.
fn files(dir: &OwnedFd) -> Vec<OsString> {
    const MOST: usize = 1000;
    let Ok(Ok(mut listed)) = dir.try_clone().map(nix::dir::Dir::from_fd) else {
        return Vec::new();
    };
    let names = listed.iter().flatten();
    let names = names.map(|entry| OsStr::from_bytes(entry.file_name().to_bytes()).to_owned());
    names
        .filter(|name| name.as_bytes().ends_with(b".xml"))
        .take(MOST)
        .collect()
}

fn text_of(dir: &OwnedFd, name: &OsStr) -> Option<String> {
    const MOST: u64 = 1 << 20;
    let file = File::from(open_distrusted(dir.as_fd(), name, OFlag::O_RDONLY).ok()?);
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut text = String::new();
    file.take(MOST).read_to_string(&mut text).ok()?;
    Some(text)
}

/// The first name and UUID in it are the machine's own.
fn definition(text: &str) -> Option<Found> {
    let inside = |tag: &str| {
        let (_, rest) = text.split_once(&format!("<{tag}>"))?;
        Some(rest.split_once(&format!("</{tag}>"))?.0)
    };
    let name = inside("name")?
        .replace("&quot;", "\"")
        .replace("&apos;", "'")
        .replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&amp;", "&");
    let id = inside("uuid").filter(|id| is_uuid(id))?.to_owned();
    Some(Found { name, id, ran: None })
}

#[cfg(test)]
#[path = "libvirt_test.rs"]
mod tests;
