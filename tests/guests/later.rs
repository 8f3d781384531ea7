//! Machines that nobody could give back when their job ended, or that came after its end: those of a job in quarantine, and
//! those of an after phase that stood in the record.

use crate::support::PATIENCE;
use crate::support::captured::wait_written;
use crate::support::cgroup;
use crate::support::process::Process;
use crate::support::world::World;
use crate::virtualbox::{MANAGE, USER, assert_given_back, guests, places, world};
use jobcage_job::GuestReport;
use nix::sys::signal::Signal;
use std::fs;
use std::path::PathBuf;
use std::time::Instant;

/// A machine without a disk, which is not started, and what the test waits for.
fn machine(name: &str) -> String {
    format!(
        "{MANAGE} createvm --name {name} --ostype Linux26_64 --register >/dev/null && echo {name} is there"
    )
}

/// The id of a job that stays until it is ended, of the build user, with a machine of this name.
fn started(world: &World, name: &str, options: &[&str]) -> String {
    let detach = [
        "run", "--detach", "--guests", "isolate", "--user", USER, "--grace", "0",
    ];
    let script = format!("cd; {}; exec sleep 300", machine(name));
    let id = world
        .call(&[&detach[..], options, &["--login", "--", "bash", "-c", &script]].concat())
        .expect(0)
        .text();
    let log = world.dir.join("state").join(&id);
    let has = || fs::read_to_string(log.join("log-01")).is_ok_and(|text| text.contains("is there"));
    assert!(wait_written(&log, has), "no machine");
    id
}

fn names(guests: &[GuestReport]) -> Vec<&str> {
    let machines = guests
        .iter()
        .filter(|guest| guest.what == "vm" && !guest.is_left());
    machines.map(|guest| guest.name.as_str()).collect()
}

/// Its machines stay as long as one of its processes does, and go with it.
pub fn quarantined() {
    let mut world = world("vbox-quarantined");
    let id = started(&world, "held", &[]);
    let cage = world.cgroup_root.join(&id);
    let named =
        |pid: &i32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm == "sleep\n");
    let since = Instant::now();
    // It is executed a moment after the last word before it, and the kernel tells nobody.
    let sleep = loop {
        let below = cgroup::below(&cage);
        if let Some(pid) = below.iter().flat_map(|dir| cgroup::pids(dir)).find(named) {
            break Process::open(pid);
        }
        assert!(since.elapsed() < PATIENCE, "no main process");
        std::thread::yield_now();
    };
    let tracer = world.helper(&["ptrace-outside", &sleep.pid.to_string()]);
    world.call(&["stop", &id]).expect(125);
    let report = world.closed_reports().remove(0);
    assert!(
        report.quarantine.is_some() && report.guests.is_empty(),
        "{report:#?}"
    );
    // What its tools would do under the eyes of a survivor is not tried.
    let gc = world.call(&["gc", "--keep", "0"]).expect(125);
    assert_eq!(places(&world).len(), 1, "{}", gc.told());

    tracer.signal(Signal::SIGTERM);
    assert!(tracer.wait_end(PATIENCE) && sleep.wait_end(PATIENCE));
    world.call(&["gc"]).expect(0);
    let guests = guests(&world);
    assert_eq!(names(&guests), ["held"], "{guests:#?}");
    assert_given_back(&world);
    world.assert_nothing_left();
}

/// Keeper and supervisor have died: the after phase finds the machines of the job, and those that it makes are given back with them.
pub fn recorded_after() {
    let mut world = world("vbox-after");
    let after = world.dir.join("after");
    let script = format!(
        "#!/bin/sh\ncd ~{USER} && {MANAGE} list vms\n{}\n",
        machine("second")
    );
    fs::write(&after, script).unwrap();
    fs::set_permissions(&after, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let after = after.display().to_string();
    let id = started(&world, "first", &["--after-reboot", "--after", &after]);
    // Stopped first, so that none can replace the watcher or the supervisor.
    let own: Vec<PathBuf> = ["supervisors", "keepers"]
        .map(|name| world.cgroup_root.join(name))
        .into();
    for pid in own.iter().flat_map(|dir| cgroup::pids(dir)) {
        Process::open(pid).signal(Signal::SIGSTOP);
    }
    world.kill_watchers();

    let gc = world.call(&["gc"]).expect(0);
    let printed = world.call(&["logs", &id, "--step", "2"]).expect(0).text();
    assert!(
        printed.starts_with("\"first\" {") && printed.ends_with("second is there"),
        "{printed}, {}",
        gc.told()
    );
    let guests = guests(&world);
    let mut names = names(&guests);
    names.sort_unstable();
    assert_eq!(names, ["first", "second"], "{guests:#?}");
    assert_given_back(&world);
    world.assert_nothing_left();
}
