//! A world for one test: its own directory, cgroup root, runtime and state directories, and a copy of the zoo, so
//! that whatever comes from it is recognised. It ends with a proof, or with everything that a person needs to see.

use super::job::Job;
use super::process::{Process, connected_to, describe, stat};
use super::{PATIENCE, cgroup, programs, say};
use jobcage_job::Report;
use nix::sys::signal::Signal;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Directories of a cgroup root that are jobcage's own.
pub const OWN_LEAVES: [&str; 3] = ["hold", "keepers", "supervisors"];

/// The world.
pub struct World {
    /// Its directory; everybody may enter, since jobs of other users live here too.
    pub dir: PathBuf,
    /// Where its cages are.
    pub cgroup_root: PathBuf,
    /// A cgroup of ours that is no cage.
    pub outside: PathBuf,
    /// Its own copy of the zoo.
    pub zoo: PathBuf,
    phase: String,
    helpers: Vec<Process>,
    jobs: u32,
}

impl World {
    /// Makes a world for the test of this name.
    pub fn new(test: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{count}-{test}");
        let dir = std::env::temp_dir().join(format!("jobcage-test-{}-{name}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        for (sub, mode) in [("", 0o755), ("run", 0o700), ("state", 0o700), ("home", 0o755)] {
            fs::create_dir_all(dir.join(sub)).unwrap();
            fs::set_permissions(dir.join(sub), Permissions::from_mode(mode)).unwrap();
        }
        fs::write(dir.join("config.toml"), "").unwrap();
        let zoo = dir.join("zoo");
        fs::copy(programs::zoo(), &zoo).unwrap();
        fs::set_permissions(&zoo, Permissions::from_mode(0o755)).unwrap();
        let cgroup_root = cgroup::make(&name);
        let outside = cgroup_root.with_file_name(format!("{name}-outside"));
        let phase = "made".into();
        Self {
            dir,
            cgroup_root,
            outside,
            zoo,
            phase,
            helpers: Vec::new(),
            jobs: 0,
        }
    }

    /// Notes what the test is about to do; printed when it fails.
    pub fn phase(&mut self, text: impl Into<String>) {
        self.phase = text.into();
    }

    /// A command whose environment makes jobcage live in this world alone.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        for (key, _) in std::env::vars_os() {
            if key.as_encoded_bytes().starts_with(b"JOBCAGE_") {
                command.env_remove(key);
            }
        }
        command
            .env("JOBCAGE_CGROUP_ROOT", &self.cgroup_root)
            .env("JOBCAGE_RUNTIME_DIR", self.dir.join("run"))
            .env("JOBCAGE_STATE_DIR", self.dir.join("state"))
            .env("JOBCAGE_CONFIG", self.dir.join("config.toml"))
            .env("HOME", self.dir.join("home"))
            .current_dir(&self.dir);
        command
    }

    /// `wrap… jobcage args…`, to its end.
    pub fn jobcage(&self, wrap: &[String], args: &[&str]) -> Output {
        let mut command = self.wrapped(wrap);
        command.args(args).stdin(Stdio::null());
        command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"))
    }

    fn wrapped(&self, wrap: &[String]) -> Command {
        let jobcage = programs::jobcage().display().to_string();
        let words: Vec<&String> = wrap.iter().chain(std::iter::once(&jobcage)).collect();
        let mut command = self.command(words[0]);
        command.args(&words[1..]);
        command
    }

    /// Starts `wrap… jobcage run --report FILE options… -- argv…`.
    pub fn run(&mut self, wrap: &[String], options: &[String], argv: &[String]) -> Job {
        self.jobs += 1;
        let report = self.dir.join(format!("report-{}.json", self.jobs));
        let stderr = self.dir.join(format!("stderr-{}", self.jobs));
        let mut command = self.wrapped(wrap);
        command
            .arg("run")
            .arg("--report")
            .arg(&report)
            .args(options)
            .arg("--")
            .args(argv);
        self.phase(format!("started {command:?}"));
        Job::start(command, report, stderr)
    }

    /// Starts an animal outside of every cage, in the cgroup `outside`, and returns a hold on it once it is ready.
    pub fn helper(&mut self, args: &[&str]) -> Process {
        let mut command = self.command(&self.zoo);
        command
            .arg("in-cgroup")
            .arg(&self.outside)
            .arg(&self.zoo)
            .args(args);
        let mut job = Job::start(command, PathBuf::new(), self.dir.join("stderr-helper"));
        let ready = job
            .wait_ready()
            .unwrap_or_else(|| panic!("{args:?} is not ready: {}", job.stderr()));
        let helper = Process::open(ready.pids[0]);
        self.helpers.push(Process::open(ready.pids[0]));
        helper
    }

    /// A FUSE that never answers, and its server, which unmounts it when it is told to end.
    pub fn dead_mount(&mut self) -> (PathBuf, Process) {
        let point = self.dir.join("mnt");
        fs::create_dir(&point).unwrap();
        let server = self.helper(&["fuse-server", point.to_str().unwrap()]);
        (point, server)
    }

    /// The cages that exist now.
    pub fn cages(&self) -> Vec<PathBuf> {
        let listed = fs::read_dir(&self.cgroup_root).into_iter().flatten().flatten();
        let dirs = listed.filter(|e| e.file_type().is_ok_and(|t| t.is_dir()));
        dirs.filter(|e| !OWN_LEAVES.iter().any(|own| e.file_name() == *own))
            .map(|e| e.path())
            .collect()
    }

    /// Waits for what nobody else hears of: a jobcage that a busy shell has not waited for, and a watcher that has yet to become one.
    #[track_caller]
    fn wait_forsaken(&self) {
        let is_run = |pid: i32| {
            let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let mut words = words.split(|byte| *byte == 0);
            words.next().is_some_and(|program| program.ends_with(b"jobcage")) && words.next() == Some(b"run")
        };
        let since = Instant::now();
        for pid in connected_to(&self.dir) {
            let is_forsaken = || stat(pid).is_some_and(|(_, _, parent)| parent == 1) && is_run(pid);
            // It ends, or executes another program, which the kernel tells nobody of.
            while is_forsaken() && !Process::open(pid).wait_end(Duration::from_millis(20)) {
                assert!(since.elapsed() < PATIENCE, "it stays: {}", describe(pid));
            }
        }
    }

    /// The processes of jobcage itself that outlive a job: the watcher.
    pub fn watchers(&self) -> Vec<i32> {
        OWN_LEAVES
            .iter()
            .flat_map(|own| cgroup::pids(&self.cgroup_root.join(own)))
            .collect()
    }

    /// Ends the watchers, as a host would that has none.
    pub fn kill_watchers(&self) {
        // One that has just been started is on its way into its leaf.
        if self.dir.join("run/watch.sock").exists() {
            let _ = cgroup::wait_populated(&self.cgroup_root.join("hold"), Duration::from_secs(2));
        }
        for watcher in self.watchers().into_iter().map(Process::open) {
            watcher.signal(Signal::SIGKILL);
            assert!(
                watcher.wait_end(PATIENCE),
                "the watcher {} does not end",
                watcher.pid
            );
        }
    }

    /// The reports that stayed in the runtime and state directories, where a job was closed by somebody else.
    pub fn closed_reports(&self) -> Vec<Report> {
        let dirs = ["run", "state"].map(|d| self.dir.join(d));
        let jobs = dirs
            .iter()
            .flat_map(|d| fs::read_dir(d).into_iter().flatten().flatten());
        let files = jobs.map(|j| j.path().join("report.json")).filter(|f| f.is_file());
        files.map(|f| super::job::read_report(&f)).collect()
    }

    /// Proves that nothing of the jobs is left: no cage, no state, no live process that came from here but the watcher.
    pub fn assert_nothing_left(&mut self) {
        self.phase("looking for what is left");
        self.wait_forsaken();
        let cages = self.cages();
        assert!(cages.is_empty(), "cages are left: {cages:?}");
        let watchers = self.watchers();
        let mut left = connected_to(&self.dir);
        left.retain(|pid| !watchers.contains(pid) && !self.helpers.iter().any(|h| h.pid == *pid));
        // That of `zoo mask-file` ends with the last process under its filter, which may be the watcher.
        left.retain(|pid| stat(*pid).is_some_and(|(name, _, _)| name != "zoo-answerer"));
        let told: Vec<String> = left.iter().map(|&pid| describe(pid)).collect();
        assert!(told.is_empty(), "processes are left: {told:#?}");
        self.assert_no_state_left();
    }

    /// What the steps of jobs that are over have handed on is gone, as far as there is a record that tells its place.
    fn assert_no_state_left(&self) {
        for (record, state) in self.states() {
            let over = record.join("report.json").exists();
            assert!(!over || !state.exists(), "{} is left", state.display());
        }
    }

    /// The records that name a directory in which steps hand on, and that directory.
    fn states(&self) -> Vec<(PathBuf, PathBuf)> {
        let dirs = ["run", "state"].map(|d| self.dir.join(d));
        let jobs = dirs
            .iter()
            .flat_map(|d| fs::read_dir(d).into_iter().flatten().flatten());
        let state = |record: PathBuf| {
            let spec = fs::read(record.join("spec.json")).ok()?;
            let spec: serde_json::Value = serde_json::from_slice(&spec).ok()?;
            Some((record, PathBuf::from(spec["state_dir"].as_str()?)))
        };
        jobs.filter_map(|job| state(job.path())).collect()
    }

    fn story(&self) -> String {
        let mut out = format!("--- world {} at: {}\n", self.dir.display(), self.phase);
        let _ = writeln!(out, "--- cgroups\n{}", cgroup::tree(&self.cgroup_root));
        for pid in connected_to(&self.dir) {
            let _ = writeln!(out, "--- alive: {}", describe(pid));
        }
        let files = fs::read_dir(&self.dir)
            .into_iter()
            .flatten()
            .flatten()
            .map(|e| e.path());
        for file in files.filter(|f| {
            let name = f.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("stderr") || name.starts_with("report")
        }) {
            let text = fs::read(&file).unwrap_or_default();
            let _ = writeln!(out, "--- {}\n{}", file.display(), String::from_utf8_lossy(&text));
        }
        out
    }

    fn end_everything(&mut self) -> Result<(), String> {
        for helper in &self.helpers {
            helper.signal(Signal::SIGTERM);
            if !helper.wait_end(Duration::from_secs(5)) {
                helper.signal(Signal::SIGKILL);
            }
        }
        cgroup::remove(&self.outside)?;
        cgroup::remove(&self.cgroup_root)?;
        for pid in connected_to(&self.dir) {
            let process = Process::open(pid);
            process.signal(Signal::SIGKILL);
            if !process.wait_end(Duration::from_secs(5)) {
                return Err(describe(pid));
            }
        }
        unmount_below(&self.dir);
        cgroup::remove_base();
        // Of jobs that the test has left open; it is not in our directory.
        for (_, state) in self.states() {
            let _ = fs::remove_dir_all(state);
        }
        fs::remove_dir_all(&self.dir).map_err(|e| format!("{}: {e}", self.dir.display()))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let failing = std::thread::panicking();
        if failing {
            say(&self.story());
        }
        if let Err(why) = self.end_everything() {
            say(&format!("cannot end a test's world: {why}"));
            assert!(failing, "the world of a test that passed cannot be ended: {why}");
        }
    }
}

/// Takes away mounts of a test; a dead FUSE server leaves its mount point behind.
fn unmount_below(dir: &Path) {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    for point in mounts.lines().filter_map(|l| l.split(' ').nth(1)).map(Path::new) {
        if point.starts_with(dir) {
            let flags = nix::mount::MntFlags::MNT_DETACH | nix::mount::MntFlags::MNT_FORCE;
            let _ = nix::mount::umount2(point, flags);
        }
    }
}
