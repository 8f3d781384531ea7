//! `jobcage stop`: any job, from any place.

use crate::support::PATIENCE;
use crate::support::call::wait;
use crate::support::job::Job;
use crate::support::needs::{self, Need};
use crate::support::process::Process;
use crate::support::world::World;
use crate::{create, listed, words};
use jobcage_job::{Cause, Ending};
use std::process::Stdio;
use std::time::{Duration, Instant};

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
    assert!(job.output_ended(PATIENCE));
    assert_eq!(job.stdout(), "up\n", "it was asked first");
    world.assert_nothing_left();
    world.assert_clean();
}

/// Signal and time are those of the stop, and the report says who asked.
#[test]
fn a_stop_brings_its_own_signal_and_time() {
    let mut world = World::new("stop-own-way");
    let script =
        "trap 'echo asked-TERM' TERM; trap 'echo asked-USR1' USR1; echo up; while :; do sleep 0.02; done";
    let mut job = world.run(&[], &words(&["--grace", "1h"]), &words(&["sh", "-c", script]));
    assert!(job.wait_line("up"));
    let id = listed(&world)[0].0.clone();
    let mut stop = world.shell_command(&format!(
        "exec \"$JOBCAGE\" stop {id} --signal USR1 --grace 400ms"
    ));
    let began = Instant::now();
    let mut stop = stop.spawn().unwrap();
    assert!(wait(&mut stop, PATIENCE).is_some_and(|status| status.success()));
    let took = began.elapsed();
    assert!((Duration::from_millis(400)..PATIENCE).contains(&took), "{took:?}");
    assert_eq!(job.wait(PATIENCE), 143, "{}", job.stderr());
    assert!(job.output_ended(PATIENCE));
    assert_eq!(job.stdout(), "up\nasked-USR1\n");
    let by = Cause::Stop {
        pid: i32::try_from(stop.id()).unwrap(),
        uid: nix::unistd::getuid().as_raw(),
    };
    assert_eq!(job.report().ending, Ending::Cancelled(by));
    world.assert_nothing_left();
    world.assert_clean();
}

/// Starts a stop that has to wait for the grace of a stubborn job, and returns when the job was asked.
fn stopping(world: &World, job: &mut Job, id: &str) -> std::process::Child {
    let mut stop = world.shell_command(&format!("exec \"$JOBCAGE\" stop {id}"));
    let stop = stop.stderr(Stdio::null()).spawn().unwrap();
    assert!(job.wait_line("asked"), "{}", job.stderr());
    stop
}

#[test]
fn a_second_stop_cuts_the_grace_of_the_first() {
    let mut world = World::new("stop-again");
    for again in [&["--now"][..], &[]] {
        let mut job = world.run(&[], &words(&["--grace", "1h"]), &words(&["sh", "-c", STUBBORN]));
        assert!(job.wait_line("up"));
        let id = listed(&world)[0].0.clone();
        let mut first = stopping(&world, &mut job, &id);
        let mut words = vec!["stop", &id];
        words.extend(again);
        world.call(&words).expect(0);
        assert!(wait(&mut first, PATIENCE).is_some_and(|status| status.success()));
        assert_eq!(job.wait(PATIENCE), 143, "{}", job.stderr());
        let report = job.report();
        let note = report
            .notes
            .iter()
            .find(|note| note.contains("asked again, by jobcage stop"));
        assert!(note.is_some(), "{:?}", report.notes);
        let first = i32::try_from(first.id()).unwrap();
        let by_first = matches!(report.ending, Ending::Cancelled(Cause::Stop { pid, .. }) if pid == first);
        assert!(by_first, "{:?}", report.ending);
    }
    world.assert_nothing_left();
    world.assert_clean();
}

/// Two that ask in the same moment are heeded as one or as two, and both come back.
#[test]
fn two_stops_at_once_both_return() {
    let mut world = World::new("stop-two");
    for _ in 0..5 {
        let mut job = world.run(&[], &words(&["--grace", "1s"]), &words(&["sh", "-c", POLITE]));
        assert!(job.wait_line("up"));
        let id = listed(&world)[0].0.clone();
        let script = format!(
            "\"$JOBCAGE\" stop {id} & a=$!; \"$JOBCAGE\" stop {id} & b=$!; wait $a; echo $?; wait $b; echo $?"
        );
        let codes = world.shell(&script).expect(0).text();
        // One that comes when the job is over finds none.
        assert!(matches!(codes.as_str(), "0\n0" | "0\n125" | "125\n0"), "{codes}");
        assert_eq!(job.wait(PATIENCE), 143, "{}", job.stderr());
    }
    world.assert_nothing_left();
    world.assert_clean();
}

/// Under `nohup` and its like a SIGTERM means nothing to jobcage, but a stop is a stop.
#[test]
fn a_job_whose_caller_ignores_the_signal_is_stopped_all_the_same() {
    let mut world = World::new("stop-ignored");
    let wrap = words(&["sh", "-c", "trap '' TERM; exec \"$@\"", "sh"]);
    let mut job = world.run(&wrap, &[], &words(&["sh", "-c", "echo up; exec sleep 300"]));
    assert!(job.wait_line("up"));
    let id = listed(&world)[0].0.clone();
    job.signal(nix::sys::signal::Signal::SIGTERM);
    assert!(
        !job.jobcage.wait_end(Duration::from_millis(300)),
        "{}",
        job.stderr()
    );
    // sleep inherits what is ignored, so only the kill ends it.
    world.call(&["stop", &id, "--grace", "200ms"]).expect(0);
    assert_eq!(job.wait(PATIENCE), 143, "{}", job.stderr());
    world.assert_nothing_left();
    world.assert_clean();
}

#[test]
fn a_damaged_request_is_passed_over_with_a_note() {
    let mut world = World::new("stop-damaged");
    for text in [
        "{",
        "{\"version\": 99}",
        "{\"version\": 1, \"signal\": 0, \"pid\": 1, \"uid\": 0}",
    ] {
        let mut job = world.run(&[], &[], &words(&["sh", "-c", POLITE]));
        assert!(job.wait_line("up"));
        let id = listed(&world)[0].0.clone();
        std::fs::write(world.dir.join("run").join(&id).join("stop.json"), text).unwrap();
        job.signal(nix::sys::signal::Signal::SIGTERM);
        assert_eq!(job.wait(PATIENCE), 143, "{}", job.stderr());
        let report = job.report();
        assert!(matches!(
            report.ending,
            Ending::Cancelled(Cause::Signal { signal: 15, .. })
        ));
        assert!(
            report.notes.iter().any(|note| note.contains("passed over")),
            "{:?}",
            report.notes
        );
    }
    world.assert_clean();
}

/// The end by somebody without a right to it is refused, and the job has nothing of it.
#[test]
fn another_user_may_not_stop_it() {
    let needs = [Need::Root, Need::Program("setpriv")];
    if !needs::met("another_user_may_not_stop_it", &needs) {
        return;
    }
    let mut world = World::new("stop-foreign");
    let mut job = world.run(&[], &[], &words(&["sh", "-c", POLITE]));
    assert!(job.wait_line("up"));
    let id = listed(&world)[0].0.clone();
    let as_other = "setpriv --reuid 61234 --regid 61234 --clear-groups \"$JOBCAGE\"";
    let told = world.shell(&format!("{as_other} stop {id}")).refused();
    assert!(told.contains("another user"), "{told}");
    // Records that anybody may open, as no jobcage makes them: the signal is what it has no right to.
    for dir in [world.dir.join("run"), world.dir.join("run").join(&id)] {
        std::fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    }
    for file in ["lock", "spec.json"] {
        let path = world.dir.join("run").join(&id).join(file);
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    }
    let told = world.shell(&format!("{as_other} stop {id}")).refused();
    assert!(told.contains("only that user and root may stop it"), "{told}");
    assert!(!world.dir.join("run").join(&id).join("stop.json").exists());
    job.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(job.wait(PATIENCE), 143);
    assert!(matches!(
        job.report().ending,
        Ending::Cancelled(Cause::Signal { .. })
    ));
}

/// The supervisor dies while it is asked: whoever asked sees the job closed, or closes it himself.
#[test]
fn a_stop_outlives_the_supervisor_that_it_asked() {
    let mut world = World::new("stop-orphan");
    for watched in [true, false] {
        let mut job = world.run(&[], &words(&["--grace", "1h"]), &words(&["sh", "-c", STUBBORN]));
        assert!(job.wait_line("up"));
        let running = listed(&world).into_iter().find(|(_, state)| state == "running");
        let id = running.unwrap().0;
        let mut stop = stopping(&world, &mut job, &id);
        if !watched {
            job.stop();
            world.kill_watchers();
        }
        job.signal(nix::sys::signal::Signal::SIGKILL);
        assert_eq!(job.wait(PATIENCE), 137);
        assert!(wait(&mut stop, PATIENCE).is_some_and(|status| status.success()));
        let shown = world.call(&["show", &id, "--json"]).expect(0).json();
        assert_eq!(shown["state"].as_str(), Some("over"), "{shown:#}");
        if !watched {
            assert_eq!(
                shown["report"]["ending"]["by"].as_str(),
                Some("stop"),
                "{shown:#}"
            );
        }
    }
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
            Some("stop"),
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

/// Whatever kind they are of, and side by side: one after the other they would take six seconds.
#[test]
fn all_jobs_are_stopped_at_once() {
    let mut world = World::new("stop-all");
    let created = create(&world, &[]);
    world
        .call(&[
            "run",
            "--job",
            &created,
            "--",
            "sh",
            "-c",
            "sleep 300 > /dev/null 2>&1 &",
        ])
        .expect(0);
    let mut polite = world.run(
        &[],
        &words(&["--after", "echo after $JOBCAGE_RESULT"]),
        &words(&["sh", "-c", POLITE]),
    );
    assert!(polite.wait_line("up"));
    let stubborn: Vec<_> = (0..4)
        .map(|_| {
            let job = world.detach(
                &["--grace", "1500ms", "--after", "echo after"],
                &["sh", "-c", STUBBORN],
            );
            job.wait_log("log-01", "up\n");
            job
        })
        .collect();
    let began = Instant::now();
    let answer = world.call(&["stop", "--all", "--json"]).expect(0).json();
    let took = began.elapsed();
    assert!(
        (Duration::from_millis(1500)..Duration::from_secs(5)).contains(&took),
        "{took:?}"
    );
    let mut results: Vec<_> = answer
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["result"].as_str().unwrap())
        .collect();
    results.sort_unstable();
    assert_eq!(
        results,
        ["closed", "stopped", "stopped", "stopped", "stopped", "stopped"],
        "{answer:#}"
    );
    assert_eq!(polite.wait(PATIENCE), 143, "{}", polite.stderr());
    assert!(polite.output_ended(PATIENCE));
    assert_eq!(polite.stdout(), "up\nasked\nafter canceled\n");
    for job in stubborn {
        assert_eq!(job.text("log-02"), "after\n");
    }
    // What is over stays as it is.
    assert_eq!(world.call(&["stop", "--all", "--json"]).expect(0).text(), "[]");
    world.assert_nobody_left();
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
