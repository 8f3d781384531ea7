//! A stand-in for GitLab Runner's shell executor (contract, B1): it starts `bash --login`, or `su` with it, by `PATH` in a
//! process group of its own, feeds the script by a pipe, and waits for the end of its own pipes. The test itself is the
//! runner, so its program is the one that the world's configuration names.

use crate::support::call::{Done, to_end};
use crate::support::needs::{Need, met};
use crate::support::process::Process;
use crate::support::world::World;
use crate::support::{PATIENCE, programs};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write as _};
use std::os::unix::fs::{chown, symlink};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// Whose jobs they are where the runner is root's.
pub const BUILD_USER: &str = "nobody";
const NOBODY: u32 = 65534;

/// What the host's configuration says, beside the runner.
const SETTINGS: &str = "[run]\ngrace = '10s'\n";

/// How the runner starts a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// As its own user, by the older runners' word.
    Bash,
    /// As another user, as the packages have it.
    Su,
}

/// Both.
pub const WAYS: [Way; 2] = [Way::Bash, Way::Su];

impl Way {
    pub fn words(self) -> Vec<&'static str> {
        match self {
            Self::Bash => vec!["bash", "--login"],
            Self::Su => vec!["su", "-s", "/bin/bash", BUILD_USER, "-c", "bash -l"],
        }
    }
}

/// A host with a runner.
pub struct Host {
    pub world: World,
}

/// A stage that is under way.
pub struct Stage {
    child: Child,
    pub process: Process,
    pieces: Receiver<Vec<u8>>,
    seen: Vec<u8>,
}

/// How a stage ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code, or 128 + the signal that ended it.
    pub code: i32,
    /// What came into the job's log.
    pub log: String,
}

impl Host {
    /// A host whose runner's service has the shims first in its `PATH`; `None`: this cannot run here.
    pub fn new(test: &str) -> Option<Self> {
        let needs = [
            Need::Root,
            Need::Program("bash"),
            Need::Program("su"),
            Need::Program("setsid"),
        ];
        if !met(test, &needs) {
            return None;
        }
        let host = Self {
            world: World::new(test),
        };
        fs::create_dir(host.shims()).unwrap();
        for name in ["bash", "su"] {
            symlink(programs::jobcage(), host.shims().join(name)).unwrap();
        }
        fs::create_dir(host.project()).unwrap();
        chown(host.project(), Some(NOBODY), Some(NOBODY)).unwrap();
        host.configure(SETTINGS);
        Some(host)
    }

    /// The host's configuration: the runner, which is this test, and more.
    pub fn configure(&self, more: &str) {
        let own = std::env::current_exe().unwrap();
        self.configure_runner(&own, more);
    }

    pub fn configure_runner(&self, runner: &Path, more: &str) {
        let text = format!(
            "[shim]\nrunner = ['/usr/bin/gitlab-runner', '{}']\n{more}",
            runner.display()
        );
        fs::write(self.world.dir.join("config.toml"), text).unwrap();
    }

    pub fn shims(&self) -> PathBuf {
        self.world.dir.join("shims")
    }

    /// Where the job may write.
    pub fn project(&self) -> PathBuf {
        self.world.dir.join("project")
    }

    /// The service's `PATH`.
    pub fn path(&self, shims: bool) -> String {
        let usual = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        if shims {
            format!("{}:{usual}", self.shims().display())
        } else {
            usual.into()
        }
    }

    /// A program of that `PATH`, found there as the runner finds it.
    pub fn command(&self, path: &str, words: &[&str]) -> Command {
        let found = std::env::split_paths(path).map(|dir| dir.join(words[0]));
        let program = found.into_iter().find(|file| file.exists()).unwrap();
        let mut command = self.world.command(program);
        command.arg0(words[0]).args(&words[1..]).env("PATH", path);
        command
    }

    /// Starts a stage: a process group of its own, the script on a pipe, two pipes for its output.
    pub fn start(&self, way: Way, shims: bool, script: impl Into<Vec<u8>>) -> Stage {
        let mut command = self.command(&self.path(shims), &way.words());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        start(command, script.into())
    }

    /// A stage with these commands, as the runner writes them.
    pub fn start_job(&self, way: Way, shims: bool, commands: &str) -> Stage {
        self.start(way, shims, self.script(commands))
    }

    pub fn job(&self, way: Way, commands: &str) -> Ended {
        self.start_job(way, true, commands).end()
    }

    /// The runner's own form: one line of a login shell, which evaluates all the rest beside its standard input.
    pub fn script(&self, commands: &str) -> String {
        let body = format!("cd {}\n{commands}\n", self.project().display());
        let quoted = body.replace('\'', r"'\''");
        format!("trap 'exit 1' TERM\nset -eo pipefail\nset +o noclobber\n: | eval '{quoted}'\nexit 0\n")
    }

    /// The words of any other call, with the shims in `PATH` or without, to its end.
    pub fn call(&self, shims: bool, words: &[&str], stdin: &str) -> Done {
        to_end(self.command(&self.path(shims), words), stdin.as_bytes())
    }

    /// A file of the job, as it is now.
    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.project().join(name)).unwrap_or_default()
    }

    /// The processes whose numbers the job has put into `pids`.
    pub fn left(&self) -> Vec<Process> {
        let pids = self.read("pids");
        pids.lines()
            .map(|pid| Process::open(pid.trim().parse().unwrap()))
            .collect()
    }
}

/// Starts a stage whose pipes are the command's own business.
pub fn start(mut command: Command, script: Vec<u8>) -> Stage {
    let told = format!("{command:?}");
    let mut child = command
        .process_group(0)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{told}: {e}"));
    // The runner's end of a shared pipe.
    drop(command);
    let mut stdin = child.stdin.take().unwrap();
    // Whether anybody reads it is the stage's business.
    std::thread::spawn(move || drop(stdin.write_all(&script)));
    let (send, pieces) = channel();
    if let Some(out) = child.stdout.take() {
        pass_on(out, send.clone());
    }
    if let Some(err) = child.stderr.take() {
        pass_on(err, send);
    }
    Stage {
        process: Process::open(i32::try_from(child.id()).unwrap()),
        child,
        pieces,
        seen: Vec::new(),
    }
}

impl Stage {
    /// Waits for more of the log; `false`: nobody holds the pipes any more.
    #[track_caller]
    fn read_more(&mut self, end: Instant) -> bool {
        let left = end.saturating_duration_since(Instant::now());
        match self.pieces.recv_timeout(left) {
            Ok(piece) => self.seen.extend(piece),
            Err(RecvTimeoutError::Disconnected) => return false,
            Err(RecvTimeoutError::Timeout) => panic!("the stage hangs; its log: {}", self.text()),
        }
        true
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.seen).into_owned()
    }

    /// Waits for a line of the log.
    #[track_caller]
    pub fn wait_line(&mut self, wanted: &str) {
        let end = Instant::now() + PATIENCE;
        while !self.text().lines().any(|line| line == wanted) {
            let more = self.read_more(end);
            assert!(more, "it ended without {wanted:?}: {}", self.text());
        }
    }

    /// As the runner does on cancel, timeout and stop: to the group, and nothing else.
    pub fn signal(&self, signal: Signal) {
        killpg(Pid::from_raw(self.process.pid), signal).unwrap();
    }

    /// The process that the runner has started, whoever still holds its pipes.
    #[track_caller]
    pub fn end_of_process(&mut self) -> i32 {
        assert!(
            self.process.wait_end(PATIENCE),
            "it does not end: {}",
            self.text()
        );
        let status = self.child.wait().unwrap();
        status.code().unwrap_or_else(|| 128 + status.signal().unwrap())
    }

    /// As `exec.Cmd.Wait`: until it has ended and nobody holds its pipes.
    #[track_caller]
    pub fn end(self) -> Ended {
        self.end_within(PATIENCE)
    }

    #[track_caller]
    pub fn end_within(self, patience: Duration) -> Ended {
        let (code, log) = self.ended_within(patience);
        Ended {
            code,
            log: String::from_utf8_lossy(&log).into_owned(),
        }
    }

    #[track_caller]
    pub fn end_in_bytes(self) -> (i32, Vec<u8>) {
        self.ended_within(PATIENCE)
    }

    #[track_caller]
    fn ended_within(mut self, patience: Duration) -> (i32, Vec<u8>) {
        let end = Instant::now() + patience;
        while self.read_more(end) {}
        (self.end_of_process(), self.seen)
    }
}

/// Sends what comes, until its end.
pub fn pass_on(mut pipe: impl Read + Send + 'static, to: Sender<Vec<u8>>) {
    std::thread::spawn(move || {
        let mut piece = [0; 4096];
        while let Ok(n @ 1..) = pipe.read(&mut piece) {
            if to.send(piece[..n].to_vec()).is_err() {
                return;
            }
        }
    });
}

/// `sh` processes that answer a SIGTERM by their name in `asked`, each out of the reach of the group in its own way.
pub fn three_that_answer() -> String {
    let answer = |name: &str| {
        format!("trap \"echo {name} >> asked; exit\" TERM; echo $$ >> pids; while :; do sleep 0.02; done")
    };
    let mut script = "rm -f pids asked\n".to_owned();
    let (plain, session, daemon) = (answer("plain"), answer("session"), answer("daemon"));
    let _ = write!(
        script,
        "sh -c '{plain}' > /dev/null 2>&1 &\n\
         setsid sh -c '{session}' > /dev/null 2>&1 &\n\
         ( ( setsid sh -c '{daemon}' > /dev/null 2>&1 & ) )\n\
         while [ $(cat pids 2> /dev/null | wc -l) -lt 3 ]; do sleep 0.02; done\n"
    );
    script
}
