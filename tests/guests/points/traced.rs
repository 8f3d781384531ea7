//! `jobcage cleanup` under ptrace(2), by which it can be killed at the entry of any of its system calls.

use crate::support::programs;
use crate::support::world::World;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::process::Stdio;

/// Has the job cleaned up, until the entry of a system call of which this is true, by its number. How many calls there were, and whether it was
/// killed there.
#[expect(clippy::zombie_processes, reason = "a tracer waits by waitpid(2) itself")]
pub fn cleaned_up(world: &World, id: &str, mut is_there: impl FnMut(u64) -> bool) -> (u64, bool) {
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
                if inside && is_there(calls) {
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
