//! `jobcage gitlab config`: what the driver is and where its jobs live, as one JSON object and nothing else.

use crate::cli::request::Identity;
use crate::verbs::{VerbError, account, pages};
use jobcage_job::JobSpec;
use serde_json::json;
use std::path::{Path, PathBuf};

/// The packaged runner's own user.
const USUAL: &str = "gitlab-runner";

/// Whose jobs they are: as configured (`[run] user`), as the old driver was told (`CI_RUNNER_USER`), the packaged runner's
/// user where there is one and we may become it; else whoever calls, but for root, which has to be asked for. In a session,
/// whom that has found need not be looked for.
///
/// # Errors
/// If it would be root by chance.
pub fn build_user(asked: &Identity, session: Option<&JobSpec>) -> Result<Identity, VerbError> {
    let told = || {
        std::env::var("CI_RUNNER_USER")
            .ok()
            .filter(|user| !user.is_empty())
    };
    let usual = || {
        let is_known = session
            .and_then(|spec| spec.login.as_ref())
            .is_some_and(|login| login.user == USUAL);
        let is_there = is_known || matches!(nix::unistd::User::from_name(USUAL), Ok(Some(_)));
        (is_there && nix::unistd::geteuid().is_root()).then(|| USUAL.to_owned())
    };
    let user = asked.user.clone().or_else(told).or_else(usual);
    if user.is_none() && nix::unistd::geteuid().is_root() {
        return Err(VerbError::Who(format!(
            "there is no build user: no {USUAL} in /etc/passwd, and none is configured; set user = \"NAME\" in [run] of \
             /etc/jobcage/config.toml, or CI_RUNNER_USER for the runner"
        )));
    }
    Ok(Identity {
        user,
        group: asked.group.clone(),
    })
}

/// `jobcage gitlab config`.
///
/// # Errors
/// If the build user is unknown or has no home.
pub fn config(
    identity: &Identity,
    builds_dir: Option<PathBuf>,
    cache_dir: Option<PathBuf>,
) -> Result<(), VerbError> {
    let base = base(&build_user(identity, None)?)?;
    let hostname = nix::unistd::gethostname().unwrap_or_default();
    let dir = |given: Option<PathBuf>, name: &str| given.unwrap_or_else(|| base.join(name));
    // Strings only: the runner refuses a number, three times.
    let answer = json!({
        "driver": {"name": "jobcage", "version": env!("CARGO_PKG_VERSION")},
        "hostname": hostname.to_string_lossy(),
        "builds_dir": text(&dir(builds_dir, "builds"))?,
        "cache_dir": text(&dir(cache_dir, "cache"))?,
        // Each slot has its own directory, as with the shell executor.
        "builds_dir_is_shared": true,
    });
    pages::print(format!("{answer}\n").as_bytes()).map(drop)
}

/// Where the user's builds are: as the old driver was told (`CI_RUNNER_USER_DIR`), or at home.
fn base(user: &Identity) -> Result<PathBuf, VerbError> {
    if let Some(dir) = std::env::var_os("CI_RUNNER_USER_DIR").filter(|dir| !dir.is_empty()) {
        return Ok(dir.into());
    }
    let home = account(user)?.map(|account| account.dir);
    home.filter(|home| home.is_absolute()).ok_or_else(|| {
        VerbError::Who(
            "the build user has no home directory; set CI_RUNNER_USER_DIR, or give --builds-dir".into(),
        )
    })
}

fn text(path: &Path) -> Result<&str, VerbError> {
    let usable = path.to_str().filter(|_| path.is_absolute());
    usable.ok_or_else(|| VerbError::Who(format!("{} is no absolute path of plain text", path.display())))
}
