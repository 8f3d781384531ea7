//! Documentation that follows the program: the table of `docs/options.md`, the example config, the help.

use clap::Arg;
use jobcage_job::{LogFull, parse_duration, parse_size};
use std::collections::BTreeSet;
use std::path::Path;

use super::meaning::{AFTER_TIMEOUT, GRACE, KEEP, KEEP_SIZE, LOG_MAX, SPARE};
use super::values::{Signal, parse_log_full};
use super::words;
use crate::config::environ::Environ;
use crate::config::file::{self, Scope};
use crate::config::options::{Info, OF_TESTS, Opt, SET_BY_JOBCAGE, TABLE, Table, keys};

const OPTIONS_MD: &str = include_str!("../../docs/options.md");
const CONFIG_TOML: &str = include_str!("../../packaging/config.toml");

fn arguments(verb: &str) -> Vec<Arg> {
    let mut command = words::command();
    command.build();
    let verb = command.find_subcommand(verb).expect("the verb is there");
    verb.get_arguments()
        .filter(|arg| arg.get_id() != "help")
        .cloned()
        .collect()
}

fn argument(flag: &str) -> Arg {
    let mut all = ["run", "create", "gc"].into_iter().flat_map(arguments);
    all.find(|arg| arg.get_long() == flag.strip_prefix("--"))
        .unwrap_or_else(|| panic!("clap does not know {flag}"))
}

/// What holds if nobody says anything.
fn default(opt: Opt) -> &'static str {
    match opt {
        Opt::CgroupRoot => "the one that `jobcage doctor` names",
        Opt::RuntimeDir => "/run/jobcage, for a user $XDG_RUNTIME_DIR/jobcage",
        Opt::StateDir => "/var/lib/jobcage, for a user $XDG_STATE_HOME/jobcage",
        Opt::Quiet
        | Opt::Verbose
        | Opt::Login
        | Opt::ClearEnv
        | Opt::BestEffort
        | Opt::LogSync
        | Opt::SshAgent
        | Opt::Guard => "false",
        Opt::Spare => SPARE,
        Opt::LogMax => "1G",
        Opt::LogFull => "middle",
        Opt::Signal => "TERM",
        Opt::Grace => "10s",
        Opt::AfterTimeout => "5m",
        Opt::AfterScript => "always",
        Opt::AfterFailedSources => "false",
        Opt::Leftovers => "job",
        Opt::Guests => "off; create, gitlab: isolate",
        Opt::GuestsDir => "/var/lib/jobcage-guests",
        Opt::GuestTimeout => "5m",
        Opt::Quarantine => "warn",
        Opt::QuarantineMax => "0",
        Opt::Keep => "7d",
        Opt::KeepSize => "5G",
        Opt::Runner => "/usr/bin/gitlab-runner and /usr/local/bin/gitlab-runner",
        _ => "",
    }
}

/// The row of `docs/options.md`.
fn row(info: &Info) -> String {
    let code = |text: &str| {
        if text.is_empty() {
            String::new()
        } else {
            format!("`{text}`")
        }
    };
    let (option, meaning) = match info.flag {
        Some(flag) => {
            let arg = argument(flag);
            let value = arg.get_value_names().unwrap_or_default().join(" ");
            let word = if arg.is_require_equals_set() {
                flag.to_owned()
            } else {
                format!("{flag} {value}")
            };
            (word, arg.get_help().expect("every option has help").to_string())
        }
        None if info.opt == Opt::RuntimeDir => {
            (String::new(), "Keep the records of living jobs here.".into())
        }
        None if info.opt == Opt::StateDir => (String::new(), "Keep here what survives a reboot.".into()),
        None if info.opt == Opt::Runner => (
            String::new(),
            "The programs of runners with `executor = \"shell\"`, whose stages get a cage.".into(),
        ),
        None => (String::new(), of_gitlab(info.opt).into()),
    };
    let key = match info.table {
        Some(Table::Run) => format!("run.{}", info.key),
        Some(Table::Gc) => format!("gc.{}", info.key),
        Some(Table::Gitlab) => format!("gitlab.{}", info.key),
        Some(Table::Shim) => format!("shim.{}", info.key),
        Some(Table::Top) => info.key.to_owned(),
        None => String::new(),
    };
    let variable = info.variable.unwrap_or_default();
    format!(
        "| {} | {} | {} | {meaning} | {} |",
        code(&option),
        code(variable),
        code(&key),
        default(info.opt)
    )
}

/// What the options mean that only the jobs of GitLab have.
fn of_gitlab(opt: Opt) -> &'static str {
    match opt {
        Opt::AfterScript => {
            "Who runs a job's `after_script`: `never`, `runner`, or `always`: jobcage where the runner does not."
        }
        Opt::AfterFailedSources => "Run it also if the sources could not be had.",
        Opt::Leftovers => "End what a stage leaves with the `stage`, or with the `job`.",
        Opt::Quarantine => {
            "On a host with processes that cannot be ended: `warn` the job's user, or `refuse` the job."
        }
        Opt::QuarantineMax => "Refuse it only on more such cages than this.",
        other => panic!("{other:?} has no sentence"),
    }
}

#[test]
fn the_table_in_the_documentation_is_that_of_the_program() {
    let documented: Vec<_> = OPTIONS_MD
        .lines()
        .filter(|line| line.starts_with("| ") && line.contains("JOBCAGE_"))
        .collect();
    let expected: Vec<_> = TABLE.iter().map(row).collect();
    for row in &expected {
        assert!(
            OPTIONS_MD.lines().any(|line| line == row),
            "docs/options.md lacks this row; the table is\n{}",
            expected.join("\n")
        );
    }
    for row in documented {
        let known = expected.iter().any(|e| e == row) || no_options().any(|name| row.contains(name));
        assert!(known, "docs/options.md has a row of nothing: {row}");
    }
}

#[test]
fn every_option_of_a_job_is_in_the_table() {
    for verb in ["run", "create"] {
        for long in arguments(verb)
            .iter()
            .filter_map(Arg::get_long)
            // About this one call: no variable and no file shall detach a job.
            .filter(|long| {
                !["job", "detach", "log", "stdin", "after-reboot", "after-env-file"].contains(long)
            })
            // Nor send it elsewhere.
            .filter(|long| {
                ![
                    "host",
                    "ssh",
                    "remote-binary",
                    "lease",
                    "reconnect-for",
                    "keepalive",
                    "fail-fast",
                    "forward-agent",
                    "send",
                    "fetch",
                    "id",
                ]
                .contains(long)
            })
        {
            let flag = format!("--{long}");
            assert!(
                TABLE.iter().any(|info| info.flag == Some(&flag)),
                "{verb} {flag} is in no layer"
            );
        }
    }
}

#[test]
fn documented_defaults_are_the_ones_in_force() {
    assert_eq!(default(Opt::Signal).parse(), Ok(Signal::TERM));
    assert_eq!(parse_duration(default(Opt::Grace)), Ok(GRACE));
    assert_eq!(parse_duration(default(Opt::AfterTimeout)), Ok(AFTER_TIMEOUT));
    assert_eq!(parse_duration(default(Opt::Keep)), Ok(KEEP));
    assert_eq!(parse_size(default(Opt::KeepSize)), Ok(KEEP_SIZE));
    assert_eq!(parse_size(default(Opt::LogMax)), Ok(LOG_MAX));
    assert_eq!(default(Opt::Runner), super::shim::RUNNERS.join(" and "));
    assert_eq!(parse_log_full(default(Opt::LogFull)), Ok(LogFull::Middle));
    for opt in [
        Opt::Grace,
        Opt::AfterTimeout,
        Opt::Signal,
        Opt::Keep,
        Opt::KeepSize,
        Opt::LogMax,
        Opt::LogFull,
    ] {
        let info = opt.info();
        let help = argument(info.flag.expect("it has a flag"))
            .get_help()
            .map(ToString::to_string);
        assert!(
            help.is_some_and(|help| help.contains(default(opt))),
            "--help tells another default of {}",
            info.key
        );
    }
}

fn no_options() -> impl Iterator<Item = &'static str> {
    SET_BY_JOBCAGE.into_iter().chain(OF_TESTS)
}

#[test]
fn every_variable_that_is_no_option_is_documented() {
    for name in no_options() {
        assert!(OPTIONS_MD.contains(&format!("`{name}`")), "{name}");
    }
}

/// The example with every key set.
fn example() -> String {
    let is_key = |rest: &str| {
        rest.split_once(" = ")
            .is_some_and(|(key, _)| TABLE.iter().any(|info| info.key == key))
    };
    let lines = CONFIG_TOML
        .lines()
        .map(|line| line.strip_prefix('#').filter(|rest| is_key(rest)).unwrap_or(line));
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn the_example_config_is_complete_and_says_nothing_by_itself() {
    let path = Path::new("packaging/config.toml");
    assert_eq!(
        file::parse(path, CONFIG_TOML, Scope::All).unwrap(),
        file::File::default()
    );
    let settings = file::parse(path, &example(), Scope::All).unwrap();
    let found: BTreeSet<_> = settings
        .settings
        .iter()
        .map(|setting| setting.opt.info().key)
        .collect();
    let known: BTreeSet<_> = keys(Table::Top)
        .chain(keys(Table::Run))
        .chain(keys(Table::Gc))
        .chain(keys(Table::Gitlab))
        .chain(keys(Table::Shim))
        .map(|info| info.key)
        .collect();
    assert_eq!(found, known);
}

#[test]
fn every_value_of_the_example_config_is_accepted() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.toml");
    std::fs::write(&path, example()).unwrap();
    let environ = || -> Environ { [("JOBCAGE_CONFIG", path.as_os_str())].into_iter().collect() };
    for line in [
        &["jobcage", "run", "--", "true"][..],
        &["jobcage", "create"],
        &["jobcage", "gc"],
        &["jobcage", "gitlab", "prepare"],
    ] {
        let parsed = super::parse(line.iter().map(Into::into).collect(), environ(), 0);
        assert!(parsed.is_ok(), "{}", parsed.unwrap_err());
    }
    super::shim(environ(), 0).unwrap();
}

#[test]
fn clap_accepts_its_own_definition_and_every_option_has_a_sentence() {
    let mut command = words::command();
    command.build();
    command.clone().debug_assert();
    for verb in command.get_subcommands().filter(|verb| verb.get_name() != "help") {
        for arg in verb.get_arguments().filter(|arg| arg.get_id() != "help") {
            let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
            assert!(
                help.ends_with('.') && help.starts_with(char::is_uppercase),
                "{} {}: {help:?}",
                verb.get_name(),
                arg.get_id()
            );
        }
    }
}
