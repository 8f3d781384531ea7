//! What a supervisor is asked to do, and what comes of it.

use crate::agent::Key;
use crate::foreground::random;
use jobcage_job::handed::{DEFAULT_PATH, Handed, name_of};
use jobcage_job::{
    AfterReboot, CaptureSpec, GuestMode, GuestPlace, JobId, JobSpec, LeaseHolder, Limits, Login,
    NeverStarted, Report, Streams,
};
use jobcage_ledger::{Places, Record};
use jobcage_sys::spawn::{Identity, Rlimit};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ffi::{CStr, CString, OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A job to run.
#[derive(Debug)]
pub struct Job {
    /// Where records are.
    pub places: Places,
    /// `--cgroup-root`.
    pub cgroup_root: Option<PathBuf>,
    /// A new cage, or a further step in one.
    pub target: Target,
    /// What to run.
    pub command: Command,
    /// The time for all of it.
    pub timeout: Option<Duration>,
    /// The longest silence; output is captured and passed on for it.
    pub idle_timeout: Option<Duration>,
    /// The polite signal.
    pub signal: i32,
    /// From it to the kill.
    pub grace: Duration,
    /// Whether every counter is wanted, even when all went well.
    pub detail: bool,
    /// Whose end is the job's.
    pub lease: Option<LeaseHolder>,
    /// How long it may live without a word of its clients ([`jobcage_ledger::Record::hear`]); `None`: for ever.
    pub silence: Option<Duration>,
    /// The id of a new job, which its client has made; `None`: made here.
    pub id: Option<JobId>,
    /// The keys of its own ssh-agent; `None`: it has none. Only whoever starts the agent has the keys.
    pub agent: Option<Vec<Key>>,
    /// The programs of agents that are spared for what comes after a step that is cut.
    pub spare: Vec<String>,
    /// How its output is kept; `None`: it is not, and the command has our own files.
    pub capture: Option<CaptureSpec>,
    /// Its output goes through pipes of ours, though it is not kept: nobody whom it leaves behind holds our own files.
    pub copied: Option<Streams>,
    /// A session ([`crate::session`]): it has no command of its own but for its after phase.
    pub session: bool,
    /// What its step is called; `None`: by its kind.
    pub step: Option<String>,
    /// What its step leaves in a cage of others is killed at its end.
    pub sweep: bool,
    /// Its output, which is copied, is also kept in the log of its step.
    pub keep_log: bool,
    /// What the journal tells of a new job ([`jobcage_job::JobSpec::labels`]).
    pub labels: BTreeMap<String, String>,
    /// Where the machines that it starts are to live; `None`: where they always do.
    pub guests: Option<GuestHome>,
}

/// What the place of a job's machines is made of, when the job has an id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestHome {
    /// The directory above those of all jobs.
    pub base: PathBuf,
    /// How long it may take to give them back.
    pub timeout: Duration,
    /// The job's group.
    pub gid: u32,
    /// Its further groups.
    pub groups: Vec<u32>,
    /// The home of its user.
    pub home: String,
    /// The directory that it alone works in.
    pub project: Option<String>,
    /// The kinds that are looked after, and how.
    pub kinds: BTreeMap<String, GuestMode>,
    /// The site's own program and its arguments.
    #[serde(default)]
    pub hook: Vec<String>,
}

impl GuestHome {
    /// The place of a job.
    #[must_use]
    pub(crate) fn place(&self, id: &JobId) -> GuestPlace {
        GuestPlace {
            dir: self.base.join(id.as_str()).display().to_string(),
            // VirtualBox takes it for the name of a directory in /tmp, where anybody could have made it before.
            socket: format!("jc-{:016x}", random()),
            timeout: self.timeout,
            gid: self.gid,
            groups: self.groups.clone(),
            home: self.home.clone(),
            project: self.project.clone(),
            kinds: self.kinds.clone(),
            hook: self.hook.clone(),
        }
    }
}

/// Where a job runs.
#[derive(Debug)]
pub enum Target {
    /// In a cage of its own.
    New {
        /// Decorates the id.
        name: Option<String>,
        /// What it may use.
        limits: Limits,
        /// Whether a limit that cannot be had is only noted.
        best_effort: bool,
        /// Its after phase.
        after: Option<After>,
    },
    /// As a further step of a job of `jobcage create` or of a session.
    Existing {
        /// Which one.
        id: JobId,
        /// What is written down of it, if that has been read already.
        known: Option<Box<Known>>,
    },
    /// Beside the steps of any job: `jobcage exec`.
    Beside(Host),
}

/// What a caller has read of a job that is there, and has no report.
#[derive(Debug)]
pub struct Known {
    /// Its record.
    pub record: Record,
    /// Its description, which never changes.
    pub spec: JobSpec,
}

/// The job that a command of `jobcage exec` runs in.
#[derive(Debug)]
pub struct Host {
    /// Which one.
    pub id: JobId,
    /// Its main process, whose end is the job's; a job of `jobcage create` has none.
    pub main: Option<OwnedFd>,
}

/// A command, ready for exec.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Command {
    /// The paths to try.
    pub programs: Vec<CString>,
    /// The arguments, the program's name first.
    pub args: Vec<CString>,
    /// The environment without what jobcage adds.
    pub env: Vec<CString>,
    /// The names of the variables that were asked for (`--env`): what earlier steps have handed on does not replace them.
    pub explicit: Vec<CString>,
    /// The user to become.
    pub identity: Option<Identity>,
    /// Where that came from, if it is an account.
    pub login: Option<Login>,
    /// The working directory.
    pub dir: Option<CString>,
    /// Resource limits.
    pub rlimits: Vec<Rlimit>,
    /// The nice value.
    pub nice: Option<i32>,
    /// Whether it may signal and trace nobody outside of the job.
    pub guard: bool,
    /// Whether it gets a session of its own instead of ours, so that a signal to our process group is for us alone. A captured
    /// job always does.
    pub new_session: bool,
}

impl Job {
    /// What its step is called; empty: by its kind.
    pub(crate) fn step_name(&self) -> String {
        self.step.clone().unwrap_or_default()
    }

    /// Whether somebody comes after a step that is cut, for whom agents are spared; a session may get an after phase later.
    pub(crate) fn goes_on(&self) -> bool {
        matches!(
            self.target,
            Target::New { after: Some(_), .. } | Target::Existing { .. }
        )
    }
}

impl Command {
    /// The program's name without its directory; not its arguments, which may hold secrets.
    pub(crate) fn program_name(&self) -> String {
        let name = self.args.first().map(|arg| arg.to_string_lossy().into_owned());
        let name = name.unwrap_or_default();
        name.rsplit('/').next().unwrap_or_default().to_owned()
    }

    /// What to tell where this command could not be started, at this stage of its start.
    pub(crate) fn never_started(&self, stage: &str, errno: i32) -> NeverStarted {
        let dir = self.dir.as_ref().filter(|_| stage == "chdir");
        let what = dir.map(|dir| dir.to_string_lossy().into_owned());
        NeverStarted {
            stage: stage.into(),
            errno,
            what: what.unwrap_or_else(|| self.program_name()),
        }
    }

    /// This command after what earlier steps have handed on: its environment, and the places of its program.
    #[must_use]
    pub fn after(&self, handed: &Handed) -> Self {
        let mut command = self.clone();
        handed.apply(&mut command.env, &self.explicit);
        let path = command.env.iter().rev().find(|entry| name_of(entry) == b"PATH");
        let path = path.map(|entry| &entry.as_bytes()[b"PATH=".len()..]);
        if let Some(program) = self.args.first() {
            command.programs = candidates(program, path);
        }
        command
    }
}

/// The files that execvp(3) would try for a program with this `PATH`, in its order.
#[must_use]
pub fn candidates(program: &CStr, path: Option<&[u8]>) -> Vec<CString> {
    if program.to_bytes().contains(&b'/') {
        return vec![program.to_owned()];
    }
    let path = OsStr::from_bytes(path.unwrap_or(DEFAULT_PATH.as_bytes()));
    let files = std::env::split_paths(path).map(|dir| {
        // An empty entry is the working directory.
        let dir = if dir.as_os_str().is_empty() {
            Path::new(".").to_owned()
        } else {
            dir
        };
        dir.join(OsStr::from_bytes(program.to_bytes()))
    });
    // No variable and no argument holds a NUL.
    files
        .filter_map(|file| CString::new(file.into_os_string().into_vec()).ok())
        .collect()
}

/// An after phase.
#[derive(Debug)]
pub struct After {
    /// For `/bin/sh -c`.
    pub script: OsString,
    /// Its own time.
    pub timeout: Duration,
    /// What is written down of it, so that a reboot does not keep it from being run. Of captured jobs only.
    pub reboot: Option<Box<AfterReboot>>,
}

/// What came of a job.
#[derive(Debug)]
pub struct Outcome {
    /// The report.
    pub report: Report,
    /// Ctrl-C at the terminal ended it, so the shell above should see jobcage end by it as well.
    pub interrupted: bool,
    /// Of a command of `jobcage exec`: the end of its job was its end.
    pub job_ended: bool,
    /// Of a step in a session: that may be ending, since its supervisor has said so, or is gone.
    pub may_be_ending: bool,
}
