//! `jobcage gitlab convert`: blocks of the shell executor become ours. Text in, text out.

use super::InstallError;
use super::runners::{self, blocks_mut, called, is_ours, shown};
use super::template;
use super::timing::{SHUTDOWN_DEFAULT, Timeouts};
use toml_edit::{DocumentMut, InlineTable, Item, Table, TableLike, Value};

/// What is wanted of a conversion.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The jobcage that the runner is to call.
    pub binary: &'a str,
    /// The timeouts that it is to have.
    pub timeouts: Timeouts,
    /// Only runners of this name.
    pub name: Option<&'a str>,
}

/// What became of a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It is ours now.
    Converted,
    /// It was already.
    Ours,
    /// It has another executor.
    Other(String),
    /// It is a shell executor that cannot become ours.
    Kept(String),
    /// It has another name than the one that was asked for.
    NotAsked,
}

/// A converted file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Converted {
    /// The new text; the old one where nothing was to be done.
    pub text: String,
    /// Each runner, by what it is called, and what became of it.
    pub fates: Vec<(String, Fate)>,
}

impl Converted {
    /// Whether a block was converted.
    #[must_use]
    pub fn any(&self) -> bool {
        self.fates.iter().any(|(_, fate)| *fate == Fate::Converted)
    }
}

/// Converts the text of a runner's configuration.
///
/// # Errors
/// If it is none, or nobody has the name that was asked for.
pub fn convert(text: &str, wanted: &Wanted<'_>) -> Result<Converted, InstallError> {
    let mut document = runners::parse(text)?;
    let mut fates = Vec::new();
    for (at, (block, inline)) in blocks_mut(&mut document)?.into_iter().enumerate() {
        let called = called(block, at);
        fates.push((called, convert_block(block, inline, wanted)));
    }
    if let Some(name) = wanted.name
        && fates.iter().all(|(_, fate)| *fate == Fate::NotAsked)
    {
        return Err(InstallError::NoSuchRunner(shown(name)));
    }
    let mut converted = Converted {
        text: text.to_owned(),
        fates,
    };
    if converted.any() {
        let ends = if is_crlf(text) { "\r\n" } else { "\n" };
        raise_shutdown(&mut document, wanted.timeouts.shutdown);
        // The document itself knows one kind of line end.
        converted.text = document.to_string().replace("\r\n", "\n").replace('\n', ends);
    }
    Ok(converted)
}

/// Whether every line ends as on Windows.
fn is_crlf(text: &str) -> bool {
    let all = text.matches('\n').count();
    all > 0 && text.matches("\r\n").count() == all
}

fn convert_block(block: &mut dyn TableLike, inline: bool, wanted: &Wanted<'_>) -> Fate {
    if wanted.name.is_some() && wanted.name != runners::text(block, "name") {
        return Fate::NotAsked;
    }
    if is_ours(block) {
        return Fate::Ours;
    }
    match runners::text(block, "executor") {
        Some("shell") => {}
        Some(other) => return Fate::Other(shown(other)),
        None => return Fate::Other("none".into()),
    }
    let config_args = match config_args(block) {
        Ok(args) => args,
        Err(why) => return Fate::Kept(why),
    };
    let keys = template::custom(wanted.binary, &wanted.timeouts, &config_args);
    if let Some(Item::Value(executor)) = block.get_mut("executor") {
        replace(executor, "custom".into());
    }
    set_custom(block, inline, keys);
    Fate::Converted
}

/// The words for `gitlab config` that keep the directories where they are: what it answers is stronger than `builds_dir`
/// and `cache_dir` of the block.
fn config_args(block: &dyn TableLike) -> Result<Vec<String>, String> {
    let mut args = Vec::new();
    for key in ["builds_dir", "cache_dir"] {
        let Some(dir) = runners::text(block, key).filter(|dir| !dir.is_empty()) else {
            continue;
        };
        if !dir.starts_with('/') {
            return Err(format!(
                "its {key} {} is no absolute path, and jobcage does not know where the runner stands; make it absolute",
                shown(dir)
            ));
        }
        args.push(format!("--{}", key.replace('_', "-")));
        args.push(dir.to_owned());
    }
    match runners::text(block, "shell") {
        None | Some("" | "bash" | "sh") => Ok(args),
        Some(other) => Err(format!(
            "its shell is {}, and jobcage runs scripts for bash",
            shown(other)
        )),
    }
}

/// Another value where one stood, with the comment behind it.
fn replace(value: &mut Value, new: Value) {
    let decor = value.decor().clone();
    *value = new;
    *value.decor_mut() = decor;
}

fn set_custom(block: &mut dyn TableLike, inline: bool, keys: Vec<(String, Value)>) {
    if !block.get("custom").is_some_and(Item::is_table_like) {
        let empty = if inline {
            Item::Value(InlineTable::new().into())
        } else {
            let mut table = Table::new();
            table.decor_mut().set_prefix("  ");
            Item::Table(table)
        };
        block.insert("custom", empty);
    }
    let custom = block.get_mut("custom").and_then(Item::as_table_like_mut);
    let Some(custom) = custom else { return };
    // A table that was there has its own indentation.
    let own = !inline && custom.is_empty();
    for (name, new) in keys {
        if let Some(Item::Value(value)) = custom.get_mut(&name) {
            replace(value, new);
            continue;
        }
        custom.insert(&name, Item::Value(new));
        if own && let Some(mut key) = custom.key_mut(&name) {
            key.leaf_decor_mut().set_prefix("    ");
        }
    }
}

/// The runner gives a job that it has to end so long, or it never calls cleanup.
fn raise_shutdown(document: &mut DocumentMut, wanted: u64) {
    const KEY: &str = "shutdown_timeout";
    let wanted = i64::try_from(wanted).unwrap_or(i64::MAX);
    match document.get_mut(KEY) {
        Some(Item::Value(value)) => {
            let default = i64::try_from(SHUTDOWN_DEFAULT).unwrap_or_default();
            let set = value.as_integer().map(|set| if set > 0 { set } else { default });
            if set.is_none_or(|set| set < wanted) {
                replace(value, wanted.into());
            }
        }
        _ => {
            document.insert(KEY, Item::Value(wanted.into()));
        }
    }
}

#[cfg(test)]
#[path = "convert_test.rs"]
mod tests;
