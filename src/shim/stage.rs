//! A stage in a cage of its own: the real program, fed by the runner's own pipe, its output through pipes of ours.

use super::real::Real;
use super::runner::parent_among;
use crate::cli::request::{CageChoice, RunRequest, Secret, ShimRequest, Voice};
use crate::complain;
use crate::config::environ::Environ;
use crate::render;
use crate::verbs::{self, VerbError, places};
use jobcage_job::{Census, Ending, LeaseHolder, Report, Streams};
use jobcage_supervisor::{Job, Target, foreground};
use nix::sys::signal::SigSet;
use nix::sys::stat::{SFlag, fstat};
use std::ffi::{CString, OsString};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;

/// What became of it.
pub enum Played {
    /// It is over, and nothing of it is left: its exit code.
    Ended(u8),
    /// No runner has started us.
    NotOurs,
    /// It could not be given a cage, for this reason; nothing of it has run.
    NoCage(String),
}

/// Whether somebody feeds us a script.
pub fn script_comes_by_a_pipe() -> bool {
    fstat(std::io::stdin())
        .is_ok_and(|stat| SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFIFO)
}

/// Runs the real program with these words as a stage, if our parent is a runner.
pub fn play(real: &Real, words: &[OsString]) -> Played {
    let euid = nix::unistd::geteuid().as_raw();
    let request = match crate::cli::shim(Environ::capture(), euid) {
        Ok(request) => request,
        Err(error) => return Played::NoCage(error.to_string()),
    };
    let ShimRequest { run, runners } = request;
    let Some(runner) = parent_among(&runners) else {
        return Played::NotOurs;
    };
    let voice = run.common.voice;
    let job = match job(run, runner, real, words) {
        Ok(job) => job,
        Err(error) => return Played::NoCage(error.to_string()),
    };
    let mask = SigSet::thread_get_mask();
    let played = to_its_end(&job, voice);
    if let (Played::NoCage(_), Ok(mask)) = (&played, mask) {
        // As we were: the real program has both from us. A signal that came meanwhile comes now, and means us.
        let _ = nix::sys::prctl::set_child_subreaper(false);
        let _ = mask.thread_set_mask();
    }
    played
}

fn to_its_end(job: &Job, voice: Voice) -> Played {
    let begun = match foreground::begin(job) {
        Ok(begun) => begun,
        Err(failure) => return Played::NoCage(failure.to_string()),
    };
    // From here on the script may have been read: there is no second try.
    match begun.finish() {
        Ok(outcome) => ended(&outcome.report, voice),
        Err(failure) => {
            complain(&failure);
            Played::Ended(crate::FAILED)
        }
    }
}

fn job(run: RunRequest, runner: LeaseHolder, real: &Real, words: &[OsString]) -> Result<Job, VerbError> {
    let CageChoice::New { cage, .. } = run.cage else {
        unreachable!("nobody has named a cage");
    };
    let mut step = run.step;
    step.command = words.to_vec();
    if let Some(path) = &real.path {
        let others = step.env.inherited.iter_mut();
        for (_, value) in others.filter(|(name, _)| name == "PATH") {
            *value = Secret::from(path.clone());
        }
    }
    let mut command = verbs::build(&step)?;
    // What the runner sends to its group is for us. A program that had it from both of us would take it for impatience: the
    // second SIGTERM has su kill at once.
    command.new_session = true;
    // A file that was found in PATH holds no NUL.
    command.programs = vec![CString::new(real.file.as_os_str().as_bytes()).unwrap_or_default()];
    Ok(Job {
        places: places(&run.common.places),
        cgroup_root: run.common.places.cgroup_root,
        target: Target::New {
            name: cage.name,
            limits: cage.limits,
            best_effort: cage.best_effort,
            after: None,
        },
        command,
        timeout: run.timeout,
        idle_timeout: run.idle_timeout,
        signal: run.signal.number(),
        grace: run.grace,
        detail: voice_is_loud(run.common.voice),
        agent: None,
        spare: run.spare,
        lease: Some(runner),
        capture: None,
        // The runner waits for the end of its pipes, which no process of the stage may hold.
        copied: Some(streams()),
        session: false,
        silence: None,
        id: None,
        step: None,
        keep_log: false,
        sweep: false,
        labels: std::collections::BTreeMap::new(),
        guests: None,
    })
}

fn voice_is_loud(voice: Voice) -> bool {
    voice == Voice::Verbose
}

/// One pipe of ours for each of the runner's.
fn streams() -> Streams {
    let file = |fd: std::os::fd::BorrowedFd<'_>| fstat(fd).map(|stat| (stat.st_dev, stat.st_ino));
    let (out, err) = (file(std::io::stdout().as_fd()), file(std::io::stderr().as_fd()));
    if out.is_ok() && out == err {
        Streams::Merged
    } else {
        Streams::Split
    }
}

fn ended(report: &Report, voice: Voice) -> Played {
    if let Ending::NeverStarted(never) = &report.ending {
        return Played::NoCage(format!(
            "the kernel did not start {} in it: {}: {}",
            never.what,
            never.stage,
            never.reason()
        ));
    }
    tell(report, voice);
    Played::Ended(exit_code(report))
}

/// Into the job's log: who was left, on one line, and whatever else a user should know.
fn tell(report: &Report, voice: Voice) {
    if voice == Voice::Quiet && report.clean {
        return;
    }
    if let Some(line) = render::left_behind("this stage", report) {
        complain(&line);
    }
    let rest = Report {
        census: Census::default(),
        ..report.clone()
    };
    for line in render::summary_of("the stage", &rest, voice_is_loud(voice)) {
        complain(&line);
    }
}

/// What the runner would have seen without us: a shell that was asked to end says itself how it did.
fn exit_code(report: &Report) -> u8 {
    let code = match (&report.ending, report.status) {
        (Ending::Cancelled(_), Some(status)) => status.shell_code(),
        _ => report.exit_code,
    };
    u8::try_from(code).unwrap_or(crate::FAILED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_is_the_shells_own() {
        let report = |ending: &str, status: &str, exit_code: i32| -> Report {
            let text = format!(
                r#"{{"version": 1, "jobcage": "0", "job": "bash-00000000", "ending": {ending}, "status": {status},
                "exit_code": {exit_code}, "clean": true, "closed_by": "supervisor", "started": "", "ended": "",
                "wall_seconds": 0, "boot_id": "", "cage": "", "steps": [], "usage": {{}},
                "census": {{"count": 0, "left": [], "method": "empty"}}}}"#
            );
            serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
        };
        let stop = r#"{"kind": "cancelled", "by": "signal", "signal": 15, "pid": 1, "uid": 0}"#;
        for (ending, status, code, expected) in [
            (r#"{"kind": "exited", "code": 42}"#, r#"{"code": 42}"#, 42, 42),
            (
                r#"{"kind": "signalled", "signal": 9}"#,
                r#"{"signal": 9}"#,
                137,
                137,
            ),
            // `trap 'exit 1' TERM`.
            (stop, r#"{"code": 1}"#, 143, 1),
            (stop, r#"{"signal": 9}"#, 143, 137),
            (stop, "null", 143, 143),
            (
                r#"{"kind": "timed_out", "clock": "wall"}"#,
                r#"{"code": 1}"#,
                124,
                124,
            ),
        ] {
            assert_eq!(
                exit_code(&report(ending, status, code)),
                expected,
                "{ending} {status}"
            );
        }
    }
}
