//! The environment, read once.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::options::{CONFIG_VARIABLE, Opt, TABLE, Table, is_no_option};

/// The variables of the process, as they were at the start.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Environ {
    vars: Vec<(OsString, OsString)>,
}

/// What the variables say about jobcage itself.
#[derive(Default)]
pub struct Variables {
    /// Options, each at most once; an empty variable counts as not set.
    pub options: Vec<(Opt, OsString)>,
    /// The value of `JOBCAGE_CONFIG`.
    pub config: Option<OsString>,
    /// Names that begin with `JOBCAGE_` and mean nothing to this version.
    pub unknown: Vec<String>,
}

impl Environ {
    /// Reads them. Nothing else in this program asks the environment.
    #[must_use]
    pub fn capture() -> Self {
        Self {
            vars: std::env::vars_os().collect(),
        }
    }

    /// The value of a variable.
    #[must_use]
    pub fn get(&self, name: &OsStr) -> Option<&OsStr> {
        self.vars
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value.as_os_str())
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = (&OsStr, &OsStr)> {
        self.vars
            .iter()
            .map(|(name, value)| (name.as_os_str(), value.as_os_str()))
    }

    /// The value of a variable that must be an absolute path to count, as the XDG base directories.
    #[must_use]
    pub fn directory(&self, name: &str) -> Option<PathBuf> {
        self.get(OsStr::new(name))
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    }

    /// Picks out what is meant for jobcage.
    #[must_use]
    pub fn variables(&self) -> Variables {
        let mut found = Variables::default();
        for (name, value) in self
            .vars
            .iter()
            .filter(|(name, _)| name.as_bytes().starts_with(b"JOBCAGE_"))
        {
            if let Some(info) = TABLE.iter().find(|info| info.variable.is_some_and(|v| name == v)) {
                if !value.is_empty() {
                    found.options.push((info.opt, value.clone()));
                }
            } else if name == CONFIG_VARIABLE {
                found.config = Some(value.clone()).filter(|v| !v.is_empty());
            } else if !name.to_str().is_some_and(is_no_option) {
                found.unknown.push(name.to_string_lossy().into_owned());
            }
        }
        found
    }

    /// What a job inherits: everything but the options of `run`, which were for this call.
    #[must_use]
    pub fn into_inherited(self) -> Vec<(OsString, OsString)> {
        let mut vars = self.vars;
        vars.retain(|(name, _)| {
            let spent = |info: &super::options::Info| {
                !matches!(
                    info.table,
                    Some(Table::Top | Table::Gc | Table::Gitlab | Table::Shim)
                ) && info.variable.is_some_and(|v| name == v)
            };
            !(name.as_bytes().starts_with(b"JOBCAGE_") && TABLE.iter().any(spent))
        });
        vars
    }
}

impl<N: Into<OsString>, V: Into<OsString>> FromIterator<(N, V)> for Environ {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(vars: I) -> Self {
        Self {
            vars: vars
                .into_iter()
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
        }
    }
}
