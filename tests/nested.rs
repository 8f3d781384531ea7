//! jobcage inside of jobcage: the inner cage is below the leaf that it was started in, and ends with the outer one.

mod support;

use nix::sys::signal::Signal;
use std::path::{Path, PathBuf};
use support::job::{Job, read_report};
use support::process::Process;
use support::world::World;
use support::{PATIENCE, cgroup, programs};

/// A job in a job, both under way.
struct Nested {
    outer: Job,
    /// Of the innermost command.
    inner: Process,
    outer_cage: PathBuf,
    inner_cage: PathBuf,
}

/// The inner jobcage has the places of the outer one, and is told of no root: it finds out by itself where it is.
fn start(world: &mut World, options: &[&str]) -> Nested {
    let inner = "echo $$; sed -n 's/^0:://p' /proc/self/cgroup; echo up; exec sleep 300";
    let script = "env -u JOBCAGE_CGROUP_ROOT \"$JOBCAGE\" run --report inner.json -- sh -c \"$INNER\"; echo inner $?; \
                  sleep 300";
    let mut words: Vec<String> = options.iter().map(|o| (*o).to_owned()).collect();
    let jobcage = format!("JOBCAGE={}", programs::jobcage().display());
    words.extend(["--env".into(), jobcage, "--env".into(), format!("INNER={inner}")]);
    let mut outer = world.run(&[], &words, &["sh", "-c", script].map(str::to_owned));
    assert!(outer.wait_line("up"), "{}", outer.stderr());
    let told = outer.stdout();
    let mut lines = told.lines();
    let inner = Process::open(lines.next().unwrap().parse().unwrap());
    let leaf = cgroup::mount()
        .unwrap()
        .join(lines.next().unwrap().trim_start_matches('/'));
    let outer_cage = world.cages()[0].clone();
    Nested {
        outer,
        inner,
        outer_cage,
        inner_cage: leaf.parent().unwrap().to_owned(),
    }
}

/// The record of the inner job, which somebody has to close when its jobcage is gone.
fn inner_report(world: &World, nested: &Nested) -> jobcage_job::Report {
    let record = world.dir.join("run").join(nested.inner_cage.file_name().unwrap());
    let report = record.join("report.json");
    assert!(
        cgroup::wait_change(&record, PATIENCE, || report.exists()),
        "{} is not closed",
        record.display()
    );
    read_report(&report)
}

fn is_below(inner: &Path, outer: &Path) -> bool {
    // The outer cage, its leaf, then the inner cage.
    inner.parent().and_then(Path::parent) == Some(outer)
}

#[test]
fn the_inner_cage_is_below_the_outer_leaf() {
    let mut world = World::new("nested-place");
    let mut nested = start(&mut world, &[]);
    assert!(
        is_below(&nested.inner_cage, &nested.outer_cage),
        "{}",
        nested.inner_cage.display()
    );
    assert_eq!(world.cages().len(), 1);
    nested.inner.signal(Signal::SIGTERM);
    assert!(nested.outer.wait_line("inner 143"), "{}", nested.outer.stderr());
    let report = read_report(&world.dir.join("inner.json"));
    assert_eq!(
        (report.root.unwrap().kind.as_str(), report.clean),
        ("nested", true)
    );
    assert!(!nested.inner_cage.exists() && nested.outer_cage.exists());
    nested.outer.signal(Signal::SIGTERM);
    assert_eq!(nested.outer.wait(PATIENCE), 143);
    world.assert_nothing_left();
    world.assert_clean();
}

/// A root that is named, but lies beside the outer cage, would let the inner job outlive the outer one.
#[test]
fn a_configured_root_beside_the_outer_cage_is_not_taken() {
    let mut world = World::new("nested-root");
    let script =
        "\"$JOBCAGE\" run -- sed -n 's/^0:://p' /proc/self/cgroup; sed -n 's/^0:://p' /proc/self/cgroup";
    let jobcage = format!("JOBCAGE={}", programs::jobcage().display());
    let root = format!("JOBCAGE_CGROUP_ROOT={}", world.cgroup_root.display());
    let done = world
        .finish(&["--env", &jobcage, "--env", &root], &["sh", "-c", script])
        .expect(0);
    let text = done.text();
    let (inner, outer) = text.split_once('\n').unwrap();
    assert!(inner.starts_with(&format!("{outer}/")), "{text}");
    world.assert_nothing_left();
}

#[test]
fn whatever_ends_the_outer_ends_the_inner() {
    for (how, options, code) in [
        ("cancel", &[][..], 143),
        ("timeout", &["--timeout", "1500ms"], 124),
        ("kill", &[], 137),
        ("now", &["--grace", "0s"], 143),
    ] {
        let mut world = World::new(&format!("nested-{how}"));
        let mut nested = start(&mut world, options);
        match how {
            "kill" => nested.outer.signal(Signal::SIGKILL),
            "timeout" => {}
            _ => nested.outer.signal(Signal::SIGTERM),
        }
        assert_eq!(
            nested.outer.wait(PATIENCE),
            code,
            "{how}: {}",
            nested.outer.stderr()
        );
        assert!(
            cgroup::wait_gone(&nested.outer_cage, PATIENCE),
            "{how}: {}",
            cgroup::tree(&nested.outer_cage)
        );
        assert!(nested.inner.has_ended(), "{how}");
        if how == "cancel" || how == "timeout" {
            // The inner jobcage had the polite signal as well, and ended its job in order.
            let report = read_report(&world.dir.join("inner.json"));
            assert!(report.clean && report.exit_code == 143, "{how}: {report:#?}");
        } else {
            let report = inner_report(&world, &nested);
            assert!(
                matches!(report.ending, jobcage_job::Ending::Lost { .. }),
                "{how}: {report:#?}"
            );
            assert_eq!((report.closed_by.as_str(), report.clean), ("gc", true), "{how}");
        }
        world.assert_nothing_left();
    }
}

/// Without a watcher, the next gc says what became of both.
#[test]
fn gc_closes_both_records() {
    let mut world = World::new("nested-gc");
    let mut nested = start(&mut world, &[]);
    let inner_jobcage = support::process::stat(nested.inner.pid).unwrap().2;
    let inner_jobcage = Process::open(inner_jobcage);
    inner_jobcage.signal(Signal::SIGSTOP);
    nested.outer.stop();
    world.kill_watchers();
    nested.outer.signal(Signal::SIGKILL);
    assert_eq!(nested.outer.wait(PATIENCE), 137);
    let done = world.call(&["gc", "--json"]);
    let closed = done.json();
    // The inner one may have been listed while its jobcage was still alive: then it is the second gc's.
    let again = world.call(&["gc", "--json"]).json();
    let all = closed.as_array().unwrap().iter().chain(again.as_array().unwrap());
    let mut ids: Vec<&str> = all
        .filter(|d| d["result"] == "closed")
        .map(|d| d["job"].as_str().unwrap())
        .collect();
    ids.sort_unstable();
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    let mut expected = [name(&nested.outer_cage), name(&nested.inner_cage)];
    expected.sort();
    assert_eq!(ids, expected, "{closed:#} {again:#}");
    assert!(nested.inner.has_ended() && inner_jobcage.has_ended());
    world.assert_nothing_left();
}

/// Five deep: each in the leaf of the one before.
#[test]
fn five_deep() {
    let world = World::new("nested-deep");
    let mut script = "sed -n 's/^0:://p' /proc/self/cgroup".to_owned();
    for level in 0..4 {
        std::fs::write(world.dir.join(format!("level-{level}")), &script).unwrap();
        script = format!("exec env -u JOBCAGE_CGROUP_ROOT \"$JOBCAGE\" run -- sh level-{level}");
    }
    let jobcage = format!("JOBCAGE={}", programs::jobcage().display());
    let done = world
        .finish(&["--env", &jobcage], &["sh", "-c", &script])
        .expect(0);
    let mount = cgroup::mount().unwrap();
    let place = mount.join(done.text().trim_start_matches('/'));
    let depth = place
        .strip_prefix(&world.cgroup_root)
        .unwrap()
        .components()
        .count();
    assert_eq!(depth, 10, "{}", place.display());
    world.assert_clean();
}
