//! Whom the kernel has killed for memory, in its own log (Documentation/ABI/testing/dev-kmsg): the counters of a cgroup tell
//! only how many.

use jobcage_job::JobId;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::unistd::read;

/// A process that the kernel has killed for memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Victim {
    /// Its pid, as the host has it.
    pub pid: i32,
    /// Its name, which it may have given itself.
    pub name: String,
}

/// Those of a job, the first one first. None where the log cannot be read, or is so full that they are no longer in it.
#[must_use]
pub fn oom_victims(id: &JobId) -> Vec<Victim> {
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let Ok(log) = open("/dev/kmsg", flags, Mode::empty()) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    let mut record = [0; 8192];
    // The log is bounded; it may grow while it is read.
    const MOST: usize = 100_000;
    for _ in 0..MOST {
        match read(&log, &mut record) {
            Ok(0) | Err(Errno::EAGAIN) => break,
            Ok(n) => found.extend(victim(&record[..n], id)),
            // Overwritten under us: it goes on with what is the oldest now.
            Err(Errno::EPIPE | Errno::EINTR) => {}
            Err(_) => break,
        }
    }
    found
}

/// Reads one record: `oom-kill:constraint=CONSTRAINT_MEMCG,…,task_memcg=/a/b,task=NAME,pid=7,uid=0`.
fn victim(record: &[u8], id: &JobId) -> Option<Victim> {
    let text = String::from_utf8_lossy(record);
    let (_, message) = text.split_once(';')?;
    let facts = message.lines().next()?.strip_prefix("oom-kill:")?;
    let (_, of_task) = facts.split_once(",task_memcg=")?;
    let (place, task) = of_task.split_once(",task=")?;
    // The name may hold anything, and the numbers behind it may not.
    let (name, numbers) = task.rsplit_once(",pid=")?;
    let is_its = place.split('/').any(|part| part == id.as_str());
    let pid = numbers.split(',').next()?.parse().ok()?;
    is_its.then(|| Victim {
        pid,
        name: name.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id() -> JobId {
        "gitlab-7-abcdefgh".parse().unwrap()
    }

    #[test]
    fn the_kernels_line_names_the_victim() {
        let line = |place: &str, task: &str| {
            format!(
                "6,339,5140900,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,\
                 oom_memcg=/x,task_memcg={place},task={task},pid=42,uid=0\n SUBSYSTEM=x\n"
            )
        };
        let found = |place: &str, task: &str| victim(line(place, task).as_bytes(), &id());
        let of = |name: &str| {
            Some(Victim {
                pid: 42,
                name: name.into(),
            })
        };
        assert_eq!(found("/root/gitlab-7-abcdefgh/steps/03-step", "cc1"), of("cc1"));
        assert_eq!(found("/gitlab-7-abcdefgh", "a,pid=1,b"), of("a,pid=1,b"));
        assert_eq!(found("/gitlab-7-abcdefghi/steps", "cc1"), None);
        assert_eq!(
            victim(b"6,1,1,-;Out of memory: Killed process 42 (cc1)\n", &id()),
            None
        );
    }

    proptest! {
        #[test]
        fn no_record_panics(record in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = victim(&record, &id());
            let _ = victim(&[b"6,1,1,-;oom-kill:".as_slice(), &record].concat(), &id());
        }
    }
}
