//! The directory that the machines of a job live in.

use crate::{GuestError, Result, has_dir, kinds, left};
use jobcage_job::{GuestMode, GuestPlace, GuestReport, JobId, JobSpec, Outcome};
use jobcage_sys::clock::boot_time;
use jobcage_sys::file::{open_dir, open_distrusted};
use jobcage_sys::{Errno, sweep};
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, SFlag, fchmod, fstat, fstatat, mkdirat, stat};
use nix::unistd::{Gid, Uid, fchown, fsync, geteuid, symlinkat, write};
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Room for a name in a job's directory of a million files, and no endless walk.
const MOST_LOOKS: u32 = 1_000_000;

fn io<'p>(what: &'static str, path: &'p Path) -> impl Fn(Errno) -> GuestError + 'p {
    move |errno| GuestError::Io {
        what,
        path: path.display().to_string(),
        errno,
    }
}

/// A place that is being made.
pub struct Making<'a> {
    pub(crate) place: &'a GuestPlace,
    uid: u32,
    dir: OwnedFd,
}

impl Making<'_> {
    /// Makes a directory in it.
    pub(crate) fn dir(&self, name: &str) -> Result<()> {
        let io = io("make", Path::new(&self.place.dir));
        match mkdirat(&self.dir, name, Mode::S_IRWXU) {
            // Of another kind, which uses it, too: nobody else can have been here yet.
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(io(errno)),
        }
        let made =
            open_distrusted(self.dir.as_fd(), name, OFlag::O_RDONLY | OFlag::O_DIRECTORY).map_err(&io)?;
        self.give(made.as_fd())
    }

    /// Writes a file in it.
    pub(crate) fn file(&self, name: &str, text: &str) -> Result<()> {
        let io = io("write into", Path::new(&self.place.dir));
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        let file = openat(&self.dir, name, flags, Mode::S_IRUSR | Mode::S_IWUSR).map_err(&io)?;
        if write(&file, text.as_bytes()).map_err(&io)? < text.len() {
            return Err(io(Errno::ENOSPC));
        }
        self.give(file.as_fd())
    }

    /// Makes a symbolic link in it.
    pub(crate) fn link(&self, name: &str, to: &Path) -> Result<()> {
        symlinkat(to, &self.dir, name).map_err(io("make a link in", Path::new(&self.place.dir)))
    }

    /// Links everything that is by now in a directory of the user's home, but these names. Not by way of links or into mounts: we may be root,
    /// who sees more than the user.
    pub(crate) fn link_all(&self, name: &str, from: &str, but: &[&str]) -> Result<()> {
        const MOST: usize = 1000;
        let home = Path::new(&self.place.home);
        let dir = open_below(home, from).filter(|dir| fstat(dir).is_ok_and(|of| of.st_uid == self.uid));
        // A user without it, or of whom it cannot be read, has nothing there.
        let Some(Ok(mut listed)) = dir.map(nix::dir::Dir::from_fd) else {
            return Ok(());
        };
        for entry in listed.iter().flatten().take(MOST) {
            let entry = OsStr::from_bytes(entry.file_name().to_bytes());
            if entry == "." || entry == ".." || but.iter().any(|but| entry == *but) {
                continue;
            }
            let io = io("make a link in", Path::new(&self.place.dir));
            match symlinkat(
                &home.join(from).join(entry),
                &self.dir,
                &Path::new(name).join(entry),
            ) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(errno) => return Err(io(errno)),
            }
        }
        Ok(())
    }

    /// Makes the directory of the job's sockets.
    pub(crate) fn runtime_dir(&self) -> Result<OwnedFd> {
        runtime_dir(self.place, self.uid)
    }

    fn give(&self, file: BorrowedFd<'_>) -> Result<()> {
        give(file, self.uid, self.place)
    }
}

fn give(file: BorrowedFd<'_>, uid: u32, place: &GuestPlace) -> Result<()> {
    if geteuid().as_raw() == uid {
        return Ok(());
    }
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(place.gid));
    fchown(file, Some(uid), Some(gid)).map_err(io("give away", Path::new(&place.dir)))
}

/// Makes the directory of the job's sockets, unless it is there: a reboot may have emptied `/tmp`.
pub(crate) fn runtime_dir(place: &GuestPlace, uid: u32) -> Result<OwnedFd> {
    let path = place.runtime_dir();
    let (above, name) = split(Path::new(&path))?;
    let io = io("make", Path::new(&path));
    let base = open_dir(above).map_err(&io)?;
    match mkdirat(&base, name, Mode::S_IRWXU) {
        Ok(()) | Err(Errno::EEXIST) => {}
        Err(errno) => return Err(io(errno)),
    }
    let made = open_distrusted(base.as_fd(), name, OFlag::O_RDONLY | OFlag::O_DIRECTORY).map_err(&io)?;
    // The name was to be seen while the job ran: after a reboot it may be a stranger's.
    let owner = fstat(&made).map_err(&io)?.st_uid;
    if owner != uid && owner != geteuid().as_raw() {
        return Err(io(Errno::EPERM));
    }
    give(made.as_fd(), uid, place)?;
    Ok(made)
}

/// Makes the place of a job whose spec is on the disk, with what each kind needs in it.
///
/// # Errors
/// If it cannot be made. Something of it may be there; whoever closes the job removes it.
pub fn make(spec: &JobSpec) -> Result<()> {
    let Some(place) = spec.guests.as_ref().filter(|place| has_dir(place)) else {
        return Ok(());
    };
    let path = Path::new(&place.dir);
    let (above, name) = split(path)?;
    let io = |errno| io("make", path)(errno);
    match nix::unistd::mkdir(above, Mode::S_IRWXU | Mode::S_IXGRP | Mode::S_IXOTH) {
        // Each user finds his own by its name; the mask of whoever has started us does not count.
        Ok(()) => fchmod(
            open_dir(above).map_err(io)?,
            Mode::S_IRWXU | Mode::S_IXGRP | Mode::S_IXOTH,
        )
        .map_err(io)?,
        Err(Errno::EEXIST) => {}
        Err(errno) => return Err(io(errno)),
    }
    let base = open_dir(above).map_err(io)?;
    mkdirat(&base, name, Mode::S_IRWXU).map_err(io)?;
    let dir = open_distrusted(base.as_fd(), name, OFlag::O_RDONLY | OFlag::O_DIRECTORY).map_err(io)?;
    let making = Making {
        place,
        uid: spec.uid,
        dir,
    };
    for (kind, mode) in kinds(place) {
        if mode != GuestMode::Shared {
            kind.prepare(&making)?;
        }
    }
    // Last: until now nobody else could write into it.
    making.give(making.dir.as_fd())
}

/// The variables by which the tools of a job's steps keep everything in its place.
#[must_use]
pub fn variables(place: &GuestPlace) -> Vec<(&'static str, String)> {
    kinds(place)
        .flat_map(|(kind, mode)| kind.variables(place, mode))
        .collect()
}

/// A directory below the home of a job's user, without a link or a mount on the way.
pub(crate) fn open_below(home: &Path, dir: &str) -> Option<OwnedFd> {
    let home = open_dir(home).ok()?;
    open_distrusted(home.as_fd(), dir, OFlag::O_RDONLY | OFlag::O_DIRECTORY).ok()
}

fn split(path: &Path) -> Result<(&Path, &OsStr)> {
    match (path.parent(), path.file_name()) {
        (Some(above), Some(name)) if path.is_absolute() => Ok((above, name)),
        _ => Err(io("take for a place", path)(Errno::EINVAL)),
    }
}

/// Takes back a place in which nothing of a job has run.
pub fn remove_unused(spec: &JobSpec) {
    if let Some(place) = &spec.guests {
        let _ = remove(place, Instant::now() + Duration::from_secs(10));
    }
}

/// Removes the place with all that is in it, and first the directories of sockets: as long as the place is there, somebody comes again. Told of
/// only if more than the bare place was there, or if something stays.
pub(crate) fn remove(place: &GuestPlace, until: Instant) -> Option<GuestReport> {
    let bytes = size(place);
    let sockets = [format!("/tmp/.vbox-{}-ipc", place.socket), place.runtime_dir()];
    let mut all = sockets.iter().chain([&place.dir]);
    let done = all.try_for_each(|dir| remove_tree(Path::new(dir), until));
    match done {
        Ok(()) if bytes < NOTABLE => None,
        Ok(()) => Some(GuestReport {
            outcome: Outcome::Deleted,
            why: None,
            ..left("files", "directory", &place.dir, &"", bytes)
        }),
        Err(why) => Some(left("files", "directory", &place.dir, &why, size(place))),
    }
}

/// Has the removal of a place on its disk before its record says so there: else a power cut brings it back, and nobody comes for it, as the job is
/// over. File systems that keep one order of all changes, as ext4 and XFS do, need no sync for what is on the same one as the record
/// (`record`: its path); not each one does, so where there was something to tell of (`is_used`) it is done in any case.
///
/// # Errors
/// If the disk says no.
pub fn settle(spec: &JobSpec, record: &Path, is_used: bool) -> Result<()> {
    let Some(place) = spec.guests.as_ref().filter(|place| has_dir(place)) else {
        return Ok(());
    };
    let (above, _) = split(Path::new(&place.dir))?;
    let io = io("sync", above);
    let base = match open_dir(above) {
        Err(Errno::ENOENT) => return Ok(()),
        other => other.map_err(&io)?,
    };
    if !is_used && is_on(base.as_fd(), record).map_err(&io)? {
        return Ok(());
    }
    fsync(&base).map_err(&io)
}

/// Whether a directory is on the file system that a path is on. A path that cannot be looked at is on none.
fn is_on(dir: BorrowedFd<'_>, path: &Path) -> nix::Result<bool> {
    let device = fstat(dir)?.st_dev;
    Ok(stat(path).is_ok_and(|there| there.st_dev == device))
}

/// What the place takes by itself, registry and all, with room for the daemon's log.
const NOTABLE: u64 = 1 << 20;

fn remove_tree(path: &Path, until: Instant) -> Result<()> {
    let (above, name) = split(path)?;
    let io = io("remove", path);
    let base = match open_dir(above) {
        Err(Errno::ENOENT) => return Ok(()),
        other => other.map_err(&io)?,
    };
    let patience = until
        .saturating_duration_since(Instant::now())
        .max(Duration::from_secs(10));
    sweep::remove(base.as_fd(), name, patience).map_err(&io)
}

/// The bytes that it takes on the disk, as far as they can be counted.
pub(crate) fn size(place: &GuestPlace) -> u64 {
    let mut looks = MOST_LOOKS;
    open_dir(Path::new(&place.dir)).map_or(0, |dir| size_of(dir, &mut looks, 64))
}

/// Without following a link or entering a mount. What lies deeper than that is not counted.
fn size_of(dir: OwnedFd, looks: &mut u32, deep: u32) -> u64 {
    let Ok(mut listing) = nix::dir::Dir::from_fd(dir) else {
        return 0;
    };
    let mut below = Vec::new();
    let mut bytes = 0;
    let own = listing.as_fd().try_clone_to_owned();
    let Ok(own) = own else { return 0 };
    for entry in listing.iter().flatten() {
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") || *looks == 0 {
            continue;
        }
        *looks -= 1;
        let Ok(stat) = fstatat(&own, name, AtFlags::AT_SYMLINK_NOFOLLOW) else {
            continue;
        };
        bytes += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
        if SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR && deep > 0 {
            below.push(name.to_owned());
        }
    }
    for name in below {
        let name = OsStr::from_bytes(name.to_bytes());
        if let Ok(dir) = open_distrusted(own.as_fd(), name, OFlag::O_RDONLY | OFlag::O_DIRECTORY) {
            bytes += size_of(dir, looks, deep - 1);
        }
    }
    bytes
}

/// Above the places of all jobs, where nobody says otherwise: beside the records, since their directory lets nobody in.
#[must_use]
pub fn beside(records: &Path) -> PathBuf {
    let mut base = records.as_os_str().to_owned();
    base.push("-guests");
    base.into()
}

/// The jobs whose places there were made in an earlier boot, and not touched since. A record is made before the place and removed after it, so
/// one without a record is nobody's then. In this boot it may be a job's whose record lies where the caller does not look.
#[must_use]
pub fn of_earlier_boots(base: &Path) -> Vec<JobId> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let boot = now.saturating_sub(boot_time()).as_secs();
    let listed = std::fs::read_dir(base).into_iter().flatten().flatten();
    let old = listed.filter(|entry| {
        let changed = entry.metadata().map(|meta| meta.ctime());
        changed.is_ok_and(|changed| u64::try_from(changed).is_ok_and(|changed| changed < boot))
    });
    let ids = old.filter_map(|entry| entry.file_name().to_str()?.parse::<JobId>().ok());
    ids.filter(JobId::is_generated).collect()
}

/// What such a place takes on the disk.
#[must_use]
pub fn size_of_orphan(base: &Path, id: &JobId) -> u64 {
    open_dir(&base.join(id.as_str())).map_or(0, |dir| size_of(dir, &mut { MOST_LOOKS }, 64))
}

/// Removes a place that is nobody's: the bytes that it took.
///
/// # Errors
/// What was in the way.
pub fn remove_orphan(base: &Path, id: &JobId) -> Result<u64> {
    let dir = base.join(id.as_str());
    let bytes = size_of_orphan(base, id);
    remove_tree(&dir, Instant::now() + Duration::from_secs(300))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_on_another_file_system_is_known() {
        let proc = open_dir(Path::new("/proc")).unwrap();
        let is_on = |path| is_on(proc.as_fd(), Path::new(path)).unwrap();
        assert!(is_on("/proc/self"));
        assert!(!is_on("/") && !is_on("/proc/none"));
    }
}
