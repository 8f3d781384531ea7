//! One config file: TOML, with the keys of the option table and no others.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::options::{Info, Kind, OF_A_JOB, Opt, Table, keys};

/// What is wrong with a config file. No variant shows a value: `env` and `after` stand in these files.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It is there and cannot be read, or was named and is not there.
    #[error("cannot read the config file {}: {source}; make it readable, or name another one in JOBCAGE_CONFIG", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Something in it is wrong.
    #[error("{}, line {line}: {why}", path.display())]
    Wrong {
        /// The file.
        path: PathBuf,
        /// The line, from 1 on.
        line: usize,
        /// What is wrong and what is allowed.
        why: String,
    },
}

/// A value of a config file and its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Which option.
    pub opt: Opt,
    /// The value as a word of the command line would be.
    pub text: String,
    /// The file.
    pub path: Rc<Path>,
    /// The line, from 1 on.
    pub line: usize,
}

/// A config file as it was read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct File {
    /// What it says to everybody.
    pub settings: Vec<Setting>,
    /// What it says to some jobs of GitLab.
    pub special: Vec<(Whose, Vec<Setting>)>,
}

/// Whose settings a table below `[gitlab]` has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whose {
    /// `[gitlab.max]`: the most that a job may ask for itself.
    Most,
    /// `[gitlab.project."group/name"]`: the jobs of a project, by its path or its number.
    Project(String),
    /// `[gitlab.tag.NAME]`: the jobs of a runner that has this tag.
    Tag(String),
}

/// How much of a file matters to the verb.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The top alone: a mistake in `[run]` must not keep `stop` from its work.
    Places,
    /// The top and `[run]`.
    Jobs,
    /// The top and `[gc]`.
    Gc,
    /// The top, `[run]` and `[gitlab]`.
    Gitlab,
    /// The top, `[run]` and `[shim]`.
    Shim,
    /// Everything.
    All,
}

impl Scope {
    fn reads(self, table: Table) -> bool {
        match table {
            Table::Top => true,
            Table::Run => matches!(self, Self::Jobs | Self::Gitlab | Self::Shim | Self::All),
            Table::Gc => matches!(self, Self::Gc | Self::All),
            Table::Gitlab => matches!(self, Self::Gitlab | Self::All),
            Table::Shim => matches!(self, Self::Shim | Self::All),
        }
    }
}

/// The tables of a file, with their names.
const TABLES: [(&str, Table); 4] = [
    ("run", Table::Run),
    ("gc", Table::Gc),
    ("gitlab", Table::Gitlab),
    ("shim", Table::Shim),
];

/// Reads a file. One open, no stat: that it is not there is the normal case, and `None`.
///
/// # Errors
/// If it is there and cannot be read, or holds what it may not.
pub fn read(path: &Path, scope: Scope) -> Result<Option<File>, FileError> {
    use std::io::ErrorKind::{NotADirectory, NotFound};
    match std::fs::read_to_string(path) {
        Ok(text) => parse(path, &text, scope).map(Some),
        Err(e) if matches!(e.kind(), NotFound | NotADirectory) => Ok(None),
        Err(source) => Err(FileError::Unreadable {
            path: path.to_owned(),
            source,
        }),
    }
}

/// Parses the text of a file.
///
/// # Errors
/// If it is no TOML, has an unknown key, or a value of a kind that no option has.
pub fn parse(path: &Path, text: &str, scope: Scope) -> Result<File, FileError> {
    let mut reader = Reader {
        path: path.into(),
        text,
        settings: Vec::new(),
    };
    let mut special = Vec::new();
    let root = DeTable::parse(text).map_err(|e| {
        let at = e.span().map_or(0, |span| span.start);
        // The message names what the grammar wants; unlike the error's Display it shows no piece of the file.
        reader.wrong(at, format!("this is no TOML: {}", e.message()))
    })?;
    for (key, value) in root.get_ref() {
        let name = key.get_ref().as_ref();
        match (TABLES.iter().find(|(known, _)| *known == name), value.get_ref()) {
            (Some((_, Table::Gitlab)), DeValue::Table(entries)) if scope.reads(Table::Gitlab) => {
                special = reader.gitlab(entries)?;
            }
            (Some((_, table)), DeValue::Table(entries)) if scope.reads(*table) => {
                reader.table(*table, entries)?;
            }
            (Some(_), DeValue::Table(_)) => {}
            (Some(_), _) => {
                let why = format!("{name} is a table: write [{name}]");
                return Err(reader.wrong(key.span().start, why));
            }
            (None, _) => reader.entry(Table::Top, key, value)?,
        }
    }
    Ok(File {
        settings: reader.settings,
        special,
    })
}

struct Reader<'a> {
    path: Rc<Path>,
    text: &'a str,
    settings: Vec<Setting>,
}

impl Reader<'_> {
    fn line(&self, at: usize) -> usize {
        1 + self
            .text
            .as_bytes()
            .iter()
            .take(at)
            .filter(|b| **b == b'\n')
            .count()
    }

    fn wrong(&self, at: usize, why: String) -> FileError {
        FileError::Wrong {
            path: self.path.to_path_buf(),
            line: self.line(at),
            why,
        }
    }

    fn table(&mut self, table: Table, entries: &DeTable<'_>) -> Result<(), FileError> {
        entries
            .iter()
            .try_for_each(|(key, value)| self.entry(table, key, value))
    }

    /// `[gitlab]`, whose tables are for some jobs only.
    fn gitlab(&mut self, entries: &DeTable<'_>) -> Result<Vec<(Whose, Vec<Setting>)>, FileError> {
        let mut special = Vec::new();
        for (key, value) in entries {
            let make: Option<fn(String) -> Whose> = match key.get_ref().as_ref() {
                "max" => None,
                "project" => Some(Whose::Project),
                "tag" => Some(Whose::Tag),
                _ => {
                    self.entry(Table::Gitlab, key, value)?;
                    continue;
                }
            };
            let name = key.get_ref();
            let DeValue::Table(table) = value.get_ref() else {
                let why = format!("{name} is a table: write [gitlab.{name}]");
                return Err(self.wrong(key.span().start, why));
            };
            let Some(make) = make else {
                special.push((Whose::Most, self.of_a_job(table)?));
                continue;
            };
            for (whose, value) in table {
                let DeValue::Table(table) = value.get_ref() else {
                    let why = format!("these are tables: write [gitlab.{name}.\"NAME\"]");
                    return Err(self.wrong(whose.span().start, why));
                };
                special.push((make(whose.get_ref().to_string()), self.of_a_job(table)?));
            }
        }
        Ok(special)
    }

    /// What may be said of some jobs only.
    fn of_a_job(&mut self, entries: &DeTable<'_>) -> Result<Vec<Setting>, FileError> {
        let before = std::mem::take(&mut self.settings);
        for (key, value) in entries {
            let known = OF_A_JOB.iter().map(|opt| opt.info());
            let Some(info) = known.clone().find(|info| info.key == key.get_ref().as_ref()) else {
                let shown: String = key.get_ref().chars().take(80).collect();
                let allowed: Vec<&str> = known.map(|info| info.key).collect();
                let why = format!("unknown key {shown:?}; allowed here are {}", allowed.join(", "));
                return Err(self.wrong(key.span().start, why));
            };
            self.value(info, value)?;
        }
        Ok(std::mem::replace(&mut self.settings, before))
    }

    fn entry<K: AsRef<str>>(
        &mut self,
        table: Table,
        key: &Spanned<K>,
        value: &Spanned<DeValue<'_>>,
    ) -> Result<(), FileError> {
        let name = key.get_ref().as_ref();
        let Some(info) = keys(table).find(|info| info.key == name) else {
            return Err(self.wrong(key.span().start, unknown(table, name)));
        };
        match (value.get_ref(), info.kind) {
            (DeValue::Array(items), Kind::List) => items.iter().try_for_each(|item| self.value(info, item)),
            _ => self.value(info, value),
        }
    }

    fn value(&mut self, info: &Info, value: &Spanned<DeValue<'_>>) -> Result<(), FileError> {
        let at = value.span().start;
        let text = match value.get_ref() {
            DeValue::String(text) => text.to_string(),
            DeValue::Integer(number) if number.radix() == 10 => number.as_str().to_owned(),
            DeValue::Float(number) => number.as_str().to_owned(),
            DeValue::Boolean(truth) => truth.to_string(),
            DeValue::Array(_) | DeValue::Table(_) | DeValue::Integer(_) | DeValue::Datetime(_) => {
                let list = if info.kind == Kind::List {
                    ", or an array of strings"
                } else {
                    ""
                };
                let why = format!(
                    "{}: write a string, a decimal number, true or false{list}",
                    info.key
                );
                return Err(self.wrong(at, why));
            }
        };
        self.settings.push(Setting {
            opt: info.opt,
            text,
            path: Rc::clone(&self.path),
            line: self.line(at),
        });
        Ok(())
    }
}

fn unknown(table: Table, name: &str) -> String {
    let shown: String = name.chars().take(80).collect();
    let named = |table: Table| {
        TABLES
            .iter()
            .find(|(_, t)| *t == table)
            .map_or("", |(name, _)| name)
    };
    let place = match table {
        Table::Top => "at the top of the file".to_owned(),
        table => format!("in [{}]", named(table)),
    };
    let mut allowed: Vec<_> = keys(table).map(|info| info.key).collect();
    if table == Table::Top {
        allowed.extend(["[run]", "[gc]", "[gitlab]", "[shim]"]);
    }
    if table == Table::Gitlab {
        allowed.extend(["[gitlab.max]", "[gitlab.project.NAME]", "[gitlab.tag.NAME]"]);
    }
    let home = [Table::Top, Table::Run, Table::Gc, Table::Gitlab, Table::Shim]
        .into_iter()
        .find(|home| *home != table && keys(*home).any(|info| info.key == name));
    let elsewhere = match home {
        None => String::new(),
        Some(Table::Top) => format!("; it belongs at the top, before [{}]", named(table)),
        Some(home) => format!("; it belongs in [{}]", named(home)),
    };
    format!(
        "unknown key {shown:?} {place}{elsewhere}; allowed are {}",
        allowed.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parsed(text: &str, scope: Scope) -> Result<Vec<(&'static str, String, usize)>, String> {
        let settings = parse(Path::new("c.toml"), text, scope).map_err(|e| e.to_string())?;
        Ok(settings
            .settings
            .into_iter()
            .map(|s| (s.opt.info().key, s.text, s.line))
            .collect())
    }

    #[test]
    fn values_become_words_and_keep_their_line() {
        let text =
            "state_dir = '/s'\n[run]\n# why\nmemory = 1_024\ncpu = 1.5\nlogin = true\nio = [\n 'a',\n 'b']\n";
        let mut found = parsed(text, Scope::Jobs).unwrap();
        found.sort_by_key(|(_, _, line)| *line);
        let list: Vec<_> = found
            .iter()
            .map(|(key, text, line)| (*key, text.as_str(), *line))
            .collect();
        let expected = [
            ("state_dir", "/s", 1),
            ("memory", "1024", 4),
            ("cpu", "1.5", 5),
            ("login", "true", 6),
            ("io", "a", 8),
            ("io", "b", 9),
        ];
        assert_eq!(list, expected);
    }

    #[test]
    fn mistakes_name_the_line_and_what_is_allowed() {
        for (text, expected) in [
            (
                "\n\nmemroy = 1",
                "c.toml, line 3: unknown key \"memroy\" at the top of the file; allowed are cgroup_root",
            ),
            (
                "[run]\nmemroy = 1",
                "c.toml, line 2: unknown key \"memroy\" in [run]; allowed are name, user",
            ),
            (
                "memory = 1",
                "line 1: unknown key \"memory\" at the top of the file; it belongs in [run]",
            ),
            (
                "[run]\nquiet = true",
                "line 2: unknown key \"quiet\" in [run]; it belongs at the top",
            ),
            ("[run]\njob = 'x'", "line 2: unknown key \"job\""),
            ("[run]\nlease_pid = 1", "line 2: unknown key \"lease_pid\""),
            ("[run]\nmemory-high = 1", "line 2: unknown key \"memory-high\""),
            ("run = 1", "line 1: run is a table"),
            ("gc = 1", "line 1: gc is a table"),
            ("keep = '1d'", "at the top of the file; it belongs in [gc]"),
            (
                "[gc]\nkep = '1d'",
                "line 2: unknown key \"kep\" in [gc]; allowed are keep, keep_size",
            ),
            ("[run]\nkeep = '1d'", "in [run]; it belongs in [gc]"),
            ("[runs]\n", "line 1: unknown key \"runs\""),
            ("[run]\nmemory = ['a']", "line 2: memory: write a string"),
            (
                "[run]\nenv = { A = 'hunter2' }",
                "line 2: env: write a string, a decimal number, true or false, or an array",
            ),
            ("[run]\ntimeout = 2020-01-01", "line 2: timeout: write a string"),
            ("[run]\npids = 0x10", "line 2: pids: write a string"),
            ("[run]\na b", "line 2: this is no TOML"),
            (
                "[run]\nnice = 1\nnice = 2",
                "line 3: this is no TOML: duplicate key",
            ),
        ] {
            let error = parsed(text, Scope::All).expect_err(text);
            assert!(error.contains(expected), "{text:?} gave {error:?}");
        }
    }

    #[test]
    fn a_mistake_in_run_does_not_stop_what_needs_only_the_places() {
        let text = "cgroup_root = '/c'\n[run]\nmemroy = 1\n";
        assert_eq!(
            parsed(text, Scope::Places).unwrap(),
            [("cgroup_root", "/c".to_owned(), 1)]
        );
        assert!(parsed("runtime = 1\n", Scope::Places).is_err());
    }

    proptest! {
        #[test]
        fn no_text_panics_and_no_value_is_shown(junk in "[\\[\\]='\",{}#\n .a-z0-9]{0,40}", before: bool) {
            let secret = "[run]\nenv = ['TOKEN=qqqqqqqqqqqq']\n";
            let text = if before { format!("{secret}{junk}") } else { format!("{junk}{secret}") };
            if let Err(error) = parsed(&text, Scope::Jobs) {
                prop_assert!(error.starts_with("c.toml, line "), "{}", error);
                prop_assert!(!error.contains("qqqq"), "{}", error);
            }
        }
    }
}
