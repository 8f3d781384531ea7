//! What somebody asks of a job's supervisor.

use crate::{Cause, Ending};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The version of `stop.json`. A reader that finds a newer one takes it for damaged and uses the job's own settings.
pub const STOP_VERSION: u32 = 1;

/// A wish for the end of a job, `stop.json`: written before its supervisor is signalled, so that a supervisor that takes over
/// in this very moment finds it as well. What it leaves open is the job's own setting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopRequest {
    /// [`STOP_VERSION`] of the writer.
    pub version: u32,
    /// The first signal, instead of the job's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// From that signal to the kill, instead of the job's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace: Option<Duration>,
    /// Without a signal and a grace time.
    #[serde(default)]
    pub now: bool,
    /// Of a session: there are no more steps, and this is what came of them. It is no stop then, and nobody is signalled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished: Option<Ending>,
    /// Who asked.
    pub pid: i32,
    /// Its uid.
    pub uid: u32,
}

impl StopRequest {
    /// The cause that it is of the job's end.
    #[must_use]
    pub fn cause(&self) -> Cause {
        Cause::Stop {
            pid: self.pid,
            uid: self.uid,
        }
    }

    /// Whether its signal is one that a kernel knows.
    #[must_use]
    pub fn is_sane(&self) -> bool {
        self.signal.is_none_or(|signal| (1..=64).contains(&signal))
    }
}
