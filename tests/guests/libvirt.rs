//! libvirt: machines of a session of the job's own, beside those of a neighbour of the same user.

use crate::peers::domain;
use crate::support::PATIENCE;
use crate::support::cgroup::{self, wait_change, wait_empty};
use crate::support::process::Process;
use crate::support::world::World;
use crate::virtualbox::{UID, USER, configured, guests, ok, places, world};
use jobcage_job::{GuestReport, Outcome};
use nix::sys::signal::Signal;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::Path;
use std::time::Duration;

const ISOLATE: &str = "[run]\nguests = 'libvirt=isolate'\n";

/// Words for a session's virsh, which says nothing that it is not asked for.
pub const VIRSH: &str = "export LIBVIRT_DEFAULT_URI=qemu:///session; v() { virsh -q \"$@\"; }; ";

/// The definition of a machine with these devices, as a file that everybody may read.
pub fn defined(world: &World, file: &str, name: &str, devices: &str) -> String {
    let file = world.dir.join(file);
    let text = domain(name).replace("<devices>", &format!("<devices>{devices}"));
    fs::write(&file, text).unwrap();
    file.display().to_string()
}

pub fn disk(device: &str, target: &str, path: &Path) -> String {
    let kind = if device == "disk" { "qcow2" } else { "raw" };
    format!(
        "<disk type='file' device='{device}'><driver name='qemu' type='{kind}'/><source file='{}'/><target dev='{target}'/></disk>",
        path.display()
    )
}

pub fn outcome(guests: &[GuestReport], what: &str, name: &str) -> Option<Outcome> {
    let mut found = guests
        .iter()
        .filter(|guest| guest.what == what && guest.name == name);
    found.next().map(|guest| guest.outcome)
}

pub fn assert_given_back(world: &World) {
    crate::virtualbox::assert_given_back(world);
    let names = fs::read_dir("/tmp")
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    let dirs: Vec<_> = names
        .filter(|name| name.to_string_lossy().starts_with("jc-"))
        .collect();
    assert!(dirs.is_empty(), "{dirs:?}");
}

/// Machines and disks in the place are gone; of disks elsewhere those that are in a pool, and what is in a drive stays even then.
pub fn isolated() {
    let mut world = world("libvirt-isolated");
    let project = world.dir.join("project");
    {
        let runner = configured(&world, 600, ISOLATE);
        let place = places(&world).remove(0);
        let (inside, pool) = (place.join("in.qcow2"), project.join("pool"));
        let (volume, plain) = (pool.join("volume.qcow2"), project.join("plain.qcow2"));
        let image = pool.join("tools.iso");
        let devices = [
            disk("disk", "vda", &inside),
            disk("disk", "vdb", &volume),
            disk("disk", "vdc", &plain),
            disk("cdrom", "hda", &image),
        ];
        let web = defined(&world, "web.xml", "web", &devices.concat());
        let odd = defined(&world, "odd.xml", "-x &quot;$(touch x)&quot; {&lt;é", "");
        let short = defined(&world, "short.xml", "short", "");
        let make = |path: &Path| format!("qemu-img create -q -f qcow2 {} 10M; ", path.display());
        let script = format!(
            "{VIRSH} mkdir pool; {} {} {} truncate -s 1M {}; v pool-create-as p dir --target $PWD/pool
             v define {web}; v start web; v define {odd}; v create {short}; v autostart web
             v list --name; echo \"in $XDG_RUNTIME_DIR\"",
            make(&inside),
            make(&volume),
            make(&plain),
            image.display()
        );
        let stage = runner.stage("build_script", &script);
        ok(&stage);
        assert!(
            stage.log.contains("web\n") && stage.log.contains("short\n"),
            "{}",
            stage.log
        );
        let shown = world.call(&["guests"]).expect(0).text();
        assert!(
            shown.contains("libvirt VM \"web\" {") && shown.contains("}: running, pid "),
            "{shown}"
        );
        let ended = runner.call("cleanup", &[]);
        ok(&ended);
        assert!(
            ended.log.contains("libvirt VM \"web\" {") && ended.log.contains("}: running → deleted, "),
            "{}",
            ended.log
        );
        assert!(
            !inside.exists() && !volume.exists() && plain.exists() && image.exists(),
            "{}",
            ended.log
        );
        let path = plain.display().to_string();
        let told = format!("libvirt disk {path:?}: not touched: it is in no storage pool of this libvirt");
        assert!(ended.log.contains(&told), "{}", ended.log);
    }
    let guests = guests(&world);
    let path = |name: &str| project.join(name).display().to_string();
    for (what, name, expected) in [
        ("vm", "web".to_owned(), Outcome::Deleted),
        ("vm", "-x \"$(touch x)\" {<é".to_owned(), Outcome::Deleted),
        ("disk", path("pool/volume.qcow2"), Outcome::Deleted),
        ("disk", path("plain.qcow2"), Outcome::Spared),
        ("disk", path("pool/tools.iso"), Outcome::Spared),
    ] {
        let is_cd = name.ends_with(".iso");
        assert_eq!(
            outcome(&guests, what, &name),
            (!is_cd).then_some(expected),
            "{guests:#?}"
        );
    }
    assert!(!project.join("x").exists());
    assert_given_back(&world);
    world.assert_nothing_left();
}

/// Two jobs of one user, and whether the process of the second one's machine lives when the first is over. A new daemon would say for a while that it does.
fn state_of_neighbour(test: &str, config: &str) -> String {
    let mut world = world(test);
    let state = {
        let (a, b) = (configured(&world, 610, config), configured(&world, 611, config));
        let (of_a, of_b) = (
            defined(&world, "a.xml", "a", ""),
            defined(&world, "b.xml", "b", ""),
        );
        // A home for the one libvirt of both, where each has none of its own.
        let home = format!(
            "{VIRSH} export HOME=$PWD; mkdir -p -m 700 run; : ${{XDG_RUNTIME_DIR:=$PWD/run}}; export XDG_RUNTIME_DIR; "
        );
        ok(&a.stage("build_script", &format!("{home} v define {of_a}; v start a")));
        ok(&b.stage(
            "build_script",
            &format!("{home} v define {of_b}; v start b; v domstate b; cp $XDG_RUNTIME_DIR/libvirt/qemu/run/b.pid pid"),
        ));
        ok(&a.call("cleanup", &[]));
        let state = b.stage(
            "step_look",
            "if kill -0 $(cat pid); then echo it lives; else echo it is dead; fi",
        );
        ok(&state);
        ok(&b.call("cleanup", &[]));
        state.log
    };
    assert_given_back(&world);
    world.assert_nothing_left();
    state
}

pub fn neighbour() {
    let state = state_of_neighbour("libvirt-neighbour", ISOLATE);
    assert!(state.contains("it lives"), "{state}");
}

/// The test before this one can fail.
pub fn without() {
    let state = state_of_neighbour("libvirt-without", "[run]\nguests = 'off'\n");
    assert!(state.contains("it is dead"), "{state}");
}

/// What other programs keep beside libvirt's is found by links. Names that the user cannot read are not told to him by root.
pub fn of_user() {
    let mut world = world("libvirt-of-user");
    let home = Path::new("/home").join(USER);
    fs::create_dir_all(home.join(".config/tool")).unwrap();
    fs::create_dir_all(home.join(".config/libvirt/qemu")).unwrap();
    fs::write(home.join(".config/tool/conf"), "the user's\n").unwrap();
    chown(home.join(".config"), Some(UID), Some(UID)).unwrap();
    symlink("/root", home.join(".cache")).unwrap();
    fs::write("/root/.secret-name", "").unwrap();
    {
        let runner = configured(&world, 660, ISOLATE);
        let stage = runner.stage(
            "build_script",
            "cat $XDG_CONFIG_HOME/tool/conf; ls $XDG_CONFIG_HOME; ls -A $XDG_CACHE_HOME; echo end; echo of the job > $XDG_CONFIG_HOME/new",
        );
        ok(&stage);
        assert!(stage.log.contains("the user's\ntool\nend\n"), "{}", stage.log);
        ok(&runner.call("cleanup", &[]));
    }
    assert!(home.join(".config/tool/conf").exists() && !home.join(".config/new").exists());
    for dir in [".config/tool", ".config/libvirt"] {
        fs::remove_dir_all(home.join(dir)).unwrap();
    }
    for file in [home.join(".cache"), "/root/.secret-name".into()] {
        fs::remove_file(file).unwrap();
    }
    assert_given_back(&world);
    world.assert_nothing_left();
}

/// Definitions that libvirt waits for, links to the user's own libvirt: what is not in the place stays.
pub fn hostile() {
    let own = "own=$PWD/own; mkdir -p $own/run $own/config; owned() { XDG_RUNTIME_DIR=$own/run XDG_CONFIG_HOME=$own/config XDG_CACHE_HOME=$own virsh -q \"$@\"; }; ";
    for (at, trick) in [
        "v list --all; mkfifo $XDG_CONFIG_HOME/libvirt/qemu/x.xml",
        "v list --all; ln -s /dev/zero $XDG_CONFIG_HOME/libvirt/qemu/x.xml; mkdir -p $XDG_CONFIG_HOME/libvirt/storage; mkfifo $XDG_CONFIG_HOME/libvirt/storage/x.xml",
        "v define $other; ln -s $own/config/libvirt/qemu/keep.xml $XDG_CONFIG_HOME/libvirt/qemu/keep.xml",
        "rm -rf $(readlink $XDG_CONFIG_HOME)/libvirt; ln -s $own/config/libvirt $XDG_CONFIG_HOME/libvirt; v list --all",
        "rm $XDG_CONFIG_HOME; ln -s $own/config $XDG_CONFIG_HOME; v list --all",
        "v define $other; pkill -KILL -u ci1 -x libvirtd; rm -rf $XDG_RUNTIME_DIR/libvirt; ln -s $own/run/libvirt $XDG_RUNTIME_DIR/libvirt",
        "v define $other; rm $XDG_RUNTIME_DIR/libvirt/libvirt-sock; ln -s $own/run/libvirt/libvirt-sock $XDG_RUNTIME_DIR/libvirt/libvirt-sock",
    ]
    .into_iter()
    .enumerate()
    {
        let mut world = world("libvirt-hostile");
        let keep = world.dir.join("project/own/config/libvirt/qemu/keep.xml");
        {
            let (kept, other) = (defined(&world, "keep.xml", "keep", ""), defined(&world, "other.xml", "other", ""));
            let runner = configured(&world, 620 + at as u64, ISOLATE);
            let script = format!("{VIRSH} {own} export LC_ALL=C; other={other}; owned define {kept}; {trick}");
            ok(&runner.stage("build_script", &script));
            let ended = runner.call("cleanup", &[]);
            assert!(matches!(ended.code, 0 | 2), "{trick}: {}", ended.log);
            assert!(keep.exists(), "{trick}: {}", ended.log);
            assert!(!ended.log.contains("\"keep\""), "{trick}: {}", ended.log);
        }
        assert_given_back(&world);
        world.jobcage(&[], &["gc"]);
        world.assert_nothing_left();
    }
}

/// libvirt reads more than its machines when it starts: from a FIFO, for ever.
pub fn hanging() {
    let mut world = world("libvirt-hanging");
    {
        let config = format!("{ISOLATE}guest_timeout = '4s'\n");
        let runner = configured(&world, 670, &config);
        let web = defined(&world, "web.xml", "web", "");
        let script = format!("{VIRSH} v define {web}; mkfifo $XDG_CONFIG_HOME/libvirt/secrets/x.xml");
        ok(&runner.stage("build_script", &script));
        let ended = runner.call("cleanup", &[]);
        ok(&ended);
        let told = "gone with the job's place; its tool had failed: ";
        assert!(
            ended.log.contains("what libvirt keeps in") && ended.log.contains(told),
            "{}",
            ended.log
        );
    }
    guests(&world);
    assert_given_back(&world);
    world.assert_nothing_left();
}

/// The supervisor dies while virsh runs; whoever comes next begins again.
pub fn killed() {
    for round in 0..3_u64 {
        let mut world = world("libvirt-killed");
        let pool = world.dir.join("project/pool");
        {
            let runner = configured(&world, 630 + round, ISOLATE);
            let volume = pool.join("volume.qcow2");
            let web = defined(&world, "web.xml", "web", &disk("disk", "vda", &volume));
            let script = format!(
                "{VIRSH} mkdir pool; v pool-create-as p dir --target $PWD/pool; v vol-create-as p volume.qcow2 10M --format qcow2
                 v define {web}; v start web"
            );
            ok(&runner.stage("build_script", &script));
            assert!(volume.exists());
            let cleanup = runner.start("cleanup", &[]);
            let tools = world.cgroup_root.join("guests");
            assert!(
                wait_change(&world.cgroup_root, PATIENCE, || tools.exists()),
                "no tool was started"
            );
            // Into another call each time, as far as the machine keeps the time.
            std::thread::sleep(Duration::from_millis(900 * round));
            for pid in cgroup::pids(&world.cgroup_root.join("supervisors")) {
                Process::open(pid).signal(Signal::SIGKILL);
            }
            ok(&cleanup.end());
            assert!(wait_empty(&world.cgroup_root.join("supervisors"), PATIENCE));
            world.jobcage(&[], &["gc"]);
            assert!(!volume.exists());
        }
        guests(&world);
        assert_given_back(&world);
        world.assert_nobody_left();
    }
}

/// No tool is started for a job that has only looked around. The tool tells of itself, and of the cgroup that it is in.
pub fn unused() {
    const CALLS: &str = "/tmp/virsh-calls";
    let (virsh, real) = ("/usr/bin/virsh", "/usr/bin/virsh.real");
    fs::rename(virsh, real).unwrap();
    fs::write(
        virsh,
        format!("#!/bin/sh\ncat /proc/self/cgroup >>{CALLS}\nexec {real} \"$@\"\n"),
    )
    .unwrap();
    fs::write(CALLS, "").unwrap();
    for (file, mode) in [(virsh, 0o755), (CALLS, 0o666)] {
        fs::set_permissions(file, fs::Permissions::from_mode(mode)).unwrap();
    }
    let mut world = world("libvirt-unused");
    let web = defined(&world, "web.xml", "web", "");
    let define = format!("{VIRSH} v define {web}");
    let told: Vec<bool> = [
        "ls -A $XDG_CONFIG_HOME $XDG_CACHE_HOME; touch $XDG_CACHE_HOME/x",
        define.as_str(),
    ]
    .iter()
    .enumerate()
    .map(|(at, script)| {
        let runner = configured(&world, 640 + at as u64, ISOLATE);
        ok(&runner.stage("build_script", script));
        ok(&runner.call("cleanup", &[]));
        fs::read_to_string(CALLS).unwrap().contains("/guests/")
    })
    .collect();
    fs::rename(real, virsh).unwrap();
    fs::remove_file(CALLS).unwrap();
    assert_eq!(told, [false, true]);
    assert_given_back(&world);
    world.assert_nothing_left();
}
