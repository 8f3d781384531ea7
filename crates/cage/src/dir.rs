//! One cgroup directory, held open: every access is relative to the descriptor, so no path can be exchanged under us.

use crate::error::{CageError, Result};
use jobcage_sys::{Errno, file};
use nix::dir::Dir as Listing;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{Mode, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// An open cgroup directory and the path by which it was found, for messages.
#[derive(Debug)]
pub struct Dir {
    fd: OwnedFd,
    path: PathBuf,
}

impl Dir {
    /// Opens a cgroup directory by its absolute path.
    ///
    /// # Errors
    /// As openat(2).
    pub fn open(path: &Path) -> Result<Self> {
        let fd = file::open_dir(path).map_err(|errno| CageError::io("open the cgroup", path, errno))?;
        Ok(Self {
            fd,
            path: path.into(),
        })
    }

    /// Opens a child cgroup.
    ///
    /// # Errors
    /// As openat(2).
    pub fn child(&self, name: impl AsRef<OsStr>) -> Result<Self> {
        let name = name.as_ref();
        let path = self.path.join(name);
        let fd = file::open_dir_at(self.fd(), name)
            .map_err(|errno| CageError::io("open the cgroup", &path, errno))?;
        Ok(Self { fd, path })
    }

    /// Opens the cgroup above it.
    ///
    /// # Errors
    /// As openat(2).
    pub(crate) fn above(&self) -> Result<Self> {
        let path = self.path.parent().unwrap_or(&self.path).to_owned();
        let fd = file::open_dir_at(self.fd(), "..")
            .map_err(|errno| CageError::io("open the cgroup", &path, errno))?;
        Ok(Self { fd, path })
    }

    /// Makes a child cgroup that must not exist yet.
    ///
    /// # Errors
    /// As mkdirat(2).
    pub fn create(&self, name: &str) -> Result<Self> {
        self.make(name)?;
        self.child(name)
    }

    /// Makes a child cgroup, or opens it if it is there.
    ///
    /// # Errors
    /// As mkdirat(2), without `EEXIST`.
    pub fn create_or_open(&self, name: &str) -> Result<Self> {
        match self.make(name) {
            Ok(()) => {}
            Err(error) if error.errno() == Some(Errno::EEXIST) => {}
            Err(error) => return Err(error),
        }
        self.child(name)
    }

    /// Whether there is such a child cgroup now.
    #[must_use]
    pub fn has_child(&self, name: &str) -> bool {
        fstatat(self.fd(), name, AtFlags::AT_SYMLINK_NOFOLLOW).is_ok()
    }

    fn make(&self, name: &str) -> Result<()> {
        mkdirat(self.fd(), name, Mode::from_bits_truncate(0o755))
            .map_err(|errno| CageError::io(format!("make the cgroup {name:?}"), &self.path, errno))
    }

    /// Removes an empty child cgroup. One that is gone already is fine.
    ///
    /// # Errors
    /// As rmdir(2), without `ENOENT`: `EBUSY` while a process is in it or cgroups are below it.
    pub fn remove_child(&self, name: impl AsRef<OsStr>) -> Result<()> {
        let name = name.as_ref();
        match unlinkat(self.fd(), name, UnlinkatFlags::RemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(errno) => Err(CageError::io(
                format!("remove the cgroup {name:?}"),
                &self.path,
                errno,
            )),
        }
    }

    /// Reads one of its files. `ENODEV` (a descriptor of a removed cgroup) counts as `ENOENT`.
    ///
    /// # Errors
    /// As openat(2) and read(2).
    pub fn read(&self, name: &str) -> std::result::Result<String, Errno> {
        match file::read_at(self.fd(), name) {
            Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Err(Errno::ENODEV) => Err(Errno::ENOENT),
            Err(errno) => Err(errno),
        }
    }

    /// Writes one of its files.
    ///
    /// # Errors
    /// As openat(2) and write(2). `ENODEV` counts as `ENOENT`.
    pub fn write(&self, name: &str, value: &str) -> std::result::Result<(), Errno> {
        match file::write_at(self.fd(), name, value.as_bytes()) {
            Err(Errno::ENODEV) => Err(Errno::ENOENT),
            other => other,
        }
    }

    /// The names of its child cgroups. A job may have made them, so they are bytes, not text.
    ///
    /// # Errors
    /// As getdents64(2).
    pub fn children(&self) -> std::result::Result<Vec<OsString>, Errno> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let mut names = Vec::new();
        let mut listing = match Listing::openat(self.fd(), ".", flags, Mode::empty()) {
            // A removed cgroup has no children.
            Err(Errno::ENOENT) => return Ok(names),
            other => other?,
        };
        for entry in listing.iter() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if entry.file_type() == Some(nix::dir::Type::Directory) && name != b"." && name != b".." {
                names.push(OsString::from_vec(name.to_vec()));
            }
        }
        Ok(names)
    }

    /// Its descriptor.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The path by which it was found.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}
