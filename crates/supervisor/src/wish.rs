//! What a supervisor does with the wish for the end of its job: a signal, or the request that `jobcage stop` writes before it
//! sends one.

use jobcage_job::{Cause, Ending, StopRequest};
use jobcage_ledger::Record;
use serde::{Deserialize, Serialize};
use std::time::Duration;

const SIGTERM: i32 = nix::libc::SIGTERM;

/// How a job is stopped, and by which request it is already.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wish {
    /// The first signal.
    pub signal: i32,
    /// From it to the kill.
    pub grace: Duration,
    /// The request that was heeded.
    pub asked: Option<StopRequest>,
    /// What came of the steps of a session, by that request, until it is heeded.
    #[serde(default)]
    pub finished: Option<Ending>,
}

impl Wish {
    /// The job's own settings.
    #[must_use]
    pub fn new(signal: i32, grace: Duration) -> Self {
        Self {
            signal,
            grace,
            asked: None,
            finished: None,
        }
    }

    /// What to stop for, after a signal that means stop, or (not `by_itself`) that means it only as the messenger of
    /// `jobcage stop`. `running`: its settings still matter.
    pub(crate) fn hear(
        &mut self,
        record: &Record,
        cause: Cause,
        by_itself: bool,
        running: bool,
        notes: &mut Vec<String>,
    ) -> Option<Cause> {
        let Cause::Signal { signal, pid, .. } = cause else {
            return Some(cause);
        };
        if signal == SIGTERM {
            if let Some(request) = self.new_request(record, notes) {
                return Some(self.heed(request, running));
            }
            // Its request came with an earlier signal: of two at the same time the kernel hands on the first, and the
            // file holds the words of the last.
            if self.asked.as_ref().is_some_and(|asked| asked.pid == pid) {
                return None;
            }
        }
        by_itself.then_some(cause)
    }

    /// The request of `jobcage stop`, if it is one that was not heeded yet. Looked for only when a signal says so, and when
    /// a job is taken over.
    pub(crate) fn new_request(&self, record: &Record, notes: &mut Vec<String>) -> Option<StopRequest> {
        match record.asked() {
            Ok(request) => request.filter(|request| self.asked.as_ref() != Some(request)),
            Err(error) => {
                let note = format!("the request of a stop was passed over: {error}");
                if !notes.contains(&note) {
                    notes.push(note);
                }
                None
            }
        }
    }

    /// Takes a request over; the cause that it is.
    pub(crate) fn heed(&mut self, request: StopRequest, running: bool) -> Cause {
        if running {
            self.signal = request.signal.unwrap_or(self.signal);
            self.grace = match request.grace {
                _ if request.now => Duration::ZERO,
                Some(grace) => grace,
                None => self.grace,
            };
        }
        let cause = request.cause();
        self.finished.clone_from(&request.finished);
        self.asked = Some(request);
        cause
    }
}
