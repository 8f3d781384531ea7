//! A runner's `config.toml`, as far as it concerns us: its `[[runners]]`, and which of them call jobcage.

use super::InstallError;
use std::borrow::Cow;
use toml_edit::{Array, DocumentMut, Item, TableLike, Value};

/// The four calls, each with the key of its program; its arguments are in `…_args`.
pub const CALLS: [&str; 4] = ["config", "prepare", "run", "cleanup"];

/// The text as a document that can be changed.
///
/// # Errors
/// If it is no TOML. The message shows no piece of the text: tokens are there.
pub fn parse(text: &str) -> Result<DocumentMut, InstallError> {
    text.parse().map_err(|e: toml_edit::TomlError| {
        let at = e.span().map_or(0, |span| span.start);
        let before = text.as_bytes().iter().take(at);
        InstallError::Toml {
            line: 1 + before.filter(|byte| **byte == b'\n').count(),
            why: e.message().to_owned(),
        }
    })
}

/// Every block of `[[runners]]`, in the order of the file.
///
/// # Errors
/// If `runners` is something else.
pub fn blocks(document: &DocumentMut) -> Result<Vec<&dyn TableLike>, InstallError> {
    match document.get("runners") {
        None => Ok(Vec::new()),
        Some(Item::ArrayOfTables(tables)) => Ok(tables.iter().map(|table| table as &dyn TableLike).collect()),
        Some(Item::Value(Value::Array(list))) => {
            let tables = list
                .iter()
                .map(|one| one.as_inline_table().map(|t| t as &dyn TableLike));
            tables
                .collect::<Option<_>>()
                .ok_or(InstallError::NoBlocks("an array of other things"))
        }
        Some(other) => Err(InstallError::NoBlocks(other.type_name())),
    }
}

/// As [`blocks`], to change them; whether they are written inline comes with each.
///
/// # Errors
/// As [`blocks`].
pub fn blocks_mut(document: &mut DocumentMut) -> Result<Vec<(&mut dyn TableLike, bool)>, InstallError> {
    blocks(document)?;
    Ok(match document.get_mut("runners") {
        Some(Item::ArrayOfTables(tables)) => tables
            .iter_mut()
            .map(|table| (table as &mut dyn TableLike, false))
            .collect(),
        Some(Item::Value(Value::Array(list))) => list
            .iter_mut()
            .filter_map(|one| one.as_inline_table_mut().map(|t| (t as &mut dyn TableLike, true)))
            .collect(),
        _ => Vec::new(),
    })
}

/// A text of a table; anything else is none.
#[must_use]
pub fn text<'a>(table: &'a dyn TableLike, key: &str) -> Option<&'a str> {
    table.get(key).and_then(Item::as_str)
}

/// The words of a list of texts.
#[must_use]
pub fn words(table: &dyn TableLike, key: &str) -> Vec<String> {
    let list = table.get(key).and_then(Item::as_array);
    let words = list.into_iter().flat_map(Array::iter).filter_map(Value::as_str);
    words.map(str::to_owned).collect()
}

/// `[runners.custom]`.
#[must_use]
pub fn custom(block: &dyn TableLike) -> Option<&dyn TableLike> {
    block.get("custom").and_then(Item::as_table_like)
}

/// How a block is called in what a person reads: by its name, which may be anything, or by its place.
#[must_use]
pub fn called(block: &dyn TableLike, at: usize) -> String {
    match text(block, "name").filter(|name| !name.is_empty()) {
        Some(name) => format!("runner {}", shown(name)),
        None => format!("runner {} of the file, which has no name", at + 1),
    }
}

/// A text of the file between quotation marks, escaped, and not all of a long one.
#[must_use]
pub fn shown(text: &str) -> String {
    const MOST: usize = 60;
    if text.chars().nth(MOST).is_none() {
        return format!("{text:?}");
    }
    let begin: String = text.chars().take(MOST).collect();
    format!("{begin:?}…")
}

/// How a call of a block reaches us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reach {
    /// `…_exec` is not there.
    Missing,
    /// The runner starts this program, whose first words are the call's.
    Direct(String),
    /// The runner starts something else, which is to start us.
    Wrapped(String),
    /// It has nothing to do with us.
    Foreign(String),
}

/// How the block's call `call` reaches us.
#[must_use]
pub fn reach(custom: &dyn TableLike, call: &str) -> Reach {
    let Some(program) = text(custom, &format!("{call}_exec")).filter(|program| !program.is_empty()) else {
        return Reach::Missing;
    };
    let program = program.to_owned();
    let args = words(custom, &format!("{call}_args"));
    let ours = ["gitlab", call];
    if args.len() >= 2 && args[..2] == ours {
        Reach::Direct(program)
    } else if args
        .iter()
        .chain([&program])
        .any(|word| base_name(word) == "jobcage" || word.contains("jobcage gitlab"))
    {
        Reach::Wrapped(program)
    } else {
        Reach::Foreign(program)
    }
}

/// Whether the block calls us, well or badly.
#[must_use]
pub fn is_ours(block: &dyn TableLike) -> bool {
    text(block, "executor") == Some("custom")
        && custom(block).is_some_and(|custom| {
            CALLS
                .iter()
                .any(|call| matches!(reach(custom, call), Reach::Direct(_) | Reach::Wrapped(_)))
        })
}

/// The last part of a path.
#[must_use]
pub fn base_name(path: &str) -> Cow<'_, str> {
    std::path::Path::new(path)
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_toml_is_told_by_its_line_alone() {
        let error = parse("concurrent = 1\n[[runners]]\ntoken = \"glrt-secret\n").unwrap_err();
        let told = error.to_string();
        assert!(told.starts_with("line 3: ") && !told.contains("secret"), "{told}");
    }

    #[test]
    fn blocks_are_found_however_they_are_written() {
        for text in [
            "[[runners]]\nname = 'a'\n[runners.cache]\n[[runners]]\nname = 'b'\n",
            "runners = [{name = 'a'}, {name = 'b'}]\n",
        ] {
            let mut document = parse(text).unwrap();
            let names: Vec<_> = blocks(&document)
                .unwrap()
                .iter()
                .map(|b| super::text(*b, "name"))
                .collect();
            assert_eq!(names, [Some("a"), Some("b")], "{text}");
            assert_eq!(blocks_mut(&mut document).unwrap().len(), 2);
        }
        assert_eq!(blocks(&parse("").unwrap()).unwrap().len(), 0);
        for text in ["runners = 1\n", "runners = [1]\n", "[runners]\nname = 'a'\n"] {
            assert!(blocks(&parse(text).unwrap()).is_err(), "{text}");
        }
    }

    #[test]
    fn a_name_is_escaped_and_cut() {
        let document = parse("[[runners]]\nname = \"a\\u001b[31m\\u202e\\n\"\n[[runners]]\n").unwrap();
        let blocks = blocks(&document).unwrap();
        assert_eq!(called(blocks[0], 0), "runner \"a\\u{1b}[31m\\u{202e}\\n\"");
        assert_eq!(called(blocks[1], 1), "runner 2 of the file, which has no name");
        assert!(shown(&"x".repeat(1 << 20)).len() < 80);
    }

    #[test]
    fn a_call_reaches_us_or_not() {
        let of = |text: &str| reach(parse(text).unwrap().as_table(), "run");
        assert_eq!(of(""), Reach::Missing);
        assert_eq!(of("run_exec = ''"), Reach::Missing);
        assert!(matches!(
            of("run_exec = '/usr/bin/jobcage'\nrun_args = ['gitlab', 'run']"),
            Reach::Direct(_)
        ));
        for wrapped in [
            "run_exec = '/usr/bin/sudo'\nrun_args = ['/usr/bin/jobcage', 'gitlab', 'run']",
            "run_exec = 'sh'\nrun_args = ['-c', 'exec jobcage gitlab run \"$@\"']",
            "run_exec = '/usr/bin/jobcage'\nrun_args = ['gitlab', 'cleanup']",
        ] {
            assert!(matches!(of(wrapped), Reach::Wrapped(_)), "{wrapped}");
        }
        assert!(matches!(of("run_exec = '/opt/driver/run.sh'"), Reach::Foreign(_)));
    }
}
