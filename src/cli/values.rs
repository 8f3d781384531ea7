//! Values that only the command line knows, from their usual spellings: signals, rlimits, lists of
//! processors, niceness, truth. Sizes, times, CPU shares and IO limits are in `jobcage_job`.

use super::request::{GuestRest, Guests};
use jobcage_job::{GuestMode, LogFull, Streams, parse_duration, parse_size};
use jobcage_supervisor::guest_modes;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Why a text is no such value: one sentence, ready to stand behind the option's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ValueError(String);

fn wrong<T>(text: String) -> Result<T, ValueError> {
    Err(ValueError(text))
}

/// A text of the user in an error: quoted, and not longer than a line.
fn quoted(given: &str) -> String {
    format!("{:?}", given.chars().take(80).collect::<String>())
}

/// A signal's number, 1 to 64.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signal(i32);

/// Linux numbers of the architectures that jobcage is built for (x86_64, aarch64, riscv64: one table).
const SIGNALS: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
    "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
    "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];
/// As kill(1) shows them; a C library keeps 32 and 33 (musl also 34) for itself.
const RTMIN: i32 = 34;
const RTMAX: i32 = 64;

impl Signal {
    /// The polite one.
    pub const TERM: Self = Self(15);

    /// The number.
    #[must_use]
    pub fn number(self) -> i32 {
        self.0
    }
}

impl FromStr for Signal {
    type Err = ValueError;

    /// `TERM`, `SIGTERM`, `term`, `15`, `RTMIN+3`.
    fn from_str(given: &str) -> Result<Self, ValueError> {
        let text = given.trim().to_ascii_uppercase();
        let name = text.strip_prefix("SIG").unwrap_or(&text);
        let number = if text.starts_with(|c: char| c.is_ascii_digit()) {
            text.parse().ok()
        } else if let Some(rest) = name.strip_prefix("RTMIN") {
            offset(rest, '+').and_then(|n| RTMIN.checked_add(n))
        } else if let Some(rest) = name.strip_prefix("RTMAX") {
            offset(rest, '-').and_then(|n| RTMAX.checked_sub(n))
        } else {
            SIGNALS
                .iter()
                .zip(1..)
                .find(|(known, _)| **known == name)
                .map(|(_, n)| n)
        };
        match number {
            Some(n) if (1..=RTMAX).contains(&n) => Ok(Self(n)),
            _ => wrong(format!(
                "{} is no signal: write a name, TERM or SIGTERM, or a number from 1 to {RTMAX}",
                quoted(given)
            )),
        }
    }
}

/// `""` or `+N` (`-N`), as behind RTMIN (RTMAX).
fn offset(rest: &str, sign: char) -> Option<i32> {
    match rest.strip_prefix(sign) {
        Some(digits) if digits.starts_with(|c: char| c.is_ascii_digit()) => {
            digits.parse().ok().filter(|n| *n <= RTMAX - RTMIN)
        }
        None if rest.is_empty() => Some(0),
        _ => None,
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match usize::try_from(self.0 - 1).ok().and_then(|i| SIGNALS.get(i)) {
            Some(name) => write!(f, "SIG{name}"),
            None => write!(f, "signal {}", self.0),
        }
    }
}

/// A resource of setrlimit(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resource {
    /// The name in lower case, without `RLIMIT_`.
    pub name: &'static str,
    /// The number of the system call's first argument, for all architectures of this program.
    pub number: u32,
}

/// In the order of their numbers (include/uapi/asm-generic/resource.h).
const RESOURCES: [&str; 16] = [
    "cpu",
    "fsize",
    "data",
    "stack",
    "core",
    "rss",
    "nproc",
    "nofile",
    "memlock",
    "as",
    "locks",
    "sigpending",
    "msgqueue",
    "nice",
    "rtprio",
    "rttime",
];

/// A limit of setrlimit(2) for the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rlimit {
    /// What is limited.
    pub resource: Resource,
    /// The soft limit, [`Rlimit::UNLIMITED`] or in the resource's own unit.
    pub soft: u64,
    /// The hard limit, not below the soft one.
    pub hard: u64,
}

impl Rlimit {
    /// `RLIM_INFINITY` of the kernel.
    pub const UNLIMITED: u64 = u64::MAX;
}

impl FromStr for Rlimit {
    type Err = ValueError;

    /// `nofile=1024:4096`, `RLIMIT_CORE=unlimited`, `fsize=1G`, `cpu=10m`; one value is both limits.
    fn from_str(given: &str) -> Result<Self, ValueError> {
        let Some((name, value)) = given.split_once('=') else {
            return wrong(format!(
                "{} is no rlimit: write NAME=SOFT or NAME=SOFT:HARD, such as nofile=1024:4096",
                quoted(given)
            ));
        };
        let lower = name.trim().to_ascii_lowercase();
        let plain = lower.strip_prefix("rlimit_").unwrap_or(&lower);
        let Some((name, number)) = RESOURCES.into_iter().zip(0..).find(|(known, _)| *known == plain) else {
            return wrong(format!(
                "{} is no resource: write one of {}",
                quoted(name),
                RESOURCES.join(", ")
            ));
        };
        let resource = Resource { name, number };
        let (soft, hard) = match value.split_once(':') {
            Some((soft, hard)) => (resource.value(soft)?, resource.value(hard)?),
            None => (resource.value(value)?, resource.value(value)?),
        };
        if soft > hard {
            return wrong(format!(
                "the soft limit of {name} is above its hard limit in {}",
                quoted(given)
            ));
        }
        Ok(Self { resource, soft, hard })
    }
}

impl Resource {
    /// A value in the unit of the kernel: seconds for `cpu`, microseconds for `rttime`, else bytes or a count.
    fn value(self, given: &str) -> Result<u64, ValueError> {
        if matches!(given.trim(), "unlimited" | "infinity") {
            return Ok(Rlimit::UNLIMITED);
        }
        let time = |given| {
            parse_duration(given).map_err(|e| ValueError(format!("{}: {e}, or unlimited", self.name)))
        };
        match self.name {
            // Rounded up: half a second must not become "no time at all".
            "cpu" => time(given).map(|t| t.as_secs() + u64::from(t.subsec_nanos() > 0)),
            "rttime" => time(given).map(|t| u64::try_from(t.as_micros()).unwrap_or(Rlimit::UNLIMITED)),
            _ => parse_size(given).map_err(|e| ValueError(format!("{}: {e}, or unlimited", self.name))),
        }
    }
}

/// Checks a list of processors in the kernel's format (`0-3,6`, `0-15:2/4`). Whether the host has them is for
/// the kernel to say.
///
/// # Errors
/// If it is empty or of another form, or a range runs backwards.
pub fn parse_cpus(given: &str) -> Result<String, ValueError> {
    let text = given.trim();
    if text.split(',').all(|part| cpu_range(part).is_some()) {
        Ok(text.to_owned())
    } else {
        wrong(format!(
            "{} is no list of processors: write 0-3,6 or 2",
            quoted(given)
        ))
    }
}

/// `a`, `a-b` or `a-b:used/group`.
fn cpu_range(part: &str) -> Option<()> {
    let number = |text: &str| -> Option<u32> {
        let digits = !text.is_empty() && text.len() <= 5 && text.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| text.parse().ok()).flatten()
    };
    let (range, stride) = match part.split_once(':') {
        Some((range, stride)) => (range, Some(stride)),
        None => (part, None),
    };
    let Some((first, last)) = range.split_once('-') else {
        number(range)?;
        return stride.is_none().then_some(());
    };
    let ordered = number(first)? <= number(last)?;
    let stride = match stride {
        Some(stride) => {
            let (used, group) = stride.split_once('/')?;
            let (used, group) = (number(used)?, number(group)?);
            0 < used && used <= group
        }
        None => true,
    };
    (ordered && stride).then_some(())
}

/// A niceness, −20 to 19.
///
/// # Errors
/// If it is no whole number in this range.
pub fn parse_nice(given: &str) -> Result<i32, ValueError> {
    match given.trim().parse() {
        Ok(nice @ -20..=19) => Ok(nice),
        _ => wrong(format!(
            "{} is no niceness: write a whole number from -20 to 19",
            quoted(given)
        )),
    }
}

/// Yes or no.
///
/// # Errors
/// If it is another word.
pub fn parse_bool(given: &str) -> Result<bool, ValueError> {
    match given.trim().to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Ok(true),
        "false" | "no" | "off" | "0" => Ok(false),
        _ => wrong(format!("{} is neither true nor false", quoted(given))),
    }
}

/// A number of processes, at least 1.
///
/// # Errors
/// If it is no whole number, or 0.
pub fn parse_count(given: &str) -> Result<u64, ValueError> {
    match given.trim().parse() {
        Ok(count @ 1..) => Ok(count),
        _ => wrong(format!(
            "{} is no number of processes: write a whole number from 1 on",
            quoted(given)
        )),
    }
}

/// The pid of a process.
///
/// # Errors
/// If it is no whole number above 0.
pub fn parse_pid(given: &str) -> Result<i32, ValueError> {
    match given.trim().parse() {
        Ok(pid @ 1..) => Ok(pid),
        _ => wrong(format!("{} is no process id", quoted(given))),
    }
}

/// A time that is not zero.
///
/// # Errors
/// If it is no time, or zero, which would end the command before it starts.
pub fn parse_clock(given: &str) -> Result<Duration, ValueError> {
    match parse_duration(given) {
        Ok(Duration::ZERO) => wrong(format!(
            "{} leaves no time at all; write none for no limit",
            quoted(given)
        )),
        Ok(time) => Ok(time),
        Err(e) => wrong(e.to_string()),
    }
}

/// A size that is not zero.
///
/// # Errors
/// If it is no size, or zero, in which nothing can run.
pub fn parse_room(given: &str) -> Result<u64, ValueError> {
    match parse_size(given) {
        Ok(0) => wrong(format!(
            "{} leaves no memory at all; write none for no limit",
            quoted(given)
        )),
        Ok(size) => Ok(size),
        Err(e) => wrong(e.to_string()),
    }
}

/// A name of a user or group, or its number. Whether it exists is looked up later.
///
/// # Errors
/// If it is empty or holds what no such name can hold.
pub fn parse_account(given: &str) -> Result<String, ValueError> {
    let odd = |c: char| c.is_control() || c.is_whitespace() || c == ':' || c == '/';
    if given.is_empty() || given.starts_with('-') || given.contains(odd) {
        return wrong(format!(
            "{} is no name or number of a user or group",
            quoted(given)
        ));
    }
    Ok(given.to_owned())
}

/// The name of a job.
///
/// # Errors
/// If it is empty, longer than 200 characters, or holds control characters, which would garble a terminal.
pub fn parse_name(given: &str) -> Result<String, ValueError> {
    if given.trim().is_empty() || given.chars().count() > 200 || given.contains(char::is_control) {
        return wrong(format!(
            "{} is no name: write 1 to 200 printable characters",
            quoted(given)
        ));
    }
    Ok(given.to_owned())
}

/// `--streams`.
///
/// # Errors
/// If it is neither.
pub fn parse_streams(text: &str) -> Result<Streams, String> {
    match text {
        "merged" => Ok(Streams::Merged),
        "split" => Ok(Streams::Split),
        _ => Err(format!("{text:?} is neither merged nor split")),
    }
}

/// `--log-full`.
///
/// # Errors
/// If it is neither.
pub fn parse_log_full(text: &str) -> Result<LogFull, String> {
    match text {
        "middle" => Ok(LogFull::Middle),
        "stop" => Ok(LogFull::Stop),
        _ => Err(format!("{text:?} is neither middle nor stop")),
    }
}

/// `--spare`: names of programs, separated by commas; `none` is no name.
///
/// # Errors
/// If one of them is no name.
pub fn parse_spare(text: &str) -> Result<Vec<String>, String> {
    if text == "none" {
        return Ok(Vec::new());
    }
    let names: Vec<String> = text.split(',').map(str::to_owned).collect();
    let odd = |name: &&String| name.is_empty() || name.contains(|c: char| c == '/' || c.is_control());
    match names.iter().find(odd) {
        Some(name) => Err(format!(
            "{} is no name of a program: write ssh-agent,gpg-agent or none",
            quoted(name)
        )),
        None => Ok(names),
    }
}

/// The least that a log is allowed: so that head, tail and the piece that is dropped are whole blocks.
const LOG_MIN: u64 = 64 * 1024;

/// `--log-max`; `None`: everything is kept.
///
/// # Errors
/// If it is no size, or too small.
pub fn parse_log_max(text: &str) -> Result<Option<u64>, String> {
    if text == "none" {
        return Ok(None);
    }
    match jobcage_job::parse_size(text).map_err(|e| e.to_string())? {
        size if size < LOG_MIN => Err(format!("{text} is too small for a log: the least is 64K")),
        size => Ok(Some(size)),
    }
}

/// A word of `--guest-hook`.
///
/// # Errors
/// If no program could get it.
pub fn parse_hook_word(word: &str) -> Result<String, &'static str> {
    if word.contains('\0') {
        return Err("the word holds a NUL");
    }
    Ok(word.to_owned())
}

/// What is looked after that a job starts: `isolate`, `off`, `KIND=MODE`, or several of them with commas between.
///
/// # Errors
/// If a word is none of them, a kind or its mode is not known, or something is said twice.
pub fn parse_guests(text: &str) -> Result<Guests, String> {
    let mut guests = Guests::default();
    for word in text.split(',') {
        let rest = match word.split_once('=') {
            Some((kind, mode)) => {
                if guests.kinds.iter().any(|(known, _)| known == kind) {
                    return Err(format!("{kind} is there twice"));
                }
                guests
                    .kinds
                    .push((kind.to_owned(), parse_guest_mode(kind, mode)?));
                continue;
            }
            None if word == "isolate" => GuestRest::Isolate,
            None if word == "off" => GuestRest::Off,
            None => return Err(format!("{word:?} is neither isolate nor off nor KIND=MODE")),
        };
        if guests.rest.replace(rest).is_some() {
            return Err("what holds for all kinds can be said only once".into());
        }
    }
    Ok(guests)
}

fn parse_guest_mode(kind: &str, mode: &str) -> Result<Option<GuestMode>, String> {
    let known = guest_modes(kind)
        .map_err(|kinds| format!("{kind:?} is no kind that is known: {}", kinds.join(", ")))?;
    if mode == "off" {
        return Ok(None);
    }
    let wanted = known.iter().find(|known| known.word() == mode);
    wanted.map(|mode| Some(*mode)).ok_or_else(|| {
        let words: Vec<_> = known.iter().map(|mode| mode.word()).chain(["off"]).collect();
        format!("{kind} cannot be {mode:?}, but {}", words.join(", "))
    })
}

#[cfg(test)]
#[path = "values_test.rs"]
mod tests;
