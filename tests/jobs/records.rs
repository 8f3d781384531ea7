//! Records that are damaged, cut off, or from a newer jobcage.

use crate::support::PATIENCE;
use crate::support::world::World;
use crate::{create, listed, words};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::fs;

/// A spec that was cut off at any length is a job that never began, since the cage is made after the whole spec.
#[test]
fn a_spec_cut_at_every_length_is_swept() {
    let world = World::new("cut-spec");
    let id = create(&world, &[]);
    let spec = fs::read(world.dir.join("state").join(&id).join("spec.json")).unwrap();
    world.call(&["cleanup", &id]).expect(0);
    fs::remove_dir_all(world.dir.join("state").join(&id)).unwrap();
    // The last brace and the line end after it: what lacks only the latter is whole.
    let whole = spec.len() - 1;
    let mut ids = Vec::new();
    for length in 0..whole {
        let id = format!("cut-{length:08}");
        let dir = world.dir.join("run").join(&id);
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("spec.json"), &spec[..length]).unwrap();
        if length % 2 == 0 {
            fs::write(dir.join("lock"), "").unwrap();
        }
        ids.push(id);
    }
    fs::create_dir(world.dir.join("run/cut-no-spec0")).unwrap();
    ids.push("cut-no-spec0".into());
    let states = listed(&world);
    assert!(
        states.len() == ids.len() && states.iter().all(|(_, s)| s == "cut off before it began"),
        "{states:?}"
    );
    let done = world.call(&["gc", "--json"]).expect(0).json();
    let swept: Vec<&str> = done
        .as_array()
        .unwrap()
        .iter()
        .map(|d| d["job"].as_str().unwrap())
        .collect();
    assert_eq!(swept, ids);
    assert!(
        done.as_array()
            .unwrap()
            .iter()
            .all(|d| d["result"] == json!("swept")),
        "{done:#}"
    );
    world.assert_clean();
}

/// What is not ours to understand is not ours to remove.
#[test]
fn a_newer_record_is_refused_and_kept() {
    let world = World::new("newer");
    let (spec, over) = (
        create(&world, &["--name", "newer-spec"]),
        create(&world, &["--name", "newer-report"]),
    );
    world.call(&["cleanup", &over]).expect(0);
    let raise = |id: &str, file: &str| {
        let path = world.dir.join("state").join(id).join(file);
        let mut value: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        value["version"] = json!(99);
        value["something"] = json!({"new": true});
        fs::write(&path, value.to_string()).unwrap();
        path.display().to_string()
    };
    for (id, path) in [
        (&spec, raise(&spec, "spec.json")),
        (&over, raise(&over, "report.json")),
    ] {
        world.call(&["run", "--job", id, "--", "true"]).refused();
        for words in [["cleanup", id], ["stop", id]] {
            let told = world.call(&words).refused();
            assert!(
                told.contains(&path) && told.contains("99") && told.contains("newer"),
                "{words:?}: {told}"
            );
        }
        let shown = world.call(&["show", id, "--json"]).expect(0).json();
        assert_eq!(shown["state"], json!("unreadable"));
        assert!(shown["error"].as_str().unwrap().contains("newer"), "{shown:#}");
    }
    let done = world.call(&["gc", "--json"]).expect(125).json();
    let results: Vec<_> = done.as_array().unwrap().iter().map(|d| &d["result"]).collect();
    assert_eq!(results, [&json!("failed"), &json!("failed")], "{done:#}");
    assert_eq!(world.cages().len(), 1, "the cage of the newer job stays");
    let states: Vec<_> = listed(&world).into_iter().map(|(_, s)| s).collect();
    assert_eq!(states, ["unreadable", "unreadable"]);
}

#[test]
fn a_damaged_report_is_named_and_kept() {
    let world = World::new("damaged-report");
    let id = create(&world, &[]);
    world.call(&["cleanup", &id]).expect(0);
    let path = world.dir.join("state").join(&id).join("report.json");
    let text = fs::read(&path).unwrap();
    for damage in [&text[..text.len() / 2], b"", b"{}", b"\xff\xfe", b"[1, 2]"] {
        fs::write(&path, damage).unwrap();
        let done = world.call(&["gc"]).expect(125);
        assert!(
            done.told().contains(&path.display().to_string()),
            "{}",
            done.told()
        );
        assert_eq!(
            world.call(&["list", "--json"]).expect(0).json()[0]["state"],
            json!("unreadable")
        );
        assert_eq!(fs::read(&path).unwrap(), damage);
    }
}

/// Whatever else lies in the directories does not disturb.
#[test]
fn strangers_are_passed_over() {
    let mut world = World::new("strangers");
    let run = world.dir.join("run");
    fs::write(run.join("a-file"), "x").unwrap();
    fs::create_dir(run.join("UPPER")).unwrap();
    fs::create_dir(run.join(".hidden")).unwrap();
    std::os::unix::fs::symlink("/etc", run.join("etc-00000000")).unwrap();
    fs::create_dir(run.join("lost+found")).unwrap();
    assert_eq!(world.call(&["list", "--json"]).expect(0).json(), json!([]));
    assert_eq!(world.call(&["gc", "--json"]).expect(0).json(), json!([]));
    let mut job = world.run(&[], &[], &words(&["sh", "-c", "echo up; sleep 300"]));
    assert!(job.wait_line("up"));
    assert_eq!(listed(&world).len(), 1);
    job.signal(Signal::SIGTERM);
    assert_eq!(job.wait(PATIENCE), 143);
    assert!(run.join("a-file").exists() && run.join("etc-00000000").exists());
}

/// A record whose spec is valid JSON and not a spec, or names a place outside of any root, must not make gc kill there.
#[test]
fn a_spec_that_names_a_foreign_cgroup_kills_nobody() {
    let mut world = World::new("foreign-cage");
    let helper = world.helper(&["ignore-term"]);
    let id = create(&world, &[]);
    let dir = world.dir.join("run").join("forged-00000000");
    fs::create_dir(&dir).unwrap();
    let mut spec: Value =
        serde_json::from_slice(&fs::read(world.dir.join("state").join(&id).join("spec.json")).unwrap())
            .unwrap();
    world.call(&["cleanup", &id]).expect(0);
    spec["id"] = json!("forged-00000000");
    spec["created_by"] = json!("run");
    spec["cage"] = json!(world.outside);
    fs::write(dir.join("spec.json"), spec.to_string()).unwrap();
    let done = world.call(&["gc"]);
    assert!(
        !helper.has_ended(),
        "it killed in a cgroup that is no cage of the job: {}",
        done.told()
    );
    assert!(world.outside.exists());
}
