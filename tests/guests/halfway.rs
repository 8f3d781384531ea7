//! VirtualBox forgets a disk before it removes it: whoever closes a job is killed between the two, or while the place is removed. And a list that
//! fails, once, tells nothing.

use crate::odd::with_wrapper;
use crate::points::traced;
use crate::support::PATIENCE;
use crate::support::cgroup::wait_change;
use crate::support::process::Process;
use crate::support::programs;
use crate::virtualbox::{MANAGE, USER, assert_given_back, guests, places, user_daemon_ends, world};
use crate::virtualbox_shared::assert_tidied;
use jobcage_job::Outcome;
use nix::sys::signal::Signal;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// What `--delete` is to do is half done, and does not go on: the same as a kill at that moment, which is too short to be met.
const HALF: &str = r#"#!/bin/bash
words=()
for word in "$@"; do [ "$word" = --delete ] || words+=("$word"); done
[ $# = ${#words[@]} ] && exec "$0.real" "$@"
"$0.real" "${words[@]}" && exec sh -c 'touch FORGOTTEN; exec sleep 1000'
"#;

/// A disk of nobody, and a machine with one, all of it outside of the place: the next one finds each of them, and not what lies there instead by
/// then.
pub fn forgotten() {
    let machine = format!(
        "{MANAGE} createvm --name web --ostype Linux26_64 --basefolder $PWD/vms --register >/dev/null
         {MANAGE} storagectl web --name sata --add sata --portcount 1
         {MANAGE} storageattach web --storagectl sata --port 0 --device 0 --type hdd --medium $PWD/disk.vdi"
    );
    for (mode, script, is_replaced) in [
        ("isolate", "", false),
        ("isolate", machine.as_str(), false),
        ("isolate", "", true),
        ("shared", "", false),
        ("shared", machine.as_str(), false),
    ] {
        user_daemon_ends();
        let mut world = world("vbox-forgotten");
        let project = world.dir.join("project");
        let id = {
            let (mode, own) = (format!("virtualbox={mode}"), project.display().to_string());
            let create = ["create", "--user", USER, "--guests", &mode, "--project", &own];
            let id = world.call(&create).expect(0).text();
            let disk =
                format!("{MANAGE} createmedium disk --filename $PWD/disk.vdi --size 20 >/dev/null 2>&1");
            let script = format!("cd {}; {disk}\n{script}", project.display());
            let login = [
                "run", "--job", &id, "--user", USER, "--login", "--", "bash", "-ec", &script,
            ];
            world.call(&login).expect(0);
            id
        };
        let half = HALF.replace("FORGOTTEN", &project.join("forgotten").display().to_string());
        with_wrapper(&world, &half, || {
            let mut command = world.command(programs::jobcage());
            command.args(["cleanup", &id]).stdin(Stdio::null());
            let mut closer = command
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let is_forgotten = || project.join("forgotten").exists();
            assert!(
                wait_change(&project, PATIENCE, is_forgotten),
                "it was not asked to"
            );
            Process::open(i32::try_from(closer.id()).unwrap()).signal(Signal::SIGKILL);
            closer.wait().unwrap();
        });
        let disk = project.join("disk.vdi");
        assert!(disk.exists());
        if is_replaced {
            fs::rename(&disk, project.join("moved.vdi")).unwrap();
            fs::copy(project.join("moved.vdi"), &disk).unwrap();
        }
        world.call(&["cleanup", &id]).expect(0);
        assert_eq!(disk.exists(), is_replaced, "{mode}, {script:?}");
        let told = guests(&world).into_iter().filter(|guest| guest.what == "disk");
        let told: Vec<_> = told.map(|guest| (guest.name, guest.outcome)).collect();
        let expected = (disk.display().to_string(), Outcome::Deleted);
        // With a machine that is known again its disk goes by itself.
        let is_told = !is_replaced && script.is_empty();
        assert_eq!(told, if is_told { vec![expected] } else { Vec::new() }, "{mode}");
        assert!(!project.join("vms/web").exists(), "{mode}");
        if mode == "shared" {
            assert_tidied(&world);
        }
        assert_given_back(&world);
        world.assert_nothing_left();
    }
}

/// A tool that fails when it is asked first: were that the last word, the registry would go with the place, and the disk stay.
pub fn failed_once() {
    let mut world = world("vbox-failed-once");
    let project = world.dir.join("project");
    let id = world.call(&["create", "--user", USER]).expect(0).text();
    let script = format!(
        "{MANAGE} createmedium disk --filename {}/disk.vdi --size 20 >/dev/null 2>&1",
        project.display()
    );
    let login = [
        "run", "--job", &id, "--user", USER, "--login", "--", "bash", "-ec", &script,
    ];
    world.call(&login).expect(0);
    let failed = project.join("failed");
    let once = format!(
        "#!/bin/sh\n[ -e {0} ] && exec \"$0.real\" \"$@\"\ntouch {0}\nexit 1\n",
        failed.display()
    );
    with_wrapper(&world, &once, || {
        world.call(&["cleanup", &id]).expect(0);
    });
    assert!(failed.exists() && !project.join("disk.vdi").exists());
    let told = guests(&world);
    assert!(told.iter().all(|guest| guest.why.is_none()), "{told:#?}");
    assert_given_back(&world);
    world.assert_nothing_left();
}

/// In half a place no tool works, and what they have said of it is not to be lost with whoever was told.
pub fn half_a_place() {
    let mut world = world("vbox-half-a-place");
    let id = world.call(&["create", "--user", USER]).expect(0).text();
    let script = format!("{MANAGE} createvm --name web --ostype Linux26_64 --register >/dev/null");
    let login = [
        "run", "--job", &id, "--user", USER, "--login", "--", "bash", "-ec", &script,
    ];
    world.call(&login).expect(0);
    let place = places(&world).remove(0);
    let told = world.dir.join("state").join(&id).join("given-back.json");
    let is_half = |_| told.exists() && !place.join("vbox").exists();
    let (_, was_killed) = traced::cleaned_up(&world, &id, is_half);
    assert!(was_killed && place.exists());

    world.call(&["gc"]).expect(0);
    let all: Vec<_> = guests(&world)
        .into_iter()
        .map(|guest| (guest.name, guest.outcome, guest.why))
        .collect();
    assert_eq!(all, [("web".to_owned(), Outcome::Deleted, None)]);
    assert!(!told.exists(), "the report has it");
    assert_given_back(&world);
    world.assert_nothing_left();
}

/// What somebody has mounted in a place is not ours to remove: it is named, and when it is gone so is the place, without another word of the tools.
pub fn mounted() {
    let mut world = world("vbox-mounted");
    let id = world.call(&["create", "--user", USER]).expect(0).text();
    let script = format!("{MANAGE} createvm --name web --ostype Linux26_64 --register >/dev/null");
    let login = [
        "run", "--job", &id, "--user", USER, "--login", "--", "bash", "-ec", &script,
    ];
    world.call(&login).expect(0);
    let place = places(&world).remove(0);
    let mount = place.join("vms/mounted");
    fs::create_dir(&mount).unwrap();
    let at = mount.to_str().unwrap();
    assert!(
        Command::new("mount")
            .args(["-t", "tmpfs", "here", at])
            .status()
            .unwrap()
            .success()
    );
    world.call(&["cleanup", &id]).expect(125);
    let report = world.closed_reports().remove(0);
    let left: Vec<_> = report.guests.iter().filter(|guest| guest.is_left()).collect();
    assert!(
        !report.clean && left.len() == 1 && left[0].kind == "files",
        "{report:#?}"
    );

    // Wherever the removal has moved it to by then.
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let ours = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .filter(|at| Path::new(at).starts_with(&place));
    for at in ours {
        assert!(Command::new("umount").arg(at).status().unwrap().success());
    }
    world.call(&["gc"]).expect(0);
    let all: Vec<_> = guests(&world)
        .into_iter()
        .map(|guest| (guest.name, guest.outcome, guest.why))
        .collect();
    assert_eq!(all, [("web".to_owned(), Outcome::Deleted, None)]);
    assert_given_back(&world);
    world.assert_nothing_left();
}
