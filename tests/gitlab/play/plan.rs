//! What a runner is told before it starts: the job, its version, its settings, and how fast its clock runs.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::PathBuf;
use std::time::Duration;

/// The two generations of GitLab Runner whose traces there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Generation {
    /// 14.7.0: one pipe, no TERM trap, no exit code file, a cancel is a cancel.
    V14,
    /// 18.4.0.
    V18,
}

impl Generation {
    pub const BOTH: [Self; 2] = [Self::V14, Self::V18];

    pub fn name(self) -> &'static str {
        match self {
            Self::V14 => "14.7",
            Self::V18 => "18.4",
        }
    }

    /// The name of a script's file: bash's lost its trailing dot in 17.4.
    pub fn script_name(self) -> &'static str {
        match self {
            Self::V14 => "script.",
            Self::V18 => "script",
        }
    }

    /// Since 16.7; before, and in config and cleanup always, see contract A2.
    pub fn has_two_pipes(self, call: &str) -> bool {
        self == Self::V18 || matches!(call, "config" | "cleanup")
    }
}

/// Timeouts in seconds of the contract, with its defaults (A7).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Timeouts {
    pub graceful_kill: f64,
    pub force_kill: f64,
    pub config: f64,
    pub prepare: f64,
    pub cleanup: f64,
    pub shutdown: f64,
    /// `WaitForBuildFinishTimeout`.
    pub build_finish: f64,
    /// Between two attempts to prepare.
    pub retry: f64,
    pub after_script: f64,
    /// How often the log is sent, which is when a cancel is noticed.
    pub update: f64,
    /// How often it is sent if there is nothing to send.
    pub force_send: f64,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            graceful_kill: 600.0,
            force_kill: 10.0,
            config: 3600.0,
            prepare: 3600.0,
            cleanup: 3600.0,
            shutdown: 30.0,
            build_finish: 300.0,
            retry: 3.0,
            after_script: 300.0,
            update: 3.0,
            force_send: 30.0,
        }
    }
}

/// Everything.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Plan {
    pub generation: Generation,
    /// The answer to `/jobs/request`.
    pub response: Value,
    /// The program and the first arguments of each of the four calls.
    pub driver: Driver,
    pub timeouts: Timeouts,
    /// How long one second of the contract is here, in milliseconds.
    pub second_ms: u64,
    /// Where `custom-executor…` directories are made.
    pub tmp: PathBuf,
    /// `[[runners]].builds_dir` and `cache_dir`.
    pub builds_dir: PathBuf,
    pub cache_dir: PathBuf,
    /// What happens, line by line, to which driver and job may add.
    pub trace: PathBuf,
    /// The job's log, as GitLab would show it.
    pub log: PathBuf,
}

/// `config_exec`, `config_args` and so on.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Driver {
    pub config: Vec<String>,
    pub prepare: Vec<String>,
    pub run: Vec<String>,
    pub cleanup: Vec<String>,
}

impl Driver {
    /// The words of a call.
    pub fn words(&self, call: &str) -> &[String] {
        match call {
            "config" => &self.config,
            "prepare" => &self.prepare,
            "run" => &self.run,
            "cleanup" => &self.cleanup,
            other => unreachable!("the runner has no call {other}"),
        }
    }
}

impl Plan {
    /// That many seconds of the contract, on this clock.
    pub fn time(&self, seconds: f64) -> Duration {
        // Far enough for "never" in a test, and no overflow.
        Duration::from_secs_f64((seconds * self.second_ms as f64 / 1000.0).min(3600.0))
    }

    /// A job variable; the last one of its name wins.
    pub fn variable(&self, key: &str) -> Option<&str> {
        let all = self.response["variables"].as_array()?;
        let one = all.iter().rev().find(|variable| variable["key"] == key)?;
        one["value"].as_str()
    }

    /// A number in a variable.
    pub fn number(&self, key: &str) -> Option<f64> {
        self.variable(key)?.trim_end_matches('s').parse().ok()
    }
}
