//! The programs that take part, and how they are started and timed.

use crate::Result;
use crate::ground::{Ground, loudly};
use crate::options::Options;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{PipeReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

/// Their copies in the temporary directory, where every user can run them.
#[derive(Debug)]
pub struct Tools {
    ground: Ground,
    bin: PathBuf,
    has_jobcage: bool,
    errors: PathBuf,
}

/// Name, source, further words for the compiler.
const HELPERS: [(&str, &str, &[&str]); 4] = [
    ("hive", include_str!("../helpers/hive.c"), &[]),
    ("bomb", include_str!("../helpers/bomb.c"), &[]),
    ("talk", include_str!("../helpers/talk.c"), &[]),
    (
        "idle",
        include_str!("../helpers/idle.c"),
        &["-nostdlib", "-fno-stack-protector"],
    ),
];

impl Tools {
    /// Gathers them, with the helpers if a case asks for them; these are compiled where no compiled ones are given.
    pub fn gather(ground: &Ground, options: &Options, helpers: bool) -> Result<Self> {
        let bin = ground.temp.join("bin");
        fs::create_dir(&bin)?;
        let here = std::env::current_exe()?;
        let beside = here.parent().ok_or("this program has no directory")?;
        copy(
            &beside.join("floor"),
            &bin,
            "build it: cargo build --release -p jobcage-bench",
        )?;
        copy(&here, &bin, "it is this program")?;
        copy(&on_path("busybox")?, &bin, "install busybox-static")?;
        if helpers {
            gather_helpers(options, beside, &bin)?;
        }
        if options.without_jobcage {
            loudly("jobcage is not measured (--without-jobcage)");
        } else {
            let jobcage = options.jobcage.clone().unwrap_or_else(|| beside.join("jobcage"));
            copy(
                &jobcage,
                &bin,
                "build it: cargo build --release; or say --without-jobcage",
            )?;
        }
        let errors = ground.temp.join("stderr");
        File::create(&errors)?;
        Ok(Self {
            ground: ground.clone(),
            bin,
            has_jobcage: !options.without_jobcage,
            errors,
        })
    }

    /// The path of one of them.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }

    /// The directory of all of them.
    #[must_use]
    pub fn bin(&self) -> &Path {
        &self.bin
    }

    /// Whether jobcage takes part.
    #[must_use]
    pub fn has_jobcage(&self) -> bool {
        self.has_jobcage
    }

    /// Which jobcage is measured.
    #[must_use]
    pub fn version(&self) -> String {
        if !self.has_jobcage {
            return "jobcage not measured".into();
        }
        let said = Command::new(self.path("jobcage")).arg("--version").output();
        let said = said.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_string());
        said.ok()
            .filter(|text| !text.is_empty())
            .unwrap_or_else(|| "jobcage of unknown version".into())
    }

    /// A command with the environment that all contestants get: the same, and small.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Result<Command> {
        let mut command = Command::new(program);
        command.env_clear().stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(File::options().append(true).open(&self.errors)?);
        command.env(
            "PATH",
            std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin:/usr/sbin".into()),
        );
        command.env("HOME", &self.ground.temp);
        command.env("JOBCAGE_CGROUP_ROOT", self.ground.cgroup.join("jobcage"));
        command.env("JOBCAGE_RUNTIME_DIR", self.ground.runtime.join("run"));
        command.env("JOBCAGE_STATE_DIR", self.ground.temp.join("state"));
        for name in ["XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS"] {
            command.envs(std::env::var_os(name).map(|value| (name, value)));
        }
        Ok(command)
    }

    /// `floor MODE GROUP WORDS… -- JOB…`.
    pub fn floor(&self, mode: &str, words: &[&str], job: &[&str]) -> Result<Command> {
        let mut command = self.command(self.path("floor"))?;
        command
            .arg(mode)
            .arg(self.ground.relative("floor")?)
            .args(words)
            .arg("--");
        self.job(&mut command, job);
        Ok(command)
    }

    /// `jobcage run OPTIONS… -- JOB…`.
    pub fn jobcage(&self, options: &[&str], job: &[&str]) -> Result<Command> {
        let mut command = self.command(self.path("jobcage"))?;
        command.args(["run", "--quiet"]).args(options).arg("--");
        self.job(&mut command, job);
        Ok(command)
    }

    /// Appends a job: one of the tools, by its full path, and its arguments.
    pub fn job(&self, command: &mut Command, job: &[&str]) {
        if let [program, args @ ..] = job {
            command.arg(self.path(program)).args(args);
        }
    }

    /// Starts a command whose standard output is the pipe.
    pub fn start(&self, command: &mut Command, output: impl Into<Stdio>) -> Result<Child> {
        let child = command.stdout(output).spawn();
        // The command would keep the pipe open, and its end would never be seen.
        command.stdout(Stdio::null());
        child.map_err(|why| format!("{}: {why}", command.get_program().display()).into())
    }

    /// Starts a command and waits until its job has said that it is ready.
    pub fn start_ready(&self, command: &mut Command) -> Result<(Child, PipeReader)> {
        let (mut reader, writer) = std::io::pipe()?;
        let mut child = self.start(command, writer)?;
        if reader.read_exact(&mut [0]).is_err() {
            let status = child.wait()?;
            return Err(format!("ended before its job was ready: {status}{}", self.last_error()).into());
        }
        Ok((child, reader))
    }

    /// Milliseconds from the start of a command to its end, which must be a success.
    pub fn time(&self, command: &mut Command) -> Result<f64> {
        let start = Instant::now();
        let status = command
            .spawn()
            .map_err(|why| why.to_string())
            .and_then(|mut child| child.wait().map_err(|why| why.to_string()));
        let passed = milliseconds(start);
        match status {
            Ok(status) if status.success() => Ok(passed),
            Ok(status) => Err(format!("{status}{}", self.last_error()).into()),
            Err(why) => Err(format!("{}: {why}", command.get_program().display()).into()),
        }
    }

    /// Milliseconds from SIGTERM to the end of a child.
    pub fn time_end(&self, mut child: Child) -> Result<f64> {
        let start = Instant::now();
        terminate(&child)?;
        child.wait()?;
        Ok(milliseconds(start))
    }

    /// The last line that anyone wrote to standard error.
    #[must_use]
    pub fn last_error(&self) -> String {
        let text = fs::read_to_string(&self.errors).unwrap_or_default();
        text.lines()
            .last()
            .map(|line| format!(": {line}"))
            .unwrap_or_default()
    }
}

/// Sends SIGTERM to a child that has not been waited for.
pub fn terminate(child: &Child) -> Result<()> {
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM)?;
    Ok(())
}

/// Milliseconds since then.
#[must_use]
pub fn milliseconds(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e3
}

/// Finds a program on PATH, where a user's PATH may lack the sbin directories.
pub fn on_path(name: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    dirs.map(|dir| dir.join(name))
        .find(|file| file.is_file())
        .ok_or_else(|| format!("{name} is not there").into())
}

fn copy(file: &Path, dir: &Path, advice: &str) -> Result<()> {
    let name = file.file_name().ok_or("no file name")?;
    fs::copy(file, dir.join(name)).map_err(|why| format!("{}: {why}; {advice}", file.display()))?;
    Ok(())
}

fn gather_helpers(options: &Options, beside: &Path, bin: &Path) -> Result<()> {
    let helpers = match &options.helpers {
        Some(dir) => dir.clone(),
        None => compile_helpers(beside)?,
    };
    HELPERS.iter().try_for_each(|(name, ..)| {
        let advice = "--helpers names the directory of the compiled ones";
        copy(&helpers.join(name), bin, advice)
    })
}

/// `target/bench-helpers`, three levels up from `target/TRIPLE/release` or two from `target/release`.
fn compile_helpers(beside: &Path) -> Result<PathBuf> {
    let target = beside
        .ancestors()
        .find(|dir| dir.ends_with("target"))
        .unwrap_or(beside);
    let dir = target.join("bench-helpers");
    fs::create_dir_all(&dir)?;
    for (name, source, words) in HELPERS {
        let mut cc = Command::new("cc");
        cc.args(["-static", "-O2", "-Wall", "-Werror"])
            .args(words)
            .args(["-x", "c", "-", "-o"])
            .arg(dir.join(name));
        let mut child = cc
            .stdin(Stdio::piped())
            .spawn()
            .map_err(|why| format!("cc: {why}; install gcc"))?;
        child
            .stdin
            .take()
            .ok_or("cc has no standard input")?
            .write_all(source.as_bytes())?;
        if !child.wait()?.success() {
            return Err(format!("cc does not compile benches/helpers/{name}.c").into());
        }
    }
    Ok(dir)
}
