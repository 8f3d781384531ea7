//! The outer one of two processes. The inner one measures; this one waits for its end, whatever that is, and cleans up.
//!
//! So a panic, a signal and even SIGKILL leave nothing behind, and the one that measures need not block signals: its
//! children would inherit that, and a job that never sees a SIGTERM is another job.

use crate::Result;
use crate::ground::{Ground, loudly};
use crate::options::Options;
use crate::procs;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::SignalFd;
use std::os::fd::AsFd;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Runs ourselves as the inner process; its exit code.
pub fn stand(options: &Options) -> Result<u8> {
    if options.worker {
        // Whoever started us moves us into our cgroup first.
        std::io::stdin().read_line(&mut String::new())?;
    }
    // Orphans come to us, where they are found.
    nix::sys::prctl::set_child_subreaper(true)?;
    let pid = std::process::id();
    let ground = Ground::of(options, pid)?;
    let mut inner = Command::new(std::env::current_exe()?);
    let mut inner = inner
        .args(std::env::args_os().skip(1))
        .arg("--inner")
        .arg(pid.to_string())
        .spawn()?;
    // After the spawn: the inner one inherits our mask.
    let mut set = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        set.add(signal);
    }
    set.thread_block()?;
    let waited = wait(&mut inner, &SignalFd::new(&set)?);
    procs::kill_descendants(&[]);
    ground.clean();
    procs::reap_strays();
    waited
}

fn wait(inner: &mut Child, signals: &SignalFd) -> Result<u8> {
    let pidfd = jobcage_sys::pidfd::open(inner.id().cast_signed())?;
    loop {
        let mut fds = [
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(pidfd.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            other => other?,
        };
        if fds[0].any() == Some(true) {
            loudly("stopped by a signal: cleaning up");
            inner.kill()?;
        }
        let status = inner.wait()?;
        return Ok(status
            .code()
            .and_then(|code| u8::try_from(code).ok())
            .unwrap_or(1));
    }
}

/// Counts what was measured, so that a hang is told from a long run.
static PROGRESS: AtomicU64 = AtomicU64::new(0);

/// No single measurement takes this long, not even with 10 000 processes on a busy machine.
const HANGS_AFTER: Duration = Duration::from_secs(300);

/// To be called after each measurement.
pub fn progressed() {
    PROGRESS.fetch_add(1, Ordering::Relaxed);
}

/// Ends this process, the inner one, when nothing is measured any more; the outer one then cleans up.
pub fn end_if_stuck() {
    std::thread::spawn(|| {
        let mut seen = None;
        loop {
            let now = PROGRESS.load(Ordering::Relaxed);
            if seen.replace(now) == Some(now) {
                loudly(&format!(
                    "nothing was measured for {} s: giving up",
                    HANGS_AFTER.as_secs()
                ));
                std::process::exit(1);
            }
            std::thread::sleep(HANGS_AFTER);
        }
    });
}
