//! What a step hands on to later ones: a directory of the job on a tmpfs, with the files that `JOBCAGE_ENV` and
//! `JOBCAGE_PATH` name.
//!
//! ```text
//! <runtime>.env/    ours, 0711: the job's user passes through; /dev/shm/jobcage-UID.env if the former is no tmpfs
//!   <job>/          0700, the job's user's
//!     env  path     0600, the job's user's
//!     remotes        the same, from its first line on: jobs on other hosts
//! ```
//!
//! The job's user may put anything into it and may be hostile. So nothing there is followed, waited for or believed.

mod inside;
mod place;

pub use inside::{append, read_own, remotes_beside};
pub use place::HandedPlace;

use crate::error::{LedgerError, Result};
use jobcage_job::handed::{Handed, HandedFile, WrongLine, wrong_lines};
use jobcage_job::{JobId, JobSpec, RemoteJob, open_remotes};
use jobcage_sys::file::open_distrusted;
use jobcage_sys::sweep;
use jobcage_sys::{Errno, Result as SysResult};
use nix::fcntl::{AT_FDCWD, OFlag};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat};
use nix::sys::uio::pread;
use nix::unistd::{Uid, UnlinkatFlags, fchown, geteuid, read, unlinkat, write};
use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The longest of the two files that is read.
pub const MAX_FILE: usize = 1024 * 1024;

/// The file beside the two in which processes of the job note the jobs that they have on other hosts.
const REMOTES: &str = "remotes";

/// The directory of one job, open.
#[derive(Debug)]
pub struct HandedDir {
    dir: OwnedFd,
    path: PathBuf,
    uid: u32,
}

/// What was found in it.
#[derive(Debug, Default)]
pub struct Reading {
    /// What was handed on.
    pub handed: Handed,
    /// Lines that were skipped.
    pub wrong: Vec<WrongLine>,
    /// Why a whole file was ignored.
    pub ignored: Vec<String>,
    /// Whether the last line of a file was not ended ([`HandedDir::end_lines`]).
    pub has_open_line: bool,
}

impl Reading {
    /// For the report: what was ignored, without any value.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        [self.ignored.clone(), wrong_lines(&self.wrong)].concat()
    }
}

impl HandedDir {
    /// Opens the directory of a job, to read what its steps have handed on so far.
    ///
    /// # Errors
    /// If it is gone, or is not what was made.
    pub fn open(path: &Path, uid: u32) -> Result<Self> {
        let failed = |errno| LedgerError::io("open", path, errno);
        let dir = open_dir(path).map_err(failed)?;
        Ok(Self {
            dir,
            path: path.into(),
            uid,
        })
    }

    /// The variables by which a step finds the files.
    #[must_use]
    pub fn variables(&self) -> Vec<CString> {
        let entry = |file: HandedFile| {
            let mut text = format!("{}=", file.variable()).into_bytes();
            text.extend(self.path.join(file.name()).as_os_str().as_bytes());
            CString::new(text).ok()
        };
        HandedFile::BOTH.into_iter().filter_map(entry).collect()
    }

    /// Ends the last line of a file whose writer has not, so that the next one begins a line of its own.
    pub fn end_lines(&self) {
        for file in HandedFile::BOTH {
            // What cannot be ended so is a wrong line to a later reader, who tells.
            let _ = end_line(self.dir.as_fd(), file.name(), self.uid);
        }
    }

    /// The jobs on other hosts that this one has noted and not seen the end of, and how many lines were skipped.
    ///
    /// # Errors
    /// Why the file is ignored.
    pub fn remotes(&self) -> std::result::Result<(Vec<RemoteJob>, usize), String> {
        // Most jobs have none.
        let text = read_if_there(self.dir.as_fd(), REMOTES, self.uid)?;
        Ok(text.map(|text| open_remotes(&text)).unwrap_or_default())
    }

    /// Reads what was handed on so far. A file that cannot be read is ignored as a whole.
    #[must_use]
    pub fn read(&self) -> Reading {
        let mut ignored = Vec::new();
        let mut text = |file: HandedFile| {
            read_file(self.dir.as_fd(), file.name(), self.uid).unwrap_or_else(|why| {
                ignored.push(format!("{} is ignored: {why}", file.variable()));
                Vec::new()
            })
        };
        let (env, path) = (text(HandedFile::Env), text(HandedFile::Path));
        let (handed, wrong) = Handed::parse(&env, &path);
        let is_open = |text: &[u8]| text.last().is_some_and(|last| *last != b'\n');
        Reading {
            has_open_line: is_open(&env) || is_open(&path),
            handed,
            wrong,
            ignored,
        }
    }
}

/// The directory, by way of ours above it.
fn open_dir(path: &Path) -> SysResult<OwnedFd> {
    let (base, name) = split(path)?;
    open_distrusted(
        open_base(base)?.as_fd(),
        name,
        OFlag::O_RDONLY | OFlag::O_DIRECTORY,
    )
}

/// `<base>/<job>`. Everything above the base is the host's, whose links are as good as its directories.
fn split(path: &Path) -> SysResult<(&Path, &OsStr)> {
    path.parent().zip(path.file_name()).ok_or(Errno::EINVAL)
}

fn open_base(base: &Path) -> SysResult<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let dir = nix::fcntl::open(base, flags, Mode::empty())?;
    if is_ours(&fstat(&dir)?) {
        Ok(dir)
    } else {
        Err(Errno::EPERM)
    }
}

/// Whether only we can change a directory.
fn is_ours(stat: &FileStat) -> bool {
    stat.st_uid == geteuid().as_raw() && stat.st_mode & 0o022 == 0
}

fn is_regular(stat: &FileStat) -> bool {
    SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) == SFlag::S_IFREG
}

/// A regular file of this user, whole; else why not.
fn read_file(dir: BorrowedFd<'_>, name: &str, uid: u32) -> std::result::Result<Vec<u8>, String> {
    read_if_there(dir, name, uid)?.ok_or_else(|| "the file is gone".into())
}

fn read_if_there(dir: BorrowedFd<'_>, name: &str, uid: u32) -> std::result::Result<Option<Vec<u8>>, String> {
    let told = |errno| match errno {
        Errno::ELOOP => "it is a symbolic link".to_owned(),
        errno => format!("it cannot be read: {}", errno.desc()),
    };
    let file = match open_distrusted(dir, name, OFlag::O_RDONLY) {
        Err(Errno::ENOENT) => return Ok(None),
        other => other.map_err(told)?,
    };
    let stat = fstat(&file).map_err(told)?;
    if !is_regular(&stat) {
        return Err("it is no regular file".into());
    }
    // A hard link to a file of somebody else's would be read with our rights.
    if stat.st_uid != uid {
        return Err(format!(
            "it belongs to uid {}, and the job is uid {uid}'s",
            stat.st_uid
        ));
    }
    let text = read_at_most(file.as_fd(), MAX_FILE).map_err(told)?;
    text.map(Some).ok_or_else(|| "it is larger than 1 MiB".into())
}

fn end_line(dir: BorrowedFd<'_>, name: &str, uid: u32) -> SysResult<()> {
    let file = open_distrusted(dir, name, OFlag::O_RDWR | OFlag::O_APPEND)?;
    let stat = fstat(&file)?;
    let mut last = [b'\n'];
    if is_regular(&stat) && stat.st_uid == uid && stat.st_size > 0 {
        pread(&file, &mut last, stat.st_size - 1)?;
    }
    if last == [b'\n'] {
        return Ok(());
    }
    write(&file, b"\n").map(drop)
}

/// `None`: there is more. By reading, since a file may grow after it was measured.
fn read_at_most(file: BorrowedFd<'_>, most: usize) -> SysResult<Option<Vec<u8>>> {
    let mut text = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        match read(file, &mut chunk) {
            Ok(0) => return Ok(Some(text)),
            Ok(n) if text.len() + n > most => return Ok(None),
            Ok(n) => text.extend_from_slice(&chunk[..n]),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// Removes the directory of a job that is over, if it has one. Can be repeated.
///
/// # Errors
/// What was in the way; then something of it is left.
pub fn remove(spec: &JobSpec) -> Result<()> {
    let Some(path) = spec.state_dir.as_deref().map(Path::new) else {
        return Ok(());
    };
    let mut done = remove_dir(path);
    // A want of memory or descriptors may be over; a hostile process that fills it again is not.
    for _ in 0..2 {
        if matches!(done, Ok(()) | Err(Errno::ETIMEDOUT)) {
            break;
        }
        done = remove_dir(path);
    }
    done.map_err(|errno| LedgerError::io("remove", path, errno))
}

/// A process that got out of the cage might fill it as fast as we empty it.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);

fn remove_dir(path: &Path) -> SysResult<()> {
    let (place, name) = split(path)?;
    let base = match open_base(place) {
        // After a reboot.
        Err(Errno::ENOENT) => return Ok(()),
        other => other?,
    };
    sweep::remove(base.as_fd(), name, PATIENCE)?;
    // The place goes with the last job that has one there; for as long as it is not empty, this is refused.
    let _ = unlinkat(AT_FDCWD, place, UnlinkatFlags::RemoveDir);
    Ok(())
}

/// Whether the recorded directory can be this job's.
pub(crate) fn is_of(path: &str, id: &JobId) -> bool {
    let path = Path::new(path);
    path.is_absolute() && path.file_name().is_some_and(|name| name == id.as_str())
}

/// Gives a new file or directory to the job's user.
fn give(file: BorrowedFd<'_>, uid: u32) -> SysResult<()> {
    if geteuid().as_raw() == uid {
        return Ok(());
    }
    fchown(file, Some(Uid::from_raw(uid)), None)
}

#[cfg(test)]
mod tests;
