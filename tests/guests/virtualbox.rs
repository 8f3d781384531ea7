//! VirtualBox: machines that run, disks that nobody has attached, imports that were cut, and the machines of others.

use crate::runner::{Ended, Runner};
use crate::support::cgroup::{self, wait_change, wait_empty};
use crate::support::process::Process;
use crate::support::seed::{SplitMix, full_sweep, seed};
use crate::support::world::World;
use crate::support::{PATIENCE, programs, say};
use jobcage_job::{GuestReport, Outcome};
use nix::sys::signal::Signal;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// The build user in this root.
pub const USER: &str = "ci1";
pub const UID: u32 = 2001;

pub const MANAGE: &str = "/usr/lib/virtualbox/VBoxManage";

/// Makes and starts a machine with a disk, as small as there is one; the guest is interpreted.
pub const START: &str = "V=/usr/lib/virtualbox/VBoxManage; make() {
$V createvm --name \"$1\" --ostype Linux26_64 --register >/dev/null
$V modifyvm \"$1\" --memory 16 --audio-driver none --paravirt-provider none --vm-execution-engine=interpreter
$V createmedium disk --filename \"$2\" --size 20 >/dev/null 2>&1
$V storagectl \"$1\" --name sata --add sata --portcount 1
$V storageattach \"$1\" --storagectl sata --port 0 --device 0 --type hdd --medium \"$2\"
$V startvm \"$1\" --type headless >/dev/null; }; ";

pub fn world(test: &str) -> World {
    let world = World::new(test);
    for name in ["project", "project.tmp"] {
        let dir = world.dir.join(name);
        fs::create_dir(&dir).unwrap();
        chown(&dir, Some(UID), Some(UID)).unwrap();
    }
    world
}

pub fn runner(world: &World, id: u64) -> Runner<'_> {
    let mut runner = Runner::new(world, id);
    runner.host.push(("CI_RUNNER_USER", USER.to_owned()));
    let prepared = runner.call("prepare", &[]);
    assert_eq!(prepared.code, 0, "{}", prepared.log);
    runner
}

/// As [`runner`], under this configuration.
pub fn configured<'w>(world: &'w World, id: u64, config: &str) -> Runner<'w> {
    let file = world.dir.join("config.toml");
    fs::write(&file, config).unwrap();
    let mut runner = Runner::new(world, id);
    runner.host.push(("CI_RUNNER_USER", USER.to_owned()));
    runner.host.push(("JOBCAGE_CONFIG", file.display().to_string()));
    ok(&runner.call("prepare", &[]));
    runner
}

/// The one place of a job that runs.
pub fn places(world: &World) -> Vec<PathBuf> {
    let listed = fs::read_dir(world.dir.join("state-guests"));
    listed
        .into_iter()
        .flatten()
        .map(|entry| entry.unwrap().path())
        .collect()
}

pub fn guests(world: &World) -> Vec<GuestReport> {
    let mut reports = world.closed_reports();
    assert_eq!(reports.len(), 1);
    let report = reports.remove(0);
    assert!(report.clean, "{report:#?}");
    report.guests
}

/// What a script of the build user says, outside of every job.
pub fn as_user(script: &str) -> String {
    let mut command = Command::new("setpriv");
    command.args([
        "--reuid",
        "ci1",
        "--regid",
        "ci1",
        "--clear-groups",
        "sh",
        "-c",
        script,
    ]);
    command.current_dir("/home/ci1").env_clear();
    for (name, value) in [
        ("HOME", "/home/ci1"),
        ("USER", "ci1"),
        ("PATH", "/usr/local/bin:/usr/bin:/bin"),
    ] {
        command.env(name, value);
    }
    let done = command.output().unwrap();
    let errors = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{script}: {errors}");
    String::from_utf8_lossy(&done.stdout).into_owned()
}

/// No process of VirtualBox and no directory of a job is left: whoever else has some has told so before.
pub fn assert_given_back(world: &World) {
    assert_eq!(places(world), Vec::<PathBuf>::new());
    let names = fs::read_dir("/tmp")
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let sockets: Vec<String> = names.filter(|name| name.starts_with(".vbox-jc-")).collect();
    assert_eq!(sockets, Vec::<String>::new());
}

pub fn ok(ended: &Ended) {
    assert_eq!(ended.code, 0, "{} {:?}", ended.log, ended.told);
}

pub fn running() {
    let mut world = world("vbox-running");
    {
        let runner = runner(&world, 200);
        let script = format!(
            "{START} make 'one \"and\" {{two}}' $PWD/outside.vdi; make web $VBOX_USER_HOME/../vms/web.vdi; \
             $V createmedium disk --filename $PWD/orphan.vdi --size 20 >/dev/null 2>&1; $V list runningvms"
        );
        let stage = runner.stage("build_script", &script);
        ok(&stage);
        assert_eq!(
            stage.log.matches(" {").count(),
            3,
            "two machines run, one of a strange name: {}",
            stage.log
        );
        assert!(world.dir.join("project/outside.vdi").exists());
        let ended = runner.call("cleanup", &[]);
        ok(&ended);
        assert!(
            ended.log.contains("VirtualBox VM \"web\" {") && ended.log.contains("}: running → deleted, "),
            "{}",
            ended.log
        );
    }
    let guests = guests(&world);
    let count = |what: &str| {
        guests
            .iter()
            .filter(|guest| guest.what == what && guest.outcome == Outcome::Deleted)
            .count()
    };
    assert_eq!((count("vm"), count("disk")), (2, 1), "{guests:#?}");
    assert_eq!(
        guests.iter().filter(|guest| guest.ran.is_some()).count(),
        2,
        "{guests:#?}"
    );
    assert!(
        !world.dir.join("project/outside.vdi").exists() && !world.dir.join("project/orphan.vdi").exists()
    );
    assert_given_back(&world);
    world.assert_nothing_left();
}

/// Two jobs of one user, and the state of the second one's machine when the first is over.
fn state_of_neighbour(test: &str, config: &str) -> String {
    let mut world = world(test);
    let state = {
        let [a, b] = [210, 211].map(|id| configured(&world, id, config));
        ok(&a.stage("build_script", &format!("{START} $V list vms; make a $PWD/a.vdi")));
        ok(&b.stage("build_script", &format!("{START} make b $PWD/b.vdi")));
        ok(&a.call("cleanup", &[]));
        let state = b.stage(
            "step_look",
            &format!("{MANAGE} showvminfo b --machinereadable | grep ^VMState="),
        );
        ok(&state);
        ok(&b.call("cleanup", &[]));
        state.log
    };
    assert_given_back(&world);
    world.assert_nothing_left();
    state
}

/// Each has a daemon and a registry of its own, so the end of one is nothing to the other.
pub fn neighbour() {
    for round in 0..if full_sweep() { 50 } else { 2 } {
        let state = state_of_neighbour("vbox-neighbour", "");
        assert!(state.contains("VMState=\"running\""), "round {round}: {state}");
    }
}

/// And with one daemon it is: the test before this one can fail.
pub fn shared() {
    user_daemon_ends();
    let state = state_of_neighbour("vbox-shared", "[run]\nguests = 'off'\n");
    assert!(
        state.contains("VMState=") && !state.contains("running"),
        "{state}"
    );
    // Nobody has given them back.
    as_user(&format!(
        "for name in a b; do {MANAGE} unregistervm $name --delete; done; {MANAGE} list vms | wc -l"
    ));
}

/// The user's own one lives for some seconds after whoever has last asked it, outside of all cages.
pub fn user_daemon_ends() {
    for pid in processes("VBoxSVC") {
        assert!(Process::open(pid).wait_end(PATIENCE), "VBoxSVC does not end");
    }
}

fn processes(name: &str) -> Vec<i32> {
    let listed = fs::read_dir("/proc").unwrap().flatten();
    let pids = listed.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is_named =
        |pid: &i32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == name);
    pids.filter(is_named).collect()
}

/// The supervisor dies while tools run; whoever comes next begins again.
pub fn killed() {
    for round in 0..4_u64 {
        let mut world = world("vbox-killed");
        {
            let runner = runner(&world, 260 + round);
            ok(&runner.stage(
                "build_script",
                &format!("{START} make one $PWD/one.vdi; make two $PWD/two.vdi"),
            ));
            let cleanup = runner.start("cleanup", &[]);
            let tools = world.cgroup_root.join("guests");
            assert!(
                wait_change(&world.cgroup_root, PATIENCE, || tools.exists()),
                "no tool was started"
            );
            // Into another call each time, as far as the machine keeps the time.
            std::thread::sleep(Duration::from_millis(60 * round));
            let pids = cgroup::pids(&world.cgroup_root.join("supervisors"));
            for pid in pids {
                Process::open(pid).signal(Signal::SIGKILL);
            }
            ok(&cleanup.end());
            assert!(wait_empty(&world.cgroup_root.join("supervisors"), PATIENCE));
        }
        guests(&world);
        // What the dead one has seen before its kill, the next one knows.
        let records = world.records().into_iter();
        let seen = records
            .filter_map(|id| fs::read_to_string(world.dir.join("state").join(id).join("census.json")).ok());
        assert!(seen.collect::<String>().contains("VBoxHeadless"));
        assert!(!world.dir.join("project/one.vdi").exists() && !world.dir.join("project/two.vdi").exists());
        assert_given_back(&world);
        world.assert_nobody_left();
    }
}

/// What was imported when the job was killed is in no registry.
pub fn import() {
    let mut world = world("vbox-import");
    {
        let runner = runner(&world, 220);
        let script = format!(
            "{START} $V createvm --name base --ostype Linux26_64 --register >/dev/null
             head -c 157286400 /dev/urandom > noise; $V convertfromraw noise noise.vdi >/dev/null
             $V storagectl base --name sata --add sata --portcount 1
             $V storageattach base --storagectl sata --port 0 --device 0 --type hdd --medium $PWD/noise.vdi
             $V export base --output base.ova >/dev/null 2>&1
             $V import base.ova --vsys 0 --vmname copy >/dev/null 2>&1 &
             while ! ls $VBOX_USER_HOME/../vms/copy/* >/dev/null 2>&1; do sleep 0.02; done; echo importing"
        );
        let stage = runner.stage("build_script", &script);
        ok(&stage);
        assert!(stage.log.contains("importing"), "{}", stage.log);
        ok(&runner.call("cleanup", &[]));
    }
    guests(&world);
    assert_given_back(&world);
    world.assert_nothing_left();
}

/// A job that imports and clones is cancelled without a grace at a random moment: nothing of it is in a registry or on the disk.
pub fn cut() {
    let rounds = if full_sweep() { 30 } else { 4 };
    let mut chance = SplitMix(seed());
    for round in 0..rounds {
        let wait = Duration::from_millis(chance.next() % 1500);
        let mut world = world("vbox-cut");
        {
            let runner = configured(&world, 400 + round, "[run]\ngrace = '0s'\n");
            let script = format!(
                "{START} $V createvm --name base --ostype Linux26_64 --register >/dev/null
                 head -c 52428800 /dev/urandom > noise; $V convertfromraw noise base.vdi >/dev/null
                 $V storagectl base --name sata --add sata --portcount 1
                 $V storageattach base --storagectl sata --port 0 --device 0 --type hdd --medium $PWD/base.vdi
                 $V export base --output base.ova >/dev/null 2>&1; echo begun
                 while :; do $V import base.ova >/dev/null 2>&1; $V clonevm base --register >/dev/null 2>&1; make vm$RANDOM $VBOX_USER_HOME/../vms/$RANDOM.vdi; done"
            );
            let mut stage = runner.start_stage("build_script", &script);
            stage.wait_line("begun");
            std::thread::sleep(wait);
            stage.signal(Signal::SIGTERM);
            assert_eq!(stage.end().code, 1);
            ok(&runner.call("cleanup", &[]));
        }
        guests(&world);
        let disks = fs::read_dir(world.dir.join("project")).unwrap().flatten();
        let disks: Vec<_> = disks
            .map(|file| file.file_name())
            .filter(|name| name.to_string_lossy().ends_with(".vdi"))
            .collect();
        assert!(
            disks.is_empty(),
            "round {round}, {} ms: {disks:?}",
            wait.as_millis()
        );
        assert_given_back(&world);
        world.assert_nothing_left();
    }
}

/// Four machines that run and a disk of nobody: how long the end of such a job takes, beside the calls of its tool alone. Asserts nothing
/// about time; `cargo test --release` measures what people have.
pub fn speed() {
    let rounds = if full_sweep() { 9 } else { 1 };
    let mut ratios = Vec::new();
    for round in 0..rounds {
        let mut world = world("vbox-speed");
        let alone = world.dir.join("project/alone");
        let (ours, bare) = {
            let runner = runner(&world, 500 + round);
            let make = |dir: &str| {
                format!(
                    "{START} mkdir -p {dir}; for name in a b c d; do make $name {dir}/$name.vdi; done
                     $V createmedium disk --filename {dir}/orphan.vdi --size 20 >/dev/null 2>&1"
                )
            };
            ok(&runner.stage("build_script", &make("$PWD/jobs")));
            let began = Instant::now();
            let ended = runner.call("cleanup", &[]);
            let ours = began.elapsed();
            ok(&ended);
            let deleted = ended
                .log
                .lines()
                .filter(|line| line.contains("VirtualBox ") && line.contains("deleted"));
            assert_eq!(deleted.count(), 5, "{}", ended.log);
            as_alone(&alone, &make(alone.to_str().unwrap()));
            (ours, tools_alone(&alone))
        };
        assert_eq!(
            fs::read_dir(&alone)
                .unwrap()
                .filter(|file| is_disk(&file.as_ref().unwrap().path()))
                .count(),
            0
        );
        ratios.push(ours.as_secs_f64() / bare.as_secs_f64());
        say(&format!(
            "the end of the job {ours:.0?}, its tool's calls {bare:.0?}"
        ));
        world.assert_nothing_left();
    }
    ratios.sort_by(f64::total_cmp);
    say(&format!(
        "median of {rounds}: {:.2} (target 1.30)",
        ratios[ratios.len() / 2]
    ));
}

fn is_disk(path: &Path) -> bool {
    path.extension().is_some_and(|end| end == "vdi")
}

/// A script as the build user, outside of every job, with a registry of its own.
fn as_alone(dir: &Path, script: &str) -> String {
    let mut command = Command::new("setpriv");
    command
        .args([
            "--reuid",
            USER,
            "--regid",
            USER,
            "--clear-groups",
            "bash",
            "-c",
            script,
        ])
        .env_clear();
    command
        .env("HOME", dir)
        .env("PATH", "/usr/bin:/bin")
        .env("VBOX_USER_HOME", dir.join("vbox"));
    let done = command.env("VBOX_IPC_SOCKETID", "alone").output().unwrap();
    assert!(
        done.status.success(),
        "{script}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
    String::from_utf8_lossy(&done.stdout).into_owned()
}

/// What the calls take that give all of it back, when the machines are dead; each pass with a daemon of its own.
fn tools_alone(dir: &Path) -> Duration {
    let end = || {
        as_alone(
            dir,
            "pkill -KILL -x VBoxHeadless; pkill -KILL -x VBoxSVC; while pgrep -u $(id -u) VBox >/dev/null; do sleep 0.01; done; true",
        );
    };
    let mut took = Duration::ZERO;
    let mut call = |words: &str| {
        let began = Instant::now();
        let said = as_alone(dir, &format!("exec {MANAGE} {words}"));
        took += began.elapsed();
        said
    };
    end();
    for line in call("list vms").lines() {
        let id = line.rsplit_once('{').unwrap().1.trim_end_matches('}');
        call(&format!("unregistervm {id} --delete"));
    }
    for line in call("list hdds").lines() {
        if let Some(id) = line.strip_prefix("UUID:") {
            call(&format!("closemedium disk {} --delete", id.trim()));
        }
    }
    end();
    assert_eq!(call("list vms") + &call("list hdds"), "");
    end();
    took
}

/// Nobody calls cleanup: the supervisor does it all.
pub fn runner_killed() {
    let mut world = world("vbox-runner");
    {
        let mut dead = Runner::new(&world, 230);
        dead.host.push(("CI_RUNNER_USER", USER.to_owned()));
        let script = dead.script(&format!("{START} make web $PWD/web.vdi"));
        let words = |mut command: Command| {
            let mut all = vec![command.get_program().to_owned()];
            all.extend(command.get_args().map(ToOwned::to_owned));
            let all: Vec<String> = all
                .into_iter()
                .map(|word| format!("'{}'", word.to_str().unwrap()))
                .collect();
            command.env_clear();
            all.join(" ")
        };
        let prepare = words(dead.command("prepare", &[]));
        let run = words(dead.command("run", &[script.to_str().unwrap(), "build_script"]));
        let mut shell = dead.command("prepare", &[]);
        let env: Vec<_> = shell
            .get_envs()
            .filter_map(|(k, v)| Some((k.to_owned(), v?.to_owned())))
            .collect();
        let dir = dead.tmp.clone();
        shell = Command::new("sh");
        shell
            .args(["-c", &format!("{prepare} && {run}; kill -KILL $$")])
            .current_dir(dir)
            .env_clear()
            .envs(env);
        let done = shell
            .env("PATH", std::env::var_os("PATH").unwrap())
            .output()
            .unwrap();
        assert_eq!(done.status.code(), None, "{done:?}");
        let supervisors = world.cgroup_root.join("supervisors");
        assert!(wait_empty(&supervisors, PATIENCE), "nobody has closed it");
        let reports = world.closed_reports();
        let vms = reports[0]
            .guests
            .iter()
            .filter(|guest| guest.what == "vm")
            .count();
        assert_eq!((reports[0].clean, vms), (true, 1), "{reports:#?}");
    }
    assert_given_back(&world);
    world.assert_nobody_left();
}

/// A place whose record is gone, as after a power cut: gc removes it, and nothing that is no place.
pub fn orphaned() {
    for elsewhere in [false, true] {
        orphaned_in(elsewhere);
    }
}

/// `elsewhere`: in a directory that gc is told of.
fn orphaned_in(elsewhere: bool) {
    let mut world = world("vbox-orphaned");
    let base = world
        .dir
        .join(if elsewhere { "elsewhere" } else { "state-guests" });
    for name in ["gone-12345678/vms", "of-an-administrator"] {
        fs::create_dir_all(base.join(name)).unwrap();
        fs::write(base.join(name).join("disk.vdi"), vec![1; 3 << 20]).unwrap();
    }
    let gc = |wrap: &[&str], options: &[&str]| {
        let wrap: Vec<String> = wrap.iter().map(|word| (*word).to_owned()).collect();
        let at = ["--guests-dir", base.to_str().unwrap()];
        let words = [&["gc"], options, &at[..if elsewhere { 2 } else { 0 }]].concat();
        let done = world.jobcage(&wrap, &words);
        String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr)
    };
    // It may be somebody's whose record is elsewhere.
    assert_eq!(gc(&[], &[]), "");
    assert!(base.join("gone-12345678").exists());
    // A boot that began after it was made: in a namespace whose clock says so.
    std::thread::sleep(Duration::from_secs(3));
    let uptime = fs::read_to_string("/proc/uptime").unwrap();
    let uptime: u64 = uptime.split('.').next().unwrap().parse().unwrap();
    let offset = format!("--boottime=-{}", uptime - 1);
    let rebooted = ["unshare", "--time", "--fork", offset.as_str(), "--"];
    let plan = gc(&rebooted, &["--dry-run"]);
    assert!(plan.contains("gone-12345678"), "{plan}");
    assert!(base.join("gone-12345678").exists());
    let told = gc(&rebooted, &[]);
    assert!(
        told.contains(
            "gone-12345678: its place for machines had outlived its record and is removed, 3.0 MiB freed"
        ),
        "{told}"
    );
    let left: Vec<_> = fs::read_dir(&base)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert_eq!(left, [base.join("of-an-administrator")]);
    world.assert_nothing_left();
}

/// A cage of several steps has its place by itself, a plain run only if it is asked for.
pub fn other_verbs() {
    let mut world = world("vbox-verbs");
    let project = world.dir.join("project");
    {
        let call = |words: &[&str]| {
            let done = world
                .command(programs::jobcage())
                .args(words)
                .current_dir(&project)
                .output()
                .unwrap();
            let errors = String::from_utf8_lossy(&done.stderr).into_owned();
            assert!(done.status.success(), "{words:?}: {errors}");
            (String::from_utf8_lossy(&done.stdout).trim().to_owned(), errors)
        };
        let (id, _) = call(&["create", "--user", USER]);
        let script = format!("{START} make web $VBOX_USER_HOME/../vms/web.vdi; $V list runningvms");
        let login = ["--user", USER, "--login", "--", "bash", "-c"];
        let (listed, _) = call(&[&["run", "--job", &id], &login[..], &[&script]].concat());
        assert!(listed.starts_with("\"web\" {"), "{listed}");
        let (shown, _) = call(&["guests", &id]);
        assert!(
            shown.starts_with(&format!("{id}: ")) && shown.contains("VirtualBox VM \"web\" {"),
            "{shown}"
        );
        let (shown, _) = call(&["guests", "--json"]);
        let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
        assert_eq!(shown[0]["job"], id.as_str());
        // Its step is over, and what it left lives on.
        assert!(shown[0]["machines"][0]["pid"].is_i64(), "{shown}");
        let (_, told) = call(&["cleanup", &id]);
        assert!(told.contains("VirtualBox VM \"web\" {"), "{told}");
        assert_given_back(&world);
        let shown = "echo $VBOX_USER_HOME";
        assert_eq!(call(&[&["run"], &login[..], &[shown]].concat()).0, "");
        for options in [
            &["run", "--guests", "isolate"][..],
            &["run", "--log", "--guests", "isolate"],
        ] {
            let (home, told) = call(&[options, &login[..], &[&format!("{script} >&2; {shown}")]].concat());
            assert!(
                home.ends_with("/vbox") && told.contains("running → deleted"),
                "{home}: {told}"
            );
            assert_given_back(&world);
        }
        // No time for a tool: the registry goes with the place, and that is told.
        let hurried = ["run", "--guests", "isolate", "--guest-timeout", "1ms"];
        let (_, told) = call(&[&hurried[..], &login[..], &[&script]].concat());
        assert!(
            told.contains("gone with the job's place; its tool had failed: "),
            "{told}"
        );
        assert_given_back(&world);
    }
    world.assert_nothing_left();
}

/// Not even one: the tool is a program that tells of itself.
pub fn unused() {
    let mut world = world("vbox-unused");
    {
        let runner = runner(&world, 250);
        let place = places(&world).remove(0);
        assert_eq!(fs::metadata(&place).unwrap().permissions().mode() & 0o777, 0o700);
        let stage = runner.stage(
            "build_script",
            "cat $VBOX_USER_HOME/VirtualBox.xml; echo $VAGRANT_HOME",
        );
        ok(&stage);
        assert!(
            stage.log.contains("defaultMachineFolder") && stage.log.contains("/vagrant\n"),
            "{}",
            stage.log
        );
        ok(&runner.call("cleanup", &[]));
        // The daemon of a tool would have made it.
        assert!(guests(&world).is_empty());
    }
    assert_given_back(&world);
    world.assert_nothing_left();
}
