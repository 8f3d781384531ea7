//! The difference between two configurations, for a person: what a secret could stand in is hidden.

use similar::{Algorithm, TextDiff};
use std::ops::Range;
use toml::de::{DeTable, DeValue};

/// The keys whose values are shown. Any other could hold a secret: a token, a variable, a script, a password.
const HARMLESS: [&str; 31] = [
    "concurrent",
    "check_interval",
    "connection_max_age",
    "shutdown_timeout",
    "log_level",
    "log_format",
    "listen_address",
    "session_timeout",
    "name",
    "id",
    "url",
    "executor",
    "shell",
    "limit",
    "request_concurrency",
    "output_limit",
    "builds_dir",
    "cache_dir",
    "config_exec",
    "config_args",
    "config_exec_timeout",
    "prepare_exec",
    "prepare_args",
    "prepare_exec_timeout",
    "run_exec",
    "run_args",
    "cleanup_exec",
    "cleanup_args",
    "cleanup_exec_timeout",
    "graceful_kill_timeout",
    "force_kill_timeout",
];

/// What stands in the place of what is hidden.
const HIDDEN: &str = "[hidden]";

/// A unified difference, ready for a terminal. Empty if there is none.
#[must_use]
pub fn unified(name: &str, old: &str, new: &str) -> String {
    let (old, new) = (hide(old), hide(new));
    let diff = TextDiff::configure()
        .algorithm(Algorithm::Myers)
        .diff_lines(&old, &new);
    let name = harmless(name);
    let unified = diff
        .unified_diff()
        .context_radius(3)
        .header(&name, &format!("{name} (converted)"))
        .to_string();
    harmless(&unified)
}

/// The text without secrets, line for line.
fn hide(text: &str) -> String {
    // What cannot be read cannot be told from a secret.
    let Ok(root) = DeTable::parse(text) else {
        return String::new();
    };
    let mut values = Vec::new();
    collect(root.get_ref(), &mut values);
    values.sort_by_key(|(span, _)| span.start);
    let mut hidden = String::with_capacity(text.len());
    let mut done = 0;
    for (span, is_shown) in values {
        // An inline value may lie in another one that is hidden as a whole.
        if span.start < done {
            continue;
        }
        hide_comments(&text[done..span.start], &mut hidden);
        let value = &text[span.clone()];
        // A list may hold comments.
        if is_shown && !(value.starts_with('[') && value.contains('#')) {
            hidden.push_str(value);
        } else {
            let lines = value.split('\n').map(|_| HIDDEN).collect::<Vec<_>>();
            hidden.push_str(&lines.join("\n"));
        }
        done = span.end;
    }
    hide_comments(&text[done..], &mut hidden);
    hidden
}

/// The values of a table, with those of the tables in it, and whether each is shown.
fn collect(table: &DeTable<'_>, values: &mut Vec<(Range<usize>, bool)>) {
    for (key, value) in table {
        match value.get_ref() {
            DeValue::Table(inner) => collect(inner, values),
            DeValue::Array(list) if !list.is_empty() && list.iter().all(|one| one.get_ref().is_table()) => {
                list.iter()
                    .filter_map(|one| one.get_ref().as_table())
                    .for_each(|one| collect(one, values));
            }
            leaf => values.push((value.span(), is_harmless(key.get_ref(), leaf))),
        }
    }
}

fn is_harmless(key: &str, value: &DeValue<'_>) -> bool {
    let fits = match value {
        // A user and a password may stand in front of a host.
        DeValue::String(text) => key != "url" || !text.contains('@'),
        // Of other drivers' arguments nothing is known.
        DeValue::Array(words) => words.first().and_then(|word| word.get_ref().as_str()) == Some("gitlab"),
        _ => true,
    };
    fits && HARMLESS.contains(&key)
}

/// Copies what stands between values: a comment may be a value that was commented out.
fn hide_comments(between: &str, to: &mut String) {
    for line in between.split_inclusive('\n') {
        let end = if line.ends_with("\r\n") {
            "\r\n"
        } else if line.ends_with('\n') {
            "\n"
        } else {
            ""
        };
        match line.split_once('#') {
            Some((before, _)) => {
                to.push_str(before);
                to.push_str("# ");
                to.push_str(HIDDEN);
                to.push_str(end);
            }
            None => to.push_str(line),
        }
    }
}

/// What would act on a terminal is escaped; lines and tabs stay.
fn harmless(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\t' | '"' | '\'' | '\\' => safe.push(c),
            c => safe.extend(c.escape_debug()),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OLD: &str = r##"concurrent = 4 # glrt-in-a-comment
# token = "glrt-commented-out"
[[runners]]
  name = "build" # hunter2
  url = "https://user:hunter2@gitlab.example.com/"
  token = "glrt-hunter2"
  environment = [
    "A=hunter2", # hunter2
    "B=hunter2",
  ]
  pre_build_script = """
export X=hunter2
"""
  executor = "shell"
  [runners.cache.s3]
    SecretKey = "hunter2"
"##;

    #[test]
    fn no_secret_is_shown_and_no_line_is_lost() {
        let hidden = hide(OLD);
        assert!(
            !hidden.contains("hunter2") && !hidden.contains("glrt"),
            "{hidden}"
        );
        assert_eq!(hidden.lines().count(), OLD.lines().count());
        for shown in [
            "concurrent = 4 # [hidden]",
            "  name = \"build\" # [hidden]",
            "  executor = \"shell\"",
            "  [runners.cache.s3]",
        ] {
            assert!(hidden.lines().any(|line| line == shown), "{shown}\n{hidden}");
        }
    }

    #[test]
    fn a_difference_is_that_of_the_lines_that_changed() {
        let new = OLD.replace("\"shell\"", "\"custom\"");
        let told = unified("c\u{1b}.toml", OLD, &new);
        assert!(
            told.starts_with("--- c\\u{1b}.toml\n+++ c\\u{1b}.toml (converted)\n"),
            "{told}"
        );
        assert!(
            told.contains("\n-  executor = \"shell\"\n+  executor = \"custom\"\n"),
            "{told}"
        );
        assert_eq!(unified("c", OLD, OLD), "");
    }

    #[test]
    fn what_a_terminal_would_obey_is_escaped() {
        let old = "[[runners]]\nname = \"a\u{9b}31m\u{202e}b\"\nexecutor = 'shell'\n";
        let told = unified("c", old, &old.replace("shell", "custom"));
        assert!(told.contains("a\\u{9b}31m\\u{202e}b"), "{told}");
        assert!(!told.contains(['\u{9b}', '\u{202e}']), "{told}");
    }

    proptest! {
        #[test]
        fn a_token_is_hidden_wherever_it_stands(
            key in "[a-zA-Z_]{1,12}",
            place in 0..5_usize,
            quote in "['\"]",
        ) {
            prop_assume!(!HARMLESS.contains(&key.as_str()));
            let value = format!("{quote}qqqqqqqq{quote}");
            let text = match place {
                0 => format!("{key} = {value}\n"),
                1 => format!("[[runners]]\n{key} = [{value}, {value}]\n"),
                2 => format!("[[runners]]\n[runners.x]\n{key}.y = {value} # qqqqqqqq\n"),
                3 => format!("runners = [{{ {key} = {value} }}] # qqqqqqqq\n"),
                _ => format!("[[runners]]\nx = {{ {key} = {{ z = [[{value}]] }} }}\n"),
            };
            let hidden = hide(&text);
            prop_assert!(hidden.contains(HIDDEN) && !hidden.contains("qqqq"), "{}", hidden);
        }
    }
}
