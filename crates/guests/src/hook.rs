//! The site's own hook: a program that the host's configuration names, for what no kind knows of. It gets the job as JSON on standard
//! input, and each line of its output that is a JSON object is one thing that it has, or has not, given back.

use crate::tools::Tools;
use crate::{GivenBack, GuestError, Result};
use jobcage_job::{Census, GuestMode, GuestPlace, GuestReport, JobSpec, Outcome};
use jobcage_sys::file::sealed;
use nix::unistd::{Whence, lseek};
use serde::Deserialize;
use serde_json::{Value, json};
use std::fmt::Display;
use std::os::fd::AsFd;
use std::path::Path;

/// Its name in a report.
pub(crate) const KIND: &str = "exec";

/// So many things of one job are told of.
const MOST: usize = 1000;

/// Of a name, an id or a reason so many characters.
const LONGEST: usize = 1024;

/// A line of a hook.
#[derive(Deserialize)]
struct Line {
    what: String,
    name: String,
    id: Option<String>,
    outcome: Outcome,
    why: Option<String>,
    bytes: Option<u64>,
}

/// Runs it once, in a cgroup that ends with it. Whatever goes wrong leaves an entry, so that it is tried again.
pub(crate) fn run(
    tools: &Tools<'_>,
    spec: &JobSpec,
    place: &GuestPlace,
    census: &Census,
    given: &mut GivenBack,
) {
    match call(tools, spec, place, census) {
        Ok(said) => {
            let (guests, note) = parse(&said);
            given.guests.extend(guests);
            given.notes.extend(note);
        }
        Err(why) => given.guests.push(left(place, &why)),
    }
}

/// The entry of a hook that has not done its work.
pub(crate) fn left(place: &GuestPlace, why: &dyn Display) -> GuestReport {
    let program = place.hook.first().map_or("", String::as_str);
    crate::left(KIND, "hook", program, why, 0)
}

fn call(tools: &Tools<'_>, spec: &JobSpec, place: &GuestPlace, census: &Census) -> Result<String> {
    let words: Vec<&str> = place.hook.iter().map(String::as_str).collect();
    let job = job(spec, place, census).to_string();
    let io = |errno| GuestError::Io {
        what: "write the job for",
        path: words[0].to_owned(),
        errno,
    };
    // A pipe would be too small for a large census, if nobody reads it.
    let file = sealed(c"guest-hook", job.as_bytes()).map_err(io)?;
    lseek(&file, 0, Whence::SeekSet).map_err(io)?;
    let pass = tools.pass(GuestMode::Isolate)?;
    let said = pass.call_site(&words, file.as_fd());
    pass.end()?;
    said
}

/// What a hook is told of a job: nothing of its environment, and of its processes the programs without their arguments, which may be a script.
fn job(spec: &JobSpec, place: &GuestPlace, census: &Census) -> Value {
    let mut census = census.clone();
    for left in &mut census.left {
        left.command = left.command.split(' ').next().unwrap_or_default().to_owned();
    }
    let mut job = json!({
        "job": spec.id,
        "name": spec.name,
        "uid": spec.uid,
        "home": place.home,
        "cage": spec.cage,
        "labels": spec.labels,
        "census": census,
    });
    if Path::new(&place.dir).exists() {
        job["place"] = json!(place.dir);
    }
    job
}

/// The entries of its output, and what to say of lines that are none.
fn parse(said: &str) -> (Vec<GuestReport>, Option<String>) {
    let mut entries = Vec::new();
    let mut odd = Vec::new();
    for (at, line) in said
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
    {
        match entry(line) {
            Ok(_) if entries.len() == MOST => {
                odd.push((at, format!("more than {MOST} entries are not kept")));
            }
            Ok(entry) => entries.push(entry),
            Err(why) => odd.push((at, why)),
        }
    }
    let note = odd.first().map(|(at, why)| {
        let why: String = why.escape_debug().take(200).collect();
        let lines = if odd.len() == 1 { "line is" } else { "lines are" };
        format!(
            "the guest hook's output: {} {lines} no entry; line {}: {why}",
            odd.len(),
            at + 1
        )
    });
    (entries, note)
}

/// One line. Its words are shown to people and kept, so they have to be short; where they are shown, they are escaped.
fn entry(line: &str) -> std::result::Result<GuestReport, String> {
    if !line.trim_start().starts_with('{') {
        return Err("it is no JSON object".into());
    }
    let line: Line = serde_json::from_str(line).map_err(|error| error.to_string())?;
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_');
    if line.what.is_empty() || line.what.len() > 32 || !line.what.chars().all(plain) {
        return Err("\"what\" is no word of at most 32 small letters, digits, - and _".into());
    }
    let words = [Some(&line.name), line.id.as_ref(), line.why.as_ref()];
    if line.name.is_empty() || words.into_iter().flatten().any(|word| word.len() > LONGEST) {
        return Err(format!(
            "its name is empty, or a word of it has more than {LONGEST} bytes"
        ));
    }
    let unsaid = || (line.outcome == Outcome::Left).then(|| "the hook gives no reason".to_owned());
    Ok(GuestReport {
        kind: KIND.into(),
        what: line.what,
        name: line.name,
        id: line.id,
        ran: None,
        outcome: line.outcome,
        why: line.why.or_else(unsaid),
        bytes: line.bytes.unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_line_is_an_entry() {
        let said = r#"{"what":"disk","name":"a b","id":"7","outcome":"deleted","bytes":5,"more":[]}

            {"what":"vm","name":"web","outcome":"left"}"#;
        let (entries, note) = parse(said);
        assert_eq!(note, None);
        let seen: Vec<_> = entries
            .iter()
            .map(|e| (e.what.as_str(), e.outcome, e.bytes))
            .collect();
        assert_eq!(seen, [("disk", Outcome::Deleted, 5), ("vm", Outcome::Left, 0)]);
        assert_eq!(entries[0].id.as_deref(), Some("7"));
        assert_eq!(entries[1].why.as_deref(), Some("the hook gives no reason"));
        assert!(entries.iter().all(|entry| entry.kind == KIND));
    }

    #[test]
    fn what_is_no_entry_is_told_of_by_its_line() {
        let good = r#"{"what":"vm","name":"web","outcome":"deleted"}"#;
        let long = "x".repeat(LONGEST + 1);
        for bad in [
            "removed it",
            "{",
            "[]",
            "{}",
            r#"{"what":"vm","name":"web","outcome":"exploded"}"#,
            r#"{"what":"vm","name":"web","outcome":"deleted","bytes":-1}"#,
            r#"{"what":"a vm","name":"web","outcome":"deleted"}"#,
            r#"{"what":"vm","name":"","outcome":"deleted"}"#,
            r#"{"what":"vm","name":"a","name":"b","outcome":"deleted"}"#,
            &format!(r#"{{"what":"vm","name":"{long}","outcome":"deleted"}}"#),
            &"{\"what\":".repeat(10_000),
        ] {
            let (entries, note) = parse(&format!("{good}\n{bad}\n{good}"));
            assert_eq!(entries.len(), 2, "{bad}");
            let note = note.unwrap_or_else(|| panic!("{bad}"));
            assert!(note.contains("1 line is no entry; line 2: "), "{note}");
        }
    }

    #[test]
    fn there_is_an_end_to_entries() {
        let many = "{\"what\":\"vm\",\"name\":\"web\",\"outcome\":\"deleted\"}\n".repeat(MOST + 5);
        let (entries, note) = parse(&many);
        assert_eq!(entries.len(), MOST);
        assert!(note.unwrap().contains("5 lines are no entry; line 1001: "));
    }

    proptest! {
        #[test]
        fn no_output_is_too_odd(said: String) {
            let (entries, note) = parse(&said);
            prop_assert!(entries.is_empty());
            let lines = said.lines().filter(|line| !line.trim().is_empty()).count();
            prop_assert_eq!(note.is_some(), lines > 0);
            prop_assert!(note.is_none_or(|note| note.chars().all(|c| !c.is_control())));
        }

        #[test]
        fn what_was_written_is_read(name in ".{1,100}", why in proptest::option::of(".{0,100}"), bytes: u64) {
            let line = json!({"what": "vm", "name": name, "outcome": "left", "why": why, "bytes": bytes});
            let (entries, note) = parse(&line.to_string());
            prop_assert_eq!((entries.len(), note), (1, None));
            prop_assert_eq!((&entries[0].name, entries[0].bytes), (&name, bytes));
        }
    }
}
