//! What a test needs of its machine. Missing is not the same as not applicable: a host without systemd cannot run
//! the systemd animals at all, and the VM covers them; a host without `cc` or `/dev/fuse` is set up wrongly.
//!
//! Missing: `skipped: needs …`, and a failure under `JOBCAGE_REQUIRE=all`. Not applicable: a line, never a failure.

use super::{cgroup, programs, say};
use std::path::Path;

/// One need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Root.
    Root,
    /// `/dev/fuse`, and the right to mount.
    Fuse,
    /// `/dev/kvm`, and the right to use it.
    Kvm,
    /// A program.
    Program(&'static str),
    /// Landlock that can scope signals.
    Landlock,
    /// systemd as PID 1.
    Systemd,
    /// A cgroup controller in the unified hierarchy.
    Controller(&'static str),
    /// A file or socket that a running service gives.
    Path(&'static str),
}

enum Lack {
    Missing(String),
    NotApplicable(String),
}

impl Need {
    fn lack(self) -> Option<Lack> {
        let root = nix::unistd::geteuid().is_root();
        match self {
            Self::Root if !root => Some(Lack::NotApplicable("it runs as root".into())),
            Self::Fuse if !root => Some(Lack::NotApplicable("mounting FUSE by hand needs root".into())),
            Self::Fuse if !Path::new("/dev/fuse").exists() => Some(Lack::Missing("/dev/fuse".into())),
            Self::Kvm => std::fs::OpenOptions::new()
                .read(true)
                .write(true)
                .open("/dev/kvm")
                .err()
                .map(|why| Lack::NotApplicable(format!("no KVM: /dev/kvm: {why}"))),
            Self::Program(name) if programs::which(name).is_none() => {
                Some(Lack::Missing(format!("the program {name}")))
            }
            Self::Systemd if !Path::new("/run/systemd/system").is_dir() => {
                Some(Lack::NotApplicable("PID 1 is not systemd; the VM runs it".into()))
            }
            Self::Landlock => jobcage_sys::landlock::signal_fence()
                .err()
                .map(|errno| Lack::NotApplicable(format!("no Landlock of Linux 6.12: {errno}"))),
            Self::Controller(name) if !cgroup::has_controller(name) => Some(Lack::NotApplicable(format!(
                "the {name} controller is not in the unified hierarchy; the VM runs it"
            ))),
            Self::Path(path) if !Path::new(path).exists() => Some(Lack::Missing(path.into())),
            _ => None,
        }
    }
}

/// Whether `test` can run here. Says why not, and panics where everything is required.
pub fn met(test: &str, needs: &[Need]) -> bool {
    for need in needs {
        match need.lack() {
            None => {}
            Some(Lack::NotApplicable(why)) => {
                say(&format!("not applicable: {test}: {why}"));
                return false;
            }
            Some(Lack::Missing(what)) => {
                assert!(
                    !std::env::var("JOBCAGE_REQUIRE").is_ok_and(|v| v == "all"),
                    "{test} needs {what}, and JOBCAGE_REQUIRE=all lets nothing be skipped"
                );
                say(&format!("skipped: {test} needs {what}"));
                return false;
            }
        }
    }
    true
}
