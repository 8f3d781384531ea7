//! A job as GitLab sends it: variables with every awkward character, file variables and masked ones, services, artifacts, a cache,
//! dependencies, several steps.

use crate::runner::SECRET;
use serde_json::{Value, json};

/// A value that breaks whoever does not quote.
pub const AWKWARD: &str = "a'b\"c \\ $(touch /nonexistent/x) `id` ${HOME} $$ !! ~ * ? [x] ; | & < > # % = {a,b} \u{1b}[31m\ttab\r\nline two \u{fc}\u{4e2d}\u{1f980} ";

/// A key for a file variable: two lines, and no line end.
pub const KEY_FILE: &str = "-----BEGIN KEY-----\nabc'\"$def\n-----END KEY-----";

/// A job of one script, with everything around it that a job has.
pub fn job(id: u64, script: &[&str]) -> Value {
    json!({
        "id": id,
        "token": SECRET,
        "allow_git_fetch": true,
        "job_info": {"id": id, "name": "build: [1/2] \u{1b}[31m", "stage": "test", "project_id": 5, "project_name": "proj",
                     "time_in_queue_seconds": 0.2},
        "git_info": {"repo_url": "https://gitlab.invalid/grp/proj.git", "ref": "main", "sha": "0".repeat(40), "depth": 20,
                     "refspecs": ["+refs/heads/main:refs/remotes/origin/main"], "ref_type": "branch"},
        "runner_info": {"timeout": 3600, "runner_session_url": null},
        "variables": variables(id),
        "steps": [{"name": "script", "script": script, "timeout": 3600, "when": "on_success", "allow_failure": false}],
        "image": {"name": "debian:12", "entrypoint": [""]},
        "services": [{"name": "postgres:16", "alias": "db", "command": ["-c", "fsync=off"]}],
        "artifacts": null,
        "cache": null,
        "credentials": [{"type": "registry", "url": "registry.invalid", "username": "gitlab-ci-token", "password": SECRET}],
        "dependencies": [],
        "features": {"trace_sections": true, "failure_reasons": ["runner_system_failure"]},
    })
}

fn variables(id: u64) -> Value {
    let plain = |key: &str, value: &str| json!({"key": key, "value": value, "public": true, "masked": false});
    json!([
        plain("CI", "true"),
        plain("CI_JOB_ID", &id.to_string()),
        {"key": "CI_JOB_TOKEN", "value": SECRET, "public": false, "masked": true},
        plain("CI_JOB_NAME", "build: [1/2] \u{1b}[31m"),
        plain("CI_PROJECT_ID", "5"),
        plain("CI_PROJECT_PATH", "grp/proj"),
        plain("CI_PROJECT_NAMESPACE", "grp"),
        plain("CI_PROJECT_NAME", "proj"),
        plain("CI_RUNNER_ID", "7"),
        plain("GIT_STRATEGY", "none"),
        plain("GET_SOURCES_ATTEMPTS", "3"),
        plain("AWKWARD", AWKWARD),
        plain("EMPTY", ""),
        plain("OPTIONS", "-n -e --help"),
        {"key": "KEY_FILE", "value": KEY_FILE, "public": false, "masked": false, "file": true},
        {"key": "MASKED", "value": "hunter2-is-masked", "public": false, "masked": true},
    ])
}

/// Adds a variable.
pub fn set(job: &mut Value, key: &str, value: &str) {
    let more = json!({"key": key, "value": value, "public": true, "masked": false});
    job["variables"].as_array_mut().unwrap().push(more);
}

/// Adds a step, such as `after_script` or `release`.
pub fn step(job: &mut Value, name: &str, script: &[&str]) {
    let when = if name == "after_script" {
        "always"
    } else {
        "on_success"
    };
    let more = json!({"name": name, "script": script, "timeout": 3600, "when": when, "allow_failure": when == "always"});
    job["steps"].as_array_mut().unwrap().push(more);
}

/// Gives it artifacts, a cache, and artifacts of an earlier job.
pub fn with_files(job: &mut Value, when: &str) {
    job["artifacts"] = json!([{"name": "out", "paths": ["out/"], "untracked": false, "when": when, "artifact_type": "archive",
                               "artifact_format": "zip", "expire_in": "1 day"}]);
    job["cache"] =
        json!([{"key": "k", "paths": [".cache/"], "policy": "pull-push", "when": when, "untracked": false}]);
    job["dependencies"] = json!([{"id": 1, "name": "before", "token": SECRET,
                                  "artifacts_file": {"filename": "artifacts.zip", "size": 442}}]);
}
