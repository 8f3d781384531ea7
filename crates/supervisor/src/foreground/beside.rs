//! Commands of `jobcage exec`: as their own supervisor, and as that of the job that they run in.

use super::Supervision;
use super::setup::Setup;
use crate::error::Result;
use crate::job::Target;
use jobcage_cage::{Dir, Emptied, Patience, empty};
use jobcage_job::{CensusMethod, Ending, FoundBy, Kill};
use nix::poll::{PollFd, PollFlags, PollTimeout};
use std::os::fd::AsFd;

/// Whoever is asked to leave. Where others have commands running beside the step, these are the job's as well, and at that
/// moment there is nothing else in the cage.
pub(super) fn place_of_step(setup: &Setup, of_another: bool) -> Result<&Dir> {
    let alone = of_another || setup.cage.exec_leaves()?.is_empty();
    Ok(if alone {
        &setup.leaf.dir
    } else {
        setup.cage.steps()
    })
}

impl Supervision<'_> {
    /// The commands beside a step are cut with it: the after phase shall not run beside old processes.
    pub(super) fn cut_beside(&self, step: &mut Emptied) -> Result<()> {
        if self.is_step_of_another() {
            return Ok(());
        }
        for leaf in self.setup.cage.exec_leaves()? {
            let cut = empty(&leaf, &Patience::default())?;
            self.add(step, &leaf, cut);
        }
        Ok(())
    }

    fn add(&self, step: &mut Emptied, leaf: &Dir, mut cut: Emptied) {
        let name = leaf.path().strip_prefix(self.setup.cage.dir().path());
        let name = name.unwrap_or(leaf.path()).display().to_string();
        for left in cut.census.left.iter_mut().chain(&mut cut.survivors) {
            if let FoundBy::Cgroup(place) = &mut left.found {
                *place = [name.as_str(), place.as_str()]
                    .join("/")
                    .trim_end_matches('/')
                    .to_owned();
            }
        }
        if cut.census.count > 0 {
            let both_frozen =
                cut.census.method == CensusMethod::Frozen && step.census.method != CensusMethod::Running;
            step.census.method = if both_frozen {
                CensusMethod::Frozen
            } else {
                CensusMethod::Running
            };
        }
        step.census.count += cut.census.count;
        step.census.left.extend(cut.census.left);
        step.survivors.extend(cut.survivors);
        step.proof.stragglers += cut.proof.stragglers;
        if !step.proof.populated.unwrap_or(false) {
            step.proof.populated = cut.proof.populated.or(step.proof.populated);
        }
        if step.proof.kill == Kill::NotNeeded {
            step.proof.kill = cut.proof.kill;
        }
        step.proof.frozen_us = step.proof.frozen_us.max(cut.proof.frozen_us);
        step.proof.empty_us = step.proof.empty_us.max(cut.proof.empty_us);
    }

    /// Whether a command of `jobcage exec` was ended, or kept from its start, by the end of its job.
    pub(super) fn job_has_ended(&self, ending: &Ending) -> bool {
        let Target::Beside(host) = &self.job.target else {
            return false;
        };
        let killed = match ending {
            Ending::Signalled { signal } => *signal == nix::libc::SIGKILL,
            Ending::NeverStarted(never) => matches!(never.stage.as_str(), "clone" | "birth" | "cgroup"),
            _ => false,
        };
        let record = &self.setup.record;
        killed
            && (record.is_closing()
                || record.has_report()
                || matches!(record.spec(), Ok(None))
                // One kill takes both, but they need not die in the same moment.
                || host.main.as_ref().is_some_and(|main| {
                    let mut fds = [PollFd::new(main.as_fd(), PollFlags::POLLIN)];
                    nix::poll::poll(&mut fds, PollTimeout::from(500u16)).is_ok_and(|ready| ready > 0)
                }))
    }
}
