//! What every supervisor says of a step, wherever its main process is: how it begins, and what its status means.

use crate::closing::now;
use jobcage_job::{Ending, ExitStatus, StepKind, StepReport};
use jobcage_sys::wait::Change;

/// A step that begins now. Until its end is known it says that nobody saw it.
pub(crate) fn begun(number: u32, kind: StepKind) -> StepReport {
    let name = match kind {
        StepKind::Step => "main",
        StepKind::After => "after",
    };
    StepReport {
        number,
        name: name.into(),
        kind,
        ending: Ending::Lost {
            why: "nobody saw its end".into(),
        },
        status: None,
        started: now(),
        ended: None,
        logs: Vec::new(),
    }
}

/// What a main process said at its end (wait(2)).
pub(crate) fn exit_status(change: Change) -> ExitStatus {
    match change {
        Change::Exited(code) => ExitStatus::Code(code),
        Change::Killed(signal) | Change::Stopped(signal) => ExitStatus::Signal(signal),
    }
}
