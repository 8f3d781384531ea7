//! The change of hands: whoever looks after a job is killed, in each of its states, and the job notices nothing.
//!
//! With one holder of the pipe alive, output and status are exact and the after phase runs once. With none the job is
//! closed as lost, and the report says so.

use crate::stage::{ALL, Stage, Victims, Who};
use crate::support::captured::{Captured, kill_all};
use jobcage_job::{Clock, Ending, ExitStatus, Report};
use nix::sys::signal::Signal;

/// Says that it ran, what it was told, and how the job ended.
const AFTER: &str = "echo $JOBCAGE_RESULT $JOBCAGE_EXIT_CODE $JOBCAGE_SIGNAL >> after; echo after";

/// What a lost job has to be.
#[track_caller]
fn is_lost(stage: &Stage, job: &Captured, report: &Report, log: &str) {
    assert!(matches!(report.ending, Ending::Lost { .. }), "{report:#?}");
    assert_eq!((report.exit_code, report.closed_by.as_str()), (125, "gc"));
    // What was in the log stays.
    assert_eq!(job.text("log-01"), log);
    assert!(
        !report.steps[0].logs.iter().any(|log| log.whole),
        "{:#?}",
        report.steps
    );
    assert_eq!(stage.after(), "", "the script died with them");
}

/// While it runs: not a byte is missing, and none comes twice.
fn running(who: Who) {
    for victims in ALL {
        let Some(mut stage) = Stage::new("hands-running", who) else {
            return;
        };
        let job = stage.detach(
            &["--after", AFTER],
            "echo one; read word < go; echo $word; exit 7",
        );
        job.wait_log("log-01", "one\n");
        stage.kill(&job, victims);
        let _go = stage.world.say_into("go", "two");
        let report = job.wait_over();
        if victims == Victims::Both {
            is_lost(&stage, &job, &report, "one\n");
        } else {
            assert_eq!(
                (&report.ending, report.status, report.exit_code),
                (&Ending::Exited { code: 7 }, Some(ExitStatus::Code(7)), 7),
                "{victims:?}: {report:#?}"
            );
            assert_eq!(
                (job.text("log-01"), stage.after()),
                ("one\ntwo\n".into(), "failed 7\n".into())
            );
            assert!(
                report
                    .steps
                    .iter()
                    .flat_map(|step| &step.logs)
                    .all(|log| log.whole),
                "{report:#?}"
            );
            assert_eq!(job.text("log-02"), "after\n");
        }
        stage.look_behind(&job, &report, victims);
    }
}

/// While it has its grace: it is asked once, and what it says then counts.
fn leaving(who: Who) {
    for victims in ALL {
        let Some(mut stage) = Stage::new("hands-leaving", who) else {
            return;
        };
        let script = "trap 'echo asked; read word < go; echo $word; exit 9' TERM; echo up; while :; do sleep 0.02; done";
        let job = stage.detach(&["--grace", "1h", "--after", AFTER], script);
        job.wait_log("log-01", "up\n");
        job.supervisor(&stage.world).signal(Signal::SIGTERM);
        job.wait_log("log-01", "up\nasked\n");
        stage.kill(&job, victims);
        let _go = stage.world.say_into("go", "two");
        let report = job.wait_over();
        if victims == Victims::Both {
            is_lost(&stage, &job, &report, "up\nasked\n");
        } else {
            assert!(
                matches!(report.ending, Ending::Cancelled(_)),
                "{victims:?}: {report:#?}"
            );
            assert_eq!(
                (report.status, report.exit_code),
                (Some(ExitStatus::Code(9)), 143),
                "{victims:?}: {report:#?}"
            );
            assert_eq!(job.text("log-01"), "up\nasked\ntwo\n", "{victims:?}");
            assert_eq!(stage.after(), "canceled 143\n");
        }
        stage.look_behind(&job, &report, victims);
    }
}

/// While its after phase runs, which is not started again.
fn after_phase(who: Who) {
    for victims in ALL {
        let Some(mut stage) = Stage::new("hands-after", who) else {
            return;
        };
        let after = "echo began >> after; echo began; read word < go; echo $word >> after; echo $word";
        let job = stage.detach(&["--after", after], "echo one; exit 7");
        job.wait_log("log-02", "began\n");
        stage.kill(&job, victims);
        let _go = stage.world.say_into("go", "two");
        let report = job.wait_over();
        assert_eq!(job.text("log-01"), "one\n");
        if victims == Victims::Both {
            assert!(matches!(report.ending, Ending::Lost { .. }), "{report:#?}");
            assert!(stage.after().starts_with("began\n") && !stage.after().contains("began\nbegan"));
        } else {
            assert_eq!(
                report.ending,
                Ending::Exited { code: 7 },
                "{victims:?}: {report:#?}"
            );
            assert_eq!(
                (stage.after(), job.text("log-02")),
                ("began\ntwo\n".into(), "began\ntwo\n".into()),
                "{victims:?}"
            );
            assert_eq!(
                report.steps[1].ending,
                Ending::Exited { code: 0 },
                "{victims:?}: {report:#?}"
            );
            assert!(
                report
                    .steps
                    .iter()
                    .flat_map(|step| &step.logs)
                    .all(|log| log.whole),
                "{report:#?}"
            );
        }
        stage.look_behind(&job, &report, victims);
    }
}

/// Clocks go on: they are deadlines, written down.
fn clocks(who: Who) {
    for victims in ALL {
        let Some(mut stage) = Stage::new("hands-clocks", who) else {
            return;
        };
        let stubborn = "trap 'echo asked' TERM; echo up; while :; do sleep 0.02; done";
        let options = ["--timeout", "1s", "--grace", "1s", "--after", AFTER];
        let job = stage.detach(&options, stubborn);
        job.wait_log("log-01", "up\n");
        // Before the first clock, and, where there is somebody left to kill, before the second.
        stage.kill(&job, victims);
        if victims == Victims::Supervisor {
            job.wait_log("log-01", "up\nasked\n");
            stage.kill(&job, victims);
        }
        let report = job.wait_over();
        if victims == Victims::Both {
            is_lost(&stage, &job, &report, "up\n");
        } else {
            assert_eq!(
                report.ending,
                Ending::TimedOut { clock: Clock::Wall },
                "{victims:?}: {report:#?}"
            );
            assert_eq!(
                report.status,
                Some(ExitStatus::Signal(9)),
                "{victims:?}: {report:#?}"
            );
            // Not before its time; and not so late as if a clock had begun again, or nobody had looked at it.
            assert!(
                (2.0..20.0).contains(&report.wall_seconds),
                "{victims:?}: {}",
                report.wall_seconds
            );
            assert_eq!(
                (job.text("log-01"), stage.after()),
                ("up\nasked\n".into(), "timedout 124\n".into()),
                "{victims:?}"
            );
        }
        stage.look_behind(&job, &report, victims);
    }
}

/// One after the other, and the keeper last: the status of a process whose parent is gone is told by the kernel.
fn again_and_again(who: Who) {
    let Some(mut stage) = Stage::new("hands-again", who) else {
        return;
    };
    let script = "exec 3<> go; while read word <&3 && [ $word != end ]; do echo $word; done; exit 7";
    let job = stage.detach(&["--after", AFTER], script);
    let mut log = String::new();
    let mut before = 0;
    for i in 0..6 {
        let supervisor = job.next_supervisor(&stage.world, before);
        before = supervisor.pid;
        kill_all(&[&supervisor]);
        let go = stage.world.say_into("go", &i.to_string());
        log += &format!("{i}\n");
        job.wait_log("log-01", &log);
        drop(go);
    }
    job.next_supervisor(&stage.world, before);
    kill_all(&[&job.keeper()]);
    let _go = stage.world.say_into("go", "end");
    let report = job.wait_over();
    assert_eq!(job.text("log-01"), log);
    match &report.ending {
        Ending::Exited { code: 7 } => assert_eq!(stage.after(), "failed 7\n"),
        // Kernels before 6.15 tell it to nobody but a parent.
        Ending::Lost { why } => assert!(why.contains("this kernel"), "{why}"),
        other => panic!("{other:?}"),
    }
    let notes = report
        .notes
        .iter()
        .filter(|note| note.contains("took over"))
        .count();
    assert_eq!(notes, 6, "{:#?}", report.notes);
    stage.look_behind(&job, &report, Victims::Keeper);
}

/// Killed in the moment in which the main process ends: its status is not lost on the way.
fn at_the_end(who: Who) {
    for victims in [Victims::Supervisor, Victims::Keeper] {
        let Some(mut stage) = Stage::new("hands-end", who) else {
            return;
        };
        for code in 1..=10 {
            let _ = std::fs::remove_file(stage.world.dir.join("after"));
            let job = stage.detach(
                &["--after", AFTER],
                &format!("read word < go; echo last; exit {code}"),
            );
            let (supervisor, keeper) = (job.supervisor(&stage.world), job.keeper());
            let go = stage.world.say_into("go", "on");
            let victim = if victims == Victims::Supervisor {
                &supervisor
            } else {
                &keeper
            };
            kill_all(&[victim]);
            let report = job.wait_over();
            drop(go);
            assert_eq!(report.ending, Ending::Exited { code }, "{victims:?}: {report:#?}");
            assert_eq!(
                (job.text("log-01"), stage.after()),
                ("last\n".into(), format!("failed {code}\n")),
                "{victims:?}"
            );
        }
        stage.world.assert_nobody_left();
    }
}

macro_rules! plays {
    ($($who:ident: $value:expr),*) => {
        $(mod $who {
            use super::super::Who;
            #[test] fn running() { super::super::running($value); }
            #[test] fn leaving() { super::super::leaving($value); }
            #[test] fn after_phase() { super::super::after_phase($value); }
            #[test] fn clocks() { super::super::clocks($value); }
            #[test] fn again_and_again() { super::super::again_and_again($value); }
            #[test] fn at_the_end() { super::super::at_the_end($value); }
        })*
    };
}

mod played {
    plays! { own: Who::Own, other_user: Who::Other, rootless: Who::Rootless }
}
