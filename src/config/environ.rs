//! The environment, read once.

use jobcage_sys::environ;
use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::rc::Rc;

use super::options::{CONFIG_VARIABLE, Opt, TABLE, Table, is_no_option};

/// The variables of the process, as they were at the start.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Environ {
    // A job of GitLab's has hundreds, and all but a few are only looked through.
    vars: Rc<Vec<(Text, Text)>>,
}

/// The kernel's own copy, but in tests.
type Text = Cow<'static, OsStr>;

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
            vars: Rc::new(
                environ::variables()
                    .map(|(name, value)| (name.into(), value.into()))
                    .collect(),
            ),
        }
    }

    /// The value of a variable.
    #[must_use]
    pub fn get(&self, name: &OsStr) -> Option<&OsStr> {
        self.vars
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, value)| &**value)
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = (&OsStr, &OsStr)> {
        self.vars.iter().map(|(name, value)| (&**name, &**value))
    }

    /// Without those whose names begin with this.
    #[must_use]
    pub fn without(&self, start: &[u8]) -> Self {
        let others = self
            .vars
            .iter()
            .filter(|(name, _)| !name.as_bytes().starts_with(start));
        Self {
            vars: Rc::new(others.cloned().collect()),
        }
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
        let ours = |(name, _): &(&OsStr, _)| name.as_bytes().starts_with(b"JOBCAGE_");
        for (name, value) in self.all().filter(ours) {
            if let Some(info) = TABLE.iter().find(|info| info.variable.is_some_and(|v| name == v)) {
                if !value.is_empty() {
                    found.options.push((info.opt, value.to_owned()));
                }
            } else if name == CONFIG_VARIABLE {
                found.config = Some(value.to_owned()).filter(|v| !v.is_empty());
            } else if !name.to_str().is_some_and(is_no_option) {
                found.unknown.push(name.to_string_lossy().into_owned());
            }
        }
        found
    }

    /// What a job inherits: everything but the options of `run`, which were for this call.
    #[must_use]
    pub fn into_inherited(self) -> Vec<(OsString, OsString)> {
        let is_spent = |name: &OsStr| {
            let spent = |info: &super::options::Info| {
                !matches!(
                    info.table,
                    Some(Table::Top | Table::Gc | Table::Gitlab | Table::Shim)
                ) && info.variable.is_some_and(|v| name == v)
            };
            name.as_bytes().starts_with(b"JOBCAGE_") && TABLE.iter().any(spent)
        };
        let inherited = self.all().filter(|(name, _)| !is_spent(name));
        inherited
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect()
    }
}

impl<N: Into<OsString>, V: Into<OsString>> FromIterator<(N, V)> for Environ {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(vars: I) -> Self {
        Self {
            vars: vars
                .into_iter()
                .map(|(name, value)| (Cow::Owned(name.into()), Cow::Owned(value.into())))
                .collect::<Vec<_>>()
                .into(),
        }
    }
}
