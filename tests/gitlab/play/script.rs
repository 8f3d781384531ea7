//! The scripts of the stages, in the form that the runner gives them (contract A4).

use super::plan::{Generation, Plan};
use crate::runner::quoted;
use serde_json::Value;
use std::fmt::Write as _;
use std::path::Path;

/// What a stage does; `None`: there is nothing to do, and it is skipped.
pub fn body(plan: &Plan, stage: &str, project: &Path) -> Option<String> {
    let dir = quoted(&project.display().to_string());
    let commands = match stage {
        "prepare_script" => "echo \"Running on $(hostname)...\"\n".to_owned(),
        "get_sources" => sources(plan, &dir),
        "clear_worktree" => format!("rm -rf {dir}\nmkdir -p {dir}\n"),
        "restore_cache" => helper(
            plan.response["cache"].as_array()?,
            "cache-extractor",
            "Extracting cache",
        )?,
        "download_artifacts" => {
            let from = plan.response["dependencies"].as_array()?;
            helper(from, "artifacts-downloader", "Downloading artifacts")?
        }
        "cleanup_file_variables" => forget_files(plan)?,
        "archive_cache" | "archive_cache_on_failure" => {
            helper(&wanted(plan, "cache", stage)?, "cache-archiver", "Creating cache")?
        }
        "upload_artifacts_on_success" | "upload_artifacts_on_failure" => helper(
            &wanted(plan, "artifacts", stage)?,
            "artifacts-uploader",
            "Uploading artifacts",
        )?,
        "build_script" => user_commands(plan, "script")?,
        other => user_commands(plan, other.strip_prefix("step_").unwrap_or(other))?,
    };
    let enter = match stage {
        "prepare_script" | "get_sources" | "clear_worktree" | "cleanup_file_variables" => String::new(),
        _ => format!("cd {dir}\n"),
    };
    Some(enter + &commands)
}

fn sources(plan: &Plan, dir: &str) -> String {
    let git = |key: &str| quoted(plan.response["git_info"][key].as_str().unwrap_or_default());
    match plan.variable("GIT_STRATEGY") {
        Some("none" | "empty") => format!("echo 'Skipping Git repository setup'\nmkdir -p {dir}\n"),
        _ => format!(
            "rm -rf {dir}\ngit clone -q {} {dir}\ncd {dir}\ngit checkout -q --detach {}\n",
            git("repo_url"),
            git("sha")
        ),
    }
}

/// What is to be kept after a job that ended so: `when` of GitLab.
fn wanted(plan: &Plan, what: &str, stage: &str) -> Option<Vec<Value>> {
    let end = if stage.ends_with("failure") {
        "on_failure"
    } else {
        "on_success"
    };
    let is_wanted = |one: &&Value| {
        let when = one["when"].as_str().unwrap_or("on_success");
        when == end || when == "always"
    };
    let all = plan.response[what].as_array()?;
    Some(all.iter().filter(is_wanted).cloned().collect())
}

/// Caches and artifacts are the business of the runner's own program, found in the job's PATH, or not.
fn helper(about: &[Value], word: &str, title: &str) -> Option<String> {
    if about.is_empty() {
        return None;
    }
    let mut words = String::new();
    for path in about.iter().flat_map(|one| one["paths"].as_array()).flatten() {
        let _ = write!(words, " --path {}", quoted(path.as_str().unwrap_or_default()));
    }
    Some(format!(
        "if gitlab-runner --version > /dev/null 2>&1; then\necho '{title}...'\ngitlab-runner {word}{words}\n\
         else\necho 'Missing gitlab-runner. {title} is disabled.'\nfi\n"
    ))
}

fn user_commands(plan: &Plan, step: &str) -> Option<String> {
    let steps = plan.response["steps"].as_array()?;
    let step = steps.iter().find(|one| one["name"] == step)?;
    let mut text = String::new();
    for command in step["script"].as_array()?.iter().filter_map(Value::as_str) {
        let _ = writeln!(text, "echo {}\n{command}", quoted(&format!("$ {command}")));
    }
    Some(text)
}

fn is_file(variable: &Value) -> bool {
    variable["file"] == true
}

fn forget_files(plan: &Plan) -> Option<String> {
    let all = plan.response["variables"].as_array()?;
    let has_files = all.iter().any(is_file);
    // 17 and later have always something to remove there.
    if plan.generation == Generation::V14 && !has_files {
        return None;
    }
    let mut text = String::from("set +e\n");
    for variable in all.iter().filter(|one| is_file(one)) {
        let _ = writeln!(
            text,
            "rm -f \"$CI_PROJECT_DIR.tmp\"/{}",
            variable["key"].as_str()?
        );
    }
    Some(text)
}

/// The whole file: variables first, then the commands, in one `eval` in a subshell, and `exit 0`.
pub fn whole(plan: &Plan, variables: &[(String, String)], body: &str) -> String {
    let mut text = String::new();
    let files = plan.response["variables"].as_array().into_iter().flatten();
    let is_file = |key: &str| files.clone().any(|one| is_file(one) && one["key"] == key);
    for (key, value) in variables.iter().filter(|(key, _)| !is_file(key)) {
        let _ = writeln!(text, "export {key}={}", quoted(value));
    }
    for (key, value) in variables.iter().filter(|(key, _)| is_file(key)) {
        let _ = writeln!(
            text,
            "mkdir -p \"$CI_PROJECT_DIR.tmp\"\nprintf '%s' {} > \"$CI_PROJECT_DIR.tmp\"/{key}\nexport {key}=\"$CI_PROJECT_DIR.tmp\"/{key}",
            quoted(value)
        );
    }
    text.push_str(body);
    let trap = match plan.generation {
        Generation::V14 => "",
        Generation::V18 => "trap 'exit 1' TERM\n\n",
    };
    format!(
        "#!/usr/bin/env bash\n\n{trap}set -eo pipefail\nset +o noclobber\n: | eval {}\nexit 0\n",
        quoted(&text)
    )
}
