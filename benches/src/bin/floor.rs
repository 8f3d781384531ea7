//! The smallest honest `jobcage run`: what any program must do that runs a command in a cgroup of its own and leaves
//! nothing of it. It has no options, no configuration, no record, no report. The benchmark divides by it.
//!
//! `floor run GROUP -- CMD…`     make a cgroup below GROUP, run CMD in it, kill what is left, remove it
//! `floor end GROUP -- CMD…`     the same, but SIGTERM ends the job: raw `cgroup.kill`, then reap everything
//! `floor many GROUP N -- CMD…`  N jobs in this one process, each in its own cgroup; SIGTERM ends them all
//!
//! GROUP is relative to the cgroup2 mount point.

use jobcage_sys::spawn::{Child, Plan, spawn};
use jobcage_sys::wait::{Change, Whom, become_subreaper, block, poll};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::stat::Mode;
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::{mkdir, write};
use std::ffi::{CString, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    match live() {
        Ok(code) => ExitCode::from(code),
        Err(why) => {
            eprintln!("floor: {why}");
            ExitCode::from(125)
        }
    }
}

fn live() -> Result<u8, String> {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    let split = args
        .iter()
        .position(|arg| arg == "--")
        .ok_or("usage: floor run|end|many GROUP [N] -- CMD…")?;
    let (words, command) = (&args[..split], &args[split + 1..]);
    let mode = words.first().and_then(|word| word.to_str()).unwrap_or_default();
    let group = words.get(1).ok_or("no GROUP given")?;
    let parent = mount_point()?.join(group);
    let plan = plan(command)?;
    match mode {
        "run" => run(&parent, plan),
        "end" => end(&parent, plan),
        "many" => {
            let count = words
                .get(2)
                .and_then(|n| n.to_str())
                .and_then(|n| n.parse().ok())
                .ok_or("no N given")?;
            many(&parent, count, plan)
        }
        _ => Err(Errno::EINVAL),
    }
    .map_err(|errno| format!("{mode} below {}: {errno}", parent.display()))?
    .ok_or_else(|| "the command did not start".into())
}

fn mount_point() -> Result<PathBuf, String> {
    let is_cgroup2 = |path: &&str| statfs(*path).is_ok_and(|fs| fs.filesystem_type() == CGROUP2_SUPER_MAGIC);
    let places = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
    places
        .iter()
        .find(|path| is_cgroup2(path))
        .map(PathBuf::from)
        .ok_or_else(|| "no cgroup2 here".into())
}

fn plan(command: &[OsString]) -> Result<Plan<'static>, String> {
    let text = |bytes: Vec<u8>| CString::new(bytes).map_err(|why| why.to_string());
    let args: Vec<_> = command
        .iter()
        .map(|arg| text(arg.as_bytes().to_vec()))
        .collect::<Result<_, _>>()?;
    let pair = |(name, value): (OsString, OsString)| {
        let mut pair = name.into_vec();
        pair.push(b'=');
        pair.extend_from_slice(value.as_bytes());
        text(pair)
    };
    let env = std::env::vars_os().map(pair).collect::<Result<_, _>>()?;
    let program = args.first().ok_or("no command given")?.clone();
    Ok(Plan {
        programs: vec![program],
        args,
        env,
        signal_mask: Some(SigSet::empty()),
        ..Plan::default()
    })
}

/// A cgroup of one job.
struct Cell {
    path: PathBuf,
    dir: OwnedFd,
}

impl Cell {
    fn make(parent: &Path, number: usize) -> nix::Result<Self> {
        let path = parent.join(format!("floor-{}-{number}", std::process::id()));
        mkdir(&path, Mode::S_IRWXU)?;
        let dir = open(
            &path,
            OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
            Mode::empty(),
        )?;
        Ok(Self { path, dir })
    }

    fn start(&self, plan: &Plan<'_>) -> nix::Result<Child> {
        spawn(&Plan {
            programs: plan.programs.clone(),
            args: plan.args.clone(),
            env: plan.env.clone(),
            signal_mask: plan.signal_mask,
            cgroup: Some(self.dir.as_fd()),
            ..Plan::default()
        })
    }

    fn kill(&self) -> nix::Result<()> {
        let file = openat(
            &self.dir,
            c"cgroup.kill",
            OFlag::O_WRONLY | OFlag::O_CLOEXEC,
            Mode::empty(),
        )?;
        write(&file, b"1").map(drop)
    }

    /// The kernel notifies at most every 10 ms, so it is asked again on a doubling timer as well.
    fn wait_empty(&self) -> nix::Result<()> {
        let file = openat(
            &self.dir,
            c"cgroup.events",
            OFlag::O_RDONLY | OFlag::O_CLOEXEC,
            Mode::empty(),
        )?;
        let mut pause = Duration::from_micros(100);
        let mut text = [0; 128];
        loop {
            let length = nix::sys::uio::pread(&file, &mut text, 0)?;
            if text[..length].starts_with(b"populated 0") {
                return Ok(());
            }
            let mut wait = [PollFd::new(file.as_fd(), PollFlags::POLLPRI)];
            ppoll(&mut wait, Some(pause.into()), None)?;
            pause = (pause * 2).min(Duration::from_millis(2));
        }
    }

    fn remove(self) -> nix::Result<()> {
        self.wait_empty()?;
        std::fs::remove_dir(&self.path).map_err(|why| Errno::from_raw(why.raw_os_error().unwrap_or(0)))
    }
}

fn run(parent: &Path, plan: Plan<'_>) -> nix::Result<Option<u8>> {
    let cell = Cell::make(parent, 0)?;
    let child = cell.start(&plan)?;
    let pidfd = child.pidfd.as_ref().ok_or(Errno::ENOSYS)?;
    let status = loop {
        match waitid(Id::PIDFd(pidfd.as_fd()), WaitPidFlag::WEXITED) {
            Err(Errno::EINTR) => {}
            other => break other?,
        }
    };
    cell.kill()?;
    cell.remove()?;
    let code = match status {
        WaitStatus::Exited(_, code) => code,
        WaitStatus::Signaled(_, signal, _) => 128 + signal as i32,
        _ => 125,
    };
    Ok(child
        .failure()
        .is_none()
        .then(|| u8::try_from(code).unwrap_or(125)))
}

/// SIGTERM and SIGCHLD, blocked so that they can be waited for.
fn block_signals() -> nix::Result<SigSet> {
    let mut set = SigSet::empty();
    set.add(Signal::SIGTERM);
    set.add(Signal::SIGCHLD);
    set.thread_block()?;
    become_subreaper()?;
    Ok(set)
}

fn end(parent: &Path, plan: Plan<'_>) -> nix::Result<Option<u8>> {
    let signals = block_signals()?;
    let cell = Cell::make(parent, 0)?;
    let child = cell.start(&plan)?;
    let code = loop {
        if signals.wait()? == Signal::SIGTERM {
            break 143;
        }
        if let Some(code) = reap_until(child.pid)? {
            break code;
        }
    };
    cell.kill()?;
    reap_all()?;
    cell.remove()?;
    Ok(child.failure().is_none().then_some(code))
}

fn many(parent: &Path, count: usize, plan: Plan<'_>) -> nix::Result<Option<u8>> {
    let signals = block_signals()?;
    let mut cells = Vec::with_capacity(count);
    for number in 0..count {
        let cell = Cell::make(parent, number)?;
        let child = cell.start(&plan)?;
        cells.push((cell, child));
    }
    while signals.wait()? != Signal::SIGTERM {}
    for (cell, _) in &cells {
        cell.kill()?;
    }
    reap_all()?;
    for (cell, _) in cells {
        cell.remove()?;
    }
    Ok(Some(143))
}

/// Reaps what has ended; the code of `leader` if it is among it.
fn reap_until(leader: i32) -> nix::Result<Option<u8>> {
    let mut code = None;
    while let Ok(Some((pid, change))) = poll(Whom::Any, false) {
        if pid == leader {
            code = Some(match change {
                Change::Exited(code) => u8::try_from(code).unwrap_or(125),
                Change::Killed(signal) | Change::Stopped(signal) => u8::try_from(128 + signal).unwrap_or(125),
            });
        }
    }
    Ok(code)
}

fn reap_all() -> nix::Result<()> {
    loop {
        match block(Whom::Any) {
            Ok(_) => {}
            Err(Errno::ECHILD) => return Ok(()),
            Err(errno) => return Err(errno),
        }
    }
}
