//! Which state of the tree is under test, for the lines that a sweep prints.

use super::programs;
use std::fs;
use std::process::Command;
use std::sync::OnceLock;

/// Set for the processes of the rows, so that a sweep is of one commit even if the tree is worked on meanwhile.
pub const COMMIT: &str = "JOBCAGE_CRASH_COMMIT";

/// The commit under test; the size of the program tells two states of a changed tree apart.
pub fn commit() -> &'static str {
    static NAME: OnceLock<String> = OnceLock::new();
    NAME.get_or_init(|| {
        if let Ok(name) = std::env::var(COMMIT) {
            return name;
        }
        let git = |args: &[&str]| {
            let out = Command::new("git")
                .arg("-C")
                .arg(env!("CARGO_MANIFEST_DIR"))
                .args(args)
                .output()
                .ok()?;
            out.status
                .success()
                .then(|| String::from_utf8_lossy(&out.stdout).trim().to_owned())
        };
        let head = git(&["rev-parse", "--short", "HEAD"]).unwrap_or_else(|| "unknown".into());
        match git(&["status", "--porcelain", "--untracked-files=no"]) {
            Some(changes) if changes.is_empty() => head,
            _ => format!(
                "{head}-changed-{}",
                fs::metadata(programs::jobcage()).map_or(0, |m| m.len())
            ),
        }
    })
}
