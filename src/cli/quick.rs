//! The short way for `jobcage run` and for the runner's calls of `jobcage gitlab`, the verbs that are called a thousand times: the
//! same words into the same struct, without building clap's description of every option first. Measured on the first call of a release
//! build: clap 190 µs and 26 system calls of musl's malloc; this way the words, the environment, two absent
//! config files and the typing take 45 to 60 µs together, nearly all of it the environment and the two opens.
//!
//! It decides nothing. Whatever is not plainly right (an unknown option, a missing value, `--help`, options
//! that do not go together) is `None`, and clap gets the words and the last word. A property test holds the
//! two to the same result.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use super::words::{CommonWords, GitlabConfigWords, GitlabRunWords, GitlabWords, RunWords, VerbWords};

/// Where an option's value goes.
enum Slot<'a> {
    One(&'a mut Option<OsString>),
    /// `--login`, `--login=false`: a value only behind `=`.
    Switch(&'a mut Option<OsString>),
    Many(&'a mut Vec<OsString>),
}

fn slot<'a>(w: &'a mut RunWords, name: &str) -> Option<Slot<'a>> {
    use Slot::{Many, One, Switch};
    Some(match name {
        "--cgroup-root" => One(&mut w.common.cgroup_root),
        "--quiet" | "-q" => Switch(&mut w.common.quiet),
        "--verbose" | "-v" => Switch(&mut w.common.verbose),
        "--job" => One(&mut w.job),
        "--name" => One(&mut w.cage.name),
        "--cpu" => One(&mut w.cage.cpu),
        "--memory" => One(&mut w.cage.memory),
        "--memory-high" => One(&mut w.cage.memory_high),
        "--swap" => One(&mut w.cage.swap),
        "--pids" => One(&mut w.cage.pids),
        "--io" => Many(&mut w.cage.io),
        "--cpus" => One(&mut w.cage.cpus),
        "--best-effort" => Switch(&mut w.cage.best_effort),
        "--ssh-agent" => Switch(&mut w.cage.ssh_agent),
        "--ssh-key" => Many(&mut w.cage.ssh_key),
        "--guests" => One(&mut w.cage.guests),
        "--guests-dir" => One(&mut w.cage.guests_dir),
        "--project" => One(&mut w.cage.project),
        "--guest-timeout" => One(&mut w.cage.guest_timeout),
        "--guest-hook" => Many(&mut w.cage.guest_hook),
        "--spare" => One(&mut w.spare),
        "--timeout" => One(&mut w.timeout),
        "--idle-timeout" => One(&mut w.idle_timeout),
        "--signal" => One(&mut w.signal),
        "--grace" => One(&mut w.grace),
        "--after" => One(&mut w.after),
        "--after-timeout" => One(&mut w.after_timeout),
        "--after-reboot" => Switch(&mut w.after_reboot),
        "--after-env-file" => One(&mut w.after_env_file),
        "--report" => One(&mut w.report),
        "--detach" => Switch(&mut w.capture.detach),
        "--log" => Switch(&mut w.capture.log),
        "--streams" => One(&mut w.capture.streams),
        "--log-max" => One(&mut w.capture.log_max),
        "--log-full" => One(&mut w.capture.log_full),
        "--log-sync" => Switch(&mut w.capture.log_sync),
        "--stdin" => One(&mut w.capture.stdin),
        "--host" => Many(&mut w.host.host),
        "--ssh" => One(&mut w.host.ssh),
        "--remote-binary" => One(&mut w.host.remote_binary),
        "--fail-fast" => Switch(&mut w.fail_fast),
        "--forward-agent" => Switch(&mut w.forward_agent),
        "--send" => Many(&mut w.send),
        "--fetch" => Many(&mut w.fetch),
        "--lease" => One(&mut w.lease),
        "--reconnect-for" => One(&mut w.line.reconnect_for),
        "--keepalive" => One(&mut w.line.keepalive),
        "--user" => One(&mut w.identity.user),
        "--group" => One(&mut w.identity.group),
        "--login" => Switch(&mut w.step.login),
        "--dir" => One(&mut w.step.dir),
        "--env" => Many(&mut w.step.env),
        "--clear-env" => Switch(&mut w.step.clear_env),
        "--guard" => Switch(&mut w.step.guard),
        "--nice" => One(&mut w.step.nice),
        "--rlimit" => Many(&mut w.step.rlimit),
        _ => return None,
    })
}

/// Splits the words if every one of them is plainly right.
#[must_use]
pub fn split(words: &[OsString]) -> Option<VerbWords> {
    let by_runner = || gitlab(words).map(VerbWords::Gitlab);
    run(words)
        .map(|run| VerbWords::Run(Box::new(run)))
        .or_else(by_runner)
}

/// A call as the runner makes it: no option, since `*_args` of its configuration hold none by default.
fn gitlab(words: &[OsString]) -> Option<GitlabWords> {
    let (verb, call) = (words.get(1)?, words.get(2)?);
    let common = CommonWords::default();
    Some(match (verb.to_str()?, call.to_str()?, words.get(3..)?) {
        ("gitlab", "config", []) => GitlabWords::Config(GitlabConfigWords {
            common,
            builds_dir: None,
            cache_dir: None,
        }),
        ("gitlab", "prepare", []) => GitlabWords::Prepare(common),
        ("gitlab", "cleanup", []) => GitlabWords::Cleanup(common),
        ("gitlab", "run", [script, stage]) if is_plain(script) && is_plain(stage) => {
            GitlabWords::Run(GitlabRunWords {
                common,
                script: script.clone(),
                stage: stage.clone(),
            })
        }
        _ => return None,
    })
}

/// A value, and nothing that may be an option.
fn is_plain(word: &OsStr) -> bool {
    !word.is_empty() && !word.as_bytes().starts_with(b"-")
}

/// Splits `jobcage run …`.
fn run(words: &[OsString]) -> Option<RunWords> {
    let (_, rest) = words.split_first()?;
    let (verb, mut rest) = rest.split_first()?;
    if verb != "run" {
        return None;
    }
    let mut w = RunWords::default();
    loop {
        let (word, tail) = rest.split_first()?;
        rest = tail;
        if word == "--" {
            break;
        }
        let (name, value) = name_and_value(word)?;
        match (slot(&mut w, name)?, value) {
            (Slot::Switch(slot @ None), None) => *slot = Some("true".into()),
            (Slot::Switch(slot @ None), Some(value)) if name.starts_with("--") => *slot = Some(value.into()),
            (Slot::One(slot @ None), Some(value)) => *slot = Some(value.into()),
            (Slot::One(slot @ None), None) => *slot = Some(take(&mut rest)?),
            (Slot::Many(list), Some(value)) => list.push(value.into()),
            (Slot::Many(list), None) => list.push(take(&mut rest)?),
            // Given twice.
            (Slot::One(_) | Slot::Switch(_), _) => return None,
        }
    }
    w.command = rest.to_vec();
    (!w.command.is_empty() && !at_odds(&w)).then_some(w)
}

/// `--name=value` or `--name`. An empty value is clap's to judge.
fn name_and_value(word: &OsStr) -> Option<(&str, Option<&OsStr>)> {
    let bytes = word.as_bytes();
    match bytes.iter().position(|b| *b == b'=') {
        Some(at) if at + 1 < bytes.len() => Some((
            std::str::from_utf8(&bytes[..at]).ok()?,
            Some(OsStr::from_bytes(&bytes[at + 1..])),
        )),
        Some(_) => None,
        None => Some((word.to_str()?, None)),
    }
}

/// The next word as a value. One that begins with `-` may be an option that lost its value: clap knows.
fn take(rest: &mut &[OsString]) -> Option<OsString> {
    let (value, tail) = rest.split_first()?;
    *rest = tail;
    is_plain(value).then(|| value.clone())
}

/// Whether there are options that do not go together.
fn at_odds(w: &RunWords) -> bool {
    let c = &w.cage;
    let one = [
        &c.name,
        &c.cpu,
        &c.memory,
        &c.memory_high,
        &c.swap,
        &c.pids,
        &c.cpus,
        &c.best_effort,
        &c.ssh_agent,
        &c.guests,
        &c.guests_dir,
        &c.project,
        &c.guest_timeout,
    ];
    let new_cage = !c.io.is_empty()
        || !c.ssh_key.is_empty()
        || !c.guest_hook.is_empty()
        || one
            .into_iter()
            .chain([&w.after, &w.after_timeout, &w.after_reboot])
            .chain([&w.capture.detach, &w.capture.log])
            .any(Option::is_some);
    w.capture.detach.is_some() && w.capture.log.is_some()
        || w.job.is_some() && new_cage
        || w.common.quiet.is_some() && w.common.verbose.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::words::{self, VerbWords};
    use proptest::prelude::*;

    fn by_clap(words: &[OsString]) -> Option<RunWords> {
        match words::split(words.iter().cloned()) {
            Ok(VerbWords::Run(run)) => Some(*run),
            _ => None,
        }
    }

    fn call(words: &[&str]) -> Vec<OsString> {
        ["jobcage", "run"]
            .iter()
            .chain(words)
            .map(OsString::from)
            .collect()
    }

    /// Each option of `run` as clap knows it, with a value that it may have.
    fn options() -> Vec<(String, bool)> {
        let mut command = words::command();
        command.build();
        let run = command.find_subcommand("run").expect("there is a run");
        let named = run.get_arguments().filter_map(|arg| Some((arg.get_long()?, arg)));
        named
            .filter(|(long, _)| *long != "help")
            .map(|(long, arg)| (format!("--{long}"), arg.is_require_equals_set()))
            .collect()
    }

    #[test]
    fn every_option_of_clap_goes_the_short_way() {
        assert!(options().len() > 25);
        for (option, switch) in options() {
            for words in [
                call(&[&option, "1", "--", "x"]),
                call(&[&option, "--", "x"]),
                call(&[&format!("{option}=1"), "--", "x"]),
                call(&[&option, "--", "--", "x"]),
            ] {
                let (quick, clap) = (run(&words), by_clap(&words));
                if quick.is_some() {
                    assert_eq!(quick, clap, "{words:?}");
                }
            }
            let plain = if switch {
                call(&[&option, "--", "x"])
            } else {
                call(&[&option, "1", "--", "x"])
            };
            assert!(run(&plain).is_some(), "{option} takes the long way");
        }
    }

    #[test]
    fn the_runners_calls_are_what_clap_says() {
        let calls = [
            ["config"].as_slice(),
            &["prepare"],
            &["cleanup"],
            &["run", "/tmp/a b/script", "step_x"],
        ];
        for call in calls {
            let words: Vec<OsString> = ["jobcage", "gitlab"]
                .iter()
                .chain(call)
                .map(OsString::from)
                .collect();
            let quick = split(&words).unwrap_or_else(|| panic!("{call:?} takes the long way"));
            assert_eq!(
                format!("{quick:?}"),
                format!("{:?}", words::split(words).unwrap())
            );
        }
        for call in [
            ["run", "script"].as_slice(),
            &["run", "--quiet", "script", "stage"],
            &["run", "", "stage"],
            &["prepare", "-v"],
            &["check"],
        ] {
            let words: Vec<OsString> = ["jobcage", "gitlab"]
                .iter()
                .chain(call)
                .map(OsString::from)
                .collect();
            assert!(split(&words).is_none(), "{call:?}");
        }
    }

    #[test]
    fn lists_keep_their_order_and_doubles_are_left_to_clap() {
        let lists = call(&[
            "--env",
            "B=1",
            "--env=A=2",
            "--env",
            "B=3",
            "--",
            "make",
            "--",
            "-x",
        ]);
        let quick = run(&lists).expect("this is plainly right");
        assert_eq!(quick.step.env, ["B=1", "A=2", "B=3"]);
        assert_eq!(quick.command, ["make", "--", "-x"]);
        assert_eq!(Some(quick), by_clap(&lists));
        for doubled in [
            ["--login", "--login"],
            ["-q", "--quiet"],
            ["--cpu=1", "--cpu=2"],
            ["-q", "-v"],
        ] {
            assert_eq!(
                run(&call(&[doubled[0], doubled[1], "--", "x"])),
                None,
                "{doubled:?}"
            );
        }
    }

    /// An option in one of its forms, or junk. Mostly from a few names, so that options meet themselves again.
    fn part() -> impl Strategy<Value = Vec<String>> {
        let names: Vec<String> = options().into_iter().map(|(name, _)| name).collect();
        let few = [
            "--env",
            "--io",
            "--login",
            "--quiet",
            "-v",
            "--timeout",
            "--job",
            "--memory",
        ]
        .map(String::from);
        let name =
            prop_oneof![3 => proptest::sample::select(few.to_vec()), 1 => proptest::sample::select(names)];
        let value = "[a-z0-9=:,.][a-z0-9=:,.-]{0,3}";
        prop_oneof![
            4 => name.clone().prop_map(|name| vec![name]),
            4 => (name.clone(), value).prop_map(|(name, value)| vec![name, value]),
            4 => (name, "[a-z0-9=-]{0,4}").prop_map(|(name, value)| vec![format!("{name}={value}")]),
            1 => "[a-z0-9=-]{0,4}".prop_map(|junk| vec![junk]),
            1 => proptest::sample::select(vec!["-q", "-v", "-qv", "-h", "--help", "--", "-", "run", "--mem"])
                .prop_map(|word| vec![word.to_owned()]),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1500))]
        #[test]
        fn what_goes_the_short_way_is_what_clap_says(
            before in prop::collection::vec(part(), 0..4),
            command in prop::collection::vec("[a-z-]{0,4}", 0..3),
        ) {
            let mut words = call(&[]);
            words.extend(before.iter().flatten().map(OsString::from));
            words.push("--".into());
            words.extend(command.iter().map(OsString::from));
            if let Some(quick) = run(&words) {
                prop_assert_eq!(Some(quick), by_clap(&words), "{:?}", words);
            }
        }
    }
}
