//! Where one point is run: directories and a cgroup root that nobody else has, and what can be seen there afterwards.

use crate::support::process::{Process, connected_to, describe, stat};
use crate::support::world::OWN_LEAVES;
use crate::support::{cgroup, left, programs};
use jobcage_job::{JobSpec, Report};
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::os::fd::AsFd as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Whatever is started has ended by then, or it hangs.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// How long a watcher may take to empty a cage.
const WATCHER: Duration = Duration::from_secs(10);

/// The place of one point.
pub struct Place {
    /// Its directory.
    pub dir: PathBuf,
    /// Its cages.
    pub root: PathBuf,
    /// Processes that the scene has started beside jobcage.
    pub helpers: Vec<Child>,
}

/// A process that has ended, and what it wrote.
pub struct Ended {
    /// Its exit code.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Its stdout.
    pub stdout: String,
    /// Its stderr.
    pub stderr: String,
}

/// A record as it stands in the runtime or state directory.
#[derive(Debug, Clone)]
pub struct Record {
    /// Its files.
    pub files: Vec<String>,
    /// Whether `spec.json` is there as a whole.
    pub spec: bool,
    /// The report.
    pub report: Option<Report>,
}

impl Place {
    /// Makes it.
    pub fn new(dir: &Path) -> Self {
        let dir = dir.join("point");
        for sub in ["run", "state"] {
            fs::create_dir_all(dir.join(sub)).unwrap();
        }
        fs::write(dir.join("config.toml"), "").unwrap();
        nix::unistd::mkfifo(&dir.join("ready"), Mode::S_IRWXU).unwrap();
        Self {
            dir,
            root: cgroup::make("point"),
            helpers: Vec::new(),
        }
    }

    /// The variables that make jobcage live here alone.
    pub fn variables(&self) -> Vec<(&'static str, PathBuf)> {
        vec![
            ("JOBCAGE_CGROUP_ROOT", self.root.clone()),
            ("JOBCAGE_RUNTIME_DIR", self.dir.join("run")),
            ("JOBCAGE_STATE_DIR", self.dir.join("state")),
            ("JOBCAGE_CONFIG", self.dir.join("config.toml")),
        ]
    }

    /// A command in this place, whose output goes to files, so that nobody waits for who else holds it.
    pub fn command(&self, program: &Path, name: &str) -> Command {
        let mut command = Command::new(program);
        for (key, _) in std::env::vars_os() {
            if key.as_encoded_bytes().starts_with(b"JOBCAGE_") {
                command.env_remove(key);
            }
        }
        command
            .envs(self.variables())
            .current_dir(&self.dir)
            .stdin(Stdio::null())
            .stdout(File::create(self.dir.join(format!("{name}.out"))).unwrap())
            .stderr(File::create(self.dir.join(format!("{name}.err"))).unwrap());
        command
    }

    /// Starts jobcage as it is.
    pub fn start(&self, words: &[String], name: &str) -> Child {
        self.command(programs::jobcage(), name)
            .args(words)
            .spawn()
            .unwrap()
    }

    /// Runs jobcage as it is.
    pub fn jobcage(&self, words: &[&str]) -> Ended {
        let words: Vec<String> = words.iter().map(|&w| w.to_owned()).collect();
        let mut child = self.start(&words, "plain");
        self.finish(&mut child, "plain")
            .unwrap_or_else(|why| panic!("{words:?}: {why}"))
    }

    /// Waits for its end, within the deadline.
    pub fn finish(&self, child: &mut Child, name: &str) -> Result<Ended, String> {
        let process = Process::open(i32::try_from(child.id()).unwrap());
        if !process.wait_end(DEADLINE) {
            let told = describe(process.pid);
            process.signal(Signal::SIGKILL);
            let _ = child.wait();
            return Err(format!("it hangs: {told}"));
        }
        let status = child.wait().unwrap();
        let read = |what: &str| {
            let text = fs::read(self.dir.join(format!("{name}.{what}"))).unwrap_or_default();
            String::from_utf8_lossy(&text).into_owned()
        };
        Ok(Ended {
            code: status.code(),
            signal: status.signal(),
            stdout: read("out"),
            stderr: read("err"),
        })
    }

    /// Waits until the job says by the FIFO that it runs; `false`: jobcage has ended before.
    pub fn wait_ready(&self, jobcage: &Process) -> bool {
        // For reading and writing: the open does not wait, and there is no end of file.
        let fifo = OpenOptions::new()
            .read(true)
            .write(true)
            .open(self.dir.join("ready"))
            .unwrap();
        let Some(fd) = jobcage.fd() else { return false };
        let mut fds = [
            PollFd::new(fifo.as_fd(), PollFlags::POLLIN),
            PollFd::new(fd, PollFlags::POLLIN),
        ];
        let _ = poll(&mut fds, left(Instant::now() + DEADLINE));
        fds[0].revents().is_some_and(|r| !r.is_empty())
    }

    /// The cages that exist.
    pub fn cages(&self) -> Vec<PathBuf> {
        let listed = fs::read_dir(&self.root).into_iter().flatten().flatten();
        let is_own = |name: &std::ffi::OsStr| OWN_LEAVES.iter().any(|own| name == *own);
        let dirs = listed.filter(|e| e.file_type().is_ok_and(|t| t.is_dir()) && !is_own(&e.file_name()));
        dirs.map(|e| e.path()).collect()
    }

    /// The watcher, and what it has started: every jobcage but `except`. It is not known by its cgroup, since it moves
    /// itself there.
    pub fn watchers(&self, except: Option<i32>) -> Vec<i32> {
        let listed = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = listed.filter_map(|e| e.file_name().to_str()?.parse().ok());
        let is_jobcage =
            |pid: i32| fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == programs::jobcage());
        pids.filter(|&pid| Some(pid) != except && is_jobcage(pid))
            .collect()
    }

    /// Kills the watcher and what it has started, until there is nothing of it.
    pub fn kill_watchers(&self, except: Option<i32>) {
        loop {
            let watchers: Vec<Process> = self.watchers(except).into_iter().map(Process::open).collect();
            if watchers.is_empty() {
                return;
            }
            for watcher in watchers {
                watcher.signal(Signal::SIGKILL);
                assert!(
                    watcher.wait_end(DEADLINE),
                    "the watcher {} does not end",
                    watcher.pid
                );
            }
        }
    }

    /// Waits until every job is over, with its cage gone and its report written, or until `hopeless`.
    pub fn wait_over(&self, hopeless: impl Fn() -> bool) {
        self.wait_until(|| self.is_over() || hopeless());
    }

    /// Waits until whoever closes the jobs has also put away what only living ones need, which comes behind the report.
    pub fn wait_settled(&self) {
        self.wait_until(|| self.is_over() && self.unfinished().is_empty());
    }

    fn is_over(&self) -> bool {
        self.cages().is_empty() && self.records().values().all(|r| !r.spec || r.report.is_some())
    }

    fn wait_until(&self, done: impl Fn() -> bool) {
        let end = Instant::now() + WATCHER;
        while Instant::now() < end && !done() {
            // The report comes in another directory, soon after the cage is gone.
            let soon = (Instant::now() + Duration::from_millis(20)).min(end);
            cgroup::wait_change(&self.root, soon.saturating_duration_since(Instant::now()), &done);
        }
    }

    /// Waits until a watcher has hold of a supervisor, which nothing tells of but its descriptors; one that cannot have a pidfd keeps the
    /// connection.
    pub fn wait_registered(&self, watcher: &Process) {
        let has_hold = || {
            let listed = fs::read_dir(format!("/proc/{}/fd", watcher.pid));
            let fds = listed.into_iter().flatten().flatten();
            let targets = fds.filter_map(|fd| fs::read_link(fd.path()).ok());
            targets
                .filter(|to| to.to_string_lossy().contains("[pidfd]"))
                .count()
                > 0
        };
        let end = Instant::now() + Duration::from_secs(2);
        while Instant::now() < end && !watcher.has_ended() && !has_hold() {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Whether a watcher, or what it has started, is there.
    pub fn is_watched(&self) -> bool {
        !self.watchers(None).is_empty()
    }

    /// Who lives of all that was started here, but for the watcher.
    pub fn alive(&self) -> Vec<String> {
        let helpers: Vec<i32> = self
            .helpers
            .iter()
            .map(|h| i32::try_from(h.id()).unwrap())
            .collect();
        let mut found = connected_to(&self.dir);
        // Read after the others: what a watcher starts begins its life there.
        let watchers = self.watchers(None);
        found.retain(|pid| !watchers.contains(pid) && !helpers.contains(pid));
        // strace ends a moment after the one it traced.
        found.retain(|&pid| match stat(pid) {
            Some((name, ..)) if name == "strace" => !Process::open(pid).wait_end(DEADLINE),
            Some((_, state, _)) => !matches!(state, 'Z' | 'X'),
            None => false,
        });
        found.into_iter().map(describe).collect()
    }

    /// The records, by the name of their directories.
    pub fn records(&self) -> BTreeMap<String, Record> {
        let listed = ["run", "state"].map(|place| fs::read_dir(self.dir.join(place)).unwrap());
        let dirs = listed
            .into_iter()
            .flatten()
            .flatten()
            .filter(|e| e.path().is_dir());
        dirs.map(|e| {
            (
                e.file_name().to_string_lossy().into_owned(),
                Record::read(&e.path()),
            )
        })
        .collect()
    }

    /// Files in the runtime and state directories that are no whole part of a record, and not the watcher's socket.
    pub fn unfinished(&self) -> Vec<String> {
        let mut found = Vec::new();
        for place in ["run", "state"] {
            for entry in fs::read_dir(self.dir.join(place)).unwrap().flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                if !entry.path().is_dir() && name != "watch.sock" {
                    found.push(format!("{place}/{name}"));
                }
            }
        }
        for (id, record) in self.records() {
            let is_whole = |f: &str| {
                matches!(
                    f,
                    "lock" | "spec.json" | "report.json" | "closing" | "census.json" | "given-back.json"
                ) || ((f.starts_with("step-") || f.starts_with("begun-") || f.starts_with("status-"))
                    && f.ends_with(".json"))
            };
            found.extend(
                record
                    .files
                    .iter()
                    .filter(|f| !is_whole(f))
                    .map(|f| format!("{id}/{f}")),
            );
        }
        found
    }

    /// Ends and removes everything, whatever came before.
    pub fn end(mut self) {
        for helper in &mut self.helpers {
            let _ = helper.kill();
            let _ = helper.wait();
        }
        self.kill_watchers(None);
        cgroup::remove(&self.root).unwrap();
        for pid in connected_to(&self.dir) {
            let process = Process::open(pid);
            process.signal(Signal::SIGKILL);
            assert!(process.wait_end(DEADLINE), "cannot be killed: {}", describe(pid));
        }
        fs::remove_dir_all(&self.dir).unwrap();
    }
}

impl Record {
    fn read(dir: &Path) -> Self {
        let listed = fs::read_dir(dir).into_iter().flatten().flatten();
        let text = |name: &str| fs::read(dir.join(name)).unwrap_or_default();
        Self {
            files: listed
                .map(|e| e.file_name().to_string_lossy().into_owned())
                .collect(),
            spec: serde_json::from_slice::<JobSpec>(&text("spec.json")).is_ok(),
            report: serde_json::from_slice(&text("report.json")).ok(),
        }
    }
}
