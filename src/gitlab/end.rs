//! The end of a GitLab job: what came of its stages, and the `after_script` that jobcage runs itself, shown where somebody
//! reads it.

use super::after;
use super::cage::say;
use super::contract::Response;
use crate::verbs::{VerbError, outlets, tell_lost};
use jobcage_job::{Cause, Clock, Ending, JobId, JobSpec, Report, StepKind, StepReport};
use jobcage_ledger::log::{Follower, Happening, Start, Until, Wanted};
use jobcage_ledger::{Places, Record};
use jobcage_supervisor::kept::{PHASE_VERSION, Phase, standing};
use jobcage_supervisor::machine::State;
use jobcage_supervisor::sessions;
use jobcage_sys::memory;
use std::time::{Duration, SystemTime};

/// Stages that say nothing of the job: whether it has failed is known when they begin.
const BEHIND_THE_JOB: [&str; 4] = [after::STAGE, "cleanup_file_variables", "archive_", "upload_"];

/// The runner's clock began before ours: with the job, and ours with its first call.
const EARLIER: Duration = Duration::from_secs(3);

/// What came of a job: the first stage that failed at its last attempt, or success.
#[must_use]
pub fn ending_of(steps: &[StepReport]) -> Ending {
    let counts = |step: &&StepReport| {
        step.kind == StepKind::Step && !BEHIND_THE_JOB.iter().any(|name| step.name.starts_with(name))
    };
    let is_last_attempt = |at: usize, step: &StepReport| !steps[at + 1..].iter().any(|s| s.name == step.name);
    let failed = steps
        .iter()
        .enumerate()
        .filter(|(_, step)| counts(step))
        .find(|(at, step)| !matches!(step.ending, Ending::Exited { code: 0 }) && is_last_attempt(*at, step));
    match failed {
        None => Ending::Exited { code: 0 },
        // It runs yet, and ends with what we are about to do.
        Some((_, step)) if step.ended.is_none() => Ending::Cancelled(Cause::Cleanup),
        Some((_, step)) => step.ending.clone(),
    }
}

/// Whether the runner has ended a stage because the job's time was over: it tells nobody why it sends a signal. Its attempt at the job
/// began at `asked`, if that is known: `prepare` may have had orphans to close before there was a session.
#[must_use]
pub fn is_timeout(response: &Response, spec: &JobSpec, asked: Option<SystemTime>, stage: &Ending) -> bool {
    let Some(time) = response.timeout() else {
        return false;
    };
    let made = SystemTime::UNIX_EPOCH + Duration::from_nanos(u64::try_from(spec.created_ns).unwrap_or(0));
    let began = asked.map_or(made, |asked| asked.min(made));
    let ran = began.elapsed().unwrap_or_default();
    matches!(stage, Ending::Cancelled(Cause::Signal { .. })) && ran + EARLIER >= time
}

/// How a job ends whose time is over.
pub const TIMED_OUT: Ending = Ending::TimedOut { clock: Clock::Wall };

/// Where the session of a job stands; `None`: it is over, or that cannot be told.
fn phase(record: &Record) -> Option<Phase> {
    record.phase(PHASE_VERSION).ok().flatten()
}

/// Whether a session is on its way out, or over.
#[must_use]
pub fn is_ending(record: &Record) -> bool {
    let state = || standing(record).ok().flatten();
    record.has_report() || state().is_none_or(|state| state != State::Running)
}

/// Whether jobcage is to run the `after_script`.
#[must_use]
pub fn after_is_due(record: &Record) -> bool {
    phase(record).is_some_and(|phase| phase.machine.has_after())
}

/// Ends a session and stays until it is over, with what its after phase says on our standard output.
///
/// # Errors
/// If it is not ours to end, or its record cannot be read.
pub fn finish(records: &Places, id: &JobId, ending: Ending) -> Result<Report, VerbError> {
    let record = records.open(id)?;
    if !after_is_due(&record) {
        return Ok(sessions::finish(records, id, ending)?);
    }
    let status = ending.result();
    say(&format!(
        "the runner does not run after_script any more: jobcage does now (job {status})"
    ));
    let (places, name) = (records.clone(), id.clone());
    // It waits for the end; the output is to be seen meanwhile.
    let ended = std::thread::spawn(move || sessions::finish(&places, &name, ending));
    let shown = show(&record);
    let report = ended
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    shown?;
    tell_after(&report);
    Ok(report)
}

/// Stays until a session is over that ends by itself, with what its after phase says.
///
/// # Errors
/// If its record cannot be read.
pub fn see_off(record: &Record) -> Result<Option<Report>, VerbError> {
    show(record)?;
    let report = record.report()?;
    report.iter().for_each(tell_after);
    Ok(report)
}

/// Passes on what comes into the logs of a session until it is over.
fn show(record: &Record) -> Result<(), VerbError> {
    let Some(capture) = record.spec()?.and_then(|spec| spec.capture) else {
        return Ok(());
    };
    // The stage before it was taken for the last that this process does, and this may take minutes.
    memory::go_on_freeing();
    let wanted = Wanted::default();
    let mut follower = Follower::new(record, capture, wanted, Start::Offset(0), Until::JobOver)?;
    let (mut out, mut err) = outlets()?;
    loop {
        match follower.next(&mut out, &mut err, None)? {
            lost @ Happening::Lost { .. } => tell_lost(lost),
            Happening::Woken => {}
            // Whether anybody reads it is no matter of the job's.
            Happening::OutputGone | Happening::OutputFailed(_) | Happening::Removed | Happening::Over => {
                return Ok(());
            }
        }
    }
}

/// An after phase that did not go well is told; it changes nothing of the job.
fn tell_after(report: &Report) {
    for step in report.steps.iter().filter(|step| step.kind == StepKind::After) {
        match &step.ending {
            Ending::Exited { code: 0 } => {}
            Ending::TimedOut { .. } => say("after_script ran out of its time"),
            other => say(&format!("after_script: exit code {}", other.exit_code())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(name: &str, ending: Ending) -> StepReport {
        StepReport {
            number: 1,
            name: name.into(),
            kind: StepKind::Step,
            ending,
            status: None,
            started: String::new(),
            ended: Some(String::new()),
            logs: Vec::new(),
        }
    }

    const GOOD: Ending = Ending::Exited { code: 0 };
    const BAD: Ending = Ending::Exited { code: 3 };

    #[test]
    fn a_job_is_what_its_first_failed_stage_was() {
        assert_eq!(ending_of(&[]), GOOD);
        let played = [
            ("get_sources", GOOD),
            ("build_script", BAD),
            ("cleanup_file_variables", GOOD),
        ];
        assert_eq!(ending_of(&played.map(|(name, ending)| step(name, ending))), BAD);
    }

    #[test]
    fn an_attempt_that_was_repeated_does_not_count() {
        let played = [
            ("get_sources", BAD),
            ("get_sources", GOOD),
            ("build_script", GOOD),
        ];
        assert_eq!(ending_of(&played.map(|(name, ending)| step(name, ending))), GOOD);
    }

    #[test]
    fn a_stage_that_runs_yet_is_ended_by_the_cleanup() {
        let lost = Ending::Lost { why: String::new() };
        let running = StepReport {
            ended: None,
            ..step("build_script", lost)
        };
        assert_eq!(ending_of(&[running]), Ending::Cancelled(Cause::Cleanup));
    }

    #[test]
    fn what_comes_behind_the_job_does_not_count() {
        for name in [
            "after_script",
            "upload_artifacts_on_failure",
            "archive_cache",
            "cleanup_file_variables",
        ] {
            assert_eq!(
                ending_of(&[step("build_script", GOOD), step(name, BAD)]),
                GOOD,
                "{name}"
            );
        }
    }
}
