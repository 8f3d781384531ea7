//! Where options come from beside the command line: variables, then the user's config file, then the host's.
//!
//! The layers hold text and its place. What a text means is `cli::meaning`'s business, so that an option is
//! typed by the same code wherever it stands, and an error names the place.

pub mod environ;
pub mod file;
pub mod options;

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};

use environ::{Environ, Variables};
use file::{FileError, Scope, Setting};
use options::{Kind, Opt};

/// The config file of the host.
const HOST_FILE: &str = "/etc/jobcage/config.toml";

/// Where a value stands.
#[derive(Debug, Clone, Copy)]
pub enum Origin<'a> {
    /// On the command line, behind this flag.
    Flag(&'static str),
    /// In this variable.
    Variable(&'static str),
    /// In this file.
    File {
        /// The file.
        path: &'a Path,
        /// The line, from 1 on.
        line: usize,
        /// The key.
        key: &'static str,
    },
}

impl fmt::Display for Origin<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(name) | Self::Variable(name) => f.write_str(name),
            Self::File { path, line, key } => write!(f, "{}, line {line}: {key}", path.display()),
        }
    }
}

/// Everything below the command line.
#[derive(Default)]
pub struct Layers {
    variables: Vec<(Opt, OsString)>,
    /// The strongest file first.
    files: Vec<Vec<Setting>>,
    /// Variables that begin with `JOBCAGE_` and mean nothing to this version.
    pub unknown: Vec<String>,
}

impl Layers {
    /// Reads the variables and the config files: `JOBCAGE_CONFIG` alone, or the user's and the host's.
    ///
    /// # Errors
    /// If a file cannot be read or holds what it may not; a missing one is an error only if it was named.
    pub fn read(environ: &Environ, scope: Scope) -> Result<Self, FileError> {
        let Variables {
            options,
            config,
            unknown,
        } = environ.variables();
        let mut files = Vec::new();
        if let Some(path) = config.map(PathBuf::from) {
            let missing = || FileError::Unreadable {
                path: path.clone(),
                source: std::io::ErrorKind::NotFound.into(),
            };
            files.push(file::read(&path, scope)?.ok_or_else(missing)?);
        } else {
            for path in user_file(environ).into_iter().chain([PathBuf::from(HOST_FILE)]) {
                files.extend(file::read(&path, scope)?);
            }
        }
        Ok(Self {
            variables: options,
            files,
            unknown,
        })
    }

    /// The values of an option, layer by layer, the strongest layer first. A layer without it is left out.
    pub fn values(&self, opt: Opt) -> impl Iterator<Item = Vec<(Origin<'_>, &OsStr)>> {
        let variable = self
            .variables
            .iter()
            .filter(move |(o, _)| *o == opt)
            .map(move |(_, value)| {
                let origin = Origin::Variable(opt.info().variable.unwrap_or_default());
                match (opt.info().kind, value.to_str()) {
                    (Kind::List, Some(list)) => list
                        .split_whitespace()
                        .map(|one| (origin, OsStr::new(one)))
                        .collect(),
                    _ => vec![(origin, value.as_os_str())],
                }
            });
        let files = self.files.iter().map(move |settings| {
            let of_opt = settings.iter().filter(|setting| setting.opt == opt);
            of_opt
                .map(|s| (origin_of(s), OsStr::new(&s.text)))
                .collect::<Vec<_>>()
        });
        variable.chain(files).filter(|layer: &Vec<_>| !layer.is_empty())
    }

    #[cfg(test)]
    pub(crate) fn for_test(variables: &[(&str, &str)], files: &[&str]) -> Result<Self, FileError> {
        let variables = variables.iter().copied().collect::<Environ>().variables();
        let parse =
            |(at, text): (usize, &&str)| file::parse(Path::new(&format!("file{at}.toml")), text, Scope::All);
        Ok(Self {
            variables: variables.options,
            files: files.iter().enumerate().map(parse).collect::<Result<_, _>>()?,
            unknown: variables.unknown,
        })
    }
}

fn origin_of(setting: &Setting) -> Origin<'_> {
    Origin::File {
        path: &setting.path,
        line: setting.line,
        key: setting.opt.info().key,
    }
}

/// `$XDG_CONFIG_HOME/jobcage/config.toml`, by default below `~/.config`.
fn user_file(environ: &Environ) -> Option<PathBuf> {
    let base = environ
        .directory("XDG_CONFIG_HOME")
        .or_else(|| environ.directory("HOME").map(|home| home.join(".config")))?;
    Some(base.join("jobcage/config.toml"))
}
