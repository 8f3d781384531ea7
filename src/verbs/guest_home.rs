//! Where the machines of a new job are to live.

use super::places;
use crate::cli::request::{CageRequest, GuestRest, Guests, Places};
use jobcage_job::GuestMode;
use jobcage_supervisor::{Command, GuestHome, beside, guest_is_here, guest_is_of_the_cage, usual_guests};
use jobcage_sys::spawn::Identity;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};
use std::time::Duration;

/// `--guest-timeout`, unless it is given.
const TIMEOUT: Duration = Duration::from_secs(300);

/// For a job of this command.
pub fn home(cage: &CageRequest, unsaid: GuestRest, command: &Command, at: &Places) -> Option<GuestHome> {
    let home = command
        .env
        .iter()
        .find_map(|entry| entry.to_bytes().strip_prefix(b"HOME="));
    let home = home.map(OsStr::from_bytes);
    home_of(cage, unsaid, command.identity.as_ref(), home, at)
}

/// For a job of this user; `None`: nothing is looked after. So it is on a host without a tool that could make anything. For root's jobs it is
/// only what needs no tool, and the site's hook: what a job has written is not for root's tools to read.
pub fn home_of(
    cage: &CageRequest,
    unsaid: GuestRest,
    identity: Option<&Identity>,
    home: Option<&OsStr>,
    at: &Places,
) -> Option<GuestHome> {
    let uid = identity.map_or_else(|| nix::unistd::getuid().as_raw(), |identity| identity.uid);
    let mut kinds = kinds(cage.guests.as_ref(), unsaid);
    let home = home.and_then(OsStr::to_str);
    if uid == 0 || home.is_none() {
        kinds.retain(|kind, _| guest_is_of_the_cage(kind));
    }
    if kinds.is_empty() && cage.guest_hook.is_empty() {
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
        home: home.unwrap_or_default().to_owned(),
        project: cage
            .project
            .as_ref()
            .and_then(|dir| project_of(dir, home.unwrap_or_default())),
        kinds,
        hook: cage.guest_hook.clone(),
    })
}

/// The directory, if it is one for jobs: not the user's home, in which is everything else, too, and nothing above it.
fn project_of(dir: &Path, home: &str) -> Option<String> {
    let is_plain = dir.is_absolute() && dir.components().all(|part| part != Component::ParentDir);
    let is_one = is_plain && dir.parent().is_some() && !Path::new(home).starts_with(dir);
    dir.to_str().filter(|_| is_one).map(str::to_owned)
}

/// The kinds that this host has and that are wanted.
fn kinds(wish: Option<&Guests>, unsaid: GuestRest) -> BTreeMap<String, GuestMode> {
    let mut kinds = match wish.and_then(|wish| wish.rest).unwrap_or(unsaid) {
        GuestRest::Isolate => usual_guests(),
        GuestRest::Off => BTreeMap::new(),
    };
    for (kind, mode) in wish.into_iter().flat_map(|wish| &wish.kinds) {
        match *mode {
            Some(mode) if guest_is_here(kind) => drop(kinds.insert(kind.clone(), mode)),
            _ => drop(kinds.remove(kind)),
        }
    }
    kinds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_and_what_is_above_it_are_nobodys_project() {
        let of = |dir: &str| project_of(Path::new(dir), "/home/ci1");
        assert_eq!(of("/builds/a").as_deref(), Some("/builds/a"));
        assert_eq!(of("/home/ci1/builds/a").as_deref(), Some("/home/ci1/builds/a"));
        assert_eq!(of("/home/ci12").as_deref(), Some("/home/ci12"));
        for dir in [
            "/home/ci1",
            "/home/ci1/",
            "/home",
            "/",
            "/builds/../home/ci1",
            "/builds/a/..",
        ] {
            assert_eq!(of(dir), None, "{dir}");
        }
    }
}
