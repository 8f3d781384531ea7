//! What is meant by the verbs that read the output of a job: `logs` and `attach`.

use jobcage_job::{Stream, parse_size};

use super::error::Error;
use super::meaning::{Door, job_id};
use super::pick::{self, only};
use super::request::{AttachRequest, Begin, LogsRequest, LogsWhat, Request, Voice};
use super::words::{AttachWords, BeginWords, LogsWords};

impl Door<'_> {
    pub(super) fn logs(&self, w: LogsWords) -> Result<(Request, Voice), Error> {
        let logs = LogsRequest {
            common: self.common(w.common)?,
            id: job_id("ID", &w.id)?,
            step: only("--step", w.step, pick::text(parse_step))?,
            stream: only("--stream", w.stream, pick::text(parse_stream))?,
            what: if w.verify || w.checksum {
                LogsWhat::Check {
                    verify: w.verify,
                    checksum: w.checksum,
                }
            } else {
                LogsWhat::Print {
                    follow: w.follow,
                    begin: begin(w.begin)?,
                }
            },
        };
        let voice = logs.common.voice;
        Ok((Request::Logs(logs), voice))
    }

    pub(super) fn attach(&self, w: AttachWords) -> Result<(Request, Voice), Error> {
        let attach = AttachRequest {
            common: self.common(w.common)?,
            id: job_id("ID", &w.id)?,
            begin: begin(w.begin)?,
            stop_on_interrupt: w.stop_on_interrupt,
            report: None,
        };
        let voice = attach.common.voice;
        Ok((Request::Attach(attach), voice))
    }
}

fn begin(w: BeginWords) -> Result<Begin, Error> {
    let offset = only("--offset", w.offset, pick::text(parse_size))?;
    let lines = only("--tail", w.tail, pick::text(parse_lines))?;
    // Both are refused before.
    Ok(match (offset, lines) {
        (Some(offset), _) => Begin::Offset(offset),
        (None, Some(lines)) => Begin::Lines(lines),
        (None, None) => Begin::Start,
    })
}

fn parse_lines(text: &str) -> Result<u64, String> {
    text.parse()
        .map_err(|_| format!("{text:?} is no number of lines: write one such as 20"))
}

fn parse_step(text: &str) -> Result<u32, String> {
    let number = text.parse().ok().filter(|number| *number > 0);
    number.ok_or_else(|| format!("{text:?} is no number of a step: they count from 1"))
}

fn parse_stream(text: &str) -> Result<Stream, String> {
    match text {
        "stdout" => Ok(Stream::Stdout),
        "stderr" => Ok(Stream::Stderr),
        _ => Err(format!("{text:?} is no stream: write stdout or stderr")),
    }
}
