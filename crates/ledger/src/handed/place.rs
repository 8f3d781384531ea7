//! Where the directories are: on a tmpfs, since what is handed on may be secret and must not reach a disk.

use super::{HandedDir, give, is_ours};
use crate::dirs::Places;
use crate::error::{LedgerError, Result};
use jobcage_job::JobId;
use jobcage_job::handed::HandedFile;
use jobcage_sys::file::open_distrusted;
use jobcage_sys::{Errno, Result as SysResult};
use nix::fcntl::OFlag;
use nix::sys::stat::{Mode, fchmod, fstat, mkdirat};
use nix::sys::statfs::{FsType, TMPFS_MAGIC, fstatfs};
use nix::unistd::geteuid;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Not among nix's; its pages cannot even be swapped out.
const RAMFS_MAGIC: FsType = FsType(0x8584_58f6);

/// How often a place is made again that others take away.
const TRIES: u32 = 20;

/// The directory that holds those of the jobs.
#[derive(Debug)]
pub struct HandedPlace {
    dir: OwnedFd,
    pub(super) path: PathBuf,
}

impl HandedPlace {
    /// Finds, or makes, the place for a job of this user.
    ///
    /// # Errors
    /// Why there is none, for the report.
    pub fn choose(places: &Places, uid: u32) -> std::result::Result<Self, String> {
        let ours = geteuid();
        let beside = places.runtime.with_added_extension("env");
        // Whoever else makes it first is found out by its owner, and then nothing is handed on: a name that nobody can
        // guess would not be found by gc.
        let shared = Path::new("/dev/shm").join(format!("jobcage-{ours}.env"));
        let mut reasons = Vec::new();
        for path in [beside, shared] {
            match open(&path, uid) {
                Ok(dir) => return Ok(Self { dir, path }),
                Err(why) => reasons.push(format!("{}: {why}", path.display())),
            }
        }
        Err(format!(
            "nothing is handed from step to step, since there is no place in memory for it ({})",
            reasons.join("; ")
        ))
    }

    /// Where the directory of this job is, or will be: to be written down before it is made.
    #[must_use]
    pub fn of(&self, id: &JobId) -> PathBuf {
        self.path.join(id.as_str())
    }

    /// Makes the directory of a job and its two files, and gives them to its user.
    ///
    /// # Errors
    /// What the file system answers.
    pub fn make(&self, id: &JobId, uid: u32) -> Result<HandedDir> {
        let path = self.of(id);
        let mut made = make(self.dir.as_fd(), id, uid);
        // The last job that had one here has taken the place away.
        for _ in 0..TRIES {
            let Err(Errno::ENOENT) = made else { break };
            if let Ok(place) = open(&self.path, uid) {
                made = make(place.as_fd(), id, uid);
            }
        }
        let dir = made.map_err(|errno| LedgerError::io("make", &path, errno))?;
        Ok(HandedDir { dir, path, uid })
    }
}

fn make(place: BorrowedFd<'_>, id: &JobId, uid: u32) -> SysResult<OwnedFd> {
    mkdirat(place, id.as_str(), Mode::S_IRWXU)?;
    let dir = open_distrusted(place, id.as_str(), OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
    for file in HandedFile::BOTH {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL;
        give(open_distrusted(dir.as_fd(), file.name(), flags)?.as_fd(), uid)?;
    }
    // Last: until now nobody else could put anything there.
    give(dir.as_fd(), uid)?;
    Ok(dir)
}

fn open(path: &Path, uid: u32) -> std::result::Result<OwnedFd, String> {
    let told = |errno: Errno| errno.desc().to_owned();
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err("it has no directory above it".into());
    };
    let above = jobcage_sys::file::open_dir(parent).map_err(told)?;
    // Asked before anything is made: a directory on a disk is nothing to leave there.
    if !is_memory(&above).map_err(told)? {
        return Err(format!("{} is no tmpfs", parent.display()));
    }
    let mode = fstat(&above).map_err(told)?.st_mode;
    if mode & 0o1002 == 0o002 {
        return Err(format!("everybody may rename it in {}", parent.display()));
    }
    if !can_pass(parent, uid) {
        return Err(format!("uid {uid} cannot pass {}", parent.display()));
    }
    let dir = make_or_open(&above, name).map_err(told)?;
    let stat = fstat(&dir).map_err(told)?;
    if !is_ours(&stat) {
        return Err(format!(
            "it is there already, and uid {} or others may write to it",
            stat.st_uid
        ));
    }
    if !is_memory(&dir).map_err(told)? {
        return Err("it is no tmpfs".into());
    }
    // Root's jobs may be of any user; those of a user are his own.
    let wanted = if geteuid().is_root() { 0o711 } else { 0o700 };
    if stat.st_mode & 0o7777 != wanted {
        fchmod(&dir, Mode::from_bits_truncate(wanted)).map_err(told)?;
    }
    Ok(dir)
}

fn make_or_open(above: &OwnedFd, name: &OsStr) -> SysResult<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut tries = 0;
    loop {
        match mkdirat(above, name, Mode::S_IRWXU) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(errno),
        }
        match nix::fcntl::openat(above, name, flags, Mode::empty()) {
            // Taken away in between, as in `make`.
            Err(Errno::ENOENT) if tries < TRIES => tries += 1,
            other => return other,
        }
    }
}

fn is_memory(dir: &OwnedFd) -> SysResult<bool> {
    let kind = fstatfs(dir)?.filesystem_type();
    Ok(kind == TMPFS_MAGIC || kind == RAMFS_MAGIC)
}

/// Whether a user gets through all directories up to this one, as far as their modes tell.
fn can_pass(dir: &Path, uid: u32) -> bool {
    let passes = |dir: &Path| {
        std::fs::metadata(dir)
            .is_ok_and(|stat| stat.mode() & 0o001 != 0 || stat.uid() == uid && stat.mode() & 0o100 != 0)
    };
    uid == geteuid().as_raw() || dir.ancestors().all(passes)
}
