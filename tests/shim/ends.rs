//! How a stage ends, and what is left of it then: nothing.

use crate::runner::{Host, Stage, WAYS, Way, start, three_that_answer};
use crate::support::PATIENCE;
use crate::support::captured::wait_written;
use crate::support::cgroup;
use crate::support::leaks::FIVE;
use crate::support::process::Process;
use nix::sys::signal::Signal;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::Stdio;

/// One of the five holds the stage's output, and the runner does not wait for it.
#[test]
fn nothing_is_left_of_a_stage_that_succeeds_or_fails() {
    let Some(mut host) = Host::new("shim-ends") else {
        return;
    };
    for way in WAYS {
        for (end, code) in [("true", 0), ("exit 42", 42)] {
            let ended = host.job(way, &format!("{FIVE}\n{end}"));
            assert_eq!(ended.code, code, "{way:?}: {}", ended.log);
            let left = host.left();
            assert!(left.len() == 5 && left.iter().all(Process::has_ended), "{way:?}");
            let lines: Vec<&str> = ended.log.lines().collect();
            assert_eq!(lines.len(), 1, "{}", ended.log);
            assert!(
                lines[0].starts_with("jobcage: 5 processes were left by this stage and killed: pid ")
                    && lines[0].matches(": sleep 300").count() == 5,
                "{}",
                ended.log
            );
        }
        // A stage that leaves nothing is told of by nobody.
        assert_eq!(host.job(way, "echo fine").log, "fine\n");
    }
    host.world.assert_clean();
    host.world.assert_nothing_left();
}

#[test]
fn a_cancel_reaches_everybody_also_behind_su() {
    let Some(mut host) = Host::new("shim-cancel") else {
        return;
    };
    for way in WAYS {
        let script = format!("{}\necho up\nsleep 300", three_that_answer());
        let mut stage = host.start_job(way, true, &script);
        stage.wait_line("up");
        let left = host.left();
        stage.signal(Signal::SIGTERM);
        let ended = stage.end();
        assert_ne!(ended.code, 0, "{way:?}: {}", ended.log);
        assert!(left.len() == 3 && left.iter().all(Process::has_ended), "{way:?}");
        let mut asked: Vec<String> = host.read("asked").lines().map(str::to_owned).collect();
        asked.sort();
        assert_eq!(asked, ["daemon", "plain", "session"], "{way:?}: {}", ended.log);
        assert!(ended.log.contains("signal 15 from pid"), "{}", ended.log);
    }
    host.world.assert_clean();
    host.world.assert_nothing_left();
}

/// The shell's own exit code, where it has one: here that of its trap.
#[test]
fn a_cancelled_shell_says_how_it_ended() {
    let Some(mut host) = Host::new("shim-trap") else {
        return;
    };
    for (script, code) in [
        ("trap 'exit 9' TERM; echo up; sleep 300 & wait\n", 9),
        ("echo up; sleep 300\nexit 3\n", 143),
    ] {
        let mut stage = host.start(Way::Bash, true, script);
        stage.wait_line("up");
        stage.signal(Signal::SIGTERM);
        assert_eq!(stage.end().code, code, "{script}");
    }
    host.world.assert_nothing_left();
}

#[test]
fn whoever_ignores_a_cancel_is_killed_when_the_grace_is_over() {
    let Some(mut host) = Host::new("shim-stubborn") else {
        return;
    };
    host.configure("[run]\ngrace = '300ms'\n");
    for way in WAYS {
        let script =
            "trap '' TERM; rm -f pids; setsid sleep 300 & sh -c 'echo $$ >> pids; echo up; exec sleep 300'";
        let mut stage = host.start_job(way, true, script);
        stage.wait_line("up");
        let left = host.left();
        stage.signal(Signal::SIGTERM);
        let ended = stage.end();
        assert_eq!(ended.code, 137, "{way:?}: {}", ended.log);
        assert!(left[0].has_ended());
        assert!(
            ended.log.contains("left by this stage and killed: "),
            "{}",
            ended.log
        );
    }
    host.world.assert_clean();
    host.world.assert_nothing_left();
}

/// A stage that has left its five and says so.
fn with_five(host: &Host, way: Way) -> (Stage, Vec<Process>) {
    let mut stage = host.start_job(way, true, &format!("{FIVE}\necho up; sleep 300"));
    stage.wait_line("up");
    let left = host.left();
    assert!(left.len() == 5 && left.iter().all(|process| !process.has_ended()));
    (stage, left)
}

/// The runner does so to the group at the end of its patience; and anybody may do it to the shim. The watcher has seen it.
#[test]
fn nothing_is_left_where_the_shim_is_killed() {
    let Some(mut host) = Host::new("shim-killed") else {
        return;
    };
    for way in WAYS {
        for whole_group in [false, true] {
            let (stage, left) = with_five(&host, way);
            let cage = host.world.cages()[0].clone();
            if whole_group {
                stage.signal(Signal::SIGKILL);
            } else {
                stage.process.signal(Signal::SIGKILL);
            }
            // Its pipes end with it, whoever lives on for the moment.
            assert_eq!(stage.end().code, 128 + 9);
            assert!(cgroup::wait_gone(&cage, PATIENCE), "nobody has closed it");
            assert!(left.iter().all(Process::has_ended), "{way:?}");
        }
    }
    host.world.assert_nothing_left();
}

/// A runner that is a process of its own: a copy of bash by which it is known. It dies, and with it whoever held its pipes.
#[test]
fn nothing_is_left_where_the_runner_is_killed() {
    let Some(mut host) = Host::new("shim-runner-killed") else {
        return;
    };
    let program = host.world.dir.join("gitlab-runner");
    fs::copy("/bin/bash", &program).unwrap();
    host.configure_runner(&program, "[run]\ngrace = '10s'\n");
    for way in WAYS {
        let _ = fs::remove_file(host.project().join("up"));
        let stage = host.script(&format!("{}\necho up > up; sleep 300", three_that_answer()));
        let script = host.world.dir.join("script");
        fs::write(&script, stage).unwrap();
        let words: Vec<String> = way.words().iter().map(|word| format!("'{word}'")).collect();
        let words = format!(
            "set -m; cat {} | {} | cat; true",
            script.display(),
            words.join(" ")
        );
        let path = host.path(true);
        let mut command = host.world.command(&program);
        command.args(["-c", &words]).env("PATH", path).process_group(0);
        let mut runner = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        assert!(wait_written(&host.project(), || host.read("up") == "up\n"));
        let left = host.left();
        let cage = host.world.cages()[0].clone();
        let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", runner.id())).unwrap();
        let children = children
            .split_whitespace()
            .map(|pid| Process::open(pid.parse().unwrap()));
        let children: Vec<Process> = children.collect();
        assert!(children.len() >= 2, "the shim, and who reads its output");
        runner.kill().unwrap();
        runner.wait().unwrap();
        assert!(cgroup::wait_gone(&cage, PATIENCE), "nobody has closed it");
        assert!(left.len() == 3 && left.iter().all(Process::has_ended), "{way:?}");
        assert!(children.iter().all(|process| process.wait_end(PATIENCE)));
        // They were asked before they were killed.
        assert_eq!(host.read("asked").lines().count(), 3, "{way:?}");
    }
    host.world.assert_nothing_left();
    host.world.assert_clean();
}

/// Where systemd runs, PAM moves what su starts into a session of its own, out of the cage. What is the stage's is known by
/// its parents all the same: nothing of it is left, but only su is asked to end.
#[test]
fn a_session_outside_of_the_cage_ends_with_the_stage() {
    let Some(mut host) = Host::new("shim-session") else {
        return;
    };
    host.configure("[run]\ngrace = '300ms'\n");
    fs::create_dir_all(&host.world.outside).unwrap();
    let bin = host.world.dir.join("bin");
    fs::create_dir(&bin).unwrap();
    let su = format!(
        "#!/bin/sh\necho $$ > {}/cgroup.procs && exec /usr/bin/su \"$@\"\n",
        host.world.outside.display()
    );
    fs::write(bin.join("su"), su).unwrap();
    fs::set_permissions(bin.join("su"), Permissions::from_mode(0o755)).unwrap();
    let path = host.path(true).replacen(':', &format!(":{}:", bin.display()), 1);
    let begin = |commands: &str| {
        let mut command = host.command(&path, &Way::Su.words());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        start(command, host.script(commands).into())
    };
    let ended = begin(&format!("{FIVE}\nexit 42")).end();
    let left = host.left();
    assert!(
        left.len() == 5 && left.iter().all(Process::has_ended),
        "{}",
        ended.log
    );
    assert_eq!(ended.code, 42, "{}", ended.log);
    let told = ended.log.matches("jobcage: escaped: ").count();
    assert!(
        told >= 5 && ended.log.contains("a descendant of the job in the cgroup"),
        "{}",
        ended.log
    );

    // su itself is asked, and gives its shell two seconds.
    host.configure("[run]\ngrace = '1h'\n");
    let mut stage = begin(&format!("{FIVE}\necho up; sleep 300"));
    stage.wait_line("up");
    let left = host.left();
    stage.signal(Signal::SIGTERM);
    let ended = stage.end();
    assert_eq!(ended.code, 143, "{}", ended.log);
    assert!(left.len() == 5 && left.iter().all(Process::has_ended));
    host.world.assert_clean();
    host.world.assert_nothing_left();
}

/// Two jobs of one runner have nothing to do with each other.
#[test]
fn the_end_of_a_stage_is_no_end_of_another() {
    let Some(mut host) = Host::new("shim-two") else {
        return;
    };
    let (mut stages, mut left) = (Vec::new(), Vec::new());
    for way in WAYS {
        let (stage, five) = with_five(&host, way);
        stages.push(stage);
        left.push(five);
    }
    let second = stages.pop().unwrap();
    second.signal(Signal::SIGTERM);
    second.end();
    assert!(left[1].iter().all(Process::has_ended));
    assert!(left[0].iter().all(|process| !process.has_ended()));
    let first = stages.pop().unwrap();
    first.signal(Signal::SIGTERM);
    first.end();
    assert!(left[0].iter().all(Process::has_ended));
    host.world.assert_clean();
    host.world.assert_nothing_left();
}
