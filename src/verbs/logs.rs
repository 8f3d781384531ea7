//! `jobcage logs`.

use super::captured::{Captured, OUTPUT_GONE, outlets, refused, tell_lost};
use super::{Outcome, VerbError, pages};
use crate::cli::request::{Begin, LogsRequest, LogsWhat};
use jobcage_job::{LogReport, Stream, Streams};
use jobcage_ledger::log::{self, Follower, Happening, LogReader, Until, Wanted};
use jobcage_ledger::{LedgerError, Record};
use sha2::{Digest, Sha256};
use std::fmt::Write;

/// A log is not whole.
const NOT_WHOLE: u8 = 1;

/// `jobcage logs`.
///
/// # Errors
/// If there is no such job or no such log, or it cannot be read.
pub fn logs(request: LogsRequest) -> Outcome {
    let job = Captured::open(&request.common, &request.id)?;
    if job.capture.streams == Streams::Merged && request.stream.is_some() {
        return Err(refused(format!(
            "stdout and stderr of the job {} are merged into one log: leave --stream out",
            request.id
        )));
    }
    let wanted = Wanted {
        step: request.step,
        stream: request.stream,
    };
    match request.what {
        LogsWhat::Print { follow, begin } => print(&job, wanted, follow, begin),
        LogsWhat::Check { verify, checksum } => check(&job, wanted, verify, checksum),
    }
}

fn print(job: &Captured, wanted: Wanted, follow: bool, begin: Begin) -> Outcome {
    let until = match (follow, wanted.step) {
        (false, _) => Until::Now,
        (true, Some(step)) => Until::StepEnded(step),
        (true, None) => Until::JobOver,
    };
    let start = job.start(begin, wanted.stream)?;
    if follow {
        job.warn_of_orphan()?;
    }
    let mut follower = Follower::new(&job.record, job.capture, wanted, start, until)?;
    let (mut out, mut err) = outlets()?;
    loop {
        match follower.next(&mut out, &mut err, None)? {
            lost @ Happening::Lost { .. } => tell_lost(lost),
            Happening::Woken => {}
            Happening::OutputGone => return Ok(OUTPUT_GONE),
            Happening::OutputFailed(errno) => return Err(VerbError::Stdout(errno.into())),
            Happening::Removed => return Err(job.removed()),
            Happening::Over if follower.logs() == 0 => return no_log(job, wanted),
            Happening::Over => return Ok(0),
        }
    }
}

/// A job that has written nothing yet has no log, which is no error; a step that is asked for by its number is one.
fn no_log(job: &Captured, wanted: Wanted) -> Outcome {
    let id = job.record.id();
    match wanted.step {
        None => Ok(0),
        Some(step) => Err(refused(format!(
            "the job {id} has no log of a step {step} (\"jobcage show {id}\" has its steps)"
        ))),
    }
}

/// One log of a record.
struct Log {
    step: u32,
    stream: Stream,
    name: String,
}

/// The logs that are there, and those that should be.
fn all(record: &Record, wanted: Wanted) -> Result<Vec<Log>, LedgerError> {
    let mut found: Vec<(u32, Stream)> = record
        .names()?
        .iter()
        .filter_map(|name| log::parse_name(name))
        .collect();
    for step in record.steps()? {
        found.extend(step.logs.iter().map(|log| (step.number, log.stream)));
    }
    found.retain(|(step, stream)| {
        wanted.step.is_none_or(|wanted| wanted == *step)
            && wanted.stream.is_none_or(|wanted| wanted == *stream)
    });
    found.sort_unstable();
    found.dedup();
    let log = |(step, stream)| Log {
        step,
        stream,
        name: log::name(step, stream),
    };
    Ok(found.into_iter().map(log).collect())
}

fn check(job: &Captured, wanted: Wanted, verify: bool, checksum: bool) -> Outcome {
    let mut code = 0;
    let logs = all(&job.record, wanted)?;
    if logs.is_empty() {
        return Err(refused(format!("the job {} has no such log", job.record.id())));
    }
    for log in &logs {
        if verify {
            match whole(job, log)? {
                Ok(line) => drop(pages::print(format!("{}: {line}\n", log.name).as_bytes())?),
                Err(why) => {
                    crate::complain(&format_args!("{} of the job {} {why}", log.name, job.record.id()));
                    code = NOT_WHOLE;
                }
            }
        }
        if checksum && let Some(line) = sum(job, log)? {
            pages::print(line.as_bytes())?;
        }
    }
    Ok(code)
}

fn open(job: &Captured, log: &Log) -> Result<Option<LogReader>, VerbError> {
    match LogReader::open(job.record.dir(), &log.name, job.capture.into()) {
        Ok(reader) => Ok(Some(reader)),
        Err(jobcage_sys::Errno::ENOENT) => Ok(None),
        Err(errno) => Err(failed(job, log)(errno)),
    }
}

fn failed(job: &Captured, log: &Log) -> impl Fn(jobcage_sys::Errno) -> VerbError {
    let path = job.record.path().join(&log.name);
    move |errno| LedgerError::io("read", &path, errno).into()
}

/// Whether a log is all that its step wrote, and what there is to say of it.
fn whole(job: &Captured, log: &Log) -> Result<Result<String, String>, VerbError> {
    let failed = failed(job, log);
    let step = job.record.step(log.step)?;
    let said = step.and_then(|step| step.logs.into_iter().find(|one| one.stream == log.stream));
    let Some(mut reader) = open(job, log)? else {
        return Ok(Err("is not there".into()));
    };
    let (len, gap) = (reader.len().map_err(&failed)?, reader.gap().map_err(&failed)?);
    let is_over = job.record.report()?.is_some();
    Ok(match said {
        Some(LogReport {
            whole: true, bytes, ..
        }) if bytes != len => Err(format!(
            "is not whole: it has {len} bytes, and {bytes} were written"
        )),
        Some(LogReport {
            whole: true, dropped, ..
        }) if dropped != gap => Err("is not whole: what is dropped of it is not what was said to be".into()),
        Some(LogReport { whole: true, .. }) => Ok(match gap {
            None => format!("whole, {len} bytes"),
            Some(gap) => format!(
                "whole, {len} bytes, of which {} from byte {} on were dropped at its limit",
                gap.bytes(),
                gap.from
            ),
        }),
        _ if is_over => Err(format!(
            "is not whole: {len} bytes are there, and nobody saw that nothing is missing"
        )),
        _ => Err(format!(
            "is not whole yet: {len} bytes are there, and its step has not ended"
        )),
    })
}

/// The line of sha256sum(1) of the bytes that are there.
fn sum(job: &Captured, log: &Log) -> Result<Option<String>, VerbError> {
    let failed = failed(job, log);
    let Some(mut reader) = open(job, log)? else {
        crate::complain(&format_args!(
            "{} of the job {} is not there",
            log.name,
            job.record.id()
        ));
        return Ok(None);
    };
    reader.stop_at(reader.len().map_err(&failed)?);
    let mut sum = Sha256::new();
    let mut buffer = vec![0; 1 << 18];
    loop {
        let piece = reader.read(&mut buffer).map_err(&failed)?;
        if piece.lost > 0 {
            tell_lost(Happening::Lost {
                step: log.step,
                stream: log.stream,
                bytes: piece.lost,
            });
        }
        if piece.bytes == 0 {
            break;
        }
        sum.update(&buffer[..piece.bytes]);
    }
    let mut line = String::new();
    for byte in sum.finalize() {
        let _ = write!(line, "{byte:02x}");
    }
    let _ = writeln!(line, "  {}", job.record.path().join(&log.name).display());
    Ok(Some(line))
}
