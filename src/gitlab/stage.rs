//! `jobcage gitlab run SCRIPT STAGE`: one stage in a leaf of its own, its script on the standard input of a login shell.

use super::cage::{current, last_over, say, tell_who_is_left};
use super::config::build_user;
use super::contract::{Codes, Response, Verdict, attempt_began, is_inherited};
use super::memory::Memory;
use super::{GitlabError, after, end};
use crate::cli::request::{AfterScript, GitlabSettings, Leftovers, StepRequest, Voice};
use crate::verbs::{self, VerbError, places, tell};
use jobcage_job::{Cause, Ending, JobSpec, Streams};
use jobcage_ledger::Places;
use jobcage_supervisor::{Command, Job, Known, Outcome, Target, foreground};
use jobcage_sys::spawn::exit_now;
use std::collections::BTreeMap;
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
pub fn run(
    response: &Response,
    settings: GitlabSettings,
    script: &Path,
    stage: &str,
    told: Option<&Path>,
) -> verbs::Outcome {
    let codes = Codes::of_the_runner();
    let run = settings.run;
    let records = places(&run.common.places);
    let (record, spec) = match current(&records, response) {
        // Ours came first: the session is over.
        Err(_) if stage == after::STAGE && after_has_run(&records, response)? => return Ok(0),
        found => found?,
    };
    let id = record.id().clone();
    let is_always = settings.after_script == AfterScript::Always;
    if is_always && (settings.after_failed_sources || after::is_due_after(stage)) {
        after::give(&record, response, settings.after_timeout)?;
    }
    if stage == after::STAGE {
        if settings.after_script == AfterScript::Never {
            say("after_script is switched off (after_script = \"never\", or JOBCAGE_AFTER_SCRIPT)");
            return Ok(0);
        }
        if !after::take(&record)? {
            tell_after_has_run();
            return Ok(0);
        }
    }
    take_as_stdin(script)?;
    let command = login_shell(run.step, Some(&spec))?;
    let job = Job {
        places: records,
        cgroup_root: run.common.places.cgroup_root.clone(),
        target: Target::Existing {
            id: id.clone(),
            known: Some(Box::new(Known {
                record: record.again()?,
                spec: spec.clone(),
            })),
        },
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
        session: false,
        silence: None,
        id: None,
        step: Some(stage.to_owned()),
        sweep: settings.leftovers == Leftovers::Stage,
        keep_log: stage == after::STAGE,
        labels: BTreeMap::new(),
        guests: None,
    };
    let memory = Memory::before(&spec);
    let Outcome {
        report,
        may_be_ending,
        ..
    } = foreground::run(&job)?;
    tell(&report, Voice::Normal);
    memory.tell(&spec);
    let mut ending = report.ending;
    if end::is_timeout(response, &spec, attempt_began(), &ending) && end::after_is_due(&record) {
        // Now, while somebody reads it: the runner calls nothing more but cleanup, whose output reaches no user.
        end::finish(&job.places, &id, end::TIMED_OUT)?;
    } else if may_be_ending
        && end::is_ending(&record)
        && let Some(report) = end::see_off(&record)?
    {
        tell(&report, Voice::Normal);
        // A cleanup beside us says no more than that the stage is over.
        if !matches!(
            report.ending,
            Ending::Exited { .. } | Ending::Cancelled(Cause::Cleanup)
        ) {
            ending = report.ending;
        }
    } else if stage == LAST {
        tell_who_is_left(&id, &spec);
    }
    // Here and now: the runner waits for us, and not for what we would put in order.
    exit_now(match Verdict::of(&ending) {
        Verdict::Good => 0,
        Verdict::SystemFailed => codes.system_failure,
        Verdict::JobFailed(code) => {
            // A runner that has no file takes its own code for the job's.
            if let Some(file) = told
                && let Err(error) = std::fs::write(file, format!("{code}\n"))
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

/// The login shell of the build user, which a script is fed to. In a session, that user is known.
///
/// # Errors
/// If there is no such user.
pub fn login_shell(mut step: StepRequest, session: Option<&JobSpec>) -> Result<Command, VerbError> {
    step.identity = build_user(&step.identity, session)?;
    step.command = vec!["bash".into(), "--login".into()];
    step.env.login = true;
    step.env.inherited.retain(|(name, _)| is_inherited(name));
    let mut command = match session {
        Some(spec) => verbs::build_in(spec, &step)?,
        None => verbs::build(&step)?,
    };
    verbs::settle_at_home(&mut command)?;
    // What the runner sends to its group is for us. Who had it from both of us would take the second one for impatience.
    command.new_session = true;
    Ok(command)
}

fn after_has_run(records: &Places, response: &Response) -> Result<bool, VerbError> {
    let over = last_over(records, response)?;
    let has_run = over.is_some_and(|record| after::has_begun(&record));
    if has_run {
        tell_after_has_run();
    }
    Ok(has_run)
}

fn tell_after_has_run() {
    say("after_script has run already: jobcage ran it when the job's time was over");
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
