//! What is kept on the other host between two lines: copies of jobcage, and for each job that has its client's agent a link to that agent's
//! socket. A line has a socket of its own, which ends with it; the job knows the link, which leads to that of the line that is there.

use jobcage_job::JobId;
use jobcage_ledger::{LedgerError, Places, State};
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// What the links are called, before the id of their job.
const AGENT: &str = "agent-";
/// What the copies are called, before their version.
const COPY: &str = "jobcage-";
/// What a copy is called while it arrives.
const NEW: &str = "new.";
/// A copy that nobody has used for so long goes.
const UNUSED: Duration = Duration::from_secs(30 * 86400);
/// A job begins within this time of the first word of its line.
const BEGINNING: Duration = Duration::from_secs(3600);
/// One that has not become whole by then never will.
const HALF: Duration = Duration::from_secs(86400);

/// The directory, as the script of the door names it.
#[derive(Debug)]
pub(crate) struct Cache {
    dir: PathBuf,
}

impl Cache {
    pub(crate) fn find() -> Self {
        let set = |name| {
            std::env::var_os(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        let home = || set("HOME").unwrap_or_else(|| "/".into()).join(".cache");
        Self {
            dir: set("XDG_CACHE_HOME").unwrap_or_else(home).join("jobcage"),
        }
    }

    /// Has the link of a job lead to the agent of this session: its path.
    ///
    /// # Errors
    /// Why it has none, for a person.
    pub(crate) fn lead_to_agent(&self, id: &JobId) -> Result<PathBuf, String> {
        let socket = std::env::var_os("SSH_AUTH_SOCK").ok_or(
            "no ssh-agent is forwarded (--forward-agent): there is none on the client's side, or the server here allows it to nobody \
             (AllowAgentForwarding, sshd_config(5))",
        )?;
        let link = self.dir.join(format!("{AGENT}{id}"));
        let new = self.dir.join(format!("{NEW}{id}"));
        let made = || {
            let made = fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&self.dir);
            made.and_then(|()| match fs::remove_file(&new) {
                Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
                _ => symlink(&socket, &new),
            })
            .and_then(|()| fs::rename(&new, &link))
        };
        made().map_err(|error| format!("cannot make the link {} to the agent: {error}", link.display()))?;
        Ok(link)
    }

    /// Removes the links of jobs that are over, and copies that nobody uses. What cannot be removed stays.
    pub(crate) fn sweep(&self, places: &Places) {
        self.touch_own();
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            let is_old = |limit| age(&entry.path()).is_some_and(|age| age > limit);
            let goes = match name.strip_prefix(AGENT) {
                Some(id) => id.parse().is_ok_and(|id| is_over(places, &id, is_old(BEGINNING))),
                None if name.starts_with(COPY) => is_old(UNUSED),
                None if name.starts_with(NEW) => is_old(HALF),
                None => false,
            };
            if goes {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// That this copy is in use.
    fn touch_own(&self) {
        let own = std::env::current_exe().ok();
        if let Some(own) = own.filter(|own| own.parent() == Some(&self.dir)) {
            let _ = fs::File::open(own).and_then(|file| file.set_modified(SystemTime::now()));
        }
    }
}

fn age(path: &Path) -> Option<Duration> {
    let time = fs::symlink_metadata(path).and_then(|meta| meta.modified()).ok()?;
    SystemTime::now().duration_since(time).ok()
}

/// One whose record is not there may be about to begin, unless its link is old.
fn is_over(places: &Places, id: &JobId, is_old: bool) -> bool {
    match places.open(id) {
        Ok(record) => matches!(record.state(), Ok(State::Over(_))),
        Err(LedgerError::NoSuchJob(_)) => is_old,
        Err(_) => false,
    }
}
