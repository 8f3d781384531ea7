//! `jobcage gc --keep` and `--keep-size`: old records, as a whole or not at all.

use crate::support::PATIENCE;
use crate::support::cgroup::wait_change;
use crate::support::world::World;
use crate::{create, listed};
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;
use std::process::Stdio;

/// The report of a job that has ended.
fn report(world: &World) -> Value {
    let id = create(world, &[]);
    world.call(&["cleanup", &id]).expect(0);
    let dir = world.dir.join("state").join(&id);
    let report = serde_json::from_slice(&fs::read(dir.join("report.json")).unwrap()).unwrap();
    fs::remove_dir_all(dir).unwrap();
    report
}

/// The record of a job that ended so many hours ago.
fn over(world: &World, report: &Value, id: &str, hours: u64) -> PathBuf {
    let dir = world.dir.join("state").join(id);
    fs::create_dir(&dir).unwrap();
    let ended = std::time::SystemTime::now() - std::time::Duration::from_secs(hours * 3600);
    let mut report = report.clone();
    report["job"] = json!(id);
    report["ended"] = json!(format!("{:.6}", jiff::Timestamp::try_from(ended).unwrap()));
    fs::write(dir.join("report.json"), report.to_string()).unwrap();
    fs::write(dir.join("lock"), "").unwrap();
    dir
}

/// Job and result of each line of gc's JSON.
fn results(done: &Value) -> Vec<(String, String)> {
    let word = |one: &Value, key: &str| one[key].as_str().unwrap().to_owned();
    let done = done.as_array().unwrap().iter();
    done.map(|one| (word(one, "job"), word(one, "result"))).collect()
}

fn ids(world: &World) -> Vec<String> {
    listed(world).into_iter().map(|(id, _)| id).collect()
}

#[test]
fn what_is_older_than_keep_goes() {
    let world = World::new("prune-keep");
    let report = report(&world);
    for (id, hours) in [("a-1", 1), ("b-50", 50), ("c-200", 200)] {
        over(&world, &report, id, hours);
    }
    let plan = world
        .call(&["gc", "--keep", "2h", "--dry-run", "--json"])
        .expect(0)
        .json();
    let planned = [("b-50", "planned"), ("c-200", "planned")].map(|(a, b)| (a.to_owned(), b.to_owned()));
    let mut found = results(&plan);
    found.sort();
    assert_eq!(found, planned);
    assert!(plan[0]["detail"]["bytes"].as_u64().unwrap() > 0, "{plan:#}");
    assert_eq!(ids(&world).len(), 3, "a dry run removed something");
    // The default is a week, and "none" is for ever.
    assert_eq!(
        results(&world.call(&["gc", "--keep", "none", "--json"]).expect(0).json()),
        []
    );
    let done = world.call(&["gc"]).expect(0).told();
    assert!(
        done.contains("c-200: its record is removed") && done.contains("1 record removed, "),
        "{done}"
    );
    assert_eq!(ids(&world), ["a-1", "b-50"]);
    // From a variable, and from a config file, which is weaker.
    fs::write(world.dir.join("config.toml"), "[gc]\nkeep = \"30m\"\n").unwrap();
    world.shell("JOBCAGE_KEEP=2h \"$JOBCAGE\" gc").expect(0);
    assert_eq!(ids(&world), ["a-1"]);
    world.call(&["gc"]).expect(0);
    world.assert_clean();
}

#[test]
fn the_oldest_go_until_the_rest_fits() {
    let world = World::new("prune-size");
    let report = report(&world);
    let open = create(&world, &[]);
    for n in 1..=4 {
        let dir = over(&world, &report, &format!("big-{n}"), 10 - n);
        fs::write(dir.join("log-01"), vec![7; 1 << 20]).unwrap();
        // A hole takes no room, however long the file is.
        fs::File::create(dir.join("log-02"))
            .unwrap()
            .set_len(1 << 40)
            .unwrap();
    }
    fs::write(
        world.dir.join("state").join(&open).join("log-01"),
        vec![7; 3 << 20],
    )
    .unwrap();
    let keep = ["gc", "--keep", "none", "--json", "--keep-size"];
    let gc = |size: &str| world.call(&[&keep[..], &[size]].concat()).expect(0).json();
    assert_eq!(results(&gc("5M")), [], "{:?}", ids(&world));
    let done = gc("2500K");
    let pruned = ["big-1", "big-2"].map(|id| (id.to_owned(), "pruned".to_owned()));
    assert_eq!(results(&done), pruned, "{done:#}");
    let bytes = done[0]["detail"]["bytes"].as_u64().unwrap();
    assert!((1 << 20..1 << 21).contains(&bytes), "{done:#}");
    assert_eq!(
        ids(&world),
        ["big-3", "big-4", &open],
        "an open job counts not and is not touched"
    );
    gc("0");
    assert_eq!(ids(&world), [open.as_str()]);
    world.call(&["cleanup", &open]).expect(0);
}

#[test]
fn two_at_once_remove_each_once_and_none_too_many() {
    let world = World::new("prune-two");
    let report = report(&world);
    for round in 0..4 {
        let all: Vec<String> = (0..20).map(|n| format!("r{round}-{n:02}")).collect();
        for (n, id) in all.iter().enumerate() {
            let dir = over(&world, &report, id, 100 - n as u64);
            fs::write(dir.join("log-01"), vec![7; 1 << 17]).unwrap();
        }
        // Ten take 1 280 KiB and what their reports and directories take, at most 12 KiB each.
        let gc = "\"$JOBCAGE\" gc --keep none --keep-size 1400K --json";
        world
            .shell(&format!(
                "{gc} > one & a=$!; {gc} > two & b=$!; wait $a && wait $b"
            ))
            .expect(0);
        let read = |name: &str| -> Value {
            serde_json::from_slice(&fs::read(world.dir.join(name)).unwrap()).unwrap()
        };
        let mut removed: Vec<String> = [read("one"), read("two")]
            .iter()
            .flat_map(results)
            .map(|(id, result)| {
                assert_eq!(result, "pruned");
                id
            })
            .collect();
        removed.sort();
        assert_eq!(removed, all[..10], "round {round}");
        assert_eq!(ids(&world), all[10..], "round {round}");
        world.call(&["gc", "--keep", "0"]).expect(0);
        world.assert_clean();
    }
}

/// Wherever it is cut off, a record is there or it is gone, and the next gc finishes.
#[test]
fn a_gc_that_is_killed_leaves_no_half_record() {
    let world = World::new("prune-killed");
    let report = report(&world);
    let state = world.dir.join("state");
    let mut cut = 0;
    for round in 0..5 {
        let id = format!("half-{round:02}");
        let dir = over(&world, &report, &id, 10);
        for n in 0..1200 {
            fs::write(dir.join(format!("log-{n}")), "x").unwrap();
        }
        let mut gc = world.shell_command("exec \"$JOBCAGE\" gc --keep 0");
        let mut gc = gc.stderr(Stdio::null()).spawn().unwrap();
        let renamed = state.join(format!(".gone-{id}"));
        assert!(wait_change(&state, PATIENCE, || !dir.exists()));
        gc.kill().unwrap();
        gc.wait().unwrap();
        cut += u32::from(renamed.exists());
        assert_eq!(ids(&world), Vec::<String>::new(), "half of it is seen");
        world.call(&["show", &id]).refused();
        let half = renamed.exists();
        let planned = results(&world.call(&["gc", "--dry-run", "--json"]).expect(0).json());
        assert_eq!(planned.len(), usize::from(half), "{planned:?}");
        world.call(&["gc"]).expect(0);
        world.assert_clean();
    }
    assert!(cut > 0, "no gc was killed in the middle");
}

/// A reader that has a file open goes on reading.
#[test]
fn a_reader_is_not_disturbed() {
    use std::io::Read as _;
    let world = World::new("prune-reader");
    let dir = over(&world, &report(&world), "read-1", 10);
    fs::write(dir.join("log-01"), "all of it").unwrap();
    let mut log = fs::File::open(dir.join("log-01")).unwrap();
    world.call(&["gc", "--keep", "0"]).expect(0);
    let mut text = String::new();
    log.read_to_string(&mut text).unwrap();
    assert_eq!(text, "all of it");
    world.assert_clean();
}
