//! The build user's login shell, as every stage of a job has it: does it end well, and does it find `gitlab-runner`?
//!
//! Not read but run, by `jobcage run` in a cage and for a bounded time, since what a profile does is known to nobody else.

use super::{Asked, Finding, Severity};
use crate::gitlab::config::build_user;
use crate::gitlab::install::runners::shown;
use crate::verbs;
use std::io::{Read, Write as _};
use std::process::{Command, Stdio};

/// So long it may take.
const PATIENCE: &str = "10s";
/// What `jobcage run` ends with when that is over.
const TIMED_OUT: i32 = 124;
/// As the runner's scripts begin and end. A `.bash_logout` then runs, and the first command of it that fails is the end of the
/// shell, with its code.
const END: &str = "set -eo pipefail\nset +o noclobber\nexit 0\n";
/// Without a logout, which could hide the answer.
const FIND: &str = "command -v gitlab-runner > /dev/null 2>&1 && exec true\nexec false\n";

/// What there is to say of it.
pub fn findings(asked: &Asked<'_>) -> Vec<Finding> {
    let user = match build_user(asked.identity, None) {
        Ok(user) => user,
        Err(error) => return vec![Finding::new(Severity::Error, "the build user", error.to_string())],
    };
    let own = nix::unistd::geteuid();
    let uid = match verbs::uid(&user) {
        Ok(uid) => uid,
        Err(error) => return vec![Finding::new(Severity::Error, "the build user", error.to_string())],
    };
    let name = user.user.clone().unwrap_or_else(|| uid.to_string());
    let about = format!("the build user {}", shown(&name));
    if !own.is_root() && own.as_raw() != uid {
        let what = "only root or that user can try its login shell";
        return vec![Finding::new(Severity::Skipped, &about, what)];
    }
    let shell = |script| login_shell(asked, &user, script);
    let ended = match shell(END) {
        Err(why) => {
            let what = format!("its login shell could not be tried: {why}");
            return vec![Finding::new(Severity::Warning, &about, what)];
        }
        // The next one would not end either.
        Ok(ended) if ended.code == TIMED_OUT => return vec![end(&about, &ended)],
        Ok(ended) => end(&about, &ended),
    };
    let mut findings = vec![ended];
    match shell(FIND) {
        Ok(found) => findings.push(runner(&about, &found)),
        Err(why) => {
            let what = format!("its PATH could not be looked at: {why}");
            findings.push(Finding::new(Severity::Warning, &about, what));
        }
    }
    findings
}

/// How a shell ended, and the last line that it wrote.
struct Ended {
    code: i32,
    last: String,
}

fn end(about: &str, ended: &Ended) -> Finding {
    let said = if ended.last.is_empty() {
        String::new()
    } else {
        format!(", and its last line is {}", shown(&ended.last))
    };
    match ended.code {
        0 => Finding::new(Severity::Ok, about, "its login shell ends well"),
        TIMED_OUT => Finding::new(
            Severity::Error,
            about,
            format!(
                "its login shell does not end within {PATIENCE}{said}; look at its profile and its .bash_logout"
            ),
        ),
        code => Finding::new(
            Severity::Error,
            about,
            format!(
                "its login shell ends with {code} after \"exit 0\"{said}: every stage of a job fails so, the first at \"prepare environment\"; look \
                 at its .bash_logout, and empty it if in doubt"
            ),
        ),
    }
}

fn runner(about: &str, found: &Ended) -> Finding {
    if found.code == 0 {
        return Finding::new(
            Severity::Ok,
            about,
            "gitlab-runner is in the PATH of its login shell",
        );
    }
    Finding::new(
        Severity::Warning,
        about,
        "gitlab-runner is not in the PATH of its login shell: artifacts and caches are not uploaded, and the jobs succeed all the \
         same; link it to /usr/local/bin",
    )
}

/// Feeds a script to the login shell; an error if it could not be started.
fn login_shell(
    asked: &Asked<'_>,
    user: &crate::cli::request::Identity,
    script: &str,
) -> Result<Ended, String> {
    let mut child = command(asked, user).spawn().map_err(|e| e.to_string())?;
    if let Some(mut stdin) = child.stdin.take() {
        // Whether the shell reads it is its own affair: its end tells.
        let _ = stdin.write_all(script.as_bytes());
    }
    let end = child.stderr.take().map(end_of).unwrap_or_default();
    let text = String::from_utf8_lossy(&end);
    let last = text.lines().next_back().unwrap_or_default();
    let status = child.wait().map_err(|e| e.to_string())?;
    match status.code() {
        Some(125) if last.starts_with("jobcage: ") => Err(shown(last)),
        Some(code) => Ok(Ended {
            code,
            last: last.to_owned(),
        }),
        None => Err(format!("jobcage ended with {status}")),
    }
}

/// Reads until everybody has closed it, and keeps the last of it: a profile may write without an end.
fn end_of(mut pipe: impl Read) -> Vec<u8> {
    const KEPT: usize = 4096;
    let mut end = Vec::new();
    let mut piece = [0; KEPT];
    while let Ok(n @ 1..) = pipe.read(&mut piece) {
        end.extend_from_slice(&piece[..n]);
        end.drain(..end.len().saturating_sub(KEPT));
    }
    end
}

fn command(asked: &Asked<'_>, user: &crate::cli::request::Identity) -> Command {
    let places = &asked.common.places;
    let mut command = Command::new("/proc/self/exe");
    // A limit, a report or an after phase of the host's jobs is nothing to this one.
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"JOBCAGE_") {
            command.env_remove(name);
        }
    }
    command
        .env("JOBCAGE_CONFIG", "/dev/null")
        .env("JOBCAGE_RUNTIME_DIR", &places.runtime_dir)
        .env("JOBCAGE_STATE_DIR", &places.state_dir)
        .args(["run", "--quiet", "--clear-env", "--login", "--dir", "/"])
        .args(["--name", "gitlab-check", "--timeout", PATIENCE, "--grace", "1s"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    for (flag, value) in [("--user", &user.user), ("--group", &user.group)] {
        if let Some(value) = value {
            command.arg(format!("{flag}={value}"));
        }
    }
    if let Some(root) = &places.cgroup_root {
        command.arg("--cgroup-root").arg(root);
    }
    command.args(["--", "bash", "--login"]);
    command
}
