//! podman, docker, libvirt and LXC: what a test needs of them, and that they run here by themselves, without jobcage.
//!
//! docker and libvirt of the system are daemons: the first test that wants one starts it, and it ends with the namespace that all tests are
//! in. A container or machine in them is the test's own to remove. Everything else is in the directory of a world.

use crate::support::call::to_end;
use crate::support::cgroup::{self, wait_change};
use crate::support::process::{Process, cgroup_of, stat};
use crate::support::world::World;
use crate::support::{PATIENCE, programs};
use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, chown};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Once;

/// Where `enter-peers` has mounted cgroup2, which has nothing in it but what is made here.
pub const CGROUPS: &str = "/sys/fs/cgroup";

/// The build user in this root; `ci2` (2002) is another one. Both may use docker and libvirt of the system.
pub const USER: &str = "ci1";
const UID: u32 = 2001;

/// An image with busybox in it, for `podman import` and `docker import`.
pub const IMAGE: &str = "/usr/share/jobcage/busybox.tar";

/// Imports the image as `busybox` into the user's own storage, and starts a container `long` of it that does not end.
pub const PODMAN: &str = "podman import -q /usr/share/jobcage/busybox.tar busybox >/dev/null
    podman run --rm busybox echo it ran; podman run -d --name long busybox sleep 1000 >/dev/null";

/// Starts docker, unless it runs. It has the image `busybox`. There is no network but `none` and `host`.
pub fn start_docker() {
    static UP: Once = Once::new();
    UP.call_once(|| {
        let words = "dockerd --iptables=false --ip-forward=false --bridge=none --storage-driver vfs";
        daemon(words, "/run/docker.sock");
        let mut import = Command::new("docker");
        import.args(["import", IMAGE, "busybox"]);
        to_end(import, b"").expect(0);
    });
}

/// Starts libvirt of the system, unless it runs. That of a session starts by itself.
pub fn start_libvirt() {
    static UP: Once = Once::new();
    UP.call_once(|| {
        daemon("virtlogd", "/run/libvirt/virtlogd-sock");
        daemon("libvirtd", "/run/libvirt/libvirt-sock");
    });
}

/// Starts a daemon in a cgroup of its own beside the tests', and waits until it listens.
fn daemon(words: &str, socket: &str) {
    let words: Vec<&str> = words.split(' ').collect();
    let log = format!("/var/log/{}.test", words[0]);
    let out = fs::File::create(&log).unwrap();
    let socket = Path::new(socket);
    let dir = socket.parent().unwrap();
    fs::create_dir_all(dir).unwrap();
    let mut command = Command::new(programs::zoo());
    command
        .arg("in-cgroup")
        .arg(format!("{CGROUPS}/{}", words[0]))
        .args(&words)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .stdin(Stdio::null())
        .stdout(out.try_clone().unwrap())
        .stderr(out);
    let mut child = command.spawn().unwrap();
    let process = Process::open(i32::try_from(child.id()).unwrap());
    // It is to be no zombie, whenever it ends.
    std::thread::spawn(move || child.wait());
    let listens = || UnixStream::connect(socket).is_ok();
    wait_change(dir, PATIENCE, || process.has_ended() || listens());
    assert!(
        listens(),
        "{words:?} does not listen: {}",
        fs::read_to_string(&log).unwrap_or_default()
    );
}

/// A machine for `virsh define`: nothing boots in it, and it needs no KVM and no disk.
pub fn domain(name: &str) -> String {
    format!(
        "<domain type='qemu'><name>{name}</name><memory unit='MiB'>16</memory><vcpu>1</vcpu>
        <os><type arch='x86_64' machine='pc'>hvm</type></os>
        <devices><controller type='usb' model='none'/><memballoon model='none'/></devices></domain>"
    )
}

/// A home of the build user's in this world, with a runtime directory in it: so no storage and no daemon of another test is found.
pub fn home(world: &World) -> PathBuf {
    let home = world.dir.join(USER);
    let run = home.join("run");
    // Where `containers` in it is longer than 50, each `podman run` waits 20 s for an exit that it does not see.
    assert!(
        run.as_os_str().len() <= 39,
        "{}: give this world a shorter name",
        run.display()
    );
    for dir in [home.clone(), run] {
        match fs::DirBuilder::new().mode(0o700).create(&dir) {
            Ok(()) => chown(&dir, Some(UID), Some(UID)).unwrap(),
            Err(e) => assert_eq!(e.kind(), std::io::ErrorKind::AlreadyExists, "{}", dir.display()),
        }
    }
    home
}

/// What a script of the build user's says, which must succeed. It runs outside of jobs, in a cgroup of the world.
pub fn shell(world: &World, script: &str) -> String {
    let home = home(world);
    let mut command = world.command(&world.zoo);
    command
        .arg("in-cgroup")
        .arg(&world.outside)
        .args(["setpriv", "--reuid", USER, "--regid", USER, "--init-groups"])
        .args(["sh", "-ec", script])
        .env("XDG_RUNTIME_DIR", home.join("run"))
        .env("HOME", home);
    to_end(command, b"").expect(0).text()
}

fn root_says(world: &World, script: &str) -> String {
    let mut command = world.command("sh");
    command.args(["-ec", script]);
    to_end(command, b"").expect(0).text()
}

/// The pid that a tool has told or written, whose process lives.
fn living(pid: &str) -> i32 {
    let pid = pid.trim().parse().unwrap();
    assert!(
        stat(pid).is_some_and(|(_, state, _)| state != 'Z'),
        "{pid} is dead"
    );
    pid
}

fn is_outside(world: &World, pid: i32) -> bool {
    let group = cgroup_of(pid).unwrap();
    Path::new(CGROUPS)
        .join(group.trim_start_matches('/'))
        .starts_with(&world.outside)
}

/// A container of a user's is where its caller is, and ends with that.
pub fn podman() {
    let mut world = World::new("podman");
    assert_eq!(shell(&world, PODMAN), "it ran");
    let pid = living(&shell(&world, "podman inspect -f {{.State.Pid}} long"));
    assert!(is_outside(&world, pid), "{:?}", cgroup_of(pid));
    cgroup::remove(&world.outside).unwrap();
    world.assert_nothing_left();
}

/// A container of docker's is the daemon's, wherever its caller is.
pub fn docker() {
    let mut world = World::new("docker");
    start_docker();
    let said = shell(
        &world,
        "docker run --rm --network none busybox echo it ran
         docker run -d --network none --name long busybox sleep 1000 >/dev/null; docker inspect -f {{.State.Pid}} long",
    );
    let (ran, pid) = said.split_once('\n').unwrap();
    assert_eq!(ran, "it ran");
    let pid = living(pid);
    assert!(cgroup_of(pid).unwrap().starts_with("/docker/"), "{said}");
    cgroup::remove(&world.outside).unwrap();
    assert_eq!(living(&pid.to_string()), pid);
    root_says(&world, "docker rm -f long");
    assert!(stat(pid).is_none());
    world.assert_nothing_left();
}

/// A session's machine is where the user's first call was; the system's is the daemon's.
pub fn libvirt() {
    let mut world = World::new("libvirt");
    start_libvirt();
    for place in ["session", "system"] {
        let file = world.dir.join(format!("{place}.xml"));
        fs::write(&file, domain(&format!("of-{place}"))).unwrap();
        let script = format!(
            "export LIBVIRT_DEFAULT_URI=qemu:///{place}; virsh -q define {}; virsh -q start of-{place}; virsh -q domstate of-{place}",
            file.display()
        );
        assert!(shell(&world, &script).contains("running"));
    }
    let pid_of = |file: &Path| living(&fs::read_to_string(file).unwrap());
    let of_session = pid_of(&home(&world).join("run/libvirt/qemu/run/of-session.pid"));
    let of_system = pid_of(Path::new("/run/libvirt/qemu/of-system.pid"));
    assert!(is_outside(&world, of_session) && !is_outside(&world, of_system));
    cgroup::remove(&world.outside).unwrap();
    assert_eq!(pid_of(Path::new("/run/libvirt/qemu/of-system.pid")), of_system);
    let end = "export LIBVIRT_DEFAULT_URI=qemu:///system; virsh destroy of-system; virsh undefine of-system";
    root_says(&world, end);
    assert!(stat(of_system).is_none());
    world.assert_nothing_left();
}

/// A container of root's leaves the cgroup of its caller.
pub fn lxc() {
    let mut world = World::new("lxc");
    let said = root_says(
        &world,
        "export P=$PWD/lxc; mkdir $P; lxc-create -P $P -n one -t busybox >/dev/null 2>&1; lxc-start -P $P -n one
         lxc-attach -P $P -n one -- /bin/echo it ran; lxc-info -P $P -n one -p -H",
    );
    let (ran, pid) = said.split_once('\n').unwrap();
    assert_eq!(ran, "it ran");
    let pid = living(pid);
    assert_eq!(cgroup_of(pid).unwrap(), "/lxc.payload.one");
    let monitor = Process::open(stat(pid).unwrap().2);
    root_says(
        &world,
        "lxc-stop -P $PWD/lxc -k -n one; lxc-destroy -P $PWD/lxc -n one",
    );
    // It tells of the end before its own.
    assert!(monitor.wait_end(PATIENCE), "the monitor {} lives", monitor.pid);
    assert!(!world.dir.join("lxc/one").exists());
    world.assert_nothing_left();
}

/// jobcage works in here, and podman in its job.
pub fn job() {
    let mut world = World::new("job");
    let home = home(&world);
    let script = format!(
        "export HOME={0} XDG_RUNTIME_DIR={0}/run\n{PODMAN}",
        home.display()
    );
    let done = world.finish(&["--user", USER], &["sh", "-ec", &script]).expect(0);
    assert_eq!(done.text(), "it ran");
    let report = done.report();
    assert!(report.clean, "{report:#?}");
    world.assert_nothing_left();
}
