//! The watcher: a small process beside the cages that holds a pidfd of each supervisor. When one dies without having
//! closed its job, it starts the closing, so that nobody needs to come along.
//!
//! A supervisor registers over a socket and keeps the connection: if the watcher dies, the supervisor sees it and starts
//! another. The first job that finds no watcher makes the socket itself and hands it to a new one as standard input, so
//! there is no moment at which nobody listens. Where systemd runs, the watcher of root also holds the scope of all
//! cages; elsewhere it goes when it has had nothing to do for a minute.

mod client;

pub use client::{Watch, announce_lease, detach, register, start_scope_holder};
pub(crate) use client::{register_or_note, renew};

use crate::error::{Failure, Result};
use crate::host;
use crate::quiet::rest;
use crate::unheard::{self, Wait};
use jobcage_cage::{Dir, HOLD, Process};
use jobcage_job::{Controller, JobId, JobSpec, LeaseHolder};
use jobcage_ledger::{LedgerError, Places, State};
use jobcage_sys::spawn::Child;
use jobcage_sys::wait::Change;
use jobcage_sys::{Errno, file, pidfd, wait};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{self, MsgFlags, sockopt};
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

const SOCKET: &str = "watch.sock";
/// What stands before the id in the message of `jobcage create`: its record names the process to watch. Nothing else is read
/// of a record when a job begins, since a thousand may begin at once.
const LEASE: &str = "lease ";
const LINGER: Duration = Duration::from_secs(60);

/// Takes away sockets of those who were killed between the bind and the rename of [`listen`]: their names end with a pid
/// that nobody has.
pub(crate) fn sweep_sockets(runtime: &Path) {
    let prefix = format!("{SOCKET}.");
    for entry in std::fs::read_dir(runtime).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name
            .to_str()
            .and_then(|name| name.strip_prefix(&prefix)?.parse().ok());
        if pid.is_some_and(|pid| pidfd::open(pid).err() == Some(Errno::ESRCH)) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// One whose end is waited for.
struct Watched {
    id: JobId,
    process: OwnedFd,
    kind: Kind,
}

enum Kind {
    /// A supervisor, with its connection, which is held so that it would see our end.
    Supervisor(#[expect(dead_code, reason = "held, not read")] OwnedFd),
    /// Whoever holds the lease of a job of `jobcage create`.
    Lease,
    /// The moment at which such a job has waited too long for a step, unless one comes.
    Silence,
    /// A closing that we have started.
    Closing(Child),
}

/// The watcher itself; returns when there is nothing left to watch. Standard input is the socket.
///
/// # Errors
/// If it cannot wait.
pub fn watch(places: &Places, scope: bool) -> Result<()> {
    let listener = file::take_stdin();
    if scope {
        hold_scope();
    }
    file::close_from(3);
    raise_descriptor_limit();
    let mut watched = leases_and_orphans(places);
    loop {
        let mut fds: Vec<PollFd<'_>> = vec![PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
        fds.extend(
            watched
                .iter()
                .map(|w| PollFd::new(w.process.as_fd(), PollFlags::POLLIN)),
        );
        let patience = (watched.is_empty() && !scope).then_some(LINGER);
        if !rest(&mut fds, patience)? {
            return Ok(());
        }
        let ready = |fd: &PollFd<'_>| fd.revents().is_some_and(|events| !events.is_empty());
        let newcomer = ready(&fds[0]);
        let ended: Vec<bool> = fds[1..].iter().map(ready).collect();
        drop(fds);
        let mut ended = ended.into_iter();
        let gone: Vec<Watched> = watched
            .extract_if(.., |_| ended.next().unwrap_or(false))
            .collect();
        for one in gone {
            match one.kind {
                // One that was killed may have had the lock, and nobody else knows of it.
                Kind::Closing(child) => {
                    if let Ok(Some((_, Change::Killed(_)))) = wait::poll(wait::Whom::Pid(child.pid), false) {
                        watched.extend(start_closing(places, one.id));
                    } else {
                        watched.extend(watch_on(places, one.id));
                    }
                }
                Kind::Silence => watched.extend(watch_silence(places, one.id)),
                Kind::Supervisor(_) | Kind::Lease => watched.extend(start_closing(places, one.id)),
            }
        }
        if newcomer {
            accept(places, &listener, &mut watched);
        }
    }
}

/// Hears a newcomer; one that says what we do not know is none.
fn accept(places: &Places, listener: &OwnedFd, watched: &mut Vec<Watched>) -> Option<()> {
    let connection = jobcage_sys::socket::accept(listener.as_fd()).ok()?;
    let peer = socket::getsockopt(&connection, sockopt::PeerCredentials).ok()?;
    // The socket's directory lets nobody else in; asked again, since root can change modes.
    if peer.uid() != nix::unistd::geteuid().as_raw() && peer.uid() != 0 {
        return None;
    }
    let mut text = [0; LEASE.len() + JobId::MAX + 1];
    // The message was sent right after the connect; a client that stalls in between loses its place, not us our time.
    let mut fds = [PollFd::new(connection.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::from(500u16)).ok()?;
    let n = socket::recv(connection.as_raw_fd(), &mut text, MsgFlags::MSG_DONTWAIT).ok()?;
    let message = std::str::from_utf8(&text[..n]).ok()?;
    if let Some(id) = message.strip_prefix(LEASE) {
        let id: JobId = id.parse().ok()?;
        let spec = places.open(&id).and_then(|record| record.spec()).ok()??;
        watched.extend(watch_leases(places, &id, &spec));
        return Some(());
    }
    let id = message.parse().ok()?;
    let process = match pidfd::open(peer.pid()) {
        Ok(fd) => fd,
        // Ended already, or a kernel without pidfds: the connection tells as well.
        Err(_) => connection.try_clone().ok()?,
    };
    watched.push(Watched {
        id,
        process,
        kind: Kind::Supervisor(connection),
    });
    Some(())
}

/// Both leases of a job of `jobcage create`, if it has them.
fn watch_leases(places: &Places, id: &JobId, spec: &JobSpec) -> impl Iterator<Item = Watched> {
    let silence = watch_silence(places, id.clone());
    watch_lease(places, id.clone(), spec).into_iter().chain(silence)
}

/// Wakes us when a job may have waited too long for a step; closes it, if it has.
fn watch_silence(places: &Places, id: JobId) -> Option<Watched> {
    match look_at_silence(places, &id)?.1 {
        Wait::None => None,
        Wait::Left(left) => wake_after(id, left),
        Wait::Over => start_closing(places, id),
    }
}

/// A closing has ended: a job whose step came at that moment waits for the next one.
fn watch_on(places: &Places, id: JobId) -> Option<Watched> {
    // Not at once: what kept the closing from it may be there still.
    const LEAST: Duration = Duration::from_secs(1);
    let (spec, wait) = look_at_silence(places, &id)?;
    let left = match wait {
        Wait::None => return None,
        Wait::Left(left) => left,
        Wait::Over => spec.silence.unwrap_or(LEAST),
    };
    wake_after(id, left.max(LEAST))
}

/// `None`: it is over, or gone.
fn look_at_silence(places: &Places, id: &JobId) -> Option<(JobSpec, Wait)> {
    let record = places.open(id).ok()?;
    let spec = record.spec().ok()??;
    let is_over = matches!(record.state(), Ok(State::Over(_) | State::NeverBegun));
    (!is_over).then(|| {
        let wait = unheard::look(&record, &spec);
        (spec, wait)
    })
}

fn wake_after(id: JobId, left: Duration) -> Option<Watched> {
    // By the clock that counts suspension, as the lease itself.
    let timer = TimerFd::new(ClockId::CLOCK_BOOTTIME, TimerFlags::TFD_CLOEXEC).ok()?;
    timer
        .set(Expiration::OneShot(left.into()), TimerSetTimeFlags::empty())
        .ok()?;
    Some(Watched {
        id,
        process: timer.as_fd().try_clone_to_owned().ok()?,
        kind: Kind::Silence,
    })
}

/// Watches the holder of a job's lease. Who has the record's lock does not matter: a lock is held for a step or a moment
/// only, the lease for the job's life.
fn watch_lease(places: &Places, id: JobId, spec: &JobSpec) -> Option<Watched> {
    match lease(spec) {
        Lease::Held(process) => Some(Watched {
            id,
            process,
            kind: Kind::Lease,
        }),
        Lease::Over => start_closing(places, id),
        Lease::None => None,
    }
}

/// Starts the closing of a job, if there is anything to close.
fn start_closing(places: &Places, id: JobId) -> Option<Watched> {
    let state = places.open(&id).and_then(|record| record.state());
    // Any other trouble with its record is for the closing to tell, or to get over.
    if let Ok(State::Over(_)) | Err(LedgerError::NoSuchJob(_)) = state {
        return None;
    }
    let Ok(child) = host::start_closer(places, &id) else {
        // No process is to be had at this moment: here, then, though the other jobs wait meanwhile.
        let _ = crate::gc::close_if_orphaned(places, &id, crate::gc::Role::Passing);
        return None;
    };
    let process = child.pidfd.as_ref()?.try_clone().ok()?;
    Some(Watched {
        id,
        process,
        kind: Kind::Closing(child),
    })
}

/// What a watcher finds when it starts: leases to watch, and orphans of a time without a watcher.
fn leases_and_orphans(places: &Places) -> Vec<Watched> {
    let mut watched = Vec::new();
    for id in places.all().unwrap_or_default() {
        let Ok(record) = places.open(&id) else { continue };
        match record.state() {
            Ok(State::Unattended(spec)) if !spec.created_by.is_tended() => {
                watched.extend(watch_leases(places, &id, &spec));
            }
            Ok(State::Unattended(_)) => watched.extend(start_closing(places, id)),
            Ok(State::Alive { .. } | State::Closing { .. }) => {
                if let Ok(Some(spec)) = record.spec()
                    && !spec.created_by.is_tended()
                {
                    watched.extend(watch_leases(places, &id, &spec));
                }
            }
            Ok(State::Over(_) | State::NeverBegun) | Err(_) => {}
        }
    }
    watched
}

/// How it stands with the lease of a created job.
pub(crate) enum Lease {
    /// It has none.
    None,
    /// Its holder lives.
    Held(OwnedFd),
    /// Its holder is gone.
    Over,
}

pub(crate) fn lease(spec: &JobSpec) -> Lease {
    spec.lease.map_or(Lease::None, process)
}

/// How it stands with a process whose start time is known.
pub(crate) fn process(holder: LeaseHolder) -> Lease {
    match pidfd::open(holder.pid) {
        // An unreaped zombie holds nothing.
        Ok(fd) if pidfd::has_ended(fd.as_fd()) => Lease::Over,
        Ok(fd) => match Process::read(holder.pid) {
            Some(process) if process.start_ticks == holder.start_ticks => Lease::Held(fd),
            // The pid is in use by another process now.
            Some(_) => Lease::Over,
            // Ended at this moment, which the pidfd will tell; or /proc could not be read, which tells nothing.
            None => Lease::Held(fd),
        },
        Err(Errno::ESRCH | Errno::EINVAL) => Lease::Over,
        // Not to be told on this kernel: left to cleanup.
        Err(_) => Lease::None,
    }
}

/// Has systemd put this process into the scope, moves it into the leaf `hold`, and enables what there is to enable; tells
/// the one who waits on stdout.
fn hold_scope() {
    let answer = match enter_scope() {
        Ok(()) => "ready".to_owned(),
        Err(failure) => failure.to_string(),
    };
    let failed = answer != "ready";
    let _ = file::write_all(std::io::stdout().as_fd(), answer.as_bytes());
    // Its reader waits for the end of the file.
    if let Ok(null) = std::fs::OpenOptions::new().write(true).open("/dev/null") {
        let _ = nix::unistd::dup2_stdout(&null);
    }
    if failed {
        std::process::exit(125);
    }
}

fn enter_scope() -> Result<()> {
    // Our stderr is nowhere, and its words are for whoever waits for our answer.
    host::ask_for_scope(c"system", Some(std::io::stdout().as_fd()))?;
    let mount = jobcage_cage::Mount::find()?;
    let root = Dir::open(&mount.dir_of(&jobcage_cage::own_cgroup()?))?;
    let hold = root.create_or_open(HOLD)?;
    hold.write("cgroup.procs", "0")
        .map_err(Failure::system("move the watcher into its leaf"))?;
    for controller in Controller::ALL {
        // One that the host does not give is missed when somebody asks for a limit of it, and doctor tells.
        let _ = jobcage_cage::enable(&root, &[controller]);
    }
    Ok(())
}

/// One descriptor or two for each job.
fn raise_descriptor_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}
