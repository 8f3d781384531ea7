//! Lines that break at every moment and in every way: no byte is lost, none comes twice, the end is the job's own, and nothing is left there.

use crate::door::Break;
use crate::rig::{Rig, Running, can, children};
use crate::support::process::Process;
use crate::support::say;
use crate::support::seed::{Random, full_sweep};
use nix::sys::signal::Signal;
use std::time::Duration;

/// Lines on both streams at once, with their numbers; slowly at first and in the end, and fast between.
const TALK: &str = "i=0; while [ $i -lt 30 ]; do i=$((i+1)); echo out $i; echo err $i >&2; sleep 0.01; done
    seq 1 40000; seq 1 40000 >&2
    while [ $i -lt 60 ]; do i=$((i+1)); echo out $i; echo err $i >&2; sleep 0.01; done; exit 42";

fn said(word: &str) -> String {
    let line = |i: u32| format!("{word} {i}\n");
    let before: String = (1..=30).map(line).collect();
    let between: String = (1..=40000).map(|i| format!("{i}\n")).collect();
    let after: String = (31..=60).map(line).collect();
    [before, between, after].concat()
}

/// What jobcage itself tells is no output of the job. It may come in the middle of a line of that, where a piece has ended.
fn without_ours(err: &str) -> String {
    let mut pieces = err.split("jobcage: ");
    let first = pieces.next().unwrap_or_default();
    let behind = pieces.filter_map(|piece| Some(piece.split_once('\n')?.1));
    [first].into_iter().chain(behind).collect()
}

/// What breaks a line.
#[derive(Debug, Clone, Copy)]
enum Harm {
    Door(Break),
    /// Our ssh is killed.
    KillSsh,
    /// Our ssh stops, and nobody lets it go on.
    StopSsh,
    /// The session over there is killed, with what sshd has started in it.
    KillSession,
    /// It stops.
    StopSession,
}

const HARMS: &[Harm] = &[
    Harm::Door(Break::Close),
    Harm::Door(Break::Reset),
    Harm::Door(Break::Silence),
    Harm::KillSsh,
    Harm::StopSsh,
    Harm::KillSession,
    Harm::StopSession,
];

fn below(pid: i32) -> Vec<i32> {
    let mut all = vec![pid];
    for child in children(pid) {
        all.extend(below(child));
    }
    all
}

fn harm(rig: &Rig, running: &Running, harm: Harm) {
    let session = |signal| {
        for pid in session_of(rig) {
            Process::open(pid).signal(signal);
        }
    };
    match harm {
        Harm::Door(how) => rig.door.cut(how),
        Harm::KillSsh => running.ssh().iter().for_each(|ssh| ssh.signal(Signal::SIGKILL)),
        Harm::StopSsh => running.ssh().iter().for_each(|ssh| ssh.signal(Signal::SIGSTOP)),
        Harm::KillSession => session(Signal::SIGKILL),
        Harm::StopSession => session(Signal::SIGSTOP),
    }
}

/// What sshd has started, and not what looks after the job, which has been that's child for a while.
fn session_of(rig: &Rig) -> Vec<i32> {
    let name = rig
        .world
        .cgroup_root
        .file_name()
        .unwrap()
        .to_str()
        .unwrap()
        .to_owned();
    let is_ours = |pid: &i32| {
        let cgroup = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        !cgroup.contains(&name)
    };
    let all = rig.sessions().into_iter().flat_map(below);
    all.filter(is_ours).collect()
}

/// Sessions that were stopped end when they may.
fn wake(rig: &Rig) {
    for pid in session_of(rig) {
        Process::open(pid).signal(Signal::SIGCONT);
    }
}

#[test]
fn no_break_costs_a_byte() {
    if !can("broken::no_break_costs_a_byte") {
        return;
    }
    let mut random = Random::of("remote-broken");
    let rounds = if full_sweep() { 200 } else { 4 };
    let mut rig = Rig::new("remote-broken");
    rig.run(&[], &["true"]).expect(0);
    let (mut breaks, mut lines) = (0, 0);
    for round in 0..rounds {
        let before = rig.door.count();
        let running = rig.start("run", &["--keepalive", "300ms", "--", "sh", "-c", TALK]);
        // A first line that never was one is no line that breaks.
        running.wait_for("out 1\n");
        let mut told = Vec::new();
        for _ in 0..1 + random.next() % 3 {
            let how = *random.pick(HARMS);
            // Without an event: any moment is right, and each has its turn.
            let pause = Duration::from_millis(random.next() % 900);
            std::thread::sleep(pause);
            harm(&rig, &running, how);
            told.push((how, pause));
            breaks += 1;
        }
        let ended = running.end();
        let story = format!(
            "round {round}: {told:?}\n{}",
            ended
                .err
                .lines()
                .filter(|l| l.contains("jobcage: "))
                .collect::<Vec<_>>()
                .join("\n")
        );
        assert_eq!(ended.code, 42, "{story}");
        assert!(ended.text() == said("out"), "stdout: {story}");
        assert!(without_ours(&ended.err) == said("err"), "stderr: {story}");
        wake(&rig);
        lines += rig.door.count() - before;
    }
    say(&format!(
        "{rounds} jobs over {lines} lines, {breaks} breaks: no byte lost, none doubled, each end its own"
    ));
    rig.assert_nothing_left();
}

/// At each byte of the beginning, where the job is asked for and has not begun: it is started once.
#[test]
fn a_job_is_started_once_wherever_the_line_breaks() {
    if !can("broken::a_job_is_started_once_wherever_the_line_breaks") {
        return;
    }
    let mut random = Random::of("remote-start");
    // So many lines are to be cut; one that is over before its time is none.
    let wanted = if full_sweep() { 80 } else { 3 };
    let rig = Rig::new("remote-start");
    rig.run(&[], &["true"]).expect(0);
    let file = rig.world.dir.join("begun");
    let script = format!("echo begun >>{}; echo said", file.display());
    let (mut cuts, mut round) = (0, 0);
    while cuts < wanted {
        round += 1;
        assert!(round <= wanted * 10, "{cuts} lines were cut of {round}");
        let _ = std::fs::remove_file(&file);
        // The first lines of ssh itself are some 4 KB; a line that never was one is no line that has broken.
        let bytes = 3000 + random.next() % 2500;
        rig.door
            .cut_after(bytes, *random.pick(&[Break::Close, Break::Reset]));
        let done = rig.run(&["--keepalive", "300ms"], &["sh", "-c", &script]);
        cuts += i32::from(!rig.door.has_fuse());
        rig.door.forget_fuse();
        let begun = std::fs::read_to_string(&file).unwrap_or_default();
        match done.code {
            0 => assert_eq!(
                (done.text().as_str(), begun.as_str()),
                ("said", "begun\n"),
                "round {round}, {bytes} bytes"
            ),
            // It has never met the host.
            125 => assert!(
                done.told().contains("cannot reach there") && begun.is_empty(),
                "round {round}, {bytes}: {}",
                done.told()
            ),
            other => panic!("round {round}, {bytes} bytes: {other} {}", done.told()),
        }
    }
    say(&format!(
        "{round} jobs, {cuts} lines cut while they began: none begun twice"
    ));
    rig.assert_nothing_left();
}

/// A reader here that stands still holds back nobody there, and loses nothing.
#[test]
fn much_output_over_a_line_that_breaks_is_whole() {
    if !can("broken::much_output_over_a_line_that_breaks_is_whole") {
        return;
    }
    let mut rig = Rig::new("remote-much");
    rig.run(&[], &["true"]).expect(0);
    rig.door.cut_after(10_000_000, Break::Reset);
    let running = rig.start("run", &["--keepalive", "300ms", "--", "seq", "1", "4000000"]);
    let ended = running.end().expect(0);
    assert!(!rig.door.has_fuse());
    assert!(ended.err.contains("is there again"), "{}", ended.err);
    let whole: String = (1..=4_000_000).map(|i| format!("{i}\n")).collect();
    assert!(ended.text() == whole);
    rig.assert_nothing_left();
}
