//! `jobcage run` and `jobcage create`.

use super::{Outcome, VerbError, command, guest_home, keys, places, reboot};
use crate::cli::request::{
    AttachRequest, Begin, CageChoice, CaptureRequest, Common, CreateRequest, GuestRest, RunRequest, Stdin,
    Voice,
};
use crate::render;
use jobcage_cage::Process;
use jobcage_job::{JobId, LeaseHolder, Report};
use jobcage_supervisor::{Job, Target, foreground, kept, sessions};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// `jobcage run`.
///
/// # Errors
/// If jobcage itself fails; how the command ended is the exit code.
pub fn run(request: RunRequest) -> Outcome {
    let (job, request) = job(request)?;
    if let Some(capture) = &request.capture {
        return captured(&job, capture, request.common, request.report);
    }
    let outcome = foreground::run(&job)?;
    tell(&outcome.report, request.common.voice);
    // The command has run, and its result is what the caller acts on: a report that cannot be written is only told.
    if let Some(path) = &request.report
        && let Err(error) = write_report(path, &outcome.report)
    {
        crate::complain(&error);
    }
    if outcome.interrupted {
        end_by_the_same_signal(&outcome.report);
    }
    // At once, without giving back what the kernel takes back anyway.
    std::process::exit(outcome.report.exit_code & 0xff)
}

/// Starts a captured job of this id, for a client elsewhere, of whom it must hear within this time again and again.
///
/// # Errors
/// If it cannot be started.
pub fn start_for(
    request: RunRequest,
    id: JobId,
    silence: Option<Duration>,
    stdin: BorrowedFd<'_>,
) -> Result<(), VerbError> {
    let (mut job, _) = job(request)?;
    job.id = Some(id);
    job.silence = silence;
    kept::detach(&job, stdin)?;
    Ok(())
}

/// What is left of a request when the job is made of it.
struct Rest {
    common: Common,
    capture: Option<CaptureRequest>,
    report: Option<PathBuf>,
}

fn job(request: RunRequest) -> Result<(Job, Rest), VerbError> {
    let mut command = command::build(&request.step)?;
    if request.capture.is_some() {
        command::settle_dir(&mut command)?;
    }
    let agent = match &request.cage {
        CageChoice::New { cage, .. } => keys::read(cage.ssh_agent.as_deref())?,
        CageChoice::Existing(_) => None,
    };
    let guests = match &request.cage {
        CageChoice::New { cage, .. } => {
            guest_home::home(cage, GuestRest::Off, &command, &request.common.places)
        }
        CageChoice::Existing(_) => None,
    };
    let target = match request.cage {
        CageChoice::Existing(id) => Target::Existing { id, known: None },
        CageChoice::New { cage, after } => Target::New {
            name: cage.name,
            limits: cage.limits,
            best_effort: cage.best_effort,
            after: after
                .map(|after| reboot::after(after, &command, &request.common.places))
                .transpose()?,
        },
    };
    let job = Job {
        places: places(&request.common.places),
        cgroup_root: request.common.places.cgroup_root.clone(),
        target,
        command,
        timeout: request.timeout,
        idle_timeout: request.idle_timeout,
        signal: request.signal.number(),
        grace: request.grace,
        detail: request.report.is_some() || request.common.voice == Voice::Verbose,
        agent,
        spare: request.spare,
        lease: lease(request.capture.as_ref()),
        capture: request.capture.as_ref().map(|capture| capture.spec),
        copied: None,
        session: false,
        silence: None,
        id: None,
        step: None,
        sweep: false,
        keep_log: false,
        labels: BTreeMap::new(),
        guests,
    };
    Ok((
        job,
        Rest {
            common: request.common,
            capture: request.capture,
            report: request.report,
        },
    ))
}

/// Without `--detach` the job is ours: it ends with us, whatever becomes of us.
fn lease(capture: Option<&CaptureRequest>) -> Option<LeaseHolder> {
    let pid = std::process::id().cast_signed();
    let process = capture
        .filter(|capture| capture.attached)
        .and_then(|_| Process::read(pid))?;
    Some(LeaseHolder {
        pid,
        start_ticks: process.start_ticks,
    })
}

/// The job runs by itself, and without `--detach` we follow it.
fn captured(job: &Job, capture: &CaptureRequest, common: Common, report: Option<PathBuf>) -> Outcome {
    let open = |path: &Path| {
        std::fs::File::open(path).map_err(|source| VerbError::Stdin {
            path: path.into(),
            source,
        })
    };
    let id = match &capture.stdin {
        Stdin::Empty => kept::detach(job, open(Path::new("/dev/null"))?.as_fd()),
        Stdin::File(path) => kept::detach(job, open(path)?.as_fd()),
        Stdin::Own => kept::detach(job, std::io::stdin().as_fd()),
    }?;
    if !capture.attached {
        return super::pages::print(format!("{id}\n").as_bytes());
    }
    super::attach(AttachRequest {
        common,
        id,
        begin: Begin::Start,
        stop_on_interrupt: true,
        report,
    })
}

/// `jobcage create`.
///
/// # Errors
/// If the cage cannot be made.
pub fn create(request: CreateRequest) -> Outcome {
    let home = std::env::var_os("HOME").unwrap_or_default();
    let identity = command::identity(&request.identity)?;
    let account = command::account(&request.identity)?.map_or(home, |account| account.dir.into());
    let guests = guest_home::home_of(
        &request.cage,
        GuestRest::Isolate,
        identity.as_ref(),
        Some(&account),
        &request.common.places,
    );
    let created = sessions::create(&sessions::Create {
        places: places(&request.common.places),
        cgroup_root: request.common.places.cgroup_root.clone(),
        name: request.cage.name,
        limits: request.cage.limits,
        best_effort: request.cage.best_effort,
        uid: command::uid(&request.identity)?,
        identity,
        guests,
        agent: keys::read(request.cage.ssh_agent.as_deref())?,
        grace: request.grace,
        lease_pid: request.lease_pid,
        silence: request.lease,
        id: request.id,
    })?;
    if request.common.voice != Voice::Quiet {
        for note in &created.notes {
            crate::complain(&format_args!("note: {note}"));
        }
    }
    super::pages::print(format!("{}\n", created.id).as_bytes())
}

/// What a person should know, on stderr.
pub fn tell(report: &Report, voice: Voice) {
    // A command that could not be started and a cage that could not be emptied are errors, which are always told.
    let failed = !report.clean || matches!(report.ending, jobcage_job::Ending::NeverStarted(_));
    if voice == Voice::Quiet && !failed {
        return;
    }
    for line in render::summary(report, voice == Voice::Verbose) {
        crate::complain(&line);
    }
}

/// Writes a report where the caller wants it: a regular file as a whole or not at all, anything else in place.
pub fn write_report(path: &Path, report: &Report) -> Result<(), VerbError> {
    let failed = |source| VerbError::Report {
        path: path.into(),
        source,
    };
    let mut text = serde_json::to_string_pretty(report).map_err(|e| failed(e.into()))?;
    text.push('\n');
    // A FIFO, or a link like /dev/stderr, must be written through and never replaced.
    if std::fs::symlink_metadata(path).is_ok_and(|meta| !meta.is_file()) {
        return std::fs::write(path, text).map_err(failed);
    }
    let unfinished = path.with_added_extension("new");
    std::fs::write(&unfinished, text)
        .and_then(|()| std::fs::rename(&unfinished, path))
        .map_err(|source| {
            let _ = std::fs::remove_file(&unfinished);
            failed(source)
        })
}

/// A shell that runs a loop ends it at Ctrl-C only if it sees its command end by the signal itself.
pub fn end_by_the_same_signal(report: &Report) {
    use nix::sys::signal::{SigSet, Signal, raise};
    if let Some(jobcage_job::ExitStatus::Signal(number)) = report.status
        && let Ok(signal @ (Signal::SIGINT | Signal::SIGQUIT)) = Signal::try_from(number)
    {
        // Blocked until now to be read from the signalfd. Where this fails the exit code says the same.
        let _ = raise(signal);
        let _ = SigSet::from(signal).thread_unblock();
    }
}
