//! What a job can have that is not its processes: how it is made, who lists it, and what may stay. A kind with its line here is swept.

use super::Job;
use crate::libvirt::{self, VIRSH};
use crate::lxc::{self, lonely, root, sudo};
use crate::peers::{IMAGE, start_docker};
use crate::podman::fresh;
use crate::support::PATIENCE;
use crate::support::cgroup::wait_gone;
use crate::support::world::World;
use crate::vagrant_destroy::PROVIDER;
use crate::virtualbox::{MANAGE, START, UID, user_daemon_ends, world};
use crate::virtualbox_shared;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;

/// One kind of thing, in one mode.
pub struct Scene {
    /// Its name in what is told.
    pub name: &'static str,
    /// How often somebody is killed in CI, and with `JOBCAGE_SWEEP=full`.
    pub sample: u64,
    pub full: u64,
    pub world: fn() -> World,
    /// Options of `jobcage create`.
    pub options: fn(&World) -> Vec<String>,
    /// What a step of the job does to have such a thing, which gets this name.
    pub make: fn(&World, &str) -> String,
    /// What there is by the tool itself, as this job finds it: all that a host has, or all that the job has for itself; with what tells one that
    /// has run all the time from one that was started again.
    pub list: fn(&Job<'_>) -> String,
    /// Files of the job's own directory that nobody gives back.
    pub stays: &'static [&'static str],
    /// Waits for what ends a moment after its tool has said so.
    pub wait: fn(&World, &str),
    /// Its tools talk to a daemon that others use, too, and are ended by nobody.
    pub shares_tools: bool,
    /// What is to be done when the neighbour's job is over.
    pub end: fn(&World),
}

/// What most have in common; the rest is each one's own.
const PLAIN: Scene = Scene {
    name: "",
    sample: 0,
    full: 60,
    world: || world("points"),
    options: |_| Vec::new(),
    make: |_, _| String::new(),
    list: |_| String::new(),
    stays: &[],
    wait: |_, _| {},
    shares_tools: false,
    end: |_| {},
};

fn guests(modes: &str) -> Vec<String> {
    vec!["--guests".to_owned(), modes.to_owned()]
}

/// A machine with a disk, and a disk of nobody, both outside of the place.
pub const VIRTUALBOX: Scene = Scene {
    name: "virtualbox=isolate",
    sample: 8,
    full: 300,
    make: |_, name| {
        format!(
            "{MANAGE} createvm --name {name} --ostype Linux26_64 --register >/dev/null
             for disk in own orphan; do {MANAGE} createmedium disk --filename $PWD/$disk.vdi --size 20 >/dev/null 2>&1; done
             {MANAGE} storagectl {name} --name sata --add sata --portcount 1
             {MANAGE} storageattach {name} --storagectl sata --port 0 --device 0 --type hdd --medium $PWD/own.vdi"
        )
    },
    list: |job| job.says(&format!("{MANAGE} list vms; {MANAGE} list hdds | grep ^UUID")),
    ..PLAIN
};

/// One registry and one daemon for all: those of the neighbour, whose cage the job's machine runs in.
pub const VIRTUALBOX_SHARED: Scene = Scene {
    name: "virtualbox=shared",
    sample: 2,
    world: || {
        user_daemon_ends();
        world("points")
    },
    options: |_| guests("virtualbox=shared"),
    make: |_, name| format!("{START} make {name} $PWD/{name}.vdi"),
    list: |job| {
        job.says(&format!(
            "for what in vms runningvms hdds; do {MANAGE} list $what; done"
        ))
    },
    shares_tools: true,
    end: virtualbox_shared::assert_tidied,
    ..PLAIN
};

/// A machine of a provider of the Vagrantfile's own.
pub const VAGRANT_DESTROY: Scene = Scene {
    name: "vagrant=destroy",
    sample: 2,
    options: |_| guests("vagrant=destroy"),
    make: |_, name| {
        let file = PROVIDER
            .replace("TRIGGER", "")
            .replace("\"web\"", &format!("\"{name}\""));
        format!(
            "cat >Vagrantfile <<'END'\n{file}\nEND\nmkdir -p ~/toys; vagrant up --provider=toy >/dev/null"
        )
    },
    list: |job| job.says("ls -i ~/toys"),
    stays: &["Vagrantfile", ".vagrant"],
    ..PLAIN
};

/// A machine that runs, with a disk in a pool outside of the place.
pub const LIBVIRT: Scene = Scene {
    name: "libvirt=isolate",
    sample: 3,
    options: |_| guests("libvirt=isolate"),
    make: |world, name| {
        let volume = world.dir.join("project").join(name).join("pool/volume.qcow2");
        let file = libvirt::defined(
            world,
            &format!("{name}.xml"),
            name,
            &libvirt::disk("disk", "vda", &volume),
        );
        format!(
            "{VIRSH} mkdir pool; v pool-create-as p dir --target $PWD/pool; v vol-create-as p volume.qcow2 10M --format qcow2
             v define {file}; v start {name}"
        )
    },
    list: |job| {
        job.says(&format!("{VIRSH} v list --all; v vol-list p; cd $XDG_RUNTIME_DIR/libvirt/qemu/run; for file in *.pid; do kill -0 $(cat $file); echo $file $(cat $file); done"))
    },
    ..PLAIN
};

/// Storage and all are the job's own.
pub const PODMAN: Scene = Scene {
    name: "podman=isolate",
    sample: 4,
    world: || fresh("points"),
    options: |_| guests("podman=isolate"),
    make: |_, name| podman_run(name),
    list: |job| job.says(PODMAN_PS),
    ..PLAIN
};

/// One storage for all, and a neighbour whose container runs.
pub const PODMAN_SHARED: Scene = Scene {
    name: "podman=shared",
    sample: 3,
    options: |_| guests("podman=shared"),
    ..PODMAN
};

/// As that, and the job's container was the only one that ran: podman does not work any more when the job is dead. The process that would help it
/// is ended after each call of the neighbour's, so that the job has one of its own.
pub const PODMAN_BROKEN: Scene = Scene {
    name: "podman=shared, broken",
    make: |_, name| {
        if name == "theirs" {
            let idle = "podman create --name theirs busybox true >/dev/null";
            format!("podman import -q {IMAGE} busybox >/dev/null; {idle}; {PODMAN_ALONE}")
        } else {
            podman_run(name)
        }
    },
    list: |job| job.says(&format!("{PODMAN_PS}; {PODMAN_ALONE}")),
    ..PODMAN_SHARED
};

const PODMAN_PS: &str = "podman ps --all --format '{{.ID}} {{.Names}} {{.Pid}} {{.Exited}}'";

/// Ends the process that keeps the user's namespace.
const PODMAN_ALONE: &str = "kill -KILL $(cat /tmp/podman-run-2001/libpod/tmp/pause.pid)";

fn podman_run(name: &str) -> String {
    let label = "--label jobcage.job=$JOBCAGE_JOB";
    format!(
        "podman import -q {IMAGE} busybox >/dev/null
         podman run -d --name {name} {label} busybox sleep 1000 >/dev/null
         podman create --name {name}-idle {label} busybox true >/dev/null"
    )
}

/// Containers, a volume and a network by their label; the daemon is nobody's.
pub const DOCKER: Scene = Scene {
    name: "docker=shared",
    sample: 3,
    world: || {
        start_docker();
        world("points")
    },
    options: |_| guests("docker=shared"),
    make: |_, name| {
        let label = "--label jobcage.job=$JOBCAGE_JOB";
        format!(
            "docker run -d --network none --name {name} {label} busybox sleep 1000 >/dev/null
             docker create --network none --name {name}-idle {label} busybox true >/dev/null
             docker volume create {label} {name}-volume >/dev/null; docker network create {label} {name}-net >/dev/null"
        )
    },
    list: |job| {
        job.says(
            "docker ps --all --quiet | xargs docker inspect -f '{{.Name}} {{.State.Status}} {{.State.Pid}}'
             docker volume ls; docker network ls",
        )
    },
    ..PLAIN
};

/// Containers of root's, by their names: one runs, one does not.
pub const LXC: Scene = Scene {
    name: "lxc=shared",
    sample: 3,
    world: || lonely("points"),
    options: |_| guests("lxc=shared"),
    make: |_, _| sudo(&(lxc::start("$JOBCAGE_JOB.run") + &lxc::create("$JOBCAGE_JOB.idle"))),
    list: |_| {
        root(
            "cd /var/lib/lxc; for name in *; do echo $name $(lxc-info -n $name -sp); done; ls -d /sys/fs/cgroup/lxc.payload.* /sys/fs/cgroup/lxc.monitor.*",
        )
    },
    // A monitor tells of the end before its own.
    wait: |_, id| {
        for what in ["payload", "monitor"] {
            let dir = format!("/sys/fs/cgroup/lxc.{what}.{id}.run");
            assert!(wait_gone(Path::new(&dir), PATIENCE), "{dir} is left");
        }
    },
    ..PLAIN
};

/// What only the site knows of: ports, each a file, one freed after the other.
pub const HOOK: Scene = Scene {
    name: "--guest-hook",
    sample: 8,
    world: || {
        let world = world("points");
        let (ports, hook) = (world.dir.join("ports"), world.dir.join("hook"));
        fs::create_dir(&ports).unwrap();
        chown(&ports, Some(UID), Some(UID)).unwrap();
        fs::write(&hook, FREE_PORTS.replace("PORTS", &ports.display().to_string())).unwrap();
        fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).unwrap();
        world
    },
    options: |world| {
        let hook = world.dir.join("hook").display().to_string();
        [guests("off"), vec!["--guest-hook".to_owned(), hook]].concat()
    },
    make: |world, _| {
        let ports = world.dir.join("ports");
        format!(
            "cd {}; touch $JOBCAGE_JOB.a $JOBCAGE_JOB.b $JOBCAGE_JOB.c",
            ports.display()
        )
    },
    list: |job| job.says(&format!("ls -i {}", job.world.dir.join("ports").display())),
    ..PLAIN
};

/// What is gone already is not told of again.
const FREE_PORTS: &str = r#"#!/bin/sh
id=$(sed -n 's/.*"job":"\([^"]*\)".*/\1/p')
for port in PORTS/"$id".*; do
    [ -e "$port" ] && rm "$port" && echo '{"what": "port", "name": "'"${port##*.}"'", "outcome": "deleted"}'
done
exit 0
"#;
