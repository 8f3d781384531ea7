//! `jobcage wait`.

use super::{Outcome, pages, places};
use crate::cli::request::{Voice, WaitRequest};
use jobcage_job::{JobId, Report};
use jobcage_supervisor::asking::{News, Waiting};
use serde_json::json;
use std::time::Instant;

/// The time was over.
const LATE: u8 = 124;
/// Nobody can tell how a job ended.
const UNKNOWN: u8 = 125;

/// `jobcage wait`.
///
/// # Errors
/// If it cannot wait, or the lines cannot be printed. A job that is not there is told, and the others are waited for.
pub fn wait(request: WaitRequest) -> Outcome {
    // A time beyond what the clock can count is no limit.
    let until = request
        .timeout
        .and_then(|timeout| Instant::now().checked_add(timeout));
    let mut waiting = Waiting::new(&places(&request.common.places), &request.ids);
    let mut codes: Vec<Option<u8>> = vec![None; request.ids.len()];
    while codes.contains(&None) {
        let Some((at, news)) = waiting.next(until)? else {
            late(&request, &codes);
            return Ok(LATE);
        };
        let id = &request.ids[at];
        let code = match news {
            News::Over(report) => {
                print(&request, id, &report)?;
                u8::try_from(report.exit_code & 0xff).unwrap_or(UNKNOWN)
            }
            News::Unknown(why) => {
                unknown(&request, id, &why)?;
                UNKNOWN
            }
            News::Orphaned => {
                crate::complain(&format_args!(
                    "{id}: nobody looks after the job any more; \"jobcage gc\" closes it"
                ));
                continue;
            }
        };
        if request.any {
            return Ok(code);
        }
        codes[at] = Some(code);
    }
    let failed = codes.iter().flatten().find(|code| **code != 0);
    Ok(failed.copied().unwrap_or(0))
}

/// A line for a job that is over: for `cut` and `read`, or JSON.
fn print(request: &WaitRequest, id: &JobId, report: &Report) -> Outcome {
    let line = if request.json {
        let value = json!({
            "job": id, "exit_code": report.exit_code, "ending": report.ending, "clean": report.clean, "ended": report.ended,
        });
        format!("{value}\n")
    } else if request.common.voice == Voice::Quiet {
        return Ok(0);
    } else {
        format!("{id} {} {}\n", report.ending.kind(), report.exit_code)
    };
    pages::print(line.as_bytes())
}

fn unknown(request: &WaitRequest, id: &JobId, why: &str) -> Outcome {
    crate::complain(&format_args!("{id}: {why}"));
    if !request.json {
        return Ok(0);
    }
    pages::print(format!("{}\n", json!({"job": id, "error": why})).as_bytes())
}

fn late(request: &WaitRequest, codes: &[Option<u8>]) {
    if request.common.voice == Voice::Quiet {
        return;
    }
    let left = request.ids.iter().zip(codes).filter(|(_, code)| code.is_none());
    let left: Vec<&str> = left.map(|(id, _)| id.as_str()).collect();
    crate::complain(&format_args!("not over in time: {}", left.join(", ")));
}
