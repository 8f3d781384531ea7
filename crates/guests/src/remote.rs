//! Jobs that a job has on other hosts (`jobcage run --host` in a job). What is here of them ends with the cage; there they are told to end, over
//! the job's own ssh and as its user, by a process of ours in the cgroup of the tools. Where nobody can be told, their lease ends them.

use crate::tools::{LISTING, Tools};
use crate::{GuestError, Kind, Result, left};
use jobcage_cage::Dir;
use jobcage_job::{GuestMode, GuestPlace, GuestReport, JobSpec, Outcome, RemoteJob, format_duration};
use jobcage_sys::file::sealed;
use nix::unistd::{Whence, lseek};
use serde::{Deserialize, Serialize};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

/// Its name in options, records and reports.
pub const REMOTE: &str = "remote";

/// How long the process of ours tries all of them: a second less than its own limit.
pub const REMOTES_TRY: Duration = Duration::from_secs(14);

pub(crate) struct Remote;

impl Kind for Remote {
    fn name(&self) -> &'static str {
        REMOTE
    }

    fn modes(&self) -> &'static [GuestMode] {
        &[GuestMode::Isolate]
    }

    fn usual(&self) -> Option<GuestMode> {
        Some(GuestMode::Isolate)
    }

    fn tools(&self) -> &'static [&'static str] {
        &["/usr/bin/ssh", "/usr/local/bin/ssh"]
    }

    /// Its notes are in the job's directory in memory.
    fn is_of_the_cage(&self) -> bool {
        true
    }

    fn variables(&self, _: &GuestPlace, _: GuestMode) -> Vec<(&'static str, String)> {
        Vec::new()
    }
}

/// What came of one of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RemoteFate {
    /// It is over there, and clean.
    Over,
    /// It is over, and not clean, or nothing is known of how; why.
    Odd(String),
    /// It was told to end, and has not ended yet.
    Told,
    /// Nobody there has heard it.
    Unreached(String),
}

/// Whether the jobs of a job on other hosts are looked after.
#[must_use]
pub fn tells_remotes(spec: &JobSpec) -> bool {
    let place = spec.guests.as_ref();
    place.is_some_and(|place| place.kinds.contains_key(REMOTE))
}

/// Whether it is a job on another host that could not be told.
#[must_use]
pub fn is_remote(report: &GuestReport) -> bool {
    report.kind == REMOTE
}

/// Tells them to end, all at once. Can be repeated. `above`: the cgroup that the job's cage is or was in.
#[must_use]
pub fn close_remotes(spec: &JobSpec, above: &Path, remotes: &[RemoteJob]) -> Vec<GuestReport> {
    let Some(place) = &spec.guests else {
        return Vec::new();
    };
    match fates(spec, place, above, remotes) {
        Ok(fates) => remotes
            .iter()
            .enumerate()
            .map(|(at, job)| report(job, fates.get(at).cloned().flatten()))
            .collect(),
        Err(why) => {
            let fate = RemoteFate::Unreached(why.to_string());
            remotes
                .iter()
                .map(|job| report(job, Some(fate.clone())))
                .collect()
        }
    }
}

fn fates(
    spec: &JobSpec,
    place: &GuestPlace,
    above: &Path,
    remotes: &[RemoteJob],
) -> Result<Vec<Option<RemoteFate>>> {
    let io = |errno| GuestError::Io {
        what: "write the jobs on other hosts for",
        path: "jobcage".into(),
        errno,
    };
    let text = serde_json::to_vec(remotes).unwrap_or_default();
    let file = sealed(c"remotes", &text).map_err(io)?;
    lseek(&file, 0, Whence::SeekSet).map_err(io)?;
    let above = Dir::open(above)?;
    let until = Instant::now() + place.timeout.min(LISTING);
    let tools = Tools::new(&above, spec, place, until);
    let pass = tools.pass(GuestMode::Isolate)?;
    // This very program, whatever lies by now where it was started from.
    let said = pass.call_with(&["/proc/self/exe", "__close-remotes"], file.as_fd(), LISTING);
    pass.end()?;
    Ok(parse(&said?, remotes.len()))
}

/// A line for each: its place in the list, and what came of it.
fn parse(said: &str, count: usize) -> Vec<Option<RemoteFate>> {
    let mut fates = vec![None; count];
    for line in said.lines() {
        if let Ok((at, fate)) = serde_json::from_str::<(usize, RemoteFate)>(line)
            && let Some(slot) = fates.get_mut(at)
        {
            *slot = Some(fate);
        }
    }
    fates
}

fn report(job: &RemoteJob, fate: Option<RemoteFate>) -> GuestReport {
    let unsaid = || RemoteFate::Unreached("there was no time left".into());
    let mut report = GuestReport {
        id: Some(job.id.to_string()),
        ..left(REMOTE, "job", &job.host, &"", 0)
    };
    let ends = match job.lease {
        Some(lease) => format!("its lease of {} ends it there", format_duration(lease)),
        None => "it has no lease".into(),
    };
    (report.outcome, report.why) = match fate.unwrap_or_else(unsaid) {
        RemoteFate::Over => (Outcome::Deleted, None),
        RemoteFate::Odd(why) => (Outcome::Deleted, Some(why)),
        RemoteFate::Told => (
            Outcome::Leased,
            Some("it was told to end, and was not over yet when nobody waited any more".into()),
        ),
        RemoteFate::Unreached(why) if job.lease.is_some() => {
            (Outcome::Leased, Some(format!("{why}; {ends}")))
        }
        RemoteFate::Unreached(why) => (Outcome::Left, Some(format!("{why}; {ends}"))),
    };
    report
}

#[cfg(test)]
mod tests {
    use super::*;
    use jobcage_job::JobId;

    fn job(lease: Option<Duration>) -> RemoteJob {
        RemoteJob {
            id: JobId::generate("x", 1),
            host: "h".into(),
            target: "h".into(),
            port: None,
            ssh: vec!["ssh".into()],
            dir: "/".into(),
            agent: None,
            binary: None,
            lease,
        }
    }

    #[test]
    fn what_nobody_said_anything_of_was_not_reached() {
        let line = |at: usize, fate: RemoteFate| serde_json::to_string(&(at, fate)).unwrap() + "\n";
        let said = line(1, RemoteFate::Over) + "noise\n" + &line(9, RemoteFate::Told);
        assert_eq!(parse(&said, 3), [None, Some(RemoteFate::Over), None]);
        let lease = Some(Duration::from_secs(600));
        assert_eq!(report(&job(lease), None).outcome, Outcome::Leased);
        assert_eq!(report(&job(None), None).outcome, Outcome::Left);
        let why = report(&job(lease), Some(RemoteFate::Unreached("no route".into()))).why;
        assert_eq!(
            why.as_deref(),
            Some("no route; its lease of 10 m 0 s ends it there")
        );
    }
}
