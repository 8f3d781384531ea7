//! The beginning: everything that has to be there, then the command.

use super::Supervision;
use super::setup::{Setup, cage_beside, existing_cage, new_cage, take_back};
use crate::error::{Failure, Result};
use crate::host;
use crate::job::{Job, Outcome, Target};
use crate::signals::Signals;
use jobcage_sys::wait;

/// Runs a job and stays until it is over.
///
/// # Errors
/// If jobcage itself fails. How the job ended, and what survived it, is in the outcome.
pub fn run(job: &Job) -> Result<Outcome> {
    begin(job)?.finish()
}

/// A job whose command is on its way.
pub struct Begun<'a>(Supervision<'a>);

/// Starts a job's command. Where that fails nothing of the job has run, and the caller may do something else instead; this
/// process may be a subreaper then, and has signals blocked.
///
/// # Errors
/// If jobcage itself fails. That the kernel does not start the command is a matter of the outcome.
pub fn begin(job: &Job) -> Result<Begun<'_>> {
    let signals = Signals::block()?;
    wait::expect_children().map_err(Failure::system("reset SIGCHLD"))?;
    // Of a shell that started them and then called exec: they, and what they leave, cannot be told from ours later on.
    let strangers = wait::any_child();
    let guard = host::guard(&job.command)?;
    let setup = match &job.target {
        Target::New {
            name,
            limits,
            best_effort,
            after,
        } => new_cage(job, name.as_deref(), limits, *best_effort, after.is_some())?,
        Target::Existing { id, known } => existing_cage(job, id, known.as_deref())?,
        Target::Beside(host) => cage_beside(job, &host.id)?,
    };
    // Only now: a watcher that was just started is our child, and its own orphans are not ours.
    wait::become_subreaper().map_err(Failure::system("become a subreaper"))?;
    let mut supervision = Supervision::new(job, signals, setup, strangers, guard)?;
    match supervision.start_main() {
        Ok(()) => Ok(Begun(supervision)),
        Err(failure) => {
            supervision.give_up();
            Err(failure)
        }
    }
}

impl Begun<'_> {
    /// Stays until the job is over.
    ///
    /// # Errors
    /// As [`run`].
    pub fn finish(self) -> Result<Outcome> {
        self.0.run()
    }
}

impl Supervision<'_> {
    /// Takes back what was made for a command that could not be started.
    fn give_up(self) {
        let Setup {
            record, spec, keeper, ..
        } = self.setup;
        if let Some(keeper) = keeper {
            keeper.leave();
        }
        if matches!(self.job.target, Target::New { .. }) {
            take_back(&record, &spec);
        }
    }
}
