//! LXC without root: containers in the home of the job's user, with the job's id in their name.

use crate::lxc::{create, id_of, lonely, names, prepared, root, start, sudo, told};
use crate::peers::USER;
use crate::podman::{as_user, end, guests, says};
use crate::support::call::to_end;
use crate::support::process::{Process, cgroup_of, stat};
use crate::support::world::World;
use crate::support::{PATIENCE, cgroup};
use crate::virtualbox::places;
use nix::sys::signal::Signal;
use std::fs;
use std::path::Path;

const REGISTRY: &str = "/home/ci1/.local/share/lxc";

/// A world in which the build user may have containers, whose ids are further ones of his.
fn world(test: &str) -> World {
    let world = lonely(test);
    let conf = "lxc.net.0.type = empty\nlxc.apparmor.profile = unconfined\n\
        lxc.idmap = u 0 100000 65536\nlxc.idmap = g 0 100000 65536\n";
    root(&format!(
        "cd /home/ci1; chmod a+x .; mkdir -p .config/lxc {REGISTRY}; echo '{conf}' >.config/lxc/default.conf
         chown -R ci1:ci1 .config .local; mkdir {0}; chown {USER} {0} {0}/cgroup.procs {0}/cgroup.subtree_control",
        world.outside.display()
    ));
    world
}

/// What a script of the build user's says outside of jobs, in his own home, which must succeed.
fn outside(world: &World, script: &str) -> String {
    let mut command = world.command(&world.zoo);
    command
        .arg("in-cgroup")
        .arg(&world.outside)
        .args(["setpriv", "--reuid", USER, "--regid", USER, "--init-groups"])
        .args(["sh", "-ec", script])
        .env("HOME", "/home/ci1");
    to_end(command, b"").expect(0).text()
}

/// The first process of one that runs, and whether that is below a directory of cgroups.
fn running(world: &World, name: &str, below: &Path) -> Process {
    let pid = outside(world, &format!("lxc-info -n {name} -pH"));
    let process = Process::open(pid.trim().parse().unwrap());
    let group = cgroup_of(process.pid).unwrap();
    let group = Path::new("/sys/fs/cgroup").join(group.trim_start_matches('/'));
    assert!(group.starts_with(below), "{name}: {}", group.display());
    process
}

fn registered() -> Vec<String> {
    let listed = fs::read_dir(REGISTRY)
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> = listed.map(|name| name.into_string().unwrap()).collect();
    names.sort_unstable();
    names
}

/// One in the cage, one outside of it, and one that is half made when the job is cancelled.
pub fn given_back() {
    let mut world = world("lxc-user");
    let other = {
        let job = prepared(&world, 770);
        let id = id_of(&job);
        says(&job, &start("$JOBCAGE_JOB.web"));
        let web = running(&world, &format!("{id}.web"), &world.cgroup_root);
        outside(&world, &(start(&format!("{id}.out")) + &start("other")));
        let [out, other] = [&format!("{id}.out"), "other"].map(|name| running(&world, name, &world.outside));
        let template = "/home/ci1/template";
        root(&format!(
            "printf '#!/bin/sh\\necho it runs\\nexec sleep 1000\\n' >{template}; chmod 755 {template}"
        ));
        let mut stage = job.start_stage(
            "step_more",
            &format!("lxc-create -n $JOBCAGE_JOB.half -t {template}"),
        );
        stage.wait_line("it runs");
        stage.signal(Signal::SIGTERM);
        stage.end();
        assert_eq!(registered().len(), 4, "{:?}", registered());
        let log = end(&job);
        for (name, fate) in [
            ("web", "running → deleted"),
            ("out", "running → deleted"),
            ("half", "deleted"),
        ] {
            assert_eq!(told(&log, &format!("{id}.{name}")), fate, "{log}");
        }
        assert!(web.wait_end(PATIENCE) && out.wait_end(PATIENCE) && !other.has_ended());
        assert!(stat(other.pid).is_some_and(|(_, state, _)| state != 'Z'));
        other
    };
    assert_eq!(registered(), ["other"]);
    outside(&world, "lxc-destroy -f -n other");
    assert!(other.wait_end(PATIENCE));
    assert_eq!((guests(&world, "container").len(), places(&world).len()), (3, 0));
    cgroup::remove(&world.outside).unwrap();
    world.assert_nothing_left();
}

/// jobcage is the user's own: it gives back his, and tells of root's.
pub fn rootless() {
    let mut world = world("lxc-self");
    let (wrap, entry) = as_user(&world);
    let script = start("$JOBCAGE_JOB.own") + &sudo(&create("$JOBCAGE_JOB.web")) + "echo id=$JOBCAGE_JOB";
    let words = ["env", "HOME=/home/ci1"].map(str::to_owned);
    let done = world.jobcage(
        &[wrap, words.to_vec()].concat(),
        &["run", "--guests", "lxc=shared", "--", "sh", "-ec", &script],
    );
    let [out, log] = [done.stdout, done.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(done.status.success(), "{out}{log}");
    let id = out.trim().rsplit_once("id=").unwrap().1;
    assert_eq!(told(&log, &format!("{id}.own")), "running → deleted");
    let why = "not touched: it belongs to root, and jobcage does not run as root";
    assert_eq!(told(&log, &format!("{id}.web")), why);
    assert_eq!((registered().len(), names()), (0, vec![format!("{id}.web")]));
    root(&format!("lxc-destroy -n {id}.web"));
    fs::remove_dir(&entry).unwrap();
    cgroup::remove(&world.outside).unwrap();
    world.assert_nothing_left();
}
