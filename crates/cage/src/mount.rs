//! Where cgroup2 is mounted, and where a process stands in it.

use crate::error::{CageError, Result};
use jobcage_sys::{Errno, file};
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use std::ffi::CString;
use std::path::{Path, PathBuf};

/// A mount of cgroup2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Its mount point.
    pub point: PathBuf,
    /// Whether cgroup v1 hierarchies stand beside it: then it has core files, but controllers may be bound there.
    pub hybrid: bool,
}

impl Mount {
    /// Finds the mount: the two usual places by one statfs(2) each, and only then through mountinfo, which is long.
    ///
    /// # Errors
    /// [`CageError::NoRoot`] if there is none.
    pub fn find() -> Result<Self> {
        let usual = Path::new("/sys/fs/cgroup");
        if is_cgroup2(usual) {
            return Ok(Self {
                point: usual.into(),
                hybrid: false,
            });
        }
        let unified = usual.join("unified");
        if is_cgroup2(&unified) {
            return Ok(Self {
                point: unified,
                hybrid: true,
            });
        }
        let mountinfo = file::read_path(c"/proc/self/mountinfo").unwrap_or_default();
        let points = cgroup2_points(&String::from_utf8_lossy(&mountinfo));
        // One may be hidden by what was mounted over it later.
        points.into_iter().find(|point| is_cgroup2(point)).map(|point| Self { point, hybrid: true }).ok_or_else(|| {
            CageError::NoRoot(
                "no cgroup2 file system is mounted: mount it (\"mount -t cgroup2 none /sys/fs/cgroup\"), or in a \
                 container give it a writable one (docker: --cgroupns=private with a writable /sys/fs/cgroup)"
                    .into(),
            )
        })
    }

    /// The directory of a cgroup as `/proc/PID/cgroup` names it.
    #[must_use]
    pub fn dir_of(&self, cgroup: &str) -> PathBuf {
        self.point.join(cgroup.trim_start_matches('/'))
    }
}

/// Whether a path lies on a cgroup2 file system.
pub(crate) fn is_cgroup2(path: &Path) -> bool {
    statfs(path).is_ok_and(|fs| fs.filesystem_type() == CGROUP2_SUPER_MAGIC)
}

/// The mount points of cgroup2 in the text of `/proc/self/mountinfo`.
fn cgroup2_points(mountinfo: &str) -> Vec<PathBuf> {
    points(mountinfo, "cgroup2 ")
}

/// The points of all mounts that this process sees.
///
/// # Errors
/// As open(2) and read(2) of `/proc/self/mountinfo`.
pub fn mount_points() -> jobcage_sys::Result<Vec<PathBuf>> {
    let mountinfo = file::read_path(c"/proc/self/mountinfo")?;
    Ok(points(&String::from_utf8_lossy(&mountinfo), ""))
}

/// The mount points of file systems whose type begins like this (proc_pid_mountinfo(5)).
fn points(mountinfo: &str, kind: &str) -> Vec<PathBuf> {
    let point = |line: &str| {
        let (before, after) = line.split_once(" - ")?;
        after
            .starts_with(kind)
            .then(|| PathBuf::from(unescape(before.split(' ').nth(4).unwrap_or("/"))))
    };
    mountinfo.lines().filter_map(point).collect()
}

/// Undoes the octal escapes of mountinfo: space, tab, newline and backslash.
fn unescape(text: &str) -> String {
    ["\\040", "\\011", "\\012", "\\134"]
        .iter()
        .zip([" ", "\t", "\n", "\\"])
        .fold(text.to_owned(), |t, (a, b)| t.replace(a, b))
}

/// The cgroup2 path of this process.
///
/// # Errors
/// [`CageError::NoRoot`] where the kernel has no cgroup2.
pub fn own_cgroup() -> Result<String> {
    let text = file::read_path(c"/proc/self/cgroup").unwrap_or_default();
    unified_line(&text)
        .ok_or_else(|| CageError::NoRoot("this process is in no cgroup2: the kernel has none".into()))
}

/// The cgroup2 path of another process; `None`: it is gone.
#[must_use]
pub fn cgroup_of(pid: i32) -> Option<String> {
    let path = CString::new(format!("/proc/{pid}/cgroup")).ok()?;
    match file::read_path(&path) {
        Ok(text) => unified_line(&text),
        Err(Errno::ESRCH | Errno::ENOENT) | Err(_) => None,
    }
}

fn unified_line(text: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(text);
    text.lines()
        .find_map(|line| line.strip_prefix("0::"))
        .map(|path| path.trim_end_matches(" (deleted)").to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_an_unusual_mount() {
        let text =
            "22 1 0:20 / /proc rw - proc proc rw\n41 31 0:38 / /mnt/my\\040groups rw,nosuid - cgroup2 c rw\n";
        assert_eq!(cgroup2_points(text), [PathBuf::from("/mnt/my groups")]);
        assert!(cgroup2_points("22 1 0:20 / /x rw - cgroup cgroup rw,cpu\n").is_empty());
        assert_eq!(points(text, "").len(), 2);
    }

    #[test]
    fn takes_the_unified_line_of_many() {
        assert_eq!(
            unified_line(b"4:memory:/a\n0::/b/c (deleted)\n").as_deref(),
            Some("/b/c")
        );
        assert_eq!(unified_line(b"4:memory:/a\n"), None);
    }
}
