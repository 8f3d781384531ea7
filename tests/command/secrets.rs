//! CI secrets live in the environment, in scripts and in arguments: none of them may reach a file of ours.

use crate::support::PATIENCE;
use crate::support::cgroup;
use crate::support::world::World;
use nix::sys::signal::Signal;
use std::fs;
use std::path::Path;

/// In each place where a secret may stand, another one.
const OPTIONS: [&str; 4] = [
    "--env",
    "TOKEN=SENTINEL-env",
    "--after",
    ": SENTINEL-after; sleep 0",
];
const SCRIPT: &str = ": SENTINEL-script; sleep 300 & echo up; read line < go; exit 0";

/// Files below a directory that hold the word.
pub fn holding(dir: &Path, word: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() {
            found.extend(holding(&path, word));
        } else if kind.is_file()
            && fs::read(&path).is_ok_and(|c| c.windows(word.len()).any(|w| w == word.as_bytes()))
        {
            found.push(path.display().to_string());
        }
        if path.to_string_lossy().contains(word) {
            found.push(path.display().to_string());
        }
    }
    found
}

fn assert_no_secret(world: &World, when: &str) {
    for place in ["run", "state"] {
        assert_eq!(
            holding(&world.dir.join(place), "SENTINEL"),
            Vec::<String>::new(),
            "{when}"
        );
    }
}

fn argv() -> Vec<String> {
    ["sh", "-c", SCRIPT, "SENTINEL-name", "SENTINEL-argument"]
        .map(str::to_owned)
        .to_vec()
}

#[test]
fn none_is_on_disk_during_and_after_a_run() {
    let mut world = World::new("secrets");
    world.fifo("go");
    let mut job = world.run(&[], &OPTIONS.map(str::to_owned), &argv());
    assert!(job.wait_line("up"));
    assert!(!world.records().is_empty(), "there is a record to look into");
    assert_no_secret(&world, "while it runs");
    // The watcher lives on: nothing of the environment may be in it.
    for pid in world.watchers() {
        let env = fs::read(format!("/proc/{pid}/environ")).unwrap();
        assert!(!String::from_utf8_lossy(&env).contains("SENTINEL"));
    }
    for words in [&["list", "--json"][..], &["show", &world.records()[0], "--json"]] {
        let done = world.call(words).expect(0);
        assert!(
            !done.text().contains("SENTINEL") && done.text().contains("running"),
            "{}",
            done.text()
        );
    }
    let _held = world.say_into("go", "");
    assert_eq!(job.wait(PATIENCE), 0, "{}", job.stderr());
    assert_no_secret(&world, "after a clean end");
}

#[test]
fn none_is_on_disk_after_a_crash() {
    let mut world = World::new("secrets-crash");
    world.fifo("go");
    let mut job = world.run(&[], &OPTIONS.map(str::to_owned), &argv());
    assert!(job.wait_line("up"));
    let cage = world.cages()[0].clone();
    job.signal(Signal::SIGKILL);
    assert_eq!(job.wait(PATIENCE), 137);
    assert!(
        cgroup::wait_gone(&cage, PATIENCE),
        "the watcher has not closed it"
    );
    let record = world.dir.join("run").join(cage.file_name().unwrap());
    assert!(cgroup::wait_change(&record, PATIENCE, || record
        .join("report.json")
        .exists()));
    assert_no_secret(&world, "after a crash");
}

#[test]
fn no_message_tells_a_value() {
    let world = World::new("secrets-told");
    for options in [
        &["--env", "TOKEN=SENTINEL\u{7}", "--timeout", "soon"][..],
        &["--env", "=SENTINEL"],
        &["--verbose", "--env", "TOKEN=SENTINEL"],
        &["--env", "JOBCAGE_JOB=SENTINEL"],
        &["--after", "SENTINEL", "--after-timeout", "never"],
    ] {
        let done = world.finish(options, &["true"]);
        assert!(!done.told().contains("SENTINEL"), "{options:?}: {}", done.told());
    }
}
