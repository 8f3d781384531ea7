//! Where the cages of root stand, under a real systemd: its scope, who holds it, and what ends with whom.
//!
//! These take the host's own scope, so they run in the test VM alone.

use crate::support::needs::{Need, met};
use crate::support::process::{Process, cgroup_of};
use crate::support::world::World;
use crate::support::{PATIENCE, cgroup, say};
use nix::sys::signal::Signal;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

pub const SCOPE: &str = "/sys/fs/cgroup/jobcage.slice/jobcage-root.scope";

/// Whether this is the test VM, where systemd's own tree may be used, and we are this user.
pub fn in_vm(test: &str, as_root: bool) -> bool {
    if !met(test, &[Need::Systemd]) {
        return false;
    }
    let fits = nix::unistd::geteuid().is_root() == as_root;
    if std::env::var_os("JOBCAGE_VM").is_none() || !fits {
        let who = if as_root { "root" } else { "a user" };
        say(&format!(
            "not applicable: {test}: it runs in the test VM as {who}"
        ));
        return false;
    }
    true
}

/// A command that finds its own root, with the runtime and state directories of a world.
pub fn free(world: &World, program: &str, args: &[&str]) -> Command {
    let mut command = world.command(program);
    command
        .env_remove("JOBCAGE_CGROUP_ROOT")
        .args(args)
        .stdin(Stdio::null());
    command
}

pub fn jobcage() -> String {
    crate::support::programs::jobcage().display().to_string()
}

pub fn output(mut command: Command) -> (i32, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (status.code().unwrap_or(-1), text(&stdout), text(&stderr))
}

pub fn succeed(command: Command) -> String {
    let told = format!("{command:?}");
    let (code, stdout, stderr) = output(command);
    assert_eq!(code, 0, "{told}: {stdout}{stderr}");
    stdout
}

/// `--setenv` words of systemd-run for what makes jobcage live in a world.
pub fn settings(world: &World) -> Vec<String> {
    [
        ("JOBCAGE_RUNTIME_DIR", "run"),
        ("JOBCAGE_STATE_DIR", "state"),
        ("JOBCAGE_CONFIG", "config.toml"),
    ]
    .map(|(name, file)| format!("--setenv={name}={}", world.dir.join(file).display()))
    .to_vec()
}

/// The scope, absent at the start and at the end of a test.
struct Scope;

impl Scope {
    fn absent() -> Self {
        end_scope();
        Self
    }

    fn holder() -> Process {
        // A closing that it has started is there for a moment, too.
        let hold = Path::new(SCOPE).join("hold");
        wait_until(|| cgroup::pids(&hold).len() == 1);
        let pids = cgroup::pids(&hold);
        Process::open(pids[0])
    }

    fn cages() -> Vec<PathBuf> {
        let mut found = cgroup::below(Path::new(SCOPE));
        found.retain(|dir| dir.parent() == Some(Path::new(SCOPE)) && !dir.ends_with("hold"));
        found
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // The first failure is the one to tell.
            say(&cgroup::tree(Path::new(SCOPE)));
            kill_scope();
        } else {
            end_scope();
        }
    }
}

fn kill_scope() {
    let dirs = cgroup::below(Path::new(SCOPE));
    for pid in dirs.iter().flat_map(|dir| cgroup::pids(dir)) {
        Process::open(pid).signal(Signal::SIGKILL);
    }
}

fn end_scope() {
    kill_scope();
    let scope = Path::new(SCOPE);
    if scope.parent().unwrap().exists() {
        assert!(
            cgroup::wait_gone(scope, PATIENCE),
            "systemd does not remove the empty scope: {}",
            cgroup::tree(scope)
        );
    }
}

fn show(unit: &str, property: &str) -> String {
    let mut command = Command::new("systemctl");
    command.args(["show", "--value", "--property", property, unit]);
    succeed(command).trim().to_owned()
}

#[test]
fn the_first_job_starts_the_scope_and_it_stays() {
    if !in_vm("first_job", true) {
        return;
    }
    let _scope = Scope::absent();
    let world = World::new("first");
    let report = world.dir.join("report.json").display().to_string();
    let bin = jobcage();
    let job = free(
        &world,
        &bin,
        &["run", "--report", &report, "--", "cat", "/proc/self/cgroup"],
    );
    let (code, stdout, stderr) = output(job);
    assert_eq!((code, stderr.as_str()), (0, ""), "{stdout}");
    assert!(
        stdout.contains("0::/jobcage.slice/jobcage-root.scope/cat-"),
        "{stdout}"
    );
    let report = crate::support::job::read_report(Path::new(&report));
    assert!(report.clean && report.escaped.is_empty(), "{report:#?}");
    assert_eq!(report.root.unwrap().kind, "systemd");
    // The watcher holds it, is nobody's child, and has one thread.
    let holder = Scope::holder();
    let stat = crate::support::process::stat(holder.pid).unwrap();
    assert_eq!(stat.2, 1, "its parent");
    assert_eq!(
        crate::support::process::status(holder.pid, "Threads").unwrap(),
        "1"
    );
    assert_eq!(show("jobcage-root.scope", "Delegate"), "yes");
    assert_eq!(show("jobcage-root.scope", "TasksMax"), "infinity");
    assert_eq!(show("jobcage-root.scope", "Slice"), "jobcage.slice");
    let enabled = fs::read_to_string(Path::new(SCOPE).join("cgroup.subtree_control")).unwrap();
    assert_eq!(enabled.trim(), "cpuset cpu io memory pids");
    let mode = fs::metadata(world.dir.join("run")).unwrap();
    assert_eq!(
        std::os::unix::fs::PermissionsExt::mode(&mode.permissions()) & 0o777,
        0o700
    );
    // The second job finds it.
    succeed(free(&world, &bin, &["run", "--", "true"]));
    assert_eq!(Scope::holder().pid, holder.pid);
}

#[test]
fn many_first_jobs_at_once_start_one_scope() {
    if !in_vm("many_first_jobs", true) {
        return;
    }
    let _scope = Scope::absent();
    let world = World::new("many-first");
    let bin = jobcage();
    let start = |i: u32| {
        let mut command = free(&world, &bin, &["run", "--", "echo", &i.to_string()]);
        command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let jobs: Vec<_> = (0..5).map(start).collect();
    for (i, job) in jobs.into_iter().enumerate() {
        let done = job.wait_with_output().unwrap();
        let (out, err) = (
            String::from_utf8_lossy(&done.stdout),
            String::from_utf8_lossy(&done.stderr),
        );
        assert_eq!(
            (done.status.code(), out.trim(), err.as_ref()),
            (Some(0), i.to_string().as_str(), "")
        );
    }
    Scope::holder();
}

/// A job runs, in a scope that systemd knows and somebody holds.
fn assert_scope_serves(world: &World) {
    succeed(free(world, &jobcage(), &["run", "--", "true"]));
    assert_eq!(show("jobcage-root.scope", "ActiveState"), "active");
    Scope::holder();
}

#[test]
fn a_scope_on_its_way_out_is_not_taken() {
    if !in_vm("dying_scope", true) {
        return;
    }
    let _scope = Scope::absent();
    let world = World::new("dying");
    assert_scope_serves(&world);
    for _ in 0..20 {
        let holder = Scope::holder();
        holder.signal(Signal::SIGKILL);
        assert!(holder.wait_end(PATIENCE));
        // systemd removes the scope at this very moment, or has not noticed yet.
        assert_scope_serves(&world);
    }
}

#[test]
fn a_scope_that_systemd_has_forgotten_is_made_anew() {
    if !in_vm("forgotten_scope", true) {
        return;
    }
    let _scope = Scope::absent();
    let world = World::new("forgotten");
    // As it stays behind where somebody came while systemd removed it, and then went.
    let scope = Path::new(SCOPE);
    fs::create_dir_all(scope.join("hold")).unwrap();
    for dir in [scope.parent().unwrap(), scope] {
        fs::write(dir.join("cgroup.subtree_control"), "+pids +memory").unwrap();
    }
    assert_eq!(show("jobcage-root.scope", "ActiveState"), "inactive");
    assert_scope_serves(&world);
}

/// A unit of the administrator's that has to do with the scope makes systemd know the name before there is one.
#[test]
fn another_unit_may_refer_to_the_scope() {
    if !in_vm("referred_scope", true) {
        return;
    }
    let _scope = Scope::absent();
    let world = World::new("referred");
    let unit = Path::new("/run/systemd/system/jobcage-test-near.service");
    fs::write(
        unit,
        "[Unit]\nAfter=jobcage-root.scope\n[Service]\nExecStart=/bin/sleep 1000\n",
    )
    .unwrap();
    let near = |verb: &str| {
        let mut command = Command::new("systemctl");
        command.args([verb, "jobcage-test-near.service"]);
        succeed(command);
    };
    near("start");
    assert_scope_serves(&world);
    near("stop");
    fs::remove_file(unit).unwrap();
    let mut reload = Command::new("systemctl");
    reload.arg("daemon-reload");
    succeed(reload);
}

#[test]
fn the_scope_survives_daemon_reload_with_its_limits() {
    if !in_vm("daemon_reload", true) {
        return;
    }
    let _scope = Scope::absent();
    let world = World::new("reload");
    let bin = jobcage();
    let mut command = free(
        &world,
        &bin,
        &["run", "--memory", "64M", "--pids", "9", "--", "cat"],
    );
    let mut job = command.stdin(Stdio::piped()).spawn().unwrap();
    let appeared = || {
        Scope::cages()
            .iter()
            .any(|cage| cgroup::populated(cage) == Some(true))
    };
    wait_until(appeared);
    let cage = Scope::cages().pop().unwrap();
    let mut reload = Command::new("systemctl");
    reload.arg("daemon-reload");
    succeed(reload);
    let limit = |file: &str| {
        fs::read_to_string(cage.join("steps").join(file))
            .unwrap()
            .trim()
            .to_owned()
    };
    assert_eq!(
        (limit("memory.max"), limit("pids.max")),
        ("67108864".to_owned(), "9".to_owned())
    );
    assert_eq!(cgroup::populated(&cage), Some(true));
    drop(job.stdin.take());
    assert!(job.wait().unwrap().success());
}

/// Looks again every 20 ms until it holds: for states that no single descriptor tells of.
pub fn wait_until(holds: impl Fn() -> bool) {
    let end = std::time::Instant::now() + PATIENCE;
    while !holds() {
        assert!(std::time::Instant::now() < end, "it never came to that");
        let _ = nix::poll::poll(&mut [], 20_u8);
    }
}

#[test]
fn a_killed_watcher_takes_no_job_with_it() {
    if !in_vm("killed_watcher", true) {
        return;
    }
    let _scope = Scope::absent();
    let world = World::new("watcher");
    let bin = jobcage();
    let mut command = free(&world, &bin, &["run", "--verbose", "--", "cat"]);
    let job = command
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_until(|| {
        Scope::cages()
            .iter()
            .any(|cage| cgroup::populated(cage) == Some(true))
    });
    let first = Scope::holder();
    first.signal(Signal::SIGKILL);
    assert!(first.wait_end(PATIENCE));
    // The supervisor starts another by itself.
    wait_until(|| {
        let pids = cgroup::pids(&Path::new(SCOPE).join("hold"));
        pids.len() == 1 && pids[0] != first.pid
    });
    let done = job.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.success(), "{stderr}");
    assert_eq!(
        stderr.matches("the watcher died and was replaced").count(),
        1,
        "{stderr}"
    );
    // Without any job it takes the scope with it, and the next job starts both again.
    end_scope();
    succeed(free(&world, &bin, &["run", "--", "true"]));
    Scope::holder();
}

/// A job that ignores TERM, started by a service.
fn service(world: &World, unit: &str) -> Process {
    let mut command = Command::new("systemd-run");
    let ready = world.dir.join("ready").display().to_string();
    // systemd makes one dollar sign of two.
    let script =
        format!("trap '' TERM; sleep 1000 & echo $$$$ >{ready}.tmp; mv {ready}.tmp {ready}; wait; wait");
    command
        .args([
            "--quiet",
            "--collect",
            "--property=TimeoutStopSec=20",
            &format!("--unit={unit}"),
        ])
        .args(settings(world))
        .args([
            "--",
            &jobcage(),
            "run",
            "--grace",
            "1s",
            "--",
            "sh",
            "-c",
            &script,
        ]);
    succeed(command);
    assert!(
        cgroup::wait_change(&world.dir, PATIENCE, || Path::new(&ready).exists()),
        "no job"
    );
    let pid: i32 = fs::read_to_string(&ready).unwrap().trim().parse().unwrap();
    fs::remove_file(&ready).unwrap();
    assert!(
        cgroup_of(pid)
            .unwrap()
            .starts_with("/jobcage.slice/jobcage-root.scope/")
    );
    Process::open(pid)
}

#[test]
fn a_foreground_job_ends_with_the_service_that_started_it() {
    if !in_vm("service_stop", true) {
        return;
    }
    let _scope = Scope::absent();
    let mut world = World::new("service");
    // Asked to end, the supervisor ends its job; killed together with all of its service, the watcher does.
    for (unit, verb) in [
        ("jobcage-test-stop", &["stop"][..]),
        ("jobcage-test-kill", &["kill", "--signal=KILL"]),
    ] {
        let main = service(&world, unit);
        let mut command = Command::new("systemctl");
        command.args(verb).arg(format!("{unit}.service"));
        succeed(command);
        assert!(main.wait_end(PATIENCE), "{verb:?}: the job lives on");
        wait_until(|| Scope::cages().is_empty());
        // The watcher was started from that service and has outlived it.
        Scope::holder();
    }
    let reports = world.closed_reports();
    assert_eq!(
        reports.len(),
        1,
        "the killed one alone leaves its report: {reports:#?}"
    );
    assert_eq!(reports[0].ending.kind(), "lost");
    assert!(
        reports[0].clean && reports[0].census.count == 2,
        "{:#?}",
        reports[0]
    );
    world.phase("done");
}

#[test]
fn cgroups_that_cannot_be_written_are_named() {
    if !in_vm("read_only", true) {
        return;
    }
    let _scope = Scope::absent();
    let world = World::new("read-only");
    // With `bind` it is this mount alone that becomes read-only.
    let script = "mount -o remount,bind,ro /sys/fs/cgroup && exec \"$0\" run -- echo it ran";
    for there_is_a_scope in [false, true] {
        if there_is_a_scope {
            succeed(free(&world, &jobcage(), &["run", "--", "true"]));
        }
        let (code, stdout, stderr) = output(free(&world, "unshare", &["-m", "sh", "-c", script, &jobcage()]));
        assert_eq!((code, stdout.as_str()), (125, ""), "{stderr}");
        assert!(
            stderr.contains("read-only") && stderr.contains("mount it writable"),
            "{stderr}"
        );
    }
    let script = "mount -t tmpfs none /sys/fs/cgroup && exec \"$0\" run -- echo it ran";
    let (code, stdout, stderr) = output(free(&world, "unshare", &["-m", "sh", "-c", script, &jobcage()]));
    assert_eq!((code, stdout.as_str()), (125, ""), "{stderr}");
    assert!(stderr.contains("no cgroup2 file system is mounted"), "{stderr}");
}
