//! What is meant: one variant for each verb, and each carries its own typed values.
//!
//! Plain data. Past this door nobody knows what a flag, a variable or a config file is: whatever could be
//! wrong in the words is an error before a request exists.

use crate::config::Layers;
use crate::config::environ::Environ;
use jobcage_job::{CaptureSpec, GuestMode, JobId, Limits, Stream};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::values::{Rlimit, Signal};

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// `jobcage run`: a command in a cage, in the foreground.
    Run(Box<RunRequest>),
    /// `jobcage create`: a cage that stays open for `run --job`.
    Create(Box<CreateRequest>),
    /// `jobcage gitlab`: a call of GitLab Runner's custom executor.
    Gitlab(Box<GitlabRequest>),
    /// `jobcage cleanup`: the end of a created cage.
    Cleanup(CleanupRequest),
    /// `jobcage list`.
    List(ListRequest),
    /// `guests`.
    Guests(GuestsRequest),
    /// `jobcage show`.
    Show(ShowRequest),
    /// `jobcage stop`.
    Stop(StopRequest),
    /// `jobcage wait`.
    Wait(WaitRequest),
    /// `jobcage exec`.
    Exec(Box<ExecRequest>),
    /// `jobcage logs`.
    Logs(LogsRequest),
    /// `jobcage attach`.
    Attach(AttachRequest),
    /// `jobcage gc`.
    Gc(GcRequest),
    /// `jobcage doctor`.
    Doctor(DoctorRequest),
    /// `jobcage env`: what a step hands on.
    Handed(HandedRequest),
    /// `jobcage man DIR`: writes the manual pages.
    Man(ManRequest),
    /// `jobcage completions SHELL`: prints the shell's completion script.
    Completions(CompletionsRequest),
    /// Any of those with `--host`.
    Remote(Box<RemoteRequest>),
    /// `run` with several of them.
    Hosts(Box<HostsRequest>),
    /// A text that was asked for (`--help`, `--version`): to standard output, exit code 0.
    Print(String),
}

/// One job on several hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostsRequest {
    /// Places and voice of this side.
    pub common: Common,
    /// The hosts, as they were given; at least two.
    pub hosts: Vec<String>,
    /// The words behind the verb for each of them, but for the host and the report.
    pub words: Vec<OsString>,
    /// `--fail-fast`.
    pub fail_fast: bool,
    /// `--report`: a file of this side for all reports.
    pub report: Option<PathBuf>,
}

/// A verb on another host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteRequest {
    /// Places and voice of this side.
    pub common: Common,
    /// `--ssh`: a program and its options; never empty.
    pub ssh: Vec<OsString>,
    /// `--host`, for people.
    pub host: String,
    /// `user@host`, for ssh.
    pub target: String,
    /// Its port, where one was given.
    pub port: Option<u16>,
    /// `--remote-binary`.
    pub binary: Option<PathBuf>,
    /// `--reconnect-for`.
    pub reconnect_for: Duration,
    /// `--keepalive`. Never zero.
    pub keepalive: Duration,
    /// `--forward-agent`.
    pub forward_agent: bool,
    /// What to do there.
    pub verb: RemoteVerb,
}

/// What to do on another host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RemoteVerb {
    /// `run`.
    Run {
        /// Decorates the id.
        name: String,
        /// The words behind the verb, for the other side.
        words: Vec<OsString>,
        /// `--env`: each name once; values are resolved.
        env: Vec<(OsString, Secret)>,
        /// `--lease`; `None`: for ever.
        lease: Option<Duration>,
        /// `--stdin`: a file of this side.
        stdin: Option<PathBuf>,
        /// `--send`: files of this side, each with the directory there.
        send: Vec<(PathBuf, OsString)>,
        /// `--fetch`: files of the other side, each with the directory here.
        fetch: Vec<(OsString, PathBuf)>,
        /// `--detach`.
        detach: bool,
        /// `--report`: a file of this side.
        report: Option<PathBuf>,
    },
    /// `create`.
    Create {
        /// Decorates the id.
        name: String,
        /// The words behind the verb, for the other side.
        words: Vec<OsString>,
        /// `--lease`; `None`: for ever.
        lease: Option<Duration>,
    },
    /// `attach`.
    Attach {
        /// The job.
        id: JobId,
        /// `--offset`.
        offset: u64,
        /// `--stop-on-interrupt`.
        stop_on_interrupt: bool,
    },
    /// Another verb, done there as it is.
    Other {
        /// With the verb.
        words: Vec<OsString>,
    },
}

/// What every verb that touches jobs has to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Common {
    /// Where cages and records are.
    pub places: Places,
    /// How much a person wants to read on stderr.
    pub voice: Voice,
}

/// Where cages and records are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// The cgroup below which cages are made, if somebody named one; else the host is asked.
    pub cgroup_root: Option<PathBuf>,
    /// The directory of the records of living jobs (`/run/jobcage`).
    pub runtime_dir: PathBuf,
    /// The directory of what survives a reboot (`/var/lib/jobcage`).
    pub state_dir: PathBuf,
}

/// How much a person wants to read on stderr. Errors are always told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Voice {
    /// Errors only.
    Quiet,
    /// A few lines when something was left, killed or went wrong.
    #[default]
    Normal,
    /// What is done and why.
    Verbose,
}

/// `jobcage run`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunRequest {
    /// Places and voice.
    pub common: Common,
    /// The cage it runs in.
    pub cage: CageChoice,
    /// The command and how it is started.
    pub step: StepRequest,
    /// `--timeout`: the time from the start of the command to the first signal. Never zero.
    pub timeout: Option<Duration>,
    /// `--idle-timeout`: the longest time without output. Never zero.
    pub idle_timeout: Option<Duration>,
    /// `--signal`: the first, polite signal.
    pub signal: Signal,
    /// `--grace`: the time from the first signal to the kill. Zero: kill at once.
    pub grace: Duration,
    /// `--spare`: the programs of agents that are spared until the after phase is over.
    pub spare: Vec<String>,
    /// `--report`: the file that gets the report.
    pub report: Option<PathBuf>,
    /// `--detach`, `--log` or `--idle-timeout`: how its output is kept.
    pub capture: Option<CaptureRequest>,
}

/// A captured job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaptureRequest {
    /// Its output is shown, and it is stopped when this jobcage dies: not with `--detach`.
    pub attached: bool,
    /// Its logs.
    pub spec: CaptureSpec,
    /// What it reads.
    pub stdin: Stdin,
}

/// The standard input of a captured job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stdin {
    /// An empty file.
    Empty,
    /// `--stdin`: this file.
    File(PathBuf),
    /// That of jobcage, since nobody asked for the job to be on its own: `--idle-timeout` alone.
    Own,
}

/// The cage that a command runs in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CageChoice {
    /// A new one, which ends with the command.
    New {
        /// What it is like.
        cage: Box<CageRequest>,
        /// `--after`: its after phase.
        after: Option<AfterRequest>,
    },
    /// `--job`: one that `jobcage create` has made.
    Existing(JobId),
}

/// A cage to make.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CageRequest {
    /// `--name`: decorates the id.
    pub name: Option<String>,
    /// What the job may use.
    pub limits: Limits,
    /// `--best-effort`: a limit that cannot be enforced is a note in the report and no error.
    pub best_effort: bool,
    /// `--ssh-agent` with its keys, `--ssh-key`: files, and `-` for standard input, at most once. `None`: there is none.
    pub ssh_agent: Option<Vec<PathBuf>>,
    /// `--guests`: where the machines live that it starts; `None`: as its verb has it.
    pub guests: Option<Guests>,
    /// `--guests-dir`: above the places of all jobs; `None`: beside the records.
    pub guests_dir: Option<PathBuf>,
    /// `--project`: the directory that the job alone works in.
    pub project: Option<PathBuf>,
    /// `--guest-timeout`: the time that there is to give them back; `None`: five minutes.
    pub guest_timeout: Option<Duration>,
    /// `--guest-hook`: the site's own program, by its absolute path, and its arguments; empty: there is none.
    pub guest_hook: Vec<String>,
}

/// `--after`: what runs after the command, in a leaf of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AfterRequest {
    /// The script, for `/bin/sh -c`. Never written anywhere.
    pub script: Secret,
    /// `--after-timeout`: its own time. Never zero.
    pub timeout: Duration,
    /// `--after-reboot`: what of it is written down.
    pub reboot: Option<Box<AfterRebootRequest>>,
}

/// `--after-reboot`: an after phase that is a plain command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AfterRebootRequest {
    /// The words of the script, which mean the same without a shell. The first is an absolute path.
    pub argv: Vec<String>,
    /// `--after-env-file`, as it was given.
    pub env_file: Option<PathBuf>,
}

/// A command and how it is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepRequest {
    /// The program and its arguments; never empty.
    pub command: Vec<OsString>,
    /// Who runs it.
    pub identity: Identity,
    /// `--dir`: its working directory, as it was given.
    pub dir: Option<PathBuf>,
    /// Its environment.
    pub env: EnvRequest,
    /// `--guard`.
    pub guard: bool,
    /// `--nice`: −20 to 19.
    pub nice: Option<i32>,
    /// `--rlimit`: at most one for each resource.
    pub rlimits: Vec<Rlimit>,
}

/// Who runs a command. Names or numbers, not looked up yet; `None`: whoever calls jobcage, or the user's own
/// group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// `--user`: a user's name or number.
    pub user: Option<String>,
    /// `--group`: a group's name or number.
    pub group: Option<String>,
}

/// The environment of a command, in the order to apply: `inherited`, then the login variables, then `set`,
/// then what jobcage itself sets (`JOBCAGE_JOB`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EnvRequest {
    /// Not with `--clear-env`.
    pub inherit: bool,
    /// jobcage's own environment, without the variables that are options of `run` (else a jobcage inside of
    /// the job would repeat the outer one's after phase or overwrite its report). Empty without `inherit`.
    pub inherited: Vec<(OsString, Secret)>,
    /// `--login`: HOME, USER, LOGNAME, SHELL and PATH of the user.
    pub login: bool,
    /// `--env`: each name once; values are resolved.
    pub set: Vec<(OsString, Secret)>,
}

/// `jobcage create`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateRequest {
    /// Places and voice.
    pub common: Common,
    /// What the cage is like.
    pub cage: CageRequest,
    /// Who its steps belong to.
    pub identity: Identity,
    /// `--grace`, for the end of the cage.
    pub grace: Duration,
    /// `--lease-pid`: the process whose end is the end of the cage. Greater than 0.
    pub lease_pid: Option<i32>,
    /// `--lease`: how long it waits for a step. `None`: for ever.
    pub lease: Option<Duration>,
    /// Its id, where somebody has chosen one.
    pub id: Option<JobId>,
}

/// `jobcage gitlab`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GitlabRequest {
    /// Places and voice.
    pub common: Common,
    /// What it says of some jobs, and what they say for themselves.
    pub host: GitlabHost,
    /// Which call.
    pub call: GitlabCall,
}

/// Where the settings of a job of GitLab come from, before it is known which job it is.
#[derive(Clone, PartialEq, Eq)]
pub struct GitlabHost {
    pub(super) layers: Layers,
    pub(super) environ: Environ,
    pub(super) euid: u32,
}

/// The environment holds the job's secrets.
impl std::fmt::Debug for GitlabHost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GitlabHost").finish_non_exhaustive()
    }
}

/// What a job of GitLab is known by.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GitlabJob {
    /// Its project: path and number.
    pub projects: Vec<String>,
    /// The tags of its runner.
    pub tags: Vec<String>,
}

/// The settings of a job of GitLab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GitlabSettings {
    /// Its cage, its clocks and its user; without a command.
    pub run: RunRequest,
    /// `after_script`: who runs it.
    pub after_script: AfterScript,
    /// `after_timeout`: the most time that it has when jobcage runs it.
    pub after_timeout: Duration,
    /// `after_failed_sources`: whether it also runs where the sources could not be had.
    pub after_failed_sources: bool,
    /// `leftovers`: how long what a stage leaves may live.
    pub leftovers: Leftovers,
    /// `quarantine`: what to do on a host with processes that cannot be ended.
    pub quarantine: Quarantine,
    /// `quarantine_max`: on how many such cages not yet.
    pub quarantine_max: u64,
    /// What the job's user should know.
    pub notes: Vec<String>,
}

/// Who runs a job's `after_script`; what comes later allows more.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum AfterScript {
    /// Nobody.
    Never,
    /// The runner, where it does.
    Runner,
    /// The runner, and jobcage where that does not.
    #[default]
    Always,
}

/// How long what a stage leaves may live; what comes later allows more.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Leftovers {
    /// Until the stage ends.
    Stage,
    /// Until the job ends.
    #[default]
    Job,
}

/// `--guests`: what is looked after that a job starts outside of its own processes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Guests {
    /// What the kinds have that are not named; `None`: as the verb has it.
    pub rest: Option<GuestRest>,
    /// The kinds that are named, in their order; `None`: off.
    pub kinds: Vec<(String, Option<GuestMode>)>,
}

/// What the kinds have that nobody names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuestRest {
    /// VirtualBox and Vagrant in a place of the job's own.
    Isolate,
    /// Everything where it always is; nobody gives it back.
    Off,
}

/// What to do on a host with processes that cannot be ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Quarantine {
    /// Tell the job's user.
    #[default]
    Warn,
    /// Take no job.
    Refuse,
}

/// A call of GitLab Runner's custom executor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GitlabCall {
    /// `config`.
    Config {
        /// Whose the jobs are.
        identity: Identity,
        /// `--builds-dir`.
        builds_dir: Option<PathBuf>,
        /// `--cache-dir`.
        cache_dir: Option<PathBuf>,
    },
    /// `prepare`.
    Prepare,
    /// `run`.
    Run {
        /// The stage's script.
        script: PathBuf,
        /// The stage's name, whatever it is.
        stage: String,
    },
    /// `cleanup`.
    Cleanup,
    /// `template`, `convert`, `check`: an administrator's, not the runner's.
    Install(InstallRequest),
}

/// Bringing the driver onto a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstallRequest {
    /// From the first signal to the kill.
    pub grace: Duration,
    /// Who runs the jobs.
    pub identity: Identity,
    /// How long the after phase of GitLab's jobs may take.
    pub after: Duration,
    /// What to do.
    pub verb: InstallVerb,
}

/// What an administrator asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InstallVerb {
    /// `template`.
    Template {
        /// `--binary`: the jobcage that the runner is to call; `None`: this one.
        binary: Option<PathBuf>,
    },
    /// `convert`.
    Convert {
        /// The runner's configuration.
        config: PathBuf,
        /// `--name`: only runners of this name.
        name: Option<String>,
        /// `--binary`, as for `template`.
        binary: Option<PathBuf>,
        /// `--write`.
        write: bool,
    },
    /// `check`.
    Check {
        /// The runner's configuration; `None`: nobody named one, and there is no usual place.
        config: Option<PathBuf>,
        /// It is the one in the usual place, which a running runner should have read.
        is_usual: bool,
        /// `--json`.
        json: bool,
    },
}

/// A stage that the shim may have before it: `bash -l` or `su … -c "bash -l"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShimRequest {
    /// What the host's configuration says of a job; without a command.
    pub run: RunRequest,
    /// `shim.runner`: the programs whose children are stages.
    pub runners: Vec<PathBuf>,
}

/// `jobcage cleanup ID`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CleanupRequest {
    /// Places and voice.
    pub common: Common,
    /// The job.
    pub id: JobId,
    /// `--report`: the file that gets the report.
    pub report: Option<PathBuf>,
}

/// `jobcage list`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListRequest {
    /// Places and voice.
    pub common: Common,
    /// `--json`.
    pub json: bool,
}

/// `jobcage guests [ID]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestsRequest {
    /// Places and voice.
    pub common: Common,
    /// The job; `None`: all of them.
    pub id: Option<JobId>,
    /// `--json`.
    pub json: bool,
}

/// `jobcage show ID`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShowRequest {
    /// Places and voice.
    pub common: Common,
    /// The job.
    pub id: JobId,
    /// `--json`.
    pub json: bool,
}

/// `jobcage stop ID`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StopRequest {
    /// Places and voice.
    pub common: Common,
    /// The job; `None`: all of them (`--all`).
    pub id: Option<JobId>,
    /// How.
    pub how: StopHow,
    /// `--json`.
    pub json: bool,
}

/// How a job is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopHow {
    /// With a signal and a time; `None`: the job's own.
    Polite {
        /// `--signal`.
        signal: Option<Signal>,
        /// `--grace`.
        grace: Option<Duration>,
    },
    /// `--now`: the kill, without a signal before it.
    Now,
}

/// `jobcage wait ID…`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitRequest {
    /// Places and voice.
    pub common: Common,
    /// The jobs; never empty.
    pub ids: Vec<JobId>,
    /// `--any`.
    pub any: bool,
    /// `--timeout`.
    pub timeout: Option<Duration>,
    /// `--json`.
    pub json: bool,
}

/// `jobcage exec ID -- command`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecRequest {
    /// Places and voice.
    pub common: Common,
    /// The job.
    pub id: JobId,
    /// The program and its arguments; never empty.
    pub command: Vec<OsString>,
    /// `--dir`, as it was given.
    pub dir: Option<PathBuf>,
    /// `--env`: each name once; values are resolved.
    pub set: Vec<(OsString, Secret)>,
    /// jobcage's own environment, for a job that has none.
    pub inherited: Vec<(OsString, Secret)>,
}

/// `jobcage logs ID`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogsRequest {
    /// Places and voice.
    pub common: Common,
    /// The job.
    pub id: JobId,
    /// `--step`; `None`: all.
    pub step: Option<u32>,
    /// `--stream`: stdout or stderr; `None`: all that there are.
    pub stream: Option<Stream>,
    /// What to do with them.
    pub what: LogsWhat,
}

/// What to do with logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogsWhat {
    /// Print them.
    Print {
        /// `--follow`.
        follow: bool,
        /// Where to begin.
        begin: Begin,
    },
    /// Tell of them; at least one of both.
    Check {
        /// `--verify`.
        verify: bool,
        /// `--checksum`.
        checksum: bool,
    },
}

/// Where to begin with output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// With the first byte.
    Start,
    /// `--offset`: with this byte.
    Offset(u64),
    /// `--tail`: with so many last lines.
    Lines(u64),
}

/// `jobcage attach ID`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachRequest {
    /// Places and voice.
    pub common: Common,
    /// The job.
    pub id: JobId,
    /// Where to begin.
    pub begin: Begin,
    /// `--stop-on-interrupt`.
    pub stop_on_interrupt: bool,
    /// `--report` of `run --log`: the file that gets the report.
    pub report: Option<PathBuf>,
}

/// `jobcage gc`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GcRequest {
    /// Places and voice.
    pub common: Common,
    /// `--keep`; `None`: for ever.
    pub keep: Option<Duration>,
    /// `--keep-size`; `None`: without end.
    pub keep_size: Option<u64>,
    /// `--guests`: only what jobs have left outside of their own processes.
    pub guests: bool,
    /// `--guests-dir`: where places may be that have outlived their records; `None`: beside the records.
    pub guests_dir: Option<PathBuf>,
    /// `--dry-run`.
    pub dry_run: bool,
    /// `--json`.
    pub json: bool,
}

/// `jobcage doctor`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DoctorRequest {
    /// Places and voice.
    pub common: Common,
    /// `--json`.
    pub json: bool,
}

/// `jobcage env …`, from inside a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandedRequest {
    /// What `JOBCAGE_ENV` names; `None`: it is not set.
    pub file: Option<PathBuf>,
    /// What to do.
    pub verb: HandedVerb,
}

/// What to do with the variables for later steps. The names are names of variables that may be handed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HandedVerb {
    /// `env set`; `None`: the value comes from standard input.
    Set {
        /// The variable.
        name: OsString,
        /// Its value.
        value: Option<Secret>,
    },
    /// `env get`.
    Get(OsString),
    /// `env unset`; never empty.
    Unset(Vec<OsString>),
    /// `env list`.
    List,
}

/// `jobcage man DIR`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManRequest {
    /// The directory that gets the pages; it must exist.
    pub dir: PathBuf,
}

/// `jobcage completions SHELL`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompletionsRequest {
    /// The shell.
    pub shell: clap_complete::Shell,
}

/// An environment value or a script: it may be handed to the job, and shown to nobody. `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(OsString);

impl Secret {
    /// The text, to hand it on.
    #[must_use]
    pub fn expose(&self) -> &OsStr {
        &self.0
    }
}

impl From<OsString> for Secret {
    fn from(text: OsString) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}
