//! A configuration file is replaced as a whole, by one with the same mode and owner, and the old one stays beside it.

use super::InstallError;
use jobcage_sys::file::{open_dir, open_distrusted, read_to_end, write_all};
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, fsync, unlinkat};
use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// What stands behind the name of the file that is kept; a number follows where that is taken.
const BACKUP: &str = ".jobcage-backup";
/// More old files than this are kept by nobody.
const MOST_BACKUPS: u32 = 1000;
/// No configuration is larger.
pub const MOST: u64 = 64 << 20;

/// A file as it was read.
pub struct Original {
    dir: OwnedFd,
    path: PathBuf,
    name: OsString,
    stat: FileStat,
    content: Vec<u8>,
}

impl Original {
    /// Reads a file. Its name must be its own: of a link only one of two could be meant.
    ///
    /// # Errors
    /// If it cannot be read, is a link, a mount or no file.
    pub fn read(path: &Path) -> Result<Self, InstallError> {
        let failed = |errno: Errno| unreadable(path, errno);
        let name = path.file_name().ok_or(Errno::EISDIR).map_err(failed)?.to_owned();
        let parent = path.parent().filter(|dir| !dir.as_os_str().is_empty());
        let dir = open_dir(parent.unwrap_or(Path::new("."))).map_err(failed)?;
        let (stat, content) = read_at(&dir, &name).map_err(failed)?;
        Ok(Self {
            dir,
            path: path.to_owned(),
            name,
            stat,
            content,
        })
    }

    /// What is in it.
    ///
    /// # Errors
    /// If it is no text.
    pub fn text(&self) -> Result<&str, InstallError> {
        std::str::from_utf8(&self.content).map_err(|e| InstallError::Toml {
            line: 1 + self.content[..e.valid_up_to()]
                .iter()
                .filter(|b| **b == b'\n')
                .count(),
            why: "this is no UTF-8".into(),
        })
    }

    /// Replaces it; the path of what was kept. A reader, or a crash at any moment, finds the old file or the new one.
    ///
    /// # Errors
    /// If that cannot be done, or somebody has changed the file since it was read. It is untouched then.
    pub fn replace(&self, text: &str) -> Result<PathBuf, InstallError> {
        let failed = |what: &'static str| {
            move |errno: Errno| InstallError::Write {
                what,
                path: self.path.clone(),
                source: errno.into(),
            }
        };
        let backup = self
            .keep()
            .map_err(failed("keep the old file beside it as .jobcage-backup of"))?;
        let replaced = self.put(text).map_err(failed("replace")).and_then(|done| {
            done.then_some(())
                .ok_or_else(|| InstallError::Changed(self.path.clone()))
        });
        if let Err(error) = replaced {
            // It is as new as the error: nothing was replaced, so there is nothing to keep.
            let _ = unlinkat(&self.dir, backup.as_os_str(), UnlinkatFlags::NoRemoveDir);
            return Err(error);
        }
        fsync(&self.dir).map_err(|errno| InstallError::Unsynced {
            path: self.path.clone(),
            source: errno.into(),
        })?;
        Ok(self.path.with_file_name(backup))
    }

    /// Writes what was read beside it, under a name that nobody has.
    fn keep(&self) -> nix::Result<OsString> {
        for number in 0..MOST_BACKUPS {
            let mut name = self.name.clone();
            name.push(BACKUP);
            if number > 0 {
                name.push(format!("-{number}"));
            }
            match self.write_new(&name, &self.content) {
                Err(Errno::EEXIST) => {}
                other => return other.map(|()| name),
            }
        }
        Err(Errno::EEXIST)
    }

    /// Puts the new text in its place; `false`: what stands there is not what was read.
    fn put(&self, text: &str) -> nix::Result<bool> {
        let mut unfinished = OsString::from(".");
        unfinished.push(&self.name);
        unfinished.push(format!(".jobcage-{}", std::process::id()));
        self.write_new(&unfinished, text.as_bytes())?;
        let result = match self.is_unchanged() {
            Ok(true) => renameat(
                &self.dir,
                unfinished.as_os_str(),
                &self.dir,
                self.name.as_os_str(),
            )
            .map(|()| true),
            other => other,
        };
        if !matches!(result, Ok(true)) {
            let _ = unlinkat(&self.dir, unfinished.as_os_str(), UnlinkatFlags::NoRemoveDir);
        }
        result
    }

    fn is_unchanged(&self) -> nix::Result<bool> {
        match read_at(&self.dir, &self.name) {
            Ok((stat, content)) => {
                let same = (stat.st_dev, stat.st_ino) == (self.stat.st_dev, self.stat.st_ino);
                Ok(same && content == self.content)
            }
            // It is gone, or a link is there now.
            Err(Errno::ENOENT | Errno::ELOOP | Errno::EISDIR) => Ok(false),
            Err(errno) => Err(errno),
        }
    }

    /// A file of this content, with the original's mode and owner; nothing of it is left where that fails.
    fn write_new(&self, name: &OsString, content: &[u8]) -> nix::Result<()> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = openat(&self.dir, name.as_os_str(), flags, Mode::S_IRUSR | Mode::S_IWUSR)?;
        let written = fchown(
            &file,
            Some(Uid::from_raw(self.stat.st_uid)),
            Some(Gid::from_raw(self.stat.st_gid)),
        )
        .and_then(|()| fchmod(&file, Mode::from_bits_truncate(self.stat.st_mode & 0o7777)))
        .and_then(|()| write_all(file.as_fd(), content))
        .and_then(|()| fsync(&file));
        if written.is_err() {
            let _ = unlinkat(&self.dir, name.as_os_str(), UnlinkatFlags::NoRemoveDir);
        }
        written
    }
}

fn read_at(dir: &OwnedFd, name: &OsString) -> nix::Result<(FileStat, Vec<u8>)> {
    let file = open_distrusted(dir.as_fd(), name, OFlag::O_RDONLY)?;
    let stat = fstat(&file)?;
    if SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) != SFlag::S_IFREG {
        return Err(Errno::EISDIR);
    }
    if u64::try_from(stat.st_size).is_ok_and(|size| size > MOST) {
        return Err(Errno::EFBIG);
    }
    Ok((stat, read_to_end(file.as_fd())?))
}

fn unreadable(path: &Path, errno: Errno) -> InstallError {
    let why = match errno {
        Errno::ELOOP => match std::fs::read_link(path) {
            Ok(target) => format!("it is a symbolic link to {target:?}; name the file itself"),
            Err(_) => "it is a symbolic link; name the file itself".into(),
        },
        Errno::EXDEV => "it is a mount of its own, which cannot be replaced".into(),
        Errno::EISDIR => "it is no regular file".into(),
        errno => std::io::Error::from(errno).to_string(),
    };
    InstallError::Read {
        path: path.to_owned(),
        why,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

    fn file(content: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        (dir, path)
    }

    fn names(dir: &tempfile::TempDir) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn an_older_backup_is_never_overwritten() {
        let (dir, path) = file("one");
        for (old, new) in [("one", "two"), ("two", "three")] {
            let kept = Original::read(&path).unwrap().replace(new).unwrap();
            assert_eq!(fs::read_to_string(&kept).unwrap(), old);
            assert_eq!(fs::read_to_string(&path).unwrap(), new);
            for file in [&kept, &path] {
                assert_eq!(fs::metadata(file).unwrap().mode() & 0o7777, 0o640);
            }
        }
        assert_eq!(
            names(&dir),
            [
                "config.toml",
                "config.toml.jobcage-backup",
                "config.toml.jobcage-backup-1"
            ]
        );
    }

    #[test]
    fn what_was_changed_meanwhile_stays_as_it_is() {
        let changes: [fn(&Path); 4] = [
            |path| fs::write(path, "other").unwrap(),
            |path| fs::remove_file(path).unwrap(),
            |path| {
                // The same bytes in another file, as an editor leaves them.
                fs::write(path.with_extension("new"), "one").unwrap();
                fs::rename(path.with_extension("new"), path).unwrap();
            },
            |path| {
                let other = path.with_extension("other");
                fs::rename(path, &other).unwrap();
                symlink(&other, path).unwrap();
            },
        ];
        for change in changes {
            let (dir, path) = file("one");
            let original = Original::read(&path).unwrap();
            change(&path);
            let before = names(&dir);
            let error = original.replace("two").unwrap_err();
            assert!(matches!(error, InstallError::Changed(_)), "{error}");
            assert_eq!(names(&dir), before, "nothing of ours is left");
            assert_ne!(fs::read_to_string(&path).ok().as_deref(), Some("two"));
        }
    }

    #[test]
    fn what_is_no_file_of_its_own_is_not_read() {
        let (dir, path) = file("one");
        let link = dir.path().join("link");
        symlink(&path, &link).unwrap();
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, Mode::S_IRWXU).unwrap();
        for (path, why) in [
            (link.as_path(), "symbolic link"),
            (&fifo, "no regular file"),
            (dir.path(), "no regular file"),
            (Path::new("/"), "no regular file"),
            (&dir.path().join("missing"), "No such file"),
        ] {
            let Err(error) = Original::read(path) else {
                panic!("{path:?}")
            };
            assert!(error.to_string().contains(why), "{path:?}: {error}");
        }
    }
}
