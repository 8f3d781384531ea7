//! What is meant by `--host`: the words go to a jobcage on that host, which means them there, with its own variables and config files. Here
//! only the host, the line, and what has to come from this side are looked at.

use clap::ArgAction;
use clap::parser::ValueSource;
use jobcage_job::{parse_duration, parse_size};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use super::error::Error;
use super::meaning::{Door, job_id};
use super::pick::{self, only};
use super::request::{HostsRequest, RemoteRequest, RemoteVerb, Request, Secret};
use super::values::{parse_bool, parse_clock};
use super::words::{self, AttachWords, CreateWords, HostWords, LineWords, RunWords, VerbWords};
use crate::config::Origin;

/// `--reconnect-for`, unless it is given.
pub const RECONNECT_FOR: Duration = Duration::from_secs(300);
/// `--keepalive`, unless it is given.
pub const KEEPALIVE: Duration = Duration::from_secs(5);
/// `--lease`, unless it is given.
pub const LEASE: Duration = Duration::from_secs(600);

/// Options of `run` that are this side's business.
const OURS: &[&str] = &[
    "host",
    "ssh",
    "remote_binary",
    "lease",
    "reconnect_for",
    "keepalive",
    "quiet",
    "verbose",
    "report",
    "stdin",
    "send",
    "forward_agent",
    "fetch",
    "detach",
    "fail_fast",
    "log",
    "env",
];

/// The host that words name.
pub fn host_of(words: &VerbWords) -> Option<&HostWords> {
    Some(match words {
        VerbWords::Run(w) => &w.host,
        VerbWords::Create(w) => &w.host,
        VerbWords::Cleanup(w) => &w.host,
        VerbWords::List(w) => &w.host,
        VerbWords::Show(w) => &w.host,
        VerbWords::Stop(w) => &w.host,
        VerbWords::Logs(w) => &w.host,
        VerbWords::Attach(w) => &w.host,
        VerbWords::Wait(w) => &w.host,
        _ => return None,
    })
}

/// Options of a host where there is none.
pub fn without_a_host(words: &VerbWords) -> Option<&'static str> {
    let of_host = |w: &HostWords| {
        let ssh = w.ssh.is_some().then_some("--ssh");
        ssh.or(w.remote_binary.is_some().then_some("--remote-binary"))
    };
    let of_line = |w: &LineWords| {
        let time = w.reconnect_for.is_some().then_some("--reconnect-for");
        time.or(w.keepalive.is_some().then_some("--keepalive"))
    };
    let host = host_of(words).filter(|host| host.host.is_empty())?;
    of_host(host).or_else(|| match words {
        VerbWords::Run(w) => {
            let lease = w.lease.is_some().then_some("--lease");
            let fail_fast = w.fail_fast.is_some().then_some("--fail-fast");
            let send = (!w.send.is_empty()).then_some("--send");
            let fetch = (!w.fetch.is_empty()).then_some("--fetch");
            let agent = w.forward_agent.is_some().then_some("--forward-agent");
            of_line(&w.line)
                .or(lease)
                .or(fail_fast)
                .or(send)
                .or(fetch)
                .or(agent)
        }
        VerbWords::Attach(w) => of_line(&w.line),
        _ => None,
    })
}

impl Door<'_> {
    /// The request of words with `--host`; `argv`: the same as they were typed.
    ///
    /// # Errors
    /// If what is this side's business cannot be meant.
    pub fn elsewhere(&self, words: VerbWords, argv: &[OsString]) -> Result<Request, Error> {
        match words {
            VerbWords::Run(w) if w.host.host.len() > 1 => {
                Ok(Request::Hosts(Box::new(self.side_by_side(*w, argv)?)))
            }
            words => Ok(Request::Remote(Box::new(self.remote(words, argv)?))),
        }
    }

    fn side_by_side(&self, w: RunWords, argv: &[OsString]) -> Result<HostsRequest, Error> {
        if w.job.is_some() {
            return Err(Error::value("--job", "a job is on one host: give that one alone"));
        }
        let words = words::forwarded(argv, &["host", "report", "fail_fast"]);
        let named = |host: OsString| {
            let (target, port) = address(host)?;
            Ok(port.map_or_else(|| target.clone(), |port| format!("{target}:{port}")))
        };
        Ok(HostsRequest {
            hosts: w.host.host.into_iter().map(named).collect::<Result<_, Error>>()?,
            words: words.map_err(|error| Error::usage(&error, Some("run")))?,
            fail_fast: only("--fail-fast", w.fail_fast, pick::text(parse_bool))?.unwrap_or(false),
            report: w.report.map(Into::into),
            common: self.common(w.common)?,
        })
    }

    /// Of one host.
    fn remote(&self, words: VerbWords, argv: &[OsString]) -> Result<RemoteRequest, Error> {
        let forwarded = |skipped: &[&str]| {
            let words = words::forwarded(argv, skipped);
            words.map_err(|error| Error::usage(&error, argv.get(1).and_then(|verb| verb.to_str())))
        };
        let mut line = LineWords::default();
        let mut forward_agent = None;
        let (host, common, verb) = match words {
            VerbWords::Run(w) => {
                let mut w = *w;
                line = std::mem::take(&mut w.line);
                forward_agent = w.forward_agent.take();
                let (host, common) = (std::mem::take(&mut w.host), std::mem::take(&mut w.common));
                (host, common, self.run_there(w, forwarded(OURS)?)?)
            }
            VerbWords::Create(mut w) => {
                let (host, common) = (std::mem::take(&mut w.host), std::mem::take(&mut w.common));
                (
                    host,
                    common,
                    create_there(*w, forwarded(&["host", "ssh", "remote_binary", "lease", "id"])?)?,
                )
            }
            VerbWords::Attach(mut w) => {
                line = std::mem::take(&mut w.line);
                let (host, common) = (std::mem::take(&mut w.host), std::mem::take(&mut w.common));
                (host, common, attach_there(w)?)
            }
            other => {
                let host = host_of(&other).map(|host| HostWords {
                    host: host.host.clone(),
                    ssh: host.ssh.clone(),
                    remote_binary: host.remote_binary.clone(),
                });
                let verb = argv.get(1).cloned();
                let words = verb
                    .into_iter()
                    .chain(forwarded(&["host", "ssh", "remote_binary"])?)
                    .collect();
                (
                    host.unwrap_or_default(),
                    Default::default(),
                    RemoteVerb::Other { words },
                )
            }
        };
        let [host_given] = <[OsString; 1]>::try_from(host.host)
            .map_err(|_| Error::value("--host", "only `run` takes several hosts: give one"))?;
        let (target, port) = address(host_given)?;
        Ok(RemoteRequest {
            common: self.common(common)?,
            ssh: ssh_words(host.ssh)?,
            host: port.map_or_else(|| target.clone(), |port| format!("{target}:{port}")),
            target,
            port,
            binary: host.remote_binary.map(Into::into),
            reconnect_for: only("--reconnect-for", line.reconnect_for, pick::text(parse_time))?
                .unwrap_or(RECONNECT_FOR),
            keepalive: only("--keepalive", line.keepalive, pick::text(parse_clock))?.unwrap_or(KEEPALIVE),
            forward_agent: only("--forward-agent", forward_agent, pick::text(parse_bool))?.unwrap_or(false),
            verb,
        })
    }

    fn run_there(&self, w: RunWords, words: Vec<OsString>) -> Result<RemoteVerb, Error> {
        if !w.cage.ssh_key.is_empty() {
            return Err(Error::value(
                "--ssh-key",
                "with --host a key would have to leave this machine; give the job your agent with --forward-agent, or the host a key of its own",
            ));
        }
        let switch = |flag, word: Option<OsString>| {
            Ok::<_, Error>(only(flag, word, pick::text(parse_bool))?.unwrap_or(false))
        };
        let detach = switch("--detach", w.capture.detach)?;
        if detach && !w.fetch.is_empty() {
            return Err(Error::value(
                "--fetch",
                "nobody waits for the end of a job with --detach",
            ));
        }
        let lease = only("--lease", w.lease, pick::text(parse_time))?;
        // Whoever leaves a job will not be heard of.
        let lease = lease.unwrap_or(if detach { Duration::ZERO } else { LEASE });
        Ok(RemoteVerb::Run {
            name: w
                .cage
                .name
                .or_else(|| w.command.first().cloned())
                .map(short_name)
                .unwrap_or_default(),
            words,
            env: self.variables(w.step.env)?,
            lease: (!lease.is_zero()).then_some(lease),
            stdin: w.capture.stdin.map(Into::into),
            send: files("--send", w.send)?
                .into_iter()
                .map(|(path, dest)| (path.into(), dest))
                .collect(),
            fetch: files("--fetch", w.fetch)?
                .into_iter()
                .map(|(path, dest)| (path, dest.into()))
                .collect(),
            detach,
            report: w.report.map(Into::into),
        })
    }

    /// Each name once; a value that is not given is this side's.
    fn variables(&self, given: Vec<OsString>) -> Result<Vec<(OsString, Secret)>, Error> {
        let mut set: Vec<(OsString, Secret)> = Vec::new();
        for word in given {
            let variable = self.variable(&word, Origin::Flag("--env"));
            if let Some((name, value)) = variable.map_err(|why| Error::value("--env", why))? {
                set.retain(|(known, _)| *known != name);
                set.push((name, value));
            }
        }
        Ok(set)
    }
}

/// Each with its directory on the other side.
fn files(flag: &'static str, given: Vec<OsString>) -> Result<Vec<(OsString, OsString)>, Error> {
    let split = |word: OsString| {
        let bytes = word.as_bytes();
        let (path, dest) = match bytes.iter().position(|byte| *byte == b':') {
            Some(at) => (&bytes[..at], &bytes[at + 1..]),
            None => (bytes, &b"."[..]),
        };
        if path.is_empty() || dest.is_empty() {
            return Err(Error::value(flag, "write it as PATH or PATH:DEST"));
        }
        Ok((OsStr::from_bytes(path).into(), OsStr::from_bytes(dest).into()))
    };
    given.into_iter().map(split).collect()
}

fn create_there(w: CreateWords, words: Vec<OsString>) -> Result<RemoteVerb, Error> {
    let lease = only("--lease", w.lease, pick::text(parse_time))?.unwrap_or(LEASE);
    Ok(RemoteVerb::Create {
        name: w.cage.name.map(short_name).unwrap_or_default(),
        words,
        lease: (!lease.is_zero()).then_some(lease),
    })
}

fn attach_there(w: AttachWords) -> Result<RemoteVerb, Error> {
    if w.begin.tail.is_some() {
        return Err(Error::value(
            "--tail",
            "with --host it is for \"jobcage logs\" alone: give --offset",
        ));
    }
    Ok(RemoteVerb::Attach {
        id: job_id("ID", &w.id)?,
        offset: only("--offset", w.begin.offset, pick::text(parse_size))?.unwrap_or(0),
        stop_on_interrupt: w.stop_on_interrupt,
    })
}

/// The last part of a path decorates the id, as it does on this host.
fn short_name(word: OsString) -> String {
    let name = std::path::Path::new(&word)
        .file_name()
        .map(OsStr::to_string_lossy);
    name.unwrap_or_default().into_owned()
}

/// 0 is a time, too.
pub(super) fn parse_time(text: &str) -> Result<Duration, String> {
    parse_duration(text).map_err(|error| error.to_string())
}

/// `[user@]host[:port]`, and nothing that ssh could take for an option. An IPv6 address with a port stands in brackets.
fn address(given: OsString) -> Result<(String, Option<u16>), Error> {
    let wrong = |why: &str| Error::value("--host", why.to_owned());
    let text = given.into_string().map_err(|_| wrong("it is no text"))?;
    let is_plain = |text: &str| {
        !text.is_empty()
            && !text.starts_with('-')
            && !text.contains(|c: char| c.is_whitespace() || c.is_control())
    };
    let (target, port) = match text.rsplit_once(':') {
        Some((before, port)) if !before.contains(':') || before.ends_with(']') => {
            let port = port.parse().ok().filter(|port: &u16| *port > 0);
            let port = port.ok_or_else(|| wrong("behind the colon there has to be a port, 1 to 65535"))?;
            (before.replace(['[', ']'], ""), Some(port))
        }
        _ => (text.replace(['[', ']'], ""), None),
    };
    let name = target.rsplit_once('@').map_or(target.as_str(), |(_, host)| host);
    if !is_plain(&target) || !is_plain(name) {
        return Err(wrong("write it as [user@]host[:port]"));
    }
    Ok((target, port))
}

fn ssh_words(given: Option<OsString>) -> Result<Vec<OsString>, Error> {
    let Some(given) = given else {
        return Ok(vec!["ssh".into()]);
    };
    let words: Vec<OsString> = given
        .as_bytes()
        .split(|byte| *byte == b' ')
        .filter(|word| !word.is_empty())
        .map(|word| OsStr::from_bytes(word).to_owned())
        .collect();
    if words.is_empty() {
        return Err(Error::value(
            "--ssh",
            "it is empty: write a program and its options",
        ));
    }
    Ok(words)
}

/// Writes words again as they were meant, without some options: those that clap has read, in one form.
pub(super) fn again(command: &clap::Command, matches: &clap::ArgMatches, skipped: &[&str]) -> Vec<OsString> {
    let (mut options, mut words, mut last) = (Vec::new(), Vec::new(), Vec::new());
    for arg in command.get_arguments() {
        let id = arg.get_id().as_str();
        if skipped.contains(&id) || !matches!(matches.value_source(id), Some(ValueSource::CommandLine)) {
            continue;
        }
        let values: Vec<OsString> = matches
            .get_raw(id)
            .into_iter()
            .flatten()
            .map(OsStr::to_owned)
            .collect();
        match (arg.get_long(), arg.get_action()) {
            (Some(long), ArgAction::SetTrue) => options.push(format!("--{long}").into()),
            (Some(long), _) => options.extend(values.into_iter().map(|value| {
                let mut word = OsString::from(format!("--{long}="));
                word.push(value);
                word
            })),
            (None, _) if arg.is_last_set() => last.extend(values),
            (None, _) => words.extend(values),
        }
    }
    options.extend(words);
    if !last.is_empty() {
        options.push("--".into());
        options.extend(last);
    }
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_no_options() {
        let ok = |text: &str| address(text.into()).unwrap();
        assert_eq!(ok("h"), ("h".into(), None));
        assert_eq!(ok("me@h.example:2222"), ("me@h.example".into(), Some(2222)));
        assert_eq!(ok("[::1]:22"), ("::1".into(), Some(22)));
        assert_eq!(ok("me@fe80::1"), ("me@fe80::1".into(), None));
        for bad in [
            "",
            "-oProxyCommand=x",
            "me@-x",
            "a b",
            "h:",
            "h:0",
            "h:x",
            "h\n",
            "@",
            "me@",
        ] {
            assert!(address(bad.into()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn words_go_on_as_they_were_meant() {
        let argv = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
        let words = argv(&[
            "jobcage",
            "run",
            "--host",
            "h",
            "--timeout=5",
            "--login",
            "--after",
            "--host x",
            "--rlimit",
            "a=1",
            "--rlimit=b=2",
            "--",
            "make",
            "--",
            "-x",
        ]);
        let forwarded = words::forwarded(&words, OURS).unwrap();
        let mut options = forwarded.clone();
        let command = options.split_off(options.iter().position(|word| word == "--").unwrap());
        options.sort();
        assert_eq!(
            options,
            argv(&[
                "--after=--host x",
                "--login=true",
                "--rlimit=a=1",
                "--rlimit=b=2",
                "--timeout=5"
            ])
        );
        assert_eq!(command, argv(&["--", "make", "--", "-x"]));
        let stop = argv(&["jobcage", "stop", "--host=h", "--now", "a-00000000"]);
        assert_eq!(
            words::forwarded(&stop, &["host"]).unwrap(),
            argv(&["stop", "--now", "a-00000000"])[1..]
        );
    }
}
