//! A job as one sealed file in memory: what a supervisor gets from the client that starts it, and the next supervisor from
//! the keeper. Environment, arguments and scripts are in it, so it is never on a disk.
//!
//! A JSON line with everything that is a number or a name, then the strings, each ended by a NUL byte: they may be any
//! other bytes.

use crate::error::{Failure, Result};
use crate::host::cstring;
use crate::job::{After, Command, GuestHome, Job, Target};
use jobcage_job::{AfterReboot, CaptureSpec, JobId, LeaseHolder, Limits, Login, Root};
use jobcage_ledger::Places;
use jobcage_sys::file;
use jobcage_sys::spawn::{Identity, Rlimit};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Raised when a reader of before would misunderstand it.
const VERSION: u32 = 1;

/// A command without its strings.
#[derive(Debug, Serialize, Deserialize)]
struct CommandHead {
    version: u32,
    programs: usize,
    args: usize,
    env: usize,
    #[serde(default)]
    explicit: usize,
    dir: bool,
    identity: Option<(u32, u32, Vec<u32>)>,
    rlimits: Vec<(u32, u64, u64)>,
    #[serde(default)]
    login: Option<Login>,
    nice: Option<i32>,
    #[serde(default)]
    guard: bool,
    #[serde(default)]
    new_session: bool,
}

/// A job without its strings.
#[derive(Debug, Serialize, Deserialize)]
struct JobHead {
    command: CommandHead,
    cgroup_root: Option<PathBuf>,
    runtime: PathBuf,
    state: PathBuf,
    name: Option<String>,
    limits: Limits,
    best_effort: bool,
    after: Option<Duration>,
    #[serde(default)]
    after_reboot: Option<AfterReboot>,
    timeout: Option<Duration>,
    idle_timeout: Option<Duration>,
    signal: i32,
    grace: Duration,
    detail: bool,
    lease: Option<LeaseHolder>,
    #[serde(default)]
    silence: Option<Duration>,
    #[serde(default)]
    id: Option<JobId>,
    capture: Option<CaptureSpec>,
    #[serde(default)]
    ssh_agent: bool,
    #[serde(default)]
    spare: Vec<String>,
    #[serde(default)]
    session: bool,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    guests: Option<GuestHome>,
    root: Root,
}

impl CommandHead {
    fn of(command: &Command) -> Self {
        Self {
            version: VERSION,
            programs: command.programs.len(),
            args: command.args.len(),
            env: command.env.len(),
            explicit: command.explicit.len(),
            dir: command.dir.is_some(),
            identity: command
                .identity
                .as_ref()
                .map(|i| (i.uid, i.gid, i.groups.clone())),
            rlimits: command
                .rlimits
                .iter()
                .map(|r| (r.resource, r.soft, r.hard))
                .collect(),
            login: command.login.clone(),
            nice: command.nice,
            guard: command.guard,
            new_session: command.new_session,
        }
    }

    fn fill(self, strings: &mut impl Iterator<Item = CString>) -> Command {
        Command {
            programs: strings.by_ref().take(self.programs).collect(),
            args: strings.by_ref().take(self.args).collect(),
            env: strings.by_ref().take(self.env).collect(),
            explicit: strings.by_ref().take(self.explicit).collect(),
            dir: self.dir.then(|| strings.next()).flatten(),
            identity: self
                .identity
                .map(|(uid, gid, groups)| Identity { uid, gid, groups }),
            rlimits: self
                .rlimits
                .into_iter()
                .map(|(resource, soft, hard)| Rlimit { resource, soft, hard })
                .collect(),
            login: self.login,
            nice: self.nice,
            guard: self.guard,
            new_session: self.new_session,
        }
    }
}

fn strings(command: &Command) -> impl Iterator<Item = &CStr> {
    let lists = [&command.programs, &command.args, &command.env, &command.explicit];
    lists
        .into_iter()
        .flatten()
        .chain(&command.dir)
        .map(CString::as_c_str)
}

fn seal<'s>(head: &impl Serialize, strings: impl Iterator<Item = &'s CStr>) -> Result<OwnedFd> {
    let mut text =
        serde_json::to_vec(head).map_err(|e| Failure::Refused(format!("cannot pack the job: {e}")))?;
    text.push(b'\n');
    for string in strings {
        text.extend_from_slice(string.to_bytes_with_nul());
    }
    file::sealed(c"jobcage", &text).map_err(Failure::system("keep the job in memory"))
}

fn open<H: DeserializeOwned>(package: BorrowedFd<'_>) -> Result<(H, Vec<CString>)> {
    let text = file::read_from_start(package).map_err(Failure::system("read the job from memory"))?;
    let damaged = |why: String| Failure::Refused(format!("the job in memory is damaged: {why}"));
    let end = text
        .iter()
        .position(|b| *b == b'\n')
        .ok_or_else(|| damaged("no head".into()))?;
    let head = serde_json::from_slice(&text[..end]).map_err(|e| damaged(e.to_string()))?;
    let strings = text[end + 1..]
        .split_inclusive(|b| *b == 0)
        .map(|string| CString::from_vec_with_nul(string.to_vec()).map_err(|e| damaged(e.to_string())))
        .collect::<Result<_>>()?;
    Ok((head, strings))
}

fn is_known(version: u32) -> Result<()> {
    if version > VERSION {
        return Err(Failure::Refused(format!(
            "a newer jobcage has started this job (its package is of version {version}, this program reads up to \
             {VERSION}): use that one, or a newer one"
        )));
    }
    Ok(())
}

/// Packs a command.
///
/// # Errors
/// If there is no memory for it.
pub fn seal_command(command: &Command) -> Result<OwnedFd> {
    seal(&CommandHead::of(command), strings(command))
}

/// Unpacks a command.
///
/// # Errors
/// If it is damaged, or a newer jobcage has packed it.
pub fn open_command(package: BorrowedFd<'_>) -> Result<Command> {
    let (head, strings): (CommandHead, _) = open(package)?;
    is_known(head.version)?;
    Ok(head.fill(&mut strings.into_iter()))
}

/// Packs a new job and the place of its cage. Not the keys of its ssh-agent: whoever starts that gets them by themselves.
///
/// # Errors
/// If there is no memory for it, or the job is a step in the cage of another one.
pub fn seal_job(job: &Job, root: &Root) -> Result<OwnedFd> {
    let Target::New {
        name,
        limits,
        best_effort,
        after,
    } = &job.target
    else {
        return Err(Failure::Refused(
            "only a job with a cage of its own can be packed".into(),
        ));
    };
    let command = Command {
        dir: Some(absolute(job.command.dir.as_deref())?),
        ..job.command.clone()
    };
    let head = JobHead {
        command: CommandHead::of(&command),
        cgroup_root: job.cgroup_root.clone(),
        runtime: job.places.runtime.clone(),
        state: job.places.state.clone(),
        name: name.clone(),
        limits: limits.clone(),
        best_effort: *best_effort,
        after: after.as_ref().map(|after| after.timeout),
        after_reboot: after.as_ref().and_then(|after| after.reboot.as_deref().cloned()),
        timeout: job.timeout,
        idle_timeout: job.idle_timeout,
        signal: job.signal,
        grace: job.grace,
        detail: job.detail,
        lease: job.lease,
        silence: job.silence,
        id: job.id.clone(),
        capture: job.capture,
        ssh_agent: job.agent.is_some(),
        spare: job.spare.clone(),
        session: job.session,
        labels: job.labels.clone(),
        guests: job.guests.clone(),
        root: root.clone(),
    };
    let script = after.as_ref().map(|after| cstring(&after.script));
    seal(&head, strings(&command).chain(script.as_deref()))
}

/// The directory of the command by its whole path: whoever unpacks it has another one than we.
fn absolute(dir: Option<&CStr>) -> Result<CString> {
    let dir = OsStr::from_bytes(dir.unwrap_or_default().to_bytes());
    if Path::new(dir).is_absolute() {
        return Ok(cstring(dir));
    }
    let here = std::env::current_dir().map_err(|e| {
        Failure::Refused(format!(
            "cannot tell the working directory, in which the command is to run ({e}): name one with --dir"
        ))
    })?;
    // Without a name to add there is no slash to add either.
    let whole = if dir.is_empty() { here } else { here.join(dir) };
    Ok(cstring(whole.as_os_str()))
}

/// Unpacks a job.
///
/// # Errors
/// As [`open_command`].
pub fn open_job(package: BorrowedFd<'_>) -> Result<(Job, Root)> {
    let (head, strings): (JobHead, _) = open(package)?;
    is_known(head.command.version)?;
    let mut strings = strings.into_iter();
    let command = head.command.fill(&mut strings);
    let after = head.after.map(|timeout| After {
        script: strings
            .next()
            .map(|script| OsStr::from_bytes(script.to_bytes()).to_owned())
            .unwrap_or_default(),
        timeout,
        reboot: head.after_reboot.map(Box::new),
    });
    let job = Job {
        places: Places {
            runtime: head.runtime,
            state: head.state,
        },
        cgroup_root: head.cgroup_root,
        target: Target::New {
            name: head.name,
            limits: head.limits,
            best_effort: head.best_effort,
            after,
        },
        command,
        timeout: head.timeout,
        idle_timeout: head.idle_timeout,
        signal: head.signal,
        grace: head.grace,
        detail: head.detail,
        lease: head.lease,
        silence: head.silence,
        id: head.id,
        capture: head.capture,
        copied: None,
        agent: head.ssh_agent.then(Vec::new),
        spare: head.spare,
        session: head.session,
        step: None,
        sweep: false,
        keep_log: false,
        labels: head.labels,
        guests: head.guests,
    };
    Ok((job, head.root))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::fd::AsFd;

    fn text() -> impl Strategy<Value = CString> {
        prop::collection::vec(1..=255_u8, 0..40).prop_map(|bytes| CString::new(bytes).unwrap())
    }

    fn list() -> impl Strategy<Value = Vec<CString>> {
        prop::collection::vec(text(), 0..6)
    }

    proptest! {
        #[test]
        fn a_command_comes_out_as_it_went_in(programs in list(), args in list(), env in list(), explicit in list(), dir in prop::option::of(text()), guard in any::<bool>(), new_session in any::<bool>()) {
            let command = Command { programs, args, env, explicit, dir, guard, new_session, ..Command::default() };
            let package = seal_command(&command).unwrap();
            let again = open_command(package.as_fd()).unwrap();
            prop_assert_eq!(again, command);
        }
    }

    #[test]
    fn nobody_changes_a_sealed_package() {
        let package = seal_command(&Command::default()).unwrap();
        assert!(nix::unistd::write(&package, b"x").is_err());
        assert!(nix::unistd::ftruncate(&package, 0).is_err());
    }

    #[test]
    fn a_package_of_a_newer_jobcage_is_refused() {
        let head = CommandHead {
            version: VERSION + 1,
            ..CommandHead::of(&Command::default())
        };
        let package = seal(&head, std::iter::empty()).unwrap();
        let told = open_command(package.as_fd()).unwrap_err().to_string();
        assert!(told.contains("newer jobcage"), "{told}");
    }
}
