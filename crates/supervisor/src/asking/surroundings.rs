//! `jobcage exec`: as whom, where and with which environment a further command runs in the cage of a job.

use super::or_gone;
use crate::error::{Failure, Result};
use crate::keeper::Keeper;
use crate::package;
use jobcage_cage::{Cage, Process, listed};
use jobcage_job::{CreatedBy, JobId, JobSpec};
use jobcage_ledger::{LedgerError, Places, Record, State};
use jobcage_sys::{Errno, file, pidfd};
use nix::poll::{PollFd, PollFlags, PollTimeout};
use std::ffi::{CString, OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

/// What a job gives a further command. What is `None` is the caller's own.
#[derive(Debug)]
pub struct Surroundings {
    /// The uid that the job runs as.
    pub uid: u32,
    /// Group and supplementary groups; `None`: those of the user's account.
    pub groups: Option<(u32, Vec<u32>)>,
    /// The environment, without the job's id.
    pub env: Option<Vec<(OsString, OsString)>>,
    /// The working directory.
    pub dir: Option<PathBuf>,
    /// The job's main process, whose end is the job's.
    pub main: Option<OwnedFd>,
}

/// Finds them. This is the one place that knows where a job's environment is: of a foreground job it is that of its main
/// process; a job of `jobcage create` has none of its own between its steps, so there it is the caller's, as for `run
/// --job`.
///
/// # Errors
/// If there is no such job, if it is over, or if it is another user's.
pub fn surroundings(places: &Places, id: &JobId) -> Result<Surroundings> {
    let over = || Failure::Refused(format!("the job {id} is over: nothing can run in it any more"));
    let Some(record) = or_gone(places.open(id))? else {
        return Err(LedgerError::NoSuchJob(id.clone()).into());
    };
    let state = or_gone(record.state())?;
    let spec = or_gone(record.spec())?.flatten();
    let (Some(state), Some(spec)) = (state, spec) else {
        return Err(over());
    };
    if record.is_closing() {
        return Err(over());
    }
    let me = nix::unistd::geteuid().as_raw();
    if me != 0 && me != spec.uid {
        return Err(Failure::Refused(format!(
            "the job {id} runs as uid {}: only root and that user may run a command in it",
            spec.uid
        )));
    }
    match (state, spec.created_by) {
        (State::Over(_) | State::Closing { .. }, _) => Err(over()),
        (_, CreatedBy::Create | CreatedBy::Session) => Ok(Surroundings {
            uid: spec.uid,
            groups: None,
            env: None,
            dir: None,
            main: None,
        }),
        (State::Alive { .. }, CreatedBy::Run) if spec.capture.is_some() => of_keeper(&record, &spec),
        (State::Alive { supervisor }, CreatedBy::Run) => of_main(&spec, supervisor),
        (_, CreatedBy::Run) => Err(Failure::Refused(format!(
            "nobody looks after the job {id} any more: \"jobcage gc\" ends it"
        ))),
    }
}

/// Those that a captured job was started with, from its keeper.
fn of_keeper(record: &Record, spec: &JobSpec) -> Result<Surroundings> {
    let dead = || {
        Failure::Refused(format!(
            "the keeper of the job {} is dead, and with it what is known of its environment: nothing more can be started in it",
            spec.id
        ))
    };
    let mut held = Keeper::find(record)?.ok_or_else(dead)?.hello(false)?;
    let package = held.take("package").ok_or_else(dead)?;
    let (job, _) = package::open_job(package.as_fd())?;
    let main = held.steps.into_iter().find(|step| step.step.ended.is_none());
    let main = main
        .ok_or_else(|| Failure::Refused(format!("the job {} is ending: its own command is over", spec.id)))?;
    let env: Vec<u8> = job
        .command
        .env
        .iter()
        .flat_map(|var| var.as_bytes_with_nul().to_vec())
        .collect();
    Ok(Surroundings {
        uid: spec.uid,
        groups: job
            .command
            .identity
            .map(|identity| (identity.gid, identity.groups)),
        env: Some(variables(&env)),
        dir: job
            .command
            .dir
            .map(|dir| OsStr::from_bytes(dir.as_bytes()).into()),
        main: main.process,
    })
}

/// Those of a foreground job's main process.
fn of_main(spec: &JobSpec, supervisor: i32) -> Result<Surroundings> {
    let ending = || Failure::Refused(format!("the job {} is ending: its own command is over", spec.id));
    let main = find_main(spec, supervisor)?.ok_or_else(ending)?;
    let env = environment(spec, supervisor, &main)?;
    let unreadable = |what: &str, errno: Errno| {
        Failure::Refused(format!(
            "cannot read the {what} of the job {}, of its main process {}: {}",
            spec.id,
            main.pid,
            errno.desc()
        ))
    };
    let dir = nix::fcntl::readlink(format!("/proc/{}/cwd", main.pid).as_str())
        .map_err(|errno| unreadable("directory", errno))?;
    let status = read(main.pid, "status").map_err(|errno| unreadable("groups", errno))?;
    // Read from this process, if it is still there to be asked.
    if pidfd::has_ended(main.process.as_fd()) {
        return Err(ending());
    }
    Ok(Surroundings {
        uid: spec.uid,
        groups: groups(&status, spec.uid),
        env: Some(env),
        dir: Some(dir.into()),
        main: Some(main.process),
    })
}

struct Main {
    pid: i32,
    process: OwnedFd,
}

/// The supervisor's oldest child in the leaf of a step: orphans of the job become its children as well, and each of them was
/// started after the main process.
fn find_main(spec: &JobSpec, supervisor: i32) -> Result<Option<Main>> {
    let Some(cage) = Cage::open(spec.cage.as_ref(), spec.limited)? else {
        return Ok(None);
    };
    let mut oldest: Option<(u64, Main)> = None;
    for leaf in cage.step_leaves()? {
        for pid in listed(&leaf).map_err(Failure::system("list the processes of the job"))? {
            // Held first: what is read after it is of this process as long as it lives.
            let Ok(process) = pidfd::open(pid) else { continue };
            let Some(seen) = Process::read(pid).filter(|p| p.ppid == supervisor && p.state != 'Z') else {
                continue;
            };
            if !pidfd::has_ended(process.as_fd())
                && oldest.as_ref().is_none_or(|(start, _)| seen.start_ticks < *start)
            {
                oldest = Some((seen.start_ticks, Main { pid, process }));
            }
        }
    }
    Ok(oldest.map(|(_, main)| main))
}

/// The environment that the main process was started with.
fn environment(spec: &JobSpec, supervisor: i32, main: &Main) -> Result<Vec<(OsString, OsString)>> {
    let mark = format!("JOBCAGE_JOB={}", spec.id);
    let exe = |pid: i32| nix::fcntl::readlink(format!("/proc/{pid}/exe").as_str());
    for _ in 0..100 {
        let raw = read(main.pid, "environ").map_err(|errno| {
            Failure::Refused(format!(
                "cannot read the environment of the job {}, of its main process {}: {}",
                spec.id,
                main.pid,
                errno.desc()
            ))
        })?;
        let marked = raw.split(|b| *b == 0).any(|var| var == mark.as_bytes());
        // One that has taken the mark away is another program by now.
        if marked || exe(main.pid) != exe(supervisor) {
            return Ok(variables(&raw));
        }
        // Between clone and exec it is jobcage still, with jobcage's own environment. The kernel tells of no exec.
        let mut fds = [PollFd::new(main.process.as_fd(), PollFlags::POLLIN)];
        let _ = nix::poll::poll(&mut fds, PollTimeout::from(10u16));
    }
    Err(Failure::Refused(format!(
        "the job {} hangs in the start of its command",
        spec.id
    )))
}

fn variables(raw: &[u8]) -> Vec<(OsString, OsString)> {
    let pairs = raw.split(|b| *b == 0).filter_map(|var| {
        let at = var.iter().position(|b| *b == b'=').filter(|at| *at > 0)?;
        Some((
            OsStr::from_bytes(&var[..at]).to_owned(),
            OsString::from_vec(var[at + 1..].to_vec()),
        ))
    });
    pairs.filter(|(name, _)| name != "JOBCAGE_JOB").collect()
}

/// Group and groups in a `/proc/PID/status`, if it is still one of this user: a program may have become another one.
fn groups(status: &[u8], uid: u32) -> Option<(u32, Vec<u32>)> {
    let text = String::from_utf8_lossy(status);
    let numbers = |key: &str| -> Option<Vec<u32>> {
        let line = text.lines().find_map(|line| line.strip_prefix(key))?;
        line.split_ascii_whitespace().map(|n| n.parse().ok()).collect()
    };
    numbers("Uid:")?.iter().all(|n| *n == uid).then_some(())?;
    Some((*numbers("Gid:")?.first()?, numbers("Groups:")?))
}

fn read(pid: i32, name: &str) -> jobcage_sys::Result<Vec<u8>> {
    file::read_path(&CString::new(format!("/proc/{pid}/{name}")).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_those_of_the_jobs_user_alone() {
        let status = b"Name:\tx\nUid:\t7\t7\t7\t7\nGid:\t8\t8\t8\t8\nGroups:\t8 9 \n";
        assert_eq!(groups(status, 7), Some((8, vec![8, 9])));
        assert_eq!(groups(status, 6), None);
        assert_eq!(groups(b"Uid:\t7\t0\t0\t0\nGid:\t8\nGroups:\t\n", 7), None);
        assert_eq!(groups(b"", 0), None);
    }

    #[test]
    fn variables_are_split_at_the_first_sign() {
        let pair = |name: &str, value: &str| (OsString::from(name), OsString::from(value));
        let raw = b"A=1=2\0JOBCAGE_JOB=x\0=odd\0plain\0B=\0";
        assert_eq!(variables(raw), [pair("A", "1=2"), pair("B", "")]);
    }
}
