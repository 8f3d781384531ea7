//! Finding the root of the cages, and having systemd make it where it is systemd's to make.

use crate::error::{Failure, Result};
use crate::watcher;
use jobcage_cage::{Bus, Found, Search, enable, find};
use jobcage_job::Controller;
use jobcage_ledger::Places;
use jobcage_sys::spawn::{Plan, spawn};
use jobcage_sys::wait::{self, Change, Whom};
use std::ffi::{CString, OsStr};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

/// This program, whatever became of its file.
pub const SELF: &std::ffi::CStr = c"/proc/self/exe";

/// Finds the root; asks systemd for a scope where there has to be one and there is none yet.
///
/// # Errors
/// If there is no place for cages on this host.
pub fn root(configured: Option<&Path>, places: &Places) -> Result<Found> {
    match find(configured)? {
        Search::Found(found) => return Ok(*found),
        Search::NeedsScope(Bus::System) => watcher::start_scope_holder(places)?,
        Search::NeedsScope(Bus::User) => move_into_user_scope()?,
    }
    match find(configured)? {
        Search::Found(found) => Ok(*found),
        Search::NeedsScope(_) => Err(Failure::Refused(
            "systemd has started a scope for the cages, but it is not where it should be (run \"jobcage doctor\")".into(),
        )),
    }
}

/// Has the user's manager move this process into a delegated scope. The talking is done by a process of its own, since
/// the D-Bus library starts threads.
fn move_into_user_scope() -> Result<()> {
    let me = std::process::id().to_string();
    let plan = Plan {
        programs: vec![SELF.into()],
        args: vec![c"jobcage".into(), c"__scope".into(), cstring(me.as_ref())],
        env: environment(&["XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS"]),
        ..Plan::default()
    };
    let child = spawn(&plan).map_err(Failure::system("start the helper that talks to systemd"))?;
    match wait::block(Whom::Pid(child.pid)).map_err(Failure::system("wait for the helper that talks to systemd"))? {
        (_, Change::Exited(0)) => Ok(()),
        _ => Err(Failure::Refused(
            "there is no cgroup for this user: see the line above; run jobcage as root, from a delegated scope, or as a \
             user whose manager runs (run \"jobcage doctor\")"
                .into(),
        )),
    }
}

/// Enables controllers on the way from the root to the children of `<root>/<job>`, but for the cage itself.
///
/// # Errors
/// The first controller that cannot be enabled.
pub fn enable_below(found: &Found, controllers: &[Controller]) -> Result<()> {
    use jobcage_cage::{Dir, Kind};
    match found.kind {
        // Without systemd the top of the tree is nobody else's, and processes may stay in it.
        Kind::Plain => enable(&Dir::open(&found.mount.point)?, controllers)?,
        // No process may be where controllers are enabled, and we are: into a leaf of our own.
        Kind::Delegated => {
            let leaf = found.dir.create_or_open("supervisors")?;
            leaf.write("cgroup.procs", "0")
                .map_err(Failure::system("move into <root>/supervisors"))?;
        }
        _ => {}
    }
    Ok(enable(&found.dir, controllers)?)
}

/// The named variables of our own environment, where they are set.
pub(crate) fn environment(names: &[&str]) -> Vec<CString> {
    let set = names.iter().filter_map(|name| {
        let mut text = format!("{name}=").into_bytes();
        text.extend(std::env::var_os(name)?.into_vec());
        CString::new(text).ok()
    });
    set.collect()
}

/// Text as a C string; what follows a NUL byte cannot be passed to any program and is refused before it comes here.
pub(crate) fn cstring(text: &OsStr) -> CString {
    CString::new(text.as_bytes()).unwrap_or_default()
}
