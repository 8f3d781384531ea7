//! The two kernel bugs that jobcage is built around, found by provoking them (kernel-facts 3, `docs/kernel.md`).

use crate::dir::Dir;
use crate::error::Result;
use crate::events::EventsFile;
use crate::signal::signal_all;
use jobcage_sys::spawn::{Plan, spawn};
use jobcage_sys::wait::{self, Whom};
use nix::libc::SIGKILL;
use std::ffi::CString;
use std::time::{Duration, Instant};

/// What the kernel does. `None`: it could not be tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SelfTest {
    /// A process whose main thread has exited survives `cgroup.kill`.
    pub exited_leader_survives: Option<bool>,
    /// A child born into a cgroup that was once killed as a whole dies at birth.
    pub killed_at_birth: Option<bool>,
}

/// Tries both, in two cgroups of its own below `root`. Takes a few milliseconds.
///
/// `exe` is this very program and `leader` its arguments that make it a process whose main thread has exited.
///
/// # Errors
/// If no cgroup can be made below `root`.
pub fn selftest(root: &Dir, exe: &CString, leader: &[CString]) -> Result<SelfTest> {
    let name = format!("selftest-{}", std::process::id());
    let dir = root.create(&name)?;
    let result = SelfTest {
        exited_leader_survives: exited_leader(&dir, exe, leader),
        killed_at_birth: killed_at_birth(&dir),
    };
    let _ = dir.remove_child("leader");
    let _ = dir.remove_child("birth");
    root.remove_child(&name)?;
    Ok(result)
}

fn exited_leader(dir: &Dir, exe: &CString, args: &[CString]) -> Option<bool> {
    let leaf = dir.create("leader").ok()?;
    let events = EventsFile::open(&leaf).ok()??;
    let plan = Plan {
        programs: vec![exe.clone()],
        args: args.into(),
        cgroup: Some(leaf.fd()),
        ..Plan::default()
    };
    let child = spawn(&plan).ok()?;
    // The leader shows as a zombie while its thread lives. Nobody is told of that, so it is looked at.
    // Milliseconds, but not in an emulated machine.
    let until = Instant::now() + Duration::from_secs(5);
    let is_zombie = || crate::census::Process::read(child.pid).is_some_and(|p| p.state == 'Z');
    while !is_zombie() && wait::is_alive(child.pid) && Instant::now() < until {
        events
            .wait(Instant::now() + Duration::from_millis(1), |_| false)
            .ok()?;
    }
    let killed = is_zombie() && leaf.write("cgroup.kill", "1").is_ok();
    let empty = events
        .wait(Instant::now() + Duration::from_millis(30), |now| !now.populated)
        .ok()?;
    signal_all(&leaf, &[SIGKILL]).ok()?;
    wait::block(Whom::Pid(child.pid)).ok()?;
    events
        .wait(Instant::now() + Duration::from_secs(1), |now| !now.populated)
        .ok()?;
    killed.then_some(!empty)
}

fn killed_at_birth(dir: &Dir) -> Option<bool> {
    let leaf = dir.create("birth").ok()?;
    leaf.write("cgroup.kill", "1").ok()?;
    // The start fails at exec by intention: what counts is whether the child got that far.
    let plan = Plan {
        programs: vec![c"/nonexistent".into()],
        cgroup: Some(leaf.fd()),
        ..Plan::default()
    };
    let child = spawn(&plan).ok()?;
    wait::block(Whom::Pid(child.pid)).ok()?;
    Some(child.died_at_birth())
}
