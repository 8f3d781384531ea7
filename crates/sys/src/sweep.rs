//! Emptying a directory that a hostile user could fill: trees of any depth, names of any bytes, directories without
//! rights, links to anywhere, mounts.

use crate::file::open_distrusted;
use crate::{Errno, Result};
use nix::fcntl::{AT_FDCWD, OFlag, renameat};
use nix::sys::stat::{FchmodatFlags, Mode, fchmodat};
use nix::unistd::{UnlinkatFlags, fchown, geteuid, unlinkat};
use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

/// Opens a directory that is to be removed, and makes it ours alone: from then on nobody else can put anything there.
///
/// # Errors
/// As openat2(2): `ELOOP` for a symbolic link, `EXDEV` for a mount.
pub fn take(parent: BorrowedFd<'_>, name: &OsStr) -> Result<OwnedFd> {
    let found = open_distrusted(parent, name, OFlag::O_PATH | OFlag::O_DIRECTORY)?;
    // A descriptor of a path alone takes no fchmod; by this way it is the same directory, wherever its name leads now.
    let itself = format!("/proc/self/fd/{}", found.as_raw_fd());
    // Where these two are not allowed, what follows says whether they were needed.
    let _ = fchmodat(
        AT_FDCWD,
        itself.as_str(),
        Mode::S_IRWXU,
        FchmodatFlags::FollowSymlink,
    );
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let dir = nix::fcntl::open(itself.as_str(), flags, Mode::empty())?;
    if geteuid().is_root() {
        let _ = fchown(&dir, Some(geteuid()), None);
    }
    Ok(dir)
}

/// Removes what has this name: a directory with all that is in it; of a link the link. What is gone already is no failure.
///
/// # Errors
/// As [`take`] and [`sweep`].
pub fn remove(parent: BorrowedFd<'_>, name: &OsStr, patience: Duration) -> Result<()> {
    let entry = CString::new(name.as_bytes()).map_err(|_| Errno::EINVAL)?;
    if unlink(parent, &entry)? {
        return Ok(());
    }
    match take(parent, name) {
        Err(Errno::ENOENT) => return Ok(()),
        dir => sweep(dir?.as_fd(), patience)?,
    }
    match unlinkat(parent, entry.as_c_str(), UnlinkatFlags::RemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Removes everything in it. What lies deeper is first moved to the top, level by level: no depth costs more than two
/// descriptors. A process that got out of its cage might fill it as fast as we empty it, so there is a limit.
///
/// # Errors
/// `ETIMEDOUT` at that limit; otherwise what was in the way, such as `EBUSY` or `EXDEV` for a mount.
pub fn sweep(top: BorrowedFd<'_>, patience: Duration) -> Result<()> {
    let until = Instant::now() + patience;
    let mut moved = 0_u64;
    loop {
        let names = names(top)?;
        if names.is_empty() {
            return Ok(());
        }
        for name in names {
            if Instant::now() > until {
                return Err(Errno::ETIMEDOUT);
            }
            if !unlink(top, &name)? {
                raise(top, &name, &mut moved, until)?;
            }
        }
    }
}

/// `false`: it is a directory that is not empty.
fn unlink(dir: BorrowedFd<'_>, name: &CString) -> Result<bool> {
    match unlinkat(dir, name.as_c_str(), UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => return Ok(true),
        Err(Errno::EISDIR) => {}
        Err(errno) => return Err(errno),
    }
    match unlinkat(dir, name.as_c_str(), UnlinkatFlags::RemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(true),
        Err(Errno::ENOTEMPTY | Errno::EEXIST) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Moves the directories in a directory to the top, and removes the rest of it.
fn raise(top: BorrowedFd<'_>, name: &CString, moved: &mut u64, until: Instant) -> Result<()> {
    let dir = take(top, OsStr::from_bytes(name.as_bytes()))?;
    for child in names(dir.as_fd())? {
        if unlink(dir.as_fd(), &child)? {
            continue;
        }
        // To move a directory is to write its `..`.
        take(dir.as_fd(), OsStr::from_bytes(child.as_bytes()))?;
        loop {
            if Instant::now() > until {
                return Err(Errno::ETIMEDOUT);
            }
            *moved += 1;
            match renameat(&dir, child.as_c_str(), top, format!("{moved}").as_str()) {
                // Somebody has taken that name.
                Err(Errno::ENOTEMPTY | Errno::EEXIST | Errno::ENOTDIR) => {}
                other => break other?,
            }
        }
    }
    unlink(top, name).map(drop)
}

fn names(dir: BorrowedFd<'_>) -> Result<Vec<CString>> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut listing = nix::dir::Dir::openat(dir, ".", flags, Mode::empty())?;
    let mut names = Vec::new();
    for entry in listing.iter() {
        let name = entry?.file_name().to_owned();
        if !matches!(name.as_bytes(), b"." | b"..") {
            names.push(name);
        }
    }
    Ok(names)
}
