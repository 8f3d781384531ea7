//! Jobs that want the cleanup to reach out of what is theirs, to wait for ever, or to eat all memory.

use crate::odd::with_wrapper;
use crate::support::process::Process;
use crate::untouched::look;
use crate::virtualbox::{MANAGE, START, assert_given_back, configured, guests, ok, places, runner, world};
use std::fs;
use std::os::unix::fs::chown;
use std::path::Path;

/// A registry that is none, and links out of the job's directories wherever cleanup walks.
pub fn registries() {
    let treasure = "keep=$PWD/other; mkdir -p $keep; echo keep > $keep/keep; place=${VBOX_USER_HOME%/*}; V=/usr/lib/virtualbox/VBoxManage; ";
    for (at, trick) in [
        "rm $VBOX_USER_HOME/VirtualBox.xml; mkfifo $VBOX_USER_HOME/VirtualBox.xml",
        "ln -sf /dev/zero $VBOX_USER_HOME/VirtualBox.xml",
        "truncate -s 2G $VBOX_USER_HOME/VirtualBox.xml",
        "head -c 200 $V > $VBOX_USER_HOME/VirtualBox.xml",
        "$V createvm --name x --register >/dev/null; sleep 0.1; truncate -s 60 $VBOX_USER_HOME/VirtualBox.xml; pkill -KILL -u ci1 VBoxSVC || true",
        "mv $VBOX_USER_HOME elsewhere; ln -s $keep $VBOX_USER_HOME",
        "$V createmedium disk --filename $PWD/d.vdi --size 20 >/dev/null 2>&1; ln -sf /etc/passwd d.vdi",
        "ln -s $keep $place/vms/link; ln -s /home/ci2 $place/vms/theirs; ln -s /etc $place/etc; ln -s / $place/vagrant/root",
        "rm -r $place/vms $place/vagrant; ln -s /home/ci2 $place/vms; ln -s /root $place/vagrant",
        "$V list vms; rm -r /tmp/.vbox-$VBOX_IPC_SOCKETID-ipc; ln -s /home/ci2 /tmp/.vbox-$VBOX_IPC_SOCKETID-ipc",
        "$V createvm --name deep --register >/dev/null; mv $place/vms/deep moved; ln -s /home/ci2 $place/vms/deep",
        "cd $place; i=0; while [ $i -lt 300 ]; do mkdir deeper; cd deeper; i=$((i+1)); done; ln -s /home/ci2 x; chmod 000 .",
    ]
    .into_iter()
    .enumerate()
    {
        let mut world = world("vbox-hostile");
        let theirs = neighbours();
        let before = look(&[]);
        {
            let runner = configured(&world, 240 + at as u64, "[run]\nguest_timeout = '60s'\n");
            ok(&runner.stage("build_script", &format!("{treasure}{trick}")));
            let ended = runner.call("cleanup", &[]);
            assert!(matches!(ended.code, 0 | 2), "{trick}: {}", ended.log);
        }
        assert_eq!(fs::read_to_string(world.dir.join("project/other/keep")).unwrap(), "keep\n", "{trick}");
        before.assert_untouched(&[], trick);
        assert_eq!(fs::read_to_string(theirs).unwrap(), "theirs\n", "{trick}");
        assert_given_back(&world);
        world.jobcage(&[], &["gc"]);
        world.assert_nothing_left();
    }
}

/// A file of another user's that everybody may read, and write, if he gets there.
fn neighbours() -> &'static Path {
    let file = Path::new("/home/ci2/VirtualBox VMs/theirs.vdi");
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, "theirs\n").unwrap();
    chown(file, Some(2002), Some(2002)).unwrap();
    file
}

/// A tool that hangs and does not care for SIGTERM, one that prints for ever, one that leaves a child with its output: each has its time, and the slot is free.
pub fn tools() {
    for (at, text) in [
        "trap '' TERM INT HUP; while :; do sleep 1000; done",
        "exec yes",
        "trap '' TERM; (trap '' TERM; exec sleep 1000) & exit 1",
    ]
    .into_iter()
    .enumerate()
    {
        let mut world = world("vbox-tools");
        let pids = world.dir.join("pids");
        fs::write(&pids, "").unwrap();
        chown(&pids, Some(2001), Some(2001)).unwrap();
        let config = "[run]\nguest_timeout = '4s'\n";
        {
            let runner = configured(&world, 260 + at as u64, config);
            ok(&runner.stage(
                "build_script",
                &format!("{START} $V createvm --name web --register >/dev/null"),
            ));
            let before = look(&[]);
            let script = format!("#!/bin/sh\necho $$ >> {}\n{text}\n", pids.display());
            with_wrapper(&world, &script, || {
                let ended = runner.call("cleanup", &[]);
                assert!(matches!(ended.code, 0 | 2), "{text}: {}", ended.log);
                assert!(ended.log.contains("VirtualBox"), "{text}: {}", ended.log);
            });
            before.assert_untouched(&[], text);
        }
        let started = fs::read_to_string(&pids).unwrap();
        assert!(started.lines().count() > 0, "no tool was started");
        for pid in started.lines() {
            assert!(
                Process::open(pid.parse().unwrap()).has_ended(),
                "{text}: {pid} lives"
            );
        }
        world.jobcage(&[], &["gc"]);
        assert_given_back(&world);
        world.assert_nothing_left();
    }
}

/// Names that are lines of a list, options, paths and other machines' numbers: each machine goes, and nothing that it names.
pub fn names() {
    let mut world = world("vbox-names");
    neighbours();
    let before = look(&[]);
    {
        let runner = runner(&world, 270);
        let script = format!(
            "{START} n=0; for name in $'two\\nlines' '\"' '\"x\" {{6b844bab-4a07-4e3d-ba81-9bfd3accc755}}' '--delete' '../../../../../../home/ci2/VirtualBox VMs' '$(id)' '{{}}' \
             $'UUID: 6b844bab-4a07-4e3d-ba81-9bfd3accc755\\nLocation: /home/ci2/VirtualBox VMs/theirs.vdi'; do
             $V createvm --name=\"$name\" --register >/dev/null 2>&1 && n=$((n+1)) || echo \"no machine can be called $name\"; done; echo made $n; {MANAGE} list vms"
        );
        let stage = runner.stage("build_script", &script);
        ok(&stage);
        let made = stage.log.split_once("made ").unwrap().1.lines().next().unwrap();
        let made: usize = made.parse().unwrap();
        assert!(made >= 4, "{}", stage.log);
        ok(&runner.call("cleanup", &[]));
        let gone = guests(&world).iter().filter(|guest| guest.what == "vm").count();
        assert_eq!(gone, made, "{}", stage.log);
    }
    before.assert_untouched(&[], "names");
    assert_eq!(places(&world), Vec::<std::path::PathBuf>::new());
    assert_given_back(&world);
    world.assert_nothing_left();
}
