//! A stand-in for GitLab Runner: it makes the calls of a custom executor with the same process group, pipes, files and
//! environment as the real one, and ends them as it does.

use crate::support::needs::{Need, met};
use crate::support::process::Process;
use crate::support::world::World;
use crate::support::{PATIENCE, programs};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::json;
use std::fmt::Write as _;
use std::fs::{self, Permissions};
use std::io::Read;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// The build user: not ours, not root.
pub const BUILD_USER: &str = "nobody";
const NOBODY: u32 = 65534;

/// What the tests take for the job's secret.
pub const SECRET: &str = "glcbt-64_hunter2";

/// One job of a runner; the test itself is the runner.
pub struct Runner<'w> {
    pub world: &'w World,
    /// `$TMPDIR` of the calls.
    pub tmp: PathBuf,
    /// Variables of the runner's own environment.
    pub host: Vec<(&'static str, String)>,
    /// CI variables of the job.
    pub variables: Vec<(&'static str, &'static str)>,
    /// What the driver is: `jobcage gitlab`, or a plain one.
    pub driver: Driver,
    scripts: std::cell::Cell<u32>,
}

/// Who is driven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    /// Ours.
    Jobcage,
    /// Runs the script and nothing else, as the examples in GitLab's documentation do.
    Plain,
}

/// How a call ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code; 128 and more: a signal's, which the runner calls a system failure.
    pub code: i32,
    /// What came into the job's log.
    pub log: String,
    /// The content of `$BUILD_EXIT_CODE_FILE`; empty: there is none.
    pub told: String,
}

/// A call that is under way.
pub struct Call {
    child: Child,
    pub process: Process,
    log: Receiver<Vec<u8>>,
    seen: Vec<u8>,
    exit_code_file: PathBuf,
}

/// Where a job may write; `None`: this cannot run here.
pub fn world(test: &str) -> Option<World> {
    if !met(
        test,
        &[Need::Root, Need::Program("bash"), Need::Program("setsid")],
    ) {
        return None;
    }
    let world = World::new(test);
    // The second one is where the runner keeps the files of variables.
    for name in ["project", "project.tmp"] {
        let dir = world.dir.join(name);
        fs::create_dir(&dir).unwrap();
        chown(&dir, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    Some(world)
}

/// A prepared job in a world of its own: what `play` does with it, its cleanup, and the proof that nothing is left.
pub fn with_job(test: &str, id: u64, play: impl FnOnce(&Runner<'_>)) {
    let Some(mut world) = world(test) else { return };
    let runner = Runner::new(&world, id);
    assert_eq!(runner.call("prepare", &[]).code, 0);
    play(&runner);
    assert_eq!(runner.call("cleanup", &[]).code, 0);
    world.assert_nothing_left();
}

impl<'w> Runner<'w> {
    pub fn new(world: &'w World, id: u64) -> Self {
        let runner = Self {
            world,
            tmp: world.dir.join(format!("custom-executor{id}")),
            host: Vec::new(),
            variables: Vec::new(),
            driver: Driver::Jobcage,
            scripts: 0.into(),
        };
        runner.make_tmp(&json!({
            "id": id,
            "token": SECRET,
            "job_info": {"name": "build", "stage": "test", "project_id": 1, "project_name": "pro\u{1b}[31mject"},
            "variables": [{"key": "CI_JOB_TOKEN", "value": SECRET, "public": false, "masked": true}],
            "steps": [{"name": "script", "script": ["true"], "timeout": 3600}],
        }));
        runner
    }

    /// Another `$TMPDIR` of the same job, as a new attempt has it.
    pub fn make_tmp(&self, response: &serde_json::Value) {
        fs::create_dir_all(&self.tmp).unwrap();
        fs::set_permissions(&self.tmp, Permissions::from_mode(0o700)).unwrap();
        let file = self.tmp.join("response.json");
        fs::write(&file, response.to_string()).unwrap();
        fs::set_permissions(file, Permissions::from_mode(0o600)).unwrap();
    }

    /// Where the driver's words are read: the program, and what stands before the stage's own.
    fn words(&self, call: &str) -> (PathBuf, Vec<String>) {
        match self.driver {
            Driver::Jobcage => (programs::jobcage().to_owned(), vec!["gitlab".into(), call.into()]),
            Driver::Plain if call == "run" => (
                "/bin/sh".into(),
                ["-c", "exec bash \"$1\"", "sh"].map(Into::into).into(),
            ),
            Driver::Plain => ("/bin/true".into(), Vec::new()),
        }
    }

    /// The call as a command, with the environment of contract A3.
    pub fn command(&self, call: &str, more: &[&str]) -> Command {
        let (program, words) = self.words(call);
        let mut command = self.world.command(program);
        command
            .args(words)
            .args(more)
            .current_dir(&self.tmp)
            .env("CI_RUNNER_USER", BUILD_USER)
            .env("CI_RUNNER_USER_DIR", self.world.dir.join("project"))
            .env("TMPDIR", &self.tmp)
            .env("BUILD_FAILURE_EXIT_CODE", "1")
            .env("SYSTEM_FAILURE_EXIT_CODE", "2")
            .env("JOB_RESPONSE_FILE", self.tmp.join("response.json"))
            .env("BUILD_EXIT_CODE_FILE", self.tmp.join("exit_code"))
            .env("CUSTOM_ENV_CI_PROJECT_DIR", self.world.dir.join("project"))
            .env("CUSTOM_ENV_KEY", "secret of a file")
            // The job's own words: none of them is to be believed.
            .env("CUSTOM_ENV_CI_JOB_ID", "../../../tmp/x")
            .env("CUSTOM_ENV_CI_JOB_TOKEN", SECRET)
            .env("CUSTOM_ENV_AWKWARD", "a'b\"c $(touch /tmp/x) `id`\n\u{1b}[31m");
        command.envs(self.host.iter().map(|(name, value)| (name, value)));
        for (name, value) in &self.variables {
            command.env(format!("CUSTOM_ENV_{name}"), value);
        }
        command
    }

    /// Starts a call: a process group of its own, no input, two pipes.
    pub fn start(&self, call: &str, more: &[&str]) -> Call {
        let mut command = self.command(call, more);
        command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let (send, log) = channel();
        pass_on(child.stdout.take().unwrap(), send.clone());
        pass_on(child.stderr.take().unwrap(), send);
        Call {
            process: Process::open(i32::try_from(child.id()).unwrap()),
            child,
            log,
            seen: Vec::new(),
            exit_code_file: self.tmp.join("exit_code"),
        }
    }

    pub fn call(&self, call: &str, more: &[&str]) -> Ended {
        self.start(call, more).end()
    }

    /// Starts a stage whose script has these commands.
    pub fn start_stage(&self, stage: &str, commands: &str) -> Call {
        let script = self.script(commands);
        self.start("run", &[script.to_str().unwrap(), stage])
    }

    pub fn stage(&self, stage: &str, commands: &str) -> Ended {
        self.start_stage(stage, commands).end()
    }

    /// A script in the form that the runner gives it, where the runner puts it.
    pub fn script(&self, commands: &str) -> PathBuf {
        self.scripts.set(self.scripts.get() + 1);
        let dir = self.tmp.join(format!("script{}", self.scripts.get()));
        fs::create_dir(&dir).unwrap();
        fs::set_permissions(&dir, Permissions::from_mode(0o700)).unwrap();
        let script = dir.join("script");
        let project = self.world.dir.join("project");
        let body = format!(
            "export CI_JOB_TOKEN={SECRET}\ncd {}\n{commands}\n",
            project.display()
        );
        let text = format!(
            "#!/usr/bin/env bash\n\ntrap 'exit 1' TERM\n\nset -eo pipefail\nset +o noclobber\n: | eval {}\nexit 0\n",
            quoted(&body)
        );
        fs::write(&script, text).unwrap();
        fs::set_permissions(&script, Permissions::from_mode(0o700)).unwrap();
        script
    }

    /// A file of the job, as it is now.
    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.world.dir.join("project").join(name)).unwrap_or_default()
    }

    /// The processes whose numbers the job has put into `pids`.
    pub fn left(&self) -> Vec<Process> {
        let pids = self.read("pids");
        pids.lines()
            .map(|pid| Process::open(pid.trim().parse().unwrap()))
            .collect()
    }
}

/// In bash's own words for any text.
pub fn quoted(text: &str) -> String {
    let mut quoted = String::from("$'");
    for byte in text.bytes() {
        match byte {
            b'\'' | b'\\' => write!(quoted, "\\{}", char::from(byte)).unwrap(),
            b'\n' => quoted.push_str("\\n"),
            byte if byte.is_ascii_graphic() || byte == b' ' => quoted.push(char::from(byte)),
            byte => write!(quoted, "\\x{byte:02x}").unwrap(),
        }
    }
    quoted.push('\'');
    quoted
}

impl Call {
    /// Waits for more of the log; `false`: nobody holds the pipes any more.
    #[track_caller]
    fn read_more(&mut self, end: Instant) -> bool {
        match self
            .log
            .recv_timeout(end.saturating_duration_since(Instant::now()))
        {
            Ok(piece) => self.seen.extend(piece),
            Err(RecvTimeoutError::Disconnected) => return false,
            Err(RecvTimeoutError::Timeout) => panic!("the call hangs; its log: {}", self.text()),
        }
        true
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.seen).into_owned()
    }

    /// Waits for a line of the log.
    #[track_caller]
    pub fn wait_line(&mut self, wanted: &str) {
        self.wait_for_line(wanted, PATIENCE);
    }

    /// As [`Call::wait_line`], for as long as this; the log up to then.
    #[track_caller]
    pub fn wait_for_line(&mut self, wanted: &str, patience: Duration) -> String {
        let end = Instant::now() + patience;
        while !self.text().lines().any(|line| line == wanted) {
            assert!(
                self.read_more(end),
                "it ended without {wanted:?}: {}",
                self.text()
            );
        }
        self.text()
    }

    /// As the runner does on cancel and timeout: to the group, and nothing else.
    pub fn signal(&self, signal: Signal) {
        killpg(Pid::from_raw(self.process.pid), signal).unwrap();
    }

    /// As `exec.Cmd.Wait`: until the driver has ended and nobody holds its pipes.
    #[track_caller]
    pub fn end(mut self) -> Ended {
        let end = Instant::now() + PATIENCE;
        while self.read_more(end) {}
        let status = self.child.wait().unwrap();
        Ended {
            code: status.code().unwrap_or_else(|| 128 + status.signal().unwrap()),
            log: self.text(),
            told: fs::read_to_string(&self.exit_code_file).unwrap_or_default(),
        }
    }
}

/// Sends what comes, until its end.
fn pass_on(mut pipe: impl Read + Send + 'static, to: Sender<Vec<u8>>) {
    std::thread::spawn(move || {
        let mut piece = [0; 4096];
        while let Ok(n @ 1..) = pipe.read(&mut piece) {
            if to.send(piece[..n].to_vec()).is_err() {
                return;
            }
        }
    });
}
