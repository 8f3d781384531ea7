//! What a supervisor and its keeper say to each other: one message, one packet, JSON, with descriptors beside it.

use crate::error::{Failure, Result};
use jobcage_job::{MainEnd, Streams};
use jobcage_sys::{Errno, socket};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::os::fd::{BorrowedFd, OwnedFd};

/// The keeper's socket in the record of its job.
pub const SOCKET: &str = "keeper.sock";

/// More than any message of ours has.
const ROOM: usize = 64 * 1024;

/// What a supervisor asks.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Ask {
    /// Tell what you hold. With `supervise`, tell me from now on who ends, and start another one if I die.
    Hello {
        /// Whether the asker is the supervisor from now on.
        supervise: bool,
    },
    /// Hold the descriptors that come with this, under these names.
    Hold {
        /// A name for each of them.
        names: Vec<String>,
    },
    /// Start the main process of a step. With it come the packed command, the directory of the leaf, and those of
    /// `inherit`.
    Start(Start),
    /// The output of this step has been read to its end: let it go.
    Forget {
        /// The step.
        step: u32,
    },
    /// Has the job processes that are your children or your descendants?
    Children,
    /// The job is over.
    Leave,
}

/// A process to start.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Start {
    /// The step, which is started once at most.
    pub step: u32,
    /// How its output is captured.
    pub output: Output,
    /// Whether a descriptor for its standard input comes along; else it is `/dev/null`.
    pub stdin: bool,
    /// The uid that the pipes are given to.
    pub owner: Option<u32>,
    /// Whether keystrokes into a terminal have to be refused.
    pub no_keystrokes: bool,
}

/// Where standard output and error of a process go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Output {
    /// Into one pipe, in their exact order.
    Merged,
    /// Into a pipe each.
    Split,
    /// Into the two descriptors that come along.
    Given,
}

impl From<Streams> for Output {
    fn from(streams: Streams) -> Self {
        match streams {
            Streams::Merged => Self::Merged,
            Streams::Split => Self::Split,
        }
    }
}

impl Output {
    /// How many pipes it takes.
    #[must_use]
    pub fn pipes(self) -> usize {
        match self {
            Self::Merged => 1,
            Self::Split => 2,
            Self::Given => 0,
        }
    }
}

/// What the keeper answers, or says by itself.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Answer {
    /// With the held descriptors in this order, then for each step the read ends of its pipes and, if it lives and the
    /// kernel has them, its pidfd.
    Held {
        /// Names of what is held.
        names: Vec<String>,
        /// The steps that were started and not forgotten.
        steps: Vec<StepHeld>,
    },
    /// Done.
    Done,
    /// Started: with the read ends, its pidfd, and the end of a pipe: the process waits for a byte there.
    Started {
        /// Its pid.
        pid: i32,
        /// Whether its pidfd comes along.
        pidfd: bool,
    },
    /// The kernel made no process.
    NotStarted {
        /// Why.
        errno: i32,
    },
    /// Whether there are any.
    Children {
        /// Some child that is neither a main process nor ours.
        any: bool,
    },
    /// By itself: the main process of a step ended. The status is on disk, if the disk took it.
    Ended(MainEnd),
}

/// A step as the keeper holds it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StepHeld {
    /// Its number.
    pub step: u32,
    /// Its main process.
    pub pid: i32,
    /// Whether its pidfd comes along.
    pub pidfd: bool,
    /// How many read ends come along.
    pub pipes: usize,
    /// How it ended.
    pub ended: Option<MainEnd>,
}

/// Sends a message.
///
/// # Errors
/// As sendmsg(2).
pub(crate) fn say(
    connection: BorrowedFd<'_>,
    message: &impl Serialize,
    fds: &[BorrowedFd<'_>],
) -> jobcage_sys::Result<()> {
    let text = serde_json::to_vec(message).map_err(|_| Errno::EINVAL)?;
    socket::send(connection, &text, fds)
}

/// Receives a message. `None`: the other side is gone.
///
/// # Errors
/// If it cannot be read, or is none of ours.
pub(crate) fn hear<M: DeserializeOwned>(connection: BorrowedFd<'_>) -> Result<Option<(M, Vec<OwnedFd>)>> {
    let (text, fds) = match socket::receive(connection, ROOM) {
        Ok(received) => received,
        Err(Errno::ECONNRESET | Errno::EPIPE) => return Ok(None),
        Err(errno) => return Err(Failure::system("hear from the other side of the keeper's socket")(errno)),
    };
    if text.is_empty() {
        return Ok(None);
    }
    match serde_json::from_slice(&text) {
        Ok(message) => Ok(Some((message, fds))),
        Err(e) => Err(Failure::Refused(format!(
            "the keeper's socket brought something unknown (another version of jobcage?): {e}"
        ))),
    }
}
