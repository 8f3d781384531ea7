//! The jobs on other hosts that a job of this one has: they are noted where its closing finds them, and told to end by a process of the job's
//! own user.

use super::VerbError;
use crate::cli::request::{RemoteRequest, RemoteVerb};
use jobcage_job::{JobId, RemoteJob, RemoteNote, Report};
use jobcage_ledger::handed::{append, remotes_beside};
use jobcage_remote::{Binary, Client, Course, Ends, From, Options, Outcome, RemoteError, What};
use jobcage_supervisor::{REMOTES_TRY, RemoteFate};
use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

/// The file in which the job that we are in notes its jobs on other hosts. `None`: we are in none that has such a file.
fn notes() -> Option<PathBuf> {
    let env = PathBuf::from(std::env::var_os("JOBCAGE_ENV")?);
    let is_there = env.is_absolute() && env.exists();
    remotes_beside(&env).filter(|_| is_there)
}

/// Notes that a job is about to be made there. What goes wrong is told: the job's lease does it then.
pub fn opened(request: &RemoteRequest, id: &JobId, lease: Option<Duration>, tell: &dyn Fn(&str)) {
    let Some(notes) = notes() else { return };
    let noted = text_of(request, id, lease)
        .ok_or_else(|| "a word of its ssh is no text".to_owned())
        .and_then(|job| append(&notes, &RemoteNote::Opened(job).line()).map_err(|error| error.to_string()));
    if let Err(why) = noted {
        tell(&format!(
            "the end of this job will not end the job {id} on {}, but its lease will: it cannot be noted: {why}",
            request.host
        ));
    }
}

/// Notes that it is over there.
pub fn closed(id: &JobId) {
    if let Some(notes) = notes() {
        // Else it is told to end once more, which is no harm.
        let _ = append(&notes, &RemoteNote::Closed(id.clone()).line());
    }
}

fn text_of(request: &RemoteRequest, id: &JobId, lease: Option<Duration>) -> Option<RemoteJob> {
    let text = |word: &OsStr| word.to_str().map(str::to_owned);
    let agent = std::env::var_os("SSH_AUTH_SOCK");
    let binary = request.binary.as_ref().map(std::path::absolute);
    Some(RemoteJob {
        id: id.clone(),
        host: request.host.clone(),
        target: request.target.clone(),
        port: request.port,
        ssh: request.ssh.iter().map(|word| text(word)).collect::<Option<_>>()?,
        dir: text(std::env::current_dir().ok()?.as_os_str())?,
        agent: agent.and_then(|agent| text(&agent)),
        binary: binary.and_then(|path| text(path.ok()?.as_os_str())),
        lease,
    })
}

/// Whether the words of a verb end a job there, and which one: with it the note of that job is over.
pub fn ends(verb: &RemoteVerb) -> Option<JobId> {
    let RemoteVerb::Other { words } = verb else {
        return None;
    };
    let is_end = words
        .first()
        .is_some_and(|word| word == "cleanup" || word == "stop");
    words
        .iter()
        .skip(1)
        .rev()
        .filter(|_| is_end)
        .find_map(|word| word.to_str()?.parse().ok())
}

/// `jobcage __close-remotes`: tells the jobs that standard input names to end, all at once, and prints a line for each as soon as it is known what
/// came of it.
///
/// # Errors
/// If standard input is no list of them.
pub fn close() -> Result<(), VerbError> {
    let mut text = Vec::new();
    let read = std::io::stdin()
        .read_to_end(&mut text)
        .map_err(|error| error.to_string());
    let jobs: Vec<RemoteJob> = read
        .and_then(|_| serde_json::from_slice(&text).map_err(|error| error.to_string()))
        .map_err(|why| VerbError::Who(format!("the jobs on other hosts cannot be read: {why}")))?;
    let until = Instant::now() + REMOTES_TRY;
    let told: Vec<Arc<AtomicBool>> = jobs.iter().map(|_| Arc::default()).collect();
    let (say, hear) = mpsc::channel();
    for (at, job) in jobs.iter().enumerate() {
        let (job, is_told, say) = (job.clone(), told[at].clone(), say.clone());
        std::thread::spawn(move || say.send((at, fate_of(&job, is_told))));
    }
    drop(say);
    let mut is_open = vec![true; jobs.len()];
    loop {
        match hear.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok((at, fate)) => {
                is_open[at] = false;
                print(at, &fate)?;
            }
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
            Err(RecvTimeoutError::Timeout) => break,
        }
    }
    // Their threads and their ssh end with us.
    for at in (0..jobs.len()).filter(|at| is_open[*at]) {
        let fate = if told[at].load(Ordering::Relaxed) {
            RemoteFate::Told
        } else {
            RemoteFate::Unreached(format!("nobody answered within {} s", REMOTES_TRY.as_secs()))
        };
        print(at, &fate)?;
    }
    Ok(())
}

fn print(at: usize, fate: &RemoteFate) -> Result<(), VerbError> {
    let line = serde_json::to_string(&(at, fate)).unwrap_or_default();
    super::pages::print((line + "\n").as_bytes()).map(drop)
}

fn fate_of(job: &RemoteJob, is_told: Arc<AtomicBool>) -> RemoteFate {
    match tell_one(job, is_told.clone()) {
        Ok(Outcome::Job(Ends::Over { report, .. })) => how_it_was(&report),
        Ok(Outcome::Job(Ends::HostLost)) => RemoteFate::Over,
        Ok(Outcome::Job(Ends::Gone(why))) => RemoteFate::Odd(why),
        Ok(Outcome::Job(Ends::Refused(why))) => RemoteFate::Unreached(why),
        Ok(Outcome::Lost(_)) if is_told.load(Ordering::Relaxed) => RemoteFate::Told,
        Ok(Outcome::Lost(lost)) => RemoteFate::Unreached(lost.why),
        Ok(_) => RemoteFate::Unreached("it was interrupted".into()),
        Err(error) => RemoteFate::Unreached(error.to_string()),
    }
}

fn how_it_was(report: &str) -> RemoteFate {
    match serde_json::from_str::<Report>(report) {
        Ok(report) if report.clean => RemoteFate::Over,
        Ok(_) => RemoteFate::Odd("it is over there, and not clean: ask its host (jobcage show)".into()),
        Err(error) => RemoteFate::Odd(format!(
            "it is over there, and its report cannot be read: {error}"
        )),
    }
}

fn tell_one(job: &RemoteJob, is_told: Arc<AtomicBool>) -> Result<Outcome, RemoteError> {
    let options = Options {
        ssh: job.ssh.iter().map(OsString::from).collect(),
        host: job.host.clone(),
        target: job.target.clone(),
        port: job.port,
        // The line that there is now, or none: there is little time.
        reconnect_for: Duration::ZERO,
        keepalive: crate::cli::KEEPALIVE,
        forward_agent: false,
        binary: Binary::find(job.binary.as_deref().map(Path::new))?,
        from: Some(From {
            dir: OsString::from(&job.dir),
            agent: job.agent.as_ref().map(OsString::from),
        }),
    };
    let course = Course::attach_to(job.id.clone(), 0).into();
    Ok(Client::new(options, What::Close { course, is_told }, &|_| {})?
        .run()?
        .outcome)
}
