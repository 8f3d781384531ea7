//! The after phase: always, once, and with the story of the job in its environment.

use crate::support::PATIENCE;
use crate::support::world::World;
use jobcage_job::{Clock, Ending, ExitStatus, Report, StepKind, StepReport};
use nix::sys::signal::Signal;
use std::time::Instant;

const TELL: &str =
    "echo after:$JOBCAGE_RESULT:$JOBCAGE_EXIT_CODE:$JOBCAGE_SIGNAL:$JOBCAGE_ENDING:$JOBCAGE_JOB >> told";

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|w| (*w).to_owned()).collect()
}

fn told(world: &World) -> String {
    let text = std::fs::read_to_string(world.dir.join("told")).unwrap_or_default();
    let _ = std::fs::remove_file(world.dir.join("told"));
    text
}

fn after_step(report: &Report) -> StepReport {
    let steps: Vec<_> = report
        .steps
        .iter()
        .filter(|s| s.kind == StepKind::After)
        .collect();
    assert_eq!(steps.len(), 1, "{report:#?}");
    steps[0].clone()
}

#[test]
fn it_knows_how_the_command_ended() {
    let world = World::new("after-endings");
    for (options, script, code, expected) in [
        (&[][..], "exit 0", 0, "success:0::exited"),
        (&[], "exit 7", 7, "failed:7::exited"),
        (
            &["--rlimit", "core=0"],
            "kill -9 $$",
            137,
            "failed:137:9:signalled",
        ),
        (
            &["--timeout", "100ms"],
            "sleep 60",
            124,
            "timedout:124::timed_out",
        ),
        (
            &["--idle-timeout", "100ms"],
            "sleep 60",
            124,
            "timedout:124::timed_out",
        ),
        // The signal that a command gives jobcage ends it like anybody else's.
        (&[], "kill -TERM $PPID; sleep 60", 143, "canceled:143::cancelled"),
    ] {
        let mut all = vec!["--after", TELL];
        all.extend(options);
        let done = world.finish(&all, &["sh", "-c", script]).expect(code);
        let report = done.report();
        assert_eq!(
            told(&world),
            format!("after:{expected}:{}\n", report.job),
            "{script}"
        );
        let after = after_step(&report);
        assert_eq!(
            (after.ending, after.name.as_str()),
            (Ending::Exited { code: 0 }, "after")
        );
    }
    let done = world
        .finish(&["--after", TELL], &["/no/such/command"])
        .expect(127);
    assert_eq!(
        told(&world),
        format!("after:failed:127::never_started:{}\n", done.report().job)
    );
    world.assert_clean_after_gc();
}

#[test]
fn its_own_result_is_not_the_jobs() {
    let world = World::new("after-result");
    for (code, after) in [
        (0, "exit 9"),
        (6, "exit 0"),
        (0, "kill -9 $$"),
        (3, "no-such-command-anywhere"),
    ] {
        let done = world
            .finish(&["--after", after], &["sh", "-c", &format!("exit {code}")])
            .expect(code);
        assert_eq!(done.report().ending, Ending::Exited { code });
    }
    let done = world.finish(&["--after", "exit 9"], &["true"]).expect(0);
    let step = after_step(&done.report());
    assert_eq!(
        (step.ending, step.status),
        (Ending::Exited { code: 9 }, Some(ExitStatus::Code(9)))
    );
}

#[test]
fn after_a_normal_end_it_may_still_talk_to_what_the_command_left() {
    let mut world = World::new("after-beside");
    let script = "sleep 300 & echo $! > left; exit 0";
    let done = world
        .finish(
            &["--after", "kill -0 $(cat left) && echo it lives"],
            &["sh", "-c", script],
        )
        .expect(0);
    assert_eq!(done.text(), "it lives");
    assert_eq!(done.report().census.count, 1, "and then it was killed");
    world.assert_nothing_left();
}

/// Where the job was ended by force, the after phase never runs beside its processes.
#[test]
fn after_a_stop_the_processes_of_the_step_are_dead() {
    let mut world = World::new("after-alone");
    let script =
        "trap '' TERM; sleep 300 & echo $! > left; echo $$ >> left; echo up; while :; do sleep 0.05; done";
    let after = "for pid in $(cat left); do kill -0 $pid 2>/dev/null && echo alive $pid; done; echo ran >> told; echo seen";
    let options = ["--after", after, "--grace", "100ms"];
    let mut job = world.run(&[], &words(&options), &words(&["sh", "-c", script]));
    assert!(job.wait_line("up"));
    job.signal(Signal::SIGTERM);
    assert_eq!(job.wait(PATIENCE), 143, "{}", job.stderr());
    assert!(job.output_ended(PATIENCE));
    assert_eq!(job.stdout(), "up\nseen\n");
    assert_eq!(told(&world), "ran\n", "it runs once");
    for clock in ["--timeout", "--idle-timeout"] {
        let mut all = options.to_vec();
        all.extend([clock, "1500ms"]);
        let done = world.finish(&all, &["sh", "-c", script]).expect(124);
        assert_eq!(done.text(), "up\nseen");
        assert_eq!(told(&world), "ran\n");
    }
    world.assert_nothing_left();
}

#[test]
fn it_has_its_own_clock() {
    let mut world = World::new("after-timeout");
    let after = "echo begun; trap '' TERM; sleep 300";
    let done = world
        .finish(
            &["--after", after, "--after-timeout", "200ms"],
            &["sh", "-c", "exit 5"],
        )
        .expect(5);
    assert_eq!(done.text(), "begun");
    let report = done.report();
    assert_eq!(report.ending, Ending::Exited { code: 5 });
    assert_eq!(
        after_step(&report).ending,
        Ending::TimedOut { clock: Clock::Wall },
        "{report:#?}"
    );
    assert!(
        report.notes.iter().any(|n| n.contains("after phase ran out")),
        "{:?}",
        report.notes
    );
    // The job's own clock is over when the command is: it does not count here.
    let done = world
        .finish(
            &["--after", "sleep 0.6; echo whole", "--timeout", "400ms"],
            &["true"],
        )
        .expect(0);
    assert_eq!(done.text(), "whole");
    world.assert_nothing_left();
}

#[test]
fn a_stop_ends_it_too() {
    let mut world = World::new("after-stop");
    let mut job = world.run(
        &[],
        &words(&["--after", "echo begun; sleep 300; echo late"]),
        &words(&["sh", "-c", "exit 4"]),
    );
    assert!(job.wait_line("begun"));
    job.signal(Signal::SIGTERM);
    assert_eq!(
        job.wait(PATIENCE),
        4,
        "the command had ended before: {}",
        job.stderr()
    );
    assert!(!job.stdout().contains("late"));
    let report = job.report();
    assert!(
        matches!(after_step(&report).ending, Ending::Cancelled(_)),
        "{report:#?}"
    );
    assert!(
        report.notes.iter().any(|n| n.contains("cut short")),
        "{:?}",
        report.notes
    );
    world.assert_nothing_left();
}

#[test]
fn it_runs_like_the_command() {
    let world = World::new("after-like");
    let dir = world.dir.join("home").display().to_string();
    let after = "pwd; echo $WORD $(cut -d' ' -f19 /proc/self/stat); sed -n 's/^0:://p' /proc/self/cgroup";
    let done = world
        .finish(
            &[
                "--dir",
                &dir,
                "--env",
                "WORD=given",
                "--nice",
                "3",
                "--after",
                after,
            ],
            &["true"],
        )
        .expect(0);
    let text = done.text();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[..2], [dir.as_str(), "given 3"], "{text}");
    let job = done.report().job;
    assert!(
        lines[2].contains(&format!("/{job}/after/")),
        "a leaf of its own: {text}"
    );
    // An empty one takes back what a weaker place sets.
    let done = world
        .finish_with(&["--after="], &["true"], b"", |c| {
            c.env("JOBCAGE_AFTER", "echo from the variable");
        })
        .expect(0);
    assert_eq!(done.text(), "");
    let done = world
        .finish_with(&[], &["true"], b"", |c| {
            c.env("JOBCAGE_AFTER", "echo from the variable");
        })
        .expect(0);
    assert_eq!(done.text(), "from the variable");
}

/// It lands in every moment of the start, also in the one in which the process is born and has not become its program.
#[test]
fn a_second_stop_while_it_is_started_cuts_it_short() {
    let mut world = World::new("after-second-stop");
    for round in 0..40 {
        let argv = words(&["sh", "-c", "echo up; exec sleep 300"]);
        let mut job = world.run(&[], &words(&["--after", "sleep 300"]), &argv);
        assert!(job.wait_line("up"), "{}", job.stderr());
        let after = world.cages()[0].join("after");
        job.signal(Signal::SIGTERM);
        let began = Instant::now();
        while !after.exists() {
            assert!(began.elapsed() < PATIENCE, "round {round}: no after phase");
        }
        job.signal(Signal::SIGTERM);
        assert_eq!(job.wait(PATIENCE), 143, "round {round}: {}", job.stderr());
        assert!(job.report().clean, "round {round}: {:#?}", job.report());
    }
    world.assert_nothing_left();
}
