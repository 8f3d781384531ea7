//! How the main process of a step ended, as its keeper saw it.

use crate::ExitStatus;
use serde::{Deserialize, Serialize};

/// The version of `status-NN.json`. A reader refuses what is newer.
pub const STATUS_VERSION: u32 = 1;

/// `status-NN.json`: written by the keeper before it reaps the process, so that no status is lost that the kernel gave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MainEnd {
    /// [`STATUS_VERSION`] of the writer.
    pub version: u32,
    /// The step.
    pub step: u32,
    /// The process.
    pub pid: i32,
    /// How it ended; absent where it never became the program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<ExitStatus>,
    /// The stage and errno at which its start failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub never_started: Option<(String, i32)>,
    /// When it was seen, RFC 3339, UTC.
    pub at: String,
}
