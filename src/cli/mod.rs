//! Words in, requests out. The words are parsed twice: into what was typed (`words`), then, with the variables
//! and the config files below them, into what is meant (`meaning`, `request`).

mod asking;
pub mod error;
mod gitlab;
mod gitlab_job;
mod handed;
mod help;
mod install;
mod meaning;
mod pick;
mod quick;
mod reading;
mod remote;
pub mod request;
mod shim;
pub mod values;
pub mod words;

use clap::error::ErrorKind;
use std::ffi::OsString;

use crate::config::Layers;
use crate::config::environ::Environ;
use crate::config::file::Scope;
use error::Error;
pub use gitlab_job::{OF_THE_JOB, Refused};
use meaning::Door;
pub use meaning::GRACE;
pub use remote::KEEPALIVE;
use request::{CompletionsRequest, ManRequest, Request, Voice};
pub use shim::shim;
use words::VerbWords;

/// A request, and what a person should hear before it is done.
#[derive(Debug)]
pub struct Parsed {
    /// What to do.
    pub request: Request,
    /// Warnings, one line each. Empty with `--quiet`.
    pub warnings: Vec<String>,
}

/// Parses the words (the program's name first) for a caller of this effective uid.
///
/// # Errors
/// If the words, a variable or a config file say something that cannot be meant.
pub fn parse(words: Vec<OsString>, environ: Environ, euid: u32) -> Result<Parsed, Error> {
    if let Some(meant) = quick::split(&words) {
        return mean(meant, &words, environ, euid);
    }
    let verb = words.get(1).and_then(|word| word.to_str()).map(str::to_owned);
    match words::split(words.iter().cloned()) {
        Ok(meant) => mean(meant, &words, environ, euid),
        Err(e) if matches!(e.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            Ok(quietly(Request::Print(e.render().to_string())))
        }
        Err(e) => {
            let known = |verb: &str| words::command().find_subcommand(verb).is_some();
            Err(Error::usage(&e, verb.as_deref().filter(|verb| known(verb))))
        }
    }
}

fn quietly(request: Request) -> Parsed {
    Parsed {
        request,
        warnings: Vec::new(),
    }
}

/// `argv`: the words as they were typed.
fn mean(words: VerbWords, argv: &[OsString], environ: Environ, euid: u32) -> Result<Parsed, Error> {
    if let Some(option) = remote::without_a_host(&words) {
        return Err(Error::value(
            option,
            "it is for a job on another host: give --host as well",
        ));
    }
    if remote::host_of(&words).is_some_and(|host| !host.host.is_empty()) {
        // Variables and files of this host say nothing about another one.
        let layers = Layers::read(&environ, Scope::Places)?;
        let door = Door {
            layers: &layers,
            environ: &environ,
            euid,
        };
        return Ok(quietly(door.elsewhere(words, argv)?));
    }
    // It asks for nothing that an option's variable or a file could say.
    let words = match words {
        VerbWords::Env(w) => return Ok(quietly(Request::Handed(handed::request(w, &environ)?))),
        other => other,
    };
    let scope = match &words {
        // These two ask for nothing that a variable or a file could say.
        VerbWords::Man(w) => return Ok(quietly(Request::Man(ManRequest { dir: (&w.dir).into() }))),
        VerbWords::Completions(w) => {
            return Ok(quietly(Request::Completions(CompletionsRequest {
                shell: w.shell,
            })));
        }
        VerbWords::Run(_) | VerbWords::Create(_) => Scope::Jobs,
        VerbWords::Gitlab(_) => Scope::Gitlab,
        VerbWords::Doctor(_) => Scope::All,
        VerbWords::Gc(_) => Scope::Gc,
        _ => Scope::Places,
    };
    let layers = Layers::read(&environ, scope)?;
    let door = Door {
        layers: &layers,
        environ: &environ,
        euid,
    };
    let (mut request, voice) = door.request(words)?;
    match &mut request {
        Request::Run(run) => meaning::inherit(run, environ),
        Request::Exec(exec) => exec.inherited = meaning::inherited(environ),
        _ => {}
    }
    let warnings = if voice == Voice::Quiet {
        Vec::new()
    } else {
        warnings(&layers)
    };
    Ok(Parsed { request, warnings })
}

fn warnings(layers: &Layers) -> Vec<String> {
    if layers.unknown.is_empty() {
        return Vec::new();
    }
    let names: Vec<_> = layers
        .unknown
        .iter()
        .map(|name| name.escape_debug().to_string())
        .collect();
    let (is, them) = if names.len() == 1 {
        ("is no option", "it is")
    } else {
        ("are no options", "they are")
    };
    vec![format!(
        "{} {is} of this version; {them} ignored",
        names.join(", ")
    )]
}

#[cfg(test)]
mod docs_test;
