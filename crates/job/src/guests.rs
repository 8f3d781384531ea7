//! What a job has started outside of its own processes: virtual machines and their disks.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// Where the tools of a kind keep what a job makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GuestMode {
    /// In the place of the job alone.
    Isolate,
    /// Where the user's always is; what is the job's is told by where it lies, by a label or by a file that names it.
    Shared,
    /// As `Isolate`; and what only the job's own code knows how to remove, that code removes.
    Destroy,
}

impl GuestMode {
    /// Its word in options.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Isolate => "isolate",
            Self::Shared => "shared",
            Self::Destroy => "destroy",
        }
    }
}

/// Where the machines of a job live: made for it alone before its first process, so that whatever lies there is the job's.
/// Written down first, so that whoever closes the job, in whatever boot, can give them back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestPlace {
    /// The absolute path of the directory, which belongs to the job's user.
    pub dir: String,
    /// What VirtualBox calls the job's own daemon, and the name of a directory of sockets in `/tmp`; nobody can guess it.
    pub socket: String,
    /// How long it may take to give back what is in it.
    pub timeout: Duration,
    /// The job's group.
    pub gid: u32,
    /// Its further groups.
    #[serde(default)]
    pub groups: Vec<u32>,
    /// The home of its user.
    pub home: String,
    /// The directory that no other job works in: what shared tools have in it is the job's, if it is as new as that. `None`: it has none of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// The kinds that are looked after, by their names. A kind that is not here is none of ours.
    #[serde(default = "first_kinds")]
    pub kinds: BTreeMap<String, GuestMode>,
    /// The site's own program and its arguments, which comes behind the kinds and runs as whoever closes the job; empty: there is none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hook: Vec<String>,
}

/// Those of the records that name none.
fn first_kinds() -> BTreeMap<String, GuestMode> {
    ["vagrant", "virtualbox"]
        .map(|kind| (kind.to_owned(), GuestMode::Isolate))
        .into()
}

impl GuestPlace {
    /// The directory of the job's sockets. It is not in the place, whose path may be long: a socket's has at most 107 bytes, of which podman
    /// wants 80.
    #[must_use]
    pub fn runtime_dir(&self) -> String {
        format!("/tmp/{}", self.socket)
    }

    /// The job's id, which its path ends in.
    #[must_use]
    pub fn job(&self) -> &str {
        self.dir.rsplit('/').next().unwrap_or_default()
    }
}

/// What became of something that a job had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Its own tool has removed it.
    Deleted,
    /// It is still there.
    Left,
    /// It is there as it was, and is to be: it is not known to be the job's alone.
    Spared,
    /// On another host, where it has been told to end, or could not be: it ends there by itself.
    Leased,
}

/// One thing that a job had, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestReport {
    /// Whose it is, by the name of its kind; `files` for the directory with all that no tool knew.
    pub kind: String,
    /// `vm`, `disk`, `settings` (a machine's), `container`, `network`, `volume`, `storage`, `registry`, `directory`, or `job` (on another host).
    pub what: String,
    /// Its name, which the job gave it: control characters are escaped where it is shown.
    pub name: String,
    /// What its tool knows it by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// By what it is known to have run when the job ended; absent: it did not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ran: Option<String>,
    /// What became of it.
    pub outcome: Outcome,
    /// What was in the way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// The bytes on the disk that this has freed; of what is left, those that it takes.
    pub bytes: u64,
}

impl GuestReport {
    /// Whether it could not be given back.
    #[must_use]
    pub fn is_left(&self) -> bool {
        self.outcome == Outcome::Left
    }
}
