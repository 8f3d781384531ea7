//! `jobcage wait`: sleeps until jobs are over.
//!
//! Whether a job is over stands in its record, and inotify(7) tells of a new `report.json` there; so it does not matter who
//! looks after the job, nor how often that changes. A foreground job that ends cleanly would leave no record: a marker in
//! it keeps the report.

use super::{hold, or_gone};
use crate::error::{Failure, Result};
use jobcage_job::{JobId, Report};
use jobcage_ledger::{Places, Record, State};
use jobcage_sys::Errno;
use nix::poll::{PollFd, PollFlags};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use nix::sys::time::TimeSpec;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

/// What is heard of a job.
#[derive(Debug)]
pub enum News {
    /// It is over.
    Over(Box<Report>),
    /// It ended, or never was, and nobody can tell how: why.
    Unknown(String),
    /// Nobody looks after it any more, and nobody has come to close it. It may still be closed.
    Orphaned,
}

/// How long a job may have nobody before that is told: changing hands takes milliseconds.
const HANDS: Duration = Duration::from_secs(2);
/// Where the kernel has no more room for watches, there is nothing but looking again.
const BLIND: Duration = Duration::from_secs(1);

/// Jobs that are waited for.
#[derive(Debug)]
pub struct Waiting {
    places: Places,
    /// `None`: this user has no more of them (`fs.inotify.max_user_instances`).
    inotify: Option<Inotify>,
    jobs: Vec<Job>,
}

#[derive(Debug)]
struct Job {
    id: JobId,
    watch: Option<WatchDescriptor>,
    holder: Option<OwnedFd>,
    /// When to say that nobody looks after it; `Some(None)`: that was said.
    alone: Option<Option<Instant>>,
    /// Whether it was ever found.
    met: bool,
    /// Whether there may be something new.
    look: bool,
    done: bool,
}

impl Waiting {
    /// Begins to wait for these jobs.
    #[must_use]
    pub fn new(places: &Places, ids: &[JobId]) -> Self {
        let job = |id: &JobId| Job {
            id: id.clone(),
            watch: None,
            holder: None,
            alone: None,
            met: false,
            look: true,
            done: false,
        };
        Self {
            places: places.clone(),
            inotify: Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).ok(),
            jobs: ids.iter().map(job).collect(),
        }
    }

    /// The next news, and of which job, by its place in the list. `None`: there were none until then, or there is no job
    /// left that is not over.
    ///
    /// # Errors
    /// If it cannot wait.
    pub fn next(&mut self, until: Option<Instant>) -> Result<Option<(usize, News)>> {
        loop {
            for (at, job) in self.jobs.iter_mut().enumerate() {
                if std::mem::take(&mut job.look)
                    && let Some(news) = job.look(&self.places, self.inotify.as_ref())
                {
                    return Ok(Some((at, news)));
                }
            }
            let late = until.is_some_and(|until| until <= Instant::now());
            if late || self.jobs.iter().all(|job| job.done) {
                return Ok(None);
            }
            self.sleep(until)?;
        }
    }

    /// Sleeps until one of the jobs is worth a look.
    fn sleep(&mut self, until: Option<Instant>) -> Result<()> {
        let blind = self.jobs.iter().any(|job| !job.done && job.watch.is_none());
        let blind = blind.then(|| Instant::now() + BLIND);
        let alone = self.jobs.iter().filter_map(|job| job.alone.flatten()).min();
        let next = [until, blind, alone].into_iter().flatten().min();
        let timeout =
            next.map(|next| TimeSpec::from_duration(next.saturating_duration_since(Instant::now())));
        let mut fds: Vec<PollFd<'_>> = Vec::new();
        fds.extend(
            self.inotify
                .iter()
                .map(|i| PollFd::new(i.as_fd(), PollFlags::POLLIN)),
        );
        let first = fds.len();
        let held: Vec<usize> = (0..self.jobs.len())
            .filter(|at| self.jobs[*at].holder.is_some())
            .collect();
        let holders = held.iter().filter_map(|at| self.jobs[*at].holder.as_ref());
        fds.extend(holders.map(|holder| PollFd::new(holder.as_fd(), PollFlags::POLLIN)));
        match nix::poll::ppoll(&mut fds, timeout, None) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(Failure::system("wait for jobs")(errno)),
        }
        let ended = |fd: &PollFd<'_>| fd.revents().is_some_and(|events| !events.is_empty());
        let ended: Vec<bool> = fds[first..].iter().map(ended).collect();
        drop(fds);
        for (at, _) in held.into_iter().zip(ended).filter(|(_, ended)| *ended) {
            // Ended: readable for ever, so not to be polled again.
            self.jobs[at].holder = None;
            self.jobs[at].look = true;
        }
        self.hear();
        let now = Instant::now();
        for job in self.jobs.iter_mut().filter(|job| !job.done) {
            let due = job.alone.flatten().is_some_and(|due| due <= now);
            job.look |= due || job.watch.is_none();
        }
        Ok(())
    }

    /// What inotify tells.
    fn hear(&mut self) {
        let Some(inotify) = &self.inotify else { return };
        // EAGAIN is the end of it.
        while let Ok(events) = inotify.read_events() {
            for event in events {
                let overflow = event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW);
                for job in self.jobs.iter_mut().filter(|job| !job.done) {
                    job.look |= overflow || job.watch == Some(event.wd);
                }
            }
        }
    }
}

impl Job {
    fn look(&mut self, places: &Places, inotify: Option<&Inotify>) -> Option<News> {
        if self.done {
            return None;
        }
        let news = match self.find_out(places, inotify) {
            Ok(news) => news,
            Err(failure) => Some(News::Unknown(failure.to_string())),
        };
        self.done = matches!(news, Some(News::Over(_) | News::Unknown(_)));
        if self.done {
            self.holder = None;
            self.alone = None;
        }
        news
    }

    fn find_out(&mut self, places: &Places, inotify: Option<&Inotify>) -> Result<Option<News>> {
        let gone = |met: bool| {
            Some(News::Unknown(if met {
                "its record was removed while it was waited for, and with it how it ended".into()
            } else {
                "there is no such job here; one that ended cleanly leaves nothing unless somebody waits for it".into()
            }))
        };
        // Opened for this look alone: the kernel tells of a removed directory only when nobody has it open any more.
        let Some(record) = or_gone(places.open(&self.id))? else {
            return Ok(gone(self.met));
        };
        if !self.met {
            self.begin(&record, inotify);
            self.met = true;
        }
        let alone = match or_gone(record.state())? {
            None => return Ok(gone(true)),
            Some(State::Over(report)) => return Ok(Some(News::Over(report))),
            Some(State::Alive { supervisor: pid } | State::Closing { by: pid }) => {
                // One that cannot be reached is waited for by its record alone.
                let held = hold(&record, pid);
                // It has let go since: nothing else would tell.
                self.look = matches!(held, Ok(None));
                self.holder = held.ok().flatten();
                false
            }
            Some(State::Unattended(spec)) => spec.created_by.is_tended(),
            Some(State::NeverBegun) => true,
        };
        match self.alone {
            _ if !alone => self.alone = None,
            None => self.alone = Some(Some(Instant::now() + HANDS)),
            Some(Some(due)) if due <= Instant::now() => {
                self.alone = Some(None);
                return Ok(Some(News::Orphaned));
            }
            Some(_) => {}
        }
        Ok(None)
    }

    /// The watch comes before the first look, so that nothing falls between the two; and the marker as well.
    fn begin(&mut self, record: &Record, inotify: Option<&Inotify>) {
        let events = AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_ONLYDIR;
        self.watch = inotify.and_then(|inotify| inotify.add_watch(record.path(), events).ok());
        if !matches!(record.spec(), Ok(Some(spec)) if spec.created_by.is_open()) && !record.has_report() {
            // Where it cannot be written, a clean end is one that nobody can tell.
            let _ = record.want();
        }
    }
}
