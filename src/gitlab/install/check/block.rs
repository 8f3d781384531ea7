//! One block of `[[runners]]` that calls us: its programs and its timeouts.

use super::{Finding, GLOBAL, Seconds, Severity, advice, has};
use crate::gitlab::install::runners::{self, CALLS, Reach, reach, shown};
use crate::gitlab::install::template::shorten;
use crate::gitlab::install::timing::{
    Budgets, CLEANUP_DEFAULT, FORCE_DEFAULT, GRACEFUL_DEFAULT, RUNNER_WAITS, Timeouts,
};
use toml_edit::TableLike;

/// The block and what is said of it.
struct Look<'a> {
    block: &'a dyn TableLike,
    custom: &'a dyn TableLike,
    about: &'a str,
    findings: Vec<Finding>,
}

impl Look<'_> {
    fn say(&mut self, severity: Severity, what: impl Into<String>) {
        self.findings.push(Finding::new(severity, self.about, what));
    }
}

/// What is to be said of a block of ours. `shutdown` is what the runner takes for its `shutdown_timeout`.
pub fn findings(block: &dyn TableLike, about: &str, shutdown: u64, budgets: &Budgets) -> Vec<Finding> {
    let Some(custom) = runners::custom(block) else {
        return Vec::new();
    };
    let mut look = Look {
        block,
        custom,
        about,
        findings: Vec::new(),
    };
    calls(&mut look);
    directories(&mut look);
    graceful(&mut look, shutdown, budgets);
    force(&mut look);
    cleanup(&mut look, budgets);
    misplaced(&mut look);
    if look.findings.is_empty() {
        let set = Seconds::of(Some(custom), "graceful_kill_timeout").effective(GRACEFUL_DEFAULT);
        look.say(
            Severity::Ok,
            format!(
                "{} < graceful_kill_timeout {set} s < shutdown_timeout {shutdown} s",
                budgets.tell()
            ),
        );
    }
    look.findings
}

fn calls(look: &mut Look<'_>) {
    for call in CALLS {
        let args = runners::words(look.custom, &format!("{call}_args"));
        match reach(look.custom, call) {
            Reach::Direct(program) if !program.starts_with('/') => look.say(
                Severity::Warning,
                format!(
                    "{call}_exec = {} is looked for in the runner's PATH; write the whole path",
                    shown(&program)
                ),
            ),
            Reach::Direct(_) => {}
            Reach::Missing => look.say(
                Severity::Error,
                format!(
                    "{call}_exec is missing: {}; \"jobcage gitlab template\" prints all four",
                    without(call)
                ),
            ),
            Reach::Wrapped(program) if runners::base_name(&program) == "jobcage" => look.say(
                Severity::Error,
                format!("{call}_args has to begin with [\"gitlab\", {call:?}]"),
            ),
            Reach::Wrapped(program) => look.say(
                Severity::Error,
                format!(
                    "{call}_exec = {} is a wrapper: the process that starts jobcage is taken for the runner, and the cage ends \
                     with it; let the runner call jobcage itself",
                    shown(&program)
                ),
            ),
            Reach::Foreign(program) => look.say(
                Severity::Error,
                format!(
                    "{call}_exec = {}{} does not call jobcage gitlab {call}, as the others do",
                    shown(&program),
                    if args.is_empty() { "" } else { " with its arguments" }
                ),
            ),
        }
    }
}

/// What is not there without a call.
fn without(call: &str) -> &'static str {
    match call {
        "config" => "the runner does not know where builds are, and jobs of one project share a directory",
        "prepare" => "no job has a cage, and every stage fails",
        "run" => "the runner refuses every job",
        _ => "nothing ends the cage of a job but the end of the runner",
    }
}

/// What `gitlab config` answers is stronger than what the block says.
fn directories(look: &mut Look<'_>) {
    let args = runners::words(look.custom, "config_args");
    let is_told = matches!(reach(look.custom, "config"), Reach::Direct(_));
    for key in ["builds_dir", "cache_dir"] {
        let set = runners::text(look.block, key).filter(|dir| !dir.is_empty());
        let flag = format!("--{}", key.replace('_', "-"));
        let given = args
            .iter()
            .position(|arg| *arg == flag)
            .and_then(|at| args.get(at + 1));
        match set {
            Some(dir) if is_told && given.is_none_or(|given| given != dir) => look.say(
                Severity::Warning,
                format!(
                    "{key} = {} has no effect: jobcage answers another one; add {flag:?} and the directory to config_args",
                    shown(dir)
                ),
            ),
            None if !is_told => look.say(
                Severity::Error,
                format!("{key} is missing, and without config_exec nobody tells it to the runner"),
            ),
            _ => {}
        }
    }
}

fn graceful(look: &mut Look<'_>, shutdown: u64, budgets: &Budgets) {
    const KEY: &str = "graceful_kill_timeout";
    let set = Seconds::of(Some(look.custom), KEY);
    let why = match set {
        Seconds::NoNumber => {
            return look.say(Severity::Error, format!("{KEY} is no whole number of seconds"));
        }
        Seconds::Missing if has(look.block, KEY) => {
            format!("{KEY} stands in [[runners]], where the runner ignores it, and the default is")
        }
        Seconds::Missing => format!("{KEY} is missing, and the default is"),
        Seconds::Set(seconds) if seconds <= 0 => format!("{KEY} = {seconds} means the default, which is"),
        Seconds::Set(_) => format!("{KEY} is"),
    };
    let effective = set.effective(GRACEFUL_DEFAULT);
    let mut wrong = Vec::new();
    if effective >= RUNNER_WAITS {
        wrong.push(format!(
            "not less than the {RUNNER_WAITS} s that it waits for a job that ran out of time: cleanup would run beside the job"
        ));
    }
    if effective >= shutdown {
        wrong.push(format!(
            "not less than shutdown_timeout, {shutdown} s: a stop of the runner would lose the cleanup"
        ));
    }
    if effective <= budgets.sum() && budgets.fit() {
        wrong.push(format!(
            "not more than {}: the runner would kill a call that is still ending its job",
            budgets.tell()
        ));
    }
    if !wrong.is_empty() {
        let wrong = wrong.join("; and ");
        return look.say(
            Severity::Error,
            format!("{why} {effective} s, {wrong}; {}", advice(budgets)),
        );
    }
    if !budgets.fit() {
        tight(look, effective, budgets);
    }
}

/// No timeout would leave the budgets their time; whether this one leaves them what there is.
fn tight(look: &mut Look<'_>, effective: u64, budgets: &Budgets) {
    let best = Timeouts::of(budgets).graceful;
    let more = if effective < best {
        format!(" {}, which leaves it the most;", advice(budgets))
    } else {
        String::new()
    };
    look.say(
        Severity::Warning,
        format!(
            "{} is more than the {RUNNER_WAITS} s that the runner waits; graceful_kill_timeout = {effective} leaves the after \
             phase {} s, and what it writes later is not in the job's log;{more} {}",
            budgets.tell(),
            budgets.after_within(effective),
            shorten(budgets)
        ),
    );
}

fn force(look: &mut Look<'_>) {
    const KEY: &str = "force_kill_timeout";
    match Seconds::of(Some(look.custom), KEY) {
        Seconds::Missing if has(look.block, KEY) => look.say(
            Severity::Warning,
            format!("{KEY} stands in [[runners]], where the runner ignores it; move it to [runners.custom]"),
        ),
        Seconds::NoNumber => look.say(Severity::Error, format!("{KEY} is no whole number of seconds")),
        Seconds::Set(seconds) if seconds <= 0 => look.say(
            Severity::Warning,
            format!("{KEY} = {seconds} means the default of {FORCE_DEFAULT} s; set it to 5, or take it away"),
        ),
        _ => {}
    }
}

fn cleanup(look: &mut Look<'_>, budgets: &Budgets) {
    const KEY: &str = "cleanup_exec_timeout";
    let set = Seconds::of(Some(look.custom), KEY);
    let needed = budgets.cleanup();
    match set {
        Seconds::NoNumber => look.say(Severity::Error, format!("{KEY} is no whole number of seconds")),
        Seconds::Missing if has(look.block, KEY) => look.say(
            Severity::Warning,
            format!("{KEY} stands in [[runners]], where the runner ignores it; move it to [runners.custom]"),
        ),
        set if set.effective(CLEANUP_DEFAULT) < needed => look.say(
            Severity::Warning,
            format!(
                "{KEY} = {} is too small: a cleanup that has everything still to do takes {}; set it to {}",
                set.effective(CLEANUP_DEFAULT),
                budgets.tell(),
                Timeouts::of(budgets).cleanup
            ),
        ),
        _ => {}
    }
}

/// Keys of the top of the file, which the runner ignores in a block.
fn misplaced(look: &mut Look<'_>) {
    for key in GLOBAL {
        let place = [("[[runners]]", look.block), ("[runners.custom]", look.custom)]
            .into_iter()
            .find(|(_, table)| has(*table, key));
        if let Some((place, _)) = place {
            look.say(
                Severity::Warning,
                format!(
                    "{key} stands in {place}, where the runner ignores it; move it to the top of the file"
                ),
            );
        }
    }
}
