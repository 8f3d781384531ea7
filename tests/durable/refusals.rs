//! What cannot be started is refused to the client, and nothing of it is left.

use crate::support::cgroup;
use crate::support::world::World;
use std::fs;

#[test]
fn values_that_mean_harm() {
    let mut world = World::new("refuse-values");
    let long = "x".repeat(300);
    for name in ["", "a\nb", "a\u{7f}", &long] {
        let told = world
            .try_detach(&[&format!("--name={name}")], &["touch", "ran"])
            .refused();
        assert!(told.contains("name"), "{name:?}: {told}");
    }
    for name in ["../../x", "a/b", ".", "..", "-x", "a b", "Ä", "$(touch ran)"] {
        // A name is only what people call it: the id is made of it, and never leads anywhere else.
        let job = world.detach(&[&format!("--name={name}")], &["true"]);
        assert!(
            job.id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'),
            "{}",
            job.id
        );
        let report = job.wait_over();
        assert_eq!((report.exit_code, report.name.as_deref()), (0, Some(name)));
    }
    world.assert_nobody_left();
    fs::remove_dir_all(world.dir.join("state")).unwrap();
    fs::create_dir(world.dir.join("state")).unwrap();
    for (options, word) in [
        (&["--user", "no-such-user"][..], "no-such-user"),
        (&["--stdin", "/dev/null/x"], "/dev/null/x"),
        (&["--streams", "both"], "both"),
        (&["--log-full", "never"], "never"),
        (&["--log-max", "-1"], "-1"),
        (&["--log-max", "0"], "0"),
        (&["--timeout", "soon"], "soon"),
        (&["--cgroup-root", "/proc/nowhere"], "/proc/nowhere"),
    ] {
        let done = world.try_detach(options, &["touch", "ran"]);
        assert_eq!(done.code, 125, "{options:?}: {}", done.text());
        let told = done.refused();
        assert!(told.contains(word), "{options:?}: {told}");
    }
    assert!(!world.dir.join("ran").exists());
    world.assert_clean();
    world.assert_nobody_left();
}

#[test]
fn limits_that_cannot_be_had() {
    let mut world = World::new("refuse-limits");
    if cgroup::has_controller("memory") {
        crate::support::say("not applicable: refuse_limits: every controller is here");
        return;
    }
    let told = world
        .try_detach(&["--memory", "64M"], &["touch", "ran"])
        .refused();
    assert!(told.contains("memory"), "{told}");
    assert!(!world.dir.join("ran").exists());
    world.assert_clean();
    world.assert_nobody_left();
}

#[test]
fn a_place_for_records_that_is_none() {
    let mut world = World::new("refuse-state");
    fs::remove_dir(world.dir.join("state")).unwrap();
    fs::write(world.dir.join("state"), "a file").unwrap();
    let told = world.try_detach(&[], &["touch", "ran"]).refused();
    assert!(
        told.contains(&world.dir.join("state").display().to_string()),
        "{told}"
    );
    assert!(!world.dir.join("ran").exists());
    fs::remove_file(world.dir.join("state")).unwrap();
    fs::create_dir(world.dir.join("state")).unwrap();
    world.assert_clean();
    world.assert_nobody_left();
}

/// What belongs to one kind of job only is refused with the other.
#[test]
fn options_that_do_not_go_together() {
    let mut world = World::new("refuse-together");
    let id = world.call(&["create"]).expect(0).text();
    for words in [
        &["run", "--detach", "--job", &id, "--", "true"][..],
        &[
            "run", "--detach", "--report", "r.json", "--job", &id, "--", "true",
        ],
    ] {
        world.call(words).refused();
    }
    world.call(&["cleanup", &id]).expect(0);
    assert!(world.cages().is_empty());
    world.assert_nobody_left();
}
