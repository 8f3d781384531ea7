//! What a runner that died has left on the disk: the directories of its jobs, with their scripts and their token. A restarted
//! runner knows nothing of them.

use super::cage::say;
use super::contract::Response;
use jobcage_cage::Process;
use jobcage_job::CreatedBy;
use jobcage_ledger::Places;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What the names of such directories begin with.
const PREFIX: &str = "custom-executor";

/// Removes those beside ours whose job was one of this host's and whose runner is gone. `TMPDIR` is ours, in which the runner
/// makes one for each attempt.
pub fn sweep(records: &Places) {
    let Some(own) = std::env::var_os("TMPDIR").map(PathBuf::from) else {
        return;
    };
    if let Some(parent) = own.parent().filter(|_| is_one(&own)) {
        sweep_in(records, parent, &own);
    }
}

/// As [`sweep`], at the start of the host's service and from time to time: in `TMPDIR` itself, or `/tmp`, where the runner's is as a rule.
pub fn sweep_host(records: &Places) {
    sweep_in(records, &std::env::temp_dir(), Path::new(""));
}

fn sweep_in(records: &Places, parent: &Path, own: &Path) {
    let mut removed = 0;
    for dir in fs::read_dir(parent).into_iter().flatten().flatten() {
        let dir = dir.path();
        if dir != own && is_one(&dir) && is_forlorn(records, &dir) {
            match fs::remove_dir_all(&dir) {
                Ok(()) => removed += 1,
                Err(error) => say(&format!(
                    "note: {} of a dead runner could not be removed: {error}",
                    dir.display()
                )),
            }
        }
    }
    if removed > 0 {
        let noun = if removed == 1 { "directory" } else { "directories" };
        say(&format!(
            "removed {removed} {noun} in {} that dead runners had left, with scripts and tokens of their jobs",
            parent.display()
        ));
    }
}

/// A directory of this user, in which nobody else can put anything in another's place. Anybody may make names in `/tmp`.
fn is_one(dir: &Path) -> bool {
    let named = dir.file_name().and_then(|name| name.to_str());
    let own = nix::unistd::geteuid().as_raw();
    named.is_some_and(|name| name.starts_with(PREFIX))
        && fs::symlink_metadata(dir)
            .is_ok_and(|meta| meta.is_dir() && meta.uid() == own && meta.mode() & 0o077 == 0)
}

/// Whether its job had a session here, and every runner that has had one for it has died.
fn is_forlorn(records: &Places, dir: &Path) -> bool {
    let Ok(response) = Response::read(&dir.join("response.json")) else {
        return false;
    };
    let (name, mut known) = (response.cage_name(), false);
    let begins = format!("{name}-");
    for id in records.all().unwrap_or_default() {
        if !id.as_str().starts_with(&begins) {
            continue;
        }
        let Ok(Some(spec)) = records.open(&id).and_then(|record| record.spec()) else {
            continue;
        };
        if spec.created_by != CreatedBy::Session || spec.name.as_deref() != Some(&name) {
            continue;
        }
        known = true;
        let runner = spec.lease.and_then(|lease| {
            let holder = Process::read(lease.pid)?;
            (holder.start_ticks == lease.start_ticks).then_some(())
        });
        if runner.is_some() {
            return false;
        }
    }
    known
}
