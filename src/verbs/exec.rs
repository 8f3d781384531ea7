//! `jobcage exec`.

use super::{Outcome, command, places};
use crate::cli::request::{ExecRequest, Voice};
use crate::render;
use jobcage_job::Ending;
use jobcage_supervisor::{Host, Job, Target, asking, foreground};

/// As a process that was killed: 128 + 9.
const KILLED: u8 = 137;

/// `jobcage exec`.
///
/// # Errors
/// If jobcage itself fails; how the command ended is the exit code.
pub fn exec(request: ExecRequest) -> Outcome {
    let places = places(&request.common.places);
    let around = asking::surroundings(&places, &request.id)?;
    let job = Job {
        places,
        cgroup_root: request.common.places.cgroup_root.clone(),
        command: command::beside(&request, &around)?,
        target: Target::Beside(Host {
            id: request.id.clone(),
            main: around.main,
        }),
        timeout: None,
        idle_timeout: None,
        signal: nix::libc::SIGTERM,
        grace: crate::cli::GRACE,
        detail: false,
        lease: None,
        capture: None,
        copied: None,
        session: false,
        silence: None,
        id: None,
        step: None,
        sweep: false,
        keep_log: false,
        labels: std::collections::BTreeMap::new(),
        guests: None,
        agent: None,
        spare: Vec::new(),
    };
    let outcome = foreground::run(&job)?;
    let report = &outcome.report;
    if outcome.job_ended {
        crate::complain(&format_args!(
            "{}: the job has ended, and with it the command that ran beside it",
            request.id
        ));
        return Ok(KILLED);
    }
    if request.common.voice != Voice::Quiet || matches!(report.ending, Ending::NeverStarted(_)) {
        let lines = render::summary_of("the command", report, request.common.voice == Voice::Verbose);
        lines.iter().for_each(|line| crate::complain(line));
    }
    if outcome.interrupted {
        super::run::end_by_the_same_signal(report);
    }
    Ok(u8::try_from(report.exit_code & 0xff).unwrap_or(u8::MAX))
}
