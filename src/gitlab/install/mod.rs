//! `jobcage gitlab template`, `convert` and `check`: the way of the driver onto a host. An administrator calls them; they
//! need no job and, but for reading and writing the runner's files, no rights.

mod check;
mod convert;
mod diff;
mod replace;
mod runners;
mod template;
mod timing;

use crate::cli::request::{Common, InstallRequest, InstallVerb, Voice};
use crate::verbs::{Outcome, pages, print_json};
use check::{Asked, Severity, check};
use convert::{Converted, Fate, Wanted, convert};
use replace::Original;
use std::path::{Path, PathBuf};
use timing::{Budgets, Timeouts};

/// The verbs of this room.
pub const VERBS: [&str; 3] = ["template", "convert", "check"];

/// Something was found that is to be changed.
const FOUND: u8 = 1;

/// Why one of these verbs failed. No variant shows a piece of the runner's file.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// It is no TOML.
    #[error("line {line}: this is no TOML: {why}")]
    Toml {
        /// The line, from 1 on.
        line: usize,
        /// What the grammar wants.
        why: String,
    },
    /// `runners` is something else than blocks.
    #[error("runners is {0}; the runner wants blocks that begin with [[runners]]")]
    NoBlocks(&'static str),
    /// `--name`.
    #[error("no runner has the name {0} (--name)")]
    NoSuchRunner(String),
    /// `--name`, for one that stays as it is.
    #[error("{0} cannot be converted: {1}")]
    NotConverted(String, String),
    /// The runner's configuration.
    #[error("cannot read {}: {why}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// It could not be replaced.
    #[error("cannot {what} {}: {source}; nothing was changed", path.display())]
    Write {
        /// What was to be done.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is replaced, and perhaps only until the power goes.
    #[error("{} is replaced, but whether that is on the disk nobody can tell: {source}", path.display())]
    Unsynced {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Somebody else has written it.
    #[error("{} was changed meanwhile, and stays as it is now; call this again", .0.display())]
    Changed(PathBuf),
    /// The runner cannot be told whom to call.
    #[error("the runner cannot be told to call {}: {why}; name a jobcage with --binary", path.display())]
    Binary {
        /// Our own file.
        path: PathBuf,
        /// Why.
        why: &'static str,
    },
    /// There is no home to look in.
    #[error("there is no HOME with a .gitlab-runner/config.toml in it; name the runner's file")]
    NoConfig,
}

/// Does what is asked.
///
/// # Errors
/// If it cannot be done.
pub fn perform(request: InstallRequest, common: &Common) -> Outcome {
    let budgets = Budgets {
        grace: request.grace,
        after: request.after,
    };
    match request.verb {
        InstallVerb::Template { binary } => {
            let binary = own_or(binary)?;
            pages::print(template::template(&binary, &budgets).as_bytes())
        }
        InstallVerb::Convert {
            config,
            name,
            binary,
            write,
        } => {
            let wanted = Wanted {
                binary: &own_or(binary)?,
                timeouts: Timeouts::of(&budgets),
                name: name.as_deref(),
            };
            convert_file(&config, &wanted, write, &budgets, common.voice)
        }
        InstallVerb::Check {
            config,
            is_usual,
            json,
        } => {
            let config = config.ok_or(InstallError::NoConfig)?;
            let asked = Asked {
                common,
                identity: &request.identity,
                budgets,
                config: &config,
                is_usual,
            };
            tell_findings(&asked, json)
        }
    }
}

/// The program that the runner is to call: the one that is named, or this one.
fn own_or(named: Option<PathBuf>) -> Result<String, InstallError> {
    let path = match named {
        Some(path) => path,
        None => std::env::current_exe().map_err(|e| InstallError::Read {
            path: "/proc/self/exe".into(),
            why: e.to_string(),
        })?,
    };
    let wrong = |why| InstallError::Binary {
        path: path.clone(),
        why,
    };
    match path.to_str() {
        None => Err(wrong("its path is no UTF-8, as TOML wants it")),
        // What the kernel says of a program that was replaced while it runs.
        Some(text) if text.ends_with(" (deleted)") => Err(wrong("it is not there any more")),
        Some(text) => Ok(text.to_owned()),
    }
}

/// The text of a runner's configuration, wherever its name leads.
fn read(path: &Path) -> Result<String, InstallError> {
    let failed = |why: String| InstallError::Read {
        path: path.to_owned(),
        why,
    };
    let meta = std::fs::metadata(path).map_err(|e| failed(e.to_string()))?;
    if !meta.is_file() {
        return Err(failed("it is no regular file".into()));
    }
    if meta.len() > replace::MOST {
        return Err(failed("it is larger than any configuration".into()));
    }
    std::fs::read_to_string(path).map_err(|e| failed(e.to_string()))
}

fn convert_file(path: &Path, wanted: &Wanted<'_>, write: bool, budgets: &Budgets, voice: Voice) -> Outcome {
    let original = Original::read(path)?;
    let text = original.text()?;
    let converted = convert(text, wanted)?;
    refuse_what_was_asked_for(&converted, wanted)?;
    let name = path.to_string_lossy();
    pages::print(diff::unified(&name, text, &converted.text).as_bytes())?;
    let say = |line: &str| {
        if voice != Voice::Quiet {
            crate::complain(&line);
        }
    };
    converted
        .fates
        .iter()
        .filter_map(|(called, fate)| story(called, fate))
        .for_each(|line| say(&line));
    if !converted.any() {
        say("nothing is to be converted");
        return Ok(0);
    }
    LOST.iter().for_each(|line| say(line));
    if !budgets.fit() {
        say(&format!(
            "warning: {} do not fit into the {} s that the runner waits; {}",
            budgets.tell(),
            timing::RUNNER_WAITS,
            template::shorten(budgets)
        ));
    }
    if write {
        let kept = original.replace(&converted.text)?;
        say(&format!(
            "{name:?} is converted; the old one is {:?}. The runner reads it by itself; \"jobcage gitlab check\" tells what else \
             is to be done",
            kept.to_string_lossy()
        ));
    } else {
        say("nothing was changed: give --write to do it");
    }
    Ok(0)
}

/// What a converted runner does not have any more, and what it needs.
const LOST: [&str; 4] = [
    "lost with the shell executor: the web terminal, and the functions of runners from 19.3 on",
    "exit codes of jobs reach GitLab (allow_failure:exit_codes) with runners from 17.9 on",
    "--user of the runner's service has no effect any more: jobs run as user of [run] in jobcage's config.toml, by default \
     gitlab-runner",
    "builds and caches that had no directory of their own are expected in that user's home, where the packaged runner has them",
];

/// Who asks for one runner by its name wants to know why it stays as it is.
fn refuse_what_was_asked_for(converted: &Converted, wanted: &Wanted<'_>) -> Result<(), InstallError> {
    if wanted.name.is_none() || converted.any() {
        return Ok(());
    }
    for (called, fate) in &converted.fates {
        let why = match fate {
            Fate::Kept(why) => why.clone(),
            Fate::Other(executor) => format!("its executor is {executor}"),
            _ => continue,
        };
        return Err(InstallError::NotConverted(called.clone(), why));
    }
    Ok(())
}

fn story(called: &str, fate: &Fate) -> Option<String> {
    match fate {
        Fate::NotAsked => None,
        Fate::Converted => Some(format!("{called}: a shell executor, which becomes ours")),
        Fate::Ours => Some(format!("{called}: ours already")),
        Fate::Other(executor) => Some(format!("{called}: stays; its executor is {executor}")),
        Fate::Kept(why) => Some(format!("warning: {called}: stays; {why}")),
    }
}

fn tell_findings(asked: &Asked<'_>, json: bool) -> Outcome {
    let findings = check(asked)?;
    if json {
        print_json(&findings)?;
    } else {
        let quiet = asked.common.voice == Voice::Quiet;
        let lines = findings
            .iter()
            .filter(|finding| !quiet || finding.severity >= Severity::Warning)
            .map(|finding| finding.line() + "\n");
        pages::print(lines.collect::<String>().as_bytes())?;
    }
    let bad = findings
        .iter()
        .any(|finding| finding.severity >= Severity::Warning);
    Ok(if bad { FOUND } else { 0 })
}
