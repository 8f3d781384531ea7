//! Where the machines of a new job are to live.

use super::places;
use crate::cli::request::{CageRequest, Guests, Places};
use jobcage_supervisor::{Command, GuestHome, beside, guest_tools};
use jobcage_sys::spawn::Identity;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

/// `--guest-timeout`, unless it is given.
const TIMEOUT: Duration = Duration::from_secs(300);

/// For a job of this command.
pub fn home(cage: &CageRequest, unsaid: Guests, command: &Command, at: &Places) -> Option<GuestHome> {
    let home = command
        .env
        .iter()
        .find_map(|entry| entry.to_bytes().strip_prefix(b"HOME="))?;
    home_of(
        cage,
        unsaid,
        command.identity.as_ref(),
        OsStr::from_bytes(home),
        at,
    )
}

/// For a job of this user; `None`: they live where they always do. So do those of a host without a tool that could make one, and of root's jobs:
/// what a job has written is not for root's tools to read.
pub fn home_of(
    cage: &CageRequest,
    unsaid: Guests,
    identity: Option<&Identity>,
    home: &OsStr,
    at: &Places,
) -> Option<GuestHome> {
    let uid = identity.map_or_else(|| nix::unistd::getuid().as_raw(), |identity| identity.uid);
    if cage.guests.unwrap_or(unsaid) == Guests::Off || uid == 0 || !guest_tools() {
        return None;
    }
    let own = || nix::unistd::getgid().as_raw();
    Some(GuestHome {
        base: cage
            .guests_dir
            .clone()
            .unwrap_or_else(|| beside(&places(at).state)),
        timeout: cage.guest_timeout.unwrap_or(TIMEOUT),
        gid: identity.map_or_else(own, |identity| identity.gid),
        groups: identity.map_or_else(Vec::new, |identity| identity.groups.clone()),
        home: home.to_str()?.to_owned(),
    })
}
