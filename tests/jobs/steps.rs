//! A cage that stays open, and the steps in it.

use crate::support::PATIENCE;
use crate::support::cgroup;
use crate::support::job::read_report;
use crate::support::process::Process;
use crate::support::world::World;
use crate::{create, listed, words};
use jobcage_job::{Ending, StepKind};

#[test]
fn steps_follow_each_other_and_cleanup_ends_the_job() {
    let mut world = World::new("steps");
    let id = create(&world, &["--name", "three steps"]);
    assert!(id.starts_with("three-steps-"), "{id}");
    assert_eq!(listed(&world), [(id.clone(), "open".to_owned())]);
    let mut places = Vec::new();
    for (code, script) in [
        (0, "sleep 300 > /dev/null 2>&1 & echo $! > left"),
        (7, "exit 7"),
        (0, "kill -0 $(cat left)"),
    ] {
        let done = world
            .call(&[
                "run",
                "--job",
                &id,
                "--",
                "sh",
                "-c",
                &format!("sed -n 's/^0:://p' /proc/self/cgroup; {script}"),
            ])
            .expect(code);
        assert_eq!(
            done.told(),
            "",
            "what a step leaves is told at the end of the job"
        );
        places.push(done.text());
    }
    for (n, place) in places.iter().enumerate() {
        assert!(
            place.contains(&format!("/{id}/0{}-", n + 1)),
            "a fresh leaf for each step: {place}"
        );
    }
    let report = world.dir.join("end.json");
    let done = world
        .call(&["cleanup", &id, "--report", report.to_str().unwrap()])
        .expect(0);
    assert!(
        done.told().contains("1 process was left and killed"),
        "{}",
        done.told()
    );
    let report = read_report(&report);
    assert_eq!(report.closed_by, "cleanup");
    assert_eq!(
        (report.name.as_deref(), report.clean, report.census.count),
        (Some("three steps"), true, 1)
    );
    let endings: Vec<Ending> = report.steps.iter().map(|s| s.ending.clone()).collect();
    let code = |code| Ending::Exited { code };
    assert_eq!(endings, [code(0), code(7), code(0)]);
    assert_eq!(
        report.steps.iter().map(|s| s.number).collect::<Vec<_>>(),
        [1, 2, 3]
    );
    assert!(
        report
            .steps
            .iter()
            .all(|s| s.kind == StepKind::Step && s.ended.is_some())
    );
    world.assert_nothing_left();
    // Over is over, and cleanup may be repeated.
    assert_eq!(listed(&world), [(id.clone(), "over".to_owned())]);
    world.call(&["cleanup", &id]).expect(0);
    let told = world.call(&["run", "--job", &id, "--", "true"]).refused();
    assert!(told.contains(&id) && told.contains("is over"), "{told}");
}

#[test]
fn a_steps_own_options_hold_and_the_cages_are_refused() {
    let world = World::new("step-options");
    let id = create(&world, &[]);
    assert!(id.starts_with("job-"), "{id}");
    let step = |options: &[&str], script: &str| {
        let mut all = vec!["run", "--job", &id];
        all.extend(options);
        all.extend(["--", "sh", "-c", script]);
        world.call(&all)
    };
    assert_eq!(
        step(&["--env", "A=1", "--dir", "/"], "echo $A $PWD $JOBCAGE_JOB")
            .expect(0)
            .text(),
        format!("1 / {id}")
    );
    let done = step(&["--timeout", "200ms"], "sleep 300").expect(124);
    assert!(done.told().contains("ran out of time"), "{}", done.told());
    step(&["--idle-timeout", "200ms"], "sleep 300").expect(124);
    let report = world.dir.join("step.json");
    step(&["--report", report.to_str().unwrap()], "exit 9").expect(9);
    let report = read_report(&report);
    assert_eq!((report.exit_code, report.steps.len()), (9, 1));
    for option in [
        ["--name", "x"],
        ["--memory", "1G"],
        ["--after", "true"],
        ["--after-timeout", "1s"],
    ] {
        let told = step(&option, "touch ran").refused();
        assert!(told.contains(option[0]) && told.contains("--job"), "{told}");
    }
    // A command that does not exist is a step as well.
    world
        .call(&["run", "--job", &id, "--", "/no/such/command"])
        .expect(127);
    world
        .call(&["run", "--job", "job-00000000", "--", "true"])
        .refused();
    world.call(&["run", "--job", "../../x", "--", "true"]).refused();
    world.call(&["cleanup", &id]).expect(0);
    assert!(!world.dir.join("ran").exists());
}

#[test]
fn two_steps_at_a_time() {
    let mut world = World::new("two-steps");
    let id = create(&world, &[]);
    let script = "echo up; read line < $0; echo $line";
    let mut jobs = Vec::new();
    for fifo in ["first", "second"] {
        world.fifo(fifo);
        let mut job = world.run(&[], &words(&["--job", &id]), &words(&["sh", "-c", script, fifo]));
        assert!(job.wait_line("up"), "{}", job.stderr());
        jobs.push((fifo, job));
    }
    let cage = world.cages()[0].clone();
    assert_eq!(cgroup::below(&cage).len(), 3, "{}", cgroup::tree(&cage));
    for (fifo, mut job) in jobs {
        let _held = world.say_into(fifo, "went on");
        assert_eq!(job.wait(PATIENCE), 0, "{}", job.stderr());
    }
    world.call(&["cleanup", &id]).expect(0);
    let report = world.call(&["show", &id, "--json"]).expect(0).json();
    assert_eq!(report["report"]["steps"].as_array().unwrap().len(), 2);
    world.assert_nothing_left();
}

/// Many steps that begin in the same moment each get a leaf and a file of their own.
#[test]
fn steps_that_begin_together_do_not_share() {
    let world = World::new("many-steps");
    let id = create(&world, &[]);
    let script = format!(
        "for i in 1 2 3 4 5 6 7 8; do \"$JOBCAGE\" run --job {id} -- sed -n 's/^0:://p' /proc/self/cgroup & done; wait"
    );
    let text = world.shell(&script).expect(0).text();
    let mut leaves: Vec<&str> = text.lines().collect();
    leaves.sort_unstable();
    leaves.dedup();
    assert_eq!(leaves.len(), 8, "{text}");
    world.call(&["cleanup", &id]).expect(0);
    let report = world.call(&["show", &id, "--json"]).expect(0).json();
    assert_eq!(
        report["report"]["steps"].as_array().unwrap().len(),
        8,
        "{report:#}"
    );
}

#[test]
fn cleanup_while_a_step_runs_ends_it() {
    let mut world = World::new("cleanup-busy");
    let id = create(&world, &[]);
    let mut job = world.run(
        &[],
        &words(&["--job", &id]),
        &words(&["sh", "-c", "echo $$; echo up; sleep 300"]),
    );
    assert!(job.wait_line("up"));
    let main = Process::open(job.stdout().lines().next().unwrap().parse().unwrap());
    let done = world.call(&["cleanup", &id]).expect(0);
    assert!(done.told().contains("left and killed"), "{}", done.told());
    assert!(main.has_ended(), "cleanup is over and the step lives");
    assert_eq!(job.wait(PATIENCE), 137, "{}", job.stderr());
    world.assert_nothing_left();
}

#[test]
fn two_cleanups_at_a_time_agree() {
    let world = World::new("two-cleanups");
    for _ in 0..5 {
        let id = create(&world, &[]);
        world
            .call(&[
                "run",
                "--job",
                &id,
                "--",
                "sh",
                "-c",
                "sleep 300 > /dev/null 2>&1 & :",
            ])
            .expect(0);
        let script =
            format!("\"$JOBCAGE\" cleanup {id} & a=$!; \"$JOBCAGE\" cleanup {id} & b=$!; wait $a; wait $b");
        let done = world.shell(&script);
        assert!(matches!(done.code, 0 | 125), "{}", done.told());
        let report = world.call(&["show", &id, "--json"]).expect(0).json();
        assert_eq!(
            (&report["state"], &report["report"]["clean"]),
            (&"over".into(), &true.into()),
            "{report:#}"
        );
    }
    assert!(world.cages().is_empty());
}

#[test]
fn a_run_job_is_no_place_for_further_steps() {
    let mut world = World::new("run-is-closed");
    let mut job = world.run(&[], &[], &words(&["sh", "-c", "echo up; sleep 300"]));
    assert!(job.wait_line("up"));
    let id = listed(&world)[0].0.clone();
    let told = world.call(&["run", "--job", &id, "--", "true"]).refused();
    assert!(told.contains("jobcage create"), "{told}");
    let told = world.call(&["cleanup", &id]).refused();
    assert!(told.contains("jobcage stop"), "{told}");
    job.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(job.wait(PATIENCE), 143);
}

#[test]
fn a_cage_that_cannot_be_made_leaves_nothing() {
    let world = World::new("create-fails");
    world.call(&["create", "--cgroup-root", "/tmp"]).refused();
    world.call(&["create", "--lease-pid", "999999999"]).refused();
    world.call(&["create", "--lease-pid", "0"]).refused();
    world.call(&["create", "--user", "no-such-user"]).refused();
    if !cgroup::has_controller("memory") {
        world.call(&["create", "--memory", "1G"]).refused();
        let done = world
            .call(&["create", "--memory", "1G", "--best-effort"])
            .expect(0);
        world.call(&["cleanup", &done.text()]).expect(0);
        std::fs::remove_dir_all(world.dir.join("state").join(done.text())).unwrap();
    }
    world.assert_clean();
}
