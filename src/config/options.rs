//! The table of options: which of them a variable or a config file may set, under which name.
//!
//! One place: reading, checking, `docs/options.md` and `packaging/config.toml` all follow it, and tests compare
//! it with the options that clap knows.

/// An option that can come from elsewhere than the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Opt {
    CgroupRoot,
    RuntimeDir,
    StateDir,
    Quiet,
    Verbose,
    Name,
    User,
    Group,
    Login,
    Dir,
    Env,
    ClearEnv,
    Nice,
    Rlimit,
    Cpu,
    Memory,
    MemoryHigh,
    Swap,
    Pids,
    Io,
    Cpus,
    BestEffort,
    Timeout,
    IdleTimeout,
    Signal,
    Grace,
    After,
    AfterTimeout,
    Report,
    LeasePid,
    Streams,
    LogMax,
    LogFull,
    LogSync,
    SshAgent,
    SshKey,
    Spare,
    Guard,
    Guests,
    GuestsDir,
    Project,
    GuestTimeout,
    GuestHook,
    Keep,
    KeepSize,
    AfterScript,
    AfterFailedSources,
    Leftovers,
    Quarantine,
    QuarantineMax,
    Runner,
}

/// Where in a config file an option stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    /// At the top: it concerns every verb.
    Top,
    /// In `[run]`: it concerns jobs.
    Run,
    /// In `[gc]`: it concerns what is left of them.
    Gc,
    /// In `[gitlab]`: it concerns the jobs of GitLab Runner.
    Gitlab,
    /// In `[shim]`: it concerns stages of runners with `executor = "shell"`.
    Shim,
}

/// What an option may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One value.
    One,
    /// Several: an array in a file, words between blanks in a variable.
    List,
}

/// How an option is called and where it may stand.
#[derive(Debug, Clone, Copy)]
pub struct Info {
    /// Which one.
    pub opt: Opt,
    /// The flag, if there is one.
    pub flag: Option<&'static str>,
    /// The variable, if there is one.
    pub variable: Option<&'static str>,
    /// The key in a config file, `_` for `-`.
    pub key: &'static str,
    /// Its place in a config file; `None`: not to be set there.
    pub table: Option<Table>,
    /// One or several.
    pub kind: Kind,
}

macro_rules! table {
    ($($opt:ident $flag:expr, $variable:expr, $key:literal, $table:expr, $kind:ident;)*) => {
        /// Every option, in the order of [`Opt`].
        pub const TABLE: &[Info] = &[$(Info {
            opt: Opt::$opt, flag: $flag, variable: $variable, key: $key, table: $table, kind: Kind::$kind,
        }),*];
    };
}

const TOP: Option<Table> = Some(Table::Top);
const RUN: Option<Table> = Some(Table::Run);
const GC: Option<Table> = Some(Table::Gc);
const GITLAB: Option<Table> = Some(Table::Gitlab);
const SHIM: Option<Table> = Some(Table::Shim);

// `signal` and `env` have no variable: JOBCAGE_SIGNAL is what an after phase gets, and JOBCAGE_ENV would be one
// variable for many. A lease belongs to one call, so it has no key.
table! {
    CgroupRoot   Some("--cgroup-root"),   Some("JOBCAGE_CGROUP_ROOT"),   "cgroup_root",   TOP,  One;
    RuntimeDir   None,                    Some("JOBCAGE_RUNTIME_DIR"),   "runtime_dir",   TOP,  One;
    StateDir     None,                    Some("JOBCAGE_STATE_DIR"),     "state_dir",     TOP,  One;
    Quiet        Some("--quiet"),         Some("JOBCAGE_QUIET"),         "quiet",         TOP,  One;
    Verbose      Some("--verbose"),       Some("JOBCAGE_VERBOSE"),       "verbose",       TOP,  One;
    Name         Some("--name"),          Some("JOBCAGE_NAME"),          "name",          RUN,  One;
    User         Some("--user"),          Some("JOBCAGE_USER"),          "user",          RUN,  One;
    Group        Some("--group"),         Some("JOBCAGE_GROUP"),         "group",         RUN,  One;
    Login        Some("--login"),         Some("JOBCAGE_LOGIN"),         "login",         RUN,  One;
    Dir          Some("--dir"),           Some("JOBCAGE_DIR"),           "dir",           RUN,  One;
    Env          Some("--env"),           None,                          "env",           RUN,  List;
    ClearEnv     Some("--clear-env"),     Some("JOBCAGE_CLEAR_ENV"),     "clear_env",     RUN,  One;
    Nice         Some("--nice"),          Some("JOBCAGE_NICE"),          "nice",          RUN,  One;
    Rlimit       Some("--rlimit"),        Some("JOBCAGE_RLIMIT"),        "rlimit",        RUN,  List;
    Cpu          Some("--cpu"),           Some("JOBCAGE_CPU"),           "cpu",           RUN,  One;
    Memory       Some("--memory"),        Some("JOBCAGE_MEMORY"),        "memory",        RUN,  One;
    MemoryHigh   Some("--memory-high"),   Some("JOBCAGE_MEMORY_HIGH"),   "memory_high",   RUN,  One;
    Swap         Some("--swap"),          Some("JOBCAGE_SWAP"),          "swap",          RUN,  One;
    Pids         Some("--pids"),          Some("JOBCAGE_PIDS"),          "pids",          RUN,  One;
    Io           Some("--io"),            Some("JOBCAGE_IO"),            "io",            RUN,  List;
    Cpus         Some("--cpus"),          Some("JOBCAGE_CPUS"),          "cpus",          RUN,  One;
    BestEffort   Some("--best-effort"),   Some("JOBCAGE_BEST_EFFORT"),   "best_effort",   RUN,  One;
    Timeout      Some("--timeout"),       Some("JOBCAGE_TIMEOUT"),       "timeout",       RUN,  One;
    IdleTimeout  Some("--idle-timeout"),  Some("JOBCAGE_IDLE_TIMEOUT"),  "idle_timeout",  RUN,  One;
    Signal       Some("--signal"),        None,                          "signal",        RUN,  One;
    Grace        Some("--grace"),         Some("JOBCAGE_GRACE"),         "grace",         RUN,  One;
    After        Some("--after"),         Some("JOBCAGE_AFTER"),         "after",         RUN,  One;
    AfterTimeout Some("--after-timeout"), Some("JOBCAGE_AFTER_TIMEOUT"), "after_timeout", RUN,  One;
    Report       Some("--report"),        Some("JOBCAGE_REPORT"),        "report",        RUN,  One;
    LeasePid     Some("--lease-pid"),     Some("JOBCAGE_LEASE_PID"),     "lease_pid",     None, One;
    Streams      Some("--streams"),       Some("JOBCAGE_STREAMS"),       "streams",       RUN,  One;
    LogMax       Some("--log-max"),       Some("JOBCAGE_LOG_MAX"),       "log_max",       RUN,  One;
    LogFull      Some("--log-full"),      Some("JOBCAGE_LOG_FULL"),      "log_full",      RUN,  One;
    LogSync      Some("--log-sync"),      Some("JOBCAGE_LOG_SYNC"),      "log_sync",      RUN,  One;
    SshAgent     Some("--ssh-agent"),     Some("JOBCAGE_SSH_AGENT"),     "ssh_agent",     RUN,  One;
    SshKey       Some("--ssh-key"),       Some("JOBCAGE_SSH_KEY"),       "ssh_key",       RUN,  List;
    Spare        Some("--spare"),         Some("JOBCAGE_SPARE"),         "spare",         RUN,  One;
    Guard        Some("--guard"),         Some("JOBCAGE_GUARD"),         "guard",         RUN,  One;
    Guests       Some("--guests"),        Some("JOBCAGE_GUESTS"),        "guests",        RUN,  One;
    GuestsDir    Some("--guests-dir"),    Some("JOBCAGE_GUESTS_DIR"),    "guests_dir",    RUN,  One;
    Project      Some("--project"),       Some("JOBCAGE_PROJECT"),       "project",       None, One;
    GuestTimeout Some("--guest-timeout"), Some("JOBCAGE_GUEST_TIMEOUT"), "guest_timeout", RUN,  One;
    GuestHook    Some("--guest-hook"),    Some("JOBCAGE_GUEST_HOOK"),    "guest_hook",    RUN,  List;
    Keep         Some("--keep"),          Some("JOBCAGE_KEEP"),          "keep",          GC,   One;
    KeepSize     Some("--keep-size"),     Some("JOBCAGE_KEEP_SIZE"),     "keep_size",     GC,   One;
    AfterScript        None, Some("JOBCAGE_AFTER_SCRIPT"),         "after_script",         GITLAB, One;
    AfterFailedSources None, Some("JOBCAGE_AFTER_FAILED_SOURCES"), "after_failed_sources", GITLAB, One;
    Leftovers          None, Some("JOBCAGE_LEFTOVERS"),            "leftovers",            GITLAB, One;
    Quarantine         None, Some("JOBCAGE_QUARANTINE"),           "quarantine",           GITLAB, One;
    QuarantineMax      None, Some("JOBCAGE_QUARANTINE_MAX"),       "quarantine_max",       GITLAB, One;
    Runner       None,                    Some("JOBCAGE_RUNNER"),        "runner",        SHIM, List;
}

/// What a job of GitLab may set for itself by a CI variable of the option's name, within what the host allows; and what the
/// host may set for a project or a tag.
pub const OF_A_JOB: [Opt; 11] = [
    Opt::Cpu,
    Opt::Memory,
    Opt::MemoryHigh,
    Opt::Swap,
    Opt::Pids,
    Opt::Timeout,
    Opt::IdleTimeout,
    Opt::Grace,
    Opt::SshAgent,
    Opt::AfterScript,
    Opt::Leftovers,
];

/// The variable that names a config file instead of the usual two.
pub const CONFIG_VARIABLE: &str = "JOBCAGE_CONFIG";

/// Variables that jobcage sets for a job. They are no options, and nobody else may set them.
pub const SET_BY_JOBCAGE: [&str; 8] = [
    "JOBCAGE_JOB",
    "JOBCAGE_ENV",
    "JOBCAGE_PATH",
    "JOBCAGE_RESULT",
    "JOBCAGE_EXIT_CODE",
    "JOBCAGE_SIGNAL",
    "JOBCAGE_ENDING",
    "JOBCAGE_CAUSE",
];

/// Variables that jobcage's tests and scripts use. They are no options either.
pub const OF_TESTS: [&str; 5] = [
    "JOBCAGE_BIN",
    "JOBCAGE_ZOO",
    "JOBCAGE_REQUIRE",
    "JOBCAGE_SEED",
    "JOBCAGE_SWEEP",
];

/// Whether a variable is one of these.
#[must_use]
pub fn is_no_option(name: &str) -> bool {
    SET_BY_JOBCAGE.contains(&name) || OF_TESTS.contains(&name) || name.starts_with(NOT_OPTIONS_PREFIX)
}

/// As [`OF_TESTS`], for every name that begins so.
pub const NOT_OPTIONS_PREFIX: &str = "JOBCAGE_VM_";

impl Opt {
    /// Its row.
    #[must_use]
    pub fn info(self) -> &'static Info {
        &TABLE[self as usize]
    }
}

/// The keys that may stand in a table of a config file.
pub fn keys(table: Table) -> impl Iterator<Item = &'static Info> {
    TABLE.iter().filter(move |info| info.table == Some(table))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_enum() {
        for (at, info) in TABLE.iter().enumerate() {
            assert_eq!(info.opt as usize, at, "{}", info.key);
        }
    }

    #[test]
    fn names_follow_from_the_key() {
        for info in TABLE {
            let flag = format!("--{}", info.key.replace('_', "-"));
            assert!(info.flag.is_none_or(|f| f == flag), "{flag}");
            let variable = format!("JOBCAGE_{}", info.key.to_uppercase());
            assert!(info.variable.is_none_or(|v| v == variable), "{variable}");
            assert_eq!(info.variable.is_none(), is_no_option(&variable), "{variable}");
        }
    }
}
