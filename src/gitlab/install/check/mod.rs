//! `jobcage gitlab check`: what in a runner's configuration, and on this host, keeps jobs from ending well.

mod block;
mod host;
mod login;
mod running;

use super::InstallError;
use super::runners::{self, blocks, called, is_ours, shown};
use super::timing::{Budgets, SHUTDOWN_DEFAULT, Timeouts};
use crate::cli::request::{Common, Identity};
use serde::Serialize;
use std::path::Path;
use toml_edit::{DocumentMut, Item, TableLike};

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// It is as it should be.
    Ok,
    /// It could not be looked at by this caller.
    Skipped,
    /// Something is lost in some cases.
    Warning,
    /// Jobs fail, or what is promised of their end is not so.
    Error,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What it is about: a runner, the top of the file, the host.
    pub about: String,
    /// What is so, and what to do. No value of the file but for numbers, names and paths.
    pub what: String,
}

impl Finding {
    fn new(severity: Severity, about: &str, what: impl Into<String>) -> Self {
        Self {
            severity,
            about: about.to_owned(),
            what: what.into(),
        }
    }

    /// One line.
    #[must_use]
    pub fn line(&self) -> String {
        let severity = match self.severity {
            Severity::Ok => "ok",
            Severity::Skipped => "skipped",
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        format!("{severity}: {}: {}", self.about, self.what)
    }
}

/// What the top of the file is called.
const TOP: &str = "the top of the file";
/// Keys that the runner reads at the top of the file and nowhere else.
const GLOBAL: [&str; 7] = [
    "concurrent",
    "check_interval",
    "connection_max_age",
    "listen_address",
    "log_format",
    "log_level",
    "shutdown_timeout",
];

/// A number of seconds in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seconds {
    /// It is not there.
    Missing,
    /// This many; the runner takes its default for 0 and less.
    Set(i64),
    /// Something else: the runner cannot read its file then.
    NoNumber,
}

impl Seconds {
    fn of(table: Option<&dyn TableLike>, key: &str) -> Self {
        match table.and_then(|table| table.get(key)) {
            None => Self::Missing,
            Some(item) => item.as_integer().map_or(Self::NoNumber, Self::Set),
        }
    }

    /// What the runner makes of it.
    fn effective(self, default: u64) -> u64 {
        match self {
            Self::Set(seconds) if seconds > 0 => seconds.unsigned_abs(),
            _ => default,
        }
    }
}

/// What the file alone tells.
///
/// # Errors
/// If its `runners` are none.
pub fn of_the_file(document: &DocumentMut, budgets: &Budgets) -> Result<Vec<Finding>, InstallError> {
    let blocks = blocks(document)?;
    let is_any_ours = blocks.iter().any(|block| is_ours(*block));
    let mut findings = of_the_top(document, is_any_ours);
    let shutdown = Seconds::of(Some(document.as_table()), "shutdown_timeout").effective(SHUTDOWN_DEFAULT);
    for (at, block) in blocks.iter().enumerate() {
        let about = called(*block, at);
        if is_ours(*block) {
            findings.extend(block::findings(*block, &about, shutdown, budgets));
        } else {
            findings.push(foreign(*block, &about));
        }
    }
    if !is_any_ours {
        let what = "no runner in it calls jobcage; \"jobcage gitlab convert\" turns shell executors into ones that do";
        findings.push(Finding::new(Severity::Warning, TOP, what));
    }
    Ok(findings)
}

/// `is_any_ours`: how the runner stops is our business.
fn of_the_top(document: &DocumentMut, is_any_ours: bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    match Seconds::of(Some(document.as_table()), "shutdown_timeout") {
        _ if !is_any_ours => {}
        Seconds::Missing => findings.push(Finding::new(
            Severity::Error,
            TOP,
            format!(
                "shutdown_timeout is missing: {SHUTDOWN_DEFAULT} s after a SIGTERM the runner ends without cleanup, and GitLab \
                 takes its jobs for running"
            ),
        )),
        Seconds::NoNumber => findings.push(Finding::new(
            Severity::Error,
            TOP,
            "shutdown_timeout is no whole number of seconds",
        )),
        Seconds::Set(seconds) if seconds <= 0 => findings.push(Finding::new(
            Severity::Error,
            TOP,
            format!("shutdown_timeout = {seconds} means the default of {SHUTDOWN_DEFAULT} s"),
        )),
        Seconds::Set(_) => {}
    }
    for key in ["graceful_kill_timeout", "force_kill_timeout"] {
        if document.contains_key(key) {
            let what = format!("{key} is ignored here; it belongs in [runners.custom]");
            findings.push(Finding::new(Severity::Warning, TOP, what));
        }
    }
    findings
}

fn foreign(block: &dyn TableLike, about: &str) -> Finding {
    let what = match runners::text(block, "executor") {
        Some("shell") => "its executor is \"shell\": what its jobs leave behind stays".to_owned(),
        Some("custom") => "its custom executor does not call jobcage".to_owned(),
        Some(other) => format!("its executor is {}, and not jobcage's", shown(other)),
        None => "it has no executor".to_owned(),
    };
    Finding::new(Severity::Ok, about, what)
}

/// Everything that can be told of a runner on this host.
pub struct Asked<'a> {
    /// Where cages are.
    pub common: &'a Common,
    /// Who the configuration says that jobs run as.
    pub identity: &'a Identity,
    /// What they may take to end.
    pub budgets: Budgets,
    /// The runner's configuration.
    pub config: &'a Path,
    /// It is the usual one, which a running runner should have read.
    pub is_usual: bool,
}

/// Looks at all of it.
///
/// # Errors
/// If the configuration cannot be read.
pub fn check(asked: &Asked<'_>) -> Result<Vec<Finding>, InstallError> {
    let text = super::read(asked.config)?;
    let document = match runners::parse(&text) {
        Ok(document) => document,
        Err(error) => return Ok(vec![unusable(&error)]),
    };
    let mut findings = match of_the_file(&document, &asked.budgets) {
        Ok(findings) => findings,
        Err(error) => return Ok(vec![unusable(&error)]),
    };
    findings.extend(host::programs(&document));
    findings.extend(login::findings(asked));
    if asked.is_usual {
        findings.extend(running::findings(asked.config));
    }
    Ok(findings)
}

/// A file with which the runner does not even start.
fn unusable(error: &InstallError) -> Finding {
    Finding::new(Severity::Error, "the file", error.to_string())
}

/// What to set a timeout to.
fn advice(budgets: &Budgets) -> String {
    let set = Timeouts::of(budgets);
    format!(
        "set graceful_kill_timeout = {} in [runners.custom] and shutdown_timeout = {} at the top",
        set.graceful, set.shutdown
    )
}

/// Whether a key stands there at all.
fn has(table: &dyn TableLike, key: &str) -> bool {
    table.get(key).is_some_and(|item| !matches!(item, Item::None))
}

#[cfg(test)]
#[path = "check_test.rs"]
mod tests;
