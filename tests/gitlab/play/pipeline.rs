//! The pipeline of `examples/gitlab`, from its YAML to its artifacts: a clone of this repository and a real build, ended in every way
//! that there is.

use super::payload;
use super::plan::Generation;
use super::player::{Live, Played, Player, left};
use crate::runner;
use crate::support::cgroup::{wait_change, wait_gone};
use crate::support::needs::{Need, met};
use crate::support::process::Process;
use crate::support::world::World;
use crate::support::{PATIENCE, programs};
use nix::sys::signal::Signal;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// `.gitlab-ci.yml`, as far as this one goes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Pipeline {
    #[serde(rename = "stages")]
    _stages: Vec<String>,
    variables: BTreeMap<String, String>,
    build: Job,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Job {
    stage: String,
    #[serde(rename = "tags")]
    _tags: Vec<String>,
    timeout: String,
    before_script: Vec<String>,
    script: Vec<String>,
    after_script: Vec<String>,
    artifacts: Artifacts,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Artifacts {
    when: String,
    expire_in: String,
    paths: Vec<String>,
}

/// What GitLab makes of it for a runner.
fn response(text: &str) -> Value {
    let pipeline: Pipeline = serde_saphyr::from_str(text).unwrap();
    let build = pipeline.build;
    let lines = |parts: &[&Vec<String>]| parts.iter().copied().flatten().cloned().collect::<Vec<_>>();
    let script = lines(&[&build.before_script, &build.script]);
    let mut job = payload::job(4343, &script.iter().map(String::as_str).collect::<Vec<_>>());
    let after: Vec<&str> = build.after_script.iter().map(String::as_str).collect();
    payload::step(&mut job, "after_script", &after);
    job["job_info"]["stage"] = json!(build.stage);
    let timeout: jiff::SignedDuration = build.timeout.parse().unwrap();
    job["runner_info"]["timeout"] = json!(timeout.as_secs());
    let artifacts = build.artifacts;
    job["artifacts"] = json!([{"name": "build", "paths": artifacts.paths, "when": artifacts.when, "expire_in": artifacts.expire_in,
                               "untracked": false, "artifact_type": "archive", "artifact_format": "zip"}]);
    for (name, value) in pipeline.variables {
        payload::set(&mut job, &name, &value);
    }
    job
}

/// A host with this repository's server, its tools, and a project with a key.
struct Site {
    world: World,
    /// The commit, as `git describe` names it.
    release: String,
    fingerprint: String,
}

/// The output of a command that has to succeed.
fn output(command: &mut Command) -> String {
    let done = command.output().unwrap();
    let errors = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{command:?}: {errors}");
    String::from_utf8(done.stdout).unwrap().trim().to_owned()
}

fn write_program(file: &Path, text: &str) {
    fs::write(file, text).unwrap();
    fs::set_permissions(file, Permissions::from_mode(0o755)).unwrap();
}

/// Stands for the runner's own program, which is in the job's PATH: artifacts become an archive beside the project.
const HELPER: &str = "#!/bin/sh\nset -e\n\
    [ \"$1\" = --version ] || { [ \"$1 $2\" = 'artifacts-uploader --path' ] && tar -cf \"$ARCHIVE\" \"$3\"; }\n";

impl Site {
    fn new(test: &str) -> Option<Self> {
        let programs = [
            "git",
            "cargo",
            "python3",
            "ssh-agent",
            "ssh-keygen",
            "tar",
            "unshare",
        ]
        .map(Need::Program);
        if !met(test, &programs) {
            return None;
        }
        let world = runner::world(test)?;
        let git = || {
            let mut git = Command::new("git");
            git.current_dir(env!("CARGO_MANIFEST_DIR"));
            git
        };
        let source = format!("file://{}", env!("CARGO_MANIFEST_DIR"));
        let server = world.dir.join("server.git");
        output(
            git()
                .args(["clone", "-q", "--bare", "--depth", "1", &source])
                .arg(&server),
        );
        // git reads nothing that belongs to another user.
        output(Command::new("chown").args(["-R", "nobody"]).arg(&server));
        let keys = world.dir.join("key");
        output(
            Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-C", "deploy", "-f"])
                .arg(&keys),
        );
        let bin = world.dir.join("bin");
        for dir in ["bin", "cargo", "rustup"] {
            fs::create_dir(world.dir.join(dir)).unwrap();
        }
        fs::copy(programs::jobcage(), bin.join("jobcage")).unwrap();
        write_program(&bin.join("gitlab-runner"), HELPER);
        Some(Self {
            release: output(
                Command::new("git")
                    .args(["describe", "--always", "HEAD"])
                    .current_dir(&server)
                    .env("GIT_DIR", &server)
                    .env("GIT_CONFIG_COUNT", "1")
                    .env("GIT_CONFIG_KEY_0", "safe.directory")
                    .env("GIT_CONFIG_VALUE_0", "*"),
            ),
            fingerprint: output(Command::new("ssh-keygen").arg("-lf").arg(&keys)),
            world,
        })
    }

    fn job(&self, more: &[(&str, &str)]) -> Value {
        let text = fs::read_to_string(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/examples/gitlab/.gitlab-ci.yml"
        ));
        let mut job = response(&text.unwrap());
        let dir = self.world.dir.display();
        job["git_info"]["repo_url"] = json!(format!("file://{dir}/server.git"));
        job["git_info"]["sha"] = json!("HEAD");
        let key = fs::read_to_string(self.world.dir.join("key")).unwrap();
        let file = json!({"key": "DEPLOY_KEY", "value": key, "public": false, "masked": false, "file": true});
        job["variables"].as_array_mut().unwrap().push(file);
        let host = [
            ("GIT_STRATEGY", "clone".to_owned()),
            (
                "PATH",
                format!("{dir}/bin:{dir}/cargo/bin:/usr/local/bin:/usr/bin:/bin"),
            ),
            ("CARGO_HOME", format!("{dir}/cargo")),
            ("RUSTUP_HOME", format!("{dir}/rustup")),
            // A test talks to no other machine.
            ("CARGO_NET_OFFLINE", "true".into()),
            ("ARCHIVE", format!("{dir}/project/artifacts.tar")),
            ("TMPDIR", format!("{dir}/project")),
        ];
        for (name, value) in &host {
            payload::set(&mut job, name, value);
        }
        for (name, value) in more {
            payload::set(&mut job, name, value);
        }
        job
    }

    /// cargo and rustup may live in a home that only root may enter: the runner sees them in the world's directory.
    fn player(&self, more: &[(&str, &str)]) -> Player<'_> {
        let mut player = Player::new(&self.world, Generation::V18, self.job(more));
        let bind = |variable: &str, default: &str, name: &str| {
            let from = programs::home_of(variable, default);
            format!(
                "mount --bind {} {}",
                from.display(),
                self.world.dir.join(name).display()
            )
        };
        let script = format!(
            "{} && {} && exec \"$@\"",
            bind("CARGO_HOME", ".cargo", "cargo"),
            bind("RUSTUP_HOME", ".rustup", "rustup")
        );
        let words = [
            "unshare",
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            &script,
            "sh",
        ];
        player.around = words.map(str::to_owned).into();
        player
    }

    fn project(&self) -> PathBuf {
        self.world.dir.join("project/builds/t3_Runner/0/grp/proj")
    }

    /// Waits for what the build says.
    #[track_caller]
    fn wait_log(&self, words: &str) {
        let log = || fs::read_to_string(self.world.dir.join("log")).unwrap_or_default();
        // A build on a machine that has other things to do.
        assert!(
            wait_change(&self.world.dir, 6 * PATIENCE, || log().contains(words)),
            "no {words:?}: {}",
            log()
        );
    }

    /// In the middle of the build: the server that the job has started.
    #[track_caller]
    fn building(&self) -> Process {
        self.wait_log("Compiling");
        let pid = fs::read_to_string(self.project().join("out/server.pid")).unwrap();
        Process::open(pid.trim().parse().unwrap())
    }

    /// One run of `after_script`, with the agent and the variable of the script.
    #[track_caller]
    fn assert_after(&self, status: &str) {
        let told = fs::read_to_string(self.project().join("out/after")).unwrap_or_default();
        assert_eq!(
            told,
            format!("{status} of {}\n{}\n", self.release, self.fingerprint)
        );
    }

    /// What the server has for everybody who asks for this job's artifacts.
    fn artifacts(&self) -> Vec<String> {
        let archive = self.world.dir.join("project/artifacts.tar");
        if !archive.exists() {
            return Vec::new();
        }
        output(Command::new("tar").arg("-tf").arg(archive))
            .lines()
            .map(str::to_owned)
            .collect()
    }
}

/// One play, and what has to be true however it ends; `act` begins in the middle of the build.
fn play(
    test: &str,
    more: &[(&str, &str)],
    change: impl FnOnce(&mut Player<'_>),
    act: impl FnOnce(&Site, &mut Live<'_>),
    look: impl FnOnce(&Site, &Played),
) {
    let Some(mut site) = Site::new(test) else { return };
    {
        let mut player = site.player(more);
        change(&mut player);
        let mut live = player.start();
        let server = site.building();
        let cages = site.world.cages();
        act(&site, &mut live);
        let done = live.end();
        assert!(
            cages.len() == 1 && wait_gone(&cages[0], PATIENCE),
            "nobody has closed {cages:?}"
        );
        assert!(server.has_ended(), "the server lives on: {}", done.log);
        for (pid, _) in left(&site.world) {
            // Where the runner is dead, a call that was under way ends by itself.
            assert!(
                done.rc < 0 && Process::open(pid).wait_end(PATIENCE),
                "{:?} are left",
                left(&site.world)
            );
        }
        look(&site, &done);
    }
    site.world.assert_nobody_left();
}

const ARTIFACTS: [&str; 5] = [
    "out/",
    "out/after",
    "out/built",
    "out/server.log",
    "out/server.pid",
];

pub fn success() {
    play(
        "pipeline-success",
        &[],
        |_| {},
        |site, _| site.wait_log("Finished"),
        |site, done| {
            assert_eq!(done.state(), json!({"state": "success"}), "{}", done.log);
            assert!(
                done.log.contains("jobcage: ") && done.log.contains("http.server 0 --bind 127.0.0.1"),
                "{}",
                done.log
            );
            site.assert_after("success");
            let mut artifacts = site.artifacts();
            artifacts.sort();
            assert_eq!(artifacts, ARTIFACTS);
            assert_eq!(done.count("run[after_script]"), 1);
        },
    );
}

pub fn failure() {
    play(
        "pipeline-failure",
        &[("CHECKED", "42")],
        |_| {},
        |site, _| site.wait_log("Finished"),
        |site, done| {
            let state = json!({"state": "failed", "failure_reason": "script_failure", "exit_code": 42});
            assert_eq!(done.state(), state, "{}", done.log);
            assert!(
                done.log.ends_with("ERROR: Job failed: exit status 42\n"),
                "{}",
                done.log
            );
            site.assert_after("failed");
            assert_eq!(site.artifacts().len(), ARTIFACTS.len());
            assert_eq!(done.count("run[after_script]"), 1);
        },
    );
}

/// Ended from outside while cargo has minutes before it.
fn cut(
    test: &str,
    change: impl FnOnce(&mut Player<'_>),
    act: impl FnOnce(&mut Live<'_>),
    look: impl FnOnce(&Site, &Played),
) {
    let whole = [("PACKAGE", "jobcage")];
    play(
        test,
        &whole,
        change,
        |_, live| act(live),
        |site, done| {
            assert!(!done.log.contains("Finished"), "the build was over: {}", done.log);
            let waited = done.lines.iter().any(|line| line.what.contains("kill_timeout"));
            assert!(!waited, "the runner had to kill the driver: {:#?}", done.lines);
            look(site, done);
        },
    );
}

fn canceled(test: &str, words: &str, by_runner: usize) {
    cut(
        test,
        |_| {},
        |live| live.say(words),
        |site, done| {
            assert_eq!(done.state()["failure_reason"], "job_canceled", "{}", done.log);
            site.assert_after("canceled");
            assert_eq!(done.count("run[after_script]"), by_runner);
        },
    );
}

pub fn cancel() {
    canceled("pipeline-cancel", "cancel canceling", 1);
}

pub fn forced_cancel() {
    canceled("pipeline-forced", "cancel canceled", 0);
}

pub fn timeout() {
    let clock = |player: &mut Player<'_>| {
        player.plan.response["runner_info"]["timeout"] = json!(15);
        player.plan.second_ms = 1000;
    };
    cut(
        "pipeline-timeout",
        clock,
        |_| {},
        |site, done| {
            assert_eq!(
                done.state()["failure_reason"],
                "job_execution_timeout",
                "{}",
                done.log
            );
            site.assert_after("timedout");
            assert!(
                done.log.contains(&format!("timedout of {}\n", site.release)),
                "{}",
                done.log
            );
            assert_eq!(done.count("run[after_script]"), 0);
        },
    );
}

pub fn runner_sigkill() {
    cut(
        "pipeline-sigkill",
        |_| {},
        |live| live.signal(Signal::SIGKILL),
        |site, done| {
            assert_eq!(
                (done.rc, done.count("cleanup"), done.count("run[after_script]")),
                (-9, 0, 0)
            );
            site.assert_after("failed");
        },
    );
}
