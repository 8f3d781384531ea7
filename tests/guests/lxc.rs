//! LXC: containers that have the job's id in their name go with it, root's and the user's own, and no other ones.

use crate::podman::{end, fresh, guests, job, says};
use crate::runner::Runner;
use crate::support::PATIENCE;
use crate::support::call::to_end;
use crate::support::cgroup::{self, wait_change, wait_empty, wait_gone};
use crate::support::process::{Process, cgroup_of, stat};
use crate::support::world::World;
use crate::virtualbox::{ok, places};
use nix::sys::signal::Signal;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

pub const SYSTEM: &str = "/var/lib/lxc";
const CGROUPS: &str = "/sys/fs/cgroup";

/// What a host's sudo is to a job: it makes the caller root. LXC wants both of his ids.
const AS_ROOT: &str = "/usr/local/bin/as-root";

/// What root's script says, which must succeed.
pub fn root(script: &str) -> String {
    let mut command = Command::new("sh");
    command.args(["-ec", script]);
    to_end(command, b"").expect(0).text().trim().to_owned()
}

pub fn create(name: &str) -> String {
    format!("lxc-create -n {name} -t busybox >/dev/null\n")
}

pub fn start(name: &str) -> String {
    create(name) + &format!("lxc-start -n {name}\n")
}

/// The same by the job itself: the names are put in by its shell, since sudo drops its variables.
pub fn sudo(script: &str) -> String {
    let drop = "exec env -i PATH=$PATH setpriv --reuid 0 --regid 0 --clear-groups sh -ec";
    format!("{AS_ROOT} -pc '{drop} \"$0\"' \"{script}\"\n")
}

pub fn prepared(world: &World, id: u64) -> Runner<'_> {
    job(world, id, "lxc=shared")
}

/// A world in which nobody has a container: what a test that has failed has left is not the next one's.
pub fn lonely(test: &str) -> World {
    for name in names() {
        root(&format!(
            "umount -q {SYSTEM}/{name}/rootfs/mnt || true; lxc-destroy -f -n {name} || rm -rf {SYSTEM}/{name}"
        ));
    }
    fs::copy("/bin/bash", AS_ROOT).unwrap();
    fs::set_permissions(AS_ROOT, fs::Permissions::from_mode(0o4755)).unwrap();
    fresh(test)
}

pub fn id_of(job: &Runner<'_>) -> String {
    let said = says(job, "echo id=$JOBCAGE_JOB");
    said.trim().rsplit_once("id=").unwrap().1.to_owned()
}

pub fn names() -> Vec<String> {
    let listed = fs::read_dir(SYSTEM)
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> = listed.map(|name| name.into_string().unwrap()).collect();
    names.sort_unstable();
    names
}

/// What was told of the container with this name: how the line ends.
pub fn told<'l>(log: &'l str, name: &str) -> &'l str {
    let of = format!("LXC container \"{name}\" {{");
    let line = log.lines().find_map(|line| line.split_once(&of));
    let (_, rest) = line.unwrap_or_else(|| panic!("{name}: {log}"));
    rest.split_once("}: ").unwrap().1
}

/// A container of root's that runs.
pub struct Running {
    name: String,
    init: Process,
    pub monitor: Process,
}

impl Running {
    pub fn find(name: &str) -> Self {
        let found = Self::at(name, &root(&format!("lxc-info -n {name} -pH")));
        // It is in no cage.
        let group = cgroup_of(found.init.pid).unwrap();
        assert_eq!(group, format!("/lxc.payload.{name}"));
        found
    }

    fn at(name: &str, pid: &str) -> Self {
        let init = Process::open(pid.trim().parse().unwrap());
        let monitor = Process::open(stat(init.pid).unwrap().2);
        let name = name.to_owned();
        Self { name, init, monitor }
    }

    pub fn is_alive(&self) -> bool {
        !self.init.has_ended() && !self.monitor.has_ended()
    }

    pub fn assert_gone(&self) {
        assert!(
            self.init.wait_end(PATIENCE),
            "{}: {} lives",
            self.name,
            self.init.pid
        );
        // It tells of the end before its own.
        assert!(
            self.monitor.wait_end(PATIENCE),
            "the monitor of {} lives",
            self.name
        );
        for what in ["payload", "monitor"] {
            let dir = format!("{CGROUPS}/lxc.{what}.{}", self.name);
            assert!(wait_gone(Path::new(&dir), PATIENCE), "{dir} is left");
        }
        assert!(!Path::new(SYSTEM).join(&self.name).exists());
    }
}

/// Root's containers, made by the job: one runs, one is frozen, one is stopped and has snapshots.
pub fn given_back() {
    let mut world = lonely("lxc-back");
    {
        let job = prepared(&world, 700);
        let id = id_of(&job);
        let idle = create("$JOBCAGE_JOB.idle") + &"lxc-snapshot -n $JOBCAGE_JOB.idle\n".repeat(2);
        let script =
            start("$JOBCAGE_JOB.web") + &start("$JOBCAGE_JOB") + "lxc-freeze -n $JOBCAGE_JOB\n" + &idle;
        // As an `lxc-destroy` leaves it that was killed between the config and the directory.
        let bare = format!("mkdir {SYSTEM}/$JOBCAGE_JOB.bare");
        says(&job, &sudo(&(script + &bare)));
        let [web, frozen] = [format!("{id}.web"), id.clone()].map(|name| Running::find(&name));
        assert!(web.is_alive() && frozen.is_alive());
        let log = end(&job);
        for container in [&web, &frozen] {
            assert_eq!(told(&log, &container.name), "running → deleted");
            container.assert_gone();
        }
        for name in ["idle", "bare"] {
            assert_eq!(told(&log, &format!("{id}.{name}")), "deleted");
        }
    }
    let mut ran: Vec<_> = guests(&world, "container")
        .into_iter()
        .filter_map(|guest| guest.ran)
        .collect();
    ran.sort_unstable();
    assert_eq!(ran, ["frozen", "running"]);
    assert_eq!((names(), places(&world).len()), (Vec::new(), 0));
    world.assert_nothing_left();
}

/// A container that has kept the job's variables is found and killed as a process of the job's. It is in the registry all the same.
pub fn escaped() {
    let mut world = lonely("lxc-escaped");
    {
        let job = prepared(&world, 705);
        let name = id_of(&job);
        let keep = |script: &str| script.replace("env -i PATH=$PATH ", "");
        says(&job, &keep(&sudo(&start("$JOBCAGE_JOB"))));
        let container = Running::find(&name);
        let log = end(&job);
        assert!(
            log.contains("escaped: pid ") && told(&log, &name) == "deleted",
            "{log}"
        );
        assert!(container.init.wait_end(PATIENCE) && container.monitor.wait_end(PATIENCE));
    }
    assert_eq!((names(), places(&world).len()), (Vec::new(), 0));
    world.assert_nothing_left();
}

/// Whose name is nearly the job's, or has its id somewhere, runs on.
pub fn neighbour() {
    let mut world = lonely("lxc-next");
    let neighbours = {
        let job = prepared(&world, 710);
        let id = id_of(&job);
        let near = [
            format!("{id}x"),
            format!("{id}-web"),
            format!("x{id}"),
            format!("x.{id}"),
            format!("{}.web", id.to_uppercase()),
            format!("{}.web", &id[..id.len() - 1]),
            "other".into(),
        ];
        root(&near.iter().map(|name| start(name)).collect::<String>());
        let neighbours = near.map(|name| Running::find(&name));
        says(&job, &sudo(&start("$JOBCAGE_JOB.web")));
        let log = end(&job);
        assert_eq!(log.matches("LXC container ").count(), 1, "{log}");
        neighbours
    };
    assert_eq!(names().len(), neighbours.len());
    for neighbour in &neighbours {
        assert!(neighbour.is_alive(), "{}", neighbour.name);
        root(&format!("lxc-destroy -f -n {}", neighbour.name));
        neighbour.assert_gone();
    }
    world.assert_nothing_left();
}

/// No tool is started for a job that has no container, though others have. The tools tell of themselves, and of the cgroup that they are in.
pub fn unused() {
    const CALLS: &str = "/tmp/lxc-calls";
    const TOOLS: [&str; 3] = [
        "/usr/bin/lxc-destroy",
        "/usr/bin/lxc-info",
        "/usr/bin/lxc-snapshot",
    ];
    let mut world = lonely("lxc-unused");
    for tool in TOOLS {
        fs::rename(tool, format!("{tool}.real")).unwrap();
        let script = format!("#!/bin/sh\ncat /proc/self/cgroup >>{CALLS}\nexec {tool}.real \"$@\"\n");
        fs::write(tool, script).unwrap();
        fs::set_permissions(tool, fs::Permissions::from_mode(0o755)).unwrap();
    }
    fs::write(CALLS, "").unwrap();
    root(&start("other"));
    let told = [(740, "true".to_owned()), (741, sudo(&create("$JOBCAGE_JOB")))].map(|(number, script)| {
        let job = prepared(&world, number);
        says(&job, &script);
        end(&job);
        fs::read_to_string(CALLS).unwrap().contains("/guests/")
    });
    for tool in TOOLS {
        fs::rename(format!("{tool}.real"), tool).unwrap();
    }
    fs::remove_file(CALLS).unwrap();
    root("lxc-destroy -f -n other");
    assert_eq!(told, [false, true]);
    world.assert_nothing_left();
}

/// Where nobody asks for it nothing is done.
pub fn off() {
    let mut world = lonely("lxc-off");
    let kept = {
        let job = job(&world, 745, "isolate");
        let name = format!("{}.web", id_of(&job));
        says(&job, &sudo(&start(&name)));
        end(&job);
        Running::find(&name)
    };
    assert!(kept.is_alive());
    root(&format!("lxc-destroy -f -n {}", kept.name));
    kept.assert_gone();
    world.assert_nothing_left();
}

/// Whoever gives back is killed, while a tool waits for the second container, and when the first one is gone; the next one goes on.
pub fn killed() {
    for round in 0..2 {
        let mut world = lonely("lxc-killed");
        {
            let job = prepared(&world, 750 + round);
            let id = id_of(&job);
            says(&job, &sudo(&(start("$JOBCAGE_JOB.a") + &start("$JOBCAGE_JOB.b"))));
            let both = ["a", "b"].map(|name| Running::find(&format!("{id}.{name}")));
            if round == 0 {
                both[1].monitor.signal(Signal::SIGSTOP);
            }
            let cleanup = job.start("cleanup", &[]);
            let tools = world.cgroup_root.join("guests");
            let (dir, first) = (Path::new(SYSTEM), PathBuf::from(format!("{SYSTEM}/{id}.a")));
            let came = if round == 0 {
                wait_change(&world.cgroup_root, PATIENCE, || tools.exists())
            } else {
                wait_change(dir, PATIENCE, || !first.exists())
            };
            assert!(came, "no tool was started");
            for pid in cgroup::pids(&world.cgroup_root.join("supervisors")) {
                Process::open(pid).signal(Signal::SIGKILL);
            }
            both[1].monitor.signal(Signal::SIGCONT);
            ok(&cleanup.end());
            assert!(wait_empty(&world.cgroup_root.join("supervisors"), PATIENCE));
            world.call(&["gc"]).expect(0);
            both.iter().for_each(Running::assert_gone);
        }
        // What is gone when the next one looks, the dead one has known alone.
        let told = guests(&world, "container").len();
        assert!(round > 0 || told == 2, "{told}");
        assert_eq!((names(), places(&world).len()), (Vec::new(), 0));
        world.assert_nobody_left();
    }
}
