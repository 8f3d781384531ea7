//! Drivers of GitLab Runner's custom executor, and the jobs that they are called for.

use crate::Result;
use crate::tools::{Tools, on_path};
use serde_json::json;
use std::cell::Cell;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Who is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    /// The least that works.
    Plain,
    /// What the driver did that jobcage follows.
    Old,
    /// Ours.
    Jobcage,
}

/// The build user of those that know one.
const USER: &str = "nobody";

const PLAIN: [(&str, &str); 4] = [
    ("config", "#!/bin/sh\nset -e\necho '{}'\n"),
    ("prepare", "#!/bin/sh\nset -e\nexit 0\n"),
    ("run", "#!/bin/sh\nset -e\nbash \"$1\"\n"),
    ("cleanup", "#!/bin/sh\nset -e\nexit 0\n"),
];

const OLD: &str = include_str!("../../tests/gitlab/fixtures/old-driver");

/// Where the drivers and their jobs are.
pub struct Place<'a> {
    tools: &'a Tools,
    dir: PathBuf,
    jobs: Cell<u64>,
}

impl<'a> Place<'a> {
    /// Writes the drivers.
    pub fn make(tools: &'a Tools, temp: &Path) -> Result<Self> {
        let dir = temp.join("gitlab");
        for below in ["plain", "old", "journal", "home"] {
            fs::create_dir_all(dir.join(below))?;
        }
        for (call, text) in PLAIN {
            write(&dir.join("plain").join(call), text)?;
            write(&dir.join("old").join(call), OLD)?;
        }
        Ok(Self {
            tools,
            dir,
            jobs: Cell::new(0),
        })
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text)?;
    fs::set_permissions(path, Permissions::from_mode(0o755))?;
    Ok(())
}

/// A job: its directory, as the runner makes it.
pub struct Job<'a> {
    place: &'a Place<'a>,
    driver: Driver,
    id: u64,
    tmp: PathBuf,
}

impl<'a> Job<'a> {
    /// A new one.
    pub fn new(place: &'a Place<'a>, driver: Driver) -> Result<Self> {
        let id = place.jobs.get() + 1;
        place.jobs.set(id);
        let tmp = place.dir.join(format!("custom-executor{id}"));
        fs::create_dir(&tmp)?;
        fs::set_permissions(&tmp, Permissions::from_mode(0o700))?;
        let response =
            json!({"id": id, "job_info": {"name": "build", "project_name": "proj"}, "variables": []});
        fs::write(tmp.join("response.json"), response.to_string())?;
        Ok(Self {
            place,
            driver,
            id,
            tmp,
        })
    }

    /// A script in the runner's form: its path.
    pub fn script(&self, commands: &str) -> Result<String> {
        let path = self.tmp.join("script");
        let text = format!(
            "#!/usr/bin/env bash\n\nset -eo pipefail\nset +o noclobber\n: | eval '{commands}'\nexit 0\n"
        );
        write(&path, &text)?;
        Ok(path.display().to_string())
    }

    /// The shell that runs a script in the end, without its driver, with what that gives it: the plain one all that it has
    /// itself. By its path and as ourselves: who has to be looked for, or to become another user, is started by fork(2), which
    /// takes longer, and the drivers are not.
    pub fn shell(&self, script: &str) -> Result<Command> {
        let mut shell = self.place.tools.command(on_path("bash")?)?;
        if self.driver == Driver::Plain {
            self.surround(&mut shell);
            shell.arg(script);
            return Ok(shell);
        }
        let user = nix::unistd::User::from_name(USER)?.ok_or("there is no build user")?;
        shell
            .arg("--login")
            .env_clear()
            .env("HOME", user.dir)
            .env("USER", USER)
            .env("LOGNAME", USER)
            .env("SHELL", "/bin/bash")
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .stdin(fs::File::open(script)?);
        Ok(shell)
    }

    /// A call.
    pub fn call(&self, call: &str, more: &[&str]) -> Result<Command> {
        let place = self.place;
        let mut command = match self.driver {
            Driver::Plain => place.tools.command(place.dir.join("plain").join(call))?,
            Driver::Old => place.tools.command(place.dir.join("old").join(call))?,
            Driver::Jobcage => {
                let mut command = place.tools.command(place.tools.path("jobcage"))?;
                command.args(["gitlab", call]);
                command
            }
        };
        command.args(more);
        self.surround(&mut command);
        Ok(command)
    }

    /// The place and the environment that the runner gives to a call: about as many variables, too.
    fn surround(&self, command: &mut Command) {
        let place = self.place;
        command
            .current_dir(&self.tmp)
            .env("CI_RUNNER_USER", USER)
            .env("CI_RUNNER_USER_DIR", place.dir.join("home"))
            .env("OLD_USER", USER)
            .env("OLD_DIR", place.dir.join("journal"))
            .env("TMPDIR", &self.tmp)
            .env("BUILD_FAILURE_EXIT_CODE", "1")
            .env("SYSTEM_FAILURE_EXIT_CODE", "2")
            .env("JOB_RESPONSE_FILE", self.tmp.join("response.json"))
            .env("BUILD_EXIT_CODE_FILE", self.tmp.join("exit_code"))
            .env("CUSTOM_ENV_CI_JOB_ID", self.id.to_string())
            .env("CUSTOM_ENV_CI_PROJECT_PATH", "grp/proj");
        for name in ["CI_RUNNER_ID", "CI_PROJECT_ID", "CI_CONCURRENT_PROJECT_ID"] {
            command.env(format!("CUSTOM_ENV_{name}"), "1");
        }
        for number in 0..120 {
            command.env(
                format!("CUSTOM_ENV_VARIABLE_{number}"),
                "of some forty bytes, as most of them are",
            );
        }
    }
}
