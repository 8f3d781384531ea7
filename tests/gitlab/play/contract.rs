//! What a call finds (contract A2-A4), as the driver itself sees it.

use super::payload::{self, AWKWARD, KEY_FILE};
use super::plan::Generation;
use super::player::Player;
use crate::runner;
use crate::support::world::World;
use std::collections::BTreeMap;
use std::fs;

/// Each call tells what it has; `config` answers, too.
const TELL: &str = r#"
env -0 > "$TRACE.env.$who"
ls -l "/proc/$$/fd" > "$TRACE.fds.$who"
{
    stat -c '%a %n' "$PWD" "$JOB_RESPONSE_FILE"
    [ "$call" != run ] || stat -c '%a %n' "$1" "${1%/*}"
    read -r _ _ _ ppid pgid _ < /proc/$$/stat
    [ "$pgid" = $$ ] && echo "leads its group"
} > "$TRACE.told.$who"
"#;

type Env = BTreeMap<String, String>;

fn env_of(world: &World, who: &str) -> Env {
    let text = fs::read_to_string(world.dir.join(format!("trace.env.{who}"))).unwrap();
    let pairs = text.split('\0').filter_map(|one| one.split_once('='));
    pairs
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// Plays a job whose driver only tells.
pub fn surroundings(generation: Generation) {
    let Some(world) = runner::world(&format!("surroundings-{}", generation.name())) else {
        return;
    };
    let mut job = payload::job(77, &["true"]);
    payload::step(&mut job, "after_script", &["true"]);
    payload::set(&mut job, "TMPDIR", "/of/the/job");
    let mut player = Player::new(&world, generation, job);
    player.drive_with("driver");
    let answer = r#"echo '{"builds_dir": "/b", "cache_dir": "/c", "builds_dir_is_shared": true,
                     "job_env": {"FROM_CONFIG": "yes", "BUILD_FAILURE_EXIT_CODE": "1", "HOME": "/of/config"}}'"#;
    player.set("FAKE_config", format!("{TELL}{answer}"));
    for call in [
        "prepare",
        "cleanup",
        "run_get_sources",
        "run_build_script",
        "run_after_script",
    ] {
        player.set(&format!("FAKE_{call}"), TELL);
    }
    let played = player.play();
    assert_eq!(played.rc, 0, "{}", played.log);
    let calls = [
        "config",
        "prepare",
        "run[get_sources]",
        "run[build_script]",
        "run[after_script]",
        "cleanup",
    ];
    for call in calls {
        of_call(generation, call, &env_of(&world, call));
        let told = fs::read_to_string(world.dir.join(format!("trace.told.{call}"))).unwrap();
        places(generation, call, &told);
        files(
            generation,
            call,
            &fs::read_to_string(world.dir.join(format!("trace.fds.{call}"))).unwrap(),
        );
    }
}

fn of_call(generation: Generation, call: &str, env: &Env) {
    let get = |name: &str| env.get(name).map(String::as_str);
    let is_new = generation == Generation::V18;
    let tmp = get("TMPDIR").unwrap();
    assert!(tmp.contains("/custom-executor"), "{call}: {tmp}");
    assert_eq!(
        get("JOB_RESPONSE_FILE"),
        Some(&*format!("{tmp}/response.json")),
        "{call}"
    );
    assert_eq!(
        (get("BUILD_FAILURE_EXIT_CODE"), get("SYSTEM_FAILURE_EXIT_CODE")),
        (Some("1"), Some("2"))
    );
    assert_eq!(get("BUILD_EXIT_CODE_FILE").is_some(), is_new, "{call}");
    // Whatever it holds, and a file's content where a path would be expected.
    assert_eq!(get("CUSTOM_ENV_AWKWARD"), Some(AWKWARD), "{call}");
    assert_eq!(get("CUSTOM_ENV_KEY_FILE"), Some(KEY_FILE), "{call}");
    assert_eq!(get("CUSTOM_ENV_TMPDIR"), Some("/of/the/job"), "{call}");
    assert!(
        get("CUSTOM_ENV_CI_JOB_SERVICES").unwrap().contains("postgres:16"),
        "{call}"
    );
    assert_eq!(get("CUSTOM_ENV_CI_JOB_TIMEOUT").is_some(), is_new, "{call}");
    let is_config = call == "config";
    assert_eq!(get("FROM_CONFIG"), (!is_config).then_some("yes"), "{call}");
    assert_eq!(get("HOME") == Some("/of/config"), !is_config, "{call}");
    let project = if is_config { "" } else { "/b/t3_Runner/0/grp/proj" };
    assert_eq!(get("CUSTOM_ENV_CI_PROJECT_DIR"), Some(project), "{call}");
    let status = if matches!(call, "run[after_script]" | "cleanup") {
        "success"
    } else {
        "running"
    };
    assert_eq!(get("CUSTOM_ENV_CI_JOB_STATUS"), Some(status), "{call}");
}

fn places(generation: Generation, call: &str, told: &str) {
    let lines: Vec<&str> = told.lines().collect();
    let mode = |end: &str| {
        lines
            .iter()
            .find(|line| line.ends_with(end))
            .and_then(|line| line.split(' ').next())
    };
    assert_eq!(mode("response.json"), Some("600"), "{call}: {told}");
    assert!(
        lines[0].starts_with("700 ") && lines[0].contains("/custom-executor"),
        "{call}: {told}"
    );
    if call.starts_with("run") {
        let script = format!("/{}", generation.script_name());
        assert_eq!(mode(&script), Some("700"), "{call}: {told}");
        assert!(lines[3].starts_with("700 "), "{call}: {told}");
    }
    assert!(lines.contains(&"leads its group"), "{call}: {told}");
}

/// No input, one pipe or two, and nothing else but the shell's own script.
fn files(generation: Generation, call: &str, listed: &str) {
    let links = listed.lines().filter_map(|line| line.split_once(" -> "));
    let links: BTreeMap<&str, &str> = links
        .map(|(name, to)| (name.rsplit(' ').next().unwrap(), to))
        .collect();
    assert_eq!(
        links.keys().copied().collect::<Vec<_>>(),
        ["0", "1", "2", "255"],
        "{call}: {listed}"
    );
    assert_eq!(links["0"], "/dev/null", "{call}");
    assert!(
        links["1"].starts_with("pipe:") && links["2"].starts_with("pipe:"),
        "{call}: {listed}"
    );
    let call = call.split('[').next().unwrap();
    assert_eq!(
        links["1"] != links["2"],
        generation.has_two_pipes(call),
        "{call}: {listed}"
    );
}
