//! `cgroup.events`: the kernel's word on whether a cgroup is populated and frozen.
//!
//! The kernel notifies at most every 10 ms (`CGROUP_FILE_NOTIFY_MIN_INTV`), and the second change within that time is
//! told up to 15 ms late. So a wait polls *and* re-reads on a short doubling timer, and only while it waits.

use crate::dir::Dir;
use jobcage_sys::Errno;
use nix::fcntl::{OFlag, openat};
use nix::poll::{PollFd, PollFlags};
use nix::sys::stat::Mode;
use nix::sys::time::TimeSpec;
use nix::sys::uio::pread;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// What `cgroup.events` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Events {
    /// Whether there is a living process in the cgroup or below.
    pub populated: bool,
    /// Whether all of them are frozen; `None` before 5.2.
    pub frozen: Option<bool>,
}

impl Events {
    fn parse(text: &str) -> Self {
        let value = |key: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(key)?.strip_prefix(' '))
                .map(|value| value == "1")
        };
        Self {
            populated: value("populated").unwrap_or(true),
            frozen: value("frozen"),
        }
    }
}

/// An open `cgroup.events`.
#[derive(Debug)]
pub struct EventsFile(OwnedFd);

impl EventsFile {
    /// Opens it. `None`: the cgroup is gone.
    ///
    /// # Errors
    /// As openat(2).
    pub fn open(dir: &Dir) -> Result<Option<Self>, Errno> {
        match openat(
            dir.fd(),
            "cgroup.events",
            OFlag::O_RDONLY | OFlag::O_CLOEXEC,
            Mode::empty(),
        ) {
            Ok(fd) => Ok(Some(Self(fd))),
            Err(Errno::ENOENT | Errno::ENODEV) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// What it says now. `None`: the cgroup is gone, and with it all that was in it.
    ///
    /// # Errors
    /// As pread(2).
    pub fn read(&self) -> Result<Option<Events>, Errno> {
        let mut text = [0; 256];
        match pread(&self.0, &mut text, 0) {
            Ok(n) => Ok(Some(Events::parse(&String::from_utf8_lossy(&text[..n])))),
            Err(Errno::ENODEV | Errno::ENOENT) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// Waits until `reached` holds (a cgroup that is gone counts as reached) or the time is over: whether it was.
    ///
    /// # Errors
    /// As ppoll(2) and pread(2).
    pub fn wait(&self, until: Instant, reached: impl Fn(Events) -> bool) -> Result<bool, Errno> {
        let mut pause = Duration::from_micros(100);
        loop {
            match self.read()? {
                None => return Ok(true),
                Some(events) if reached(events) => return Ok(true),
                Some(_) => {}
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLPRI)];
            match nix::poll::ppoll(&mut fds, Some(TimeSpec::from_duration(pause.min(left))), None) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno),
            }
            pause = (pause * 2).min(Duration::from_millis(2));
        }
    }
}

impl AsFd for EventsFile {
    /// For poll(2): `POLLPRI` after a change.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_old_and_new_kernels() {
        assert_eq!(
            Events::parse("populated 1\nfrozen 0\n"),
            Events {
                populated: true,
                frozen: Some(false)
            }
        );
        assert_eq!(
            Events::parse("populated 0\n"),
            Events {
                populated: false,
                frozen: None
            }
        );
        // Unknown means populated: never call a cgroup empty because a line was missing.
        assert_eq!(
            Events::parse(""),
            Events {
                populated: true,
                frozen: None
            }
        );
    }
}
