//! The benchmark's own ground: one cgroup and two temporary directories, removed at the end, after a failure and
//! after a signal alike.

use crate::Result;
use crate::options::Options;
use crate::procs;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::SignalFd;
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, TMPFS_MAGIC, statfs};
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Where everything of this run is.
#[derive(Debug, Clone)]
pub struct Ground {
    /// The cgroup2 mount point.
    pub mount: PathBuf,
    /// Our cgroup; all others are below it.
    pub cgroup: PathBuf,
    /// Binaries, helpers, bundles, state.
    pub temp: PathBuf,
    /// On a tmpfs where there is one, as `/run` is: jobcage's records.
    pub runtime: PathBuf,
}

/// What `clean` has to remove. Ours and nobody else's: entered right after it was made.
struct Made {
    cgroup: Option<PathBuf>,
    dirs: Vec<PathBuf>,
}

static MADE: Mutex<Made> = Mutex::new(Made {
    cgroup: None,
    dirs: Vec::new(),
});

/// Says something that must not be overlooked.
pub fn loudly(what: &str) {
    eprintln!("jobcage-bench: *** {what}");
}

impl Ground {
    /// Makes it.
    pub fn make(options: &Options) -> Result<Self> {
        let name = format!("jobcage-bench-{}", std::process::id());
        let mount = mount_point()?;
        let parent = match &options.cgroup_root {
            Some(dir) => dir.clone(),
            None => own_cgroup(&mount)?,
        };
        warn_of_others(&parent);
        let cgroup = parent.join(&name);
        fs::create_dir(&cgroup).map_err(|why| {
            format!(
                "cannot make {}: {why}; name a cgroup of yours with --cgroup-root",
                cgroup.display()
            )
        })?;
        made().cgroup = Some(cgroup.clone());
        let temp = make_dir(&options.temp.clone().unwrap_or_else(std::env::temp_dir), &name)?;
        let fast = PathBuf::from("/dev/shm");
        let has_fast = statfs(&fast).is_ok_and(|fs| fs.filesystem_type() == TMPFS_MAGIC);
        let runtime = if has_fast {
            make_dir(&fast, &name)?
        } else {
            make_dir(&temp, "runtime")?
        };
        for below in ["floor", "jobcage", "peers"] {
            fs::create_dir(cgroup.join(below))?;
        }
        Ok(Self {
            mount,
            cgroup,
            temp,
            runtime,
        })
    }

    /// A cgroup of ours as floor wants it: relative to the mount point.
    pub fn relative(&self, below: &str) -> Result<PathBuf> {
        Ok(self.cgroup.join(below).strip_prefix(&self.mount)?.to_path_buf())
    }

    /// How many cgroups are left below one of ours, `hold` not counted: that one belongs to the watcher.
    pub fn left_below(&self, below: &str) -> Result<usize> {
        let entries = fs::read_dir(self.cgroup.join(below))?;
        let is_left = |entry: &fs::DirEntry| entry.path().is_dir() && entry.file_name() != "hold";
        Ok(entries
            .filter_map(std::result::Result::ok)
            .filter(is_left)
            .count())
    }
}

fn made() -> std::sync::MutexGuard<'static, Made> {
    // Nothing is done under the lock that could leave it half changed.
    MADE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn make_dir(parent: &Path, name: &str) -> Result<PathBuf> {
    let dir = parent.join(name);
    fs::create_dir(&dir).map_err(|why| format!("cannot make {}: {why}", dir.display()))?;
    made().dirs.push(dir.clone());
    // The rootless part enters it as another user.
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755))?;
    Ok(dir)
}

fn mount_point() -> Result<PathBuf> {
    let places = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(PathBuf::from);
    let is_cgroup2 =
        |path: &PathBuf| statfs(path).is_ok_and(|fs| fs.filesystem_type() == CGROUP2_SUPER_MAGIC);
    places
        .into_iter()
        .find(is_cgroup2)
        .ok_or_else(|| "no cgroup2 at /sys/fs/cgroup or .../unified".into())
}

fn own_cgroup(mount: &Path) -> Result<PathBuf> {
    let table = fs::read_to_string("/proc/self/cgroup")?;
    let path = table
        .lines()
        .find_map(|line| line.strip_prefix("0::/"))
        .ok_or("not in any cgroup2 group")?;
    Ok(mount.join(path))
}

/// A run that was killed with SIGKILL could not clean up. It is named, not removed: this run did not make it.
fn warn_of_others(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix("jobcage-bench-"));
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            loudly(&format!(
                "{} is left of a run that was killed",
                entry.path().display()
            ));
        }
    }
}

/// Counts what was measured, so that a hang is told from a long run.
static PROGRESS: AtomicU64 = AtomicU64::new(0);

/// No single measurement takes this long, with 10 000 processes and a busy machine neither.
const HANGS_AFTER: Duration = Duration::from_secs(300);

/// To be called after each measurement.
pub fn progressed() {
    PROGRESS.fetch_add(1, Ordering::Relaxed);
}

/// Cleans up on SIGINT, SIGTERM and SIGHUP, after a panic, and when nothing moves any more. To be called before the
/// first thread is started; std gives its children an empty signal mask again.
pub fn guard() -> Result<()> {
    let mut set = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        set.add(signal);
    }
    set.thread_block()?;
    let signals = SignalFd::new(&set)?;
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |what| {
        before(what);
        clean();
    }));
    std::thread::spawn(move || {
        let why = watch(&signals);
        loudly(&format!("{why}: cleaning up"));
        clean();
        std::process::exit(1);
    });
    Ok(())
}

/// Returns with the reason to stop.
fn watch(signals: &SignalFd) -> String {
    let mut seen = 0;
    loop {
        let timeout = PollTimeout::try_from(HANGS_AFTER).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(signals.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) => {}
            Err(Errno::EINTR) => continue,
            _ => return "stopped by a signal".into(),
        }
        let now = PROGRESS.load(Ordering::Relaxed);
        if now == seen {
            return format!("nothing was measured for {} s", HANGS_AFTER.as_secs());
        }
        seen = now;
    }
}

/// Kills what we started and what is left in our cgroup, and removes everything we made. What cannot be removed is told.
pub fn clean() {
    procs::kill_descendants(&[]);
    let (cgroup, dirs) = {
        let mut made = made();
        (made.cgroup.take(), std::mem::take(&mut made.dirs))
    };
    if let Some(cgroup) = cgroup
        && let Err(why) = kill(&cgroup).and_then(|()| remove_tree(&cgroup))
    {
        loudly(&format!("{} is left: {why}", cgroup.display()));
    }
    procs::reap_strays();
    for dir in dirs {
        match fs::remove_dir_all(&dir) {
            Err(why) if why.kind() != std::io::ErrorKind::NotFound => {
                loudly(&format!("{} is left: {why}", dir.display()));
            }
            _ => {}
        }
    }
}

/// Kills everything in a cgroup and below it, and waits until it is empty.
pub fn kill(cgroup: &Path) -> Result<()> {
    fs::write(cgroup.join("cgroup.kill"), "1")?;
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut pause = Duration::from_micros(100);
    // The kernel notifies at most every 10 ms; a doubling timer is exact enough for a cleanup.
    while !fs::read_to_string(cgroup.join("cgroup.events"))?.contains("populated 0") {
        if Instant::now() > deadline {
            return Err("still populated a minute after cgroup.kill".into());
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
    Ok(())
}

/// Removes a cgroup from the bottom up.
pub fn remove_tree(cgroup: &Path) -> Result<()> {
    for entry in fs::read_dir(cgroup)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(cgroup).map_err(|why| format!("{}: {why}", cgroup.display()).into())
}
