//! What is made of the command line's own definition: help, manual pages, completions.

use std::io::Write;

use super::{Outcome, VerbError};
use crate::cli::request::{CompletionsRequest, ManRequest};
use crate::cli::words;

/// Prints a text. A reader that has gone (`jobcage --help | head -1`) is no failure.
///
/// # Errors
/// If standard output cannot be written.
pub fn print(text: &[u8]) -> Outcome {
    let mut out = std::io::stdout().lock();
    match out.write_all(text).and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(VerbError::Stdout(e)),
        _ => Ok(0),
    }
}

/// Writes `jobcage.1` and one page for each verb that is not hidden.
///
/// # Errors
/// If a page cannot be written.
pub fn man(request: &ManRequest) -> Outcome {
    clap_mangen::generate_to(words::command(), &request.dir).map_err(|source| VerbError::Man {
        dir: request.dir.clone(),
        source,
    })?;
    Ok(0)
}

/// Prints the completion script of a shell.
///
/// # Errors
/// If standard output cannot be written.
pub fn completions(request: CompletionsRequest) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(request.shell, &mut words::command(), "jobcage", &mut script);
    print(&script)
}
