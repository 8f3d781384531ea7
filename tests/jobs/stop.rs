//! `jobcage stop`: any job, from any place.

use crate::support::PATIENCE;
use crate::support::process::Process;
use crate::support::world::World;
use crate::{create, listed, words};
use jobcage_job::Ending;
use std::time::Instant;

const POLITE: &str = "trap 'echo asked; exit 0' TERM; echo up; while :; do sleep 0.02; done";
const STUBBORN: &str = "trap 'echo asked' TERM; echo up; while :; do sleep 0.02; done";

#[test]
fn a_foreground_run_is_asked_politely() {
    let mut world = World::new("stop-run");
    let mut job = world.run(
        &[],
        &words(&["--after", "echo after $JOBCAGE_RESULT"]),
        &words(&["sh", "-c", POLITE]),
    );
    assert!(job.wait_line("up"));
    let id = listed(&world)[0].0.clone();
    let answer = world.call(&["stop", &id, "--json"]).expect(0).json();
    assert_eq!(
        (answer["job"].as_str(), answer["result"].as_str()),
        (Some(id.as_str()), Some("stopped"))
    );
    // It returns when the job is over.
    assert!(job.jobcage.has_ended());
    assert_eq!(job.wait(PATIENCE), 143, "{}", job.stderr());
    assert!(job.output_ended(PATIENCE));
    assert_eq!(job.stdout(), "up\nasked\nafter canceled\n");
    assert!(matches!(job.report().ending, Ending::Cancelled(_)));
    let told = world.call(&["stop", &id]).refused();
    assert!(told.contains(&id), "{told}");
    world.assert_nothing_left();
}

#[test]
fn now_means_without_grace() {
    let mut world = World::new("stop-now");
    let mut job = world.run(&[], &words(&["--grace", "1h"]), &words(&["sh", "-c", STUBBORN]));
    assert!(job.wait_line("up"));
    let id = listed(&world)[0].0.clone();
    let began = Instant::now();
    world.call(&["stop", &id, "--now"]).expect(0);
    assert_eq!(job.wait(PATIENCE), 143, "{}", job.stderr());
    assert!(began.elapsed() < PATIENCE);
    world.assert_nothing_left();
}

#[test]
fn a_created_job_is_closed_by_the_stop_itself() {
    let mut world = World::new("stop-created");
    for (options, asked) in [
        (&[][..], "asked-TERM"),
        (&["--signal", "USR1"], "asked-USR1"),
        (&["--now"], ""),
    ] {
        let id = create(&world, &["--grace", "20s"]);
        let script = "(trap 'echo asked-TERM > told; exit' TERM; trap 'echo asked-USR1 > told; exit' USR1; : > up; \
                      while :; do sleep 0.02; done) > /dev/null 2>&1 & while ! [ -e up ]; do sleep 0.01; done; rm up; echo $!";
        let left = world
            .call(&["run", "--job", &id, "--", "sh", "-c", script])
            .expect(0)
            .text();
        let left = Process::open(left.parse().unwrap());
        let mut words = vec!["stop", &id, "--json"];
        words.extend(options);
        let answer = world.call(&words).expect(0).json();
        assert_eq!(answer["result"].as_str(), Some("closed"), "{answer:#}");
        assert_eq!(
            answer["report"]["ending"]["by"].as_str(),
            Some("cleanup"),
            "{answer:#}"
        );
        assert!(left.has_ended());
        let told = std::fs::read_to_string(world.dir.join("told")).unwrap_or_default();
        let _ = std::fs::remove_file(world.dir.join("told"));
        assert_eq!(told.trim(), asked, "{options:?}");
        let answer = world.call(&["stop", &id, "--json"]).expect(0).json();
        assert_eq!(answer["result"].as_str(), Some("over"));
    }
    world.assert_nothing_left();
}

#[test]
fn a_stop_waits_for_a_job_that_is_stopped() {
    let mut world = World::new("stop-stopped");
    let mut job = world.run(
        &[],
        &[],
        &words(&["sh", "-c", "echo up; kill -STOP $$; sleep 300"]),
    );
    assert!(job.wait_line("up"));
    let id = listed(&world)[0].0.clone();
    world.call(&["stop", &id]).expect(0);
    assert_eq!(job.wait(PATIENCE), 143, "{}", job.stderr());
    world.assert_nothing_left();
}

#[test]
fn what_is_no_job_is_refused() {
    let world = World::new("stop-nothing");
    for words in [
        &["stop", "job-00000000"][..],
        &["stop", "../../x"],
        &["stop", ""],
        &["show", "job-00000000"],
        &["cleanup", "job-00000000"],
    ] {
        world.call(words).refused();
    }
}
