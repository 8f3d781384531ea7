//! `--spare`: an agent that the job itself has started lives until the after phase is over.

use crate::agent::{count, start, words, world_with_key};
use crate::support::captured::wait_written;
use crate::support::needs::{self, Need};
use crate::support::world::World;
use crate::support::{PATIENCE, cgroup};
use jobcage_job::{FoundBy, Report};
use nix::sys::signal::Signal;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

/// An agent as people start it in a script, where the after phase finds it.
const OWN: &str = "eval $(ssh-agent -a ${JOBCAGE_ENV%/*}/own) > /dev/null; ssh-add -q - < key.copy; echo up; \
                   sleep 300 & wait";
const LIST_OWN: &str = "SSH_AUTH_SOCK=${JOBCAGE_ENV%/*}/own ssh-add -l";

fn world_with_own(test: &str) -> Option<(World, String)> {
    let (world, print) = world_with_key(test)?;
    fs::copy(world.dir.join("key"), world.dir.join("key.copy")).unwrap();
    // Whoever the job is.
    let open = fs::Permissions::from_mode(0o644);
    fs::set_permissions(world.dir.join("key.copy"), open).unwrap();
    Some((world, print))
}

/// Where in the cage the processes of this name were that had to be killed.
fn found(report: &Report, comm: &str) -> Vec<FoundBy> {
    let left = report.census.left.iter().filter(|left| left.comm == comm);
    left.map(|left| left.found.clone()).collect()
}

fn kept() -> FoundBy {
    FoundBy::Cgroup("kept".into())
}

#[test]
fn an_agent_of_the_jobs_own_is_spared_until_the_after_phase_is_over() {
    let Some((mut world, print)) = world_with_own("spare") else {
        return;
    };
    let mut ways = vec![
        &[][..],
        &["--grace", "0"],
        &["--best-effort", "--pids", "500"],
        &["--ssh-agent"],
    ];
    if needs::met("spare: as another user", &[Need::Root]) {
        ways.push(&["--user", "61234"]);
    }
    for way in ways {
        let mut options = vec!["--after", LIST_OWN];
        options.extend(way);
        let mut job = start(&mut world, &options, OWN);
        job.signal(Signal::SIGTERM);
        assert_eq!(job.wait(PATIENCE), 143, "{way:?} {}", job.stderr());
        assert!(job.output_ended(PATIENCE));
        assert_eq!(
            count(&job.stdout(), &print),
            1,
            "{way:?} {} {}",
            job.stdout(),
            job.stderr()
        );
        // It is the job's, so it is named; and it is dead.
        let report = job.report();
        assert_eq!(found(&report, "ssh-agent"), [kept()], "{way:?} {report:#?}");
        assert!(report.clean);
        world.assert_nothing_left();
    }
}

#[test]
fn one_of_a_captured_job_is_spared_as_well() {
    let Some((mut world, print)) = world_with_own("spare-detach") else {
        return;
    };
    let dir = world.dir.display().to_string();
    let id = world.finish(
        &["--detach", "--dir", &dir, "--after", LIST_OWN],
        &["sh", "-c", OWN],
    );
    let id = id.expect(0).text();
    let record = world.dir.join("state").join(&id);
    let up = || fs::read_to_string(record.join("log-01")).is_ok_and(|text| text.contains("up"));
    assert!(wait_written(&record, up));
    world.call(&["stop", &id]).expect(0);
    let text = world.call(&["logs", &id]).expect(0).text();
    assert_eq!(count(&text, &print), 1, "{text}");
    let report = &world.closed_reports()[0];
    assert_eq!(found(report, "ssh-agent"), [kept()], "{report:#?}");
    world.assert_nothing_left();
}

/// A command whose supervisor was killed is cut without being asked before.
#[test]
fn one_is_spared_when_somebody_else_runs_the_after_phase() {
    let Some((mut world, print)) = world_with_own("spare-killed") else {
        return;
    };
    let mut job = start(&mut world, &["--after", LIST_OWN], OWN);
    let cage = world.cages()[0].clone();
    job.signal(Signal::SIGKILL);
    assert_eq!(job.wait(PATIENCE), 137);
    assert!(cgroup::wait_gone(&cage, PATIENCE), "nobody closes it");
    assert!(job.output_ended(PATIENCE));
    assert_eq!(count(&job.stdout(), &print), 1, "{}", job.stdout());
    world.assert_nothing_left();
}

#[test]
fn nobody_is_spared_who_is_not_named_or_not_needed() {
    let Some((mut world, print)) = world_with_own("spare-none") else {
        return;
    };
    for way in ["none", "gpg-agent,other"] {
        let mut job = start(&mut world, &["--after", LIST_OWN, "--spare", way], OWN);
        job.signal(Signal::SIGTERM);
        assert_eq!(job.wait(PATIENCE), 143, "{}", job.stderr());
        assert!(job.output_ended(PATIENCE));
        assert_eq!(count(&job.stdout(), &print), 0, "{way:?} {}", job.stdout());
        assert_eq!(found(&job.report(), "ssh-agent"), [], "it has died of the signal");
    }
    // Nobody comes after it.
    let alone = "eval $(ssh-agent -a own) > /dev/null; echo up; sleep 300 & wait";
    let mut job = start(&mut world, &[], alone);
    job.signal(Signal::SIGTERM);
    assert_eq!(job.wait(PATIENCE), 143, "{}", job.stderr());
    assert_eq!(found(&job.report(), "ssh-agent"), []);
    // After a normal exit nothing is cut before the after phase, so nothing is moved.
    let quick = OWN.replace("sleep 300 & wait", "exit 5");
    let done = world.finish(&["--after", LIST_OWN], &["sh", "-c", &quick]);
    let done = done.expect(5);
    assert_eq!(count(&done.text(), &print), 1, "{}", done.text());
    let leaf = FoundBy::Cgroup("01-step".into());
    assert_eq!(found(&done.report(), "ssh-agent"), [leaf]);
    world.assert_nothing_left();
}

#[test]
fn other_programs_can_be_named() {
    let mut world = World::new("spare-names");
    let sleep = std::path::Path::new("/usr/bin/sleep");
    fs::copy(sleep, world.dir.join("my-agent")).unwrap();
    // By the program, not by what it calls itself, nor by its arguments.
    // A child is bash itself until it has become its program.
    let script = "./my-agent 301 & until [ $(readlink /proc/$!/exe) = $PWD/my-agent ]; do sleep 0.01; done; \
                  (exec -a my-agent sleep 302) & echo up; wait";
    let options = words(&["--after", "true", "--spare", "my-agent"]);
    let mut job = world.run(&[], &options, &words(&["bash", "-c", script]));
    assert!(job.wait_line("up"), "{}", job.stderr());
    job.signal(Signal::SIGTERM);
    assert_eq!(job.wait(PATIENCE), 143, "{}", job.stderr());
    let report = job.report();
    assert_eq!(
        (found(&report, "my-agent"), report.census.count),
        (vec![kept()], 1),
        "{report:#?}"
    );
    world.assert_nothing_left();
}
