//! One call within a job: what may end it, how long the runner waits for it then, and what its end means (contract A5, A7, A8).

use super::build::{Build, Cause, Failure, Step};
use super::call::{Birth, Phase};
use super::environment;
use super::hub::Cancel;
use super::plan::Generation;
use nix::sys::wait::WaitStatus;
use std::time::Instant;

/// What a call may be ended by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// config and prepare: a runner that is stopped does not reach them (fact 6).
    Preparation,
    /// Everything before the script.
    Sources,
    /// The script: a graceful cancel ends it and nothing else.
    Script,
    /// What comes after it.
    Later,
    /// cleanup: its own timeout alone.
    Cleanup,
}

impl Build {
    /// One call of the driver, to its end or until it is given up.
    pub fn one(&mut self, call: &str, more: &[String], reach: Reach) -> Step {
        let (plan, stage) = (&self.hub.plan, more.last());
        let started = Instant::now();
        let own_deadline = self.own_deadline(call, stage, started);
        let driver = plan.driver.clone();
        let birth = Birth {
            name: stage.map_or_else(|| call.to_owned(), |stage| format!("{call}[{stage}]")),
            words: driver.words(call),
            more,
            env: environment::of_call(plan, &self.surroundings, call),
            dir: &self.surroundings.tmp.clone(),
            two_pipes: plan.generation.has_two_pipes(call),
        };
        if let Some(cause) = self.cause(reach, own_deadline) {
            return Err(Failure::Ended(cause));
        }
        let Some(index) = self.hub.start(&birth) else {
            return Err(Failure::System("cannot start the driver".into()));
        };
        self.wait(index, reach, own_deadline)
    }

    fn own_deadline(&self, call: &str, stage: Option<&String>, started: Instant) -> Option<Instant> {
        let timeouts = &self.hub.plan.timeouts;
        let seconds = match (call, stage.map(String::as_str)) {
            ("config", _) => timeouts.config,
            ("prepare", _) => timeouts.prepare,
            ("cleanup", _) => timeouts.cleanup,
            (_, Some("after_script")) => {
                let set = self.hub.plan.number("RUNNER_AFTER_SCRIPT_TIMEOUT");
                let is_known = self.hub.plan.generation == Generation::V18;
                set.filter(|_| is_known).unwrap_or(timeouts.after_script)
            }
            _ => return None,
        };
        Some(started + self.hub.plan.time(seconds))
    }

    fn wait(&mut self, index: usize, reach: Reach, own: Option<Instant>) -> Step {
        let mut ended: Option<(Cause, Option<Instant>)> = None;
        loop {
            let call = self.hub.call(index);
            if call.is_over() || call.phase == Phase::Abandoned {
                return match ended {
                    Some((cause, _)) => Err(Failure::Ended(cause)),
                    None => self.verdict(index),
                };
            }
            if ended.is_none()
                && let Some(cause) = self.cause(reach, own)
            {
                self.hub.tell(&format!("runner {cause:?}"));
                self.hub.ask_to_end(index);
                // Of the whole job, the runner has had enough some day; a graceful cancel waits for good (contract A8).
                use Cause::{ForcedCancel, JobTimeout, Stopped};
                let limited =
                    reach != Reach::Preparation && matches!(cause, JobTimeout | ForcedCancel | Stopped);
                let limit = self.hub.plan.time(self.hub.plan.timeouts.build_finish);
                ended = Some((cause, limited.then(|| Instant::now() + limit)));
            }
            if let Some((cause, Some(limit))) = ended
                && Instant::now() >= limit
            {
                let seconds = self.hub.plan.timeouts.build_finish;
                self.hub.waited("WaitForBuildFinishTimeout", (seconds, seconds));
                self.hub
                    .log(b"WARNING: Timed out waiting for the build to finish\n");
                return Err(Failure::Ended(cause));
            }
            let until = ended.map_or_else(|| self.next_deadline(reach, own), |(_, limit)| limit);
            self.hub.step(until);
        }
    }

    fn next_deadline(&self, reach: Reach, own: Option<Instant>) -> Option<Instant> {
        let job = (reach != Reach::Cleanup).then_some(self.hub.job_deadline);
        let script = self.hub.script_deadline.filter(|_| reach == Reach::Script);
        [job, script, own].into_iter().flatten().min()
    }

    /// Why a call of this reach has to end now, if it has.
    fn cause(&self, reach: Reach, own: Option<Instant>) -> Option<Cause> {
        let now = Instant::now();
        let is_past = |at: Option<Instant>| at.is_some_and(|at| now >= at);
        if reach == Reach::Cleanup {
            return is_past(own).then_some(Cause::CallTimeout);
        }
        let cancel = self.hub.cancel();
        if cancel == Some(Cancel::Forced) {
            Some(Cause::ForcedCancel)
        } else if cancel == Some(Cancel::Graceful) && reach != Reach::Later {
            Some(Cause::GracefulCancel)
        } else if now >= self.hub.job_deadline {
            Some(Cause::JobTimeout)
        } else if self.hub.is_stopping() && reach != Reach::Preparation {
            Some(Cause::Stopped)
        } else if reach == Reach::Script && is_past(self.hub.script_deadline) {
            Some(Cause::ScriptTimeout)
        } else {
            is_past(own).then_some(Cause::CallTimeout)
        }
    }

    /// What the end of a driver means (contract A5).
    fn verdict(&self, index: usize) -> Step {
        let unknown =
            |code: i32| Failure::System(format!("unknown Custom executor executable exit code {code}"));
        match self.hub.call(index).status {
            Some(WaitStatus::Exited(_, 0)) => Ok(()),
            Some(WaitStatus::Exited(_, environment::BUILD_FAILURE)) => {
                Err(match self.surroundings.told(&self.hub.plan) {
                    Ok(code) => Failure::Build(code),
                    Err(_) => unknown(2),
                })
            }
            Some(WaitStatus::Exited(_, environment::SYSTEM_FAILURE)) => {
                Err(Failure::System("exit status 2".into()))
            }
            Some(WaitStatus::Exited(_, code)) => Err(unknown(code)),
            _ => Err(unknown(-1)),
        }
    }
}
