//! A detached job as a test sees it: the files of its record, and the processes that look after it.

use super::PATIENCE;
use super::call::Done;
use super::cgroup;
use super::job::read_report;
use super::process::Process;
use super::world::World;
use jobcage_job::{Report, StepReport};
use nix::sys::signal::Signal;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// A detached job.
pub struct Captured {
    /// Its id.
    pub id: String,
    /// Its record.
    pub record: PathBuf,
    cgroup_root: PathBuf,
}

impl World {
    /// `jobcage run --detach options… -- argv…`: returns when that does.
    #[track_caller]
    pub fn detach(&self, options: &[&str], argv: &[&str]) -> Captured {
        let id = self.try_detach(options, argv).expect(0).text();
        self.captured(&id)
    }

    /// As [`World::detach`], whatever comes of it.
    pub fn try_detach(&self, options: &[&str], argv: &[&str]) -> Done {
        self.call(&[&["run", "--detach"], options, &["--"], argv].concat())
    }

    /// The detached job of this id.
    #[track_caller]
    pub fn captured(&self, id: &str) -> Captured {
        assert!(
            id.parse::<jobcage_job::JobId>().is_ok_and(|id| id.is_generated()),
            "{id:?} is no id of a job"
        );
        Captured {
            record: self.dir.join("state").join(id),
            id: id.to_owned(),
            cgroup_root: self.cgroup_root.clone(),
        }
    }

    /// Waits for a file of the world that ends with a whole line: its content.
    #[track_caller]
    pub fn told(&self, file: &str) -> String {
        let read = || fs::read_to_string(self.dir.join(file)).unwrap_or_default();
        let is_whole = || read().ends_with('\n');
        assert!(wait_written(&self.dir, is_whole), "no {file}");
        read().trim().to_owned()
    }

    /// As [`World::assert_nothing_left`], and no keeper and no supervisor is left either.
    pub fn assert_nobody_left(&mut self) {
        for leaf in ["keepers", "supervisors"] {
            let dir = self.cgroup_root.join(leaf);
            assert!(
                cgroup::wait_empty(&dir, PATIENCE),
                "{leaf} are left:\n{}",
                cgroup::tree(&dir)
            );
        }
        self.assert_nothing_left();
    }
}

impl Captured {
    /// A file of its record as it is now; nothing if it is not there.
    pub fn file(&self, name: &str) -> Vec<u8> {
        fs::read(self.record.join(name)).unwrap_or_default()
    }

    /// A file of its record as text.
    pub fn text(&self, name: &str) -> String {
        String::from_utf8_lossy(&self.file(name)).into_owned()
    }

    /// A file of its record as JSON.
    #[track_caller]
    pub fn json(&self, name: &str) -> serde_json::Value {
        let text = self.text(name);
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{name}: {e}: {text:?}"))
    }

    /// The names of the files of its record, in order.
    pub fn files(&self) -> Vec<String> {
        let listed = fs::read_dir(&self.record).into_iter().flatten().flatten();
        let mut names: Vec<String> = listed
            .map(|e| e.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    /// Waits until what is written into the record makes `done` true; whether it came to that.
    pub fn wait(&self, done: impl Fn(&Self) -> bool) -> bool {
        wait_written(&self.record, || done(self))
    }

    /// Waits until the log of this name is exactly this text.
    #[track_caller]
    pub fn wait_log(&self, name: &str, text: &str) {
        assert!(
            self.wait(|job| job.text(name) == text),
            "{name} is {:?}, not {text:?}",
            self.text(name)
        );
    }

    /// Waits until it is over; its report.
    #[track_caller]
    pub fn wait_over(&self) -> Report {
        assert!(
            self.wait(|job| job.record.join("report.json").exists()),
            "{} does not end: {:?}\n{}\n{}",
            self.id,
            self.files(),
            self.text("phase.json"),
            cgroup::tree(&self.cgroup_root)
        );
        read_report(&self.record.join("report.json"))
    }

    /// What the record says of a step now.
    #[track_caller]
    pub fn step(&self, number: u32) -> StepReport {
        let text = self.text(&format!("step-{number:02}.json"));
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("step {number}: {e}: {text:?}"))
    }

    /// The pid of its supervisor, by what `jobcage show` says; `None`: nobody looks after it now.
    pub fn supervisor_now(&self, world: &World) -> Option<i32> {
        let shown = world.call(&["show", &self.id, "--json"]).json();
        let pid = shown["supervisor"].as_i64()?;
        (shown["state"] == "running").then(|| i32::try_from(pid).unwrap())
    }

    /// Its supervisor.
    #[track_caller]
    pub fn supervisor(&self, world: &World) -> Process {
        self.next_supervisor(world, 0)
    }

    /// The supervisor that comes after this one.
    #[track_caller]
    pub fn next_supervisor(&self, world: &World, before: i32) -> Process {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(pid) = self.supervisor_now(world).filter(|pid| *pid != before) {
                return Process::open(pid);
            }
            assert!(
                Instant::now() < end && !self.record.join("report.json").exists(),
                "nobody looks after {}: {:?} {}",
                self.id,
                self.files(),
                self.text("report.json")
            );
        }
    }

    /// Its keeper.
    #[track_caller]
    pub fn keeper(&self) -> Process {
        let pids = cgroup::pids(&self.cgroup_root.join("keepers"));
        let own = pids.iter().find(|pid| {
            let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let words: Vec<&[u8]> = command.split(|b| *b == 0).collect();
            words.contains(&&b"__keep"[..]) && words.contains(&self.id.as_bytes())
        });
        Process::open(*own.unwrap_or_else(|| panic!("{} has no keeper", self.id)))
    }
}

/// SIGKILLs them at once and waits until they have ended.
#[track_caller]
pub fn kill_all(victims: &[&Process]) {
    for victim in victims {
        victim.signal(Signal::SIGKILL);
    }
    for victim in victims {
        assert!(victim.wait_end(PATIENCE), "{} does not die", victim.pid);
    }
}

/// As [`cgroup::wait_change`], for as long as a test waits for anything.
pub fn wait_written(dir: &Path, done: impl Fn() -> bool) -> bool {
    cgroup::wait_change(dir, PATIENCE, done)
}
