//! What a step hands on to the later ones: the text of the two files that `JOBCAGE_ENV` and `JOBCAGE_PATH` name.
//!
//! Whoever runs in the job writes them, so any byte may stand there. A wrong line is skipped and told by its number,
//! never by its text: values are secrets.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ffi::CString;
use std::fmt;

/// Where a program is looked for when nobody says where (the default of login(1) on Debian).
pub const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// The kernel takes no longer string into an environment (MAX_ARG_STRLEN, execve(2)), its NUL counted.
pub const MAX_STRING: usize = 128 * 1024;

/// The most that all variables together may come to, each with its pointer: half of what execve(2) takes by default.
pub const MAX_TOTAL: usize = 1024 * 1024;

/// The most that the directories of `JOBCAGE_PATH` may come to.
const MAX_PATH: usize = 64 * 1024;

/// One of the two files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum HandedFile {
    /// `JOBCAGE_ENV`: variables.
    Env,
    /// `JOBCAGE_PATH`: directories.
    Path,
}

impl HandedFile {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::Env, Self::Path];

    /// The variable that names it.
    #[must_use]
    pub fn variable(self) -> &'static str {
        match self {
            Self::Env => "JOBCAGE_ENV",
            Self::Path => "JOBCAGE_PATH",
        }
    }

    /// Its name in the job's directory.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Env => "env",
            Self::Path => "path",
        }
    }
}

/// What is wrong with a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum WrongText {
    /// Neither of the forms.
    #[error("it is not NAME=value, NAME<<DELIMITER or unset NAME")]
    Form,
    /// The part before `=` or `<<`.
    #[error("the name is no variable name (letters, digits and _, no digit first)")]
    Name,
    /// `JOBCAGE_…`.
    #[error("names that begin with JOBCAGE_ are jobcage's own")]
    Own,
    /// Nothing after `<<`.
    #[error("there is no delimiter after <<")]
    NoDelimiter,
    /// The text ended before the delimiter came.
    #[error("the line with its delimiter never comes, so the rest of the file is skipped")]
    Open,
    /// A NUL byte.
    #[error("it holds a NUL byte, which no program can be given")]
    Nul,
    /// Longer than [`MAX_STRING`].
    #[error("it is longer than a program can be given (128 KiB)")]
    Long,
    /// More than [`MAX_TOTAL`].
    #[error("from here on it is more than a program can be given (1 MiB)")]
    Total,
    /// A directory with a colon.
    #[error("a directory with a colon cannot stand in PATH")]
    Colon,
    /// More than [`MAX_PATH`].
    #[error("from here on the directories are longer than 64 KiB")]
    LongPath,
}

/// A line that was skipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct WrongLine {
    /// The file.
    pub file: HandedFile,
    /// The first line of what is wrong, from 1.
    pub line: usize,
    /// What.
    pub why: WrongText,
}

impl fmt::Display for WrongLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "line {} of {} is skipped: {}",
            self.line,
            self.file.variable(),
            self.why
        )
    }
}

/// The first few wrong lines as notes, and how many there are besides.
#[must_use]
pub fn wrong_lines(lines: &[WrongLine]) -> Vec<String> {
    const MOST: usize = 5;
    let mut notes: Vec<String> = lines.iter().take(MOST).map(ToString::to_string).collect();
    if lines.len() > MOST {
        notes.push(format!(
            "{} more lines of JOBCAGE_ENV and JOBCAGE_PATH are skipped",
            lines.len() - MOST
        ));
    }
    notes
}

/// What was handed on. `Debug` shows names only.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Handed {
    /// Each variable with its last value; `None`: unset.
    pub variables: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    /// Directories, the one that is searched first in front.
    pub path: Vec<Vec<u8>>,
}

impl fmt::Debug for Handed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.variables.keys().map(|name| String::from_utf8_lossy(name));
        f.debug_struct("Handed")
            .field("variables", &names.collect::<Vec<_>>())
            .field("path", &self.path.len())
            .finish()
    }
}

impl Handed {
    /// Reads both texts. Whatever stands in them: what is wrong is skipped and listed.
    #[must_use]
    pub fn parse(env: &[u8], path: &[u8]) -> (Self, Vec<WrongLine>) {
        let (variables, mut wrong) = parse_env(env);
        let (path, wrong_path) = parse_path(path);
        wrong.extend(wrong_path);
        (Self { variables, path }, wrong)
    }

    /// Whether it changes nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.variables.is_empty() && self.path.is_empty()
    }

    /// Puts it over an environment of `NAME=value` strings, but for the variables of these names, which somebody has
    /// asked for by name.
    pub fn apply(&self, env: &mut Vec<CString>, explicit: &[CString]) {
        let explicit: BTreeSet<&[u8]> = explicit.iter().map(|name| name.as_bytes()).collect();
        let counts = |name: &[u8]| !explicit.contains(name);
        env.retain(|entry| !self.variables.contains_key(name_of(entry)) || !counts(name_of(entry)));
        for (name, value) in self.variables.iter().filter(|(name, _)| counts(name)) {
            env.extend(value.as_deref().and_then(|value| entry(name, value)));
        }
        if !self.path.is_empty() && counts(b"PATH") {
            self.prepend(env);
        }
    }

    fn prepend(&self, env: &mut Vec<CString>) {
        let old = env.iter().rev().find(|entry| name_of(entry) == b"PATH");
        let old = old.map_or(DEFAULT_PATH.as_bytes(), |entry| {
            &entry.as_bytes()[b"PATH=".len()..]
        });
        let mut dirs: Vec<&[u8]> = self.path.iter().map(Vec::as_slice).collect();
        dirs.extend((!old.is_empty()).then_some(old));
        let whole = entry(b"PATH", &dirs.join(&b':'));
        env.retain(|entry| name_of(entry) != b"PATH");
        env.extend(whole);
    }
}

/// `NAME` of `NAME=value`.
#[must_use]
pub fn name_of(entry: &CString) -> &[u8] {
    let bytes = entry.as_bytes();
    let end = bytes.iter().position(|b| *b == b'=').unwrap_or(bytes.len());
    &bytes[..end]
}

fn entry(name: &[u8], value: &[u8]) -> Option<CString> {
    CString::new([name, b"=", value].concat()).ok()
}

/// Whether a step may hand on a variable of this name.
///
/// # Errors
/// Why it may not.
pub fn check_name(name: &[u8]) -> Result<(), WrongText> {
    let first = name
        .first()
        .is_some_and(|b| b.is_ascii_alphabetic() || *b == b'_');
    if !first || !name.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'_') {
        Err(WrongText::Name)
    } else if name.starts_with(b"JOBCAGE_") {
        Err(WrongText::Own)
    } else {
        Ok(())
    }
}

/// Whether a step may hand on this variable.
///
/// # Errors
/// Why it may not.
pub fn check(name: &[u8], value: &[u8]) -> Result<(), WrongText> {
    check_name(name)?;
    if value.contains(&0) {
        Err(WrongText::Nul)
    } else if name.len() + value.len() + 2 > MAX_STRING {
        Err(WrongText::Long)
    } else {
        Ok(())
    }
}

/// The text that hands on a variable, of whole lines.
///
/// # Errors
/// As [`check`].
pub fn render_set(name: &[u8], value: &[u8]) -> Result<Vec<u8>, WrongText> {
    check(name, value)?;
    if !value.contains(&b'\n') {
        return Ok([name, b"=", value, b"\n"].concat());
    }
    let lines: HashSet<&[u8]> = value.split(|b| *b == b'\n').collect();
    let delimiter = (0..)
        .map(|n| format!("END{n}").into_bytes())
        .find(|delimiter| !lines.contains(delimiter.as_slice()))
        .unwrap_or_default();
    Ok([name, b"<<", &delimiter, b"\n", value, b"\n", &delimiter, b"\n"].concat())
}

/// The line that takes a variable away from later steps.
///
/// # Errors
/// As [`check_name`].
pub fn render_unset(name: &[u8]) -> Result<Vec<u8>, WrongText> {
    check_name(name)?;
    Ok([b"unset ", name, b"\n"].concat())
}

/// The forms of a line.
enum Form<'a> {
    Set(&'a [u8], &'a [u8]),
    Block(&'a [u8], &'a [u8]),
    Unset(&'a [u8]),
    Neither,
}

fn form(line: &[u8]) -> Form<'_> {
    let equal = line.iter().position(|b| *b == b'=');
    let here = line.windows(2).position(|two| two == b"<<");
    match (equal, here) {
        (Some(at), here) if here.is_none_or(|here| at < here) => Form::Set(&line[..at], &line[at + 1..]),
        (_, Some(at)) => Form::Block(&line[..at], &line[at + 2..]),
        _ => line.strip_prefix(b"unset ").map_or(Form::Neither, Form::Unset),
    }
}

type Variables = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

fn parse_env(text: &[u8]) -> (Variables, Vec<WrongLine>) {
    let lines: Vec<&[u8]> = text.split(|b| *b == b'\n').collect();
    // Where each line stands last: a search for every delimiter that never comes would be quadratic.
    let last: HashMap<&[u8], usize> = lines.iter().enumerate().map(|(at, line)| (*line, at)).collect();
    let mut variables = Variables::new();
    let mut wrong = Vec::new();
    let mut total = 0;
    let mut at = 0;
    while let Some(line) = lines.get(at) {
        let number = at + 1;
        at += 1;
        let mut assign = |name: &[u8], value: &[u8]| {
            check(name, value)?;
            // Without those that are replaced later: near enough, and a text cannot grow by it.
            total += name.len() + value.len() + 2 + size_of::<usize>();
            if total > MAX_TOTAL {
                return Err(WrongText::Total);
            }
            variables.insert(name.to_vec(), Some(value.to_vec()));
            Ok(())
        };
        let done = match form(line) {
            _ if line.is_empty() => Ok(()),
            Form::Set(name, value) => assign(name, value),
            Form::Block(name, b"") => check_name(name).and(Err(WrongText::NoDelimiter)),
            Form::Block(name, delimiter) if last.get(delimiter).is_some_and(|last| *last >= at) => {
                let length = lines[at..].iter().take_while(|line| **line != delimiter).count();
                let value = lines[at..at + length].join(&b'\n');
                at += length + 1;
                assign(name, &value)
            }
            // Of a text that only looks like a beginning, one line is wrong. Of a value that was cut off, no line may be
            // taken for an assignment.
            Form::Block(name, _) => check_name(name).and_then(|()| {
                at = lines.len();
                Err(WrongText::Open)
            }),
            Form::Unset(name) => check_name(name).map(|()| drop(variables.insert(name.to_vec(), None))),
            Form::Neither => Err(WrongText::Form),
        };
        let file = HandedFile::Env;
        wrong.extend(done.err().map(|why| WrongLine {
            file,
            line: number,
            why,
        }));
    }
    (variables, wrong)
}

fn parse_path(text: &[u8]) -> (Vec<Vec<u8>>, Vec<WrongLine>) {
    let mut dirs: Vec<&[u8]> = Vec::new();
    let mut wrong = Vec::new();
    let mut total = 0;
    for (at, line) in text.split(|b| *b == b'\n').enumerate() {
        total += line.len() + 1;
        let why = if line.contains(&0) {
            WrongText::Nul
        } else if line.contains(&b':') {
            WrongText::Colon
        } else if total > MAX_PATH {
            WrongText::LongPath
        } else {
            dirs.extend((!line.is_empty()).then_some(line));
            continue;
        };
        wrong.push(WrongLine {
            file: HandedFile::Path,
            line: at + 1,
            why,
        });
        if why == WrongText::LongPath {
            break;
        }
    }
    // The last one that was written is searched first, and each once.
    let mut seen = HashSet::new();
    let last_first = dirs.into_iter().rev().filter(|dir| seen.insert(*dir));
    (last_first.map(<[u8]>::to_vec).collect(), wrong)
}

#[cfg(test)]
#[path = "handed_test.rs"]
mod tests;
