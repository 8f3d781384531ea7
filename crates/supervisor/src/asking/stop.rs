//! `jobcage stop`: the end of any job.

use super::{hold, or_gone};
use crate::error::{Failure, Result};
use crate::host;
use crate::keeper::Keeper;
use crate::sessions::cleanup;
use jobcage_cage::{Cage, EventsFile, signal_all};
use jobcage_job::{Ending, JobId, JobSpec, Report, STOP_VERSION, StopRequest};
use jobcage_ledger::{LedgerError, Places, Record, State};
use jobcage_sys::{Errno, pidfd, wait};
use nix::libc::{SIGCONT, SIGTERM};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::{Duration, Instant};

/// How a job is to be stopped; what is not said is the job's own setting.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct How {
    /// The first signal.
    pub signal: Option<i32>,
    /// From it to the kill.
    pub grace: Option<Duration>,
    /// Without both.
    pub now: bool,
    /// Of a session: its steps are over, and this is what came of them ([`StopRequest::finished`]).
    pub finished: Option<Ending>,
}

/// What a stop came to.
#[derive(Debug)]
pub enum Stopped {
    /// The supervisor was asked, and has ended the job. The report, where one was left.
    Asked(Option<Box<Report>>),
    /// Nobody looked after it: closed here.
    Closed(Box<Report>),
    /// It was over already.
    Over(Box<Report>),
}

/// Ends a job, whoever looks after it, and returns when it is over.
///
/// # Errors
/// If there is no such job, or it is not ours to stop.
pub fn stop(places: &Places, id: &JobId, how: &How) -> Result<Stopped> {
    let request = StopRequest {
        version: STOP_VERSION,
        signal: how.signal,
        grace: how.grace,
        now: how.now,
        finished: how.finished.clone(),
        pid: std::process::id().cast_signed(),
        uid: nix::unistd::getuid().as_raw(),
    };
    let mut asked = false;
    let mut seen = false;
    // More than one round only where the job changes hands meanwhile: its supervisor dies, another one or gc comes.
    loop {
        let Some(record) = or_gone(places.open(id))? else {
            return gone(id, seen);
        };
        match or_gone(record.state())? {
            None => return gone(id, seen),
            Some(State::Over(report)) if asked => return Ok(Stopped::Asked(Some(report))),
            Some(State::Over(report)) => return Ok(Stopped::Over(report)),
            Some(State::Alive { supervisor }) => {
                let request = (!asked && !is_created(&record)).then_some(&request);
                asked |= ask(&record, supervisor, request)?;
            }
            Some(State::Closing { by }) => drop(ask(&record, by, None)?),
            // Its supervisor has ended, and its record is on its way out.
            Some(State::NeverBegun) if asked => return Ok(Stopped::Asked(None)),
            Some(State::NeverBegun) => return cleanup(places, id, None).map(|r| Stopped::Closed(r.into())),
            // It changes hands: the next supervisor reads the request, or hears of it from us.
            Some(State::Unattended(_)) if Keeper::find(&record)?.is_some() => {
                or_gone(record.ask_stop(&request))?;
                let next = host::start_closer(places, id)
                    .map_err(Failure::system("start the job's next supervisor"))?;
                // It ends when the job has, or at once because another one has the lock.
                let ended = next
                    .pidfd
                    .as_ref()
                    .map(|process| pidfd::wait_end(process.as_fd()));
                ended
                    .transpose()
                    .map_err(Failure::system("wait for the job's next supervisor"))?;
                // Our child, and nobody else's to reap.
                let _ = wait::poll(wait::Whom::Pid(next.pid), false);
            }
            Some(State::Unattended(spec)) => {
                if !asked {
                    asked = or_gone(record.ask_stop(&request))?.is_some();
                    leave(&spec, how)?;
                }
                match cleanup(places, id, Some(request.cause())) {
                    Ok(report) => return Ok(Stopped::Closed(report.into())),
                    // Somebody else was faster, and is at it now.
                    Err(_) if has_moved_on(places, id) => {}
                    Err(failure) => return Err(failure),
                }
            }
        }
        seen = true;
    }
}

/// The record is not there: whether it ever was.
fn gone(id: &JobId, seen: bool) -> Result<Stopped> {
    if seen {
        Ok(Stopped::Asked(None))
    } else {
        Err(LedgerError::NoSuchJob(id.clone()).into())
    }
}

fn is_created(record: &Record) -> bool {
    matches!(record.spec(), Ok(Some(spec)) if !spec.created_by.is_tended())
}

fn has_moved_on(places: &Places, id: &JobId) -> bool {
    let state = or_gone(places.open(id).and_then(|record| record.state()));
    matches!(
        state,
        Ok(None | Some(State::Over(_) | State::Alive { .. } | State::Closing { .. }))
    )
}

/// Signals everything of a job that nobody looks after, and waits for it to end by itself.
fn leave(spec: &JobSpec, how: &How) -> Result<()> {
    let grace = how.grace.unwrap_or(spec.grace);
    let cage = Cage::open(Path::new(&spec.cage), spec.limited)?;
    let Some(cage) = cage.filter(|_| !how.now && !grace.is_zero()) else {
        return Ok(());
    };
    signal_all(cage.dir(), &[how.signal.unwrap_or(SIGTERM), SIGCONT])
        .map_err(Failure::system("signal the processes of the job"))?;
    if let Some(events) = EventsFile::open(cage.dir()).map_err(Failure::system("open cgroup.events"))? {
        let waited = events.wait(Instant::now() + grace, |now| !now.populated);
        waited.map_err(Failure::system("wait for the job"))?;
    }
    Ok(())
}

fn wait_end(process: BorrowedFd<'_>) -> Result<()> {
    pidfd::wait_end(process).map_err(Failure::system("wait for the supervisor"))
}

/// Asks whoever has the lock to end the job, and waits for that process to end. Without a request it is only waited for: it
/// ends the job already, or has read the request by itself. `false`: nobody was asked.
fn ask(record: &Record, holder: i32, request: Option<&StopRequest>) -> Result<bool> {
    let Some(process) = hold(record, holder)? else {
        return Ok(false);
    };
    let Some(request) = request else {
        return wait_end(process.as_fd()).map(|()| false);
    };
    let send = |signal| match pidfd::send_signal(process.as_fd(), signal) {
        Ok(()) => Ok(true),
        Err(Errno::ESRCH) => Ok(false),
        Err(Errno::EPERM) => Err(Failure::Refused(format!(
            "the job {} is looked after by pid {holder} of another user: only that user and root may stop it",
            record.id()
        ))),
        Err(errno) => Err(Failure::system("signal the supervisor of the job")(errno)),
    };
    // Signal 0 first: no request shall lie there that its writer had no right to.
    let sent = send(0)? && or_gone(record.ask_stop(request))?.is_some() && send(SIGTERM)?;
    if sent {
        wait_end(process.as_fd())?;
    }
    Ok(sent)
}
