//! The supervisors' side: reaching the watcher, and starting one where there is none.

use super::{LEASE, SOCKET};
use crate::error::{Failure, Result};
use crate::host::{self, SELF};
use crate::quiet::is_readable;
use crate::sockets::short_address;
use jobcage_cage::{Dir, HOLD};
use jobcage_job::{JobId, JobSpec};
use jobcage_ledger::Places;
use jobcage_sys::spawn::{Child, Plan, spawn, spawn_moved};
use jobcage_sys::{Errno, file, wait};
use nix::fcntl::OFlag;
use nix::sys::signal::Signal;
use nix::sys::socket::{self, AddressFamily, Backlog, MsgFlags, SockFlag, SockType};
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

/// A registration with the watcher; it lasts as long as it is held.
#[derive(Debug)]
pub struct Watch {
    /// Readable when the watcher is gone.
    pub connection: OwnedFd,
    /// The watcher, if we had to start it: it is our child then.
    pub started: Option<Child>,
}

/// Registers this process as the supervisor of a job; starts a watcher if there is none. `root` is where the cages are.
///
/// # Errors
/// If no watcher can be reached or started. The job can run all the same, but nobody looks after it if we are killed.
pub fn register(places: &Places, root: &Dir, id: &JobId) -> Result<Watch> {
    tell(places, root, id.as_str())
}

/// As [`register`]; where that fails, the note that the report gets.
pub(crate) fn register_or_note(
    places: &Places,
    root: &Dir,
    id: &JobId,
    notes: &mut Vec<String>,
) -> Option<Watch> {
    match register(places, root, id) {
        Ok(watch) => Some(watch),
        Err(failure) => {
            notes.push(format!(
                "no watcher: {failure}; if jobcage is killed, run \"jobcage gc\""
            ));
            None
        }
    }
}

/// Replaces a watcher that is gone, since the next crash may be ours; the note about it. `None`: it is there, or there was
/// none.
pub(crate) fn renew(watch: &mut Option<Watch>, places: &Places, spec: &JobSpec) -> Option<&'static str> {
    if !is_readable(watch.as_ref()?.connection.as_fd()) {
        return None;
    }
    let root = Path::new(&spec.cage)
        .parent()
        .and_then(|root| Dir::open(root).ok());
    *watch = root.and_then(|root| register(places, &root, &spec.id).ok());
    Some(match watch {
        Some(_) => "the watcher died and was replaced",
        None => "the watcher died and could not be replaced; if jobcage is killed, run \"jobcage gc\"",
    })
}

/// Reaches the watcher, or a new one, with a message.
fn tell(places: &Places, root: &Dir, message: &str) -> Result<Watch> {
    match connect(&places.runtime).and_then(|connection| announce(connection, message)) {
        Ok(connection) => {
            return Ok(Watch {
                connection,
                started: None,
            });
        }
        Err(Errno::ENOENT | Errno::ECONNREFUSED | Errno::ECONNRESET | Errno::EPIPE) => {}
        Err(errno) => return Err(Failure::system("reach the watcher")(errno)),
    }
    let hold = host::leaf(root, HOLD)?;
    let started = start(places, Some(&hold), None)?;
    let connection = connect(&places.runtime)
        .and_then(|connection| announce(connection, message))
        .map_err(Failure::system("reach the new watcher"))?;
    Ok(Watch {
        connection,
        started: Some(started),
    })
}

fn connect(runtime: &Path) -> jobcage_sys::Result<OwnedFd> {
    let fd = socket::socket(
        AddressFamily::Unix,
        SockType::SeqPacket,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    short_address(runtime, SOCKET, |address| {
        socket::connect(fd.as_raw_fd(), address)
    })?;
    Ok(fd)
}

fn announce(connection: OwnedFd, message: &str) -> jobcage_sys::Result<OwnedFd> {
    socket::send(connection.as_raw_fd(), message.as_bytes(), MsgFlags::MSG_NOSIGNAL)?;
    Ok(connection)
}

/// Makes the socket and starts a watcher on it. With `ready`, which becomes its stdout, it is to hold a scope, and what is
/// started is only its parent, which ends at once.
fn start(places: &Places, hold: Option<&Dir>, ready: Option<&OwnedFd>) -> Result<Child> {
    let listener = listen(&places.runtime).map_err(Failure::system("make the watcher's socket"))?;
    let null = file::open_null().map_err(Failure::system("open /dev/null"))?;
    let mut words = vec![c"__watch".into()];
    words.extend(host::words_of_places(places));
    words.extend(ready.map(|_| c"detach".into()));
    let plan = Plan {
        cgroup: hold.map(Dir::fd),
        // What a terminal sends in the moment before it has its own session would end it, with all that it watches.
        signal_mask: Some(
            [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTSTP, Signal::SIGHUP]
                .into_iter()
                .collect(),
        ),
        ..host::helper(
            words,
            [listener.as_fd(), ready.unwrap_or(&null).as_fd(), null.as_fd()],
        )
    };
    // Not born in its leaf but moved there: where our own cgroup was once killed as a whole, some kernels kill what is born
    // of us, and here nobody would notice in time. It is done once for many jobs, so its price does not matter.
    spawn_moved(&plan).map_err(Failure::system("start the watcher"))
}

/// A new socket in the place of whatever was there: two who do this at the same time both end up with a watcher.
fn listen(runtime: &Path) -> jobcage_sys::Result<OwnedFd> {
    let fd = socket::socket(
        AddressFamily::Unix,
        SockType::SeqPacket,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    let own = format!("{SOCKET}.{}", std::process::id());
    let _ = std::fs::remove_file(runtime.join(&own));
    let placed = short_address(runtime, &own, |address| socket::bind(fd.as_raw_fd(), address))
        .and_then(|()| socket::listen(&fd, Backlog::MAXCONN))
        .and_then(|()| {
            let (from, to) = (runtime.join(&own), runtime.join(SOCKET));
            nix::fcntl::renameat(nix::fcntl::AT_FDCWD, &from, nix::fcntl::AT_FDCWD, &to)
        });
    if placed.is_err() {
        // The first error is the one to tell.
        let _ = std::fs::remove_file(runtime.join(&own));
    }
    placed.map(|()| fd)
}

/// Starts a watcher that has systemd put it into the scope of all cages, and waits until that is done.
///
/// # Errors
/// With systemd's own words.
pub fn start_scope_holder(places: &Places) -> Result<()> {
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(Failure::system("make a pipe"))?;
    let between = start(places, None, Some(&write))?;
    drop(write);
    wait::block(wait::Whom::Pid(between.pid)).map_err(Failure::system("wait for the watcher's start"))?;
    let answer = file::read_to_end(read.as_fd()).map_err(Failure::system("hear from the watcher"))?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    if answer == "ready" {
        return Ok(());
    }
    // The first line is the cause.
    let answer = answer.lines().next().unwrap_or_default();
    let answer = answer.strip_prefix("jobcage: ").unwrap_or(answer).to_owned();
    Err(Failure::Refused(if answer.is_empty() {
        "the watcher died while it asked systemd for a scope".into()
    } else {
        answer
    }))
}

/// Starts the watcher that holds the scope and ends, so that the watcher is nobody's child: a job that had it as its own
/// would take it for one of the job's processes that has left the cage.
///
/// # Errors
/// If it cannot be started.
pub fn detach(places: &Places) -> Result<()> {
    let mut args: Vec<CString> = vec![c"jobcage".into(), c"__watch".into()];
    args.extend(host::words_of_places(places));
    args.push(c"scope".into());
    let plan = Plan {
        programs: vec![SELF.into()],
        args,
        env: host::environment(&["XDG_RUNTIME_DIR"]),
        ..Plan::default()
    };
    // A start that is under way keeps the memory that it shares with us beyond our end.
    spawn(&plan)
        .map_err(Failure::system("start the watcher"))
        .map(drop)
}

/// Asks the watcher to look at the leases again; a new one does so at its start.
///
/// # Errors
/// As [`register`].
pub fn announce_lease(places: &Places, root: &Dir, id: &JobId) -> Result<()> {
    tell(places, root, &format!("{LEASE}{id}")).map(drop)
}
