//! A look at processes through `/proc` (proc_pid_stat(5), proc_pid_status(5)).
//!
//! The numbers are exact while the cgroup is frozen. Whatever a process can choose itself (its name, its arguments) is
//! escaped before it is written anywhere.

use crate::kvm;
use jiff::Timestamp;
use jobcage_job::{Death, FoundBy, Left};
use jobcage_sys::{clock, file};
use nix::unistd::{SysconfVar, Uid, User, sysconf};
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::CString;
use std::time::Duration;

/// What `/proc/PID/stat` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// The kernel's name, raw.
    pub comm: String,
    /// The state letter.
    pub state: char,
    /// The parent.
    pub ppid: i32,
    /// Clock ticks from boot to its start. With the pid it names a process for ever.
    pub start_ticks: u64,
}

impl Process {
    /// Reads a process; `None`: it is gone.
    #[must_use]
    pub fn read(pid: i32) -> Option<Self> {
        Self::parse(&String::from_utf8_lossy(&read(pid, "stat")?))
    }

    /// A name may hold anything, `) R 1 1 (` for one: what follows the *last* parenthesis is the kernel's own.
    fn parse(stat: &str) -> Option<Self> {
        let (head, tail) = stat.rsplit_once(')')?;
        let comm = head.split_once('(')?.1.to_owned();
        let mut fields = tail.split_ascii_whitespace();
        Some(Self {
            comm,
            state: fields.next()?.chars().next()?,
            ppid: fields.next()?.parse().ok()?,
            // The 22nd field; the third was the state.
            start_ticks: fields.nth(17)?.parse().ok()?,
        })
    }
}

/// The moment when a process started, exact to a tick.
#[must_use]
pub fn process_start(start_ticks: u64) -> Option<Timestamp> {
    let ticks_per_second = u64::try_from(sysconf(SysconfVar::CLK_TCK).ok()??)
        .ok()
        .filter(|n| *n > 0)?;
    let since_boot = Duration::from_millis(start_ticks.saturating_mul(1000) / ticks_per_second);
    let ago = clock::boot_time().saturating_sub(since_boot);
    Timestamp::now().checked_sub(ago).ok()
}

/// Describes one process. What cannot be read is left out; a process that is gone gives a line with its pid alone.
#[must_use]
pub fn describe(pid: i32, found: FoundBy, died: Death) -> Left {
    let process = Process::read(pid);
    let status = read(pid, "status")
        .map(|s| String::from_utf8_lossy(&s).into_owned())
        .unwrap_or_default();
    let field = |key: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(key)?.split_ascii_whitespace().next())
    };
    let uid = field("Uid:").and_then(|uid| uid.parse().ok()).unwrap_or(0);
    let wchan = read(pid, "wchan")
        .map(|w| escape(&w, 64))
        .filter(|w| !w.is_empty() && w != "0");
    Left {
        pid,
        ppid: process.as_ref().map_or(0, |p| p.ppid),
        comm: escape(process.as_ref().map_or("", |p| &p.comm).as_bytes(), 15),
        command: command(pid),
        uid,
        user: user_name(uid),
        started: process
            .as_ref()
            .and_then(|p| process_start(p.start_ticks))
            .map(|at| format!("{at:.3}")),
        state: process.as_ref().map_or('X', |p| p.state),
        tracer: field("TracerPid:")
            .and_then(|pid| pid.parse().ok())
            .filter(|pid| *pid != 0),
        wchan,
        kvm: kvm::machine(pid, process.as_ref().map_or("", |p| &p.comm)),
        found,
        died,
    }
}

/// The name of a uid. /etc/passwd is read once for each: a census may have hundreds of processes of one user.
fn user_name(uid: u32) -> Option<String> {
    thread_local!(static NAMES: RefCell<HashMap<u32, Option<String>>> = RefCell::default());
    let look_up = || {
        User::from_uid(Uid::from_raw(uid))
            .ok()
            .flatten()
            .map(|user| user.name)
    };
    NAMES.with_borrow_mut(|names| names.entry(uid).or_insert_with(look_up).clone())
}

/// The process that a thread belongs to; `None`: it is gone.
pub(crate) fn process_of(thread: i32) -> Option<i32> {
    let status = read(thread, "status")?;
    let status = String::from_utf8_lossy(&status);
    status
        .lines()
        .find_map(|line| line.strip_prefix("Tgid:"))?
        .trim()
        .parse()
        .ok()
}

/// The command line with its arguments separated by spaces, at most 200 characters.
fn command(pid: i32) -> String {
    let raw = read(pid, "cmdline").unwrap_or_default();
    let end = raw.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1);
    let spaced: Vec<u8> = raw[..end]
        .iter()
        .map(|b| if *b == 0 { b' ' } else { *b })
        .collect();
    escape(&spaced, 200)
}

/// Makes text harmless for a terminal, a log and JSON: control characters and what is no UTF-8 are written as escapes.
pub(crate) fn escape(raw: &[u8], most: usize) -> String {
    let text = String::from_utf8_lossy(raw);
    let mut out = String::new();
    for c in text.chars() {
        if out.chars().count() >= most {
            out.push('…');
            break;
        }
        let plain = !c.is_control()
            && !matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if plain {
            out.push(c)
        } else {
            out.extend(c.escape_default())
        }
    }
    out
}

/// Reads `/proc/PID/NAME`; `None`: the process is gone, or it may not be read.
pub(crate) fn read(pid: i32, name: &str) -> Option<Vec<u8>> {
    file::read_path(&CString::new(format!("/proc/{pid}/{name}")).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TAIL: &str =
        "S 7 42 42 0 -1 4194304 100 0 0 0 1 2 0 0 20 0 1 0 987654 2703360 220 18446744073709551615";

    #[test]
    fn reads_this_very_process() {
        let pid = std::process::id().cast_signed();
        let me = Process::read(pid).unwrap();
        assert!(me.start_ticks > 0 && matches!(me.state, 'R' | 'S'), "{me:?}");
        let left = describe(pid, FoundBy::Cgroup(String::new()), Death::Killed);
        assert!(!left.command.is_empty() && left.started.is_some(), "{left:?}");
        assert!(Process::read(i32::MAX).is_none());
    }

    proptest! {
        #[test]
        fn a_hostile_name_changes_no_number(comm in "[^\u{0}]{0,15}") {
            let p = Process::parse(&format!("123 ({comm}) {TAIL}\n"));
            // Only a parenthesis *behind* the kernel's own could mislead, and nothing of the process stands there.
            let p = p.unwrap();
            prop_assert_eq!((p.comm.as_str(), p.state, p.ppid, p.start_ticks), (comm.as_str(), 'S', 7, 987_654));
        }

        #[test]
        fn escaped_text_is_one_harmless_line(raw: Vec<u8>) {
            let text = escape(&raw, 200);
            prop_assert!(text.chars().all(|c| !c.is_control()));
            prop_assert!(text.chars().count() <= 200 + 12);
        }
    }
}
