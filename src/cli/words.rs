//! What was typed: clap's structs, as near to the words as possible. Values are still text, since the same
//! option may also come from a variable or a config file, and is typed once, in `meaning`.
//!
//! Each verb's options are built only when that verb is called (`Command::defer`): building them all costs
//! more than the rest of the parse. (Structs here have no doc comments: clap would take them for help.)

use clap::{ArgMatches, Args, Command, FromArgMatches, ValueHint};
use clap_complete::Shell;
use std::ffi::OsString;

use super::help;
use super::install::{CheckWords, ConvertWords, TemplateWords};

#[derive(Debug, Default, PartialEq, Eq, Args)]
pub struct CommonWords {
    /// Make cages below this cgroup.
    ///
    /// It must be a directory of cgroup v2 that may be written to. Without it, jobcage looks for one; `jobcage
    /// doctor` tells which one it finds and why.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, help_heading = "General")]
    pub cgroup_root: Option<OsString>,
    /// Print errors only.
    #[arg(long, short, help_heading = "General", conflicts_with = "verbose",
          value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub quiet: Option<OsString>,
    /// Tell what is done and why.
    #[arg(long, short, help_heading = "General",
          value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub verbose: Option<OsString>,
}

#[derive(Debug, Default, PartialEq, Eq, Args)]
pub struct HostWords {
    /// Do it on this host, over ssh. It needs no jobcage there: without one of this version, this one is copied.
    ///
    /// For `run` it may be given more than once: the job runs on all of them, side by side.
    #[arg(long, value_name = "[USER@]HOST[:PORT]", value_hint = ValueHint::Hostname, help_heading = "Another host")]
    pub host: Vec<OsString>,
    /// The ssh to use, and its options, with blanks between: "ssh -F FILE". The default is ssh.
    #[arg(long, value_name = "WORDS", help_heading = "Another host")]
    pub ssh: Option<OsString>,
    /// Use a copy of this jobcage there, and no other: for a host of another architecture.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = "Another host")]
    pub remote_binary: Option<OsString>,
}

#[derive(Debug, Default, PartialEq, Eq, Args)]
pub struct LineWords {
    /// When the line to the host breaks, try for this long to make a new one. The default is 5m.
    #[arg(long, value_name = "TIME", help_heading = "Another host")]
    pub reconnect_for: Option<OsString>,
    /// Ask the line this often whether it is there; it is broken when it is silent for three times as long. The default is 5s.
    #[arg(long, value_name = "TIME", help_heading = "Another host")]
    pub keepalive: Option<OsString>,
}

#[derive(Debug, Default, PartialEq, Eq, Args)]
pub struct IdentityWords {
    /// Run as this user, by name or number.
    #[arg(long, value_name = "USER", value_hint = ValueHint::Username, help_heading = "The command")]
    pub user: Option<OsString>,
    /// Run with this group instead of the user's own, by name or number.
    #[arg(long, value_name = "GROUP", help_heading = "The command")]
    pub group: Option<OsString>,
}

#[derive(Debug, Default, PartialEq, Eq, Args)]
pub struct CageWords {
    /// Begin the job's id with this name.
    #[arg(long, value_name = "NAME", help_heading = "The job")]
    pub name: Option<OsString>,
    /// Allow this much CPU time: 1.5 is one and a half processors, 20% a fifth of one.
    #[arg(long, value_name = "SHARE", help_heading = "Limits")]
    pub cpu: Option<OsString>,
    /// Allow this much memory, such as 512M or 2G. More ends in the kernel's OOM kill.
    #[arg(long, value_name = "SIZE", help_heading = "Limits")]
    pub memory: Option<OsString>,
    /// Slow the job down above this much memory.
    #[arg(long, value_name = "SIZE", help_heading = "Limits")]
    pub memory_high: Option<OsString>,
    /// Allow this much swap; 0 is none.
    #[arg(long, value_name = "SIZE", help_heading = "Limits")]
    pub swap: Option<OsString>,
    /// Allow this many processes and threads.
    #[arg(long, value_name = "COUNT", help_heading = "Limits")]
    pub pids: Option<OsString>,
    /// Limit a block device, such as 8:0:rbps=10M,wiops=200 or /dev/sda:wbps=5M.
    ///
    /// The rates are rbps and wbps (bytes a second read and written), riops and wiops (operations a second).
    /// May be given more than once.
    #[arg(long, value_name = "DEVICE:RATES", help_heading = "Limits")]
    pub io: Vec<OsString>,
    /// Use these processors only, such as 0-3,6.
    #[arg(long, value_name = "LIST", help_heading = "Limits")]
    pub cpus: Option<OsString>,
    /// Run even where a limit cannot be enforced. The report then says which one and why.
    #[arg(long, help_heading = "Limits",
          value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub best_effort: Option<OsString>,
    /// Give the job an ssh-agent of its own: SSH_AUTH_SOCK in every step and in the after phase.
    ///
    /// It runs as the job's user, needs OpenSSH's ssh-agent and ssh-add, and ends with the job.
    #[arg(long, help_heading = "The job",
          value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub ssh_agent: Option<OsString>,
    /// Give that agent the private key in this file, or, for `-`, on standard input. Implies --ssh-agent.
    ///
    /// It is read by the caller of jobcage, so the job's user need not be able to. May be given more than once.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = "The job")]
    pub ssh_key: Vec<OsString>,
    /// Give back what the job starts outside of its own processes: `isolate`, `off`, KIND=MODE, or several with commas between.
    ///
    /// `isolate`: VirtualBox and Vagrant keep it in a place of the job's own, and machines of KVM are told of. KIND=MODE is for one kind alone,
    /// and MODE is isolate, shared or off; for vagrant destroy, too. The default is off; for `create`, isolate. Tools are used only for jobs that are not root's.
    #[arg(long, value_name = "HOW", help_heading = "The job")]
    pub guests: Option<OsString>,
    /// Above those places, an absolute path: a disk that is large enough.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, help_heading = "The job")]
    pub guests_dir: Option<OsString>,
    /// The directory that this job alone works in, an absolute path.
    ///
    /// What tools that jobs share (KIND=shared) have in it is the job's, if it was made since the job began. For jobs of GitLab it is CI_PROJECT_DIR.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, help_heading = "The job")]
    pub project: Option<OsString>,
    /// Give the tools this much time to give back what the job has made. The default is 5m.
    #[arg(long, value_name = "TIME", help_heading = "The job")]
    pub guest_timeout: Option<OsString>,
    /// Run this program of the site's own when the job's cage is empty, to give back what jobcage knows nothing of.
    ///
    /// An absolute path; given again, each further one is an argument. It runs as whoever runs jobcage, with the job as JSON on standard
    /// input. `none` alone takes back what a file sets.
    #[arg(long, value_name = "WORD", value_hint = ValueHint::FilePath, help_heading = "The job")]
    pub guest_hook: Vec<OsString>,
}

#[derive(Debug, Default, PartialEq, Eq, Args)]
pub struct StepWords {
    /// Give the command the user's login environment: HOME, USER, LOGNAME, SHELL and PATH.
    #[arg(long, help_heading = "The command",
          value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub login: Option<OsString>,
    /// Start in this directory.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, help_heading = "The command")]
    pub dir: Option<OsString>,
    /// Set a variable. Without a value it is taken from jobcage's own environment.
    ///
    /// May be given more than once. Values are never written to a file or a message of jobcage.
    #[arg(long, value_name = "NAME[=VALUE]", help_heading = "The command")]
    pub env: Vec<OsString>,
    /// Start with an empty environment.
    #[arg(long, help_heading = "The command",
          value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub clear_env: Option<OsString>,
    /// Let the command signal and trace nobody outside of the job (Landlock). Set-user-ID programs then gain nothing.
    #[arg(long, help_heading = "The command",
          value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub guard: Option<OsString>,
    /// Run with this niceness, -20 to 19.
    #[arg(
        long,
        value_name = "N",
        allow_hyphen_values = true,
        help_heading = "The command"
    )]
    pub nice: Option<OsString>,
    /// Set a limit of setrlimit(2), such as nofile=1024:4096 or core=unlimited.
    ///
    /// One value sets both the soft and the hard limit. May be given more than once.
    #[arg(long, value_name = "NAME=SOFT[:HARD]", help_heading = "The command")]
    pub rlimit: Vec<OsString>,
}

#[derive(Debug, Default, PartialEq, Eq, Args)]
pub struct RunWords {
    /// Run a further step in the cage of this job, which `jobcage create` has made.
    ///
    /// The cage's name, limits and after phase are not this step's to set.
    #[arg(long, value_name = "ID", help_heading = "The job", conflicts_with_all = [
        "name", "cpu", "memory", "memory_high", "swap", "pids", "io", "cpus", "best_effort", "after", "after_timeout",
        "detach", "log", "ssh_agent", "ssh_key", "guests", "guests_dir", "project", "guest_timeout",
        "guest_hook", "after_reboot",
    ])]
    pub job: Option<OsString>,
    #[command(flatten)]
    pub cage: CageWords,
    /// Stop the command after this time, such as 90, 1.5h or 1h30m. The exit code is then 124.
    #[arg(long, value_name = "TIME", help_heading = "The end")]
    pub timeout: Option<OsString>,
    /// Stop the command when it has written nothing for this time. Its output is kept, as with --log.
    #[arg(long, value_name = "TIME", help_heading = "The end")]
    pub idle_timeout: Option<OsString>,
    /// Send this signal first when the command is stopped. The default is TERM.
    #[arg(long, value_name = "SIGNAL", help_heading = "The end")]
    pub signal: Option<OsString>,
    /// Wait this long between that signal and the kill. The default is 10s.
    #[arg(long, value_name = "TIME", help_heading = "The end")]
    pub grace: Option<OsString>,
    /// Run this with /bin/sh -c when the command is over, however it ended.
    ///
    /// It finds out what happened from JOBCAGE_RESULT, JOBCAGE_EXIT_CODE, JOBCAGE_SIGNAL, JOBCAGE_ENDING and JOBCAGE_CAUSE.
    #[arg(
        long,
        value_name = "SCRIPT",
        allow_hyphen_values = true,
        help_heading = "The end"
    )]
    pub after: Option<OsString>,
    /// Give the --after script this much time. The default is 5m.
    #[arg(long, value_name = "TIME", help_heading = "The end")]
    pub after_timeout: Option<OsString>,
    /// When the job is stopped, spare agents of these programs until its after phase is over. `none` spares none.
    ///
    /// The names are separated by commas. The default is ssh-agent,gpg-agent.
    #[arg(long, value_name = "NAMES", help_heading = "The end")]
    pub spare: Option<OsString>,
    /// Should the host go down, run the --after program after the reboot.
    ///
    /// It stands in the job's record for that, so it has to be the absolute path of a program with plain words as its
    /// arguments. `jobcage gc` runs it, and the next job that is started does.
    #[arg(long, help_heading = "The end",
          value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub after_reboot: Option<OsString>,
    /// Give the --after program these variables after a reboot: lines NAME=value, read at that time.
    ///
    /// The environment of the job is gone then.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = "The end")]
    pub after_env_file: Option<OsString>,
    /// Write the report, as JSON, to this file, whatever happens.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = "The end")]
    pub report: Option<OsString>,
    #[command(flatten)]
    pub capture: CaptureWords,
    #[command(flatten)]
    pub host: HostWords,
    /// The job on the other host ends by itself when nobody was heard of for this time. The default is 10m, and never with --detach; 0: never.
    #[arg(long, value_name = "TIME", help_heading = "Another host")]
    pub lease: Option<OsString>,
    /// Give the job this side's ssh-agent.
    #[arg(long, help_heading = "Another host",
          value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub forward_agent: Option<OsString>,
    /// Send this file or directory before the job starts, into the directory DEST there; by default, that of the job.
    ///
    /// With modes and times, and with owners where root takes them. Of PATH/. the content is sent.
    #[arg(long, value_name = "PATH[:DEST]", help_heading = "Another host")]
    pub send: Vec<OsString>,
    /// Fetch this file or directory when the job is over, however it ended, into the directory DEST here; by default, the present one.
    #[arg(long, value_name = "PATH[:DEST]", help_heading = "Another host")]
    pub fetch: Vec<OsString>,
    #[command(flatten)]
    pub line: LineWords,
    /// Of several hosts: when the job has failed on one, stop it on the others.
    #[arg(long, help_heading = "Another host",
          value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub fail_fast: Option<OsString>,
    #[command(flatten)]
    pub identity: IdentityWords,
    #[command(flatten)]
    pub step: StepWords,
    #[command(flatten)]
    pub common: CommonWords,
    /// The command and its arguments.
    // Only behind `--`: else `--env A B=secret` would quietly run a program named `B=secret`.
    #[arg(last = true, required = true, value_name = "COMMAND", value_hint = ValueHint::CommandWithArguments)]
    pub command: Vec<OsString>,
}

#[derive(Debug, Default, PartialEq, Eq, Args)]
pub struct CaptureWords {
    /// Start the job, print its id and return. It then needs nobody: see `jobcage attach` and `jobcage logs`.
    #[arg(long, help_heading = "The output", conflicts_with = "log",
          value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub detach: Option<OsString>,
    /// Keep the output in a log, and show it meanwhile. When this jobcage is killed, the job is stopped.
    #[arg(long, help_heading = "The output",
          value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub log: Option<OsString>,
    /// Log stdout and stderr together (`merged`, in their exact order) or each by itself (`split`).
    ///
    /// The default is `merged` with --detach and `split` with --log.
    #[arg(long, value_name = "HOW", help_heading = "The output")]
    pub streams: Option<OsString>,
    /// Keep at most this much of a log, such as 100M. The default is 1G; `none` keeps all.
    #[arg(long, value_name = "SIZE", help_heading = "The output")]
    pub log_max: Option<OsString>,
    /// When a log is full, drop its `middle` and keep head and tail, or `stop` the job. The default is `middle`.
    #[arg(long, value_name = "WHAT", help_heading = "The output")]
    pub log_full: Option<OsString>,
    /// Put every piece of output on the disk before the next one is taken. Slow.
    #[arg(long, help_heading = "The output",
          value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub log_sync: Option<OsString>,
    /// Read the standard input of a job with --detach or --log from this file. The default is an empty one.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = "The output")]
    pub stdin: Option<OsString>,
}

#[derive(Debug, Args)]
pub struct CreateWords {
    /// End the cage when the process with this pid ends.
    #[arg(long, value_name = "PID", help_heading = "The job")]
    pub lease_pid: Option<OsString>,
    /// End the cage when no step has run in it for this time. Without it, it waits for ever; with --host for 10m, and 0 is for ever.
    #[arg(long, value_name = "TIME", help_heading = "The job")]
    pub lease: Option<OsString>,
    /// The name that a client on another host has given it.
    #[arg(long, value_name = "ID", hide = true)]
    pub id: Option<OsString>,
    #[command(flatten)]
    pub cage: CageWords,
    #[command(flatten)]
    pub identity: IdentityWords,
    /// Wait this long between the first signal and the kill when the cage is ended. The default is 10s.
    #[arg(long, value_name = "TIME", help_heading = "The end")]
    pub grace: Option<OsString>,
    #[command(flatten)]
    pub host: HostWords,
    #[command(flatten)]
    pub common: CommonWords,
}

#[derive(Debug, Args)]
pub struct CleanupWords {
    /// The job's id, as `jobcage create` printed it.
    #[arg(value_name = "ID")]
    pub id: OsString,
    /// Write the report, as JSON, to this file.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub report: Option<OsString>,
    #[command(flatten)]
    pub host: HostWords,
    #[command(flatten)]
    pub common: CommonWords,
}

#[derive(Debug, Args)]
pub struct ListWords {
    #[command(flatten)]
    pub host: HostWords,
    #[command(flatten)]
    pub plain: PlainWords,
}

#[derive(Debug, Args)]
pub struct PlainWords {
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub common: CommonWords,
}

#[derive(Debug, Args)]
pub struct ShowWords {
    /// The job's id.
    #[arg(value_name = "ID")]
    pub id: OsString,
    #[command(flatten)]
    pub host: HostWords,
    #[command(flatten)]
    pub plain: PlainWords,
}

#[derive(Debug, Args)]
pub struct GuestsWords {
    /// The job's id. Without it, all jobs.
    #[arg(value_name = "ID")]
    pub id: Option<OsString>,
    #[command(flatten)]
    pub plain: PlainWords,
}

#[derive(Debug, Args)]
pub struct StopWords {
    /// The job's id.
    #[arg(value_name = "ID", required_unless_present = "all")]
    pub id: Option<OsString>,
    /// Stop all jobs of this user, as at a shutdown: all at once, each in its own way.
    #[arg(long, conflicts_with = "id")]
    pub all: bool,
    /// Send this signal first, instead of the job's own.
    #[arg(long, value_name = "SIGNAL", conflicts_with = "now")]
    pub signal: Option<OsString>,
    /// Wait this long between that signal and the kill, instead of the job's own time.
    #[arg(long, value_name = "TIME", conflicts_with = "now")]
    pub grace: Option<OsString>,
    /// Kill at once, without a signal and a grace before it.
    #[arg(long)]
    pub now: bool,
    #[command(flatten)]
    pub host: HostWords,
    #[command(flatten)]
    pub plain: PlainWords,
}

#[derive(Debug, Args)]
pub struct WaitWords {
    /// The jobs' ids.
    #[arg(value_name = "ID", required = true)]
    pub ids: Vec<OsString>,
    /// Return when the first of them is over, instead of the last.
    #[arg(long)]
    pub any: bool,
    /// Wait at most this long. The exit code is then 124.
    #[arg(long, value_name = "TIME")]
    pub timeout: Option<OsString>,
    /// Print a line of JSON for each job.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub host: HostWords,
    #[command(flatten)]
    pub common: CommonWords,
}

#[derive(Debug, Args)]
pub struct ExecWords {
    /// The job's id.
    #[arg(value_name = "ID")]
    pub id: OsString,
    /// Start in this directory, instead of the job's.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub dir: Option<OsString>,
    /// Set a variable. Without a value it is taken from jobcage's own environment.
    ///
    /// May be given more than once.
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub env: Vec<OsString>,
    #[command(flatten)]
    pub common: CommonWords,
    /// The command and its arguments.
    #[arg(last = true, required = true, value_name = "COMMAND", value_hint = ValueHint::CommandWithArguments)]
    pub command: Vec<OsString>,
}

#[derive(Debug, Args)]
pub struct GcWords {
    /// Remove the records of jobs that have been over for this long. The default is 7d.
    #[arg(long, value_name = "TIME")]
    pub keep: Option<OsString>,
    /// Remove the oldest records until those of jobs that are over take no more than this. The default is 5G.
    #[arg(long, value_name = "SIZE")]
    pub keep_size: Option<OsString>,
    /// Only try again to give back what jobs that are over have left, such as machines, and remove places that have outlived their records.
    ///
    /// No orphan is closed, and no record is removed. What still cannot be given back is told, and the exit code is 125 then.
    #[arg(long, conflicts_with_all = ["keep", "keep_size"])]
    pub guests: bool,
    /// Where places are looked for that have outlived their records, as after a power cut. The default is beside the state directory.
    #[arg(long, value_name = "DIR")]
    pub guests_dir: Option<OsString>,
    /// Change nothing: tell what would be done.
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub plain: PlainWords,
}

#[derive(Debug, Args)]
pub struct LogsWords {
    /// The job's id.
    #[arg(value_name = "ID")]
    pub id: OsString,
    /// Go on with what comes until the job is over; with --step until that step's main process has ended.
    #[arg(long, short)]
    pub follow: bool,
    /// Only this step: 1 is the command itself. The default is all that are logged, one after the other.
    #[arg(long, value_name = "N")]
    pub step: Option<OsString>,
    /// Only this stream, `stdout` or `stderr`, of a job whose streams are split. It comes to standard output.
    #[arg(long, value_name = "STREAM")]
    pub stream: Option<OsString>,
    #[command(flatten)]
    pub begin: BeginWords,
    /// Print no output, but whether each log is all that the step wrote. The exit code is 1 if one is not.
    #[arg(long, conflicts_with_all = ["follow", "offset", "tail"])]
    pub verify: bool,
    /// Print no output, but the SHA-256 of each log, as sha256sum does. A dropped middle is left out.
    #[arg(long, conflicts_with_all = ["follow", "offset", "tail"])]
    pub checksum: bool,
    #[command(flatten)]
    pub host: HostWords,
    #[command(flatten)]
    pub common: CommonWords,
}

#[derive(Debug, Args)]
pub struct AttachWords {
    /// The job's id.
    #[arg(value_name = "ID")]
    pub id: OsString,
    #[command(flatten)]
    pub begin: BeginWords,
    /// Have Ctrl-C and SIGTERM stop the job, and stay until it is over. A second one skips the grace.
    #[arg(long)]
    pub stop_on_interrupt: bool,
    #[command(flatten)]
    pub host: HostWords,
    #[command(flatten)]
    pub line: LineWords,
    #[command(flatten)]
    pub common: CommonWords,
}

#[derive(Debug, Args)]
pub struct BeginWords {
    /// Begin with this byte of the first log: 0 is the first one, and one that is not there yet is waited for.
    #[arg(long, value_name = "BYTES", conflicts_with = "tail")]
    pub offset: Option<OsString>,
    /// Begin with the last lines that are there; 0 is only what comes.
    #[arg(long, value_name = "LINES")]
    pub tail: Option<OsString>,
}

#[derive(Debug, Args)]
pub struct ManWords {
    /// The directory that gets the pages; it must exist.
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub dir: OsString,
}

#[derive(Debug, Args)]
pub struct CompletionsWords {
    /// The shell.
    #[arg(value_name = "SHELL")]
    pub shell: Shell,
}

#[derive(Debug, Args)]
pub struct EnvSetWords {
    /// The variable with its value. Without a value it is read from standard input, which no process list shows.
    ///
    /// One line end at the end of that input is not part of the value.
    #[arg(value_name = "NAME[=VALUE]")]
    pub variable: OsString,
}

#[derive(Debug, Args)]
pub struct EnvGetWords {
    /// The variable.
    #[arg(value_name = "NAME")]
    pub name: OsString,
}

#[derive(Debug, Args)]
pub struct EnvUnsetWords {
    /// The variables.
    #[arg(value_name = "NAME", required = true)]
    pub names: Vec<OsString>,
}

#[derive(Debug, Args)]
pub struct GitlabConfigWords {
    #[command(flatten)]
    pub common: CommonWords,
    /// Keep the builds here, an absolute path. The default is `builds` in the build user's home.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub builds_dir: Option<OsString>,
    /// Keep the caches here, an absolute path. The default is `cache` in the build user's home.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub cache_dir: Option<OsString>,
}

#[derive(Debug, Args)]
pub struct GitlabRunWords {
    #[command(flatten)]
    pub common: CommonWords,
    /// The stage's script, which is fed to a login shell of the build user.
    #[arg(value_name = "SCRIPT", value_hint = ValueHint::FilePath)]
    pub script: OsString,
    /// The stage's name.
    #[arg(value_name = "STAGE")]
    pub stage: OsString,
}

/// The words of `gitlab`.
#[derive(Debug)]
pub enum GitlabWords {
    /// `gitlab config`.
    Config(GitlabConfigWords),
    /// `gitlab prepare`.
    Prepare(CommonWords),
    /// `gitlab run`.
    Run(GitlabRunWords),
    /// `gitlab cleanup`.
    Cleanup(CommonWords),
    /// `gitlab template`.
    Template(TemplateWords),
    /// `gitlab convert`.
    Convert(ConvertWords),
    /// `gitlab check`.
    Check(CheckWords),
}

/// The words of `env`.
#[derive(Debug)]
pub enum EnvWords {
    /// `env set`.
    Set(EnvSetWords),
    /// `env get`.
    Get(EnvGetWords),
    /// `env unset`.
    Unset(EnvUnsetWords),
    /// `env list`.
    List,
}

/// The words of one verb.
#[derive(Debug)]
pub enum VerbWords {
    /// `env`.
    Env(EnvWords),
    /// `run`.
    Run(Box<RunWords>),
    /// `create`.
    Create(Box<CreateWords>),
    /// `cleanup`.
    Cleanup(CleanupWords),
    /// `list`.
    List(ListWords),
    /// `show`.
    Show(ShowWords),
    /// `guests`.
    Guests(GuestsWords),
    /// `stop`.
    Stop(StopWords),
    /// `logs`.
    Logs(LogsWords),
    /// `attach`.
    Attach(AttachWords),
    /// `wait`.
    Wait(WaitWords),
    /// `exec`.
    Exec(ExecWords),
    /// `gc`.
    Gc(GcWords),
    /// `doctor`.
    Doctor(PlainWords),
    /// `gitlab`.
    Gitlab(GitlabWords),
    /// `man`.
    Man(ManWords),
    /// `completions`.
    Completions(CompletionsWords),
}

fn verb(name: &'static str, about: &'static str, options: fn(Command) -> Command) -> Command {
    Command::new(name).about(about).defer(options)
}

/// Options of a verb. clap takes the last full stop away from a doc comment; help is in sentences here.
fn options<A: Args>(command: Command) -> Command {
    A::augment_args(command).mut_args(|arg| {
        let help = arg
            .get_help()
            .map(ToString::to_string)
            .filter(|help| !help.ends_with('.'));
        match help {
            Some(help) => arg.help(format!("{help}.")),
            None => arg,
        }
    })
}

/// The command line as clap sees it.
#[must_use]
pub fn command() -> Command {
    Command::new("jobcage")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Runs a command in a cage of its own, so that nothing of it is left when it is over")
        .after_long_help(help::EXIT_CODES)
        .subcommand_required(true)
        .subcommands([
            verb("run", help::RUN, |c| {
                options::<RunWords>(c)
                    .override_usage("jobcage run [OPTIONS] -- <COMMAND>...")
                    .after_long_help(help::AFTER_RUN)
            }),
            verb("create", help::CREATE, |c| {
                options::<CreateWords>(c).after_long_help(help::AFTER_CREATE)
            }),
            verb("cleanup", help::CLEANUP, options::<CleanupWords>),
            verb("list", help::LIST, options::<ListWords>),
            verb("show", help::SHOW, options::<ShowWords>),
            verb("guests", help::GUESTS, options::<GuestsWords>),
            verb("stop", help::STOP, options::<StopWords>),
            verb("logs", help::LOGS, |c| {
                options::<LogsWords>(c).after_long_help(help::AFTER_LOGS)
            }),
            verb("attach", help::ATTACH, |c| {
                options::<AttachWords>(c).after_long_help(help::AFTER_ATTACH)
            }),
            verb("wait", help::WAIT, |c| {
                options::<WaitWords>(c).after_long_help(help::AFTER_WAIT)
            }),
            verb("exec", help::EXEC, |c| {
                options::<ExecWords>(c)
                    .override_usage("jobcage exec [OPTIONS] <ID> -- <COMMAND>...")
                    .after_long_help(help::AFTER_EXEC)
            }),
            verb("gc", help::GC, options::<GcWords>),
            verb("doctor", help::DOCTOR, options::<PlainWords>),
            verb("env", help::ENV, |c| {
                c.after_long_help(help::AFTER_ENV)
                    .subcommand_required(true)
                    .subcommands([
                        verb("set", help::ENV_SET, options::<EnvSetWords>),
                        verb("get", help::ENV_GET, options::<EnvGetWords>),
                        verb("unset", help::ENV_UNSET, options::<EnvUnsetWords>),
                        verb("list", help::ENV_LIST, |c| c),
                    ])
            }),
            verb("gitlab", help::GITLAB, |c| {
                c.after_long_help(help::AFTER_GITLAB)
                    .subcommand_required(true)
                    .subcommands([
                        verb("config", help::GITLAB_CONFIG, options::<GitlabConfigWords>),
                        verb("prepare", help::GITLAB_PREPARE, options::<CommonWords>),
                        verb("run", help::GITLAB_RUN, options::<GitlabRunWords>),
                        verb("cleanup", help::GITLAB_CLEANUP, options::<CommonWords>),
                        verb("template", help::GITLAB_TEMPLATE, options::<TemplateWords>),
                        verb("convert", help::GITLAB_CONVERT, |c| {
                            options::<ConvertWords>(c).after_long_help(help::AFTER_GITLAB_CONVERT)
                        }),
                        verb("check", help::GITLAB_CHECK, |c| {
                            options::<CheckWords>(c).after_long_help(help::AFTER_GITLAB_CHECK)
                        }),
                    ])
            }),
            verb("man", help::MAN, options::<ManWords>).hide(true),
            verb("completions", help::COMPLETIONS, options::<CompletionsWords>).hide(true),
        ])
}

/// Splits the words, `jobcage` first.
///
/// # Errors
/// What clap refuses; `--help` and `--version` come this way too.
pub fn split(words: impl IntoIterator<Item = OsString>) -> Result<VerbWords, clap::Error> {
    let (verb, mut matches) = subcommand(&mut command().try_get_matches_from(words)?)?;
    let m = &mut matches;
    Ok(match verb.as_str() {
        "run" => VerbWords::Run(Box::new(RunWords::from_arg_matches_mut(m)?)),
        "create" => VerbWords::Create(Box::new(CreateWords::from_arg_matches_mut(m)?)),
        "cleanup" => VerbWords::Cleanup(CleanupWords::from_arg_matches_mut(m)?),
        "list" => VerbWords::List(ListWords::from_arg_matches_mut(m)?),
        "show" => VerbWords::Show(ShowWords::from_arg_matches_mut(m)?),
        "guests" => VerbWords::Guests(GuestsWords::from_arg_matches_mut(m)?),
        "stop" => VerbWords::Stop(StopWords::from_arg_matches_mut(m)?),
        "logs" => VerbWords::Logs(LogsWords::from_arg_matches_mut(m)?),
        "attach" => VerbWords::Attach(AttachWords::from_arg_matches_mut(m)?),
        "wait" => VerbWords::Wait(WaitWords::from_arg_matches_mut(m)?),
        "exec" => VerbWords::Exec(ExecWords::from_arg_matches_mut(m)?),
        "gc" => VerbWords::Gc(GcWords::from_arg_matches_mut(m)?),
        "env" => VerbWords::Env(split_env(m)?),
        "gitlab" => VerbWords::Gitlab(split_gitlab(m)?),
        "doctor" => VerbWords::Doctor(PlainWords::from_arg_matches_mut(m)?),
        "man" => VerbWords::Man(ManWords::from_arg_matches_mut(m)?),
        "completions" => VerbWords::Completions(CompletionsWords::from_arg_matches_mut(m)?),
        _ => return Err(clap::Error::new(clap::error::ErrorKind::InvalidSubcommand)),
    })
}

/// Reads words once more and writes them again as they were meant, without the verb and some of its options.
///
/// # Errors
/// As [`split`].
pub fn forwarded(words: &[OsString], skipped: &[&str]) -> Result<Vec<OsString>, clap::Error> {
    let mut command = command();
    let (verb, matches) = subcommand(&mut command.try_get_matches_from_mut(words)?)?;
    command.build();
    let verb = command.find_subcommand(&verb);
    Ok(verb.map_or_else(Vec::new, |verb| super::remote::again(verb, &matches, skipped)))
}

fn subcommand(matches: &mut ArgMatches) -> Result<(String, ArgMatches), clap::Error> {
    let missing = || clap::Error::new(clap::error::ErrorKind::MissingSubcommand);
    matches.remove_subcommand().ok_or_else(missing)
}

fn split_gitlab(matches: &mut ArgMatches) -> Result<GitlabWords, clap::Error> {
    let (verb, mut matches) = subcommand(matches)?;
    let m = &mut matches;
    Ok(match verb.as_str() {
        "config" => GitlabWords::Config(GitlabConfigWords::from_arg_matches_mut(m)?),
        "prepare" => GitlabWords::Prepare(CommonWords::from_arg_matches_mut(m)?),
        "run" => GitlabWords::Run(GitlabRunWords::from_arg_matches_mut(m)?),
        "template" => GitlabWords::Template(TemplateWords::from_arg_matches_mut(m)?),
        "convert" => GitlabWords::Convert(ConvertWords::from_arg_matches_mut(m)?),
        "check" => GitlabWords::Check(CheckWords::from_arg_matches_mut(m)?),
        _ => GitlabWords::Cleanup(CommonWords::from_arg_matches_mut(m)?),
    })
}

fn split_env(matches: &mut ArgMatches) -> Result<EnvWords, clap::Error> {
    let (verb, mut matches) = subcommand(matches)?;
    let m = &mut matches;
    Ok(match verb.as_str() {
        "set" => EnvWords::Set(EnvSetWords::from_arg_matches_mut(m)?),
        "get" => EnvWords::Get(EnvGetWords::from_arg_matches_mut(m)?),
        "unset" => EnvWords::Unset(EnvUnsetWords::from_arg_matches_mut(m)?),
        _ => EnvWords::List,
    })
}
