//! The animals are what they say they are: each is started without jobcage, in a cgroup of ours, and /proc is
//! looked at from outside. A test of the product is worth no more than the animal that it is tried on.

mod support;

use nix::sys::signal::Signal;
use std::fs;
use support::job::{Job, Ready};
use support::needs::{self, Need};
use support::process::{Process, cgroup_of, stat, status};
use support::world::World;
use support::{PATIENCE, cgroup};

struct Animal {
    world: World,
    job: Job,
    ready: Ready,
}

impl Animal {
    /// Starts `zoo words…` in the cgroup `outside` of a new world.
    fn start(words: &[&str]) -> Self {
        Self::start_in(World::new(words[0]), words)
    }

    fn start_in(mut world: World, words: &[&str]) -> Self {
        let mut command = world.command(&world.zoo);
        command
            .arg("in-cgroup")
            .arg(&world.outside)
            .arg(&world.zoo)
            .args(words);
        world.phase(format!("starting {command:?}"));
        let mut job = Job::start(command, world.dir.join("none"), world.dir.join("stderr"));
        let ready = job
            .wait_ready()
            .unwrap_or_else(|| panic!("{words:?} is not ready: {}", job.stderr()));
        Self { world, job, ready }
    }

    fn pid(&self, index: usize) -> i32 {
        self.ready.pids[index]
    }

    /// The cgroup of a pid, relative to that in which the animal was started.
    fn place(&self, index: usize) -> String {
        let mount = cgroup::mount().unwrap();
        let full = mount.join(cgroup_of(self.pid(index)).unwrap().trim_start_matches('/'));
        let base = cgroup::base().to_path_buf();
        full.strip_prefix(base).unwrap().to_str().unwrap().to_owned()
    }

    fn outside(&self) -> String {
        self.world
            .outside
            .file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned()
    }
}

fn state(pid: i32) -> char {
    stat(pid).unwrap_or_else(|| panic!("{pid} is gone")).1
}

#[test]
fn double_fork_has_no_parent_of_its_own() {
    let animal = Animal::start(&["double-fork"]);
    let (_, _, parent) = stat(animal.pid(1)).unwrap();
    assert_ne!(parent, animal.pid(0));
    assert_eq!(animal.place(1), animal.outside());
}

#[test]
fn setsid_leads_a_session() {
    let animal = Animal::start(&["setsid"]);
    let line = fs::read_to_string(format!("/proc/{}/stat", animal.pid(1))).unwrap();
    let session: i32 = line
        .rsplit_once(')')
        .unwrap()
        .1
        .split_whitespace()
        .nth(3)
        .unwrap()
        .parse()
        .unwrap();
    assert_eq!(session, animal.pid(1));
}

#[test]
fn kvm_vm_has_a_machine_open() {
    if !needs::met("kvm_vm_has_a_machine_open", &[Need::Kvm]) {
        return;
    }
    let animal = Animal::start(&["kvm-vm"]);
    let open = fs::read_dir(format!("/proc/{}/fd", animal.pid(1))).unwrap();
    let links = open.map(|entry| fs::read_link(entry.unwrap().path()).unwrap());
    assert_eq!(
        links
            .filter(|link| link.as_os_str() == "anon_inode:kvm-vm")
            .count(),
        1
    );
}

#[test]
fn scrubbed_has_no_environment_and_no_output() {
    let mut animal = Animal::start(&["scrubbed", "--exit", "0"]);
    let worker = animal.pid(1);
    assert_eq!(fs::read(format!("/proc/{worker}/environ")).unwrap(), b"");
    assert!(animal.job.output_ended(PATIENCE), "it keeps stdout");
    assert!(!Process::open(worker).has_ended());
}

#[test]
fn hostile_name_is_hostile() {
    let animal = Animal::start(&["hostile-name"]);
    assert_eq!(stat(animal.pid(1)).unwrap().0, ") R 1 1 (");
    let args = fs::read(format!("/proc/{}/cmdline", animal.pid(1))).unwrap();
    assert!(args.contains(&b'\n') && args.contains(&0x1b) && args.contains(&0xff));
}

#[test]
fn keep_stdout_keeps_it() {
    let mut animal = Animal::start(&["keep-stdout", "--exit", "0"]);
    assert_eq!(animal.job.wait(PATIENCE), 0);
    assert!(!animal.job.output_ended(std::time::Duration::from_millis(500)));
    assert!(animal.job.stdout().contains("still here"));
}

#[test]
fn leader_exit_is_a_zombie_with_a_thread() {
    for words in [&["leader-exit"][..], &["leader-exit", "main"]] {
        let animal = Animal::start(words);
        let headless = *animal.ready.pids.last().unwrap();
        assert_eq!(state(headless), 'Z');
        assert!(!Process::open(headless).has_ended(), "a thread lives");
        assert!(cgroup::pids(&animal.world.outside).contains(&headless));
    }
}

#[test]
fn ignore_term_ignores() {
    let animal = Animal::start(&["ignore-term"]);
    for index in [0, 1] {
        let ignored = status(animal.pid(index), "SigIgn").unwrap();
        let mask = u64::from_str_radix(&ignored, 16).unwrap();
        for signal in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT, Signal::SIGALRM] {
            assert_ne!(
                mask & 1 << (signal as u32 - 1),
                0,
                "{signal} is not ignored: {ignored}"
            );
        }
    }
}

#[test]
fn states_of_the_sleepers() {
    for (words, index, expected) in [
        (&["stopped"][..], 1, 'T'),
        (&["vfork-wait"], 1, 'D'),
        (&["zombie"], 2, 'Z'),
        (&["ptrace-inside"], 2, 't'),
        (&["cpu-spin"], 1, 'R'),
    ] {
        let animal = Animal::start(words);
        assert_eq!(state(animal.pid(index)), expected, "{words:?}");
    }
}

#[test]
fn ptrace_inside_has_its_tracer_inside() {
    let animal = Animal::start(&["ptrace-inside"]);
    assert_eq!(
        status(animal.pid(2), "TracerPid").unwrap(),
        animal.pid(1).to_string()
    );
    assert_eq!(animal.place(1), animal.outside());
}

#[test]
fn threads_and_memory_are_there() {
    let animal = Animal::start(&["threads", "200"]);
    assert_eq!(status(animal.pid(1), "Threads").unwrap(), "200");
    let animal = Animal::start(&["hog", "32"]);
    let resident = status(animal.pid(1), "VmRSS").unwrap();
    let kib: u64 = resident.split(' ').next().unwrap().parse().unwrap();
    assert!(kib >= 32 << 10, "{resident}");
}

#[test]
fn non_dumpable_is_closed_to_its_own_uid() {
    let mut world = World::new("non-dumpable");
    if nix::unistd::geteuid().is_root() {
        // To root nothing is closed: the look comes from inside a user that both are.
        let zoo = world.zoo.to_str().unwrap().to_owned();
        let look = format!(
            "{zoo} non-dumpable | {{ read -r ready main pid; echo ready $pid; \
            cat /proc/$pid/environ >/dev/null 2>&1; echo environ=$?; }}"
        );
        let ids = [
            "setpriv",
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "sh",
            "-c",
            &look,
        ];
        let mut command = world.command(&zoo);
        command.arg("in-cgroup").arg(&world.outside).args(ids);
        world.phase(format!("starting {command:?}"));
        let mut job = Job::start(command, world.dir.join("none"), world.dir.join("stderr"));
        assert!(job.wait_ready().is_some(), "{}", job.stderr());
        assert!(
            job.wait_line("environ=1"),
            "its own uid can read it: {}",
            job.stdout()
        );
    } else {
        let animal = Animal::start_in(world, &["non-dumpable"]);
        assert!(fs::read(format!("/proc/{}/environ", animal.pid(1))).is_err());
    }
}

#[test]
fn setuid_is_somebody_else() {
    if !needs::met("setuid_is_somebody_else", &[Need::Root]) {
        return;
    }
    let animal = Animal::start(&["setuid", "65534"]);
    assert_eq!(
        status(animal.pid(1), "Uid").unwrap(),
        "65534\t65534\t65534\t65534"
    );
}

#[test]
fn rabbits_are_others_at_each_look() {
    let animal = Animal::start(&["rabbits"]);
    let group = &animal.world.outside;
    let first = cgroup::pids(group);
    let other = |_: usize| cgroup::pids(group).iter().any(|pid| !first.contains(pid));
    assert!((0..1000).any(other), "the pids stay {first:?}");
}

#[test]
fn bombs_reach_their_size() {
    let animal = Animal::start(&["bomb", "tree", "300"]);
    assert!(cgroup::pids(&animal.world.outside).len() >= 300);
    let animal = Animal::start(&["bomb", "hop-setsid", "400"]);
    let is_scrubbed = |pid: &i32| {
        fs::read(format!("/proc/{pid}/environ")).is_ok_and(|e| e.iter().all(|b| *b == 0 || *b == b'\n'))
    };
    // Whoever was listed may have hopped on before it is looked at.
    let scrubbed = |_: usize| {
        let pids = cgroup::pids(&animal.world.outside);
        pids.iter().filter(|pid| **pid != animal.pid(0)).any(is_scrubbed)
    };
    assert!((0..1000).any(scrubbed), "a hopper still shows its environment");
}

#[test]
fn cgroup_animals_are_where_they_say() {
    let animal = Animal::start(&["nested-cgroups"]);
    assert_eq!(
        animal.place(5),
        animal.outside() + "/zoo-1/zoo-2/zoo-3/zoo-4/zoo-5"
    );
    let animal = Animal::start(&["threaded-cgroup"]);
    let child = animal.world.outside.join("zoo-threaded");
    assert_eq!(
        fs::read_to_string(child.join("cgroup.type")).unwrap(),
        "threaded\n"
    );
    assert!(
        fs::read_to_string(child.join("cgroup.procs")).is_err(),
        "it must not be listable"
    );
    assert_ne!(fs::read_to_string(child.join("cgroup.threads")).unwrap(), "");
    let world = World::new("leave");
    let elsewhere = world.cgroup_root.clone();
    let animal = Animal::start_in(world, &["leave-by-itself", elsewhere.to_str().unwrap()]);
    assert!(cgroup::pids(&elsewhere).contains(&animal.pid(1)));
}

#[test]
fn move_sibling_is_beside_its_leaf() {
    let world = World::new("move-sibling");
    // A cage with one leaf, as jobcage makes it.
    let (cage, leaf) = (world.outside.clone(), world.outside.join("01-main"));
    fs::create_dir_all(&leaf).unwrap();
    let words = [
        "in-cgroup",
        leaf.to_str().unwrap(),
        world.zoo.to_str().unwrap(),
        "move-sibling",
    ]
    .map(String::from);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let animal = Animal::start_in(world, &words);
    assert!(cgroup::pids(&cage.join("zoo-sibling")).contains(&animal.pid(1)));
    assert!(cgroup::pids(&leaf).contains(&animal.pid(0)));
}

#[test]
fn fuse_victims_survive_sigkill_until_the_server_ends() {
    if !needs::met("fuse_victims", &[Need::Fuse]) {
        return;
    }
    for kind in ["stat", "open", "exec", "chdir", "vfork-exec"] {
        let mut world = World::new("fuse-victim");
        let point = world.dir.join("mnt");
        fs::create_dir(&point).unwrap();
        let point = point.to_str().unwrap().to_owned();
        let server = world.helper(&["fuse-server", &point]);
        let animal = Animal::start_in(world, &["fuse-victim", &point, kind]);
        // The waiting parent of a vfork can be killed; the child that cannot reach its exec can't.
        let pid = *animal.ready.pids.last().unwrap();
        let stuck = Process::open(pid);
        stuck.signal(Signal::SIGKILL);
        // Nothing can show that something never comes; this is how long a kill takes at most.
        assert!(
            !stuck.wait_end(std::time::Duration::from_millis(200)),
            "{kind}: SIGKILL ended it"
        );
        assert_eq!(state(pid), 'D', "{kind}");
        server.signal(Signal::SIGTERM);
        assert!(
            server.wait_end(PATIENCE) && stuck.wait_end(PATIENCE),
            "{kind}: still there"
        );
    }
}

#[test]
fn ptrace_outside_holds_the_dying() {
    let animal = Animal::start(&["double-fork"]);
    let Animal { mut world, ready, .. } = animal;
    let tracer = world.helper(&["ptrace-outside", &ready.pids[1].to_string()]);
    let held = Process::open(ready.pids[1]);
    held.signal(Signal::SIGKILL);
    assert!(
        !held.wait_end(std::time::Duration::from_millis(200)),
        "SIGKILL ended it"
    );
    tracer.signal(Signal::SIGTERM);
    assert!(held.wait_end(PATIENCE));
}

#[test]
fn wrappers_take_away_what_they_name() {
    let world = World::new("wrappers");
    let zoo = |words: &[&str]| {
        let made = world.command(&world.zoo).args(words).output().unwrap();
        (
            made.status.code().unwrap(),
            String::from_utf8_lossy(&[made.stdout, made.stderr].concat()).into_owned(),
        )
    };
    fs::create_dir_all(&world.outside).unwrap();
    let look = format!(
        "cd {}; cat cgroup.freeze; cat cgroup.events",
        world.outside.display()
    );
    let (_, whole) = zoo(&["mask-file", "cgroup.kill", "--", "sh", "-c", &look]);
    assert!(whole.starts_with("0\n") && whole.contains("populated"), "{whole}");
    let (_, masked) = zoo(&["mask-file", "cgroup.freeze", "--", "sh", "-c", &look]);
    assert!(
        masked.contains("No such file") && masked.contains("populated"),
        "{masked}"
    );
    let inner = world.zoo.to_str().unwrap().to_owned();
    let (code, refused) = zoo(&["seccomp-enosys", "pidfd_open", "--", &inner, "pty", "true"]);
    assert_eq!(code, 99, "{refused}");
    assert!(refused.contains("not implemented"), "{refused}");
}

#[test]
fn a_terminal_can_be_typed_into_by_its_job() {
    let world = World::new("tiocsti");
    let zoo = world.zoo.to_str().unwrap().to_owned();
    let mut command = world.command(&zoo);
    let made = command
        .args(["pty", &zoo, "tiocsti", "--exit", "3", "abc\n"])
        .output()
        .unwrap();
    assert_eq!(made.status.code(), Some(3));
    let (said, left) = (
        String::from_utf8_lossy(&made.stdout),
        String::from_utf8_lossy(&made.stderr),
    );
    if said.contains("tiocsti=pushed") {
        assert!(left.contains("input-left=4"), "{said}{left}");
    } else {
        // 6.2 and later may refuse it: dev.tty.legacy_tiocsti.
        assert!(said.contains("tiocsti=EIO"), "{said}{left}");
    }
}
