//! A session: a cage whose steps others start, and a supervisor that looks after it from its beginning to its end.
//!
//! The clients keep their steps' pipes and statuses, so nothing stands between a step and whoever reads its output. What has to
//! outlive them is the supervisor's: the lease, the clocks, the after phase and the way out. A client holds a connection
//! while its step runs; if that breaks before its word of the end, the supervisor ends the step.

mod client;

pub use client::{AfterPhase, Guest, give_after, take_after};

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The supervisor's socket in the record of its session.
pub(crate) const SOCKET: &str = "session.sock";

/// What a client asks. Each but [`Ask::End`] and [`Ask::Ended`] has an [`Answer`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Ask {
    /// A step is about to start in the leaf of this number. The connection is its client's from here on.
    Begin {
        /// The number of step and leaf.
        step: u32,
        /// What it is called: should its client die before it has written it down, the supervisor does.
        #[serde(default)]
        name: String,
        /// The first signal to its processes, should the client die.
        signal: i32,
        /// From it to the kill.
        grace: Duration,
        /// The client knows [`Answer::Welcome`]: an upgrade may have come between its supervisor and it, in either order.
        #[serde(default)]
        hears: bool,
    },
    /// The step is over and written down. What a client says that was not told [`Answer::Welcome`].
    End,
    /// The step is over and written down.
    Ended {
        /// What the journal is to be told of it.
        note: Option<String>,
    },
    /// Run the script that comes with this as the after phase, on the standard input of the session's command.
    GiveAfter {
        /// Its time.
        timeout: Duration,
    },
    /// I am about to run the after phase myself: do not.
    TakeAfter {
        /// Who asks. The same one may ask again, since an answer can get lost with a supervisor.
        pid: i32,
    },
}

/// What the supervisor answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    /// Done. To [`Ask::TakeAfter`]: it is the asker's now.
    Done,
    /// To [`Ask::Begin`]: done, and [`Ask::Ended`] is understood, and [`Answer::Over`] will be said when the session ends.
    Welcome,
    /// To [`Ask::TakeAfter`]: there is none to take any more.
    Nothing,
    /// To [`Ask::TakeAfter`]: nobody has ever given one.
    Never,
    /// The session is ending. Whoever runs a step then is told that without having asked.
    Over,
}
