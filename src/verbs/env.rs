//! `jobcage env`: what a step hands on, from inside the job.

use super::{Outcome, VerbError, pages};
use crate::cli::request::{HandedRequest, HandedVerb};
use jobcage_job::handed::{Handed, MAX_STRING, WrongText, render_set, render_unset};
use jobcage_ledger::handed::{append, read_own};
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// `env get` finds nothing.
const NOT_SET: u8 = 1;

/// `jobcage env`.
///
/// # Errors
/// Outside of a job that hands state on, or if its file can be neither read nor written.
pub fn env(request: HandedRequest) -> Outcome {
    let Some(file) = request.file else {
        return Err(VerbError::Handed(
            "JOBCAGE_ENV is not set: this works in the steps of a job of \"jobcage create\" and in \"jobcage run\" with \
             --after, and hands variables on to what runs later in the same job"
                .into(),
        ));
    };
    let wrong = |why: WrongText| VerbError::Handed(why.to_string());
    match request.verb {
        HandedVerb::Set { name, value } => {
            let value = match value {
                Some(value) => value.expose().as_bytes().to_vec(),
                None => value_from_stdin()?,
            };
            append(&file, &render_set(name.as_bytes(), &value).map_err(wrong)?)?;
            Ok(0)
        }
        HandedVerb::Unset(names) => {
            let lines = names.iter().map(|name| render_unset(name.as_bytes()));
            append(
                &file,
                &lines.collect::<Result<Vec<_>, _>>().map_err(wrong)?.concat(),
            )?;
            Ok(0)
        }
        HandedVerb::Get(name) => match read(&file)?.variables.remove(name.as_bytes()).flatten() {
            Some(value) => pages::print(&[&value[..], b"\n"].concat()),
            None => {
                crate::complain(&format_args!(
                    "env: {} is not handed on by this job",
                    name.display()
                ));
                Ok(NOT_SET)
            }
        },
        HandedVerb::List => {
            let set = read(&file)?
                .variables
                .into_iter()
                .filter(|(_, value)| value.is_some());
            let names: Vec<Vec<u8>> = set.map(|(name, _)| [&name[..], b"\n"].concat()).collect();
            pages::print(&names.concat())
        }
    }
}

/// As a later step would read it; that step tells of wrong lines.
fn read(file: &Path) -> Result<Handed, VerbError> {
    Ok(Handed::parse(&read_own(file)?, b"").0)
}

/// All of standard input, without one line end at its end.
fn value_from_stdin() -> Result<Vec<u8>, VerbError> {
    let mut value = Vec::new();
    // One more than can be handed on, and the line end: what is longer is refused whatever comes.
    let most = MAX_STRING as u64 + 2;
    let read = std::io::stdin().lock().take(most).read_to_end(&mut value);
    read.map_err(|e| VerbError::Handed(format!("cannot read the value from standard input: {e}")))?;
    if value.last() == Some(&b'\n') {
        value.pop();
    }
    Ok(value)
}
