//! Processes as a test sees them: held by pidfd, looked at in /proc.

use super::{PATIENCE, left};
use jobcage_sys::pidfd;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use std::fs;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

/// A hold on one process.
pub struct Process {
    /// Its pid.
    pub pid: i32,
    // None: it had been reaped before we could open it.
    fd: Option<OwnedFd>,
}

impl Process {
    /// Takes hold of a process, which may be gone already.
    pub fn open(pid: i32) -> Self {
        let fd = match pidfd::open(pid) {
            Ok(fd) => Some(fd),
            // EINVAL: the pid has become a thread of another process meanwhile.
            Err(Errno::ESRCH | Errno::EINVAL) => None,
            Err(e) => panic!("pidfd of {pid}: {e}"),
        };
        Self { pid, fd }
    }

    /// Its pidfd, unless it was gone when it was opened.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.fd.as_ref().map(OwnedFd::as_fd)
    }

    /// Waits for its end; whether it came. A zombie has ended.
    pub fn wait_end(&self, within: Duration) -> bool {
        let Some(fd) = &self.fd else { return true };
        let end = Instant::now() + within;
        loop {
            match poll(&mut [PollFd::new(fd.as_fd(), PollFlags::POLLIN)], left(end)) {
                Ok(0) => return false,
                Ok(_) => return true,
                Err(Errno::EINTR) => {}
                Err(e) => panic!("poll of the pidfd of {}: {e}", self.pid),
            }
        }
    }

    /// Whether it has ended, which one that is on its way out is waited for: the kernel takes a task out of its cgroup
    /// (`cgroup_exit`) before it tells of its end (`exit_notify`), so `populated 0` may come first.
    pub fn has_ended(&self) -> bool {
        self.wait_end(Duration::ZERO) || (is_leaving(self.pid) && self.wait_end(PATIENCE))
    }

    /// Sends a signal; one that has ended does not mind.
    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        if let Some(fd) = &self.fd {
            match pidfd::send_signal(fd.as_fd(), signal as i32) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(e) => panic!("{signal} to {}: {e}", self.pid),
            }
        }
    }
}

/// What /proc/PID/stat says: name, state letter, parent.
pub fn stat(pid: i32) -> Option<(String, char, i32)> {
    let text = String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/stat")).ok()?).into_owned();
    // The name may hold anything: the last parenthesis closes it.
    let (head, tail) = text.rsplit_once(')')?;
    let name = head.split_once('(')?.1.to_owned();
    let mut fields = tail.split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((name, state, fields.next()?.parse().ok()?))
}

/// Whether none of its threads will ever run a program's instruction again (`PF_EXITING`, the ninth field of
/// /proc/PID/task/TID/stat; proc_pid_stat(5)).
fn is_leaving(pid: i32) -> bool {
    const PF_EXITING: u32 = 4;
    let leaves = |stat: String| {
        let flags = stat.rsplit_once(')')?.1.split_whitespace().nth(6)?;
        Some(flags.parse::<u32>().ok()? & PF_EXITING != 0)
    };
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return true;
    };
    let mut stats = threads
        .flatten()
        .filter_map(|thread| fs::read(thread.path().join("stat")).ok());
    stats.all(|stat| leaves(String::from_utf8_lossy(&stat).into_owned()).unwrap_or(false))
}

/// A line of /proc/PID/status.
pub fn status(pid: i32, key: &str) -> Option<String> {
    let text = fs::read(format!("/proc/{pid}/status")).ok()?;
    let text = String::from_utf8_lossy(&text);
    let line = text
        .lines()
        .find_map(|l| l.strip_prefix(key)?.strip_prefix(':'))?;
    Some(line.trim().to_owned())
}

/// The path of its cgroup v2, below the mount.
pub fn cgroup_of(pid: i32) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    text.lines()
        .find_map(|l| l.strip_prefix("0::"))
        .map(str::to_owned)
}

/// One line about a process, for a person.
pub fn describe(pid: i32) -> String {
    let (name, state, parent) = stat(pid).unwrap_or_default();
    let wchan = fs::read_to_string(format!("/proc/{pid}/wchan")).unwrap_or_default();
    let tracer = status(pid, "TracerPid").unwrap_or_default();
    let group = cgroup_of(pid).unwrap_or_default();
    let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words = String::from_utf8_lossy(&words).replace('\0', " ");
    format!("{pid} ({name:?}) {state} parent {parent} tracer {tracer} in {wchan:?}, cgroup {group}: {words}")
}

fn all_pids() -> Vec<i32> {
    let Ok(listed) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    listed
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.parse().ok())
        .collect()
}

/// Live processes whose program lies below `dir`, or whose environment names it. Zombies are not alive.
pub fn connected_to(dir: &Path) -> Vec<i32> {
    let needle = dir.as_os_str().as_encoded_bytes();
    let names_it = |pid: i32, file: &str| {
        fs::read(format!("/proc/{pid}/{file}"))
            .is_ok_and(|content| content.windows(needle.len()).any(|w| w == needle))
    };
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let mut found = all_pids();
    found.retain(|&pid| {
        pid != own
            && (fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe.starts_with(dir))
                || names_it(pid, "environ"))
            && stat(pid).is_some_and(|(_, state, _)| !matches!(state, 'Z' | 'X'))
    });
    found
}
