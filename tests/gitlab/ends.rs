//! How a job ends, and what is left of it then: nothing.

use crate::runner::{Driver, Runner, with_job, world};
use crate::support::captured::wait_written;
use crate::support::leaks::{FIVE, five_without_output};
use crate::support::process::Process;
use crate::support::{PATIENCE, cgroup};
use nix::sys::signal::Signal;
use std::fs;

#[test]
fn nothing_is_left_of_a_job_that_succeeds_or_fails() {
    let Some(mut world) = world("gitlab-ends") else {
        return;
    };
    for (id, end, code) in [(20, "true", 0), (21, "exit 42", 1)] {
        let runner = Runner::new(&world, id);
        assert_eq!(runner.call("prepare", &[]).code, 0);
        let ended = runner.stage("build_script", &format!("{FIVE}\n{end}"));
        assert_eq!(ended.code, code, "{}", ended.log);
        let left = runner.left();
        assert!(left.len() == 5 && left.iter().all(|process| !process.has_ended()));
        assert_eq!(runner.call("cleanup", &[]).code, 0);
        assert!(left.iter().all(Process::has_ended));
    }
    world.assert_nothing_left();
}

/// So that the tests above prove something: with a driver that only runs the script, all five live on.
#[test]
fn a_plain_driver_leaves_them_all() {
    let Some(mut world) = world("gitlab-plain") else {
        return;
    };
    {
        let mut runner = Runner::new(&world, 22);
        runner.driver = Driver::Plain;
        // As root, since a plain driver knows no build user; the first one holds the output, and the runner would wait.
        let script = five_without_output();
        let ended = runner.stage("build_script", &script);
        assert_eq!(ended.code, 0, "{}", ended.log);
        runner.call("cleanup", &[]);
        let left = runner.left();
        assert!(left.len() == 5 && left.iter().all(|process| !process.has_ended()));
        for process in left {
            process.signal(Signal::SIGKILL);
            assert!(process.wait_end(PATIENCE));
        }
    }
    world.assert_nothing_left();
}

/// Everybody in the stage is asked to end, not only who is in the group that the runner knows, and the call returns at once.
#[test]
fn a_cancel_reaches_everybody_and_the_after_script_still_runs() {
    with_job("gitlab-cancel", 23, |runner| {
        let script = "rm -f asked; setsid sh -c 'trap \"echo asked >> asked; exit\" TERM; echo $$ >> pids; echo up; \
                      while :; do sleep 0.02; done' & sleep 300";
        let mut stage = runner.start_stage("build_script", script);
        stage.wait_line("up");
        stage.signal(Signal::SIGTERM);
        let ended = stage.end();
        assert_eq!((ended.code, ended.told.as_str()), (1, "143\n"), "{}", ended.log);
        assert_eq!(runner.read("asked"), "asked\n");
        let after = runner.stage("after_script", "echo after");
        assert_eq!((after.code, after.log.as_str()), (0, "after\n"));
    });
}

/// After the graceful time the runner kills the driver, and with it only who is in its group. The supervisor ends the others, or
/// cleanup, whoever is first.
#[test]
fn nothing_is_left_of_a_job_whose_driver_is_killed() {
    let Some(mut world) = world("gitlab-killed") else {
        return;
    };
    {
        let runner = Runner::new(&world, 24);
        assert_eq!(runner.call("prepare", &[]).code, 0);
        let mut stage = runner.start_stage("build_script", &format!("{FIVE}\necho up; sleep 300"));
        stage.wait_line("up");
        stage.signal(Signal::SIGKILL);
        assert_eq!(stage.end().code, 128 + 9);
        let left = runner.left();
        assert_eq!(left.len(), 5);
        assert_eq!(runner.call("cleanup", &[]).code, 0);
        assert!(left.iter().all(Process::has_ended));
    }
    world.assert_nothing_left();
}

/// cleanup does not wait for a run that is still there (contract, fact 4).
#[test]
fn cleanup_beside_a_run_ends_it() {
    let Some(mut world) = world("gitlab-beside") else {
        return;
    };
    {
        let runner = Runner::new(&world, 25);
        assert_eq!(runner.call("prepare", &[]).code, 0);
        let mut stage = runner.start_stage("build_script", "trap '' TERM; echo up; sleep 300");
        stage.wait_line("up");
        assert_eq!(runner.call("cleanup", &[]).code, 0);
        let ended = stage.end();
        assert_eq!((ended.code, ended.told.as_str()), (1, "137\n"), "{}", ended.log);
    }
    world.assert_nothing_left();
}

/// No call comes any more: the watcher has seen the runner die.
#[test]
fn nothing_is_left_of_a_job_whose_runner_is_killed() {
    let Some(mut world) = world("gitlab-runner") else {
        return;
    };
    {
        let job = Runner::new(&world, 26);
        let script = job.script(&format!("{FIVE}\necho up > up; sleep 300"));
        let call = job.command("prepare", &[]);
        let words = format!(
            "\"$JOBCAGE\" gitlab prepare && \"$JOBCAGE\" gitlab run {} build_script; echo over",
            script.display()
        );
        let mut shell = world.shell_command(&words);
        for (name, value) in call.get_envs() {
            match value {
                Some(value) => shell.env(name, value),
                None => shell.env_remove(name),
            };
        }
        let mut runner = shell.stdout(std::process::Stdio::null()).spawn().unwrap();
        let project = world.dir.join("project");
        assert!(wait_written(&project, || job.read("up") == "up\n"));
        let left = job.left();
        let cage = world.cages()[0].clone();
        let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", runner.id())).unwrap();
        let driver = Process::open(children.trim().parse().unwrap());
        runner.kill().unwrap();
        runner.wait().unwrap();
        assert!(cgroup::wait_gone(&cage, PATIENCE), "nobody has closed it");
        assert!(left.iter().all(Process::has_ended));
        assert!(driver.wait_end(PATIENCE));
        // The next job of the host finds nothing to do.
        assert_eq!(job.call("cleanup", &[]).code, 0);
    }
    world.assert_nothing_left();
}
