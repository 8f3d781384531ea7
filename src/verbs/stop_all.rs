//! `jobcage stop --all`: every job of this user, all at once, so that they have their times side by side.

use super::{Outcome, VerbError, places, print_json};
use crate::cli::request::StopRequest;
use jobcage_job::JobId;
use jobcage_ledger::{LedgerError, Places, State};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

/// A job could not be stopped, or something of it survived.
const FAILED: u8 = 125;

/// Stops what runs, and what is begun meanwhile, each by a `jobcage stop ID` of its own: a stop may close a job by itself and
/// wait for it as for nothing else. Trouble with one is told, and keeps it from no other.
///
/// # Errors
/// If the records cannot be listed.
pub fn stop_all(request: &StopRequest) -> Outcome {
    let records = places(&request.common.places);
    let mut tried = BTreeSet::new();
    let mut answers = Vec::new();
    let mut code = 0;
    loop {
        let mut new = running(&records)?;
        new.retain(|id| tried.insert(id.clone()));
        if new.is_empty() {
            break;
        }
        let started: Vec<_> = new.into_iter().map(|id| (start(&id), id)).collect();
        for (child, id) in started {
            let answer = child.and_then(Child::wait_with_output);
            let answer = answer.map_err(|source| VerbError::StopOne {
                id: id.clone(),
                source,
            });
            match answer {
                Ok(output) if output.status.success() => {
                    answers.extend(serde_json::from_slice::<Value>(&output.stdout).ok());
                }
                // It has ended by itself in the moment before.
                _ if is_gone(&records, &id) => {}
                Ok(output) => {
                    code = FAILED;
                    let answer = serde_json::from_slice(&output.stdout);
                    answers.push(
                        answer.unwrap_or_else(|_| json!({"job": id, "result": "failed", "report": null})),
                    );
                }
                Err(error) => {
                    code = FAILED;
                    crate::complain(&error);
                }
            }
        }
    }
    if request.json {
        print_json(&answers)?;
    }
    Ok(code)
}

/// The jobs that are not over. One whose record cannot be read is among them: its stop says why.
fn running(records: &Places) -> Result<Vec<JobId>, LedgerError> {
    let mut all = records.all()?;
    all.retain(|id| {
        !matches!(
            records.open(id).and_then(|record| record.state()),
            Ok(State::Over(_)) | Err(LedgerError::NoSuchJob(_))
        )
    });
    Ok(all)
}

fn is_gone(records: &Places, id: &JobId) -> bool {
    matches!(records.open(id), Err(LedgerError::NoSuchJob(_)))
}

/// The words are our own, with the job in the place of `--all`.
fn start(id: &JobId) -> std::io::Result<Child> {
    let words = std::env::args_os().skip(1).filter(|word| word != "--all");
    Command::new("/proc/self/exe")
        .arg0("jobcage")
        .args(words)
        .arg(id.as_str())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
}
