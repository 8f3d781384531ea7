//! What a stage's script finds, and what the runner hears of it.

use crate::after::response;
use crate::runner::{BUILD_USER, Runner, SECRET, with_job, world};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

/// A login shell of the build user, with nothing of the runner's and the script nowhere to be read.
#[test]
fn a_script_runs_as_the_build_user_and_finds_nothing_of_the_driver() {
    with_job("gitlab-surroundings", 10, |runner| {
        let script = "id -un; shopt -q login_shell && echo login; echo \"job ${JOBCAGE_JOB%-*}\"; \
                      env | grep -cE '^(CUSTOM_ENV_|JOB_RESPONSE_FILE|BUILD_|SYSTEM_FAILURE|TMPDIR)' || true; \
                      tr '\\0' ' ' < /proc/$$/cmdline; echo; ls -l /proc/$$/fd | grep -c script || true";
        let stage = runner.stage("build_script", script);
        assert_eq!(stage.code, 0, "{}", stage.log);
        let lines: Vec<&str> = stage.log.lines().collect();
        assert_eq!(
            lines[..4],
            [BUILD_USER, "login", "job gitlab-10", "0"],
            "{}",
            stage.log
        );
        assert!(lines[4].trim() == "bash --login", "{}", stage.log);
        // What nobody has said is not told.
        assert_eq!((stage.told.as_str(), lines.len()), ("", 6), "{}", stage.log);
    });
}

#[test]
fn both_streams_come_in_their_order_and_unbuffered() {
    with_job("gitlab-output", 11, |runner| {
        runner.world.fifo("go");
        fs::set_permissions(runner.world.dir.join("go"), Permissions::from_mode(0o666)).unwrap();
        let script = "for i in 1 2 3 4 5; do echo out $i; echo err $i >&2; done; read word < ../go; echo $word > /dev/stderr";
        let mut stage = runner.start_stage("build_script", script);
        stage.wait_line("err 5");
        let _go = runner.world.say_into("go", "on");
        let ended = stage.end();
        let wanted: String = (1..=5).map(|i| format!("out {i}\nerr {i}\n")).collect();
        assert_eq!((ended.code, ended.log), (0, wanted + "on\n"));
    });
}

/// The runner knows three exit codes; the job's own goes through a file, which no stage finds from an earlier one.
#[test]
fn exit_codes_are_true() {
    with_job("gitlab-codes", 12, |runner| {
        for (commands, code, told) in [
            ("exit 42", 1, "42\n"),
            ("true", 0, ""),
            ("exit 2", 1, "2\n"),
            ("false", 1, "1\n"),
            ("exit 127", 1, "127\n"),
            ("kill -KILL $$", 1, "137\n"),
            ("kill -SEGV $$", 1, "139\n"),
        ] {
            // A stage that nobody knows is a stage.
            let ended = runner.stage("step_unheard_of", commands);
            assert_eq!(
                (ended.code, ended.told.as_str()),
                (code, told),
                "{commands}: {}",
                ended.log
            );
        }
        let gone = runner.call("run", &["/no/such/script", "build_script"]);
        assert_eq!((gone.code, gone.told.as_str()), (2, ""), "{}", gone.log);
        let fifo = runner.world.dir.join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let directory = runner.call("run", &[runner.tmp.to_str().unwrap(), "build_script"]);
        assert_eq!(directory.code, 2, "{}", directory.log);
    });
}

#[test]
fn a_script_of_ten_megabytes_is_a_script() {
    with_job("gitlab-large", 13, |runner| {
        let script = runner.script("true");
        let line = format!(": '{}'\n", "x".repeat(8000));
        fs::write(&script, format!("{}echo whole\nexit 0\n", line.repeat(1300))).unwrap();
        let ended = runner.call("run", &[script.to_str().unwrap(), "build_script"]);
        assert_eq!((ended.code, ended.log.as_str()), (0, "whole\n"));
    });
}

/// What one stage leaves is there for the next one, and the last of them tells who is still there.
/// Hardened hosts have `/tmp` without the right to run anything in it: the runner's directory, and with it the script.
#[test]
fn a_tmp_that_runs_no_programs_will_do() {
    let Some(mut world) = world("gitlab-noexec") else {
        return;
    };
    {
        let tmp = world.dir.join("tmp");
        fs::create_dir(&tmp).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "noexec,nosuid,nodev", "tmpfs"])
            .arg(&tmp)
            .status();
        assert!(mounted.unwrap().success());
        let mut runner = Runner::new(&world, 18);
        runner.tmp = tmp.join("custom-executor18");
        runner.make_tmp(&response(18, 3600));
        let script = runner.script("true");
        fs::set_permissions(&script, Permissions::from_mode(0o700)).unwrap();
        let refused = Command::new(&script).spawn().unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::PermissionDenied);
        assert_eq!(runner.call("prepare", &[]).code, 0);
        let stage = runner.stage("build_script", "echo it ran");
        assert!(stage.code == 0 && stage.log.contains("it ran"), "{}", stage.log);
        assert_eq!(runner.stage("after_script", "exit 7").code, 1);
        assert_eq!(runner.call("cleanup", &[]).code, 0);
    }
    world.assert_nothing_left();
}

#[test]
fn stages_share_a_cage_and_the_last_one_tells_what_is_left() {
    let Some(mut world) = world("gitlab-stages") else {
        return;
    };
    {
        let runner = Runner::new(&world, 14);
        assert_eq!(runner.call("prepare", &[]).code, 0);
        for stage in ["prepare_script", "get_sources", "restore_cache"] {
            assert_eq!(runner.stage(stage, "true").code, 0);
        }
        // It holds the stage's own output, for which the runner must not wait.
        let started = runner.stage(
            "build_script",
            "sleep 300 & echo $! >> pids; echo GREETING=hello >> $JOBCAGE_ENV",
        );
        assert_eq!(started.code, 0, "{}", started.log);
        let after = runner.stage("after_script", "kill -0 $(cat pids) && echo $GREETING");
        assert_eq!((after.code, after.log.as_str()), (0, "hello\n"));
        let last = runner.stage("cleanup_file_variables", "true");
        assert_eq!(last.code, 0, "{}", last.log);
        assert!(
            last.log.contains("1 process is left over") && last.log.contains("sleep 300"),
            "{}",
            last.log
        );
        let left = runner.left();
        assert!(!left[0].has_ended());
        assert_eq!(runner.call("cleanup", &[]).code, 0);
        assert!(left[0].has_ended());
    }
    assert_no_secret(&world.dir.join("run"));
    assert_no_secret(&world.dir.join("state"));
    world.assert_nothing_left();
}

fn assert_no_secret(dir: &std::path::Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            assert_no_secret(&path);
        } else if let Ok(text) = fs::read(&path) {
            let found = text.windows(SECRET.len()).any(|piece| piece == SECRET.as_bytes());
            assert!(!found, "{} has the job's token", path.display());
        }
    }
}
