//! What `logs` and `attach` share: a job whose output is in its record, and the ways out.

use super::{VerbError, places};
use crate::cli::request::{Begin, Common};
use crate::render;
use jobcage_job::{CaptureSpec, JobId, Stream, Streams};
use jobcage_ledger::log::{Happening, Outlet, Start};
use jobcage_ledger::{LedgerError, Record, State};
use jobcage_supervisor::Failure;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

/// What a shell shows of a program whose reader has gone: 128 + SIGPIPE.
pub const OUTPUT_GONE: u8 = 141;

/// A job whose output is captured.
pub struct Captured {
    /// Its record.
    pub record: Record,
    /// How its output is kept.
    pub capture: CaptureSpec,
}

impl Captured {
    /// Finds it.
    ///
    /// # Errors
    /// If there is no such job, or its output went elsewhere: then the error says where.
    pub fn open(common: &Common, id: &JobId) -> Result<Self, VerbError> {
        let record = places(&common.places).open(id)?;
        match record.spec()?.map(|spec| spec.capture) {
            Some(Some(capture)) => Ok(Self { record, capture }),
            Some(None) => Err(refused(not_captured(&record)?)),
            None => Err(refused(format!(
                "the job {id} was cut off before it began: there is no output"
            ))),
        }
    }

    /// Where to begin, as the ledger wants it.
    ///
    /// # Errors
    /// If there are two logs, and one offset for both.
    pub fn start(&self, begin: Begin, stream: Option<Stream>) -> Result<Start, VerbError> {
        let is_split = self.capture.streams == Streams::Split && stream.is_none();
        match begin {
            Begin::Offset(_) if is_split => Err(refused(format!(
                "stdout and stderr of the job {id} are split, so an offset is one of either: use \"jobcage logs {id} \
                 --stream stdout --offset …\"",
                id = self.record.id()
            ))),
            Begin::Offset(offset) => Ok(Start::Offset(offset)),
            Begin::Start => Ok(Start::Offset(0)),
            Begin::Lines(lines) => Ok(Start::Lines(lines)),
        }
    }

    /// Says so if nobody looks after the job: nothing will come then, and nobody would say why.
    ///
    /// # Errors
    /// If the record cannot be read.
    pub fn warn_of_orphan(&self) -> Result<(), VerbError> {
        // Between two supervisors nobody holds the lock for a moment, but the keeper answers.
        let is_kept = || UnixStream::connect(self.record.path().join("keeper.sock")).is_ok();
        if matches!(self.record.state()?, State::Unattended(_)) && !is_kept() {
            crate::complain(&format_args!(
                "nobody looks after the job {}; \"jobcage gc\" closes it",
                self.record.id()
            ));
        }
        Ok(())
    }

    /// What there is to say when the record goes before the job was seen to be over.
    pub fn removed(&self) -> VerbError {
        refused(format!(
            "the record of the job {} was removed meanwhile: how it ended is not known here",
            self.record.id()
        ))
    }
}

/// Our standard output and error.
///
/// # Errors
/// If one of them cannot be looked at.
pub fn outlets() -> Result<(Outlet, Outlet), VerbError> {
    let open = |fd: std::os::fd::BorrowedFd<'_>| {
        Outlet::new(fd).map_err(|errno| VerbError::Stdout(std::io::Error::from(errno)))
    };
    Ok((open(std::io::stdout().as_fd())?, open(std::io::stderr().as_fd())?))
}

/// The one line about what was dropped of a log before it could be shown.
pub fn tell_lost(happening: Happening) {
    if let Happening::Lost { step, stream, bytes } = happening {
        crate::complain(&format_args!(
            "{bytes} bytes of {} are left out here: they were dropped at the limit of the log",
            jobcage_ledger::log::name(step, stream)
        ));
    }
}

pub fn refused(why: String) -> VerbError {
    VerbError::Failure(Failure::Refused(why))
}

/// Where the output of a job is that is not captured.
fn not_captured(record: &Record) -> Result<String, LedgerError> {
    let id = record.id();
    Ok(match record.state()? {
        State::Alive { supervisor } if supervisor > 0 => {
            format!(
                "the job {id} is not captured: its output goes to {}",
                files_of(supervisor)
            )
        }
        State::Alive { .. } => {
            format!(
                "the job {id} is not captured: its output goes where its jobcage was started, in another pid namespace"
            )
        }
        State::Over(_) => {
            format!("the job {id} was not captured: its output went where its jobcage was started")
        }
        State::Unattended(_) | State::Closing { .. } | State::NeverBegun => {
            format!("the job {id} is not captured: the output of each step goes where that step was started")
        }
    })
}

/// The files that a process has as its standard output and error, for a person.
fn files_of(pid: i32) -> String {
    let file = |fd: u8| -> Option<PathBuf> { std::fs::read_link(format!("/proc/{pid}/fd/{fd}")).ok() };
    let shown = |path: PathBuf| render::harmless(&path.to_string_lossy());
    match (file(1), file(2)) {
        (Some(out), Some(err)) if out == err => format!("{} of pid {pid}", shown(out)),
        (Some(out), Some(err)) => format!("{} and {} of pid {pid}", shown(out), shown(err)),
        _ => format!("the standard output of pid {pid}"),
    }
}
