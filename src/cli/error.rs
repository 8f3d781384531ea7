//! What is wrong with a call, in the one voice of jobcage. Every one of these ends with exit code 125.

use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::config::file::FileError;

/// Why words did not become a request.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The words themselves.
    #[error("{what}; `jobcage{verb} --help` tells more")]
    Usage {
        /// What is wrong and what to do.
        what: String,
        /// The verb with a blank before it, or nothing.
        verb: String,
    },
    /// A value, wherever it stands.
    #[error("{origin}: {why}")]
    Value {
        /// The flag, the variable, or the file with line and key.
        origin: String,
        /// What is wrong and what is allowed.
        why: String,
    },
    /// A config file.
    #[error(transparent)]
    File(#[from] FileError),
}

impl Error {
    /// A value that cannot be meant.
    #[must_use]
    pub fn value(origin: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Value {
            origin: origin.into(),
            why: why.into(),
        }
    }

    /// Says what clap found in our own words. Of a word that is no option nothing is shown: it may be a piece of
    /// a script or the value of a variable that slipped out of its quotes.
    #[must_use]
    pub fn usage(error: &clap::Error, verb: Option<&str>) -> Self {
        let text = |kind| match error.get(kind) {
            Some(ContextValue::String(text)) => Some(text.as_str()),
            Some(ContextValue::Strings(list)) => list.first().map(String::as_str),
            _ => None,
        };
        let argument = text(ContextKind::InvalidArg).unwrap_or_default();
        let what = match error.kind() {
            ErrorKind::UnknownArgument => unknown_argument(argument, text(ContextKind::SuggestedArg), verb),
            ErrorKind::InvalidSubcommand => {
                let given: String = text(ContextKind::InvalidSubcommand)
                    .unwrap_or_default()
                    .chars()
                    .take(40)
                    .collect();
                let near = text(ContextKind::SuggestedSubcommand);
                format!(
                    "unknown verb {given:?}{}",
                    near.map_or(String::new(), |s| format!(" (did you mean {s}?)"))
                )
            }
            ErrorKind::MissingSubcommand if verb == Some("env") => {
                "write set, get, unset or list behind env".into()
            }
            ErrorKind::MissingSubcommand => "no verb: write `jobcage run -- command`".into(),
            ErrorKind::MissingRequiredArgument if argument.starts_with("<COMMAND>") => {
                "no command: it stands behind --, as in `jobcage run -- make test`".into()
            }
            ErrorKind::MissingRequiredArgument => format!("{argument} is missing"),
            ErrorKind::ArgumentConflict => match text(ContextKind::PriorArg) {
                Some(prior) if prior == argument => format!("{} is given twice", flag(argument)),
                Some(prior) => format!("{} does not go with {}", flag(argument), flag(prior)),
                None => format!("{} does not go with another option", flag(argument)),
            },
            ErrorKind::InvalidValue if text(ContextKind::InvalidValue).is_none_or(str::is_empty) => {
                format!("{} needs a value: {argument}", flag(argument))
            }
            ErrorKind::InvalidValue => match error.get(ContextKind::ValidValue) {
                Some(ContextValue::Strings(valid)) => {
                    format!("{argument} is one of {}", valid.join(", "))
                }
                _ => format!("{} has a wrong value", flag(argument)),
            },
            other => format!(
                "{}: {}",
                flag(argument),
                other.as_str().unwrap_or("it cannot be used so")
            ),
        };
        Self::Usage {
            what,
            verb: verb.map_or(String::new(), |v| format!(" {v}")),
        }
    }
}

/// `--memory` of `--memory <SIZE>`, and never what stands behind a `=`.
fn flag(argument: &str) -> &str {
    argument.split([' ', '=', '[']).next().unwrap_or_default()
}

fn unknown_argument(argument: &str, near: Option<&str>, verb: Option<&str>) -> String {
    if !argument.starts_with('-') {
        return match verb {
            Some("exec") => "a word too many; the command stands behind --, as in `jobcage exec ID -- ps`".into(),
            Some("run") => "a word is no option; the command stands behind --, as in `jobcage run --timeout 5m -- make test`"
                .into(),
            _ => "there is a word too many".into(),
        };
    }
    let near = near.map_or(String::new(), |s| format!(" (did you mean {s}?)"));
    let shown: String = flag(argument)
        .chars()
        .take(40)
        .flat_map(char::escape_debug)
        .collect();
    format!("unknown option {shown}{near}")
}
