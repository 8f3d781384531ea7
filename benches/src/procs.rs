//! What /proc tells of processes.

use crate::Result;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;

/// A living process; zombies are none.
#[derive(Debug, Clone)]
pub struct Process {
    /// Its pid.
    pub pid: i32,
    /// Its parent.
    pub parent: i32,
    /// Its short name.
    pub name: String,
}

/// All living processes.
pub fn all() -> Result<Vec<Process>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // It may have ended since it was listed.
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
            continue;
        };
        found.extend(parse(pid, &stat));
    }
    Ok(found)
}

/// `PID (NAME) STATE PPID …`, where the name may hold anything, parentheses as well.
fn parse(pid: i32, stat: &str) -> Option<Process> {
    let name = stat.get(stat.find('(')? + 1..stat.rfind(')')?)?.to_string();
    let mut rest = stat.get(stat.rfind(')')? + 2..)?.split(' ');
    let state = rest.next()?;
    let parent = rest.next()?.parse().ok()?;
    (!matches!(state, "Z" | "X")).then_some(Process { pid, parent, name })
}

/// Our children, theirs, and so on. We are a subreaper, so that orphans stay among them.
pub fn descendants() -> Result<Vec<Process>> {
    let mut by_parent: HashMap<i32, Vec<Process>> = HashMap::new();
    for process in all()? {
        by_parent.entry(process.parent).or_default().push(process);
    }
    let mut found = Vec::new();
    let mut parents = vec![std::process::id().cast_signed()];
    while let Some(parent) = parents.pop() {
        let children = by_parent.remove(&parent).unwrap_or_default();
        parents.extend(children.iter().map(|child| child.pid));
        found.extend(children);
    }
    Ok(found)
}

/// Kills descendants of ours, parents before children as `descendants` lists them, and reaps them.
pub fn end(processes: &[Process]) {
    for process in processes {
        // It may have ended by itself.
        let _ = kill(Pid::from_raw(process.pid), Signal::SIGKILL);
    }
    for process in processes {
        // ECHILD: somebody else has reaped it, such as the kernel at the end of a PID namespace.
        let _ = waitpid(Pid::from_raw(process.pid), None);
    }
}

/// Kills all our descendants but these. A killed supervisor may make a watcher start something: until none is left.
pub fn kill_descendants(spared: &[i32]) {
    for _ in 0..10 {
        let mut found = descendants().unwrap_or_default();
        found.retain(|process| !spared.contains(&process.pid));
        if found.is_empty() {
            return;
        }
        for process in found {
            // It may have ended by itself.
            let _ = kill(Pid::from_raw(process.pid), Signal::SIGKILL);
        }
        reap_strays();
    }
}

/// How many living processes of that name a user has.
pub fn count(name: &str, uid: u32) -> Result<usize> {
    let is_theirs = |process: &&Process| {
        process.name == name
            && fs::metadata(format!("/proc/{}", process.pid)).is_ok_and(|meta| meta.uid() == uid)
    };
    Ok(all()?.iter().filter(is_theirs).count())
}

/// The memory of a process in KiB.
#[derive(Debug, Clone, Copy, Default)]
pub struct Memory {
    /// Its proportional share, of files as well.
    pub pss: f64,
    /// Its proportional share of anonymous memory.
    pub anonymous: f64,
}

/// Reads `smaps_rollup`.
pub fn memory(pid: i32) -> Result<Memory> {
    let file = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&file).map_err(|why| format!("{file}: {why}"))?;
    let field = |name| kib(&text, name).ok_or_else(|| format!("no {name} in smaps_rollup of {pid}"));
    Ok(Memory {
        pss: field("Pss:")?,
        anonymous: field("Pss_Anon:")?,
    })
}

/// What the kernel itself uses for processes and cgroups, of the whole host, in KiB.
pub fn kernel_memory() -> Result<f64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    Ok(["Slab:", "KernelStack:", "PageTables:", "Percpu:"]
        .iter()
        .filter_map(|name| kib(&text, name))
        .sum())
}

fn kib(text: &str, name: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

/// Voluntary context switches of a process: it stands still where it makes no system call.
pub fn switches(pid: i32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let field = |name| text.lines().find_map(|line: &str| line.strip_prefix(name));
    let count = field("voluntary_ctxt_switches:").ok_or("no voluntary_ctxt_switches in status")?;
    Ok(count.trim().parse()?)
}

/// Seconds of processor time that a process of one thread has used, to the nanosecond.
pub fn processor_time(pid: i32) -> Result<f64> {
    let file = format!("/proc/{pid}/schedstat");
    let text = fs::read_to_string(&file).map_err(|why| format!("{file}: {why}"))?;
    let first = text.split(' ').next().unwrap_or_default();
    Ok(first.parse::<f64>()? / 1e9)
}

/// Reaps orphans that came to us. Only where no child is waited for by anyone else.
pub fn reap_strays() {
    let is_one = |status| !matches!(status, Ok(WaitStatus::StillAlive) | Err(_));
    while is_one(waitpid(None, Some(WaitPidFlag::WNOHANG))) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_look_like_the_rest_of_the_line() {
        let process = parse(7, "7 () R 1 1 () S 42 7 7 0 -1").expect("alive");
        assert_eq!((process.name.as_str(), process.parent), (") R 1 1 (", 42));
        assert!(parse(8, "8 (gone) Z 42 8 8 0 -1").is_none());
    }

    #[test]
    fn our_own_memory_is_told() {
        let memory = memory(std::process::id().cast_signed()).expect("ours");
        assert!(memory.pss > memory.anonymous && memory.anonymous > 0.0);
    }
}
