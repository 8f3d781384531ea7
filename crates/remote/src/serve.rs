//! The other side of the line: a process that sshd starts and that ends with its line. It starts a job, or follows one from the bytes on that its
//! client has; nothing of the job hangs on it. That its client lives is written down for the job's lease.

mod line;
mod verb;

use crate::cache::Cache;
use crate::door;
use crate::error::{RemoteError, Result};
use crate::frame::{Answer, Ask, Fetch, Hello, PIECE, PROTOCOLS, Packed, Place, Resume, Start, Welcome};
use crate::spool::{Arrived, rewound};
use jobcage_job::{JobId, Report};
use jobcage_ledger::log::{Tap, Tapped};
use jobcage_ledger::{LedgerError, Places, Record, State, boot_id};
use jobcage_supervisor::asking::{self, Stopped};
use jobcage_supervisor::gc;
use jobcage_sys::clock::boot_time;
use line::Line;
use nix::fcntl::OFlag;
use nix::sys::signal::{SigSet, Signal};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;
use verb::perform;

/// A client that says nothing for so long has gone, and the line has not told.
const SILENCE: Duration = Duration::from_secs(60);
/// So many of its own beats it may miss, where they are slow.
const BEATS: u32 = 4;

/// What the program around us does.
pub trait Host: Sync {
    /// Starts the job as a captured one. `stdin`: its standard input; `agent`: the socket of an agent, for whoever we are.
    ///
    /// # Errors
    /// Why it does not run, for a person.
    fn start(&self, start: &Start, stdin: OwnedFd, agent: Option<&Path>) -> std::result::Result<(), String>;

    /// Unpacks files into a directory of the job with these words, as its user; `dir` from where that job begins.
    ///
    /// # Errors
    /// Why they are not there, for a person.
    fn unpack(&self, words: &[OsString], dir: &OsStr, files: File) -> std::result::Result<(), String>;

    /// Packs a file or a directory of that job in the same way; also how many were neither file, directory nor link.
    ///
    /// # Errors
    /// Why there is no archive, for a person.
    fn pack(&self, words: &[OsString], path: &OsStr) -> std::result::Result<(File, u64), String>;

    /// Where the records are.
    fn places(&self) -> Places;
}

/// Says the word of the door, and then what there is to say until the client is gone.
///
/// # Errors
/// If it cannot be said, or what comes is no word of ours.
pub fn serve(token: &str, host: &dyn Host) -> Result<()> {
    // The line's end is told by the line. A shell of the host may ignore these; its children must not.
    let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM].into_iter().collect();
    let _ = signals.thread_unblock();
    let mut line = Line::new()?;
    line.put(door::here(token).as_bytes());
    let Some(Ask::Hello(hello)) = line.next(None)? else {
        return Ok(());
    };
    line.set_silence(SILENCE.max(hello.keepalive.saturating_mul(BEATS)));
    if !greet(&mut line, &hello)? {
        return line.finish();
    }
    let cache = Cache::find();
    cache.sweep(&host.places());
    let agent = hello.agent_for.map(|id| cache.lead_to_agent(&id));
    let done = heed(&mut line, host, agent);
    cache.sweep(&host.places());
    done
}

/// The link to the agent that a job is to have, or why there is none.
type Agent = Option<std::result::Result<PathBuf, String>>;

/// Does what the client asks for, until it leaves.
fn heed(line: &mut Line, host: &dyn Host, agent: Agent) -> Result<()> {
    let mut arrived = Arrived::default();
    while let Some(ask) = line.next(None)? {
        match ask {
            Ask::Input(bytes) => arrived.input(&bytes),
            Ask::Put(dir) => arrived.put(dir),
            Ask::Piece(bytes) => arrived.piece(&bytes),
            Ask::Start(start) => return start_and_follow(line, host, &start, arrived, agent),
            Ask::Resume(resume) => return come_back(line, host, resume),
            Ask::Close(id) => return close(line, host, &id),
            Ask::Verb(words) => return perform(line, &words),
            Ask::Ping => line.say(&Answer::Pong),
            Ask::Fetch(fetch) => {
                send_one(line, host, &fetch)?;
                return send_files(line, host);
            }
            Ask::Hello(_) | Ask::Stop(_) => {}
        }
    }
    Ok(())
}

fn greet(line: &mut Line, hello: &Hello) -> Result<bool> {
    let is_spoken = PROTOCOLS.contains(&hello.protocol);
    line.say(&Answer::Welcome(Welcome {
        protocol: if is_spoken { hello.protocol } else { 0 },
        known: PROTOCOLS.to_vec(),
        version: door::BUILD.into(),
        boot_id: boot_id()?,
    }));
    Ok(is_spoken)
}

/// Asking twice starts one job: its id is the client's, and the directory of its record is made by one of two.
fn start_and_follow(
    line: &mut Line,
    host: &dyn Host,
    start: &Start,
    arrived: Arrived,
    agent: Agent,
) -> Result<()> {
    let is_there = || record_of(host, &start.id).map(|record| record.is_some());
    if is_there()? {
        see_to(host, &start.id);
    } else {
        match begin(line, host, start, arrived, agent)? {
            None => return Ok(()),
            Some(Err(why)) if !is_there()? => {
                line.say(&Answer::Refused(why));
                return line.finish();
            }
            Some(_) => {}
        }
    }
    line.say(&Answer::Started);
    follow(line, host, &start.id, BTreeMap::new())
}

/// Starts the job. `None`: the line has ended, and what comes of the job is seen by whoever comes next.
fn begin(
    line: &mut Line,
    host: &dyn Host,
    start: &Start,
    arrived: Arrived,
    agent: Agent,
) -> Result<Option<std::result::Result<(), String>>> {
    let begun = beside(line, move || {
        let agent = agent.transpose()?;
        let (stdin, files) = arrived.ready()?;
        for (dir, file) in files {
            host.unpack(&start.words, &dir, file)?;
        }
        let stdin = match stdin {
            Some(file) => file.into(),
            None => jobcage_sys::file::open_null()
                .map_err(|errno| format!("cannot open /dev/null: {}", errno.desc()))?,
        };
        host.start(start, stdin, agent.as_deref())
    })?;
    let failed = || Err("jobcage has failed while it started the job".into());
    Ok(begun.map(|begun| begun.unwrap_or_else(failed)))
}

/// Does what may take its time, and is there for the line meanwhile. `None`: that has ended; `Some(None)`: jobcage has failed over it.
fn beside<T: Send>(line: &mut Line, work: impl FnOnce() -> T + Send) -> Result<Option<Option<T>>> {
    let (done, tell) = nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(RemoteError::system("make a pipe"))?;
    std::thread::scope(|threads| {
        let working = threads.spawn(move || {
            let came = work();
            drop(tell);
            came
        });
        loop {
            let turned = line.turn(Some(done.as_fd()), None)?;
            if turned.told {
                return Ok(Some(working.join().ok()));
            }
            // Whoever has begun cannot be stopped half-way: it is waited for at the end of the scope.
            if turned.ended {
                return Ok(None);
            }
            line.beat()?;
        }
    })
}

/// Has a job end, and says how it was. Should the line end meanwhile, the job does all the same.
fn close(line: &mut Line, host: &dyn Host, id: &JobId) -> Result<()> {
    line.say(&Answer::Started);
    let Some(closed) = beside(line, || end(host, id))? else {
        return Ok(());
    };
    line.say(&match closed {
        Some(Ok(Some(report))) => over(&report, id),
        Some(Ok(None)) => Answer::Gone(format!("there is no job {id}")),
        Some(Err(why)) => Answer::Refused(why.to_string()),
        None => Answer::Refused("jobcage has failed over it".into()),
    });
    line.finish()
}

/// `None`: there is none, or it never began.
fn end(host: &dyn Host, id: &JobId) -> Result<Option<Box<Report>>> {
    match asking::stop(&host.places(), id, &asking::How::default()) {
        Ok(Stopped::Asked(report)) => Ok(report),
        Ok(Stopped::Closed(report) | Stopped::Over(report)) => Ok(Some(report)),
        Err(_) if record_of(host, id)?.is_none() => Ok(None),
        Err(failure) => Err(failure.into()),
    }
}

fn come_back(line: &mut Line, host: &dyn Host, resume: Resume) -> Result<()> {
    see_to(host, &resume.id);
    let points = resume.points.into_iter();
    let points = points.map(|(step, stream, at)| ((step, stream), at)).collect();
    line.say(&Answer::Started);
    follow(line, host, &resume.id, points)
}

/// The job's supervisor may be of another boot, or dead with all that looked after it. Whoever comes in its place is no part of this line, which is
/// to be heard meanwhile, and may break: what it comes to is in the record.
fn see_to(host: &dyn Host, id: &JobId) {
    let _ = gc::have_seen_to(&host.places(), id);
}

fn record_of(host: &dyn Host, id: &JobId) -> Result<Option<Record>> {
    match host.places().open(id) {
        Ok(record) => Ok(Some(record)),
        Err(LedgerError::NoSuchJob(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Sends what the job writes, and in the end its report.
fn follow(line: &mut Line, host: &dyn Host, id: &JobId, points: BTreeMap<Place, u64>) -> Result<()> {
    let Some(record) = record_of(host, id)? else {
        line.say(&Answer::Gone(format!("there is no job {id} any more")));
        return line.finish();
    };
    let spec = match begun(line, &record)? {
        Begun::Spec(spec) => spec,
        Begun::Never => {
            line.say(&Answer::Gone(format!("the job {id} was cut off before it began")));
            return line.finish();
        }
        Begun::LineEnded => return Ok(()),
    };
    let Some(capture) = spec.capture else {
        line.say(&Answer::Refused(format!(
            "the job {id} is not captured: its output goes where its jobcage was started"
        )));
        return line.finish();
    };
    let mut tap = Tap::new(&record, capture, points)?;
    let mut has_heard = true;
    loop {
        if spec.silence.is_some() && std::mem::take(&mut has_heard) {
            // Of a job that is over there is nothing to write it into.
            let _ = record.hear(boot_time());
        }
        let mut idle = false;
        if line.has_room() {
            match line.take_output(&mut tap)? {
                Tapped::Bytes { .. } => {}
                Tapped::Lost { place, bytes } => line.say(&Answer::Dropped { place, bytes }),
                Tapped::Nothing => idle = true,
                Tapped::Over => {
                    line.say(&ending(&record, id)?);
                    return send_files(line, host);
                }
                Tapped::Removed => {
                    line.say(&Answer::Gone(format!(
                        "the record of the job {id} was removed meanwhile"
                    )));
                    return line.finish();
                }
            }
        }
        let watch = if idle { tap.fd() } else { None };
        let pause = match (idle, watch.is_some()) {
            (false, _) if line.has_room() => Some(Duration::ZERO),
            (true, false) => Some(Tap::PAUSE),
            _ => None,
        };
        let turned = line.turn(watch, pause)?;
        if turned.told || idle && tap.fd().is_none() {
            tap.woken();
            if let Some(rest) = tap.rest() {
                line.turn(None, Some(rest))?;
            }
        }
        while let Some(ask) = line.take()? {
            match ask {
                Ask::Ping => {
                    has_heard = true;
                    line.say(&Answer::Pong);
                }
                Ask::Stop(times) => stop(host, &record, id, times),
                _ => {}
            }
        }
        if turned.ended {
            return Ok(());
        }
    }
}

/// Sends what the client asks for, until it leaves.
fn send_files(line: &mut Line, host: &dyn Host) -> Result<()> {
    while let Some(ask) = line.next(None)? {
        match ask {
            Ask::Ping => line.say(&Answer::Pong),
            Ask::Fetch(fetch) => send_one(line, host, &fetch)?,
            _ => {}
        }
    }
    Ok(())
}

fn send_one(line: &mut Line, host: &dyn Host, fetch: &Fetch) -> Result<()> {
    let Some(packed) = beside(line, || host.pack(&fetch.words, &fetch.path))? else {
        return Ok(());
    };
    let packed = packed.unwrap_or_else(|| Err("jobcage has failed over it".into()));
    let sent = match packed {
        Ok((file, skipped)) => send_archive(line, file)?.map(|()| skipped),
        Err(why) => Err(why),
    };
    line.say(&Answer::Packed(match sent {
        Ok(skipped) => Packed { skipped, why: None },
        Err(why) => Packed {
            skipped: 0,
            why: Some(why),
        },
    }));
    Ok(())
}

/// No faster than the line takes it.
fn send_archive(line: &mut Line, file: File) -> Result<std::result::Result<(), String>> {
    let mut file = match rewound(file) {
        Ok(file) => file,
        Err(why) => return Ok(Err(why)),
    };
    let mut piece = vec![0; PIECE];
    loop {
        if line.has_room() {
            match file.read(&mut piece) {
                Ok(0) => return Ok(Ok(())),
                Ok(n) => line.say(&Answer::Piece(&piece[..n])),
                Err(error) => return Ok(Err(error.to_string())),
            }
        }
        let time = line.has_room().then_some(Duration::ZERO);
        if line.turn(None, time)?.ended {
            return Ok(Ok(()));
        }
        line.beat()?;
    }
}

fn ending(record: &Record, id: &JobId) -> Result<Answer<'static>> {
    let removed = || Answer::Gone(format!("the record of the job {id} was removed meanwhile"));
    Ok(record.report()?.map_or_else(removed, |report| over(&report, id)))
}

fn over(report: &Report, id: &JobId) -> Answer<'static> {
    match serde_json::to_string(report) {
        Ok(report) => Answer::Over(report),
        Err(error) => Answer::Gone(format!("the report of the job {id} cannot be written: {error}")),
    }
}

enum Begun {
    Spec(Box<jobcage_job::JobSpec>),
    Never,
    LineEnded,
}

/// Its record is made before the job: another process like us may be about to begin it.
fn begun(line: &mut Line, record: &Record) -> Result<Begun> {
    loop {
        if let Some(spec) = record.spec()? {
            return Ok(Begun::Spec(spec.into()));
        }
        if !matches!(record.state()?, State::Alive { .. } | State::Closing { .. }) {
            return Ok(Begun::Never);
        }
        // Between the directory and its first file: a moment, of which nobody tells.
        if line.turn(None, Some(Tap::PAUSE))?.ended {
            return Ok(Begun::LineEnded);
        }
    }
}

/// In a thread of its own, since it waits for the end of the job, whose output is to be sent meanwhile.
fn stop(host: &dyn Host, record: &Record, id: &JobId, times: u8) {
    // The first wish may be said on several lines, and is one.
    let is_known = record.asked().is_ok_and(|request| request.is_some());
    if times < 2 && is_known {
        return;
    }
    let (places, id) = (host.places(), id.clone());
    let how = asking::How {
        now: times > 1,
        ..asking::How::default()
    };
    std::thread::spawn(move || {
        // What it came to is in the report.
        let _ = asking::stop(&places, &id, &how);
    });
}
