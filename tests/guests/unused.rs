//! A host that has every kind, and a job that uses none: no tool is started, and what it costs is told.

use crate::support::say;
use crate::support::seed::full_sweep;
use crate::support::world::World;
use crate::virtualbox::{MANAGE, USER, assert_given_back, world};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

/// Every kind that can be isolated is, and the others are looked after where all jobs have theirs.
const ALL: &str = "isolate,libvirt=isolate,podman=isolate,docker=shared,lxc=shared";

/// The one that this root has not got: whether a kind is on a host is told by the programs, and this one only tells that it was called.
const ABSENT: &str = MANAGE;

/// Asserts nothing about time; `JOBCAGE_BIN` of a release measures what people have.
pub fn all_kinds() {
    let mut world = world("unused");
    let called = world.dir.join("called");
    let tool = Path::new(ABSENT);
    assert!(!tool.exists());
    fs::create_dir_all(tool.parent().unwrap()).unwrap();
    fs::write(tool, format!("#!/bin/sh\ntouch '{}'\nexit 1\n", called.display())).unwrap();
    fs::set_permissions(tool, fs::Permissions::from_mode(0o755)).unwrap();
    let rounds = if full_sweep() { 200 } else { 10 };
    let mut pairs: Vec<[Duration; 2]> = (0..rounds)
        .map(|round| {
            let (with, without) = if round % 2 == 0 {
                let with = whole_job(&world, ALL);
                (with, whole_job(&world, "off"))
            } else {
                let without = whole_job(&world, "off");
                (whole_job(&world, ALL), without)
            };
            [with, without]
        })
        .collect();
    assert!(!called.exists(), "a tool was started");
    for report in world.closed_reports() {
        assert!(report.clean && report.guests.is_empty(), "{report:#?}");
    }
    let more = |[with, without]: &[Duration; 2]| with.as_secs_f64() - without.as_secs_f64();
    pairs.sort_by(|a, b| more(a).total_cmp(&more(b)));
    let [with, without] = pairs[pairs.len() / 2];
    say(&format!(
        "all kinds cost a job that uses none {:.2} ms (with {with:.1?}, without {without:.1?}; median of {rounds} pairs, target 2)",
        more(&[with, without]) * 1e3
    ));
    fs::remove_file(tool).unwrap();
    assert_given_back(&world);
    world.assert_nothing_left();
}

/// How long it takes from its beginning to its end.
fn whole_job(world: &World, guests: &str) -> Duration {
    let began = Instant::now();
    let id = world
        .call(&["create", "--user", USER, "--guests", guests])
        .expect(0)
        .text();
    world.call(&["cleanup", &id]).expect(0);
    began.elapsed()
}
