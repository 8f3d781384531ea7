//! What must be true at the end of a cell.

use super::cell::{Outcome, Started};
use super::{Animal, Ending, Fate, Helper};
use crate::support::PATIENCE;
use crate::support::cgroup;
use crate::support::process::describe;
use crate::support::world::World;
use jobcage_job::{Clock, Death, Ending as Reported, FoundBy, Report};
use nix::sys::signal::Signal;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Looks at the end of a cell, by the fate of its animal.
pub fn fate(world: &mut World, animal: &Animal, ending: Ending, mut started: Started, code: i32) {
    world.phase(format!(
        "looking at the end by {ending:?}, ready {:?}",
        started.ready
    ));
    match animal.fate {
        Fate::Dies | Fate::Escapes => dead(world, animal, ending, &mut started, code),
        Fate::Quarantined => quarantined(world, animal, ending, &mut started, code),
    }
}

fn dead(world: &mut World, animal: &Animal, ending: Ending, started: &mut Started, code: i32) {
    assert_eq!(
        code,
        expected_code(ending),
        "jobcage's exit code; {}",
        started.job.stderr()
    );
    if ending == Ending::KilledThenGc {
        let gc = world.jobcage(&(animal.wrap)(world), &["gc"]);
        assert!(gc.status.success(), "gc: {}", String::from_utf8_lossy(&gc.stderr));
    }
    assert!(
        !started.cage.exists(),
        "the cage is left:\n{}",
        cgroup::tree(&started.cage)
    );
    let report = if ending.kills_jobcage() {
        closed_report(world)
    } else {
        started.job.report()
    };
    report_fits(&report, ending, code);
    assert!(report.clean, "not clean: {report:#?}");
    assert_eq!(report.quarantine, None);
    assert_eq!(report.cage, started.cage.to_str().unwrap());
    let escapes = animal.fate == Fate::Escapes;
    if escapes {
        escaped(animal, &report, &started.ready.pids);
    } else {
        // `populated 0` was proven, so there is nothing to wait for; a zombie has ended.
        let alive = started.held.iter().find(|p| !p.has_ended());
        assert!(alive.is_none(), "alive: {:?}", alive.map(|p| describe(p.pid)));
    }
    if !escapes && ending.exit().is_some() {
        census(animal, &report, &started.ready.pids);
    }
    let (ready, stderr) = (started.ready.clone(), started.job.stderr());
    (animal.also)(&Outcome {
        ending,
        ready,
        report,
        stderr,
    });
    if escapes {
        // jobcage may have spared them; the test does not.
        started.held.iter().for_each(|p| p.signal(Signal::SIGKILL));
        assert!(started.held.iter().all(|p| p.wait_end(PATIENCE)));
    }
    assert!(
        started.job.output_ended(PATIENCE),
        "somebody still holds the job's stdout"
    );
    world.assert_nothing_left();
}

fn expected_code(ending: Ending) -> i32 {
    match ending {
        Ending::Success => 0,
        Ending::Failure => 7,
        Ending::Term => 128 + 15,
        Ending::Timeout => 124,
        // jobcage itself was killed by signal 9.
        Ending::KilledThenGc | Ending::KilledAlone => 128 + 9,
    }
}

/// The report of a job that its jobcage did not live to close.
fn closed_report(world: &World) -> Report {
    let written = || !world.closed_reports().is_empty();
    assert!(
        cgroup::wait_change(&record(world), PATIENCE, written),
        "nobody wrote a report for the lost job"
    );
    world.closed_reports().remove(0)
}

/// The record of the one job, or where it would be.
fn record(world: &World) -> PathBuf {
    let run = world.dir.join("run");
    let mut listed = std::fs::read_dir(&run)
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.path());
    listed.find(|p| p.is_dir()).unwrap_or(run)
}

fn report_fits(report: &Report, ending: Ending, code: i32) {
    let fits = match ending {
        Ending::Success => report.ending == Reported::Exited { code: 0 },
        Ending::Failure => report.ending == Reported::Exited { code: 7 },
        Ending::Term => matches!(&report.ending, Reported::Cancelled(_)),
        Ending::Timeout => report.ending == Reported::TimedOut { clock: Clock::Wall },
        Ending::KilledThenGc | Ending::KilledAlone => matches!(&report.ending, Reported::Lost { .. }),
    };
    assert!(fits, "{ending:?}, and the report says {:?}", report.ending);
    let closer = if ending.kills_jobcage() {
        "gc"
    } else {
        "supervisor"
    };
    assert_eq!(report.closed_by, closer);
    if !ending.kills_jobcage() {
        assert_eq!(report.exit_code, code, "the report's exit code is jobcage's");
    }
}

/// A job that ended by itself left these processes, and the report names them.
fn census(animal: &Animal, report: &Report, pids: &[i32]) {
    for &index in animal.named {
        let found = report.census.left.iter().find(|l| l.pid == pids[index]);
        let left = found.unwrap_or_else(|| panic!("{} is not in the census: {report:#?}", pids[index]));
        assert_eq!(left.died, Death::Killed);
        assert!(matches!(left.found, FoundBy::Cgroup(_)), "{left:?}");
    }
    if !animal.named.is_empty() {
        let proof = report
            .proof
            .as_ref()
            .expect("a cage that was not empty has a proof");
        assert!(proof.removed && proof.populated != Some(true), "{proof:?}");
    }
}

fn escaped(animal: &Animal, report: &Report, pids: &[i32]) {
    assert!(
        !report.escaped.is_empty(),
        "an escape was passed over: {report:#?}"
    );
    for &index in animal.named {
        let named = |e: &jobcage_job::Escape| e.process.as_ref().is_some_and(|p| p.pid == pids[index]);
        assert!(
            report.escaped.iter().any(named),
            "{} is not named: {:#?}",
            pids[index],
            report.escaped
        );
    }
}

fn quarantined(world: &mut World, animal: &Animal, ending: Ending, started: &mut Started, code: i32) {
    let stuck: Vec<i32> = animal.named.iter().map(|&i| started.ready.pids[i]).collect();
    assert!(
        started.cage.exists(),
        "the cage of something that lives was removed"
    );
    if ending.kills_jobcage() {
        assert_eq!(code, 137);
        gc_says_so(world);
        quarantine_report(animal, started, &closed_report(world), &stuck);
    } else {
        assert_eq!(
            code,
            125,
            "something survived: jobcage has failed; {}",
            started.job.stderr()
        );
        let said = started.job.stderr();
        assert!(
            stuck.iter().all(|pid| said.contains(&pid.to_string())),
            "{stuck:?} unnamed: {said}"
        );
        quarantine_report(animal, started, &started.job.report(), &stuck);
    }
    // Nothing but what is stuck may live.
    for (index, process) in started.held.iter().enumerate() {
        assert!(
            animal.named.contains(&index) || process.has_ended(),
            "alive: {}",
            describe(process.pid)
        );
    }
    release(world, started);
    assert!(
        started.job.output_ended(PATIENCE),
        "somebody still holds the job's stdout"
    );
    world.assert_nothing_left();
}

/// `jobcage gc` fails and says that the job is quarantined; not at once, where the watcher is just trying to close the
/// same job. Who is stuck stands in the report that it leaves.
fn gc_says_so(world: &World) {
    let end = Instant::now() + PATIENCE;
    loop {
        let gc = world.jobcage(&[], &["gc"]);
        let said = [gc.stdout, gc.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        if said.contains("quarantine") {
            assert_eq!(gc.status.code(), Some(125), "what is stuck is no success: {said}");
            return;
        }
        assert!(Instant::now() < end, "gc says nothing of a quarantine: {said}");
        cgroup::wait_change(&record(world), Duration::from_millis(100), || false);
    }
}

fn quarantine_report(animal: &Animal, started: &Started, report: &Report, stuck: &[i32]) {
    assert!(!report.clean, "{report:#?}");
    let quarantine = report
        .quarantine
        .as_ref()
        .unwrap_or_else(|| panic!("no quarantine: {report:#?}"));
    assert_eq!(quarantine.cage, started.cage.to_str().unwrap());
    for pid in stuck {
        let found = quarantine.survivors.iter().find(|s| s.pid == *pid);
        let survivor = found.unwrap_or_else(|| panic!("{pid} is not named: {quarantine:#?}"));
        assert_eq!(survivor.died, Death::Survived);
        if animal.helper == Helper::Tracer {
            let tracer = started.helper.as_ref().map(|h| h.pid);
            assert_eq!(survivor.tracer, tracer, "the tracer holds it: {survivor:?}");
        } else {
            assert_eq!(survivor.state, 'D', "{survivor:?}");
        }
    }
}

/// Ends what holds the survivors; then a gc, and all is well.
fn release(world: &mut World, started: &Started) {
    world.phase("releasing what is in quarantine");
    let helper = started
        .helper
        .as_ref()
        .expect("a quarantined animal has a helper");
    helper.signal(Signal::SIGTERM);
    assert!(
        helper.wait_end(PATIENCE),
        "the helper does not end: {}",
        describe(helper.pid)
    );
    for process in &started.held {
        assert!(
            process.wait_end(Duration::from_secs(10)),
            "alive: {}",
            describe(process.pid)
        );
    }
    let gc = world.jobcage(&[], &["gc"]);
    assert!(gc.status.success(), "gc: {}", String::from_utf8_lossy(&gc.stderr));
    assert!(
        cgroup::wait_gone(&started.cage, PATIENCE),
        "gc left {}",
        cgroup::tree(&started.cage)
    );
}
