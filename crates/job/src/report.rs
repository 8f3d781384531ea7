//! The report of a job. Every key is documented in `docs/outcomes.md`; a key that the kernel gave no value for
//! is absent, never zero.

use crate::{Ending, ExitStatus, GuestReport, JobId, StepKind};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The version of the report's format; raised when a key changes its meaning, not when one is added.
pub const REPORT_VERSION: u32 = 1;

/// What became of a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`REPORT_VERSION`] of the writer.
    pub version: u32,
    /// The version of jobcage.
    pub jobcage: String,
    /// The job.
    pub job: JobId,
    /// The host that it ran on, where that is another one than this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The name that the user gave it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The first cause of the end.
    pub ending: Ending,
    /// What the main process said, where it was seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<ExitStatus>,
    /// What `jobcage run` returned.
    pub exit_code: i32,
    /// Later causes, and whatever a reader should know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// `clean` ⇔ the kernel said `populated 0` and the cage was removed.
    pub clean: bool,
    /// Who closed the job: `supervisor`, `cleanup` or `gc`.
    pub closed_by: String,
    /// When the job was made, RFC 3339, UTC.
    pub started: String,
    /// When the report was written.
    pub ended: String,
    /// The time between them by a clock that counts suspension, in seconds.
    pub wall_seconds: f64,
    /// The boot in which it ran.
    pub boot_id: String,
    /// Whether the job could reach those who look after it.
    #[serde(default)]
    pub guarantee: Guarantee,
    /// Where its cage was.
    pub cage: String,
    /// Which root the cage was under, and why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root: Option<Root>,
    /// Every step, in order.
    pub steps: Vec<StepReport>,
    /// What was alive in the cage when the job had ended.
    pub census: Census,
    /// Processes that had left the cage.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub escaped: Vec<Escape>,
    /// The machines that the job had, and what became of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub guests: Vec<GuestReport>,
    /// How the emptying went.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proof: Option<Proof>,
    /// What outlived the kill.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quarantine: Option<Quarantine>,
    /// Each limit by its cgroup file.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub limits: BTreeMap<String, EnforcedLimit>,
    /// What it used, as far as the kernel tells.
    pub usage: Usage,
}

impl Report {
    /// Whether a process of the job was alive when it was written, in its cage or outside.
    #[must_use]
    pub fn has_survivors(&self) -> bool {
        self.quarantine.is_some() || self.escaped.iter().any(Escape::has_survived)
    }

    /// Whether something is left that a later try may end or give back: a cage in quarantine, or a machine.
    #[must_use]
    pub fn is_unfinished(&self) -> bool {
        self.quarantine.is_some() || self.guests.iter().any(GuestReport::is_left)
    }
}

/// Whether a job can end or alter the processes of jobcage that look after it: what is promised of its output and status
/// holds against everybody, but against the job itself only as far as this goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Guarantee {
    /// The job ran as another user, who may neither signal nor read them.
    OtherUser,
    /// The job ran behind a fence of Landlock (`--guard`).
    Guarded,
    /// The job ran as the same user and could have killed them.
    #[default]
    SameUser,
    /// The job ran as root, who may do everything.
    Root,
}

/// Where the cages of this host live.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// `configured`, `systemd`, `delegated`, `user-scope`, `plain`, `nested` or `slurm`.
    pub kind: String,
    /// Its path.
    pub path: String,
    /// Why this one.
    pub why: String,
}

/// One step of a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepReport {
    /// From 1.
    pub number: u32,
    /// `main`, `after`, or the name that was given.
    pub name: String,
    /// What it was for.
    pub kind: StepKind,
    /// Its own ending.
    pub ending: Ending,
    /// What its main process said, where it was seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<ExitStatus>,
    /// RFC 3339, UTC.
    pub started: String,
    /// RFC 3339, UTC; absent while it runs or where nobody saw the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended: Option<String>,
    /// Its logs, if it is captured and they were looked at since it began.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub logs: Vec<LogReport>,
}

/// One log of a captured step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogReport {
    /// What came into it.
    pub stream: Stream,
    /// How many bytes the step wrote: the length of the file, with what was dropped of it.
    pub bytes: u64,
    /// How many they were when the main process had ended and its output was drained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_exit: Option<u64>,
    /// The middle that was dropped at the limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropped: Option<LogGap>,
    /// Whether every byte that the step wrote came into the log, but for what is said to be dropped.
    pub whole: bool,
}

/// What comes into a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// Stdout and stderr in their order.
    Merged,
    /// Stdout alone.
    Stdout,
    /// Stderr alone.
    Stderr,
}

/// The bytes of a log, by their offsets, that were dropped: from the first to before the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogGap {
    /// The first that is dropped.
    pub from: u64,
    /// The first that is there again.
    pub to: u64,
}

impl LogGap {
    /// How many bytes it is.
    #[must_use]
    pub fn bytes(self) -> u64 {
        self.to.saturating_sub(self.from)
    }
}

/// The look at a cage before it was killed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Census {
    /// How it was taken.
    pub method: CensusMethod,
    /// How many processes there were.
    pub count: u64,
    /// The first of them in detail: at most 256, of a crowd of more than 512 only 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left: Vec<Left>,
}

/// How exact a census is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CensusMethod {
    /// The cage was empty: nothing to look at.
    #[default]
    Empty,
    /// Taken while the kernel said `frozen 1`: exact.
    Frozen,
    /// Taken without a freeze (it did not finish in time, the kernel has none, or there were too many
    /// processes for it to be worth its time): processes may have come and gone meanwhile.
    Running,
}

/// One process that was left.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Left {
    /// Its pid, as jobcage sees it.
    pub pid: i32,
    /// Its parent.
    pub ppid: i32,
    /// The kernel's name of it, at most 15 bytes, escaped.
    pub comm: String,
    /// Its command line, escaped and shortened; empty for a zombie or where it cannot be read.
    pub command: String,
    /// Its real uid.
    pub uid: u32,
    /// The name of that uid, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// RFC 3339, UTC, exact to a clock tick.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started: Option<String>,
    /// The state letter of proc_pid_stat(5).
    pub state: char,
    /// The pid of a tracer, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tracer: Option<i32>,
    /// The kernel function that it sleeps in, where the kernel tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wchan: Option<String>,
    /// The name of the machine that it runs, if it has one of KVM open: what its arguments call it, or its own name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kvm: Option<String>,
    /// Why it counts as the job's.
    pub found: FoundBy,
    /// How it ended.
    pub died: Death,
}

/// Why a process counts as the job's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FoundBy {
    /// It was in this cgroup of the cage (path below the cage).
    Cgroup(String),
    /// It is a descendant of the job that was in another cgroup.
    Descendant(String),
    /// It carries this job's `JOBCAGE_JOB` in its environment and was in another cgroup.
    Environment(String),
    /// A transient systemd unit that appeared while the job ran; not known to be the job's.
    TransientUnit(String),
    /// An `at` job of the same user that appeared while the job ran; not known to be the job's.
    AtJob(String),
}

/// How a leftover ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Death {
    /// In the kill of its cgroup.
    Killed,
    /// It would not die: see the quarantine.
    Survived,
    /// It was not touched, since it is not known to be the job's.
    Spared,
}

/// A process that was outside of the cage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Escape {
    /// Why it counts as the job's, and where it was.
    pub found: FoundBy,
    /// The process, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<Left>,
    /// What was done with it.
    pub died: Death,
}

impl Escape {
    /// Whether it is the job's and did not die.
    #[must_use]
    pub fn has_survived(&self) -> bool {
        self.died == Death::Survived
    }
}

/// How the last emptying of the cage went.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// What `cgroup.events` said last; `None`: the cgroup was gone already.
    pub populated: Option<bool>,
    /// Whether the directories are gone.
    pub removed: bool,
    /// From the freeze to `frozen 1`, microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frozen_us: Option<u64>,
    /// From the first kill to `populated 0`, microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub empty_us: Option<u64>,
    /// How the kill was done.
    pub kill: Kill,
    /// Processes that `cgroup.kill` left and a SIGKILL by pidfd ended.
    pub stragglers: u64,
}

/// How a cage was killed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kill {
    /// It was empty.
    #[default]
    NotNeeded,
    /// By `cgroup.kill` and pidfds.
    CgroupKill,
    /// By pidfds alone, as the kernel has no `cgroup.kill`.
    Walk,
}

/// What outlived the kill, and keeps its cage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Quarantine {
    /// The cage that is still there.
    pub cage: String,
    /// The survivors.
    pub survivors: Vec<Left>,
    /// What is known of the cause, in a sentence.
    pub why: String,
}

/// A limit as asked and as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnforcedLimit {
    /// What was written.
    pub asked: String,
    /// What the file said afterwards.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enforced: Option<String>,
    /// Why it is not enforced (with `--best-effort`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What the job used. Absent: the kernel does not say, or the controller was not enabled.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Usage {
    /// `cpu.stat` `usage_usec`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_us: Option<u64>,
    /// `cpu.stat` `user_usec`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_us: Option<u64>,
    /// `cpu.stat` `system_usec`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system_us: Option<u64>,
    /// `cpu.stat` `throttled_usec`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub throttled_us: Option<u64>,
    /// `memory.peak`, bytes, page cache included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_peak: Option<u64>,
    /// `memory.swap.peak`, bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swap_peak: Option<u64>,
    /// `memory.events` `oom_kill`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oom_kills: Option<u64>,
    /// `pids.peak`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids_peak: Option<u64>,
    /// `pids.events` `max`: forks refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forks_refused: Option<u64>,
    /// Sum of `rbytes` in `io.stat`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io_read: Option<u64>,
    /// Sum of `wbytes` in `io.stat`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io_written: Option<u64>,
    /// PSI totals by resource: `cpu`, `memory`, `io`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub stalled: BTreeMap<String, Stall>,
}

/// PSI: how long tasks waited (Documentation/accounting/psi.rst), microseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stall {
    /// At least one task waited.
    pub some_us: u64,
    /// All tasks waited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub full_us: Option<u64>,
}
