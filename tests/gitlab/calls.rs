//! Each call by itself: what it says, what it believes, what it refuses.

use crate::runner::{BUILD_USER, Runner, SECRET, world};
use serde_json::{Value, json};
use std::fs;

#[test]
fn config_is_one_json_object_of_strings() {
    let Some(world) = world("gitlab-config") else {
        return;
    };
    let runner = Runner::new(&world, 1);
    let output = runner.command("config", &[]).output().unwrap();
    assert_eq!(
        (output.status.code(), output.stderr.as_slice()),
        (Some(0), &b""[..])
    );
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    let project = world.dir.join("project");
    assert_eq!(
        told["driver"],
        json!({"name": "jobcage", "version": env!("CARGO_PKG_VERSION")})
    );
    assert_eq!(told["builds_dir"], json!(project.join("builds")));
    assert_eq!(told["cache_dir"], json!(project.join("cache")));
    assert_eq!(told["builds_dir_is_shared"], json!(true));
    assert!(
        told["hostname"].as_str().is_some_and(|name| !name.is_empty()),
        "{told}"
    );
    let words = ["--builds-dir", "/srv/builds", "--cache-dir", "/srv/cache"];
    let output = runner.command("config", &words).output().unwrap();
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&told["builds_dir"], &told["cache_dir"]),
        (&json!("/srv/builds"), &json!("/srv/cache"))
    );
    let refused = runner.call("config", &["--builds-dir", "builds"]);
    assert_eq!(refused.code, 2, "{}", refused.log);
    let mut command = runner.command("config", &[]);
    let unknown = command
        .env("CI_RUNNER_USER", "no such user")
        .env_remove("CI_RUNNER_USER_DIR");
    let output = unknown.output().unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0));
}

#[test]
fn prepare_says_what_it_made_and_nothing_that_a_terminal_would_obey() {
    let Some(mut world) = world("gitlab-prepare") else {
        return;
    };
    {
        let runner = Runner::new(&world, 4711);
        let prepared = runner.call("prepare", &[]);
        assert_eq!(prepared.code, 0, "{}", prepared.log);
        for word in ["job 4711 \"build\"", BUILD_USER, "limits: none", "gitlab-4711-"] {
            assert!(prepared.log.contains(word), "{word}: {}", prepared.log);
        }
        assert!(
            !prepared.log.contains('\u{1b}') && !prepared.log.contains(SECRET),
            "{}",
            prepared.log
        );
        assert_eq!(world.cages().len(), 1);
        // A runner that prepares again has lost the first attempt.
        assert_eq!(runner.call("prepare", &[]).code, 0);
        assert_eq!(world.cages().len(), 1);
        assert_eq!(runner.call("cleanup", &[]).code, 0);
    }
    world.assert_nothing_left();
}

#[test]
fn cleanup_comes_at_any_time_and_as_often_as_it_likes() {
    let Some(mut world) = world("gitlab-cleanup") else {
        return;
    };
    {
        let mut runner = Runner::new(&world, 2);
        for _ in 0..2 {
            assert_eq!(runner.call("cleanup", &[]).code, 0, "nothing was prepared");
        }
        assert_eq!(runner.call("prepare", &[]).code, 0);
        let stage = runner.stage("build_script", "sleep 300 > /dev/null & echo $! >> pids");
        assert_eq!(stage.code, 0, "{}", stage.log);
        let left = runner.left();
        assert!(left.len() == 1 && !left[0].has_ended());
        // The runner makes a new directory for each attempt.
        let response = fs::read(runner.tmp.join("response.json")).unwrap();
        runner.tmp = world.dir.join("custom-executor-other");
        runner.make_tmp(&serde_json::from_slice(&response).unwrap());
        let cleaned = runner.call("cleanup", &[]);
        assert_eq!(cleaned.code, 0, "{}", cleaned.log);
        assert!(
            cleaned.log.contains("1 process was left and killed"),
            "{}",
            cleaned.log
        );
        assert!(left[0].has_ended());
        assert_eq!(runner.call("cleanup", &[]).code, 0);
        let late = runner.stage("after_script", "true");
        assert_eq!(late.code, 2, "{}", late.log);
        assert!(late.log.contains("no open cage"), "{}", late.log);
    }
    world.assert_nothing_left();
}

#[test]
fn what_the_runner_did_not_say_is_a_system_failure() {
    let Some(world) = world("gitlab-contract") else {
        return;
    };
    let runner = Runner::new(&world, 3);
    let response = runner.tmp.join("response.json");
    for wrong in [
        "",
        "[]",
        "{}",
        r#"{"id": "../../x"}"#,
        r#"{"id": 7, "token": "glcbt-64_hunter2""#,
    ] {
        fs::write(&response, wrong).unwrap();
        for call in ["prepare", "cleanup"] {
            let ended = runner.call(call, &[]);
            assert_eq!(ended.code, 2, "{wrong}: {}", ended.log);
            assert!(
                ended.log.contains("JOB_RESPONSE_FILE") && !ended.log.contains(SECRET),
                "{}",
                ended.log
            );
        }
    }
    fs::remove_file(&response).unwrap();
    assert_eq!(runner.call("prepare", &[]).code, 2);
    let mut command = runner.command("prepare", &[]);
    assert_eq!(
        command
            .env_remove("JOB_RESPONSE_FILE")
            .output()
            .unwrap()
            .status
            .code(),
        Some(2)
    );
    // The codes are the runner's to choose.
    let mut command = runner.command("prepare", &[]);
    assert_eq!(
        command
            .env("SYSTEM_FAILURE_EXIT_CODE", "77")
            .output()
            .unwrap()
            .status
            .code(),
        Some(77)
    );
    for words in [&["no-such-call"][..], &["run"], &["run", "script"], &[]] {
        let mut command = world.command(crate::support::programs::jobcage());
        assert_eq!(
            command.arg("gitlab").args(words).output().unwrap().status.code(),
            Some(2),
            "{words:?}"
        );
    }
    assert!(world.cages().is_empty() && world.records().is_empty());
}

/// A runner that is root, as the packaged one is, does not make its jobs root's by chance.
#[test]
fn nobody_becomes_root_by_chance() {
    let Some(mut world) = world("gitlab-root") else {
        return;
    };
    {
        let runner = Runner::new(&world, 5);
        if nix::unistd::User::from_name("gitlab-runner").unwrap().is_none() {
            for call in ["config", "prepare"] {
                let output = runner
                    .command(call, &[])
                    .env_remove("CI_RUNNER_USER")
                    .output()
                    .unwrap();
                let told = String::from_utf8_lossy(&output.stderr).into_owned();
                assert!(
                    output.status.code() == Some(2) && told.contains("no build user"),
                    "{told}"
                );
            }
            assert!(world.cages().is_empty());
        }
        let asked = |call: &str| {
            let mut command = runner.command(call, &[]);
            command
                .env("JOBCAGE_USER", "root")
                .env_remove("CI_RUNNER_USER")
                .output()
                .unwrap()
        };
        let output = asked("prepare");
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            output.status.success() && told.contains("user root (0)"),
            "{told}"
        );
        assert!(asked("cleanup").status.success());
    }
    world.assert_nothing_left();
}

/// The settings that the template prints, which docs/gitlab.md shows, are those of calls that there are.
#[test]
fn the_documented_settings_are_understood() {
    let mut template = std::process::Command::new(crate::support::programs::jobcage());
    let printed = template.args(["gitlab", "template"]).output().unwrap();
    let settings: toml::Table = String::from_utf8(printed.stdout).unwrap().parse().unwrap();
    let custom = &settings["runners"][0]["custom"];
    for call in ["config", "prepare", "run", "cleanup"] {
        let words = custom[format!("{call}_args")].as_array().unwrap();
        let words: Vec<&str> = words.iter().map(|word| word.as_str().unwrap()).collect();
        assert_eq!(words, ["gitlab", call]);
        let mut help = std::process::Command::new(crate::support::programs::jobcage());
        assert!(
            help.args(&words).arg("--help").output().unwrap().status.success(),
            "{words:?}"
        );
    }
}
