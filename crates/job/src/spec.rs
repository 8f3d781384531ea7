//! What is written down of a job before its cage exists.

use crate::{GuestPlace, JobId, Limits};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// The version of `spec.json`. A reader refuses what is newer.
pub const SPEC_VERSION: u32 = 1;

/// Who looks after a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CreatedBy {
    /// `jobcage run`: its process holds the lock; when it is gone, the job is an orphan.
    Run,
    /// `jobcage create`: open until `jobcage cleanup`, the end of its lease or a reboot.
    Create,
    /// A session: open for steps of others like the cage of `jobcage create`, and looked after by a supervisor of its own
    /// from its beginning to its end.
    Session,
}

impl CreatedBy {
    /// Whether it takes further steps, which others start.
    #[must_use]
    pub fn is_open(self) -> bool {
        matches!(self, Self::Create | Self::Session)
    }

    /// Whether it is an orphan as soon as nobody has its lock.
    #[must_use]
    pub fn is_tended(self) -> bool {
        matches!(self, Self::Run | Self::Session)
    }
}

/// What a step is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepKind {
    /// A command of the job.
    Step,
    /// The after phase.
    After,
}

/// The process whose end is the end of a job (`--lease-pid`): with its start time, a pid names one process for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseHolder {
    /// Its pid.
    pub pid: i32,
    /// Clock ticks from boot to its start (proc_pid_stat(5), field 22).
    pub start_ticks: u64,
}

/// How the output of a captured job is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaptureSpec {
    /// One log or two.
    pub streams: Streams,
    /// How many bytes of one log are kept at most; `None`: all.
    #[serde(default)]
    pub log_max: Option<u64>,
    /// What happens at that limit.
    pub log_full: LogFull,
    /// Whether every piece of it is put on the disk before the next (`--log-sync`).
    #[serde(default)]
    pub sync: bool,
}

/// What an after phase needs when all that was in memory is gone (`--after-reboot`).
///
/// The words of `argv` are on the disk, so they are those of a plain command and never a script.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AfterReboot {
    /// The program, by its absolute path, and its arguments.
    pub argv: Vec<String>,
    /// Its working directory.
    pub dir: String,
    /// Who runs it; `None`: whoever owns the record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<Account>,
    /// The file with its variables, which is read when it is started. What was in it is nowhere in the record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env_file: Option<String>,
    /// Its time.
    pub timeout: Duration,
    /// `--cgroup-root` of the job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup_root: Option<String>,
}

/// A user as the kernel knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Its uid.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its supplementary groups.
    pub groups: Vec<u32>,
}

/// Who the steps of a session run as, as it was found when the session began: no step has to look it up again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Login {
    /// The user that was asked for, a name or a number: what is here answers no other question.
    pub user: String,
    /// The group that was asked for; `None`: the user's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// What the kernel is told.
    pub account: Account,
    /// The name of the user (passwd(5)).
    pub name: String,
    /// Its home.
    pub home: String,
    /// Its shell; empty: the usual one.
    pub shell: String,
}

/// The version of `after.json`. A reader refuses what is newer.
pub const AFTER_VERSION: u32 = 1;

/// `after.json`: an after phase that outlives a reboot is about to be started. On the disk before it is, so that nobody
/// starts it a second time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AfterMark {
    /// [`AFTER_VERSION`] of the writer.
    pub version: u32,
    /// The boot in which it is started.
    pub boot_id: String,
    /// The cage that it is started in.
    pub cage: String,
    /// The number of its step.
    pub step: u32,
    /// When.
    pub at: String,
}

/// Whether stdout and stderr come into one log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Streams {
    /// One pipe: the order between the two is exact.
    Merged,
    /// Two pipes: each stream is exact, the order between them is not.
    Split,
}

/// What happens to a job whose log has reached its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFull {
    /// The job ends ([`crate::Ending::LogFull`]).
    Stop,
    /// It goes on; head and tail of the log are kept, and the middle is punched out of the file. Offsets stay.
    Middle,
}

/// The record of a job, `spec.json`: written before its cage is made, so that whatever exists can be found.
///
/// It holds no environment value, no argument and no script: of a command only the program's name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobSpec {
    /// [`SPEC_VERSION`] of the writer.
    pub version: u32,
    /// The job.
    pub id: JobId,
    /// The name that the user gave it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Who looks after it.
    pub created_by: CreatedBy,
    /// The program of the first step, without its arguments.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub program: Option<String>,
    /// The absolute path of the cage.
    pub cage: String,
    /// Whether the steps stand below `steps/`, which carries the limits.
    pub limited: bool,
    /// `/proc/sys/kernel/random/boot_id` at the start.
    pub boot_id: String,
    /// The uid of whoever started it, who may ask for its end.
    pub owner: u32,
    /// The uid the job runs as.
    pub uid: u32,
    /// When it was made, nanoseconds since 1970.
    pub created_ns: i64,
    /// The time from SIGTERM to the kill.
    pub grace: Duration,
    /// The limits asked for.
    #[serde(default, skip_serializing_if = "Limits::is_empty")]
    pub limits: Limits,
    /// Whose end is the job's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<LeaseHolder>,
    /// How long it may live without a word of its clients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub silence: Option<Duration>,
    /// Whether there is an after phase; its text is nowhere on disk.
    #[serde(default)]
    pub after: bool,
    /// What the after phase needs after a reboot; `None`: there it cannot be run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after_reboot: Option<AfterReboot>,
    /// Whether it was kept from reaching processes outside of it (`--guard`).
    #[serde(default)]
    pub guard: bool,
    /// How its output is kept; `None`: it is not captured, and goes where its caller's goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capture: Option<CaptureSpec>,
    /// Whether it has an ssh-agent of its own, whose socket is `ssh-agent.sock` in `state_dir`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ssh_agent: bool,
    /// The absolute path of the directory, on a tmpfs, in which its steps hand variables on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_dir: Option<String>,
    /// What the journal's entries about it carry beside its id: names of fields and their values, opaque here. Without any
    /// it is not in the journal.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Who the steps of a session run as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login: Option<Login>,
    /// Where the machines are that the job starts; `None`: they are where they always are, and nobody gives them back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guests: Option<GuestPlace>,
}
