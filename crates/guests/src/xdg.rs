//! Directories of the job's own for programs that know no variable of their own, as the XDG base directory specification has them.
//!
//! The variables are those of all programs: what others keep in the user's is found by links.

use crate::place::{Making, runtime_dir};
use crate::{GuestError, Result};
use jobcage_job::{GuestMode, GuestPlace};
use jobcage_sys::Errno;
use jobcage_sys::file::open_distrusted;
use nix::fcntl::{AtFlags, OFlag, readlinkat};
use nix::sys::stat::{SFlag, fstatat};
use nix::unistd::{UnlinkatFlags, symlinkat, unlinkat};
use std::os::fd::AsFd;

/// The directories of the job's own in them, and so no links to the user's.
fn own(place: &GuestPlace) -> Vec<&'static str> {
    let mut own = Vec::new();
    if is_isolated(place, "libvirt") {
        own.push("libvirt");
    }
    if is_isolated(place, "podman") {
        own.push("containers");
    }
    own
}

fn is_isolated(place: &GuestPlace, kind: &str) -> bool {
    place.kinds.get(kind) == Some(&GuestMode::Isolate)
}

/// The directories, with those of the user that they stand for. Only podman has data of its own.
fn dirs(place: &GuestPlace) -> Vec<(&'static str, &'static str)> {
    let mut dirs = vec![("xdg/config", ".config"), ("xdg/cache", ".cache")];
    if is_isolated(place, "podman") {
        dirs.push((DATA, ".local/share"));
    }
    dirs
}

/// Podman's storage is in it.
pub(crate) const DATA: &str = "xdg/data";

/// A socket's path has at most 107 bytes, and libvirt has some with more than 60 of their own below the configuration: its path is a short one,
/// by a link. The files are in the place.
pub(crate) fn variables(place: &GuestPlace) -> Vec<(&'static str, String)> {
    let mut variables = vec![
        ("XDG_RUNTIME_DIR", place.runtime_dir()),
        ("XDG_CONFIG_HOME", format!("{}/config", place.runtime_dir())),
        ("XDG_CACHE_HOME", format!("{}/xdg/cache", place.dir)),
    ];
    if is_isolated(place, "podman") {
        variables.push(("XDG_DATA_HOME", format!("{}/{DATA}", place.dir)));
    }
    variables
}

/// Makes them. More than one kind may ask for it.
pub(crate) fn prepare(dir: &Making<'_>) -> Result<()> {
    dir.dir("xdg")?;
    for (made, of_user) in dirs(dir.place) {
        dir.dir(made)?;
        dir.link_all(made, of_user, &own(dir.place))?;
    }
    link_config(dir.place, &dir.runtime_dir()?)
}

/// Makes the directory of sockets fit for tools when the job's processes are dead: after a reboot it may be gone, and a job may have put links into
/// it by which a tool would come to the user's own daemon, and take what is there for the job's. `own`: the directory of one program in it.
pub(crate) fn renew(place: &GuestPlace, uid: u32, own: &str) -> Result<()> {
    let dir = runtime_dir(place, uid)?;
    link_config(place, &dir)?;
    // Nobody listens there any more.
    forget(&dir, own, |_| false).map_err(|errno| GuestError::Io {
        what: "use",
        path: format!("{}/{own}", place.runtime_dir()),
        errno,
    })
}

fn link_config(place: &GuestPlace, dir: &impl AsFd) -> Result<()> {
    let config = format!("{}/xdg/config", place.dir);
    let linked = match symlinkat(config.as_str(), dir.as_fd(), "config") {
        Err(Errno::EEXIST) => readlinkat(dir, "config").and_then(|to| {
            let is_ours = to == config.as_str();
            is_ours.then_some(()).ok_or(Errno::EEXIST)
        }),
        other => other,
    };
    linked.map_err(|errno| GuestError::Io {
        what: "make a link in",
        path: place.runtime_dir(),
        errno,
    })
}

/// Removes what is in a directory that a job has had, if it has one of this name: but directories, and what is to stay.
pub(crate) fn forget(
    dir: &impl AsFd,
    name: &str,
    stays: impl Fn(SFlag) -> bool,
) -> std::result::Result<(), Errno> {
    let opened = open_distrusted(dir.as_fd(), name, OFlag::O_RDONLY | OFlag::O_DIRECTORY);
    let own = match opened {
        Err(Errno::ENOENT) => return Ok(()),
        other => other?,
    };
    let mut listed = nix::dir::Dir::from_fd(own.try_clone().map_err(|_| Errno::EMFILE)?)?;
    for entry in listed.iter() {
        let entry = entry?;
        let mode = fstatat(&own, entry.file_name(), AtFlags::AT_SYMLINK_NOFOLLOW)?.st_mode;
        let kind = SFlag::from_bits_truncate(mode) & SFlag::S_IFMT;
        if kind != SFlag::S_IFDIR && !stays(kind) {
            unlinkat(&own, entry.file_name(), UnlinkatFlags::NoRemoveDir)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;
    use std::time::Duration;

    #[test]
    fn tools_find_our_directories_and_nothing_that_a_job_has_put_there() {
        let dir = tempfile::tempdir().unwrap();
        let (uid, gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        let place = GuestPlace {
            dir: dir.path().display().to_string(),
            socket: format!("jc-test-{}", std::process::id()),
            timeout: Duration::ZERO,
            gid,
            groups: Vec::new(),
            home: String::new(),
            project: None,
            kinds: BTreeMap::new(),
            hook: Vec::new(),
        };
        let run = Path::new("/tmp").join(&place.socket);
        assert!(!run.exists());
        // As after a reboot.
        renew(&place, uid, "libvirt").unwrap();
        assert_eq!(
            fs::read_link(run.join("config")).unwrap(),
            dir.path().join("xdg/config")
        );

        let own = run.join("libvirt");
        fs::create_dir_all(own.join("qemu")).unwrap();
        symlink("/run/libvirt/libvirt-sock", own.join("libvirt-sock")).unwrap();
        renew(&place, uid, "libvirt").unwrap();
        let left: Vec<_> = fs::read_dir(&own)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(left, ["qemu"]);

        fs::rename(&own, run.join("other")).unwrap();
        symlink("other", &own).unwrap();
        renew(&place, uid, "libvirt").unwrap_err();
        fs::remove_file(&own).unwrap();
        fs::remove_file(run.join("config")).unwrap();
        symlink("/etc", run.join("config")).unwrap();
        renew(&place, uid, "libvirt").unwrap_err();
        fs::remove_dir_all(&run).unwrap();
    }
}
