//! Where a call runs and what it finds: `$TMPDIR`, files and their modes, and the list of variables in its order (contract A2-A4).

use super::plan::{Generation, Plan};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// The exit codes that the driver is told.
pub const BUILD_FAILURE: i32 = 1;
pub const SYSTEM_FAILURE: i32 = 2;

/// The short token of the runner, a part of the builds' path.
const SHORT_TOKEN: &str = "t3_Runner";

/// What config has answered.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Config {
    builds_dir: Option<PathBuf>,
    cache_dir: Option<PathBuf>,
    builds_dir_is_shared: Option<bool>,
    hostname: Option<String>,
    driver: BTreeMap<String, String>,
    job_env: BTreeMap<String, String>,
    shell: Option<String>,
}

impl Config {
    /// One JSON object with these types, or nothing at all.
    pub fn read(answer: &[u8]) -> Result<Self, serde_json::Error> {
        if answer.is_empty() {
            return Ok(Self::default());
        }
        serde_json::from_slice(answer)
    }
}

/// One attempt's surroundings.
pub struct Surroundings {
    /// `$TMPDIR`: the directory of this attempt.
    pub tmp: PathBuf,
    /// `CI_JOB_STATUS`.
    pub status: &'static str,
    config: Config,
    dirs: Option<(PathBuf, PathBuf, PathBuf)>,
    scripts: u32,
}

impl Surroundings {
    pub fn new(plan: &Plan) -> Self {
        Self {
            tmp: plan.tmp.clone(),
            status: "running",
            config: Config::default(),
            dirs: None,
            scripts: 0,
        }
    }

    /// A new `$TMPDIR` with the job's description, and no directories yet: config names them.
    pub fn new_attempt(&mut self, plan: &Plan, number: u32) {
        self.tmp = plan
            .tmp
            .join(format!("custom-executor{number}{:09}", std::process::id()));
        make_dir(&self.tmp);
        let file = self.tmp.join("response.json");
        fs::write(&file, plan.response.to_string()).unwrap();
        fs::set_permissions(file, Permissions::from_mode(0o600)).unwrap();
        (self.config, self.dirs) = (Config::default(), None);
    }

    /// Takes config's answer.
    pub fn settle(&mut self, plan: &Plan, config: Config) {
        let builds = config.builds_dir.as_ref().unwrap_or(&plan.builds_dir);
        let cache = config.cache_dir.as_ref().unwrap_or(&plan.cache_dir);
        let path = plan.variable("CI_PROJECT_PATH").unwrap_or("project");
        let project = if config.builds_dir_is_shared == Some(true) {
            builds.join(SHORT_TOKEN).join("0").join(path)
        } else {
            builds.join(path)
        };
        self.dirs = Some((builds.clone(), cache.clone(), project));
        self.config = config;
    }

    /// `CI_PROJECT_DIR`.
    pub fn project_dir(&self) -> PathBuf {
        self.dirs
            .as_ref()
            .map_or_else(PathBuf::new, |(_, _, dir)| dir.clone())
    }

    /// All job variables, those of the runner last.
    pub fn variables(&self, plan: &Plan) -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let sent = plan.response["variables"].as_array().into_iter().flatten();
        let mut all: Vec<_> = sent.map(|one| (text(&one["key"]), text(&one["value"]))).collect();
        let (builds, cache, project) = self.dirs.clone().unwrap_or_default();
        let image = &plan.response["image"]["name"];
        let mut own = vec![
            ("CI_BUILDS_DIR", builds.display().to_string()),
            ("CI_CACHE_DIR", cache.display().to_string()),
            ("CI_PROJECT_DIR", project.display().to_string()),
            ("CI_CONCURRENT_ID", "0".into()),
            ("CI_CONCURRENT_PROJECT_ID", "0".into()),
            ("CI_SERVER", "yes".into()),
            ("CI_SHARED_ENVIRONMENT", "true".into()),
            ("CI_RUNNER_SHORT_TOKEN", SHORT_TOKEN.into()),
            ("CI_RUNNER_VERSION", format!("{}.0", plan.generation.name())),
            ("CI_JOB_STATUS", self.job_status(plan).into()),
        ];
        if plan.generation == Generation::V18 {
            let timeout = plan.response["runner_info"]["timeout"].to_string();
            own.push(("CI_JOB_TIMEOUT", timeout));
            own.push(("RUNNER_TEMP_PROJECT_DIR", format!("{}.tmp", project.display())));
        }
        own.extend(image.as_str().map(|image| ("CI_JOB_IMAGE", image.to_owned())));
        all.extend(own.into_iter().map(|(key, value)| (key.to_owned(), value)));
        all
    }

    /// 14.7 knows neither of the two newer words.
    fn job_status(&self, plan: &Plan) -> &'static str {
        match (plan.generation, self.status) {
            (Generation::V14, "canceled" | "timedout") => "failed",
            (_, status) => status,
        }
    }

    /// A script where the runner puts it: in a directory that nobody else may enter.
    pub fn write_script(&mut self, plan: &Plan, text: &str) -> PathBuf {
        self.scripts += 1;
        let dir = self.tmp.join(format!("script{:010}", self.scripts));
        make_dir(&dir);
        let file = dir.join(plan.generation.script_name());
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o700)).unwrap();
        file
    }

    /// The job's exit code as the driver has told it; an error: junk. Nothing is 1.
    pub fn told(&self, plan: &Plan) -> Result<i32, std::num::ParseIntError> {
        if plan.generation == Generation::V14 {
            return Ok(1);
        }
        let Ok(text) = fs::read_to_string(self.exit_code_file()) else {
            return Ok(1);
        };
        text.lines().next().unwrap_or_default().parse()
    }

    fn exit_code_file(&self) -> PathBuf {
        self.tmp.join("exit_code")
    }

    /// After cleanup; a runner that dies leaves it, with all secrets.
    pub fn remove(&self) {
        let _ = fs::remove_dir_all(&self.tmp);
    }
}

fn make_dir(dir: &Path) {
    fs::create_dir_all(dir).unwrap();
    fs::set_permissions(dir, Permissions::from_mode(0o700)).unwrap();
}

/// The whole environment of a call; of two of one name the last one wins.
pub fn of_call(plan: &Plan, around: &Surroundings, call: &str) -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> = std::env::vars().collect();
    let mut add = |name: &str, value: String| all.push((name.to_owned(), value));
    add("TMPDIR", around.tmp.display().to_string());
    add("BUILD_FAILURE_EXIT_CODE", BUILD_FAILURE.to_string());
    add("SYSTEM_FAILURE_EXIT_CODE", SYSTEM_FAILURE.to_string());
    add(
        "JOB_RESPONSE_FILE",
        around.tmp.join("response.json").display().to_string(),
    );
    if plan.generation == Generation::V18 {
        add(
            "BUILD_EXIT_CODE_FILE",
            around.exit_code_file().display().to_string(),
        );
    }
    if call != "config" {
        all.extend(around.config.job_env.clone());
    }
    let own = |(name, value): (String, String)| (format!("CUSTOM_ENV_{name}"), value);
    all.extend(around.variables(plan).into_iter().map(own));
    let services = match &plan.response["services"] {
        Value::Array(services) if !services.is_empty() => json!(services).to_string(),
        _ => String::new(),
    };
    all.push(("CUSTOM_ENV_CI_JOB_SERVICES".into(), services));
    let last: BTreeMap<String, String> = all.into_iter().collect();
    last.into_iter().collect()
}
