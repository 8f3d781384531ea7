//! `jobcage gitlab run SCRIPT STAGE`: one stage in a leaf of its own, its script on the standard input of a login shell.

use super::GitlabError;
use super::cage::{current, say, tell_who_is_left};
use super::config::build_user;
use super::contract::{Codes, Response, Verdict, exit_code_file, forget_exit_code, is_inherited};
use crate::cli::request::{RunRequest, Voice};
use crate::verbs::{self, Outcome, VerbError, places, tell};
use jobcage_job::Streams;
use jobcage_supervisor::{Job, Target, foreground};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

/// The last stage of nearly every job, whose output still comes into its log.
const LAST: &str = "cleanup_file_variables";

/// Runs a stage, whatever its name: GitLab invents new ones.
///
/// # Errors
/// If jobcage itself fails.
pub fn run(run: RunRequest, script: &Path, stage: &str) -> Outcome {
    let codes = Codes::of_the_runner();
    let told = exit_code_file();
    forget_exit_code(told.as_deref());
    let response = Response::of_this_call()?;
    let records = places(&run.common.places);
    let (id, spec) = current(&records, &response)?;
    take_as_stdin(script)?;
    let mut step = run.step;
    step.identity = build_user(&step.identity)?;
    step.command = vec!["bash".into(), "--login".into()];
    step.env.login = true;
    step.env.inherited.retain(|(name, _)| is_inherited(name));
    let mut command = verbs::build(&step)?;
    verbs::settle_at_home(&mut command)?;
    let job = Job {
        places: records,
        cgroup_root: run.common.places.cgroup_root.clone(),
        target: Target::Existing(id.clone()),
        command,
        timeout: run.timeout,
        idle_timeout: run.idle_timeout,
        signal: run.signal.number(),
        grace: run.grace,
        detail: false,
        agent: None,
        spare: run.spare,
        lease: None,
        capture: None,
        // The runner waits for the end of its pipes, which no process of the job may hold.
        copied: Some(Streams::Merged),
    };
    let report = foreground::run(&job)?.report;
    tell(&report, Voice::Normal);
    if stage == LAST {
        tell_who_is_left(&id, &spec);
    }
    Ok(match Verdict::of(&report.ending) {
        Verdict::Good => 0,
        Verdict::SystemFailed => codes.system_failure,
        Verdict::JobFailed(code) => {
            // A runner that has no file takes its own code for the job's.
            if let Some(file) = told
                && let Err(error) = std::fs::write(&file, format!("{code}\n"))
            {
                say(&format!(
                    "the exit code {code} could not be told to the runner: {}: {error}",
                    file.display()
                ));
            }
            codes.build_failure
        }
    })
}

/// The script is root's and stays so: the build user's shell reads it from an open file. No argument list shows it, and no
/// directory has to let that user in.
fn take_as_stdin(path: &Path) -> Result<(), VerbError> {
    let failed = |source: io::Error| GitlabError::Script {
        path: path.into(),
        source,
    };
    let file = File::open(path).map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(failed(io::Error::other("it is no regular file")).into());
    }
    nix::unistd::dup2_stdin(file.as_fd()).map_err(|errno| failed(errno.into()))?;
    Ok(())
}
