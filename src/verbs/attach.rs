//! `jobcage attach`: the output of a job as if it ran here, and its end as if it ended here. The job knows nothing of it.

use super::captured::{Captured, OUTPUT_GONE, outlets, tell_lost};
use super::run::{tell, write_report};
use super::{Outcome, VerbError, places};
use crate::cli::request::AttachRequest;
use jobcage_job::{Stream, Streams};
use jobcage_ledger::log::{Follower, Happening, Outlet, Until, Wanted};
use jobcage_supervisor::{Failure, asking};
use jobcage_sys::signal::is_ignored;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::os::fd::AsFd;

/// `jobcage attach`.
///
/// # Errors
/// If there is no such job, its output is not captured, or how it ended cannot be known; how it ended is the exit code.
pub fn attach(request: AttachRequest) -> Outcome {
    let job = Captured::open(&request.common, &request.id)?;
    let start = job.start(request.begin, None)?;
    let signals = signals()?;
    job.warn_of_orphan()?;
    let mut follower = Follower::new(&job.record, job.capture, Wanted::default(), start, Until::JobOver)?;
    let (mut out, mut err) = outlets()?;
    let mut is_gone = false;
    loop {
        match follower.next(&mut out, &mut err, Some(signals.as_fd()))? {
            lost @ Happening::Lost { .. } => tell_lost(lost),
            Happening::OutputGone if !request.stop_on_interrupt => return Ok(OUTPUT_GONE),
            Happening::OutputGone => {
                // Without us its next write would end it. Its end is to be seen and told all the same.
                ask_to_stop(&request);
                out = nowhere()?;
                is_gone = true;
            }
            Happening::OutputFailed(errno) => return Err(VerbError::Stdout(errno.into())),
            Happening::Removed => return Err(job.removed()),
            Happening::Over => break,
            Happening::Woken => {
                let Some(signal) = next(&signals) else { continue };
                if !request.stop_on_interrupt {
                    tell_how_to_come_back(&job, &follower, &out);
                    return Ok(128 + signal as u8);
                }
                ask_to_stop(&request);
            }
        }
    }
    let Some(report) = job.record.report()? else {
        return Err(job.removed());
    };
    tell(&report, request.common.voice);
    // As in `run`: the job has run, and a report that cannot be written is only told.
    if let Some(path) = &request.report
        && let Err(error) = write_report(path, &report)
    {
        crate::complain(&error);
    }
    if is_gone {
        return Ok(OUTPUT_GONE);
    }
    Ok((report.exit_code & 0xff) as u8)
}

/// Where the output of a job goes that nobody reads any more.
fn nowhere() -> Result<Outlet, VerbError> {
    let null = jobcage_sys::file::open_null().and_then(|null| Outlet::new(null.as_fd()));
    null.map_err(|errno| VerbError::Stdout(errno.into()))
}

/// Ctrl-C and SIGTERM, to be seen while we wait. Blocked before any thread is there, which then has them blocked too.
fn signals() -> Result<SignalFd, VerbError> {
    let set: SigSet = [Signal::SIGINT, Signal::SIGTERM].into_iter().collect();
    set.thread_block().map_err(Failure::system("block signals"))?;
    let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
    Ok(SignalFd::with_flags(&set, flags).map_err(Failure::system("make a signalfd"))?)
}

/// The next signal; one that our caller ignores stays ignored.
fn next(signals: &SignalFd) -> Option<Signal> {
    let info = signals.read_signal().ok()??;
    let signal = Signal::try_from(i32::try_from(info.ssi_signo).ok()?).ok()?;
    (!is_ignored(signal)).then_some(signal)
}

fn tell_how_to_come_back(job: &Captured, follower: &Follower<'_>, out: &Outlet) {
    let id = job.record.id();
    let is_one_log = job.capture.streams == Streams::Merged && follower.logs() == 1;
    let offset = follower.offset(1, Stream::Merged).filter(|_| is_one_log);
    let offset = offset.map(|read| format!(" --offset {}", read - out.waiting() as u64));
    crate::complain(&format_args!(
        "the job {id} goes on; \"jobcage attach {id}{}\" comes back to it, \"jobcage stop {id}\" stops it",
        offset.unwrap_or_default()
    ));
}

/// Asks, and does not wait for the answer here: the output has to be followed meanwhile. A second one skips the grace.
fn ask_to_stop(request: &AttachRequest) {
    let (places, id) = (places(&request.common.places), request.id.clone());
    std::thread::spawn(move || {
        if let Err(error) = asking::stop(&places, &id, &asking::How::default()) {
            crate::complain(&error);
        }
    });
}
