//! The benchmark's own ground: one cgroup and two temporary directories, removed at the end, after a failure and
//! after a signal alike.

use crate::Result;
use crate::options::Options;
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, TMPFS_MAGIC, statfs};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
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

/// Says something that must not be overlooked.
pub fn loudly(what: &str) {
    eprintln!("jobcage-bench: *** {what}");
}

impl Ground {
    /// Where a run with this pid has everything; makes nothing.
    pub fn of(options: &Options, pid: u32) -> Result<Self> {
        let name = format!("jobcage-bench-{pid}");
        let mount = mount_point()?;
        let parent = match &options.cgroup_root {
            Some(dir) => dir.clone(),
            None => own_cgroup(&mount)?,
        };
        let temp = options
            .temp
            .clone()
            .unwrap_or_else(std::env::temp_dir)
            .join(&name);
        let fast = Path::new("/dev/shm");
        let has_fast = statfs(fast).is_ok_and(|fs| fs.filesystem_type() == TMPFS_MAGIC);
        let runtime = if has_fast {
            fast.join(&name)
        } else {
            temp.join("runtime")
        };
        Ok(Self {
            mount,
            cgroup: parent.join(&name),
            temp,
            runtime,
        })
    }

    /// Makes it.
    pub fn make(&self) -> Result<()> {
        self.cgroup.parent().into_iter().for_each(warn_of_others);
        fs::create_dir(&self.cgroup).map_err(|why| {
            format!(
                "cannot make {}: {why}; name a cgroup of yours with --cgroup-root",
                self.cgroup.display()
            )
        })?;
        for below in ["floor", "jobcage", "peers"] {
            fs::create_dir(self.cgroup.join(below))?;
        }
        make_dir(&self.temp)?;
        make_dir(&self.runtime)
    }

    /// Kills what is left in our cgroup and removes everything we made. What cannot be removed is told.
    pub fn clean(&self) {
        if self.cgroup.exists()
            && let Err(why) = kill(&self.cgroup).and_then(|()| remove_tree(&self.cgroup))
        {
            loudly(&format!("{} is left: {why}", self.cgroup.display()));
        }
        for dir in [&self.runtime, &self.temp] {
            match fs::remove_dir_all(dir) {
                Err(why) if why.kind() != std::io::ErrorKind::NotFound => {
                    loudly(&format!("{} is left: {why}", dir.display()));
                }
                _ => {}
            }
        }
    }

    /// A cgroup of ours as floor wants it: relative to the mount point.
    pub fn relative(&self, below: &str) -> Result<PathBuf> {
        Ok(self.cgroup.join(below).strip_prefix(&self.mount)?.to_path_buf())
    }

    /// How many cgroups are left below one of ours, those not counted that stay: of the watcher, keepers and supervisors.
    pub fn left_below(&self, below: &str) -> Result<usize> {
        let entries = fs::read_dir(self.cgroup.join(below))?;
        let ours = ["hold", "keepers", "supervisors"];
        let is_left = |entry: &fs::DirEntry| {
            entry.path().is_dir() && !ours.iter().any(|name| entry.file_name() == *name)
        };
        Ok(entries
            .filter_map(std::result::Result::ok)
            .filter(is_left)
            .count())
    }
}

fn make_dir(dir: &Path) -> Result<()> {
    fs::create_dir(dir).map_err(|why| format!("cannot make {}: {why}", dir.display()))?;
    // The rootless part enters it as another user.
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755))?;
    Ok(())
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
