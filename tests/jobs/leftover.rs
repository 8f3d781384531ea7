//! `jobcage gc --guests`: what jobs have left outside of their own processes, and nothing else.

use crate::support::PATIENCE;
use crate::support::needs::{Need, met};
use crate::support::world::World;
use crate::{create, listed};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Instant;

fn hook(world: &World, script: &str) -> String {
    let path = world.dir.join("hook");
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path.display().to_string()
}

/// Makes the record of an open job one of an earlier boot: an orphan.
fn age(world: &World, id: &str) {
    let spec = world.dir.join("state").join(id).join("spec.json");
    let text = fs::read_to_string(&spec).unwrap();
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let text = text.replace(boot.trim(), "00000000-0000-4000-8000-000000000000");
    fs::write(&spec, text).unwrap();
}

#[test]
fn only_what_is_left_of_jobs_that_are_over_is_tried_again() {
    let mut world = World::new("gc-guests");
    fs::write(world.dir.join("config.toml"), "[gc]\nkeep = '0'\n").unwrap();
    let path = hook(
        &world,
        r#"echo '{"what":"disk","name":"/srv/web","outcome":"left","why":"busy","bytes":4096}'"#,
    );
    let failed = create(&world, &["--guest-hook", &path]);
    world.call(&["cleanup", &failed]).expect(125);
    let over = create(&world, &[]);
    world.call(&["cleanup", &over]).expect(0);
    let orphan = create(&world, &[]);
    let cage = world.cages()[0].clone();
    age(&world, &orphan);
    let before = listed(&world);
    assert_eq!(before.len(), 3);
    let planned = world
        .call(&["gc", "--guests", "--dry-run", "--json"])
        .expect(0)
        .json();
    let [one] = planned.as_array().unwrap().as_slice() else {
        panic!("{planned:#}")
    };
    assert_eq!((&one["result"], &one["job"]), (&json!("planned"), &json!(failed)));
    let guest = &one["detail"]["guests"][0];
    assert_eq!(
        (&guest["name"], &guest["bytes"]),
        (&json!("/srv/web"), &json!(4096))
    );
    let told = world.call(&["gc", "--guests", "--dry-run"]).expect(0);
    assert!(
        told.told().contains("would be tried again")
            && told.told().contains("disk \"/srv/web\": LEFT, 4.0 KiB: busy"),
        "{}",
        told.told()
    );
    // Still there: it says so.
    let told = world.call(&["gc", "--guests"]).expect(125);
    assert!(told.told().contains("still not given back"), "{}", told.told());
    hook(&world, "true");
    let done = world.call(&["gc", "--guests", "--json"]).expect(0).json();
    assert_eq!(
        (&done[0]["result"], done.as_array().unwrap().len()),
        (&json!("released"), 1)
    );
    assert_eq!(
        world.call(&["gc", "--guests", "--json"]).expect(0).json(),
        json!([])
    );
    assert_eq!(listed(&world), before, "it did something else");
    assert!(cage.exists());
    fs::remove_dir(&cage).unwrap();
    world.call(&["gc"]).expect(0);
    world.assert_nothing_left();
    world.assert_clean();
}

#[test]
fn a_place_that_has_outlived_its_record_is_named_and_removed() {
    let needs = [Need::Root, Need::Program("unshare")];
    if !met(
        "a_place_that_has_outlived_its_record_is_named_and_removed",
        &needs,
    ) {
        return;
    }
    let mut world = World::new("gc-places");
    let place = world.dir.join("state-guests/gone-12345678");
    fs::create_dir_all(place.join("vms")).unwrap();
    fs::write(place.join("vms/disk.vdi"), vec![1; 3 << 20]).unwrap();
    // In a namespace that says that the host has just been started. When it was made is the kernel's word, so it has to be a second ago.
    let gc = |options: &[&str]| -> Value {
        let uptime = fs::read_to_string("/proc/uptime").unwrap();
        let uptime: u64 = uptime.split('.').next().unwrap().parse().unwrap();
        let offset = format!("--boottime=-{uptime}");
        let rebooted = ["unshare", "--time", "--fork", offset.as_str(), "--"].map(str::to_owned);
        let done = world.jobcage(&rebooted, &[&["gc", "--guests", "--json"], options].concat());
        assert!(done.status.success(), "{done:?}");
        serde_json::from_slice(&done.stdout).unwrap()
    };
    let until = Instant::now() + PATIENCE;
    let planned = loop {
        let planned = gc(&["--dry-run"]);
        if planned != json!([]) || Instant::now() > until {
            break planned;
        }
    };
    let detail = &planned[0]["detail"];
    assert_eq!(
        (&planned[0]["result"], &detail["path"]),
        (&json!("planned"), &json!(place))
    );
    let bytes = detail["bytes"].as_u64().unwrap();
    assert!((3 << 20..4 << 20).contains(&bytes), "{planned:#}");
    assert!(place.exists());
    let done = gc(&[]);
    assert_eq!(
        (&done[0]["result"], &done[0]["detail"]["bytes"]),
        (&json!("freed"), &json!(bytes))
    );
    assert!(!place.exists());
    world.assert_nothing_left();
}
