//! What is meant by the verbs that ask something of a job that is there: `stop`, `wait`, `exec`; and by `gc`.
//!
//! Options of the same name in `[run]` are for jobs to come, so of these words only the command line is read.

use jobcage_job::{parse_duration, parse_size};
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

use super::error::Error;
use super::meaning::{Door, KEEP, KEEP_SIZE, job_id};
use super::pick::{self, only};
use super::request::{ExecRequest, GcRequest, Request, Secret, StopHow, StopRequest, Voice, WaitRequest};
use super::words::{ExecWords, GcWords, StopWords, WaitWords};
use crate::config::Origin;
use crate::config::options::Opt;

impl Door<'_> {
    pub(super) fn stop(&self, w: StopWords) -> Result<(Request, Voice), Error> {
        let common = self.common(w.plain.common)?;
        let signal = only("--signal", w.signal, pick::text(str::parse))?;
        let grace = only("--grace", w.grace, pick::text(parse_duration))?;
        let stop = StopRequest {
            id: w.id.map(|id| job_id("ID", &id)).transpose()?,
            how: if w.now {
                StopHow::Now
            } else {
                StopHow::Polite { signal, grace }
            },
            json: w.plain.json,
            common,
        };
        let voice = stop.common.voice;
        Ok((Request::Stop(stop), voice))
    }

    pub(super) fn wait(&self, w: WaitWords) -> Result<(Request, Voice), Error> {
        let wait = WaitRequest {
            common: self.common(w.common)?,
            ids: w
                .ids
                .iter()
                .map(|id| job_id("ID", id))
                .collect::<Result<_, _>>()?,
            any: w.any,
            timeout: only("--timeout", w.timeout, pick::text(parse_duration))?,
            json: w.json,
        };
        let voice = wait.common.voice;
        Ok((Request::Wait(wait), voice))
    }

    /// Without `inherited`, as for a run.
    pub(super) fn exec(&self, w: ExecWords) -> Result<(Request, Voice), Error> {
        let mut set: Vec<(OsString, Secret)> = Vec::new();
        for given in w.env {
            let variable = |given: &OsStr| self.variable(given, Origin::Flag("--env"));
            if let Some((name, value)) = only("--env", Some(given), variable)?.flatten() {
                set.retain(|(known, _)| *known != name);
                set.push((name, value));
            }
        }
        let dir = |given: &OsStr| {
            if given.is_empty() || given.as_encoded_bytes().contains(&0) {
                return Err("the path is empty or holds a NUL".to_owned());
            }
            Ok(PathBuf::from(given))
        };
        let exec = ExecRequest {
            common: self.common(w.common)?,
            id: job_id("ID", &w.id)?,
            command: w.command,
            dir: only("--dir", w.dir, dir)?,
            set,
            inherited: Vec::new(),
        };
        let voice = exec.common.voice;
        Ok((Request::Exec(Box::new(exec)), voice))
    }

    pub(super) fn gc(&self, w: GcWords) -> Result<GcRequest, Error> {
        let (keep, keep_size) = self.keep(w.keep, w.keep_size)?;
        Ok(GcRequest {
            common: self.common(w.plain.common)?,
            keep,
            keep_size,
            guests: w.guests,
            guests_dir: pick::directory(self.layers, Opt::GuestsDir, w.guests_dir)?,
            dry_run: w.dry_run,
            json: w.plain.json,
        })
    }

    /// How long, and how much of, the records of jobs that are over are kept.
    pub(super) fn keep(
        &self,
        time: Option<OsString>,
        size: Option<OsString>,
    ) -> Result<(Option<Duration>, Option<u64>), Error> {
        let time = pick::limit_or(self.layers, Opt::Keep, time, parse_duration, KEEP)?;
        let size = pick::limit_or(self.layers, Opt::KeepSize, size, parse_size, KEEP_SIZE)?;
        Ok((time, size))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::meaning::tests::Call;

    /// Settings of `[run]` are for jobs to come, and those of `[gc]` have defaults that can be taken back.
    #[test]
    fn what_is_asked_of_a_job_is_asked_by_words_alone() {
        let call = Call {
            variables: &[
                ("JOBCAGE_TIMEOUT", "1s"),
                ("JOBCAGE_GRACE", "1s"),
                ("JOBCAGE_DIR", "/x"),
            ],
            files: &["[run]\nenv = ['A=1']\nsignal = 'INT'\n[gc]\nkeep = 'none'\n"],
        };
        let of = |line: &str| call.request(line).unwrap().0;
        assert!(matches!(of("jobcage wait a"), Request::Wait(w) if w.timeout.is_none()));
        let how = StopHow::Polite {
            signal: None,
            grace: None,
        };
        assert!(matches!(of("jobcage stop a"), Request::Stop(s) if s.how == how && s.id.is_some()));
        assert!(matches!(of("jobcage stop --all"), Request::Stop(s) if s.how == how && s.id.is_none()));
        for wrong in ["jobcage stop", "jobcage stop a --all"] {
            assert!(call.request(wrong).is_err(), "{wrong}");
        }
        assert!(matches!(of("jobcage exec a -- x"), Request::Exec(e) if e.dir.is_none() && e.set.is_empty()));
        let Request::Gc(gc) = of("jobcage gc") else {
            panic!("no gc")
        };
        assert_eq!((gc.keep, gc.keep_size), (None, Some(KEEP_SIZE)));
        let Request::Gc(gc) = of("jobcage gc --keep 1h --keep-size none --dry-run") else {
            panic!("no gc")
        };
        assert_eq!(
            (gc.keep, gc.keep_size, gc.dry_run),
            (Some(Duration::from_secs(3600)), None, true)
        );
    }

    #[test]
    fn words_become_requests() {
        let none = Call {
            variables: &[],
            files: &[],
        };
        let of = |line: &str| none.request(line).map(|(request, _)| request);
        let Ok(Request::Wait(wait)) = of("jobcage wait a-b c-d --any --timeout 0") else {
            panic!("no wait")
        };
        assert_eq!(
            (wait.ids.len(), wait.any, wait.timeout),
            (2, true, Some(Duration::ZERO))
        );
        let Ok(Request::Exec(exec)) = of("jobcage exec a-b --env A=1 --env A=2 --dir d -- ps -ef") else {
            panic!("no exec")
        };
        let set: Vec<_> = exec
            .set
            .iter()
            .map(|(n, v)| (n.as_os_str(), v.expose()))
            .collect();
        assert_eq!(set, [(OsStr::new("A"), OsStr::new("2"))]);
        assert_eq!((exec.command.len(), exec.dir), (2, Some("d".into())));
    }
}
