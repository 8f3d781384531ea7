//! The verbs with `--host`, on both sides of the line.

use super::captured::OUTPUT_GONE;
use super::command;
use super::job_files;
use super::remotes;
use super::run::{start_for, tell, write_report};
use super::{Outcome, VerbError};
use crate::cli;
use crate::cli::request::{CageChoice, RemoteRequest, RemoteVerb, Request, RunRequest, Voice};
use crate::config::environ::Environ;
use jobcage_job::{CONNECTION_LOST, Ending, Guarantee, JobId, REPORT_VERSION, Report};
use jobcage_ledger::Places;
use jobcage_remote::{
    BUILD, Binary, Client, Course, Ends, Host, Lost, Options, RemoteError, Start, Wanted, What, pack, spool,
};
use jobcage_supervisor::foreground::random;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// jobcage failed.
const FAILED: u8 = 125;

/// A verb on another host, from this side.
///
/// # Errors
/// If the host cannot be reached, or this side fails; how a job ended there is the exit code.
pub fn remote(request: RemoteRequest) -> Outcome {
    let (what, report, opens) = what(&request.verb)?;
    let options = Options {
        ssh: request.ssh.clone(),
        host: request.host.clone(),
        target: request.target.clone(),
        port: request.port,
        reconnect_for: request.reconnect_for,
        keepalive: request.keepalive,
        binary: Binary::find(request.binary.as_deref())?,
        forward_agent: request.forward_agent,
        from: None,
    };
    let is_quiet = request.common.voice == Voice::Quiet;
    let told = |line: &str| {
        if !is_quiet {
            crate::complain(&crate::render::harmless(line));
        }
    };
    if let Some((id, lease)) = &opens {
        remotes::opened(&request, id, *lease, &told);
    }
    let called = Client::new(options, what, &told)?.run();
    if let (Err(RemoteError::Unreachable { .. }), Some((id, _))) = (&called, &opens) {
        // It was never begun.
        remotes::closed(id);
    }
    let call = called?;
    note_ends(&request.verb, &call.outcome, opens.map(|(id, _)| id));
    let id = match &call.what {
        What::Job { course, .. } => Some(course.id()),
        What::Close { .. } | What::Verb(_) => None,
    };
    match (call.outcome, id) {
        (jobcage_remote::Outcome::Job(ends), Some(id)) => {
            let code = ended(&request, id, ends, report.as_deref())?;
            for missing in &call.missing {
                crate::complain(&crate::render::harmless(missing));
            }
            Ok(match code {
                _ if call.is_output_gone => OUTPUT_GONE,
                // The job's own failure says more.
                0 if !call.missing.is_empty() => FAILED,
                code => code,
            })
        }
        (jobcage_remote::Outcome::Started, Some(id)) => super::pages::print(format!("{id}\n").as_bytes()),
        (jobcage_remote::Outcome::Lost(lost), id) => lost_sight(&request, id, &lost, report.as_deref()),
        (jobcage_remote::Outcome::Interrupted(signal), id) => {
            if let (Some(id), RemoteVerb::Attach { .. }) = (id, &request.verb) {
                crate::complain(&format_args!(
                    "the job {id} goes on; \"{}\" comes back to it",
                    attach_words(&request, id)
                ));
            }
            Ok(u8::try_from(128 + signal).unwrap_or(FAILED))
        }
        (jobcage_remote::Outcome::Done(code), _) => Ok(code),
        (jobcage_remote::Outcome::OutputGone, _) => Ok(OUTPUT_GONE),
        (jobcage_remote::Outcome::Job(_) | jobcage_remote::Outcome::Started, None) => Ok(FAILED),
    }
}

/// In a job: what is over there needs not be told to end.
fn note_ends(verb: &RemoteVerb, outcome: &jobcage_remote::Outcome, opened: Option<JobId>) {
    let over = match (verb, outcome) {
        (RemoteVerb::Run { .. }, jobcage_remote::Outcome::Job(_)) => opened,
        (RemoteVerb::Create { .. }, jobcage_remote::Outcome::Done(code)) if *code != 0 => opened,
        (verb, jobcage_remote::Outcome::Done(0)) => remotes::ends(verb),
        _ => None,
    };
    if let Some(id) = over {
        remotes::closed(&id);
    }
}

/// A job that a verb makes there, and its lease.
type Opens = Option<(JobId, Option<Duration>)>;

/// What the client is to do, where the report goes, and which job it makes.
fn what(verb: &RemoteVerb) -> Result<(What, Option<PathBuf>, Opens), VerbError> {
    Ok(match verb {
        RemoteVerb::Run {
            name,
            words,
            env,
            lease,
            stdin,
            send,
            fetch,
            detach,
            report,
        } => {
            let open = |path: &PathBuf| {
                std::fs::File::open(path).map_err(|source| VerbError::Stdin {
                    path: path.clone(),
                    source,
                })
            };
            let env = env
                .iter()
                .map(|(name, value)| (name.clone(), value.expose().to_owned()));
            let id = JobId::generate(name, random());
            let start = Start {
                id: id.clone(),
                lease: *lease,
                words: words.clone(),
                env: env.collect(),
            };
            let what = What::Job {
                course: Course::start(start).into(),
                input: stdin.as_ref().map(open).transpose()?,
                send: send.iter().map(packed).collect::<Result<_, _>>()?,
                fetch: fetch
                    .iter()
                    .map(|(path, to)| Wanted {
                        path: path.clone(),
                        to: to.clone(),
                    })
                    .collect(),
                detach: *detach,
                stops: true,
            };
            (what, report.clone(), Some((id, *lease)))
        }
        RemoteVerb::Attach {
            id,
            offset,
            stop_on_interrupt,
        } => {
            let what = What::Job {
                course: Course::attach_to(id.clone(), *offset).into(),
                input: None,
                send: Vec::new(),
                fetch: Vec::new(),
                detach: false,
                stops: *stop_on_interrupt,
            };
            (what, None, None)
        }
        RemoteVerb::Create { name, words, lease } => {
            let id = JobId::generate(if name.is_empty() { "job" } else { name }, random());
            let own = [
                "create".to_owned(),
                format!("--id={id}"),
                format!("--lease={}s", lease.unwrap_or_default().as_secs_f64()),
            ];
            let words = own.into_iter().map(OsString::from).chain(words.iter().cloned());
            (What::Verb(words.collect()), None, Some((id, *lease)))
        }
        RemoteVerb::Other { words } => (What::Verb(words.clone()), None, None),
    })
}

/// An archive of files of this side, for a directory there.
fn packed((path, dest): &(PathBuf, OsString)) -> Result<(OsString, std::fs::File), VerbError> {
    let failed = |why: String| VerbError::Who(format!("cannot send {} (--send): {why}", path.display()));
    let file = spool().map_err(failed)?;
    let into = file.try_clone().map_err(|error| failed(error.to_string()))?;
    let skipped = pack(path, into).map_err(|error| failed(error.to_string()))?;
    if skipped > 0 {
        crate::complain(&format_args!(
            "{skipped} in {} are neither file, directory nor link: they are left out",
            path.display()
        ));
    }
    Ok((dest.clone(), file))
}

fn ended(request: &RemoteRequest, id: &JobId, ends: Ends, to: Option<&Path>) -> Outcome {
    let host = || request.host.clone();
    let report = match ends {
        Ends::Refused(why) => return refused(&format!("{}: {why}", request.host)),
        Ends::Gone(why) => return refused(&format!("{}: {why}: how it ended is not known", request.host)),
        Ends::Over { report, boot_id } => seen_from(&host(), parsed(&report)?, &boot_id),
        Ends::HostLost => host_lost(&host(), unknown(id)),
    };
    let report = Report {
        host: Some(host()),
        ..report
    };
    tell(&report, request.common.voice);
    written(to, &report);
    Ok((report.exit_code & 0xff) as u8)
}

/// A job that its host has lost with an earlier boot is one that we have lost with its host. One that had ended before that has its own end.
fn seen_from(host: &str, report: Report, now: &str) -> Report {
    match &report.ending {
        Ending::Lost { .. } if report.boot_id != now => host_lost(host, report),
        _ => report,
    }
}

/// What the host's gc knows of the rest stays.
fn host_lost(host: &str, known: Report) -> Report {
    let ending = Ending::HostLost { host: host.into() };
    Report {
        exit_code: ending.exit_code(),
        ending,
        ..known
    }
}

/// The host's jobcage has failed, or ours: never the job.
fn refused(why: &str) -> Outcome {
    crate::complain(&crate::render::harmless(why));
    Ok(FAILED)
}

fn parsed(text: &str) -> Result<Report, VerbError> {
    serde_json::from_str(text).map_err(|error| {
        jobcage_remote::RemoteError::Garbled(format!("a report that cannot be read ({error})")).into()
    })
}

/// The job may run, or may have ended meanwhile: the last line says how to find out.
fn lost_sight(request: &RemoteRequest, id: Option<&JobId>, lost: &Lost, to: Option<&Path>) -> Outcome {
    let Some(id) = id else {
        return refused(&format!("the line to {} broke: {}", request.host, lost.why));
    };
    let attach = attach_words(request, id);
    let ending = Ending::ConnectionLost {
        host: request.host.clone(),
        why: lost.why.clone(),
        attach: attach.clone(),
    };
    let report = Report {
        host: Some(request.host.clone()),
        exit_code: ending.exit_code(),
        ending,
        ..unknown(id)
    };
    written(to, &report);
    let state = match (lost.is_started, lost.is_stopped) {
        (_, true) => "was to be stopped, and may not have heard of it: its lease ends it",
        (true, false) => "may run on",
        (false, false) => "may have been started",
    };
    let line = format!(
        "connection lost: no line to {} for {:.0} s ({}); the job {id} {state}; \"{attach}\" comes back to it",
        request.host,
        lost.tried.as_secs_f64(),
        lost.why,
    );
    crate::complain(&crate::render::harmless(&line));
    Ok(u8::try_from(CONNECTION_LOST).unwrap_or(FAILED))
}

fn attach_words(request: &RemoteRequest, id: &JobId) -> String {
    format!("jobcage attach --host {} {id}", request.host)
}

/// A report of a job of which nothing is known but its id.
fn unknown(id: &JobId) -> Report {
    Report {
        version: REPORT_VERSION,
        jobcage: BUILD.into(),
        job: id.clone(),
        host: None,
        name: None,
        ending: Ending::Lost { why: String::new() },
        status: None,
        exit_code: i32::from(FAILED),
        notes: Vec::new(),
        clean: false,
        closed_by: "client".into(),
        started: String::new(),
        ended: String::new(),
        wall_seconds: 0.0,
        boot_id: String::new(),
        guarantee: Guarantee::default(),
        cage: String::new(),
        root: None,
        steps: Vec::new(),
        census: Default::default(),
        escaped: Vec::new(),
        guests: Vec::new(),
        proof: None,
        quarantine: None,
        limits: Default::default(),
        usage: Default::default(),
    }
}

fn written(to: Option<&Path>, report: &Report) {
    if let Some(path) = to
        && let Err(error) = write_report(path, report)
    {
        crate::complain(&error);
    }
}

/// The other side: `jobcage __remote TOKEN`.
///
/// # Errors
/// If the line cannot be used.
pub fn serve(token: &str) -> Result<(), VerbError> {
    let request = parse(vec!["list".into()])?;
    let Request::List(list) = request else {
        return Ok(());
    };
    let host = Here {
        places: super::places(&list.common.places),
    };
    Ok(jobcage_remote::serve(token, &host)?)
}

/// Words as whoever has logged in here means them.
fn parse(words: Vec<OsString>) -> Result<Request, VerbError> {
    let words = std::iter::once(OsString::from("jobcage")).chain(words).collect();
    let parsed = cli::parse(words, Environ::capture(), nix::unistd::geteuid().as_raw());
    parsed
        .map(|parsed| parsed.request)
        .map_err(|error| VerbError::Who(error.to_string()))
}

struct Here {
    places: Places,
}

impl Host for Here {
    fn start(&self, start: &Start, stdin: OwnedFd, agent: Option<&Path>) -> Result<(), String> {
        begin(start, &stdin, agent).map_err(|error| error.to_string())
    }

    fn unpack(&self, words: &[OsString], dir: &OsStr, files: File) -> Result<(), String> {
        job_files::unpack(words, dir, files).map_err(|error| error.to_string())
    }

    fn pack(&self, words: &[OsString], path: &OsStr) -> Result<(File, u64), String> {
        job_files::pack(words, path).map_err(|error| error.to_string())
    }

    fn places(&self) -> Places {
        self.places.clone()
    }
}

fn begin(start: &Start, stdin: &OwnedFd, agent: Option<&Path>) -> Result<(), VerbError> {
    let mut start = start.clone();
    start
        .env
        .extend(agent.map(|link| ("SSH_AUTH_SOCK".into(), link.into())));
    let run = run_of(captured_words(&start.env, true, &start.words))?;
    let other = command::uid(&run.step.identity)?;
    if agent.is_some() && other != nix::unistd::geteuid().as_raw() {
        return Err(VerbError::Who(format!(
            "--forward-agent is for jobs of the user who logs in there: the uid {other} could not use that agent"
        )));
    }
    let run = match &run.cage {
        CageChoice::New { .. } => run,
        CageChoice::Existing(_) => run_of(step_words(&start, run.grace)?)?,
    };
    start_for(run, start.id.clone(), start.lease, stdin.as_fd())
}

pub(super) fn run_of(words: Vec<OsString>) -> Result<RunRequest, VerbError> {
    match parse(words)? {
        Request::Run(run) => Ok(*run),
        _ => Err(VerbError::Who("only a job can be started over the line".into())),
    }
}

/// `run --detach`, or, of a step in a cage that is there, `run`; `values`: with the variables' values.
pub(super) fn captured_words(
    env: &[(OsString, OsString)],
    values: bool,
    words: &[OsString],
) -> Vec<OsString> {
    let is_step = words
        .iter()
        .take_while(|word| *word != "--")
        .any(|word| word.as_encoded_bytes().starts_with(b"--job="));
    let is_streamed = words
        .iter()
        .take_while(|word| *word != "--")
        .any(|word| word.as_encoded_bytes().starts_with(b"--streams="));
    let mut all: Vec<OsString> = vec!["run".into()];
    if !is_step {
        all.push("--detach".into());
    }
    if !is_step && !is_streamed {
        all.push("--streams=split".into());
    }
    for (name, value) in env {
        let mut word = OsString::from("--env=");
        word.push(name);
        if values {
            word.push("=");
            word.push(value);
        }
        all.push(word);
    }
    all.extend(words.iter().cloned());
    all
}

/// A further step of a cage that is there has no log of its own: so it is run by a job that has one, and is no more than that step's client.
fn step_words(start: &Start, grace: Duration) -> Result<Vec<OsString>, VerbError> {
    const LONGER: Duration = Duration::from_secs(10);
    let own = std::env::current_exe()
        .map_err(|error| VerbError::Who(format!("cannot name this program: {error}")))?;
    let mut words = captured_words(&start.env, true, &[]);
    words.push(format!("--grace={}s", (grace + LONGER).as_secs()).into());
    words.push("--".into());
    words.push(own.into());
    words.extend(captured_words(&start.env, false, &start.words));
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(ending: Ending, now: &str) -> Report {
        let exit_code = ending.exit_code();
        let report = Report {
            boot_id: "a".into(),
            exit_code,
            ending,
            ..unknown(&JobId::generate("job", 1))
        };
        seen_from("there", report, now)
    }

    #[test]
    fn only_a_job_that_was_lost_with_another_boot_is_lost_with_its_host() {
        let lost = || Ending::Lost { why: String::new() };
        let by_host = Ending::HostLost { host: "there".into() };
        assert_eq!(seen(lost(), "b").ending, by_host);
        assert_eq!(seen(lost(), "a").ending, lost());
        // It had ended, nobody could be told, and then the host went down.
        let ended = Ending::Exited { code: 3 };
        let report = seen(ended.clone(), "b");
        assert_eq!((report.ending, report.exit_code), (ended, 3));
    }
}
