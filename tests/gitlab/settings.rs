//! What the host says of its jobs, and what a job may say for itself.

use crate::runner::{Runner, world};
use crate::support::PATIENCE;
use crate::support::needs::{Need, met};
use crate::support::process::Process;
use nix::sys::signal::Signal;
use std::fs;

/// A job with these CI variables on a host with this configuration; prepared, unless that fails.
fn with(
    test: &str,
    id: u64,
    config: &str,
    variables: &[(&'static str, &'static str)],
    play: impl FnOnce(&Runner<'_>, &crate::runner::Ended),
) {
    let Some(mut world) = world(test) else { return };
    {
        let mut runner = Runner::new(&world, id);
        let file = world.dir.join("config.toml");
        fs::write(&file, config).unwrap();
        runner.host.push(("JOBCAGE_CONFIG", file.display().to_string()));
        runner.variables.extend(variables);
        let prepared = runner.call("prepare", &[]);
        play(&runner, &prepared);
        assert_eq!(runner.call("cleanup", &[]).code, 0);
    }
    world.assert_nothing_left();
}

#[test]
fn a_value_that_is_wrong_or_goes_too_far_fails_the_job_with_one_line() {
    let config = "[gitlab.max]\ntimeout = '1h'\n";
    for (id, name, value, told) in [
        (
            60,
            "JOBCAGE_TIMEOUT",
            "2h",
            "goes beyond what this host allows the job (\"1h\")",
        ),
        (
            61,
            "JOBCAGE_TIMEOUT",
            "$(reboot)\n\u{1b}[31m",
            "JOBCAGE_TIMEOUT: ",
        ),
        (
            62,
            "JOBCAGE_GRACE",
            "1h",
            "goes beyond what this host allows the job (10 s)",
        ),
        (63, "JOBCAGE_LEFTOVERS", "../../x", "is neither stage nor job"),
    ] {
        with(
            "gitlab-settings-refused",
            id,
            config,
            &[(name, value)],
            |_, prepared| {
                assert_eq!(prepared.code, 1, "{}", prepared.log);
                assert!(prepared.log.contains(told), "{}", prepared.log);
                assert_eq!(prepared.log.lines().count(), 1, "{}", prepared.log);
                assert!(!prepared.log.contains('\u{1b}'), "{}", prepared.log);
            },
        );
    }
}

#[test]
fn what_is_wrong_with_the_host_is_not_the_jobs_fault() {
    with(
        "gitlab-settings-host",
        64,
        "[gitlab]\nleftovers = 'x'\n",
        &[],
        |_, prepared| {
            assert_eq!(prepared.code, 2, "{}", prepared.log);
            assert!(
                prepared.log.contains("config.toml, line 2: leftovers"),
                "{}",
                prepared.log
            );
        },
    );
}

#[test]
fn a_job_may_not_become_another_user() {
    with(
        "gitlab-settings-user",
        65,
        "",
        &[("JOBCAGE_USER", "root")],
        |runner, prepared| {
            assert_eq!(prepared.code, 0, "{}", prepared.log);
            assert!(
                prepared
                    .log
                    .contains("\"JOBCAGE_USER\" is nothing that a job may set"),
                "{}",
                prepared.log
            );
            assert_eq!(runner.stage("build_script", "id -un").log, "nobody\n");
        },
    );
}

#[test]
fn the_time_of_a_job_is_its_own_to_shorten() {
    with(
        "gitlab-settings-timeout",
        66,
        "",
        &[("JOBCAGE_TIMEOUT", "300ms")],
        |runner, _| {
            let ended = runner.stage("build_script", "echo up; sleep 300");
            assert_eq!((ended.code, ended.told.as_str()), (1, "124\n"), "{}", ended.log);
            assert!(
                ended.log.contains("the job ran out of time after"),
                "{}",
                ended.log
            );
        },
    );
}

#[test]
fn a_silent_stage_is_ended() {
    with(
        "gitlab-settings-idle",
        67,
        "",
        &[("JOBCAGE_IDLE_TIMEOUT", "300ms")],
        |runner, _| {
            let ended = runner.stage("build_script", "echo up; sleep 300");
            assert_eq!((ended.code, ended.told.as_str()), (1, "124\n"), "{}", ended.log);
            assert_eq!(runner.stage("after_script", "echo after").code, 0);
        },
    );
}

#[test]
fn leftovers_may_end_with_their_stage() {
    let config = "[gitlab.project.1]\nleftovers = 'stage'\n";
    with("gitlab-settings-leftovers", 68, config, &[], |runner, _| {
        let script = "setsid sleep 300 > /dev/null 2>&1 & echo $! > pids";
        let ended = runner.stage("build_script", script);
        assert_eq!(ended.code, 0, "{}", ended.log);
        assert!(
            ended.log.contains("1 process was left and killed:"),
            "{}",
            ended.log
        );
        assert!(runner.left().iter().all(Process::has_ended));
    });
}

#[test]
fn the_after_script_may_be_the_runners_alone_or_nobodys() {
    for (id, switch, after) in [(69, "runner", "runner\n"), (70, "never", "")] {
        with(
            "gitlab-settings-after",
            id,
            "",
            &[("JOBCAGE_AFTER_SCRIPT", switch)],
            |runner, _| {
                assert_eq!(runner.stage("build_script", "true").code, 0);
                let ended = runner.stage("after_script", "echo runner >> after");
                assert_eq!(ended.code, 0, "{}", ended.log);
                assert_eq!(runner.read("after"), after, "{}", ended.log);
            },
        );
    }
}

#[test]
fn a_job_may_have_an_agent_of_its_own() {
    with(
        "gitlab-settings-agent",
        71,
        "",
        &[("JOBCAGE_SSH_AGENT", "true")],
        |runner, prepared| {
            assert_eq!(prepared.code, 0, "{}", prepared.log);
            let words = "ssh-add -l || test $? = 1 && echo \"$SSH_AUTH_SOCK\" >> sockets";
            assert_eq!(runner.stage("build_script", words).code, 0);
            assert_eq!(runner.stage("after_script", words).code, 0);
            let sockets = runner.read("sockets");
            let sockets: Vec<&str> = sockets.lines().collect();
            assert!(
                sockets.len() == 2 && sockets[0] == sockets[1] && !sockets[0].is_empty(),
                "{sockets:?}"
            );
        },
    );
}

/// The record of a job that left nothing behind has what its `after_script` said, though the runner ran it.
#[test]
fn what_the_after_script_says_is_kept() {
    with("gitlab-settings-log", 72, "", &[], |runner, _| {
        assert_eq!(runner.stage("build_script", "echo not kept").code, 0);
        let after = runner.stage("after_script", "echo kept; echo too >&2");
        assert_eq!(after.log, "kept\ntoo\n");
        assert_eq!(runner.call("cleanup", &[]).code, 0);
        let records = runner.world.records();
        let logs = runner.world.call(&["logs", &records[0]]).expect(0);
        assert_eq!(logs.text(), "kept\ntoo");
    });
}

/// A process that cannot be killed is on the host: the next job is warned, or goes to another runner.
#[test]
fn a_host_with_processes_that_cannot_be_ended_says_so_or_takes_no_job() {
    let test = "gitlab-quarantine";
    if !met(test, &[Need::Fuse]) {
        return;
    }
    let Some(mut world) = world(test) else { return };
    let (point, server) = world.dead_mount();
    let program = point.join("program").display().to_string();
    let options = ["--timeout", "1s", "--grace", "300ms"].map(str::to_owned);
    let mut job = world.run(&[], &options, &[program]);
    assert_eq!(job.wait(2 * PATIENCE), 125, "{}", job.stderr());
    let survivor = Process::open(job.report().quarantine.unwrap().survivors[0].pid);
    {
        let mut runner = Runner::new(&world, 90);
        let file = world.dir.join("config.toml");
        runner.host.push(("JOBCAGE_CONFIG", file.display().to_string()));
        let warned = format!("processes of the job {} survive on this host", job.report().job);
        let refuse = "[gitlab]\nquarantine = 'refuse'\n";
        for (config, code) in [
            ("", 0),
            (refuse, 2),
            (&format!("{refuse}quarantine_max = 1\n"), 0),
        ] {
            fs::write(&file, config).unwrap();
            let prepared = runner.call("prepare", &[]);
            assert_eq!(prepared.code, code, "{config}: {}", prepared.log);
            assert!(prepared.log.contains(&warned), "{config}: {}", prepared.log);
            let refused = prepared
                .log
                .contains("1 cages with processes that cannot be ended");
            assert_eq!(refused, code == 2, "{config}: {}", prepared.log);
            assert_eq!(runner.call("cleanup", &[]).code, 0);
        }
    }
    server.signal(Signal::SIGTERM);
    assert!(server.wait_end(PATIENCE) && survivor.wait_end(PATIENCE));
    let gc = world.jobcage(&[], &["gc"]);
    assert!(gc.status.success(), "{}", String::from_utf8_lossy(&gc.stderr));
    world.assert_nothing_left();
}

/// The host's own program comes at the end of a job, which cannot name another one.
#[test]
fn the_hosts_hook_is_the_hosts_alone() {
    let Some(mut world) = world("gitlab-settings-hook") else {
        return;
    };
    let hook = world.dir.join("hook");
    let seen = world.dir.join("seen");
    let script = format!("#!/bin/sh\nid -un >> {0}; cat >> {0}\n", seen.display());
    fs::write(&hook, script).unwrap();
    fs::set_permissions(&hook, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let file = world.dir.join("hook.toml");
    fs::write(
        &file,
        format!("[run]\nguest_hook = [{:?}]\n", hook.display().to_string()),
    )
    .unwrap();
    {
        let mut runner = Runner::new(&world, 79);
        runner.host.push(("JOBCAGE_CONFIG", file.display().to_string()));
        runner.variables.push(("JOBCAGE_GUEST_HOOK", "/bin/false"));
        let prepared = runner.call("prepare", &[]);
        assert_eq!(prepared.code, 0, "{}", prepared.log);
        let told = "\"JOBCAGE_GUEST_HOOK\" is nothing that a job may set";
        assert!(prepared.log.contains(told), "{}", prepared.log);
        assert_eq!(runner.stage("build_script", "true").code, 0);
        assert!(!seen.exists(), "it was called before the end of the job");
        assert_eq!(runner.call("cleanup", &[]).code, 0);
    }
    let seen = fs::read_to_string(seen).unwrap();
    let (user, job) = seen.split_once('\n').unwrap();
    let job: serde_json::Value = serde_json::from_str(job).expect("it was called once");
    assert_eq!(user, "root");
    assert!(
        job["labels"].as_object().is_some_and(|labels| !labels.is_empty()),
        "{job:#}"
    );
    world.assert_nothing_left();
}

/// It may hang, and the next job has no part in it: that is for gc.
#[test]
fn a_hook_that_has_failed_is_not_the_next_jobs_business() {
    let Some(mut world) = world("gitlab-settings-hook-fails") else {
        return;
    };
    let hook = world.dir.join("hook");
    let write = |script: &str| {
        let calls = world.dir.join("calls");
        fs::write(
            &hook,
            format!("#!/bin/sh\necho >> {}\n{script}\n", calls.display()),
        )
        .unwrap();
        fs::set_permissions(&hook, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    };
    let calls = || fs::read(world.dir.join("calls")).unwrap().len();
    write("exit 1");
    let file = world.dir.join("hook.toml");
    let config = format!("[run]\nguest_hook = [{:?}]\n", hook.display().to_string());
    fs::write(&file, config).unwrap();
    {
        let mut runner = Runner::new(&world, 80);
        runner.host.push(("JOBCAGE_CONFIG", file.display().to_string()));
        assert_eq!(runner.call("prepare", &[]).code, 0);
        let ended = runner.call("cleanup", &[]);
        assert!(ended.log.contains("the guest hook"), "{}", ended.log);
        assert_eq!(calls(), 1);
        let mut next = Runner::new(&world, 81);
        next.host.push((
            "JOBCAGE_CONFIG",
            world.dir.join("config.toml").display().to_string(),
        ));
        assert_eq!(next.call("prepare", &[]).code, 0);
        assert_eq!(calls(), 1, "the next job has run it");
        assert_eq!(next.call("cleanup", &[]).code, 0);
        write("exit 0");
        assert!(world.jobcage(&[], &["gc"]).status.success());
        assert_eq!(calls(), 2);
        assert!(world.jobcage(&[], &["gc"]).status.success());
        assert_eq!(calls(), 2);
    }
    world.assert_nothing_left();
}
