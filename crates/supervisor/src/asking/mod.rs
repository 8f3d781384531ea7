//! What somebody outside asks of any job, whoever looks after it: its end, news of its end, a further command in it.

mod stop;
mod surroundings;
mod wait;

pub use stop::{How, Stopped, stop};
pub use surroundings::{Surroundings, surroundings};
pub use wait::{News, Waiting};

use crate::error::{Failure, Result};
use jobcage_ledger::{LedgerError, Record, State};
use jobcage_sys::{Errno, pidfd};
use std::os::fd::OwnedFd;

/// A record may be removed at any moment while it is looked at: that is no failure, the job has ended.
fn or_gone<T>(looked: std::result::Result<T, LedgerError>) -> std::result::Result<Option<T>, LedgerError> {
    match looked {
        Err(LedgerError::NoSuchJob(_)) => Ok(None),
        Err(error) if error.errno() == Some(Errno::ENOENT) => Ok(None),
        other => other.map(Some),
    }
}

/// A hold on the process that has the lock of a job. `None`: it has ended, or another one has it by now.
fn hold(record: &Record, holder: i32) -> Result<Option<OwnedFd>> {
    if holder <= 0 {
        return Err(Failure::Refused(format!(
            "the job {} is looked after from another pid namespace, which cannot be reached from here",
            record.id()
        )));
    }
    let process = match pidfd::open(holder) {
        Ok(process) => process,
        Err(Errno::ESRCH | Errno::EINVAL) => return Ok(None),
        Err(errno) => return Err(Failure::system("open a pidfd of the job's supervisor")(errno)),
    };
    // The pidfd was opened before this second look at the lock: if it still names this pid, it is this process.
    let again = or_gone(record.state())?;
    let same =
        matches!(again, Some(State::Alive { supervisor: pid } | State::Closing { by: pid }) if pid == holder);
    Ok(same.then_some(process))
}
