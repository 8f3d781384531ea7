//! Agents that a job has started for itself, such as ssh-agent: they are moved out of the way of the first signal, of which
//! they would die, and live until the cage is killed.

use crate::census::read;
use crate::dir::Dir;
use crate::error::{CageError, Result};
use crate::signal::listed;
use jobcage_sys::{Errno, pidfd};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;

/// Moves those processes of a leaf and below it whose program has one of these names, and that run as this uid, to a leaf
/// that `to` makes when there is one. How many were moved.
///
/// Never out of a frozen leaf: a process that leaves one wakes up, and the census would not be exact.
///
/// # Errors
/// If the leaf cannot be listed, or the other one cannot be made or entered.
pub fn spare(from: &Dir, names: &[String], uid: u32, to: impl Fn() -> Result<Dir>) -> Result<usize> {
    let io = |what: &'static str| move |errno| CageError::io(what, from.path(), errno);
    let mut moved = 0;
    if is_freezing(from) {
        return Ok(moved);
    }
    for pid in listed(from).map_err(io("list the processes"))? {
        // Cheap, and most are none. What is true of the pid is looked at again below.
        if !is_one(pid, names, uid) {
            continue;
        }
        let process = match pidfd::open(pid) {
            Ok(process) => Some(process),
            // Before 5.3: as in `signal`, its number is the process.
            Err(Errno::ENOSYS) => None,
            Err(_) => continue,
        };
        // The pidfd may be a later process's: one that is listed and has this program now, while the pidfd's lives, is its.
        let still = listed(from).map_err(io("list the processes"))?.contains(&pid);
        let lives = process
            .as_ref()
            .is_none_or(|process| !pidfd::has_ended(process.as_fd()));
        if !still || !lives || !is_one(pid, names, uid) {
            continue;
        }
        // The kernel takes no pidfd here. The look was a moment ago: a stranger would have to be born with this very pid
        // within these microseconds, after the process has ended and was reaped.
        let place = to()?;
        match place.write("cgroup.procs", &pid.to_string()) {
            Ok(()) => moved += 1,
            // It has ended.
            Err(Errno::ESRCH) => {}
            Err(errno) => return Err(CageError::io("move an agent into", place.path(), errno)),
        }
    }
    Ok(moved)
}

fn is_freezing(dir: &Dir) -> bool {
    // Absent before 5.2: then nothing is ever frozen.
    dir.read("cgroup.freeze").is_ok_and(|text| text.trim() != "0")
}

fn is_one(pid: i32, names: &[String], uid: u32) -> bool {
    let named = program(pid).is_some_and(|name| names.iter().any(|known| known.as_bytes() == name));
    named && is_of(pid, uid)
}

/// The name of a process's program. An agent hides from the tracing of others (prctl(2), `PR_SET_DUMPABLE`), and then only
/// root may see its program; to others it is what it calls itself.
fn program(pid: i32) -> Option<Vec<u8>> {
    match nix::fcntl::readlink(format!("/proc/{pid}/exe").as_str()) {
        Ok(path) => {
            let path = path.as_bytes();
            // An upgrade while it runs.
            let path = path.strip_suffix(b" (deleted)").unwrap_or(path);
            path.rsplit(|b| *b == b'/').next().map(<[u8]>::to_vec)
        }
        Err(Errno::EACCES | Errno::EPERM) => {
            let mut name = read(pid, "comm")?;
            name.pop_if(|last| *last == b'\n');
            Some(name)
        }
        Err(_) => None,
    }
}

/// By its effective uid, as `ps` does. One with rights of its own, such as a setuid program, is of nobody here.
fn is_of(pid: i32, uid: u32) -> bool {
    let Some(status) = read(pid, "status") else {
        return false;
    };
    let status = String::from_utf8_lossy(&status);
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    uids.is_some_and(|uids| uids.split_ascii_whitespace().all(|one| one.parse() == Ok(uid)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_program_and_its_user() {
        let me = std::process::id().cast_signed();
        let uid = nix::unistd::getuid().as_raw();
        let exe = std::env::current_exe().unwrap();
        let own = exe.file_name().unwrap().to_str().unwrap().to_owned();
        assert!(is_one(me, &["other".to_owned(), own.clone()], uid));
        assert!(!is_one(me, std::slice::from_ref(&own), uid + 1));
        assert!(!is_one(me, &[own[1..].to_owned()], uid));
        assert!(!is_one(i32::MAX, &[own], uid));
    }
}
