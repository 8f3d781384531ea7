//! States that a job can leave VirtualBox in, each of which a tool alone does not come out of (`../../docs/guests.md`).

use crate::runner::Runner;
use crate::support::cgroup;
use crate::support::world::World;
use crate::virtualbox::{
    MANAGE, START, USER, as_user, assert_given_back, configured, guests, ok, places, runner,
    user_daemon_ends, world,
};
use crate::virtualbox_shared::assert_tidied;
use jobcage_job::GuestReport;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

/// What a job was left with, by the stage that left it so.
struct Left {
    guests: Vec<GuestReport>,
    told: String,
}

impl Left {
    fn machines(&self) -> usize {
        self.guests.iter().filter(|guest| guest.what == "vm").count()
    }
}

/// A job of one stage, in the state in which the script leaves it; everything of it is given back.
fn job(id: u64, script: &str) -> Left {
    let mut world = world("vbox-odd");
    let told = {
        let runner = runner(&world, id);
        let stage = runner.stage("build_script", &format!("{START} {script}"));
        ok(&stage);
        let ended = runner.call("cleanup", &[]);
        ok(&ended);
        // A second one has nothing to do, and says nothing of machines.
        let again = runner.call("cleanup", &[]);
        assert!(
            again.code == 0 && !again.log.contains("VirtualBox"),
            "{}",
            again.log
        );
        stage.log + &ended.log
    };
    let guests = guests(&world);
    for name in ["project", "project.tmp"] {
        assert_eq!(
            disks(&world.dir.join(name)),
            Vec::<String>::new(),
            "{script}: {told}"
        );
    }
    assert_given_back(&world);
    world.assert_nothing_left();
    Left { guests, told }
}

fn disks(dir: &Path) -> Vec<String> {
    let listed = fs::read_dir(dir).into_iter().flatten().flatten();
    let names = listed.map(|entry| entry.file_name().into_string().unwrap());
    names.filter(|name| name.ends_with(".vdi")).collect()
}

/// `VBoxHeadless` without its daemon, and one that is stopped: `controlvm poweroff` would hang for ever.
pub fn dead_daemon_and_stopped_machine() {
    let left = job(
        600,
        "make alone $PWD/a.vdi; pkill -KILL -x -u ci1 VBoxSVC; pgrep -x -u ci1 VBoxHeadless >/dev/null && echo alone it runs",
    );
    assert!(left.told.contains("alone it runs"), "{}", left.told);
    assert_eq!(left.machines(), 1, "{:#?}", left.guests);
    let left = job(601, "make still $PWD/a.vdi; pkill -STOP -x -u ci1 VBoxHeadless");
    assert_eq!(left.machines(), 1, "{:#?}", left.guests);
}

/// The base of a linked clone is listed first, and cannot go before the clone.
pub fn linked_clone() {
    let left = job(
        610,
        "$V createvm --name base --ostype Linux26_64 --register >/dev/null
         $V createmedium disk --filename $PWD/base.vdi --size 20 >/dev/null 2>&1
         $V storagectl base --name sata --add sata --portcount 1
         $V storageattach base --storagectl sata --port 0 --device 0 --type hdd --medium $PWD/base.vdi
         $V snapshot base take one >/dev/null 2>&1
         $V clonevm base --snapshot one --options link --name clone --register >/dev/null 2>&1
         $V list vms",
    );
    let (base, clone) = (left.told.find("\"base\" {"), left.told.find("\"clone\" {"));
    assert!(base.is_some() && base < clone, "{}", left.told);
    assert_eq!(left.machines(), 2, "{:#?}", left.guests);
}

/// A machine whose settings are cut off or gone, and a registry that is gone: the files go with the place.
pub fn damaged_files() {
    for (id, damage) in [
        (620, "truncate -s 100 $VBOX_USER_HOME/../vms/web/web.vbox"),
        (621, "rm -r $VBOX_USER_HOME/../vms/web"),
        (622, "rm $VBOX_USER_HOME/VirtualBox.xml*"),
    ] {
        // The daemon would write its own once more at its end.
        job(
            id,
            &format!("make web $VBOX_USER_HOME/../vms/web.vdi; pkill -KILL -u ci1 VBox; {damage}"),
        );
    }
}

/// A disk outside of the place that is none any more: VirtualBox forgets it together with its machine, and does not remove it. It is named, and
/// the job is not clean, until somebody has looked at it.
pub fn damaged_disk() {
    for (id, mode) in [(625, "isolate"), (626, "shared")] {
        user_daemon_ends();
        let mut world = world("vbox-damaged");
        {
            let config = format!("[run]\nguests = 'virtualbox={mode}'\n");
            let runner = configured(&world, id, &config);
            let script = format!(
                "{START} make web $PWD/web.vdi; make db $PWD/db.vdi; pkill -KILL -u ci1 VBox; truncate -s 0 web.vdi"
            );
            ok(&runner.stage("build_script", &script));
            let ended = runner.call("cleanup", &[]);
            let disk = world.dir.join("project/web.vdi");
            let named = format!(
                "VirtualBox disk \"{}\": LEFT, 0 B: {MANAGE} closemedium disk: ",
                disk.display()
            );
            assert!(
                ended.log.contains(&named) && ended.log.contains("(VERR_NOT_SUPPORTED)"),
                "{mode}: {}",
                ended.log
            );
            assert!(!world.closed_reports().remove(0).clean, "{mode}");
            assert!(!world.dir.join("project/db.vdi").exists());
            world.call(&["gc", "--guests"]).expect(125);
            fs::remove_file(disk).unwrap();
            world.call(&["gc"]).expect(0);
        }
        let told = guests(&world);
        let left: Vec<_> = told.iter().filter(|guest| guest.is_left()).collect();
        assert!(left.is_empty(), "{mode}: {left:#?}");
        let machines = as_user("ls ~/'VirtualBox VMs' 2>/dev/null || true");
        assert_eq!(machines, "", "{mode}: settings and logs");
        if mode == "shared" {
            assert_tidied(&world);
        }
        assert_given_back(&world);
        world.assert_nothing_left();
    }
}

/// The job has removed its own project, disks and all.
pub fn project_gone() {
    let mut world = world("vbox-gone");
    {
        let runner = runner(&world, 630);
        let script = format!("{START} make web $PWD/web.vdi; rm -rf $PWD/* $PWD/.vagrant");
        ok(&runner.stage("build_script", &script));
        fs::remove_dir_all(world.dir.join("project")).unwrap();
        ok(&runner.call("cleanup", &[]));
    }
    let guests = guests(&world);
    assert_eq!(
        guests.iter().filter(|guest| guest.what == "vm").count(),
        1,
        "{guests:#?}"
    );
    assert_given_back(&world);
    world.assert_nothing_left();
}

/// The file system that the place is on has no byte left.
pub fn disk_full() {
    let mut world = world("vbox-full");
    let small = world.dir.join("small");
    fs::create_dir(&small).unwrap();
    let mount = |words: &[&str]| {
        assert!(
            Command::new(words[0])
                .args(&words[1..])
                .status()
                .unwrap()
                .success()
        )
    };
    let at = small.display().to_string();
    mount(&["mount", "-t", "tmpfs", "-o", "size=96m,mode=0755", "small", &at]);
    {
        let mut runner = Runner::new(&world, 640);
        runner.host.push(("CI_RUNNER_USER", USER.to_owned()));
        runner
            .host
            .push(("JOBCAGE_GUESTS_DIR", small.join("guests").display().to_string()));
        ok(&runner.call("prepare", &[]));
        let script = format!(
            "{START} make web $VBOX_USER_HOME/../vms/web.vdi; cat /dev/zero > $VBOX_USER_HOME/../fill || df -B1 --output=avail $VBOX_USER_HOME"
        );
        let stage = runner.stage("build_script", &script);
        let is_full = stage.log.lines().any(|line| line.trim() == "0");
        assert!(is_full, "{}", stage.log);
        ok(&runner.call("cleanup", &[]));
    }
    let guests = guests(&world);
    assert_eq!(
        guests.iter().filter(|guest| guest.what == "vm").count(),
        1,
        "{guests:#?}"
    );
    assert_eq!(fs::read_dir(small.join("guests")).unwrap().count(), 0);
    mount(&["umount", &at]);
    assert_given_back(&world);
    world.assert_nothing_left();
}

/// A machine that is called as the line of a neighbour's would be, and a process with a neighbour's number in its arguments.
pub fn a_neighbours_number() {
    let mut world = world("vbox-number");
    {
        let (a, b) = (runner(&world, 650), runner(&world, 651));
        let made = b.stage(
            "build_script",
            &format!("{START} make theirs $PWD/b.vdi; $V list vms"),
        );
        ok(&made);
        let number = made.log.rsplit_once('{').unwrap().1.split_once('}').unwrap().0;
        // bash takes the name of a program that it is not.
        let script = format!(
            "{START} $V createvm --name $'x\" {{{number}}}\\n\"y' --register >/dev/null || echo no such name
             $V createvm --name 'x\" {{{number}}}' --register >/dev/null
             cp /bin/sleep VBoxHeadless; ./VBoxHeadless 300 & cp /bin/bash VBoxSDL
             ./VBoxSDL -c 'sleep 300; :' --comment theirs --startvm {number} --vrde config & sleep 0.1; $V list vms"
        );
        ok(&a.stage("build_script", &script));
        let ended = a.call("cleanup", &[]);
        ok(&ended);
        let look = format!("{MANAGE} showvminfo {number} --machinereadable | grep ^VMState=");
        let state = b.stage("step_look", &look);
        assert!(
            state.log.contains("VMState=\"running\""),
            "{}, {}",
            state.log,
            ended.log
        );
        ok(&b.call("cleanup", &[]));
    }
    assert_given_back(&world);
    world.assert_nothing_left();
}

/// A job that drops its environment makes its machines in the user's own registry: they are told of, and nobody's are touched.
pub fn dropped_environment() {
    // A neighbour's, which does not run.
    as_user(&format!(
        "{MANAGE} createvm --name theirs --ostype Linux26_64 --register"
    ));
    // A daemon that lives on would run the job's machine, too, outside of its cage.
    user_daemon_ends();
    let script = "env -i HOME=\"$HOME\" PATH=\"$PATH\" START=\"$START\" bash -c 'eval \"$START\"; make stray $PWD/stray.img; $V list runningvms'";
    let mut world = world("vbox-stray");
    {
        let runner = runner(&world, 670);
        let stage = runner.stage("build_script", &format!("START='{START}'; {script}"));
        ok(&stage);
        assert!(
            stage.log.contains("\"stray\" {"),
            "it does not run: {}",
            stage.log
        );
        let ended = runner.call("cleanup", &[]);
        ok(&ended);
        assert!(ended.log.contains("is not in the job's place"), "{}", ended.log);
    }
    assert!(guests(&world).iter().all(|guest| guest.what != "vm"));
    let known = as_user(&format!("{MANAGE} list vms"));
    assert!(
        known.contains("\"theirs\"") && known.contains("\"stray\""),
        "{known}"
    );
    for name in ["theirs", "stray"] {
        as_user(&format!("{MANAGE} unregistervm {name} --delete"));
    }
    assert_given_back(&world);
    world.assert_nothing_left();
}

/// No tool is started before the cage is gone: it would wait for a frozen daemon for ever.
pub fn no_tool_before_the_end() {
    let mut world = world("vbox-order");
    let seen = world.dir.join("seen");
    let cages = world.cgroup_root.display().to_string();
    with_wrapper(
        &world,
        &format!(
            "#!/bin/sh\n[ \"${{VBOX_USER_HOME#{state}}}\" = \"$VBOX_USER_HOME\" ] || case $(cat /proc/self/cgroup) in */guests/*)\n\
             echo \"$1 $2: $(ls -d {cages}/gitlab-* 2>/dev/null | wc -l) cages\" >> {seen};; esac\nexec {MANAGE}.real \"$@\"\n",
            state = world.dir.join("state-guests").display(),
            seen = seen.display(),
        ),
        || {
            fs::write(&seen, "").unwrap();
            fs::set_permissions(&seen, fs::Permissions::from_mode(0o666)).unwrap();
            let runner = runner(&world, 660);
            ok(&runner.stage("build_script", &format!("{START} make web $PWD/web.vdi")));
            assert!(!cgroup::below(&world.cgroup_root).is_empty());
            ok(&runner.call("cleanup", &[]));
        },
    );
    let calls = fs::read_to_string(&seen).unwrap();
    assert!(
        calls.lines().count() >= 4 && calls.contains("unregistervm"),
        "{calls}"
    );
    assert!(calls.lines().all(|line| line.ends_with(": 0 cages")), "{calls}");
    assert_eq!(guests(&world).len(), 1);
    assert_eq!(places(&world), Vec::<std::path::PathBuf>::new());
    world.assert_nothing_left();
}

/// With another program in the place of VirtualBox's tool, for as long as that runs. Only this program's namespace sees it.
pub fn with_wrapper(world: &World, text: &str, run: impl FnOnce()) {
    let wrapper = world.dir.join("wrapper");
    fs::write(&wrapper, text).unwrap();
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).unwrap();
    // It looks for its libraries beside itself.
    let real = format!("{MANAGE}.real");
    fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&real)
        .unwrap();
    let do_ = |words: &[&str]| {
        assert!(
            Command::new(words[0])
                .args(&words[1..])
                .status()
                .unwrap()
                .success(),
            "{words:?}"
        );
    };
    do_(&["mount", "--bind", MANAGE, &real]);
    do_(&["mount", "--bind", wrapper.to_str().unwrap(), MANAGE]);
    let unmount = scopeguard(|| {
        do_(&["umount", MANAGE]);
        do_(&["umount", &real]);
    });
    run();
    drop(unmount);
}

/// Runs it when it is dropped, also when a test fails.
fn scopeguard(run: impl FnMut()) -> impl Drop {
    struct Guard<F: FnMut()>(F);
    impl<F: FnMut()> Drop for Guard<F> {
        fn drop(&mut self) {
            (self.0)();
        }
    }
    Guard(run)
}
