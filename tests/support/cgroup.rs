//! The cgroup tree as a test sees it. All that a test run makes lies in one directory, which goes with its last world.

use super::left;
use super::process::{Process, describe};
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::signal::Signal;
use std::fmt::Write as _;
use std::fs;
use std::io::ErrorKind;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Where cgroup2 is mounted, if anywhere.
pub fn mount() -> Option<PathBuf> {
    let text = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let line = text.lines().find(|l| l.contains(" - cgroup2 "))?;
    line.split(' ').nth(4).map(PathBuf::from)
}

/// The directory of this test run: below `JOBCAGE_TEST_CGROUP`, or below the cgroup that the test was started in (so
/// that it is also inside where the test itself is caged).
pub fn base() -> &'static Path {
    static BASE: OnceLock<PathBuf> = OnceLock::new();
    BASE.get_or_init(|| {
        let parent = std::env::var_os("JOBCAGE_TEST_CGROUP")
            .map(PathBuf::from)
            .or_else(|| {
                let own = super::process::cgroup_of(i32::try_from(std::process::id()).ok()?)?;
                Some(mount()?.join(own.trim_start_matches('/')))
            });
        let parent = parent.expect("cgroup2 is not mounted: nothing can be tested here");
        parent.join(format!("jobcage-tests-{}", std::process::id()))
    })
}

/// Makes a cgroup in the directory of this run, with every controller that can be had.
pub fn make(name: &str) -> PathBuf {
    let dir = base().join(name);
    // A world that ends at this moment may remove the base under us: try again.
    for _ in 0..100 {
        match fs::create_dir_all(&dir) {
            Ok(()) => break,
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => panic!("cannot make the cgroup {}: {e}", dir.display()),
        }
    }
    for above in [base().parent().unwrap(), base()] {
        let controllers = fs::read_to_string(above.join("cgroup.controllers")).unwrap_or_default();
        for controller in controllers.split_whitespace() {
            // One that cannot be enabled is seen by `has_controller`.
            let _ = fs::write(above.join("cgroup.subtree_control"), format!("+{controller}"));
        }
    }
    dir
}

/// Whether cgroups of this run have this controller.
pub fn has_controller(name: &str) -> bool {
    let probe = make(&format!("probe-{name}"));
    let controllers = fs::read_to_string(probe.join("cgroup.controllers")).unwrap_or_default();
    let _ = fs::remove_dir(&probe);
    let _ = fs::remove_dir(base());
    controllers.split_whitespace().any(|c| c == name)
}

/// `populated` of `cgroup.events`; `None`: the cgroup is gone.
pub fn populated(dir: &Path) -> Option<bool> {
    let text = fs::read_to_string(dir.join("cgroup.events")).ok()?;
    Some(text.lines().any(|l| l == "populated 1"))
}

/// The pids that a cgroup lists; none for a threaded one.
pub fn pids(dir: &Path) -> Vec<i32> {
    let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    text.lines()
        .filter_map(|l| l.parse().ok())
        .filter(|&pid| pid > 0)
        .collect()
}

/// A cgroup and all below it, parents first.
pub fn below(dir: &Path) -> Vec<PathBuf> {
    let mut found = vec![dir.to_owned()];
    let mut next = 0;
    while next < found.len() {
        let listed = fs::read_dir(&found[next]).into_iter().flatten().flatten();
        found.extend(
            listed
                .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
                .map(|e| e.path()),
        );
        next += 1;
    }
    found
}

/// The tree with its processes, for a person.
pub fn tree(dir: &Path) -> String {
    let mut out = String::new();
    for group in below(dir) {
        let _ = writeln!(out, "  {} populated {:?}", group.display(), populated(&group));
        for pid in pids(&group).iter().take(20) {
            let _ = writeln!(out, "    {}", describe(*pid));
        }
    }
    out
}

/// Waits until a cgroup is empty or gone; whether it came to that.
pub fn wait_empty(dir: &Path, within: Duration) -> bool {
    wait_while(dir, true, within)
}

/// Waits until somebody is in a cgroup, or it is gone; whether it came to that.
pub fn wait_populated(dir: &Path, within: Duration) -> bool {
    wait_while(dir, false, within)
}

fn wait_while(dir: &Path, is_populated: bool, within: Duration) -> bool {
    let end = Instant::now() + within;
    let Ok(events) = fs::File::open(dir.join("cgroup.events")) else {
        return true;
    };
    while populated(dir) == Some(is_populated) {
        if Instant::now() >= end {
            return false;
        }
        // The kernel notifies at most every 10 ms, and not at all for the last change within these: look again.
        let soon = (Instant::now() + Duration::from_millis(20)).min(end);
        let _ = poll(&mut [PollFd::new(events.as_fd(), PollFlags::POLLPRI)], left(soon));
    }
    true
}

/// Waits until a directory is removed; whether it was.
pub fn wait_gone(dir: &Path, within: Duration) -> bool {
    wait_change(dir.parent().unwrap(), within, || !dir.exists())
}

/// Waits until `done`, which may become true when something in `dir` is made, renamed, removed or written.
pub fn wait_change(dir: &Path, within: Duration, done: impl Fn() -> bool) -> bool {
    let end = Instant::now() + within;
    let flags = AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_MOVED_TO
        | AddWatchFlags::IN_MODIFY;
    // A user has few of them (`fs.inotify.max_user_instances`), and many followers take all.
    let watch = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).ok();
    let watched = watch
        .as_ref()
        .is_none_or(|watch| watch.add_watch(dir, flags).is_ok());
    while !done() {
        if Instant::now() >= end || !watched {
            return done();
        }
        // Older kernels do not tell of a splice into a file: look again after a while.
        let soon = (Instant::now() + Duration::from_millis(50)).min(end);
        let mut fds: Vec<PollFd<'_>> = watch
            .iter()
            .map(|watch| PollFd::new(watch.as_fd(), PollFlags::POLLIN))
            .collect();
        let _ = poll(&mut fds, left(soon));
        let _ = watch.as_ref().map(Inotify::read_events);
    }
    true
}

/// Kills everything in a cgroup and removes it, as a test's last resort. What cannot be removed is returned.
pub fn remove(dir: &Path) -> Result<(), String> {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        match kill_and_remove(dir, end) {
            // A watcher that was being started moves into its leaf at this moment.
            Err(_) if populated(dir) == Some(true) && Instant::now() < end => {}
            result => return result,
        }
    }
}

fn kill_and_remove(dir: &Path, end: Instant) -> Result<(), String> {
    if !dir.exists() {
        return Ok(());
    }
    while populated(dir) == Some(true) && Instant::now() < end {
        let _ = fs::write(dir.join("cgroup.kill"), "1");
        // `cgroup.kill` passes over processes whose first thread has exited.
        for pid in below(dir).iter().flat_map(|d| pids(d)) {
            Process::open(pid).signal(Signal::SIGKILL);
        }
        wait_empty(dir, Duration::from_millis(100));
    }
    for group in below(dir).iter().rev() {
        fs::remove_dir(group)
            .or_else(|e| {
                if e.kind() == ErrorKind::NotFound {
                    Ok(())
                } else {
                    Err(e)
                }
            })
            .map_err(|e| format!("{}: {e}\n{}", group.display(), tree(dir)))?;
    }
    Ok(())
}

/// Removes the directory of this run if its last world is gone.
pub fn remove_base() {
    let _ = fs::remove_dir(base());
}
