//! Captured jobs: how they are started, followed and ended here, and who looks after them.

use crate::Result;
use crate::ground::Ground;
use crate::tools::Tools;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Where the records of captured jobs are, and with them their logs.
#[derive(Debug, Clone)]
pub struct Place<'a> {
    tools: &'a Tools,
    ground: &'a Ground,
    state: PathBuf,
}

impl<'a> Place<'a> {
    /// On the disk, as a user has it.
    pub fn on_disk(tools: &'a Tools, ground: &'a Ground) -> Self {
        let state = ground.temp.join("state");
        Self { tools, ground, state }
    }

    /// In memory, where no disk is measured.
    pub fn in_memory(tools: &'a Tools, ground: &'a Ground) -> Self {
        let state = ground.runtime.join("state");
        Self { tools, ground, state }
    }

    /// `jobcage run --detach -- JOB…`.
    pub fn detach(&self, job: &[&str]) -> Result<Command> {
        let mut command = self.tools.jobcage(&["--detach"], job)?;
        command
            .env("JOBCAGE_STATE_DIR", &self.state)
            .stdout(Stdio::piped());
        Ok(command)
    }

    /// Any other verb.
    pub fn verb(&self, verb: &str, id: &str) -> Result<Command> {
        let mut command = self.tools.command(self.tools.path("jobcage"))?;
        command
            .args([verb, "--quiet", id])
            .env("JOBCAGE_STATE_DIR", &self.state);
        Ok(command)
    }

    /// Starts a job: its id.
    pub fn launch(&self, command: &mut Command) -> Result<String> {
        let output = command.spawn()?.wait_with_output()?;
        let id = String::from_utf8_lossy(&output.stdout).trim().to_string();
        if !output.status.success() || id.is_empty() {
            return Err(format!("not started: {}{}", output.status, self.tools.last_error()).into());
        }
        Ok(id)
    }

    /// Waits until a job has succeeded, and then until nobody looks after any job.
    pub fn wait(&self, id: &str) -> Result<()> {
        self.tools.time(&mut self.verb("wait", id)?)?;
        self.alone()
    }

    /// Waits until all keepers and supervisors are gone. They end right after their jobs; nobody announces that, and it
    /// is no part of any measure.
    pub fn alone(&self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !self.attendants()?.is_empty() {
            if Instant::now() > deadline {
                return Err("keepers or supervisors are still there a minute after their jobs".into());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// All keepers and supervisors.
    pub fn attendants(&self) -> Result<Vec<i32>> {
        let mut found = Vec::new();
        for leaf in ["keepers", "supervisors"] {
            let file = self.ground.cgroup.join("jobcage").join(leaf).join("cgroup.procs");
            match fs::read_to_string(file) {
                Ok(list) => found.extend(list.lines().filter_map(|line| line.parse::<i32>().ok())),
                // Made with the first captured job.
                Err(why) if why.kind() == std::io::ErrorKind::NotFound => {}
                Err(why) => return Err(why.into()),
            }
        }
        Ok(found)
    }

    /// Removes the records of jobs that are over: a log of half a gigabyte a round is too much for the memory.
    pub fn clear(&self) -> Result<()> {
        for record in fs::read_dir(&self.state)? {
            fs::remove_dir_all(record?.path())?;
        }
        Ok(())
    }
}
