//! Plays of the scenarios, held against the traces of the real runner.

use super::plan::Generation;
use super::player::{Played, Player, fixture, left};
use super::scenes::scene;
use super::trace::{Facts, Real, compare, facts, section};
use crate::runner;
use crate::support::PATIENCE;
use crate::support::process::Process;
use crate::support::world::World;
use std::fs;

/// The file of one generation.
fn text(generation: Generation) -> String {
    fs::read_to_string(fixture(&format!("{}.txt", generation.name()))).unwrap()
}

/// The scenarios that there are traces of.
pub fn names(generation: Generation) -> Vec<String> {
    let text = text(generation);
    let headings = text.lines().filter_map(|line| line.strip_prefix("=== "));
    headings.map(str::to_owned).collect()
}

/// Plays a scenario and compares.
pub fn play(generation: Generation, name: &str) {
    let real = Real::scenario(&text(generation), name);
    let Some(world) = runner::world(&format!("play-{}-{name}", generation.name())) else {
        return;
    };
    let (played, mine, second_ms) = play_in(&world, generation, name, &real);
    if let Err(wrong) = compare(&real, &played.lines, mine, second_ms) {
        panic!("{name} under {}: {wrong}\n{}", generation.name(), played.log);
    }
}

/// Plays a scenario: what came of it, what is left of it, and the length of a second.
pub fn play_in(world: &World, generation: Generation, name: &str, real: &Real) -> (Played, Facts, u64) {
    let scene = scene(generation, name);
    let mut player = Player::new(world, generation, scene.job);
    player.drive_with("driver");
    fs::copy(fixture("spy"), world.dir.join("spy")).unwrap();
    player.set("SPY", world.dir.join("spy").display());
    scene
        .fake
        .iter()
        .for_each(|(name, value)| player.set(name, value));
    player.plan.second_ms = scene.second_ms;
    (
        player.plan.timeouts.graceful_kill,
        player.plan.timeouts.force_kill,
    ) = (scene.graceful, scene.force);
    let mut live = player.start();
    (scene.act)(&mut live, real);
    let mut played = live.end();
    let left = names_left(world, &real.facts.left);
    played.read_again();
    let mut mine = facts(&played.lines);
    mine.left = left;
    (mine.runner_rc, mine.tmp_is_left) = (played.rc, played.tmp_is_left);
    (played, mine, scene.second_ms)
}

/// Who is left, once those who are not expected have had time to end: they do when the runner's pipe is gone.
fn names_left(world: &World, expected: &[String]) -> Vec<String> {
    for (pid, name) in left(world) {
        if !expected.contains(&name) {
            Process::open(pid).wait_end(PATIENCE / 3);
        }
    }
    let mut names: Vec<String> = left(world).into_iter().map(|(_, name)| name).collect();
    names.sort();
    names
}

/// A comparison that cannot fail proves nothing: one thing at a time is changed in what the real runner did.
pub fn mutated() {
    let (generation, name) = (Generation::V18, "stubborn-timeout");
    let Some(world) = runner::world("play-mutated") else {
        return;
    };
    let file = text(generation);
    let one = section(&file, name);
    let real = Real::read(one);
    let (played, mine, second_ms) = play_in(&world, generation, name, &real);
    let judge = |text: &str| compare(&Real::read(text), &played.lines, mine.clone(), second_ms);
    judge(one).unwrap();
    let mut tried = 0;
    for (what, with) in [
        ("driver cleanup START", "driver run[after_script] START"),
        ("run[build_script] EXIT rc=1", "run[build_script] EXIT rc=0"),
        ("run[build_script] GOT SIGTERM", "run[build_script] GOT SIGHUP"),
        ("spy[nohup] got SIGTERM", "spy[setsid] got SIGTERM"),
        ("job_execution_timeout", "script_failure"),
        ("\"jobctl 300\", ", ""),
        ("runner_rc=0", "runner_rc=1"),
        ("tmp_left=0", "tmp_left=9"),
        ("   11.56 driver cleanup START", "    6.50 driver cleanup START"),
        ("   11.56 driver cleanup START", "   14.56 driver cleanup START"),
        ("…/script build_script", "…/script. build_script"),
    ] {
        let changed = one.replace(what, with);
        assert_ne!(changed, one, "{what}: the fixture has no such word");
        assert!(
            judge(&changed).is_err(),
            "{what} and {with} are taken for the same"
        );
        tried += 1;
    }
    for (number, line) in one.lines().enumerate().skip(1) {
        let told = [" START ", " EXIT ", "SIGTERM", "exiting", " put ", "job_final"];
        if told.iter().any(|word| line.contains(word)) {
            let rest: Vec<&str> = one
                .lines()
                .enumerate()
                .filter(|(n, _)| *n != number)
                .map(|(_, line)| line)
                .collect();
            assert!(judge(&rest.join("\n")).is_err(), "nobody misses {line:?}");
            tried += 1;
        }
    }
    assert!(tried > 20, "{tried}");
}
