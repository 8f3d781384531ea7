//! What a client is asked for, and what came of it.

use crate::course::{Course, Ends};
use crate::door::Binary;
use std::ffi::OsString;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// How a host is reached.
#[derive(Debug, Clone)]
pub struct Options {
    /// The program and its words (`--ssh`); never empty.
    pub ssh: Vec<OsString>,
    /// The host as it was given, for people.
    pub host: String,
    /// `user@host`, for ssh.
    pub target: String,
    /// Its port, if one was given.
    pub port: Option<u16>,
    /// How long a broken line is tried again (`--reconnect-for`).
    pub reconnect_for: Duration,
    /// How often the line is asked whether it is there (`--keepalive`).
    pub keepalive: Duration,
    /// What goes there if there is no jobcage.
    pub binary: Binary,
    /// The job gets this side's ssh-agent (`--forward-agent`).
    pub forward_agent: bool,
    /// Where ssh is started, and by which socket it finds an agent, if not as we were.
    pub from: Option<From>,
}

/// The surroundings of a call that is no more.
#[derive(Debug, Clone)]
pub struct From {
    /// Its directory.
    pub dir: OsString,
    /// Its agent's socket; `None`: it had none.
    pub agent: Option<OsString>,
}

/// What is to be done there.
#[derive(Debug)]
pub enum What {
    /// A job: it is started or come back to, and followed to its end.
    Job {
        /// Which one.
        course: Box<Course>,
        /// The file that becomes its standard input.
        input: Option<File>,
        /// Archives for it, each with the directory there.
        send: Vec<(OsString, File)>,
        /// What is to come here when it is over.
        fetch: Vec<Wanted>,
        /// Only until it runs.
        detach: bool,
        /// Ctrl-C and SIGTERM are for the job; else they end us alone.
        stops: bool,
    },
    /// The end of a job, whoever has begun it there.
    Close {
        /// Which one.
        course: Box<Course>,
        /// Becomes true once the host's jobcage has been told.
        is_told: Arc<AtomicBool>,
    },
    /// A verb with its words, to its end.
    Verb(Vec<OsString>),
}

/// Files that are to come here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Which, from the job's directory on.
    pub path: OsString,
    /// The directory here.
    pub to: PathBuf,
}

/// Why a job was left, though it may run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// What was last said of the line.
    pub why: String,
    /// How long it was tried again.
    pub tried: Duration,
    /// Whether the host has ever said that the job was started.
    pub is_started: bool,
    /// Whether it was to be stopped, and has perhaps not heard of it.
    pub is_stopped: bool,
}

/// How it ended on our side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The job has ended, as far as its host knows.
    Job(Ends),
    /// It runs, and was to be left.
    Started,
    /// The line broke, and none came for so long.
    Lost(Lost),
    /// A signal has ended us; the job goes on, if it was started.
    Interrupted(i32),
    /// The verb's exit code.
    Done(u8),
    /// Nobody reads our output any more, and the job is not ours to stop for that.
    OutputGone,
}

/// What came of a call.
#[derive(Debug)]
pub struct Ended {
    /// How it ended.
    pub outcome: Outcome,
    /// What was to be done.
    pub what: What,
    /// Nobody reads our standard output any more.
    pub is_output_gone: bool,
    /// Files that have not come, and why.
    pub missing: Vec<String>,
}
