//! Whoever gives machines back is killed at the entry of a system call, at one after the other; whoever comes next finishes it.

use crate::support::programs;
use crate::support::say;
use crate::support::seed::{SplitMix, full_sweep, seed};
use crate::support::world::World;
use crate::virtualbox::{MANAGE, USER, assert_given_back, guests, world};
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::process::Stdio;

/// A job of several steps, with a machine and a disk of nobody.
fn made(world: &World) -> String {
    let id = world.call(&["create", "--user", USER]).expect(0).text();
    let script = format!(
        "cd; {MANAGE} createvm --name web --ostype Linux26_64 --register >/dev/null
         {MANAGE} createmedium disk --filename $VBOX_USER_HOME/../vms/orphan.vdi --size 20 >/dev/null 2>&1"
    );
    let login = [
        "run", "--job", &id, "--user", USER, "--login", "--", "bash", "-c", &script,
    ];
    world.call(&login).expect(0);
    id
}

/// Has the job cleaned up, until this system call; `None`: to the end. How many calls there were, and whether it was killed there.
#[expect(clippy::zombie_processes, reason = "a tracer waits by waitpid(2) itself")]
fn cleaned_up(world: &World, id: &str, at: Option<u64>) -> (u64, bool) {
    let mut command = world.command("sh");
    // It is the tracer's from its first own call on.
    command
        .args(["-c", "kill -STOP $$; exec \"$0\" cleanup \"$1\""])
        .arg(programs::jobcage())
        .arg(id)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let child = command.spawn().unwrap();
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
    waitpid(pid, Some(WaitPidFlag::WUNTRACED)).unwrap();
    ptrace::seize(pid, Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_EXITKILL).unwrap();
    kill(pid, Signal::SIGCONT).unwrap();
    let (mut calls, mut inside) = (0, false);
    loop {
        let deliver = match waitpid(pid, Some(WaitPidFlag::__WALL)).unwrap() {
            WaitStatus::Exited(_, code) => {
                assert_eq!(code, 0, "after {calls} calls");
                return (calls, false);
            }
            WaitStatus::Signaled(..) => return (calls, true),
            WaitStatus::PtraceSyscall(_) => {
                inside = !inside;
                calls += u64::from(inside);
                if inside && at == Some(calls) {
                    kill(pid, Signal::SIGKILL).unwrap();
                    continue;
                }
                None
            }
            WaitStatus::Stopped(_, signal) => Some(signal).filter(|signal| *signal != Signal::SIGTRAP),
            _ => None,
        };
        ptrace::syscall(pid, deliver).unwrap();
    }
}

/// Its registry, its daemon, its disk and its place are gone, wherever the first one stopped.
pub fn every_call() {
    let rounds = if full_sweep() { 300 } else { 8 };
    let mut chance = SplitMix(seed());
    let (mut most, mut killed) = (0, 0);
    for round in 0..=rounds {
        let mut world = world("vbox-points");
        let id = made(&world);
        // The first one tells how many there are. The next may be over sooner, as it polls less.
        let at = (round > 0).then(|| 1 + chance.next() % most);
        let (calls, was_killed) = cleaned_up(&world, &id, at);
        most = most.max(calls);
        killed += u32::from(was_killed);
        world.call(&["cleanup", &id]);
        world.call(&["gc"]).expect(0);
        guests(&world);
        assert_given_back(&world);
        world.assert_nothing_left();
    }
    assert!(killed > 0, "nobody was killed");
    say(&format!("{killed} kills among {most} system calls, nothing left"));
}
