//! A job from its first call to its last, as `common/build.go` and the custom executor play it (contract A1, A5, A6, A8).

use super::attend::Reach;
use super::environment::{Config, Surroundings};
use super::hub::{Cancel, Hub};
use super::plan::Generation;
use super::script;
use serde_json::json;
use std::path::PathBuf;
use std::time::Instant;

/// Why something ends before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    JobTimeout,
    ForcedCancel,
    GracefulCancel,
    ScriptTimeout,
    /// Of one call: config, prepare, `after_script`, cleanup.
    CallTimeout,
    Stopped,
}

/// What goes wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The job's own.
    Build(i32),
    /// The driver's.
    System(String),
    /// Somebody's wish.
    Ended(Cause),
}

pub type Step = Result<(), Failure>;

/// The job.
pub struct Build {
    pub hub: Hub,
    pub surroundings: Surroundings,
    attempts: u32,
}

const PREPARATIONS: u32 = 3;

impl Build {
    pub fn new(hub: Hub) -> Self {
        Self {
            surroundings: Surroundings::new(&hub.plan),
            hub,
            attempts: 0,
        }
    }

    /// All of it; then the final state goes to the server.
    pub fn play(mut self) {
        let ended = match self.prepare() {
            Ok(()) => {
                let ended = self.run();
                self.cleanup();
                ended
            }
            failed => failed,
        };
        self.report(&ended);
    }

    /// Three times the whole executor, each with a cleanup, unless it is the job's own failure.
    fn prepare(&mut self) -> Step {
        loop {
            self.attempts += 1;
            self.surroundings.new_attempt(&self.hub.plan, self.attempts);
            let failed = match self
                .config()
                .and_then(|()| self.one("prepare", &[], Reach::Preparation))
            {
                // Only what comes next looks at the signal.
                Ok(()) if self.hub.is_stopping() => Failure::Ended(Cause::Stopped),
                Ok(()) => return Ok(()),
                Err(failed) => failed,
            };
            self.cleanup();
            if let Failure::System(why) = &failed
                && !self.hub.is_stopping()
            {
                self.hub
                    .log(format!("ERROR: Preparation failed: {why}\nWill be retried in 3s ...\n").as_bytes());
                let seconds = self.hub.plan.timeouts.retry;
                self.hub.rest("preparation_retry", (seconds, seconds), seconds);
                if self.attempts < PREPARATIONS {
                    continue;
                }
            }
            return Err(failed);
        }
    }

    fn config(&mut self) -> Step {
        self.one("config", &[], Reach::Preparation)?;
        let answer = self.hub.last_answer();
        let config = Config::read(&answer)
            .map_err(|why| Failure::System(format!("error while parsing JSON output: {why}")))?;
        self.surroundings.settle(&self.hub.plan, config);
        Ok(())
    }

    fn run(&mut self) -> Step {
        self.stage("prepare_script", Reach::Sources)?;
        let sources = self.sources();
        if let Err(failed) = sources {
            // The script's own status is never reached.
            return self.finish(failed, false);
        }
        let script = self.script();
        self.surroundings.status = match &script {
            Ok(()) => "success",
            Err(Failure::Ended(Cause::GracefulCancel)) => "canceled",
            Err(Failure::Ended(Cause::ScriptTimeout)) => "timedout",
            Err(_) => "failed",
        };
        match script {
            Err(failed) => self.finish(failed, true),
            Ok(()) => {
                self.after_script()?;
                let kept = self.keep("archive_cache", "upload_artifacts_on_success");
                self.forget_files()?;
                kept
            }
        }
    }

    /// What is done for a job that has failed already, and with what it ends.
    fn finish(&mut self, failed: Failure, has_run: bool) -> Step {
        use Cause::{ForcedCancel, JobTimeout, Stopped};
        let is_over = matches!(failed, Failure::Ended(JobTimeout | ForcedCancel | Stopped));
        let before_script = !has_run && matches!(failed, Failure::Ended(_));
        if is_over || before_script {
            return Err(failed);
        }
        if has_run {
            self.after_script()?;
        }
        // What fails here changes nothing any more, unless the whole job is ended meanwhile.
        if let Err(ended @ Failure::Ended(_)) =
            self.keep("archive_cache_on_failure", "upload_artifacts_on_failure")
        {
            return Err(ended);
        }
        self.forget_files()?;
        Err(failed)
    }

    fn sources(&mut self) -> Step {
        self.attempt("get_sources", "GET_SOURCES_ATTEMPTS", Some("clear_worktree"))?;
        self.attempt("restore_cache", "RESTORE_CACHE_ATTEMPTS", None)?;
        self.attempt("download_artifacts", "ARTIFACT_DOWNLOAD_ATTEMPTS", None)
    }

    /// Again after every failure of the stage, the job's own too.
    fn attempt(&mut self, stage: &str, variable: &str, before_second: Option<&str>) -> Step {
        let most = self.hub.plan.number(variable).unwrap_or(1.0).clamp(1.0, 10.0) as u32;
        for number in 1.. {
            if number == 2
                && self.hub.plan.generation == Generation::V18
                && let Some(stage) = before_second
            {
                self.stage(stage, Reach::Sources)?;
            }
            match self.stage(stage, Reach::Sources) {
                Err(failed @ (Failure::Build(_) | Failure::System(_))) => {
                    self.back_off(number);
                    if number == most {
                        return Err(failed);
                    }
                }
                other => return other,
            }
        }
        unreachable!("it has returned after the last attempt")
    }

    /// 18.0 and later: from 5 s on, twice as long each time, less by chance. After the last attempt too.
    fn back_off(&mut self, number: u32) {
        if self.hub.plan.generation == Generation::V18 {
            let most = 5.0 * f64::from(1 << (number - 1));
            self.hub.rest("stage_retry", (5.0, most), 5.0);
        }
    }

    fn script(&mut self) -> Step {
        self.hub.script_deadline = self.deadline_of("RUNNER_SCRIPT_TIMEOUT");
        let steps = self.hub.plan.response["steps"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        self.hub.log(b"WARNING: Starting with version 17.0 the 'build_script' stage will be replaced with 'step_script'\n");
        for step in steps.iter().filter_map(|step| step["name"].as_str()) {
            match step {
                "after_script" => {}
                "script" => self.stage("build_script", Reach::Script)?,
                other => self.stage(&format!("step_{}", other.to_lowercase()), Reach::Script)?,
            }
        }
        Ok(())
    }

    fn deadline_of(&self, variable: &str) -> Option<Instant> {
        let seconds = self.hub.plan.number(variable)?;
        (self.hub.plan.generation == Generation::V18).then(|| Instant::now() + self.hub.plan.time(seconds))
    }

    /// Its failures are only warned of.
    fn after_script(&mut self) -> Step {
        match self.stage("after_script", Reach::Later) {
            Err(ended @ Failure::Ended(cause)) if cause != Cause::CallTimeout => Err(ended),
            Err(_) => {
                self.hub
                    .log(b"WARNING: after_script failed, but job will continue unaffected\n");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    fn keep(&mut self, cache: &str, artifacts: &str) -> Step {
        let cached = self.stage(cache, Reach::Later);
        if let Err(Failure::Ended(_)) = cached {
            return cached;
        }
        self.stage(artifacts, Reach::Later).and(cached)
    }

    fn forget_files(&mut self) -> Step {
        match self.stage("cleanup_file_variables", Reach::Later) {
            Err(ended @ Failure::Ended(_)) => Err(ended),
            _ => Ok(()),
        }
    }

    /// One call of `run_exec`, if there is something to do.
    fn stage(&mut self, stage: &str, reach: Reach) -> Step {
        let project = self.surroundings.project_dir();
        let Some(body) = script::body(&self.hub.plan, stage, &project) else {
            return Ok(());
        };
        let variables = self.surroundings.variables(&self.hub.plan);
        let text = script::whole(&self.hub.plan, &variables, &body);
        let file: PathBuf = self.surroundings.write_script(&self.hub.plan, &text);
        let more = [file.display().to_string(), stage.to_owned()];
        self.one("run", &more, reach)
    }

    /// Its failure is a warning, and its end does not depend on how the job ended.
    fn cleanup(&mut self) {
        if let Err(failed) = self.one("cleanup", &[], Reach::Cleanup) {
            self.hub
                .log(format!("WARNING: Cleanup script failed: {failed:?}\n").as_bytes());
        }
        self.surroundings.remove();
    }

    /// The last words to the log and to the server.
    fn report(&mut self, ended: &Step) {
        let (told, state) = match ended {
            Ok(()) => ("Job succeeded".into(), json!({"state": "success"})),
            Err(Failure::Build(code)) => (
                format!("ERROR: Job failed: exit status {code}"),
                json!({"state": "failed", "failure_reason": "script_failure", "exit_code": code}),
            ),
            Err(Failure::System(why)) => (
                format!("ERROR: Job failed (system failure): {why}"),
                failed("runner_system_failure"),
            ),
            Err(Failure::Ended(Cause::Stopped)) => (
                "ERROR: Job failed (system failure): aborted: terminated".into(),
                failed("runner_system_failure"),
            ),
            Err(Failure::Ended(Cause::ForcedCancel | Cause::GracefulCancel)) => {
                ("ERROR: Job failed: canceled".into(), failed("job_canceled"))
            }
            Err(Failure::Ended(_)) => (
                "ERROR: Job failed: execution took longer".into(),
                failed("job_execution_timeout"),
            ),
        };
        self.hub.log(format!("{told}\n").as_bytes());
        self.hub.log_rest();
        let mut state = state;
        // 403: the server has given the job up, and hears nothing of it any more.
        if self.hub.wanted == Some(Cancel::Forced) {
            self.hub.tell(&format!("server put_forbidden {state}"));
            state["rejected"] = json!(true);
        } else {
            let mut put = state.clone();
            let is_canceling = self.hub.wanted.is_some();
            put["server_status"] = json!(if is_canceling { "canceling" } else { "running" });
            self.hub.tell(&format!("server put {put}"));
        }
        self.hub
            .tell(&format!("server job_final {}", json!({"final": state})));
    }
}

fn failed(reason: &str) -> serde_json::Value {
    json!({"state": "failed", "failure_reason": reason})
}
