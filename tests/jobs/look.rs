//! `jobcage list` and `show`, for people and for programs.

use crate::support::PATIENCE;
use crate::support::world::World;
use crate::{create, words};
use nix::sys::signal::Signal;
use serde_json::json;

#[test]
fn a_running_job_is_shown_with_what_it_uses() {
    let mut world = World::new("look-running");
    assert_eq!(world.call(&["list", "--json"]).expect(0).json(), json!([]));
    let mut job = world.run(
        &[],
        &words(&["--name", "seen"]),
        &words(&["sh", "-c", "sleep 300 & sleep 301 & echo up; wait"]),
    );
    assert!(job.wait_line("up"));
    let list = world.call(&["list", "--json"]).expect(0).json();
    let one = &list[0];
    assert_eq!(
        (&one["state"], &one["name"], &one["program"]),
        (&json!("running"), &json!("seen"), &json!("sh"))
    );
    assert_eq!(one["supervisor"], json!(job.jobcage.pid));
    assert_eq!(
        (&one["processes"], &one["uid"]),
        (&json!(3), &json!(nix::unistd::getuid().as_raw()))
    );
    let id = one["job"].as_str().unwrap();
    let shown = world.call(&["show", id, "--json"]).expect(0).json();
    assert_eq!(
        (&shown["job"], &shown["cage"]),
        (&json!(id), &json!(world.cages()[0]))
    );
    assert!(shown["usage"]["cpu_us"].is_u64(), "{shown:#}");
    // The same for a person.
    let table = world.call(&["list"]).expect(0).text();
    let lines: Vec<&str> = table.lines().collect();
    assert!(
        lines.len() == 2 && lines[0].starts_with("JOB ") && lines[1].starts_with(id),
        "{table}"
    );
    let text = world.call(&["show", id]).expect(0).text();
    assert!(
        text.lines().any(|l| l == "state: running") && text.contains(&format!("job: {id}")),
        "{text}"
    );
    job.signal(Signal::SIGTERM);
    assert_eq!(job.wait(PATIENCE), 143);
    assert_eq!(
        world.call(&["list", "--json"]).expect(0).json(),
        json!([]),
        "a clean end leaves no record"
    );
}

#[test]
fn open_jobs_and_closed_ones_are_told_apart() {
    let world = World::new("look-states");
    let (open, over) = (create(&world, &["--name", "a"]), create(&world, &["--name", "b"]));
    world.call(&["run", "--job", &over, "--", "false"]).expect(1);
    world.call(&["cleanup", &over]).expect(0);
    let list = world.call(&["list", "--json"]).expect(0).json();
    let states: Vec<_> = list
        .as_array()
        .unwrap()
        .iter()
        .map(|j| (&j["job"], &j["state"]))
        .collect();
    assert_eq!(
        states,
        [(&json!(open), &json!("open")), (&json!(over), &json!("over"))]
    );
    let shown = world.call(&["show", &over, "--json"]).expect(0).json();
    assert_eq!(shown["report"]["ending"], json!({"kind": "exited", "code": 1}));
    assert_eq!(shown["report"]["exit_code"], json!(1));
    let text = world.call(&["show", &over]).expect(0).text();
    assert!(
        text.contains("state: over") && text.contains("closed_by: cleanup"),
        "{text}"
    );
    world.call(&["cleanup", &open]).expect(0);
}

/// A program may be called anything; its name must not act on a person's terminal.
#[test]
fn names_cannot_draw_on_a_terminal() {
    let mut world = World::new("look-escapes");
    let name = "a\u{1b}[31mred\nJOB forged\u{7}";
    std::os::unix::fs::symlink("/bin/sh", world.dir.join(name)).unwrap();
    let program = world.dir.join(name).display().to_string();
    let mut job = world.run(&[], &[], &words(&[&program, "-c", "echo up; sleep 300"]));
    assert!(job.wait_line("up"));
    let id = world.call(&["list", "--json"]).expect(0).json()[0]["job"]
        .as_str()
        .unwrap()
        .to_owned();
    for words in [&["list"][..], &["show", &id]] {
        let text = world.call(words).expect(0).text();
        assert!(!text.contains('\u{1b}') && !text.contains('\u{7}'), "{text:?}");
        assert!(!text.lines().any(|l| l.starts_with("JOB forged")), "{text}");
    }
    job.signal(Signal::SIGTERM);
    assert_eq!(job.wait(PATIENCE), 143);
}
