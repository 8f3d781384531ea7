//! Traces, in the terms of those of the real runner: reading them, and holding one against the other.

use serde_json::Value;
use std::collections::BTreeSet;
use std::fmt::Write as _;

/// One line: when, who, what.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    pub at: f64,
    pub who: String,
    pub what: String,
    /// Of a spy that tells it.
    pub pid: Option<i32>,
}

/// Reads the lines of a trace. What has no time, such as a result, is none.
pub fn lines(text: &str) -> Vec<Line> {
    text.lines().filter_map(line).collect()
}

fn line(text: &str) -> Option<Line> {
    let mut words = text.split_whitespace();
    let at = words.next()?.parse().ok()?;
    let who = words.next()?.to_owned();
    let (ids, words): (Vec<_>, Vec<_>) = words.partition(|word| is_id(word));
    let pid = ids.iter().find_map(|id| id.strip_prefix("pid=")?.parse().ok());
    let what = words.iter().map(|word| short(word)).collect::<Vec<_>>().join(" ");
    Some(Line { at, who, what, pid })
}

/// Numbers of processes, which are others each time.
fn is_id(word: &str) -> bool {
    ["pid=", "ppid=", "pgid=", "sid="]
        .iter()
        .any(|id| word.starts_with(id))
}

/// A script's path without the directories, as the traces have it.
fn short(word: &str) -> String {
    let bracket = if word.starts_with("argv=[") { "argv=[" } else { "" };
    match word.rsplit_once('/') {
        Some((_, name)) if name.starts_with("script") => format!("{bracket}…/{name}"),
        _ => word.to_owned(),
    }
}

/// What a trace says of the runner's behaviour, without times.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Facts {
    /// Calls, signals to the runner and words with the server, in their order.
    pub events: Vec<String>,
    /// What the helpers of the job saw, whose order is theirs.
    pub spies: BTreeSet<String>,
    /// Who is left, by name.
    pub left: Vec<String>,
    pub runner_rc: i32,
    pub tmp_is_left: bool,
}

/// The text of one scenario in a file of the fixtures, with its heading.
pub fn section<'a>(file: &'a str, name: &str) -> &'a str {
    let from = file.find(&format!("=== {name}\n"));
    let from = from.unwrap_or_else(|| panic!("there is no trace of {name}"));
    file[from..].split("\n\n").next().unwrap_or_default()
}

/// A trace of the real runner.
#[derive(Debug, Clone)]
pub struct Real {
    pub lines: Vec<Line>,
    pub facts: Facts,
}

impl Real {
    /// A scenario in a file of the fixtures.
    pub fn scenario(file: &str, name: &str) -> Self {
        let text = section(file, name);
        let real = Self::read(text);
        // Otherwise the fixture is wrong, and would let a play pass that is.
        let told = format!("left_after={} ", real.facts.left.len());
        assert!(
            text.contains(&told),
            "{name}: other than {told}were left: {:?}",
            real.facts.left
        );
        real
    }

    /// The text of one scenario.
    pub fn read(text: &str) -> Self {
        let lines = lines(text);
        let mut facts = facts(&lines);
        let left = lines.iter().find(|line| line.what.starts_with("leftovers"));
        let left = left
            .and_then(|line| json_of(&line.what))
            .map(|told| told["procs"].clone());
        let named = |one: &Value| {
            let words: Vec<&str> = one.as_str().unwrap_or_default().split(' ').collect();
            name_of(&words)
        };
        facts.left = left
            .iter()
            .flat_map(|all| all.as_array().into_iter().flatten().map(named))
            .collect();
        facts.left.sort();
        let result = text.lines().find(|line| line.trim_start().starts_with("RESULT"));
        let words = result.unwrap_or_default().split(' ');
        let number = |key: &str| {
            words
                .clone()
                .find_map(|word| word.strip_prefix(key)?.parse::<i32>().ok())
        };
        facts.runner_rc = number("runner_rc=").unwrap_or(i32::MAX);
        facts.tmp_is_left = number("tmp_left=") != Some(0);
        Self { lines, facts }
    }

    /// How the server cancelled in it.
    pub fn cancel_mode(&self) -> Option<String> {
        let line = self
            .lines
            .iter()
            .find(|line| line.what.starts_with("server_cancel"))?;
        Some(json_of(&line.what)?["mode"].as_str()?.to_owned())
    }
}

/// A process by what it is: a helper by its name, a driver by its call, the shells of a script.
pub fn name_of(words: &[&str]) -> String {
    let own = words.iter().skip_while(|word| word.ends_with("bash")).copied();
    let mut own = own.filter(|word| !word.starts_with("--") && !word.ends_with("/spy"));
    let first = own.next().unwrap_or_default();
    match first.rsplit('/').next().unwrap_or_default() {
        name if name.starts_with("script") => "script".into(),
        name @ ("config" | "prepare" | "run" | "cleanup") => format!("driver {name}"),
        name => name
            .strip_suffix(".sh")
            .map_or_else(|| name.to_owned(), |call| format!("driver {call}")),
    }
}

/// The JSON at the end of a line.
pub fn json_of(what: &str) -> Option<Value> {
    serde_json::from_str(&what[what.find('{')?..]).ok()
}

/// What the lines of a trace say.
pub fn facts(lines: &[Line]) -> Facts {
    let mut facts = Facts::default();
    for line in lines {
        if let Some(told) = line.what.strip_prefix("spy") {
            facts.spies.insert(told.to_owned());
        } else if let Some(event) = event(line) {
            facts.events.push(event);
        }
    }
    // Whether the runner is gone is seen from outside, sooner or later.
    let gone = |event: &String| event.starts_with("server runner_exited");
    if let Some(at) = facts.events.iter().position(gone) {
        let gone = facts.events.remove(at);
        facts.events.push(gone);
    }
    facts
}

/// A line that is the runner's doing, or done to it.
fn event(line: &Line) -> Option<String> {
    let word = line.what.split(' ').next()?;
    match line.who.as_str() {
        "driver" => Some(line.what.clone()),
        "server" if word.starts_with("leftovers") || word == "runner_exit" => None,
        "server" => {
            let told = json_of(&line.what)?;
            // An answer on the way, not the last word.
            (told["state"] != "running").then(|| format!("server {word} {told}"))
        }
        _ => None,
    }
}

/// What the traces leave out where it went well.
const LEFT_OUT: [&str; 2] = ["run[prepare_script]", "run[get_sources]"];

/// The lines without the calls that the real trace does not show.
fn without_left_out(real: &Real, mine: &[Line]) -> Vec<Line> {
    let shows = |lines: &[Line], call: &str| lines.iter().any(|line| line.what.starts_with(call));
    let hidden: Vec<&str> = LEFT_OUT
        .into_iter()
        .filter(|call| !shows(&real.lines, call))
        .collect();
    let went_well = |call: &str| {
        mine.iter()
            .any(|line| line.who == "driver" && line.what == format!("{call} EXIT rc=0"))
    };
    let is_hidden = |line: &&Line| {
        hidden
            .iter()
            .any(|call| line.what.starts_with(*call) && went_well(call))
    };
    mine.iter().filter(|line| !is_hidden(line)).cloned().collect()
}

/// A pause of the runner: between which two events, how long, and what it says that it waited for.
#[derive(Debug)]
struct Pause {
    between: String,
    seconds: f64,
    /// The same from the moment at which the runner began to wait, of which a driver may hear late.
    in_all: f64,
    bounds: (f64, f64),
}

/// The pauses in which only the runner decides when it goes on.
fn pauses(lines: &[Line]) -> Vec<Pause> {
    let begins = |what: &str| {
        [" EXIT", " GOT SIGTERM"].iter().any(|end| what.contains(end))
            && !what.starts_with("prepare EXIT rc=0")
            || what.starts_with("signal_to_runner")
    };
    let ends = |what: &str| {
        what.contains(" START") || ["put", "runner_exited"].iter().any(|word| what.starts_with(word))
    };
    let is_cancel = |a: &str, b: &str| a.starts_with("server_cancel") && b.contains(" GOT SIGTERM");
    let mut found = Vec::new();
    let (mut last, mut bounds): (Option<&Line>, _) = (None, (0.0, 0.0));
    let mut asked = None;
    for line in lines {
        if line.what.contains(" SENT SIGTERM") {
            asked = Some(line.at);
        }
        if let Some(waited) = line.what.strip_prefix("waited ") {
            let (low, high) = waited
                .rsplit(' ')
                .next()
                .and_then(|range| range.split_once('-'))
                .unwrap();
            bounds = (
                bounds.0 + low.parse::<f64>().unwrap(),
                bounds.1 + high.parse::<f64>().unwrap(),
            );
        }
        let is_event =
            event(line).is_some() && !line.what.starts_with("spy") && !line.what.starts_with("job_final");
        if !is_event {
            continue;
        }
        if let Some(before) = last
            && (begins(&before.what) && ends(&line.what) || is_cancel(&before.what, &line.what))
        {
            let word = |line: &Line| line.what.split('{').next().unwrap().trim().to_owned();
            found.push(Pause {
                between: format!("{} and {}", word(before), word(line)),
                seconds: line.at - before.at,
                in_all: line.at - asked.unwrap_or(before.at).min(before.at),
                bounds,
            });
        }
        (last, bounds) = (Some(line), (0.0, 0.0));
        if line.what.contains(" START") {
            asked = None;
        }
    }
    found
}

/// Holds a play of ours against the real one; what differs, for a person.
pub fn compare(real: &Real, mine: &[Line], mut facts_of_mine: Facts, second_ms: u64) -> Result<(), String> {
    let mine = without_left_out(real, mine);
    let told = facts(&mine);
    (facts_of_mine.events, facts_of_mine.spies) = (told.events, told.spies);
    let mut wrong = String::new();
    if real.facts != facts_of_mine {
        let _ = writeln!(wrong, "the real one: {:#?}\nours: {facts_of_mine:#?}", real.facts);
    }
    let (theirs, ours) = (pauses(&real.lines), pauses(&mine));
    for (their, our) in theirs.iter().zip(&ours) {
        let (low, high) = our.bounds;
        // A second and a tenth: the real machine was loaded too.
        let is_like = their.between == our.between && (low - 0.5..=high * 1.1 + 1.0).contains(&their.seconds);
        let least = low * second_ms as f64 / 1000.0 * 0.95;
        if !is_like || our.in_all < least {
            let _ = writeln!(
                wrong,
                "the real one paused: {their:?}, ours: {our:?} ({second_ms} ms a second)"
            );
        }
    }
    if theirs.len() != ours.len() {
        let _ = writeln!(wrong, "pauses of the real one: {theirs:#?}, ours: {ours:#?}");
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong) }
}
