//! `--guard`: a job that runs as the user who looks after it, and cannot reach whoever does.

use crate::support::needs::{Need, met};
use crate::support::world::World;
use jobcage_job::Guarantee;

/// Tries what a job can do to its supervisor without leaving its cage; each line says what came of it. (Its environment is not
/// among it: root may read that of any process, whatever Landlock says, by CAP_PERFMON.)
const ATTEMPTS: &str = r#"
reach() { if "$@" >/dev/null 2>&1; then echo "$1 reached it"; else echo "$1 did not"; fi; }
parent=$(cut -d' ' -f4 /proc/$$/stat)
reach kill -0 $parent
reach readlink /proc/$parent/fd/0
sleep 60 & reach kill $!
"#;

#[test]
fn a_guarded_job_reaches_its_own_processes_alone() {
    if !met("guarded", &[Need::Landlock]) {
        return;
    }
    let world = World::new("guarded");
    let done = world.finish(&["--guard"], &["sh", "-c", ATTEMPTS]).expect(0);
    let text = done.text();
    let lines: Vec<&str> = text.lines().collect();
    // The last is a child of its own.
    let expected = ["kill did not", "readlink did not", "kill reached it"];
    assert_eq!(lines, expected);
    assert_eq!(done.report().guarantee, Guarantee::Guarded);
}

#[test]
fn a_job_without_a_guard_is_told_apart() {
    let world = World::new("unguarded");
    let done = world.finish(&[], &["sh", "-c", ATTEMPTS]).expect(0);
    assert_eq!(done.text().matches("reached it").count(), 3, "{}", done.text());
    let own = if nix::unistd::geteuid().is_root() {
        Guarantee::Root
    } else {
        Guarantee::SameUser
    };
    assert_eq!(done.report().guarantee, own);
}

#[test]
fn a_guarded_detached_job_cannot_end_its_keeper() {
    if !met("guarded_detached", &[Need::Landlock]) {
        return;
    }
    let world = World::new("guarded-detached");
    let script = "kill -9 $(cut -d' ' -f4 /proc/$$/stat); echo still here; exit 5";
    let id = world
        .call(&["run", "--detach", "--guard", "--", "sh", "-c", script])
        .expect(0)
        .text();
    let done = world.call(&["attach", &id]).expect(5);
    assert!(done.text().contains("still here"), "{}", done.text());
    let shown = world.call(&["show", &id, "--json"]).expect(0).json();
    assert_eq!(shown["report"]["guarantee"], "guarded");
    assert_eq!(
        shown["report"]["notes"].as_array().map_or(0, Vec::len),
        0,
        "{shown:#}"
    );
}

#[test]
fn where_there_is_no_landlock_a_guard_is_refused() {
    if jobcage_sys::landlock::signal_fence().is_ok() {
        return;
    }
    let world = World::new("no-landlock");
    let told = world.finish(&["--guard"], &["true"]).refused();
    assert!(told.contains("--guard") && told.contains("6.12"), "{told}");
    world.assert_clean();
}
