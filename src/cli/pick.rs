//! From several layers to one typed value. Every layer that speaks is checked, the strongest decides.

use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::path::PathBuf;

use super::error::Error;
use crate::config::options::Opt;
use crate::config::{Layers, Origin};

/// The word that takes back what a weaker layer sets.
const NONE: &str = "none";

fn wrong(origin: Origin<'_>, why: &dyn Display) -> Error {
    Error::value(origin.to_string(), why.to_string())
}

/// The value of a flag that no other layer may set.
///
/// # Errors
/// If it is wrong.
pub fn only<T>(
    flag: &'static str,
    word: Option<OsString>,
    parse: impl Fn(&OsStr) -> Result<T, String>,
) -> Result<Option<T>, Error> {
    let value = word.map(|word| parse(&word)).transpose();
    value.map_err(|why| Error::value(flag, why))
}

/// The value that a word or a layer gives, and how strong it is: 0 is the command line.
pub struct Ranked<T> {
    /// The value.
    pub value: T,
    /// 0 for the command line, 1 and more for the layers below it.
    pub rank: usize,
}

/// The strongest value, typed by `parse`.
///
/// # Errors
/// If any layer's value is wrong.
pub fn ranked<T, E: Display>(
    layers: &Layers,
    opt: Opt,
    word: Option<OsString>,
    parse: impl Fn(&OsStr) -> Result<T, E>,
) -> Result<Option<Ranked<T>>, Error> {
    let mut strongest = None;
    if let Some(word) = &word {
        let origin = Origin::Flag(opt.info().flag.unwrap_or_default());
        let value = parse(word).map_err(|e| wrong(origin, &e))?;
        strongest = Some(Ranked { value, rank: 0 });
    }
    for (below, layer) in layers.values(opt).enumerate() {
        for (origin, text) in layer {
            let value = parse(text).map_err(|e| wrong(origin, &e))?;
            strongest.get_or_insert(Ranked {
                value,
                rank: below + 1,
            });
        }
    }
    Ok(strongest)
}

/// The strongest value of an option that is text.
///
/// # Errors
/// If any layer's value is wrong.
pub fn value<T, E: Display>(
    layers: &Layers,
    opt: Opt,
    word: Option<OsString>,
    parse: impl Fn(&str) -> Result<T, E>,
) -> Result<Option<T>, Error> {
    Ok(ranked(layers, opt, word, text(parse))?.map(|ranked| ranked.value))
}

/// As [`value`], for an option that `none` takes back.
///
/// # Errors
/// If any layer's value is wrong.
pub fn limit<T, E: Display>(
    layers: &Layers,
    opt: Opt,
    word: Option<OsString>,
    parse: impl Fn(&str) -> Result<T, E>,
) -> Result<Option<T>, Error> {
    Ok(value(layers, opt, word, or_none(parse))?.flatten())
}

/// As [`limit`], for an option that has a default.
///
/// # Errors
/// If any layer's value is wrong.
pub fn limit_or<T, E: Display>(
    layers: &Layers,
    opt: Opt,
    word: Option<OsString>,
    parse: impl Fn(&str) -> Result<T, E>,
    default: T,
) -> Result<Option<T>, Error> {
    Ok(value(layers, opt, word, or_none(parse))?.unwrap_or(Some(default)))
}

fn or_none<T, E>(parse: impl Fn(&str) -> Result<T, E>) -> impl Fn(&str) -> Result<Option<T>, E> {
    move |given| {
        if given == NONE {
            Ok(None)
        } else {
            parse(given).map(Some)
        }
    }
}

/// The strongest value of an option that is a path.
///
/// # Errors
/// If any layer's path is empty or holds a NUL.
pub fn path(layers: &Layers, opt: Opt, word: Option<OsString>) -> Result<Option<PathBuf>, Error> {
    let parse = |given: &OsStr| {
        if given.is_empty() || given.as_encoded_bytes().contains(&0) {
            return Err("the path is empty or holds a NUL");
        }
        Ok(PathBuf::from(given))
    };
    Ok(ranked(layers, opt, word, parse)?.map(|ranked| ranked.value))
}

/// As [`path`], for a directory that must not depend on where jobcage was called.
///
/// # Errors
/// If any layer's path is not absolute.
pub fn directory(layers: &Layers, opt: Opt, word: Option<OsString>) -> Result<Option<PathBuf>, Error> {
    Ok(ranked(layers, opt, word, absolute)?.map(|ranked| ranked.value))
}

/// A path that means the same wherever jobcage is called.
///
/// # Errors
/// If it is not absolute, or holds a NUL.
pub fn absolute(given: &OsStr) -> Result<PathBuf, String> {
    let path = PathBuf::from(given);
    let fits = path.is_absolute() && !given.as_encoded_bytes().contains(&0);
    fits.then_some(path)
        .ok_or_else(|| format!("{given:?} is no absolute path: begin it with /"))
}

/// All values of an option that may be given more than once, the weakest layer first, so that a later one
/// replaces an earlier one of the same name.
///
/// # Errors
/// If any layer's value is wrong.
pub fn list<T, E: Display>(
    layers: &Layers,
    opt: Opt,
    words: &[OsString],
    parse: impl Fn(&OsStr, Origin<'_>) -> Result<T, E>,
) -> Result<Vec<T>, Error> {
    let flag = Origin::Flag(opt.info().flag.unwrap_or_default());
    let words: Vec<_> = words.iter().map(|word| (flag, word.as_os_str())).collect();
    let mut all: Vec<Vec<(Origin<'_>, &OsStr)>> = vec![words];
    all.extend(layers.values(opt));
    let ordered = all.into_iter().rev().flatten();
    ordered
        .map(|(origin, text)| parse(text, origin).map_err(|e| wrong(origin, &e)))
        .collect()
}

/// All values of an option of which the strongest layer that speaks has the word alone.
///
/// # Errors
/// If any layer's value is wrong.
pub fn strongest_list<T, E: Display>(
    layers: &Layers,
    opt: Opt,
    words: &[OsString],
    parse: impl Fn(&OsStr) -> Result<T, E>,
) -> Result<Vec<T>, Error> {
    let flag = Origin::Flag(opt.info().flag.unwrap_or_default());
    let words: Vec<_> = words.iter().map(|word| (flag, word.as_os_str())).collect();
    let mut strongest = Vec::new();
    for layer in std::iter::once(words).chain(layers.values(opt)) {
        let typed = layer.into_iter();
        let typed = typed.map(|(origin, text)| parse(text).map_err(|e| wrong(origin, &e)));
        let typed = typed.collect::<Result<Vec<T>, Error>>()?;
        if strongest.is_empty() {
            strongest = typed;
        }
    }
    Ok(strongest)
}

/// Adapts a parser of text to words, which need not be UTF-8.
pub fn text<T, E: Display>(parse: impl Fn(&str) -> Result<T, E>) -> impl Fn(&OsStr) -> Result<T, String> {
    move |given| match given.to_str() {
        Some(given) => parse(given).map_err(|e| e.to_string()),
        None => Err("the value is not UTF-8".into()),
    }
}
