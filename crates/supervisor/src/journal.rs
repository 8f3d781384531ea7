//! A job's life in the host's journal: its begin, its stages and its end, found by `journalctl -t jobcage JOBCAGE_JOB=ID`.
//!
//! Only jobs with labels ([`JobSpec::labels`]) are told of, by whoever begins and whoever closes them. journald's own
//! protocol where it listens, else syslog's, else nothing: never an error, never a wait. No environment value, no argument
//! and no script gets here, since there are none in what it is made of.

use jobcage_job::{JobSpec, Report};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, sendto, socket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

/// What `journalctl -t` is given.
const IDENTIFIER: &str = "jobcage";

/// syslog(3): what the entries are about.
const DAEMON: u8 = 3;

/// The longest message. One datagram has to hold it with everything else.
const MOST: usize = 2048;

/// How much an entry matters (syslog(3)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Priority {
    /// Something of the job is still alive.
    Error = 3,
    /// Something had to be killed.
    Warning = 4,
    /// All is as it should be.
    Info = 6,
}

/// Those who take entries, the best first.
struct Sinks<'a> {
    journald: &'a Path,
    syslog: &'a Path,
}

impl Sinks<'_> {
    fn of_this_host() -> Self {
        Self {
            journald: Path::new("/run/systemd/journal/socket"),
            syslog: Path::new("/dev/log"),
        }
    }
}

/// Tells that the cage of a job is there.
pub(crate) fn began(spec: &JobSpec) {
    let text = format!("begun, uid {}, cage {}", spec.uid, spec.cage);
    tell(&Sinks::of_this_host(), spec, Priority::Info, &text, None);
}

/// Tells what happens in a job, in one line.
pub(crate) fn note(spec: &JobSpec, text: &str) {
    tell(&Sinks::of_this_host(), spec, Priority::Info, text, None);
}

/// Tells how a job ended, and whether all of it did.
pub(crate) fn ended(spec: &JobSpec, report: &Report) {
    let (priority, text) = end(report);
    tell(
        &Sinks::of_this_host(),
        spec,
        priority,
        &text,
        Some(report.ending.kind()),
    );
}

fn end(report: &Report) -> (Priority, String) {
    let mut text = format!("over: {}, closed by {}", report.ending, report.closed_by);
    let left = report.census.count;
    if left > 0 {
        text += &format!("; killed {left} that were left");
    }
    if !report.escaped.is_empty() {
        text += &format!("; {} outside of the cage", report.escaped.len());
    }
    let priority = match &report.quarantine {
        Some(quarantine) => {
            text += &format!("; QUARANTINED, something survived: {}", quarantine.why);
            Priority::Error
        }
        None if !report.clean => {
            text += "; NOT CLEAN, ";
            text += if report.has_survivors() {
                "something outside of the cage survived"
            } else {
                "something that it had made could not be given back"
            };
            Priority::Error
        }
        None if left > 0 || !report.escaped.is_empty() => Priority::Warning,
        None => Priority::Info,
    };
    (priority, text)
}

fn tell(sinks: &Sinks<'_>, spec: &JobSpec, priority: Priority, text: &str, ending: Option<&str>) {
    if spec.labels.is_empty() {
        return;
    }
    let message = message(spec, text);
    let mut fields = vec![("JOBCAGE_JOB", spec.id.as_str())];
    fields.extend(ending.map(|ending| ("JOBCAGE_ENDING", ending)));
    let labels = spec
        .labels
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()));
    fields.extend(labels.filter(|(name, _)| is_field(name)));
    let entry = entry(priority, &message, &fields);
    let Ok(from) = datagrams() else { return };
    if send(&from, sinks.journald, &entry).is_err() {
        let line = line(priority, &message, &fields[1..]);
        // Nobody listens: then nobody wants to know.
        let _ = send(&from, sinks.syslog, line.as_bytes());
    }
}

/// One line, without what would act on a terminal.
fn message(spec: &JobSpec, text: &str) -> String {
    let mut message = format!("{}: ", spec.id);
    for c in text.chars() {
        if message.len() > MOST {
            message.push('…');
            break;
        }
        if c.is_control() {
            message.extend(c.escape_default());
        } else {
            message.push(c);
        }
    }
    message
}

/// Whether journald takes a name as that of a field, and it is none that journald or we set.
fn is_field(name: &str) -> bool {
    const OURS: [&str; 6] = [
        "MESSAGE",
        "PRIORITY",
        "SYSLOG_IDENTIFIER",
        "SYSLOG_PID",
        "JOBCAGE_JOB",
        "JOBCAGE_ENDING",
    ];
    name.len() <= 64
        && name.starts_with(|c: char| c.is_ascii_uppercase())
        && name
            .bytes()
            .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
        && !OURS.contains(&name)
}

/// An entry as journald reads it: `NAME=value` on a line, or the name, the length in 8 bytes and the value where that has
/// lines of its own.
fn entry(priority: Priority, message: &str, fields: &[(&str, &str)]) -> Vec<u8> {
    let priority = (priority as u8).to_string();
    let pid = std::process::id().to_string();
    let ours = [
        ("MESSAGE", message),
        ("PRIORITY", &priority),
        ("SYSLOG_IDENTIFIER", IDENTIFIER),
        ("SYSLOG_PID", &pid),
    ];
    let mut entry = Vec::new();
    for (name, value) in ours.iter().chain(fields) {
        entry.extend(name.as_bytes());
        if value.contains('\n') {
            entry.push(b'\n');
            entry.extend((value.len() as u64).to_le_bytes());
        } else {
            entry.push(b'=');
        }
        entry.extend(value.as_bytes());
        entry.push(b'\n');
    }
    entry
}

/// The same for syslog: the fields stand behind the message.
fn line(priority: Priority, message: &str, fields: &[(&str, &str)]) -> String {
    let mut line = format!(
        "<{}>{IDENTIFIER}[{}]: {message}",
        (DAEMON << 3) | priority as u8,
        std::process::id()
    );
    for (name, value) in fields {
        line += &format!(" {name}={}", value.escape_debug());
    }
    line
}

fn datagrams() -> jobcage_sys::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC;
    socket(AddressFamily::Unix, SockType::Datagram, flags, None)
}

/// One datagram, or none: who does not read at once does not get it.
fn send(from: &OwnedFd, to: &Path, datagram: &[u8]) -> jobcage_sys::Result<()> {
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    sendto(from.as_raw_fd(), datagram, &UnixAddr::new(to)?, flags).map(drop)
}

#[cfg(test)]
#[path = "journal_test.rs"]
mod tests;
