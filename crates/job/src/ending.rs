//! Every way in which a job can end, and what each means to the caller.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The exit code of a client that has lost its job on another host: no code of a shell, of ssh (255) or of ours.
pub const CONNECTION_LOST: i32 = 123;

/// How a process ended, as the kernel told it (waitid(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitStatus {
    /// It called exit with this code, 0 to 255.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
}

impl ExitStatus {
    /// The shell's convention: the code itself, or 128 + the signal's number.
    #[must_use]
    pub fn shell_code(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal,
        }
    }

    /// Whether it is exit code 0.
    #[must_use]
    pub fn success(self) -> bool {
        self == Self::Code(0)
    }
}

/// Which clock ran out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Clock {
    /// `--timeout`: the job's whole time.
    Wall,
    /// `--idle-timeout`: the time without output.
    Idle,
}

/// Who asked for the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "snake_case")]
pub enum Cause {
    /// A signal to jobcage. Pid 0 is the kernel (a closed terminal, for one).
    Signal {
        /// The signal's number.
        signal: i32,
        /// The sender's pid, 0 for the kernel.
        pid: i32,
        /// The sender's uid.
        uid: u32,
    },
    /// `jobcage stop`.
    Stop {
        /// The pid of whoever asked.
        pid: i32,
        /// Its uid.
        uid: u32,
    },
    /// `jobcage cleanup` or a stop of the whole cage from outside of this step.
    Cleanup,
    /// The process that the job was bound to (`--lease-pid`) has ended.
    Lease,
    /// Nobody was heard of for the time of its lease (`--lease`).
    Silence,
}

impl Cause {
    /// The word of `JOBCAGE_CAUSE`, the same as `ending.by` in the report.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Signal { .. } => "signal",
            Self::Stop { .. } => "stop",
            Self::Cleanup => "cleanup",
            Self::Lease => "lease",
            Self::Silence => "silence",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signal { signal, pid: 0, .. } => write!(f, "signal {signal} from the kernel"),
            Self::Signal { signal, pid, uid } => write!(f, "signal {signal} from pid {pid} (uid {uid})"),
            Self::Stop { pid, uid } => write!(f, "jobcage stop, pid {pid} (uid {uid})"),
            Self::Cleanup => f.write_str("jobcage cleanup"),
            Self::Lease => f.write_str("the end of the process that held its lease"),
            Self::Silence => f.write_str("the end of its lease: nobody was heard of for that time"),
        }
    }
}

/// A command that could not be started: which step of the start failed and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NeverStarted {
    /// The stage of the start, in the order of `jobcage_sys::Stage`: `cgroup`, `chdir`, `exec`, ….
    pub stage: String,
    /// The errno of the failed call.
    pub errno: i32,
    /// What it concerned, such as the program's name or the directory.
    pub what: String,
}

impl NeverStarted {
    /// The errno in words.
    #[must_use]
    pub fn reason(&self) -> String {
        std::io::Error::from_raw_os_error(self.errno).to_string()
    }
}

/// How a job ended. The first cause wins; later ones stand in [`crate::Report::notes`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Ending {
    /// The main process exited by itself.
    Exited {
        /// Its exit code.
        code: i32,
    },
    /// A signal that jobcage did not send ended the main process.
    Signalled {
        /// The signal's number.
        signal: i32,
    },
    /// A clock of the job ran out.
    TimedOut {
        /// Which one.
        clock: Clock,
    },
    /// The kernel killed the main process for memory, inside the job's own limit.
    OutOfMemory,
    /// The log took no more: it reached its limit, which was to stop the job, or its disk failed.
    LogFull {
        /// The errno of the write that failed, such as `ENOSPC`; absent: the limit.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        errno: Option<i32>,
    },
    /// Somebody asked for the end.
    Cancelled(Cause),
    /// The command could not be started.
    NeverStarted(NeverStarted),
    /// The line to the host of the job broke, and no new one could be made in time: the job may run.
    ConnectionLost {
        /// Which host.
        host: String,
        /// What was last said of the line.
        why: String,
        /// The command that comes back to the job.
        attach: String,
    },
    /// The host of the job went down while it ran, and it did not come back with the host.
    HostLost {
        /// Which host.
        host: String,
    },
    /// Nobody was there to see the end: jobcage was killed, or the host went down.
    Lost {
        /// What is known of it.
        why: String,
    },
}

impl Ending {
    /// The exit code of `jobcage run`: the command's own; 124 timed out; 126 cannot run and 127 not found;
    /// 128 + n for signal n; 125 where jobcage itself cannot tell.
    #[must_use]
    pub fn exit_code(&self) -> i32 {
        const ENOENT: i32 = 2;
        match self {
            Self::Exited { code } => *code,
            Self::Signalled { signal } | Self::Cancelled(Cause::Signal { signal, .. }) => 128 + signal,
            Self::TimedOut { .. } => 124,
            Self::OutOfMemory => 128 + 9,
            Self::Cancelled(_) => 128 + 15,
            Self::NeverStarted(n) if n.stage != "exec" => 125,
            Self::NeverStarted(n) if n.errno == ENOENT => 127,
            Self::NeverStarted(_) => 126,
            Self::ConnectionLost { .. } => CONNECTION_LOST,
            Self::LogFull { .. } | Self::Lost { .. } | Self::HostLost { .. } => 125,
        }
    }

    /// The word of `JOBCAGE_RESULT`: `success`, `failed`, `canceled`, `timedout` or `lost`.
    #[must_use]
    pub fn result(&self) -> &'static str {
        match self {
            Self::Exited { code: 0 } => "success",
            Self::Cancelled(_) => "canceled",
            Self::TimedOut { .. } => "timedout",
            Self::Lost { .. } | Self::ConnectionLost { .. } | Self::HostLost { .. } => "lost",
            _ => "failed",
        }
    }

    /// The word of `JOBCAGE_ENDING`, the same as `ending.kind` in the report.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Exited { .. } => "exited",
            Self::Signalled { .. } => "signalled",
            Self::TimedOut { .. } => "timed_out",
            Self::OutOfMemory => "out_of_memory",
            Self::LogFull { .. } => "log_full",
            Self::Cancelled(_) => "cancelled",
            Self::NeverStarted(_) => "never_started",
            Self::ConnectionLost { .. } => "connection_lost",
            Self::HostLost { .. } => "host_lost",
            Self::Lost { .. } => "lost",
        }
    }
}

impl From<ExitStatus> for Ending {
    fn from(status: ExitStatus) -> Self {
        match status {
            ExitStatus::Code(code) => Self::Exited { code },
            ExitStatus::Signal(signal) => Self::Signalled { signal },
        }
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited { code } => write!(f, "exited with {code}"),
            Self::Signalled { signal } => write!(f, "ended by signal {signal}"),
            Self::TimedOut { clock: Clock::Wall } => f.write_str("ran out of time"),
            Self::TimedOut { clock: Clock::Idle } => f.write_str("was silent for too long"),
            Self::OutOfMemory => f.write_str("ran out of memory"),
            Self::LogFull { errno: None } => f.write_str("filled its log"),
            Self::LogFull { errno: Some(errno) } => write!(
                f,
                "was stopped, as its log could not be written: {}",
                std::io::Error::from_raw_os_error(*errno)
            ),
            Self::Cancelled(cause) => write!(f, "was stopped by {cause}"),
            Self::NeverStarted(n) => write!(f, "never started: {} {:?}: {}", n.stage, n.what, n.reason()),
            Self::ConnectionLost { host, why, .. } => {
                write!(f, "was lost sight of: the line to {host} broke ({why})")
            }
            Self::HostLost { host } => write!(f, "was lost: {host} went down while it ran"),
            Self::Lost { why } => write!(f, "was lost: {why}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_the_documented_ones() {
        let never = |stage: &str, errno| {
            Ending::NeverStarted(NeverStarted {
                stage: stage.into(),
                errno,
                what: String::new(),
            })
            .exit_code()
        };
        assert_eq!(Ending::from(ExitStatus::Code(42)).exit_code(), 42);
        assert_eq!(Ending::from(ExitStatus::Signal(11)).exit_code(), 139);
        assert_eq!(Ending::TimedOut { clock: Clock::Idle }.exit_code(), 124);
        assert_eq!(Ending::Cancelled(Cause::Stop { pid: 7, uid: 0 }).exit_code(), 143);
        assert_eq!(never("exec", 2), 127);
        assert_eq!(never("exec", 13), 126);
        assert_eq!(never("chdir", 2), 125);
        assert_eq!(
            Ending::Cancelled(Cause::Signal {
                signal: 2,
                pid: 1,
                uid: 0
            })
            .exit_code(),
            130
        );
    }

    #[test]
    fn kind_is_the_tag_in_json() {
        for ending in [
            Ending::Exited { code: 1 },
            Ending::OutOfMemory,
            Ending::Cancelled(Cause::Lease),
            Ending::Cancelled(Cause::Silence),
            Ending::Cancelled(Cause::Stop { pid: 7, uid: 0 }),
            Ending::Lost { why: String::new() },
            Ending::TimedOut { clock: Clock::Wall },
            Ending::HostLost { host: String::new() },
            Ending::ConnectionLost {
                host: String::new(),
                why: String::new(),
                attach: String::new(),
            },
        ] {
            let json = serde_json::to_value(&ending).unwrap();
            assert_eq!(json["kind"], ending.kind());
            if let Ending::Cancelled(cause) = &ending {
                assert_eq!(json["by"], cause.word());
            }
            assert_eq!(serde_json::from_value::<Ending>(json).unwrap(), ending);
        }
    }
}
