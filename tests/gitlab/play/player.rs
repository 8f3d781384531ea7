//! The test's side of a play: it starts a runner that is a process of its own, cancels, signals and kills it, and has what came of it.

use super::plan::{Driver, Generation, Plan, Timeouts};
use super::trace::{Line, lines, name_of};
use crate::runner::BUILD_USER;
use crate::support::captured::wait_written;
use crate::support::process::{Process, connected_to};
use crate::support::world::World;
use crate::support::{PATIENCE, programs};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::fs::{self, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

/// The word by which the test binary is told to be the runner.
pub const WORD: &str = "be-the-runner";

/// A play that can still be changed.
pub struct Player<'w> {
    pub world: &'w World,
    pub plan: Plan,
    /// The runner's own environment, beside that of the world.
    pub env: Vec<(String, String)>,
    /// A program that has to end in an exec of the words behind its own; the runner is started by it.
    pub around: Vec<String>,
}

/// A play that is under way.
pub struct Live<'w> {
    pub world: &'w World,
    child: Child,
    server: ChildStdin,
    plan: Plan,
}

/// What came of it.
pub struct Played {
    /// The runner's exit code; negative: the signal that ended it.
    pub rc: i32,
    pub lines: Vec<Line>,
    pub log: String,
    /// Whether a `$TMPDIR` with its secrets is left.
    pub tmp_is_left: bool,
    trace: PathBuf,
}

impl Played {
    /// Reads the trace anew: helpers of the job may write after the runner's end.
    pub fn read_again(&mut self) {
        self.lines = whole_trace(lines(&fs::read_to_string(&self.trace).unwrap()));
    }
}

/// A runner that is gone before the job was reported says nothing of it itself.
fn whole_trace(mut lines: Vec<Line>) -> Vec<Line> {
    let is_reported = lines.iter().any(|line| line.what.starts_with("job_final"));
    let at = lines.last().map_or(0.0, |line| line.at);
    if !is_reported {
        lines.push(Line {
            at,
            who: "server".into(),
            what: "runner_exited {\"final\": null}".into(),
            pid: None,
        });
    }
    lines
}

impl<'w> Player<'w> {
    /// `jobcage gitlab` drives this job, for a build user who is not us.
    pub fn new(world: &'w World, generation: Generation, job: Value) -> Self {
        let dir = |name: &str| {
            let dir = world.dir.join(name);
            fs::create_dir_all(&dir).unwrap();
            dir
        };
        let call = |call: &str| {
            let program = programs::jobcage().display().to_string();
            vec![program, "gitlab".into(), call.into()]
        };
        let plan = Plan {
            generation,
            response: job,
            driver: Driver {
                config: call("config"),
                prepare: call("prepare"),
                run: call("run"),
                cleanup: call("cleanup"),
            },
            timeouts: Timeouts {
                update: 1.0,
                ..Timeouts::default()
            },
            second_ms: 100,
            tmp: dir("tmp"),
            builds_dir: dir("builds"),
            cache_dir: dir("cache"),
            trace: world.dir.join("trace"),
            log: world.dir.join("log"),
        };
        // The job's spies write there too.
        fs::write(&plan.trace, "").unwrap();
        fs::set_permissions(&plan.trace, Permissions::from_mode(0o666)).unwrap();
        for dir in ["builds", "cache", "project"] {
            fs::create_dir_all(world.dir.join(dir)).unwrap();
            chown(world.dir.join(dir), Some(65534), Some(65534)).unwrap();
        }
        let dir = world.dir.join("project").display().to_string();
        let env = [
            ("CI_RUNNER_USER", BUILD_USER.to_owned()),
            ("CI_RUNNER_USER_DIR", dir),
        ];
        Self {
            world,
            plan,
            env: env.map(|(name, value)| (name.to_owned(), value)).into(),
            around: Vec::new(),
        }
    }

    /// Has another driver: a script of the fixtures, under four names, by which it knows its call.
    pub fn drive_with(&mut self, script: &str) {
        let source = fixture(script);
        let dir = self.world.dir.join("driver");
        fs::create_dir_all(&dir).unwrap();
        let copy = |call: &str| {
            let to = dir.join(call);
            fs::copy(&source, &to).unwrap();
            fs::set_permissions(&to, Permissions::from_mode(0o755)).unwrap();
            vec![to.display().to_string()]
        };
        self.plan.driver = Driver {
            config: copy("config"),
            prepare: copy("prepare"),
            run: copy("run"),
            cleanup: copy("cleanup"),
        };
    }

    /// A variable of the runner's own environment.
    pub fn set(&mut self, name: &str, value: impl ToString) {
        self.env.push((name.into(), value.to_string()));
    }

    /// Starts the runner.
    pub fn start(self) -> Live<'w> {
        let plan = self.world.dir.join("plan.json");
        fs::write(&plan, serde_json::to_vec(&self.plan).unwrap()).unwrap();
        let errors = fs::File::create(self.world.dir.join("stderr-runner")).unwrap();
        let exe = std::env::current_exe().unwrap().display().to_string();
        let mut words = self.around.iter().map(String::as_str);
        let own = [&exe, WORD, plan.to_str().unwrap()];
        let mut words = words.by_ref().chain(own);
        let mut command = self.world.command(words.next().unwrap());
        command.args(words);
        command.envs(self.env).env("TRACE", &self.plan.trace);
        command
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(errors);
        let mut child = command.spawn().unwrap();
        Live {
            world: self.world,
            server: child.stdin.take().unwrap(),
            child,
            plan: self.plan,
        }
    }

    /// Plays it to its end.
    pub fn play(self) -> Played {
        self.start().end()
    }
}

fn now() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs_f64()
}

/// A file of `tests/gitlab/fixtures`.
pub fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/gitlab/fixtures")
        .join(name)
}

impl Live<'_> {
    /// What has happened so far.
    pub fn lines(&self) -> Vec<Line> {
        lines(&fs::read_to_string(&self.plan.trace).unwrap())
    }

    /// Waits for an event, told by who and by the beginning of what.
    #[track_caller]
    pub fn wait_for(&self, who: &str, what: &str) {
        let is_there = || {
            self.lines()
                .iter()
                .any(|line| line.who == who && line.what.starts_with(what))
        };
        assert!(
            wait_written(&self.world.dir, is_there),
            "no {what:?} of {who}: {:#?}\n{}",
            self.lines(),
            fs::read_to_string(&self.plan.log).unwrap_or_default()
        );
    }

    /// Waits until the runner does something after another event.
    #[track_caller]
    pub fn wait_for_after(&self, event: &str, what: &str) {
        let is_there = || {
            let lines = self.lines();
            let mut later = lines.iter().skip_while(|line| !line.what.starts_with(event));
            later.any(|line| line.who == "runner" && line.what.starts_with(what))
        };
        assert!(
            wait_written(&self.world.dir, is_there),
            "no {what:?} after {event:?}: {:#?}",
            self.lines()
        );
    }

    /// Waits for a file in the world's directory.
    #[track_caller]
    pub fn wait_file(&self, name: &str) {
        assert!(
            wait_written(&self.world.dir, || self.world.dir.join(name).exists()),
            "no {name}: {}",
            fs::read_to_string(&self.plan.log).unwrap_or_default()
        );
    }

    /// A word to the stand-in of the server, which the runner has inside: see `Hub::take_words`.
    pub fn say(&mut self, words: &str) {
        writeln!(self.server, "{words}").unwrap();
    }

    /// As `kill` does; the trace tells.
    pub fn signal(&self, signal: Signal) {
        let line = format!("{:.6} server signal_to_runner {{\"sig\": \"{signal}\"}}\n", now());
        let mut trace = fs::File::options().append(true).open(&self.plan.trace).unwrap();
        trace.write_all(line.as_bytes()).unwrap();
        Process::open(self.child.id().cast_signed()).signal(signal);
    }

    /// Waits for the runner's end.
    #[track_caller]
    pub fn end(mut self) -> Played {
        let runner = Process::open(self.child.id().cast_signed());
        if !runner.wait_end(PATIENCE) {
            let (lines, log) = (self.lines(), fs::read_to_string(&self.plan.log));
            runner.signal(Signal::SIGKILL);
            panic!("the runner does not end: {lines:#?}\n{log:?}");
        }
        let status = self.child.wait().unwrap();
        Played {
            rc: status.code().unwrap_or_else(|| -status.signal().unwrap()),
            lines: whole_trace(self.lines()),
            log: fs::read_to_string(&self.plan.log).unwrap_or_default(),
            tmp_is_left: fs::read_dir(&self.plan.tmp).unwrap().next().is_some(),
            trace: self.plan.trace,
        }
    }
}

/// The processes that came from this world's jobs, each by what it is.
pub fn left(world: &World) -> Vec<(i32, String)> {
    let watchers = world.watchers();
    let mut pids = connected_to(&world.dir);
    pids.retain(|pid| !watchers.contains(pid));
    let name = |pid: i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        name_of(
            &line
                .split('\0')
                .filter(|word| !word.is_empty())
                .collect::<Vec<_>>(),
        )
    };
    pids.into_iter().map(|pid| (pid, name(pid))).collect()
}
