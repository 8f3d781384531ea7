//! The clients' side of a session's socket. A supervisor that dies has a successor within milliseconds: whoever asks
//! meanwhile waits for its socket.

use super::{Answer, Ask, SOCKET};
use crate::error::{Failure, Result};
use crate::journal;
use crate::keeper::{hear, say};
use crate::quiet::is_readable;
use crate::sockets::short_address;
use jobcage_job::JobSpec;
use jobcage_ledger::{LedgerError, Record, State};
use jobcage_sys::{Errno, socket};
use nix::poll::{PollFd, PollFlags};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::socket::connect;
use nix::sys::time::TimeSpec;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long a session may be without a supervisor that answers.
const PATIENCE: Duration = Duration::from_secs(10);

/// A step that the supervisor of its session knows of.
#[derive(Debug)]
pub struct Guest {
    /// `None`: lost, and not to be had again.
    connection: Option<OwnedFd>,
    begin: Ask,
    /// The supervisor understands more than the end of a step.
    is_welcome: bool,
    /// The supervisor has said so.
    is_ending: bool,
}

impl Guest {
    /// Tells of a step that is about to start. What there is to do besides may be done before [`Guest::is_let_in`].
    #[must_use]
    pub fn announce(record: &Record, step: u32, name: String, signal: i32, grace: Duration) -> Self {
        let begin = Ask::Begin {
            step,
            name,
            signal,
            grace,
            hears: true,
        };
        Self {
            // Who cannot be reached now is asked anew below.
            connection: say_to(record, &begin, &[]).ok(),
            begin,
            is_welcome: false,
            is_ending: false,
        }
    }

    /// Waits for the word that the step may start.
    ///
    /// # Errors
    /// If the session is ending, or nobody answers.
    pub fn is_let_in(&mut self, record: &Record) -> Result<()> {
        let told = self.connection.take().map(heard_of);
        let told = match told {
            Some(Ok(told)) => told,
            _ => ask(record, &self.begin, &[])?,
        };
        match told {
            (connection, answer @ (Answer::Done | Answer::Welcome)) => {
                self.connection = Some(connection);
                self.is_welcome = answer == Answer::Welcome;
                Ok(())
            }
            (_, Answer::Nothing | Answer::Never | Answer::Over) => Err(over(record)),
        }
    }

    /// Readable when the supervisor is gone, or says that the session is ending.
    #[must_use]
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.connection.as_ref().map(AsFd::as_fd)
    }

    /// Hears that the session is ending; tells the next supervisor, if this one is gone. The step runs on where that fails: a
    /// session that is ending ends it.
    pub fn renew(&mut self, record: &Record) {
        let Some(connection) = self.fd().filter(|connection| is_readable(*connection)) else {
            return;
        };
        // It waits for our word of the end of the step: the connection stays.
        if matches!(hear(connection), Ok(Some((Answer::Over, _)))) {
            self.is_ending = true;
            return;
        }
        let again = ask(record, &self.begin, &[]).ok();
        let again = again.filter(|(_, told)| matches!(told, Answer::Done | Answer::Welcome));
        self.is_welcome = again.as_ref().is_some_and(|(_, told)| *told == Answer::Welcome);
        self.connection = again.map(|(connection, _)| connection);
    }

    /// The step is over and written down. Whether the session may be ending: its supervisor has said so, is gone, or does not say
    /// such things.
    pub fn end(self, spec: &JobSpec, note: Option<String>) -> bool {
        let Some(connection) = self.fd() else {
            tell(spec, note.as_deref());
            return true;
        };
        let is_ending = self.is_ending || !self.is_welcome || is_readable(connection);
        let ended = if self.is_welcome {
            Ask::Ended { note: note.clone() }
        } else {
            Ask::End
        };
        // One that is gone asks nobody any more: the record tells its successor.
        if say(connection, &ended, &[]).is_err() || !self.is_welcome {
            tell(spec, note.as_deref());
        }
        is_ending
    }
}

fn tell(spec: &JobSpec, note: Option<&str>) {
    if let Some(note) = note {
        journal::note(spec, note);
    }
}

/// Has the session run a script as its after phase, should nobody take that back. `false`: the session is ending.
///
/// # Errors
/// If nobody answers.
pub fn give_after(record: &Record, script: BorrowedFd<'_>, timeout: Duration) -> Result<bool> {
    Ok(ask(record, &Ask::GiveAfter { timeout }, &[script])?.1 == Answer::Done)
}

/// Whose the after phase of a session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterPhase {
    /// The asker's, who has taken it back.
    Ours,
    /// The session's no more: it has run, or is running, or somebody else has taken it.
    Gone,
    /// Nobody's: it was never given.
    NeverGiven,
}

/// Takes the after phase back, to run it oneself.
///
/// # Errors
/// If nobody answers.
pub fn take_after(record: &Record) -> Result<AfterPhase> {
    let pid = std::process::id().cast_signed();
    Ok(match ask(record, &Ask::TakeAfter { pid }, &[])?.1 {
        Answer::Done => AfterPhase::Ours,
        Answer::Never => AfterPhase::NeverGiven,
        Answer::Nothing | Answer::Welcome | Answer::Over => AfterPhase::Gone,
    })
}

fn over(record: &Record) -> Failure {
    Failure::Refused(format!(
        "the job {} is over: its cage takes no further step",
        record.id()
    ))
}

/// Asks whoever supervises the session now, or next.
fn ask(record: &Record, ask: &Ask, fds: &[BorrowedFd<'_>]) -> Result<(OwnedFd, Answer)> {
    let end = Instant::now() + PATIENCE;
    let mut news = None;
    loop {
        match try_once(record, ask, fds) {
            Ok(answered) => return Ok(answered),
            Err(Errno::ENOENT | Errno::ECONNREFUSED | Errno::ECONNRESET | Errno::EPIPE) => {}
            Err(errno) => return Err(Failure::system("ask the supervisor of the session")(errno)),
        }
        // Only now, and then another try, so that no socket is missed: to put a watch away takes the kernel milliseconds.
        if news.is_none() {
            news = Some(watch(record));
            continue;
        }
        match record.state() {
            Ok(State::Over(_) | State::Closing { .. }) | Err(LedgerError::NoSuchJob(_)) => {
                return Err(over(record));
            }
            _ if record.is_closing() => return Err(over(record)),
            _ => {}
        }
        if !wait_for_news(news.as_ref().and_then(Option::as_ref), end)? {
            return Err(Failure::Refused(format!(
                "nobody looks after the job {id} any more: \"jobcage gc\" ends it",
                id = record.id()
            )));
        }
    }
}

fn try_once(record: &Record, ask: &Ask, fds: &[BorrowedFd<'_>]) -> jobcage_sys::Result<(OwnedFd, Answer)> {
    heard_of(say_to(record, ask, fds)?)
}

fn say_to(record: &Record, ask: &Ask, fds: &[BorrowedFd<'_>]) -> jobcage_sys::Result<OwnedFd> {
    let connection = socket::seqpacket()?;
    short_address(record.path(), SOCKET, |address| {
        connect(connection.as_raw_fd(), address)
    })?;
    say(connection.as_fd(), ask, fds)?;
    Ok(connection)
}

fn heard_of(connection: OwnedFd) -> jobcage_sys::Result<(OwnedFd, Answer)> {
    match hear::<Answer>(connection.as_fd()) {
        Ok(Some((answer, _))) => Ok((connection, answer)),
        // It died before its answer: the next one is asked again.
        Ok(None) | Err(_) => Err(Errno::ECONNRESET),
    }
}

fn watch(record: &Record) -> Option<Inotify> {
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).ok()?;
    let what = AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_DELETE_SELF | AddWatchFlags::IN_ONLYDIR;
    inotify.add_watch(record.path(), what).ok()?;
    Some(inotify)
}

/// Waits for a change of the record. `false`: there was none in time.
fn wait_for_news(news: Option<&Inotify>, end: Instant) -> Result<bool> {
    // A user whose inotify instances are used up looks from time to time.
    const BLIND: Duration = Duration::from_millis(20);
    let left = end.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Ok(false);
    }
    let mut fds: Vec<PollFd<'_>> = news
        .iter()
        .map(|news| PollFd::new(news.as_fd(), PollFlags::POLLIN))
        .collect();
    let patience = if fds.is_empty() { left.min(BLIND) } else { left };
    match nix::poll::ppoll(&mut fds, Some(TimeSpec::from_duration(patience)), None) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(errno) => return Err(Failure::system("wait for the supervisor of the session")(errno)),
    }
    if let Some(news) = news {
        // EAGAIN is the end of it.
        while news.read_events().is_ok() {}
    }
    Ok(true)
}
