//! How a follower learns that something has happened in a record, asleep until then: by inotify(7); where a user's instances
//! are used up (128 by default, so a crowd of followers does it) by dnotify, which has no limit; and where the kernel has
//! neither, by looking from time to time.
//!
//! Each way tells one event and is then silent until it is armed again: a writer that writes on pays nothing for it.

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// Between two looks where nothing wakes us.
pub(super) const LOOK_AGAIN: Duration = Duration::from_millis(20);

#[derive(Debug)]
enum Way {
    Inotify(Inotify),
    /// SIGIO, blocked, and the directory with a description of its own: dnotify belongs to that.
    Signal(SignalFd, OwnedFd),
    Time,
}

/// A watch on the directory of a record.
#[derive(Debug)]
pub(super) struct Watch {
    path: String,
    way: Way,
}

impl Watch {
    pub(super) fn new(dir: BorrowedFd<'_>) -> Self {
        let path = format!("/proc/self/fd/{}", dir.as_raw_fd());
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK);
        let way = match inotify {
            Ok(inotify) => Way::Inotify(inotify),
            Err(_) => by_signal(&path),
        };
        Self { path, way }
    }

    /// From here on the next event is told. What happened before has to be looked for.
    pub(super) fn arm(&mut self) {
        if let Way::Inotify(inotify) = &self.way {
            let what = AddWatchFlags::IN_MODIFY
                | AddWatchFlags::IN_CREATE
                | AddWatchFlags::IN_MOVED_TO
                | AddWatchFlags::IN_DELETE
                | AddWatchFlags::IN_ONLYDIR
                | AddWatchFlags::IN_ONESHOT;
            if inotify.add_watch(self.path.as_str(), what).is_ok() {
                return;
            }
            // The user's watches are used up.
            self.way = by_signal(&self.path);
        }
        if let Way::Signal(_, dir) = &self.way
            && jobcage_sys::signal::notify_once(dir.as_fd()).is_err()
        {
            self.way = Way::Time;
        }
    }

    /// Takes what was told, if anything. What comes later is told again.
    pub(super) fn clear(&self) {
        match &self.way {
            Way::Inotify(inotify) => drop(inotify.read_events()),
            Way::Signal(signals, _) => drop(signals.read_signal()),
            Way::Time => {}
        }
    }

    /// What is readable when there is an event.
    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        match &self.way {
            Way::Inotify(inotify) => Some(inotify.as_fd()),
            Way::Signal(signals, _) => Some(signals.as_fd()),
            Way::Time => None,
        }
    }
}

fn by_signal(path: &str) -> Way {
    let made = (|| {
        let dir = jobcage_sys::file::open_dir(path.as_ref())?;
        let signals = SigSet::from(Signal::SIGIO);
        signals.thread_block()?;
        let fd = SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        nix::Result::Ok(Way::Signal(fd, dir))
    })();
    made.unwrap_or(Way::Time)
}
