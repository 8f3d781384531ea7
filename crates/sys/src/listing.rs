//! The names in a directory, without libc's directory streams: those take memory of their own for each listing, and a call
//! that is over in a millisecond should not.

use crate::{Errno, Result};
use nix::fcntl::AtFlags;
use nix::libc;
use nix::sys::stat::{SFlag, fstatat};
use std::ffi::{CStr, OsStr};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

/// The parts of a `linux_dirent64` before its name (getdents64(2)): inode and offset, length of the entry, type.
const LENGTH: std::ops::Range<usize> = 16..18;
const KIND: usize = 18;
const NAME: usize = 19;

/// Hands over each name in the directory that begins with `start`, if it is that of a directory. In no order; `.` and `..` are
/// not among them. To be read from its beginning, so `dir` is freshly opened.
///
/// # Errors
/// As getdents64(2): what was handed over until then is not all.
pub fn directories(dir: BorrowedFd<'_>, start: &[u8], mut found: impl FnMut(&OsStr)) -> Result<()> {
    let mut buffer = [0_u8; 4096];
    loop {
        let filled = read(dir, &mut buffer)?;
        if filled == 0 {
            return Ok(());
        }
        // Thousands, of which one is wanted: only its name is looked at as a whole.
        let entries = Entries(&buffer[..filled]).filter(|(_, name)| name.starts_with(start));
        for (kind, name) in entries {
            let Ok(name) = CStr::from_bytes_until_nul(name) else {
                continue;
            };
            let name = OsStr::from_bytes(name.to_bytes());
            if name != "." && name != ".." && is_directory(dir, name, kind) {
                found(name);
            }
        }
    }
}

fn read(dir: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<usize> {
    // SAFETY: the kernel writes at most as many bytes as it is told that there are.
    let filled = unsafe {
        libc::syscall(
            libc::SYS_getdents64,
            dir.as_raw_fd(),
            buffer.as_mut_ptr(),
            buffer.len(),
        )
    };
    Errno::result(filled).map(|filled| usize::try_from(filled).unwrap_or(0))
}

/// Some file systems do not say what an entry is.
fn is_directory(dir: BorrowedFd<'_>, name: &OsStr, kind: u8) -> bool {
    match kind {
        libc::DT_DIR => true,
        libc::DT_UNKNOWN => fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW)
            .is_ok_and(|stat| SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR),
        _ => false,
    }
}

/// Type and name of each entry in what the kernel has written; behind the name a NUL, and what the next entry is aligned by.
struct Entries<'a>(&'a [u8]);

impl<'a> Iterator for Entries<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = self.0.get(LENGTH)?.try_into().map(u16::from_ne_bytes).ok()?;
        let (entry, rest) = self.0.split_at_checked(length.into())?;
        self.0 = rest;
        Some((*entry.get(KIND)?, entry.get(NAME..)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file;
    use std::collections::BTreeSet;
    use std::ffi::OsString;
    use std::os::fd::AsFd;

    #[test]
    fn all_directories_of_a_large_one_are_found_once_and_nothing_else() {
        let place = tempfile::tempdir().unwrap();
        let name = |at: usize| format!("gitlab-{at}-{}", "x".repeat(at % 200));
        for at in 0..700 {
            std::fs::create_dir(place.path().join(name(at))).unwrap();
        }
        std::fs::write(place.path().join("gitlab-file"), "").unwrap();
        std::os::unix::fs::symlink(place.path(), place.path().join("gitlab-link")).unwrap();
        std::fs::create_dir(place.path().join(OsStr::from_bytes(b"gitlab-\xff"))).unwrap();
        std::fs::create_dir(place.path().join("other")).unwrap();
        let dir = file::open_dir(place.path()).unwrap();
        let mut found = Vec::new();
        directories(dir.as_fd(), b"gitlab-", |name| found.push(name.to_owned())).unwrap();
        let expected: BTreeSet<OsString> = (0..700)
            .map(|at| name(at).into())
            .chain([OsStr::from_bytes(b"gitlab-\xff").to_owned()])
            .collect();
        assert_eq!(found.len(), 701);
        assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), expected);
    }

    #[test]
    fn what_is_cut_short_ends_the_list_and_nothing_more() {
        assert_eq!(Entries(&[0; 10]).count(), 0);
        let mut entry = [0_u8; 24];
        entry[LENGTH].copy_from_slice(&200_u16.to_ne_bytes());
        assert_eq!(Entries(&entry).count(), 0);
        entry[LENGTH].copy_from_slice(&24_u16.to_ne_bytes());
        entry[KIND] = libc::DT_DIR;
        entry[NAME] = b'a';
        assert_eq!(
            Entries(&entry).collect::<Vec<_>>(),
            [(libc::DT_DIR, &b"a\0\0\0\0"[..])]
        );
        // A length of nothing would be read for ever.
        entry[LENGTH].copy_from_slice(&0_u16.to_ne_bytes());
        assert_eq!(Entries(&entry).count(), 0);
    }
}
