//! The runner: whoever has started us, if it is the one that the host's configuration names.

use jobcage_cage::Process;
use jobcage_job::LeaseHolder;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Our parent, if its program is one of these.
pub fn parent_among(programs: &[PathBuf]) -> Option<LeaseHolder> {
    let parent = || nix::unistd::getppid().as_raw();
    let pid = parent();
    let process = Process::read(pid)?;
    let exe = std::fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    // Still our parent: so it was that one whose program we have read.
    (is_one_of(&exe, programs) && parent() == pid).then_some(LeaseHolder {
        pid,
        start_ticks: process.start_ticks,
    })
}

/// The kernel names a file that has been replaced since, as an upgrade does, by its path and this.
const REPLACED: &[u8] = b" (deleted)";

fn is_one_of(exe: &Path, programs: &[PathBuf]) -> bool {
    let bytes = exe.as_os_str().as_bytes();
    let plain = Path::new(OsStr::from_bytes(bytes.strip_suffix(REPLACED).unwrap_or(bytes)));
    let is = |program: &Path| program == exe || program == plain;
    programs
        .iter()
        .any(|program| is(program) || program.canonicalize().is_ok_and(|target| is(&target)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runner_is_known_by_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        std::fs::write(dir.join("real"), "").unwrap();
        std::os::unix::fs::symlink("real", dir.join("link")).unwrap();
        let known = [PathBuf::from("/usr/bin/runner"), dir.join("link")];
        for exe in [
            "/usr/bin/runner".into(),
            "/usr/bin/runner (deleted)".into(),
            dir.join("real"),
        ] {
            assert!(is_one_of(&exe, &known), "{}", exe.display());
        }
        for exe in [
            "/usr/bin/runner2",
            "/tmp/usr/bin/runner",
            "runner",
            "/usr/bin",
            " (deleted)",
            "",
        ] {
            assert!(!is_one_of(Path::new(exe), &known), "{exe}");
        }
        assert!(!is_one_of(Path::new("/usr/bin/runner"), &[]));
    }

    #[test]
    fn our_parent_is_found() {
        let parent = nix::unistd::getppid().as_raw();
        let exe = std::fs::read_link(format!("/proc/{parent}/exe")).unwrap();
        assert_eq!(parent_among(&[exe]).unwrap().pid, parent);
        assert!(parent_among(&["/no/such/program".into()]).is_none());
    }
}
