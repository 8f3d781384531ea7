//! A job and the service that it was started from, which systemd stops: it ends everybody in the service's cgroup.

use crate::support::job::read_report;
use crate::support::needs::{Need, met};
use crate::support::process::Process;
use crate::support::world::World;
use crate::support::{PATIENCE, cgroup, programs};
use jobcage_job::{Cause, Ending};
use nix::sys::signal::Signal;
use std::fs;
use std::process::{Command, Stdio};

/// A service that runs one shell script; it is stopped at its end.
struct Service {
    name: String,
}

impl Service {
    fn start(world: &World, test: &str, script: &str) -> Option<Self> {
        Self::start_by(world, test, &[], script)
    }

    /// `timer`: systemd-run's options for one that starts the service.
    fn start_by(world: &World, test: &str, timer: &[&str], script: &str) -> Option<Self> {
        if !met(test, &[Need::Systemd, Need::Program("systemd-run")]) {
            return None;
        }
        let name = format!("jobcage-test-{}-{test}.service", std::process::id());
        let mut run = Self::of_user("systemd-run");
        run.args(["--quiet", "--collect", "--unit", &name, "--working-directory"])
            .arg(&world.dir)
            .args(timer);
        for (name, value) in world.command("true").get_envs() {
            if let Some(value) = value {
                let (name, value) = (name.to_string_lossy(), value.to_string_lossy());
                run.arg(format!("--setenv={name}={value}"));
            }
        }
        run.arg(format!("--setenv=JOBCAGE={}", programs::jobcage().display()))
            .args(["--", "/bin/sh", "-c", script]);
        assert!(run.status().unwrap().success(), "{run:?}");
        Some(Self { name })
    }

    /// The manager that is ours: root's is the system's.
    fn of_user(program: &str) -> Command {
        let mut command = Command::new(program);
        if !nix::unistd::geteuid().is_root() {
            command.arg("--user");
        }
        command
    }

    /// Returns when it is over.
    fn systemctl(&self, words: &[&str]) {
        let mut command = Self::of_user("systemctl");
        command.args(words).arg(&self.name);
        assert!(command.status().unwrap().success(), "{command:?}");
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // Most are gone by now.
        let mut stop = Self::of_user("systemctl");
        let _ = stop.args(["stop", &self.name]).stderr(Stdio::null()).status();
    }
}

/// Those who look after it are not in the service's cgroup, and nor is the job.
#[test]
fn a_detached_job_outlives_its_service() {
    let mut world = World::new("service-detach");
    world.fifo("go");
    let script = "\"$JOBCAGE\" run --detach -- sh -c 'echo up; read word < go; echo $word; exit 7' > id; exec sleep 300";
    let Some(service) = Service::start(&world, "service-detach", script) else {
        return;
    };
    let job = world.captured(&world.told("id"));
    job.wait_log("log-01", "up\n");
    let supervisor = job.supervisor(&world);
    service.systemctl(&["stop"]);
    assert!(!supervisor.has_ended() && !job.keeper().has_ended());
    let _go = world.say_into("go", "on");
    let report = job.wait_over();
    assert_eq!(report.ending, Ending::Exited { code: 7 }, "{report:#?}");
    assert!(report.clean && report.notes.is_empty(), "{report:#?}");
    assert_eq!(job.text("log-01"), "up\non\n");
    world.assert_nobody_left();
}

const FOREGROUND: &str = "exec \"$JOBCAGE\" run --report report.json --after 'echo $JOBCAGE_RESULT > after' -- \
                          sh -c 'sleep 300 & echo up > up; sleep 300'";

/// systemd asks jobcage to end, which ends its job: the after phase runs within the service's own time.
#[test]
fn a_foreground_job_ends_with_its_service() {
    let mut world = World::new("service-run");
    let Some(service) = Service::start(&world, "service-run", FOREGROUND) else {
        return;
    };
    world.told("up");
    // The stop is over when jobcage is.
    service.systemctl(&["stop"]);
    let report = read_report(&world.dir.join("report.json"));
    let asked = matches!(report.ending, Ending::Cancelled(Cause::Signal { signal: 15, .. }));
    assert!(asked && report.clean, "{report:#?}");
    assert_eq!(fs::read_to_string(world.dir.join("after")).unwrap(), "canceled\n");
    world.assert_nothing_left();
}

/// `gc` as a timer starts it: from no terminal, with nearly no environment, in a cgroup of systemd's.
#[test]
fn a_timer_can_call_gc() {
    let mut world = World::new("service-gc");
    let script = "echo up > up; sleep 300 & sleep 300".to_owned();
    let mut job = world.run(&[], &[], &["sh".into(), "-c".into(), script]);
    world.told("up");
    let cage = world.cages()[0].clone();
    // Stopped first, so that it does not replace its watcher.
    job.stop();
    world.kill_watchers();
    job.signal(Signal::SIGKILL);
    assert_eq!(job.wait(PATIENCE), 137);
    assert!(cage.exists(), "somebody has closed it");
    world.fifo("go");
    let timer = ["--on-active=100ms", "--timer-property=AccuracySec=10ms"];
    // systemd makes one dollar of two.
    let script = "echo $$$$ > pid; read word < go; exec \"$JOBCAGE\" gc";
    let Some(_service) = Service::start_by(&world, "service-gc", &timer, script) else {
        return;
    };
    let gc = Process::open(world.told("pid").parse().unwrap());
    let _go = world.say_into("go", "on");
    assert!(gc.wait_end(PATIENCE));
    assert!(!cage.exists(), "gc has not closed it");
    world.assert_nothing_left();
}

/// Nobody asks it: the watcher, who is not in the service's cgroup, closes the job, and its keeper runs the after phase.
#[test]
fn a_service_that_is_killed_leaves_nothing_of_its_job() {
    let mut world = World::new("service-kill");
    let Some(service) = Service::start(&world, "service-kill", FOREGROUND) else {
        return;
    };
    world.told("up");
    let cage = world.cages()[0].clone();
    service.systemctl(&["kill", "--signal", Signal::SIGKILL.as_str()]);
    assert!(cgroup::wait_gone(&cage, PATIENCE));
    assert_eq!(world.told("after"), "lost");
    // Its second supervisor ends behind its report.
    world.assert_nobody_left();
}
