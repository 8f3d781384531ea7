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
use file::{File, FileError, Scope, Setting, Whose};
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
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Layers {
    variables: Vec<(Opt, OsString)>,
    /// The strongest file first.
    files: Vec<File>,
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
        let files = self.files.iter().map(move |file| {
            let of_opt = file.settings.iter().filter(|setting| setting.opt == opt);
            of_opt
                .map(|s| (origin_of(s), OsStr::new(&s.text)))
                .collect::<Vec<_>>()
        });
        variable.chain(files).filter(|layer: &Vec<_>| !layer.is_empty())
    }

    /// For the jobs that `is_of` means: what the files say to them alone is stronger than what the same or another file says to
    /// everybody, a later tag stronger than an earlier one, and a project stronger than a tag.
    #[must_use]
    pub fn of_some(&self, is_of: impl Fn(&Whose) -> bool) -> Self {
        let special = || self.files.iter().flat_map(|file| &file.special);
        let wanted = |project: bool| {
            special()
                .filter(move |(whose, _)| matches!(whose, Whose::Project(_)) == project)
                .filter(|(whose, _)| is_of(whose))
                .map(|(_, settings)| File {
                    settings: settings.clone(),
                    special: Vec::new(),
                })
        };
        let files = wanted(true)
            .chain(wanted(false))
            .chain(self.files.iter().cloned());
        Self {
            variables: self.variables.clone(),
            files: files.collect(),
            unknown: Vec::new(),
        }
    }

    /// The most that a job may ask for itself.
    #[must_use]
    pub fn most(&self) -> Self {
        let special = self.files.iter().flat_map(|file| &file.special);
        let most = special.filter(|(whose, _)| *whose == Whose::Most);
        Self {
            files: most
                .map(|(_, settings)| File {
                    settings: settings.clone(),
                    special: Vec::new(),
                })
                .collect(),
            ..Self::default()
        }
    }

    /// With a job's own variables, stronger than all.
    #[must_use]
    pub fn with_variables(mut self, variables: Vec<(Opt, OsString)>) -> Self {
        self.variables.splice(0..0, variables);
        self
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
