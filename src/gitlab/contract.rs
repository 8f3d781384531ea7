//! What the runner says: variables, the job response, and what it understands as an answer.

use super::GitlabError;
use crate::cli::request::GitlabJob;
use jobcage_job::Ending;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// The runner's variables that are not the job's.
const OF_THE_RUNNER: [&str; 5] = [
    "TMPDIR",
    "BUILD_FAILURE_EXIT_CODE",
    "SYSTEM_FAILURE_EXIT_CODE",
    "JOB_RESPONSE_FILE",
    "BUILD_EXIT_CODE_FILE",
];

pub use crate::cli::OF_THE_JOB;

/// Where the runner says which file the response is in.
const RESPONSE: &str = "JOB_RESPONSE_FILE";

/// The largest response that is read: GitLab's own limits are far below.
const MOST: u64 = 64 << 20;

/// Whether a variable of the driver is one of the job's environment, as the shell executor would have it.
pub fn is_inherited(name: &OsStr) -> bool {
    !name.as_bytes().starts_with(OF_THE_JOB) && !OF_THE_RUNNER.iter().any(|known| name == *known)
}

/// The two exit codes beside 0 that the runner understands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Codes {
    /// The job failed.
    pub build_failure: u8,
    /// The driver failed.
    pub system_failure: u8,
}

impl Codes {
    /// As the runner has set them for this call.
    #[must_use]
    pub fn of_the_runner() -> Self {
        Self::of(|name| std::env::var_os(name))
    }

    fn of(get: impl Fn(&str) -> Option<OsString>) -> Self {
        let code = |name: &str, usual: u8| {
            let told = get(name).and_then(|value| value.to_str()?.parse().ok());
            told.filter(|code| *code != 0).unwrap_or(usual)
        };
        Self {
            build_failure: code("BUILD_FAILURE_EXIT_CODE", 1),
            system_failure: code("SYSTEM_FAILURE_EXIT_CODE", 2),
        }
    }
}

/// The job, as GitLab described it to the runner.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Response {
    /// Its number, unique in one GitLab.
    pub id: u64,
    /// What it is called.
    #[serde(default)]
    pub job_info: JobInfo,
    /// What it runs, by name: `script`, `after_script`, …
    #[serde(default)]
    steps: Vec<Step>,
    /// Its variables, as GitLab has them: the runner expands them.
    #[serde(default)]
    variables: Vec<Variable>,
    /// What the runner is told about itself.
    #[serde(default)]
    runner_info: RunnerInfo,
    #[serde(default)]
    git_info: GitInfo,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
struct Step {
    #[serde(default)]
    name: String,
    #[serde(default)]
    script: Option<Vec<String>>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
struct Variable {
    #[serde(default)]
    key: String,
    #[serde(default)]
    value: Option<String>,
    #[serde(default)]
    file: bool,
}

/// Where its sources are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
struct GitInfo {
    #[serde(default)]
    repo_url: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
struct RunnerInfo {
    #[serde(default)]
    timeout: Option<u64>,
}

/// Names of a job, which are the user's: for reading only.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct JobInfo {
    /// The job's name.
    #[serde(default)]
    pub name: String,
    /// Its project's.
    #[serde(default)]
    pub project_name: String,
    /// Its project's number.
    #[serde(default)]
    project_id: Option<u64>,
}

/// When the runner began its attempt at this call's job: it writes the response before its first call.
#[must_use]
pub fn attempt_began() -> Option<SystemTime> {
    let written = std::fs::metadata(std::env::var_os(RESPONSE)?).and_then(|meta| meta.modified());
    written.ok()
}

impl Response {
    /// The response of this call's job.
    ///
    /// # Errors
    /// If the runner names none, or it is none.
    pub fn of_this_call() -> Result<Self, GitlabError> {
        let path = std::env::var_os(RESPONSE).map(PathBuf::from);
        let path = path.ok_or_else(|| GitlabError::Contract {
            what: RESPONSE.into(),
            why: "the runner has not set it (it does since 14.1)".into(),
        })?;
        Self::read(&path)
    }

    /// The response in a file.
    ///
    /// # Errors
    /// If it cannot be read, or is none.
    pub fn read(path: &Path) -> Result<Self, GitlabError> {
        let mut text = Vec::new();
        let read = std::fs::File::open(path).and_then(|file| file.take(MOST).read_to_end(&mut text));
        let wrong = |why: String| GitlabError::Contract {
            what: format!("{RESPONSE} {}", path.display()),
            why,
        };
        read.map_err(|e| wrong(e.to_string()))?;
        // The message names a place in the text, and nothing of it: secrets are there.
        serde_json::from_slice(&text).map_err(|e| {
            wrong(format!(
                "line {}, column {}: this is no job response",
                e.line(),
                e.column()
            ))
        })
    }

    /// The commands of a step; `None`: there are none.
    #[must_use]
    pub fn script_of(&self, step: &str) -> Option<&[String]> {
        let step = self.steps.iter().find(|known| known.name == step)?;
        step.script.as_deref().filter(|script| !script.is_empty())
    }

    /// Whether a variable is to be a file that holds its value.
    #[must_use]
    pub fn is_file(&self, name: &[u8]) -> bool {
        let mut known = self.variables.iter();
        known.any(|variable| variable.file && variable.key.as_bytes() == name)
    }

    /// What the host's settings know it by. A job can set any variable, but not one that GitLab has set before it: those come
    /// first.
    #[must_use]
    pub fn job(&self) -> GitlabJob {
        let path = project_path(&self.git_info.repo_url).map(str::to_owned);
        let number = self.job_info.project_id.map(|id| id.to_string());
        let tags = self
            .variables
            .iter()
            .find(|variable| variable.key == "CI_RUNNER_TAGS");
        let tags = tags.and_then(|tags| serde_json::from_str(tags.value.as_deref()?).ok());
        GitlabJob {
            projects: path.into_iter().chain(number).collect(),
            tags: tags.unwrap_or_default(),
        }
    }

    /// The time that GitLab gives the job.
    #[must_use]
    pub fn timeout(&self) -> Option<Duration> {
        let seconds = self.runner_info.timeout.filter(|seconds| *seconds > 0);
        seconds.map(Duration::from_secs)
    }

    /// What the journal's entries about the job carry. Job and project are GitLab's own word; runner and slot come to us only
    /// as variables, which the job can set, and are marked as that.
    #[must_use]
    pub fn labels(&self) -> BTreeMap<String, String> {
        self.labels_with(|name| std::env::var(name).ok())
    }

    fn labels_with(&self, variable: impl Fn(&str) -> Option<String>) -> BTreeMap<String, String> {
        // A number, and nothing that could be mistaken for anything else.
        let told = |name: &str| variable(name)?.parse().ok();
        let labels: [(&str, Option<u64>); 4] = [
            ("GITLAB_JOB_ID", Some(self.id)),
            ("GITLAB_PROJECT_ID", self.job_info.project_id),
            ("GITLAB_TOLD_RUNNER_ID", told("CUSTOM_ENV_CI_RUNNER_ID")),
            (
                "GITLAB_TOLD_CONCURRENT_ID",
                told("CUSTOM_ENV_CI_CONCURRENT_PROJECT_ID"),
            ),
        ];
        let set = labels
            .into_iter()
            .filter_map(|(name, value)| Some((name.to_owned(), value?.to_string())));
        set.collect()
    }

    /// The name of its cage.
    #[must_use]
    pub fn cage_name(&self) -> String {
        format!("gitlab-{}", self.id)
    }
}

/// The path of a project in the address of its repository: `https://user:token@host/group/name.git`.
fn project_path(address: &str) -> Option<&str> {
    let (_, place) = address.split_once("://")?;
    let (_, path) = place.split_once('/')?;
    let path = path.trim_matches('/');
    Some(path.strip_suffix(".git").unwrap_or(path)).filter(|path| !path.is_empty())
}

/// Where the runner (17.9 and later) wants the user's exit code.
pub fn exit_code_file() -> Option<PathBuf> {
    std::env::var_os("BUILD_EXIT_CODE_FILE").map(PathBuf::from)
}

/// Takes away what an earlier stage has told: one file serves the whole job, and the runner believes what is there.
pub fn forget_exit_code(file: Option<&Path>) {
    if let Some(file) = file {
        let _ = std::fs::remove_file(file);
    }
}

/// What the runner is to be told of a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It went well.
    Good,
    /// The job's own failure, with its exit code.
    JobFailed(i32),
    /// Not the job's failure.
    SystemFailed,
}

impl Verdict {
    /// Of the end of a stage's shell.
    #[must_use]
    pub fn of(ending: &Ending) -> Self {
        match ending {
            Ending::Exited { code: 0 } => Self::Good,
            // The shell is not the job's to bring.
            Ending::NeverStarted(_) | Ending::Lost { .. } => Self::SystemFailed,
            other => Self::JobFailed(other.exit_code()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jobcage_job::{Cause, Clock, NeverStarted};

    #[test]
    fn codes_are_those_of_the_runner_and_never_zero() {
        let set = |build: &'static str| {
            move |name: &str| (name == "BUILD_FAILURE_EXIT_CODE").then(|| OsString::from(build))
        };
        for (told, code) in [("7", 7), ("0", 1), ("300", 1), ("x", 1), ("", 1)] {
            let codes = Codes::of(set(told));
            assert_eq!((codes.build_failure, codes.system_failure), (code, 2), "{told}");
        }
    }

    #[test]
    fn a_job_has_nothing_of_the_driver() {
        for name in ["PATH", "HTTP_PROXY", "CI", "CUSTOM"] {
            assert!(is_inherited(OsStr::new(name)), "{name}");
        }
        for name in [
            "CUSTOM_ENV_CI_JOB_TOKEN",
            "CUSTOM_ENV_",
            "JOB_RESPONSE_FILE",
            "TMPDIR",
        ] {
            assert!(!is_inherited(OsStr::new(name)), "{name}");
        }
    }

    #[test]
    fn an_id_is_a_number() {
        let parse = |text: &str| serde_json::from_str::<Response>(text).map(|r| r.cage_name());
        assert_eq!(parse(r#"{"id": 4711, "token": "x"}"#).unwrap(), "gitlab-4711");
        for text in [
            r#"{"id": "../../x"}"#,
            r#"{"id": -1}"#,
            r#"{"id": 1.5}"#,
            "{}",
            "[]",
            "",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    /// Whatever a job sets, an entry of the journal has numbers, and says which of them are the job's word.
    #[test]
    fn labels_are_numbers() {
        let labels = |response: &str, told: &'static str| {
            let response: Response = serde_json::from_str(response).unwrap();
            let set = response
                .labels_with(|name| Some(told.to_owned()).filter(|_| name.starts_with("CUSTOM_ENV_")));
            let pairs: Vec<_> = set
                .into_iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect();
            pairs.join(" ")
        };
        let job = r#"{"id": 7, "job_info": {"project_id": 3}}"#;
        assert_eq!(
            labels(job, "12"),
            "GITLAB_JOB_ID=7 GITLAB_PROJECT_ID=3 GITLAB_TOLD_CONCURRENT_ID=12 GITLAB_TOLD_RUNNER_ID=12"
        );
        assert_eq!(
            labels(job, "1\nPRIORITY=0"),
            "GITLAB_JOB_ID=7 GITLAB_PROJECT_ID=3"
        );
        assert_eq!(labels(r#"{"id": 7}"#, ""), "GITLAB_JOB_ID=7");
    }

    #[test]
    fn a_job_is_known_by_what_gitlab_itself_says() {
        let parse = |value: serde_json::Value| serde_json::from_value::<Response>(value).unwrap().job();
        let job = parse(serde_json::json!({
            "id": 1,
            "job_info": {"project_id": 7},
            "git_info": {"repo_url": "https://gitlab-ci-token:x@gitlab.example:8080/group/sub/name.git"},
            "variables": [{"key": "CI_RUNNER_TAGS", "value": "[\"a\", \"b c\"]"},
                          {"key": "CI_RUNNER_TAGS", "value": "[\"mine\"]"},
                          {"key": "CI_PROJECT_PATH", "value": "other/one"}],
        }));
        assert_eq!(job.projects, ["group/sub/name", "7"]);
        assert_eq!(job.tags, ["a", "b c"]);
        for odd in [
            serde_json::json!({"id": 1}),
            serde_json::json!({"id": 1, "git_info": {"repo_url": "x"}, "variables": [{"key": "CI_RUNNER_TAGS", "value": "{"}]}),
        ] {
            assert_eq!(parse(odd), GitlabJob::default());
        }
    }

    #[test]
    fn endings_become_what_the_runner_knows() {
        let signal = |signal| Ending::Signalled { signal };
        let stop = Ending::Cancelled(Cause::Signal {
            signal: 15,
            pid: 1,
            uid: 0,
        });
        let never = NeverStarted {
            stage: "exec".into(),
            errno: 2,
            what: "bash".into(),
        };
        for (ending, verdict) in [
            (Ending::Exited { code: 0 }, Verdict::Good),
            (Ending::Exited { code: 42 }, Verdict::JobFailed(42)),
            (signal(9), Verdict::JobFailed(137)),
            (Ending::OutOfMemory, Verdict::JobFailed(137)),
            (Ending::TimedOut { clock: Clock::Wall }, Verdict::JobFailed(124)),
            (stop, Verdict::JobFailed(143)),
            (Ending::NeverStarted(never), Verdict::SystemFailed),
            (Ending::Lost { why: String::new() }, Verdict::SystemFailed),
        ] {
            assert_eq!(Verdict::of(&ending), verdict, "{ending:?}");
        }
    }
}
