//! The record of one job.
//!
//! ```text
//! lock          locked while somebody looks after the job; its content means nothing
//! spec.json     the first file, before the cage exists
//! begun-NN.json each step of a job of `jobcage create` or of a session, as it is known at its start
//! step-NN.json  each step at its end; of a captured job from its start on, and replaced; of a session made empty while it runs
//! after.json    an after phase that outlives a reboot is about to be started
//! closing       present from the moment at which the whole job is being ended from outside
//! stop.json     who asked for the end, and how it shall be
//! heard         when a client of a job with a lease was last heard of, by the clock that counts suspension
//! remotes.json  jobs on other hosts that are being told to end
//! wanted        somebody waits for the report, so a clean end keeps it
//! report.json   the last file
//! ```

use crate::error::{LedgerError, Result};
use crate::handed;
use crate::steps::BEGUN;
use crate::version::version_of;
use jobcage_job::{
    AFTER_VERSION, AfterMark, Census, GuestReport, JobId, JobSpec, MainEnd, REPORT_VERSION, RemoteJob,
    Report, SPEC_VERSION, STATUS_VERSION,
};
use jobcage_sys::Errno;
use jobcage_sys::file::{self, Durability};
use jobcage_sys::lock::{self, Holder, Purpose};
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, mkdirat};
use nix::sys::uio::pwrite;
use nix::unistd::{UnlinkatFlags, fsync, unlinkat};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub(crate) const LOCK: &str = "lock";
pub(crate) const SPEC: &str = "spec.json";
pub(crate) const REPORT: &str = "report.json";
const CLOSING: &str = "closing";
const PHASE: &str = "phase.json";
const AFTER: &str = "after.json";
const CENSUS: &str = "census.json";
const HEARD: &str = "heard";
const GIVEN_BACK: &str = "given-back.json";
const REMOTES: &str = "remotes.json";

/// The record of one job, open.
#[derive(Debug)]
pub struct Record {
    pub(crate) dir: OwnedFd,
    pub(crate) path: PathBuf,
    pub(crate) id: JobId,
    pub(crate) durability: Durability,
}

/// Somebody is there for a job that would end if it were alone for too long.
#[derive(Debug)]
pub struct Attended {
    // Its lock goes with it.
    _file: OwnedFd,
}

/// The held lock of a record. Dropping it, or the end of this process, releases it.
#[derive(Debug)]
pub struct Lock {
    _file: OwnedFd,
}

/// How it stands with a job.
#[derive(Debug, Clone, PartialEq)]
pub enum State {
    /// It is over, and this is its report.
    Over(Box<Report>),
    /// This process looks after it; 0 if it cannot be seen from here.
    Alive {
        /// Its pid.
        supervisor: i32,
    },
    /// This process (`gc`, `cleanup`, the watcher's) ends it at this moment; 0 if it cannot be seen from here.
    Closing {
        /// Its pid.
        by: i32,
    },
    /// Nobody looks after it. For a job of `jobcage create` that is as it should be.
    Unattended(Box<JobSpec>),
    /// It was cut off before its cage could exist: there is no whole `spec.json`.
    NeverBegun,
}

/// The kernel's name for this boot.
///
/// # Errors
/// If it cannot be read. It must not be guessed then: whoever takes this boot for another one believes that nothing of
/// the job is alive.
pub fn boot_id() -> Result<String> {
    let text = file::read_path(c"/proc/sys/kernel/random/boot_id")
        .map_err(|errno| LedgerError::io("read", Path::new("/proc/sys/kernel/random/boot_id"), errno))?;
    Ok(String::from_utf8_lossy(&text).trim().to_owned())
}

impl Record {
    /// Makes the directory of a new job, takes its lock and writes its spec: whatever the job will have can be found
    /// from here on.
    ///
    /// # Errors
    /// `EEXIST` if the id is in use; else what the file system answers. Nothing is left behind then.
    pub fn create(base: &Path, spec: &JobSpec, durability: Durability) -> Result<(Self, Lock)> {
        let base_dir = open_base(base)?;
        let path = base.join(spec.id.as_str());
        let private = Mode::S_IRWXU;
        mkdirat(&base_dir, spec.id.as_str(), private)
            .map_err(|errno| LedgerError::io("make", &path, errno))?;
        let made = (|| {
            let dir = file::open_dir_at(base_dir.as_fd(), spec.id.as_str())
                .map_err(|errno| LedgerError::io("open", &path, errno))?;
            let record = Self {
                dir,
                path: path.clone(),
                id: spec.id.clone(),
                durability,
            };
            let lock = record
                .lock(Purpose::Tending)?
                .ok_or_else(|| LedgerError::io("lock", &path, Errno::EAGAIN))?;
            record.write(SPEC, spec)?;
            Ok((record, lock))
        })();
        if made.is_err() {
            // The first error is the one to tell.
            for name in [LOCK, SPEC] {
                let _ = unlinkat(
                    &base_dir,
                    &Path::new(spec.id.as_str()).join(name),
                    UnlinkatFlags::NoRemoveDir,
                );
            }
            let _ = unlinkat(&base_dir, spec.id.as_str(), UnlinkatFlags::RemoveDir);
        }
        made
    }

    /// Opens the record of a job in one place.
    ///
    /// # Errors
    /// [`LedgerError::NoSuchJob`] if it is not there.
    pub fn open(base: &Path, id: &JobId, durability: Durability) -> Result<Self> {
        let path = base.join(id.as_str());
        let dir = file::open_dir(&path);
        Self::opened(dir, path, id, durability)
    }

    /// As [`Record::open`], in a place that is open.
    ///
    /// # Errors
    /// As [`Record::open`].
    pub(crate) fn open_in(
        place: BorrowedFd<'_>,
        base: &Path,
        id: &JobId,
        durability: Durability,
    ) -> Result<Self> {
        let dir = file::open_dir_at(place, id.as_str());
        Self::opened(dir, base.join(id.as_str()), id, durability)
    }

    fn opened(
        dir: jobcage_sys::Result<OwnedFd>,
        path: PathBuf,
        id: &JobId,
        durability: Durability,
    ) -> Result<Self> {
        match dir {
            Ok(dir) => Ok(Self {
                dir,
                path,
                id: id.clone(),
                durability,
            }),
            Err(Errno::ENOENT | Errno::ENOTDIR) => Err(LedgerError::NoSuchJob(id.clone())),
            Err(errno) => Err(LedgerError::io("open", &path, errno)),
        }
    }

    /// The same record, open once more.
    ///
    /// # Errors
    /// If there are no descriptors left.
    pub fn again(&self) -> Result<Self> {
        let dir = self
            .dir
            .try_clone()
            .map_err(|_| LedgerError::io("open", &self.path, Errno::EMFILE))?;
        Ok(Self {
            dir,
            path: self.path.clone(),
            id: self.id.clone(),
            durability: self.durability,
        })
    }

    /// Takes the lock, to end the job now. `None`: somebody else has it.
    ///
    /// # Errors
    /// What the file system answers.
    pub fn lock_to_end(&self) -> Result<Option<Lock>> {
        self.lock(Purpose::Ending)
    }

    /// Takes the lock, to look after the job from here on. `None`: somebody else has it.
    ///
    /// # Errors
    /// What the file system answers.
    pub fn lock_to_tend(&self) -> Result<Option<Lock>> {
        self.lock(Purpose::Tending)
    }

    fn lock(&self, purpose: Purpose) -> Result<Option<Lock>> {
        let path = || self.path.join(LOCK);
        let file = self
            .open_lock()
            .map_err(|errno| LedgerError::io("open", &path(), errno))?;
        let taken =
            lock::try_lock(file.as_fd(), purpose).map_err(|errno| LedgerError::io("lock", &path(), errno))?;
        Ok(taken.then_some(Lock { _file: file }))
    }

    fn open_lock(&self) -> jobcage_sys::Result<OwnedFd> {
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        openat(&self.dir, LOCK, flags, Mode::S_IRUSR | Mode::S_IWUSR)
    }

    /// How it stands with the job. Never to be called by whoever holds the lock: looking at the lock would drop it (see
    /// [`jobcage_sys::lock`]), and that is what [`Record::state_under`] is for.
    ///
    /// # Errors
    /// If the record cannot be read, is damaged, or of a newer version.
    pub fn state(&self) -> Result<State> {
        if let Some(report) = self.report()? {
            return Ok(State::Over(Box::new(report)));
        }
        let file = self
            .open_lock()
            .map_err(|errno| LedgerError::io("open", &self.path.join(LOCK), errno))?;
        let holder = lock::holder(file.as_fd());
        match holder.map_err(|errno| LedgerError::io("lock", &self.path.join(LOCK), errno))? {
            Some(Holder {
                pid,
                purpose: Purpose::Tending,
            }) => Ok(State::Alive { supervisor: pid }),
            Some(Holder {
                pid,
                purpose: Purpose::Ending,
            }) => Ok(State::Closing { by: pid }),
            None => self.unattended(),
        }
    }

    /// How it stands with the job while its lock is ours: never [`State::Alive`] or [`State::Closing`].
    ///
    /// # Errors
    /// As [`Record::state`].
    pub fn state_under(&self, _lock: &Lock) -> Result<State> {
        match self.report()? {
            Some(report) => Ok(State::Over(Box::new(report))),
            None => self.unattended(),
        }
    }

    fn unattended(&self) -> Result<State> {
        Ok(self
            .spec()?
            .map_or(State::NeverBegun, |spec| State::Unattended(Box::new(spec))))
    }

    /// The spec. `None`: there is none, or it was cut off while it was written, so there is no cage.
    ///
    /// # Errors
    /// If it cannot be read, is of a newer version, or not about this job.
    pub fn spec(&self) -> Result<Option<JobSpec>> {
        match self.read::<JobSpec>(SPEC, SPEC_VERSION) {
            Err(LedgerError::Damaged { .. }) => Ok(None),
            // Whoever closes this job kills in that cgroup and removes that directory: they have to be the job's own.
            Ok(Some(spec)) if !self.is_of(&spec) => Err(LedgerError::Damaged {
                path: self.path.join(SPEC),
                why: "it names the cage or the state directory of another job".into(),
            }),
            other => other,
        }
    }

    fn is_of(&self, spec: &JobSpec) -> bool {
        let name = Path::new(&spec.cage).file_name();
        let state = spec.state_dir.as_deref();
        spec.id == self.id
            && name.is_some_and(|name| name == self.id.as_str())
            && state.is_none_or(|dir| handed::is_of(dir, &self.id))
    }

    /// The report. `None`: the job is not over.
    ///
    /// # Errors
    /// If it cannot be read, is damaged, or of a newer version.
    pub fn report(&self) -> Result<Option<Report>> {
        self.read(REPORT, REPORT_VERSION)
    }

    /// Writes the report: the job is over. Of the processes in it, the record has the programs and not the arguments,
    /// where scripts and secrets are.
    ///
    /// # Errors
    /// What the file system answers; the job is not over then.
    pub fn close(&self, report: &Report) -> Result<()> {
        self.sweep_unfinished();
        let mut report = report.clone();
        let survivors = report.quarantine.iter_mut().flat_map(|q| &mut q.survivors);
        let escaped = report.escaped.iter_mut().filter_map(|e| e.process.as_mut());
        for left in report.census.left.iter_mut().chain(survivors).chain(escaped) {
            left.command = left.command.split(' ').next().unwrap_or_default().to_owned();
        }
        self.write(REPORT, &report)?;
        // As long as something is left, half of the place may be.
        if !report.guests.is_empty() && !report.is_unfinished() {
            self.forget(GIVEN_BACK);
        }
        self.forget_reserve();
        Ok(())
    }

    /// As [`Record::close`], and it stays on the disk, whatever the other files of this record do.
    ///
    /// # Errors
    /// As [`Record::close`].
    pub fn close_for_good(&mut self, report: &Report) -> Result<()> {
        self.durability = Durability::Disk;
        self.close(report)
    }

    /// Takes away what a writer left that was killed before its rename. Whether that succeeds does not matter to the job.
    fn sweep_unfinished(&self) {
        for name in self
            .names()
            .unwrap_or_default()
            .iter()
            .filter(|name| name.ends_with(".new"))
        {
            let _ = unlinkat(&self.dir, name.as_str(), UnlinkatFlags::NoRemoveDir);
        }
    }

    /// What is written from here on is for processes that follow each other in this boot, and not worth the wait for a disk.
    #[must_use]
    pub fn for_this_boot(mut self) -> Self {
        self.durability = Durability::Kernel;
        self
    }

    /// Puts what was written so far on the disk: a job that was begun in a hurry is there after a power cut from here on.
    ///
    /// # Errors
    /// As fsync(2).
    pub fn settle(&self) -> Result<()> {
        let io = |errno| LedgerError::io("write", &self.path, errno);
        let spec = openat(&self.dir, SPEC, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).map_err(io)?;
        fsync(&spec).map_err(io)?;
        fsync(&self.dir).map_err(io)?;
        let base = file::open_dir(self.path.parent().unwrap_or(Path::new("/"))).map_err(io)?;
        fsync(&base).map_err(io)
    }

    /// Takes away a file that only a living job needs. One that is not there is fine.
    pub fn forget(&self, name: &str) {
        let _ = unlinkat(&self.dir, name, UnlinkatFlags::NoRemoveDir);
    }

    /// Marks that the whole job is being ended from outside of its steps.
    ///
    /// # Errors
    /// What the file system answers.
    pub fn mark_closing(&self) -> Result<()> {
        file::write_new(self.dir.as_fd(), CLOSING, b"", self.durability)
            .map_err(|errno| LedgerError::io("write", &self.path.join(CLOSING), errno))
    }

    /// Whether [`Record::mark_closing`] was called.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        file::exists_at(self.dir.as_fd(), CLOSING).unwrap_or(false)
    }

    /// Writes how the main process of a step ended.
    ///
    /// # Errors
    /// What the file system answers.
    pub fn write_status(&self, end: &MainEnd) -> Result<()> {
        self.write(&format!("status-{:02}.json", end.step), end)
    }

    /// How the main process of a step ended. `None`: it has not, or nobody could write it down.
    ///
    /// # Errors
    /// If it cannot be read, is damaged, or of a newer version.
    pub fn status(&self, step: u32) -> Result<Option<MainEnd>> {
        self.read(&format!("status-{step:02}.json"), STATUS_VERSION)
    }

    /// Writes where the supervisor stands, for the next one.
    ///
    /// # Errors
    /// What the file system answers.
    pub fn write_phase(&self, phase: &impl Serialize) -> Result<()> {
        self.write(PHASE, phase)
    }

    /// Where the last supervisor stood. `None`: it had not begun.
    ///
    /// # Errors
    /// If it cannot be read, is damaged, or of a version above `known`.
    pub fn phase<T: DeserializeOwned>(&self, known: u32) -> Result<Option<T>> {
        self.read(PHASE, known)
    }

    /// Writes who was alive in the cage before a kill: on the disk, since what they had started may outlive the host's next boot.
    ///
    /// # Errors
    /// What the file system answers.
    pub fn write_census(&self, census: &Census) -> Result<()> {
        self.write_as(CENSUS, census, Durability::Disk)
    }

    /// What [`Record::write_census`] has written. `None`: nobody was there, or the job has nothing to give back.
    ///
    /// # Errors
    /// If it cannot be read or is damaged.
    pub fn census(&self) -> Result<Option<Census>> {
        self.read(CENSUS, 0)
    }

    /// Writes what the tools have said of the machines of a job, before its place is removed: whoever comes next would find half of that, and
    /// could not ask them again. On the disk, as the host may go down meanwhile. The report of a job of which nothing is left takes it over.
    ///
    /// # Errors
    /// What the file system answers.
    pub fn write_given_back(&self, guests: &[GuestReport]) -> Result<()> {
        self.write_as(GIVEN_BACK, &guests, Durability::Disk)
    }

    /// What [`Record::write_given_back`] has written. `None`: nobody has come so far, or nothing is left.
    ///
    /// # Errors
    /// If it cannot be read or is damaged.
    pub fn given_back(&self) -> Result<Option<Vec<GuestReport>>> {
        self.read(GIVEN_BACK, 0)
    }

    /// Writes which jobs on other hosts are to be told to end: their notes go with the job's directory, and whoever comes next may have to tell them again.
    ///
    /// # Errors
    /// What the file system answers.
    pub fn write_remotes(&self, remotes: &[RemoteJob]) -> Result<()> {
        self.write_as(REMOTES, &remotes, self.durability)
    }

    /// What [`Record::write_remotes`] has written; none, if nobody has.
    ///
    /// # Errors
    /// If it cannot be read or is damaged.
    pub fn remotes(&self) -> Result<Vec<RemoteJob>> {
        Ok(self.read(REMOTES, 0)?.unwrap_or_default())
    }

    /// Writes that a client was heard of at this time since boot: eight bytes in place, since a disk that is full must not end a job.
    ///
    /// # Errors
    /// What the file system answers.
    pub fn hear(&self, at: Duration) -> Result<()> {
        let failed = |errno| LedgerError::io("write", &self.path.join(HEARD), errno);
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        let file = openat(self.dir.as_fd(), HEARD, flags, Mode::S_IRUSR | Mode::S_IWUSR).map_err(failed)?;
        let nanos = u64::try_from(at.as_nanos()).unwrap_or(u64::MAX);
        pwrite(&file, &nanos.to_le_bytes(), 0).map(drop).map_err(failed)
    }

    /// Shows, until it is dropped or this process ends, that somebody is there ([`Record::is_attended`]).
    ///
    /// # Errors
    /// If the file of [`Record::hear`] is not there or cannot be locked.
    pub fn attend(&self) -> Result<Attended> {
        let failed = |errno| LedgerError::io("lock", &self.path.join(HEARD), errno);
        let file = self.open_heard().map_err(failed)?;
        lock::share(file.as_fd()).map_err(failed)?;
        Ok(Attended { _file: file })
    }

    /// Whether somebody holds an [`Attended`].
    #[must_use]
    pub fn is_attended(&self) -> bool {
        let file = self.open_heard();
        file.is_ok_and(|file| lock::is_shared(file.as_fd()).unwrap_or(false))
    }

    fn open_heard(&self) -> nix::Result<OwnedFd> {
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        openat(self.dir.as_fd(), HEARD, flags, Mode::empty())
    }

    /// When a client was last heard of. `None`: never.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn heard(&self) -> Result<Option<Duration>> {
        match file::read_at(self.dir.as_fd(), HEARD) {
            Ok(text) => Ok(text
                .try_into()
                .ok()
                .map(u64::from_le_bytes)
                .map(Duration::from_nanos)),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(LedgerError::io("read", &self.path.join(HEARD), errno)),
        }
    }

    /// Marks that an after phase which outlives a reboot is about to be started: on the disk, whatever the other files of this
    /// record do.
    ///
    /// # Errors
    /// What the file system answers: it must not be started then by whoever comes after a crash.
    pub fn mark_after(&self, mark: &AfterMark) -> Result<()> {
        self.write_as(AFTER, mark, Durability::Disk)
    }

    /// The mark of [`Record::mark_after`]. `None`: it was never started.
    ///
    /// # Errors
    /// If it cannot be read, is damaged, or of a newer version.
    pub fn after_mark(&self) -> Result<Option<AfterMark>> {
        self.read(AFTER, AFTER_VERSION)
    }

    /// Whether this record was made by the user that we are. What stands in the record of another user is no reason to run a
    /// program.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        nix::sys::stat::fstat(&self.dir).is_ok_and(|stat| stat.st_uid == nix::unistd::geteuid().as_raw())
    }

    /// The names of its files.
    ///
    /// # Errors
    /// If the directory cannot be listed.
    pub fn names(&self) -> Result<Vec<String>> {
        let io = |errno| LedgerError::io("list", &self.path, errno);
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let mut listing = nix::dir::Dir::openat(&self.dir, ".", flags, Mode::empty()).map_err(io)?;
        let entries = listing.iter().collect::<nix::Result<Vec<_>>>().map_err(io)?;
        let names = entries.iter().filter_map(|entry| entry.file_name().to_str().ok());
        Ok(names
            .filter(|name| !matches!(*name, "." | ".."))
            .map(str::to_owned)
            .collect())
    }

    /// The job.
    #[must_use]
    pub fn id(&self) -> &JobId {
        &self.id
    }

    /// The directory of the record, open.
    #[must_use]
    pub fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// The directory of the record.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn write(&self, name: &str, value: &impl Serialize) -> Result<()> {
        self.write_as(name, value, self.durability)
    }

    fn write_as(&self, name: &str, value: &impl Serialize, durability: Durability) -> Result<()> {
        // A reader who finds the first spec cut off knows that there is no cage yet, and of a step that begins he learns a moment
        // later.
        let is_first = name == SPEC || name.starts_with(BEGUN);
        let way = if is_first { Way::Anew } else { Way::Replace };
        self.write_by(way, name, value, durability)
    }

    pub(crate) fn write_by(
        &self,
        way: Way,
        name: &str,
        value: &impl Serialize,
        durability: Durability,
    ) -> Result<()> {
        let text = self.text_of(name, value)?;
        let write = match (way, durability) {
            (Way::Anew, Durability::Kernel) => file::write_new,
            // A power cut leaves more behind than one that is killed.
            (Way::Anew, Durability::Disk) | (Way::Replace, _) => file::replace,
        };
        let mut written = write(self.dir.as_fd(), name, &text, durability);
        while matches!(written, Err(Errno::ENOSPC | Errno::EDQUOT)) && self.make_room(name) {
            written = write(self.dir.as_fd(), name, &text, durability);
        }
        written.map_err(|errno| LedgerError::io("write", &self.path.join(name), errno))
    }

    pub(crate) fn text_of(&self, name: &str, value: &impl Serialize) -> Result<Vec<u8>> {
        let mut text = serde_json::to_vec_pretty(value).map_err(|e| LedgerError::Damaged {
            path: self.path.join(name),
            why: e.to_string(),
        })?;
        text.push(b'\n');
        Ok(text)
    }

    pub(crate) fn read<T: DeserializeOwned>(&self, name: &str, known: u32) -> Result<Option<T>> {
        let path = self.path.join(name);
        let text = match file::read_at(self.dir.as_fd(), name) {
            Ok(text) => text,
            Err(Errno::ENOENT) => return Ok(None),
            Err(errno) => return Err(LedgerError::io("read", &path, errno)),
        };
        let damaged = |e: serde_json::Error| LedgerError::Damaged {
            path: path.clone(),
            why: e.to_string(),
        };
        // First, and alone: a newer one may be of another shape.
        let version = version_of(&text).map_err(damaged)?;
        if version > u64::from(known) {
            let found = u32::try_from(version).unwrap_or(u32::MAX);
            return Err(LedgerError::Newer { path, found, known });
        }
        serde_json::from_slice(&text).map(Some).map_err(damaged)
    }
}

/// How a file is written.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Way {
    /// As a whole or not at all, which takes a rename.
    Replace,
    /// It may be found cut off, since its reader knows what that means.
    Anew,
}

/// Opens the place of records, made with mode 0700 if it is not there: it tells who runs what.
///
/// # Errors
/// If it can be neither opened nor made.
pub fn open_base(base: &Path) -> Result<OwnedFd> {
    match file::open_dir(base) {
        Ok(dir) => return Ok(dir),
        Err(Errno::ENOENT) => {}
        Err(errno) => return Err(LedgerError::io("open", base, errno)),
    }
    use std::os::unix::fs::DirBuilderExt;
    let made = std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(base);
    made.map_err(|e| LedgerError::io("make", base, Errno::from_raw(e.raw_os_error().unwrap_or(0))))?;
    let dir = file::open_dir(base).map_err(|errno| LedgerError::io("open", base, errno))?;
    // Best effort: a lost new directory after a power cut is a lost job, which there is nothing left of anyway.
    let _ = fsync(&dir);
    Ok(dir)
}
