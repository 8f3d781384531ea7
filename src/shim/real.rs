//! The program that we stand before: found in `PATH` behind ourselves, and never ourselves again.

use super::form::Name;
use jobcage_job::handed::DEFAULT_PATH;
use nix::unistd::{AccessFlags, access};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The real program.
#[derive(Debug, PartialEq, Eq)]
pub struct Real {
    /// Its file.
    pub file: PathBuf,
    /// `PATH` without us; `None`: there is no `PATH`.
    pub path: Option<OsString>,
}

/// There is no other program of this name.
#[derive(Debug, thiserror::Error)]
#[error(
    "there is no {name} in PATH behind jobcage's own ({path:?}), to which this call would go on; name its directory \
     in PATH, behind that of the shims"
)]
pub struct Missing {
    name: &'static str,
    path: OsString,
}

/// The real program cannot be run.
#[derive(Debug, thiserror::Error)]
#[error("cannot run {}: {source}", file.display())]
pub struct CannotRun {
    file: PathBuf,
    source: std::io::Error,
}

impl CannotRun {
    /// As a shell would have it.
    pub fn exit_code(&self) -> u8 {
        if self.source.kind() == std::io::ErrorKind::NotFound {
            127
        } else {
            126
        }
    }
}

impl Real {
    /// Finds it.
    ///
    /// # Errors
    /// If there is none.
    pub fn find(name: Name) -> Result<Self, Missing> {
        let own = std::fs::metadata("/proc/self/exe").map(|meta| (meta.dev(), meta.ino()));
        Self::find_in(std::env::var_os("PATH"), name, own.ok())
    }

    /// Only what stands behind us counts: two shims of different installations would call each other for ever.
    fn find_in(path: Option<OsString>, name: Name, own: Option<(u64, u64)>) -> Result<Self, Missing> {
        let searched = path.clone().unwrap_or_else(|| DEFAULT_PATH.into());
        let dirs: Vec<PathBuf> = split(&searched).map(PathBuf::from).collect();
        let is_ours = |dir: &Path, name: Name| is_jobcage(&in_dir(dir, name), own);
        let here = dirs.iter().position(|dir| is_ours(dir, name));
        let behind = &dirs[here.map_or(0, |at| at + 1)..];
        let found = behind
            .iter()
            .map(|dir| in_dir(dir, name))
            .find(|file| file.is_file() && access(file, AccessFlags::X_OK).is_ok() && !is_jobcage(file, own));
        let Some(file) = found else {
            return Err(Missing {
                name: name.as_str(),
                path: searched,
            });
        };
        let is_kept = |dir: &&OsStr| !Name::ALL.iter().any(|name| is_ours(Path::new(dir), *name));
        Ok(Self {
            file,
            path: path.map(|path| join(split(&path).filter(is_kept))),
        })
    }

    /// Becomes it, with these words, our environment and our files; returns only if that fails.
    pub fn become_it(&self, words: &[OsString]) -> CannotRun {
        let mut command = Command::new(&self.file);
        if let Some((first, rest)) = words.split_first() {
            command.arg0(first).args(rest);
        }
        CannotRun {
            file: self.file.clone(),
            source: command.exec(),
        }
    }
}

/// Entry by entry, as they are written: an empty one is the working directory.
fn split(path: &OsStr) -> impl Iterator<Item = &OsStr> {
    path.as_bytes().split(|b| *b == b':').map(OsStr::from_bytes)
}

fn join<'a>(dirs: impl Iterator<Item = &'a OsStr>) -> OsString {
    dirs.collect::<Vec<_>>().join(OsStr::new(":"))
}

fn in_dir(dir: &Path, name: Name) -> PathBuf {
    let dir = if dir.as_os_str().is_empty() {
        Path::new(".")
    } else {
        dir
    };
    dir.join(name.as_str())
}

/// Whether a file is this program, or by its name another copy of it.
fn is_jobcage(file: &Path, own: Option<(u64, u64)>) -> bool {
    let id = std::fs::metadata(file).map(|meta| (meta.dev(), meta.ino()));
    (own.is_some() && id.ok() == own)
        || file
            .canonicalize()
            .is_ok_and(|file| file.file_name() == Some(OsStr::new("jobcage")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};

    /// Directories `shims` (links to `jobcage`), `other` (links to another copy under its own name) and `bin`.
    fn host() -> (tempfile::TempDir, Option<(u64, u64)>) {
        let host = tempfile::tempdir().unwrap();
        for dir in ["shims", "other", "bin"] {
            fs::create_dir(host.path().join(dir)).unwrap();
        }
        let program = |at: &str| {
            let file = host.path().join(at);
            fs::write(&file, "#!").unwrap();
            fs::set_permissions(&file, Permissions::from_mode(0o755)).unwrap();
            fs::metadata(file).map(|meta| (meta.dev(), meta.ino())).unwrap()
        };
        let own = program("mine");
        program("jobcage");
        for name in Name::ALL {
            let place = |dir: &str| host.path().join(dir).join(name.as_str());
            symlink(host.path().join("mine"), place("shims")).unwrap();
            symlink(host.path().join("jobcage"), place("other")).unwrap();
            program(&format!("bin/{}", name.as_str()));
        }
        (host, Some(own))
    }

    fn find(host: &Path, own: Option<(u64, u64)>, dirs: &[&str]) -> Option<(String, String)> {
        let path = join(
            dirs.iter()
                .map(|dir| host.join(dir).into_os_string())
                .collect::<Vec<_>>()
                .iter()
                .map(OsString::as_os_str),
        );
        let real = Real::find_in(Some(path), Name::Bash, own).ok()?;
        let short = |text: &OsStr| {
            text.to_str()
                .unwrap()
                .replace(&format!("{}/", host.display()), "")
        };
        Some((short(real.file.as_os_str()), short(&real.path.unwrap())))
    }

    #[test]
    fn the_real_program_stands_behind_us() {
        let (host, own) = host();
        let find = |dirs: &[&str]| find(host.path(), own, dirs);
        let bin = |path: &str| Some(("bin/bash".to_owned(), path.to_owned()));
        assert_eq!(find(&["shims", "bin"]), bin("bin"));
        assert_eq!(
            find(&["nowhere", "shims", "other", "bin", "shims"]),
            bin("nowhere:bin")
        );
        // Called by its whole path.
        assert_eq!(find(&["bin"]), bin("bin"));
        assert_eq!(find(&["shims"]), None);
        assert_eq!(find(&["shims", "shims", "other"]), None);
        assert_eq!(find(&[]), None);
    }

    /// A directory and a file that nobody may run are no program.
    #[test]
    fn what_cannot_be_run_is_passed_over() {
        let (host, own) = host();
        fs::create_dir_all(host.path().join("dir/bash")).unwrap();
        fs::create_dir(host.path().join("text")).unwrap();
        fs::write(host.path().join("text/bash"), "").unwrap();
        let found = find(host.path(), own, &["shims", "dir", "text", "bin"]);
        assert_eq!(found, Some(("bin/bash".into(), "dir:text:bin".into())));
    }

    #[test]
    fn a_path_is_kept_as_it_is_written() {
        let (host, own) = host();
        let path = format!(
            "/a::{}:/b//:{}:",
            host.path().join("shims").display(),
            host.path().join("bin").display()
        );
        let real = Real::find_in(Some(path.into()), Name::Su, own).unwrap();
        let kept = format!("/a::/b//:{}:", host.path().join("bin").display());
        assert_eq!(real.path, Some(kept.into()));
        assert!(Real::find_in(None, Name::Bash, own).is_ok_and(|real| real.path.is_none()));
    }
}
