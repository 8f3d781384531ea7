//! The peers: what others take for the same job.

use crate::Result;
use crate::ground::Ground;
use crate::tools::{Tools, on_path};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};
use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

/// `bwrap`, bind mounts only or with the namespaces that make it a keeper of processes.
pub fn bwrap(tools: &Tools, with_pid: bool, job: &[&str]) -> Result<Command> {
    let mut command = tools.command(on_path("bwrap")?)?;
    command.args(["--bind", "/", "/"]);
    if with_pid {
        command.args([
            "--unshare-pid",
            "--proc",
            "/proc",
            "--dev",
            "/dev",
            "--die-with-parent",
        ]);
    }
    command.arg("--");
    tools.job(&mut command, job);
    Ok(command)
}

/// `systemd-run`, where systemd is PID 1.
pub fn systemd_run(tools: &Tools, how: &[&str], job: &[&str]) -> Result<Command> {
    if !fs::exists("/run/systemd/system")? {
        return Err("PID 1 is not systemd".into());
    }
    let mut command = tools.command(on_path("systemd-run")?)?;
    if !nix::unistd::geteuid().is_root() {
        command.arg("--user");
    }
    command.args(["--quiet", "--collect"]).args(how).arg("--");
    tools.job(&mut command, job);
    Ok(command)
}

/// A prepared bundle of crun or runc: a root of one binary, and the runtime's own default without the network namespace,
/// which costs more than all the others and is nothing that jobcage does, and without the mounts that the job does not use.
#[derive(Debug)]
pub struct Bundle {
    runtime: &'static str,
    dir: PathBuf,
    state: PathBuf,
    started: usize,
}

impl Bundle {
    /// Prepares it for a job made of one of the tools.
    pub fn make(ground: &Ground, tools: &Tools, runtime: &'static str, job: &[&str]) -> Result<Self> {
        let program = *job.first().ok_or("no job")?;
        let dir = ground.temp.join(format!("bundle-{runtime}-{program}"));
        let state = ground.temp.join(format!("state-{runtime}-{program}"));
        for inside in ["bin", "proc", "dev"] {
            fs::create_dir_all(dir.join("rootfs").join(inside))?;
        }
        fs::copy(tools.path(program), dir.join("rootfs/bin").join(program))?;
        let mut spec = tools.command(on_path(runtime)?)?;
        if !spec.arg("spec").current_dir(&dir).status()?.success() {
            return Err(format!("{runtime} spec{}", tools.last_error()).into());
        }
        let file = dir.join("config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&file)?)?;
        trim(&mut config, runtime, job);
        fs::write(&file, config.to_string())?;
        Ok(Self {
            runtime,
            dir,
            state,
            started: 0,
        })
    }

    /// `crun run` or `runc run` of it, each time under a new name.
    pub fn run(&mut self, tools: &Tools) -> Result<Command> {
        self.started += 1;
        let mut command = tools.command(on_path(self.runtime)?)?;
        command
            .arg("--root")
            .arg(&self.state)
            .arg("run")
            .arg("--bundle")
            .arg(&self.dir);
        command.arg(format!("bench-{}", self.started));
        Ok(command)
    }

    /// What Podman and CRI-O have for a captured job: conmon as the keeper of a container of this bundle, its output in a
    /// log file. It goes into the background; the container is then to be started. The command, and the container's name.
    pub fn conmon(&mut self, tools: &Tools) -> Result<(Command, String)> {
        self.started += 1;
        let name = format!("conmon-{}", self.started);
        // Not below the state: the runtime has a directory of that name there.
        let place = self.dir.join(&name);
        fs::create_dir_all(&place)?;
        let mut command = tools.command(on_path("conmon")?)?;
        for (option, value) in [
            ("--cid", name.as_ref()),
            ("--cuuid", name.as_ref()),
            ("--name", name.as_ref()),
            ("--runtime", on_path(self.runtime)?.as_os_str()),
            ("--bundle", self.dir.as_os_str()),
            ("--container-pidfile", place.join("pid").as_os_str()),
            ("--socket-dir-path", place.as_os_str()),
            ("--runtime-arg", "--cgroup-manager=disabled".as_ref()),
            ("--runtime-arg", "--root".as_ref()),
            ("--runtime-arg", self.state.as_os_str()),
        ] {
            command.arg(option).arg(value);
        }
        let mut log = OsString::from("k8s-file:");
        log.push(place.join("log"));
        command.arg("--log-path").arg(log);
        Ok((command, name))
    }

    /// Starts the container that conmon has made.
    pub fn start(&self, tools: &Tools, name: &str) -> Result<Command> {
        let mut command = tools.command(on_path(self.runtime)?)?;
        command
            .args(["--cgroup-manager=disabled", "--root"])
            .arg(&self.state)
            .args(["start", name]);
        Ok(command)
    }
}

fn trim(config: &mut Value, runtime: &str, job: &[&str]) {
    let mut args = vec![format!("/bin/{}", job[0])];
    args.extend(job[1..].iter().map(ToString::to_string));
    config["process"]["args"] = json!(args);
    config["process"]["terminal"] = json!(false);
    config["linux"]["namespaces"] =
        json!([{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}]);
    config["linux"]["cgroupsPath"] = json!(format!("/{runtime}-{}", job[0]));
    config["linux"]["resources"] = json!({});
    for (section, key) in [
        ("linux", "maskedPaths"),
        ("linux", "readonlyPaths"),
        ("process", "rlimits"),
    ] {
        if let Some(section) = config[section].as_object_mut() {
            section.remove(key);
        }
    }
    if let Some(mounts) = config["mounts"].as_array_mut() {
        mounts.retain(|mount| mount["destination"] == "/proc" || mount["destination"] == "/dev");
    }
}

type Task = (Command, SyncSender<std::io::Result<Child>>);

/// A thread that sees our own cgroup at /sys/fs/cgroup, as on a host with cgroup v2 alone.
///
/// crun refuses hybrid hosts, runc would make cgroups in all v1 hierarchies, and both enable controllers from the root
/// down, which would change the host for everybody. Started from here they touch nothing above our cgroup.
pub struct View {
    tasks: Option<SyncSender<Task>>,
    thread: Option<JoinHandle<()>>,
}

impl View {
    /// Opens it; needs `CAP_SYS_ADMIN`.
    pub fn open(ground: &Ground) -> Result<Self> {
        let source = ground.cgroup.join("peers");
        let (tasks, queue) = sync_channel::<Task>(0);
        let (ready, is_ready) = sync_channel(1);
        let thread = std::thread::spawn(move || {
            let entered = enter(&source);
            let works = entered.is_ok();
            let told = ready.send(entered).is_ok();
            if works && told {
                serve(&queue);
            }
        });
        is_ready
            .recv()?
            .map_err(|why| format!("no view of cgroup v2 alone: {why}"))?;
        Ok(Self {
            tasks: Some(tasks),
            thread: Some(thread),
        })
    }

    /// Starts a command there.
    pub fn spawn(&self, command: Command) -> Result<Child> {
        let (answer, answered) = sync_channel(1);
        self.tasks
            .as_ref()
            .ok_or("the view is closed")?
            .send((command, answer))?;
        Ok(answered.recv()??)
    }
}

impl Drop for View {
    fn drop(&mut self) {
        drop(self.tasks.take());
        if let Some(thread) = self.thread.take() {
            // A panic there has already been printed.
            let _ = thread.join();
        }
    }
}

fn enter(source: &std::path::Path) -> nix::Result<()> {
    unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS)?;
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        None::<&str>,
    )?;
    mount(
        Some(source),
        "/sys/fs/cgroup",
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )
}

fn serve(queue: &Receiver<Task>) {
    while let Ok((mut command, answer)) = queue.recv() {
        // Nobody listens where the benchmark is ending.
        let _ = answer.send(command.spawn());
    }
}
