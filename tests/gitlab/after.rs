//! `after_script`: once for every job whose script has begun, whoever is left to run it.

use crate::runner::{Call, Ended, Runner, world};
use crate::support::captured::{Captured, wait_written};
use crate::support::process::Process;
use crate::support::world::World;
use crate::support::{PATIENCE, cgroup, programs};
use jobcage_job::{Ending, StepKind};
use nix::sys::signal::Signal;
use serde_json::json;
use std::fs;
use std::time::{Duration, SystemTime};

/// What jobcage runs, and where the job can see that it has.
const COMMANDS: [&str; 2] = [
    "echo \"jobcage $CI_JOB_STATUS $HANDED $(cat $KEY)\" >> after",
    "echo said by after_script",
];

/// A job with an `after_script`, under a runner that gives it so much time.
fn with_after(test: &str, id: u64, timeout: u64, play: impl FnOnce(&Runner<'_>)) {
    let Some(mut world) = world(test) else { return };
    {
        let runner = Runner::new(&world, id);
        runner.make_tmp(&response(id, timeout));
        assert_eq!(runner.call("prepare", &[]).code, 0);
        play(&runner);
    }
    world.assert_nothing_left();
}

/// A job with an `after_script` and so much time.
pub fn response(id: u64, timeout: u64) -> serde_json::Value {
    json!({
        "id": id,
        "job_info": {"name": "build", "project_name": "project"},
        "runner_info": {"timeout": timeout},
        "variables": [{"key": "KEY", "value": "x", "file": true}],
        "steps": [{"name": "script", "script": ["true"]}, {"name": "after_script", "script": COMMANDS}],
    })
}

/// It ran once, and it was this one who ran it.
#[track_caller]
pub fn assert_one(runner: &Runner<'_>, by: &str, what: &str) {
    let told = runner.read("after");
    assert_eq!(told.lines().count(), 1, "{what}: {told:?}");
    assert!(told.starts_with(by), "{what}: {told:?}");
}

const FOREVER: u64 = 3600;

/// A script that hands a value on, and then does what else it does.
fn script(more: &str) -> String {
    format!("echo HANDED=state >> $JOBCAGE_ENV; sleep 300 & echo up; {more}")
}

/// The script's stage up to its last command, and what to do with it then.
fn after_up(runner: &Runner<'_>, then: impl FnOnce(&Call)) -> Ended {
    after_up_for(runner, then).end()
}

/// As [`after_up`], with its end to come.
fn after_up_for(runner: &Runner<'_>, then: impl FnOnce(&Call)) -> Call {
    let mut stage = runner.start_stage("build_script", &script("sleep 300"));
    stage.wait_line("up");
    then(&stage);
    stage
}

/// The one session of a world.
fn session(world: &World) -> Captured {
    let records = world.records();
    assert_eq!(records.len(), 1, "{records:?}");
    world.captured(&records[0])
}

/// It ran once, by jobcage, with this status; the record has its output and its end.
fn assert_ran_by_jobcage(runner: &Runner<'_>, status: &str) {
    assert_eq!(
        runner.read("after"),
        format!("jobcage {status} state secret of a file\n")
    );
    let session = session(runner.world);
    let report = session.wait_over();
    let after: Vec<_> = report
        .steps
        .iter()
        .filter(|step| step.kind == StepKind::After)
        .collect();
    assert_eq!(after.len(), 1, "{:?}", report.steps);
    assert_eq!(after[0].ending, Ending::Exited { code: 0 });
    assert!(report.clean, "{report:?}");
    let logs = runner.world.call(&["logs", session.id.as_str()]).expect(0).text();
    assert!(logs.lines().any(|line| line == "said by after_script"), "{logs}");
}

#[test]
fn nothing_is_doubled_where_the_runner_runs_it() {
    for (id, end, code) in [(40, "true", 0), (41, "exit 42", 1)] {
        with_after("gitlab-after-runner", id, FOREVER, |runner| {
            assert_eq!(runner.stage("build_script", &script(end)).code, code);
            let after = runner.stage("after_script", "echo \"runner $HANDED\" >> after");
            assert_eq!(after.code, 0, "{}", after.log);
            assert_eq!(runner.stage("cleanup_file_variables", "true").code, 0);
            let cleanup = runner.call("cleanup", &[]);
            assert_eq!(cleanup.code, 0, "{}", cleanup.log);
            assert_eq!(runner.read("after"), "runner state\n");
        });
    }
}

#[test]
fn a_graceful_cancel_leaves_it_to_the_runner() {
    with_after("gitlab-after-graceful", 42, FOREVER, |runner| {
        assert_eq!(after_up(runner, |stage| stage.signal(Signal::SIGTERM)).code, 1);
        assert_eq!(runner.read("after"), "");
        assert_eq!(runner.stage("after_script", "echo runner >> after").code, 0);
        assert_eq!(runner.call("cleanup", &[]).code, 0);
        assert_eq!(runner.read("after"), "runner\n");
    });
}

#[test]
fn after_a_forced_cancel_cleanup_runs_it() {
    with_after("gitlab-after-forced", 43, FOREVER, |runner| {
        assert_eq!(after_up(runner, |stage| stage.signal(Signal::SIGTERM)).code, 1);
        let cleanup = runner.call("cleanup", &[]);
        assert_eq!(cleanup.code, 0, "{}", cleanup.log);
        assert!(cleanup.log.contains("said by after_script"), "{}", cleanup.log);
        assert_ran_by_jobcage(runner, "canceled");
        assert_eq!(runner.call("cleanup", &[]).code, 0);
        assert_ran_by_jobcage(runner, "canceled");
    });
}

#[test]
fn at_a_job_timeout_it_runs_before_the_call_returns() {
    with_after("gitlab-after-timeout", 44, 1, |runner| {
        let ended = after_up(runner, |stage| stage.signal(Signal::SIGTERM));
        assert_eq!((ended.code, ended.told.as_str()), (1, "143\n"), "{}", ended.log);
        assert!(ended.log.contains("said by after_script"), "{}", ended.log);
        assert_ran_by_jobcage(runner, "timedout");
        // Should the runner think otherwise of why it has sent its signal.
        let again = runner.stage("after_script", "echo runner >> after");
        assert_eq!(again.code, 0, "{}", again.log);
        assert!(again.log.contains("has run already"), "{}", again.log);
        assert_eq!(runner.call("cleanup", &[]).code, 0);
        assert_ran_by_jobcage(runner, "timedout");
    });
}

/// A runner whose `graceful_kill_timeout` is too short kills the call that shows it: it goes on, and cleanup waits for it.
#[test]
fn a_runner_that_loses_patience_loses_its_output_and_nothing_else() {
    let Some(mut world) = world("gitlab-after-impatient") else {
        return;
    };
    {
        let runner = Runner::new(&world, 57);
        let mut slow = response(57, 1);
        let commands = ["echo begun > begun", "read -r word < go"]
            .into_iter()
            .chain(COMMANDS);
        slow["steps"][1]["script"] = commands.collect();
        runner.make_tmp(&slow);
        nix::unistd::mkfifo(
            &world.dir.join("project/go"),
            nix::sys::stat::Mode::from_bits_truncate(0o666),
        )
        .unwrap();
        std::os::unix::fs::chown(world.dir.join("project/go"), Some(65534), Some(65534)).unwrap();
        assert_eq!(runner.call("prepare", &[]).code, 0);
        let stage = after_up_for(&runner, |stage| stage.signal(Signal::SIGTERM));
        let project = world.dir.join("project");
        assert!(wait_written(&project, || runner.read("begun") == "begun\n"));
        stage.signal(Signal::SIGKILL);
        assert_eq!(stage.end().code, 128 + 9);
        let cleanup = runner.start("cleanup", &[]);
        fs::write(project.join("go"), "on\n").unwrap();
        assert_eq!(cleanup.end().code, 0);
        assert_ran_by_jobcage(&runner, "timedout");
    }
    world.assert_nothing_left();
}

/// `prepare` had orphans to close first: the runner's clock has run since it wrote the response.
#[test]
fn the_jobs_time_is_counted_from_the_runners_first_word() {
    let Some(mut world) = world("gitlab-after-orphans") else {
        return;
    };
    {
        let runner = Runner::new(&world, 55);
        runner.make_tmp(&response(55, 60));
        let written = SystemTime::now() - Duration::from_secs(59);
        let file = fs::File::options()
            .append(true)
            .open(runner.tmp.join("response.json"))
            .unwrap();
        file.set_modified(written).unwrap();
        assert_eq!(runner.call("prepare", &[]).code, 0);
        let ended = after_up(&runner, |stage| stage.signal(Signal::SIGTERM));
        assert!(ended.log.contains("said by after_script"), "{}", ended.log);
        assert_ran_by_jobcage(&runner, "timedout");
        assert_eq!(runner.call("cleanup", &[]).code, 0);
    }
    world.assert_nothing_left();
}

/// Nothing of the script has happened that there were anything to clean up after.
#[test]
fn a_job_that_never_came_to_its_script_has_none() {
    with_after("gitlab-after-never", 45, FOREVER, |runner| {
        assert_eq!(runner.stage("get_sources", "exit 1").code, 1);
        assert_eq!(runner.call("cleanup", &[]).code, 0);
        assert_eq!(runner.read("after"), "");
    });
}

/// Unless the host says so.
#[test]
fn a_job_whose_sources_have_failed_may_have_one() {
    let Some(mut world) = world("gitlab-after-sources") else {
        return;
    };
    {
        let mut runner = Runner::new(&world, 56);
        runner.host.push(("JOBCAGE_AFTER_FAILED_SOURCES", "true".into()));
        runner.make_tmp(&response(56, FOREVER));
        assert_eq!(runner.call("prepare", &[]).code, 0);
        let failed = runner.stage("get_sources", "echo HANDED=state >> $JOBCAGE_ENV; exit 1");
        assert_eq!(failed.code, 1, "{}", failed.log);
        assert_eq!(runner.call("cleanup", &[]).code, 0);
        assert_ran_by_jobcage(&runner, "failed");
    }
    world.assert_nothing_left();
}

#[test]
fn a_driver_that_is_killed_has_its_stage_ended() {
    with_after("gitlab-after-killed", 46, FOREVER, |runner| {
        // It says nothing, since nobody reads it any more when it is asked.
        let script = "setsid sh -c 'trap \"echo asked >> asked; exit\" TERM; echo $$ >> pids; \
                      while :; do sleep 0.02; done' > /dev/null 2>&1 & \
                      while [ ! -s pids ]; do sleep 0.02; done; echo up; sleep 300";
        let mut stage = runner.start_stage("build_script", script);
        stage.wait_line("up");
        stage.signal(Signal::SIGKILL);
        stage.end();
        let left = runner.left();
        assert!(left[0].wait_end(PATIENCE), "nobody has asked it");
        assert_eq!(runner.read("asked"), "asked\n");
        assert_eq!(runner.stage("after_script", "echo runner >> after").code, 0);
        assert_eq!(runner.call("cleanup", &[]).code, 0);
        assert_eq!(runner.read("after"), "runner\n");
    });
}

#[test]
fn whoever_looks_after_the_job_may_die() {
    with_after("gitlab-after-hands", 47, FOREVER, |runner| {
        let ended = after_up(runner, |stage| {
            let session = session(runner.world);
            let first = session.supervisor(runner.world);
            first.signal(Signal::SIGKILL);
            session.next_supervisor(runner.world, first.pid);
            stage.signal(Signal::SIGTERM);
        });
        assert_eq!(ended.code, 1, "{}", ended.log);
        let session = session(runner.world);
        session.supervisor(runner.world).signal(Signal::SIGKILL);
        assert_eq!(runner.call("cleanup", &[]).code, 0);
        assert_ran_by_jobcage(runner, "canceled");
    });
}

/// The runner and its driver are gone: nobody calls cleanup any more.
#[test]
fn it_runs_when_the_runner_is_killed() {
    with_killed_runner("gitlab-after-crash", 48, |runner, driver| {
        assert!(driver.wait_end(PATIENCE));
        assert_ran_by_jobcage(runner, "failed");
    });
}

/// A runner of its own that is killed while a stage runs; then the cage is gone.
fn with_killed_runner(test: &str, id: u64, then: impl FnOnce(&Runner<'_>, &Process)) {
    let Some(mut world) = world(test) else { return };
    {
        let job = Runner::new(&world, id);
        job.make_tmp(&json!({
            "id": id,
            "variables": [{"key": "KEY", "file": true}],
            "steps": [{"name": "after_script", "script": COMMANDS}],
        }));
        let script = job.script(&script("echo up > up; sleep 300"));
        let words = format!(
            "\"$JOBCAGE\" gitlab prepare && \"$JOBCAGE\" gitlab run {} build_script; echo over",
            script.display()
        );
        let mut shell = world.shell_command(&words);
        for (name, value) in job.command("prepare", &[]).get_envs() {
            match value {
                Some(value) => shell.env(name, value),
                None => shell.env_remove(name),
            };
        }
        let mut runner = shell.stdout(std::process::Stdio::null()).spawn().unwrap();
        let project = world.dir.join("project");
        assert!(wait_written(&project, || job.read("up") == "up\n"));
        let cage = world.cages()[0].clone();
        let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", runner.id())).unwrap();
        let driver = Process::open(children.trim().parse().unwrap());
        runner.kill().unwrap();
        runner.wait().unwrap();
        assert!(cgroup::wait_gone(&cage, PATIENCE), "nobody has closed it");
        then(&job, &driver);
        assert_eq!(job.call("cleanup", &[]).code, 0);
        // The next job of the host takes away what is left of this one's scripts; another directory is nobody's to take.
        let next = Runner::new(&world, id + 1000);
        let unknown = world.dir.join("custom-executor-unknown");
        fs::create_dir(&unknown).unwrap();
        assert!(job.tmp.join("script1/script").exists());
        let prepared = next.call("prepare", &[]);
        assert!(
            prepared.log.contains("removed 1 directory in"),
            "{}",
            prepared.log
        );
        assert!(!job.tmp.exists() && unknown.exists() && next.tmp.exists());
        // So does gc, which may come before any job.
        job.make_tmp(&json!({"id": id}));
        let mut gc = world.command(programs::jobcage());
        let swept = gc.arg("gc").env("TMPDIR", &world.dir).output().unwrap();
        let told = String::from_utf8_lossy(&swept.stderr).into_owned();
        assert!(
            swept.status.success() && told.contains("removed 1 directory in"),
            "{told}"
        );
        assert!(!job.tmp.exists() && unknown.exists() && next.tmp.exists());
        assert_eq!(next.call("cleanup", &[]).code, 0);
    }
    world.assert_nothing_left();
}
