//! Controllers and limits: enabled, written, and read back, because a limit counts only as far as the kernel has it.

use crate::dir::Dir;
use crate::error::{CageError, Result};
use crate::signal::Lister;
use jobcage_job::{Controller, EnforcedLimit, Limit, Limits};
use jobcage_sys::Errno;
use std::collections::BTreeMap;
use std::path::Path;

/// The controllers that a cgroup could give to its children.
#[must_use]
pub fn available(dir: &Dir) -> Vec<String> {
    dir.read("cgroup.controllers")
        .unwrap_or_default()
        .split_ascii_whitespace()
        .map(str::to_owned)
        .collect()
}

/// Enables controllers for the children of a cgroup. Those that are enabled already cost nothing.
///
/// # Errors
/// The first controller that cannot be enabled, with the reason.
pub fn enable(dir: &Dir, controllers: &[Controller]) -> Result<()> {
    let enabled = dir.read("cgroup.subtree_control").unwrap_or_default();
    for controller in controllers
        .iter()
        .filter(|c| !enabled.split_ascii_whitespace().any(|e| e == c.name()))
    {
        let name = controller.name();
        dir.write("cgroup.subtree_control", &format!("+{name}")).map_err(|errno| CageError::Io {
            what: format!("enable the controller {name:?}{}", beside(dir, errno)),
            path: dir.path().into(),
            errno,
            hint: match errno {
                Errno::ENOENT | Errno::EINVAL => {
                    " (the controller is not delegated to this cgroup, or bound to cgroup v1; run \"jobcage doctor\")"
                }
                Errno::EBUSY => " (processes are in this very cgroup; start jobcage from a cgroup of its own)",
                _ => " (run \"jobcage doctor\")",
            },
        })?;
    }
    Ok(())
}

/// Who is in the way, where it is somebody: the first few.
fn beside(dir: &Dir, errno: Errno) -> String {
    let pids = match errno {
        Errno::EBUSY => Lister::of(dir).pids(dir).unwrap_or_default(),
        _ => Vec::new(),
    };
    let name = |pid: &i32| {
        let process = crate::census::Process::read(*pid);
        let name = crate::census::escape(process.map_or_else(String::new, |p| p.comm).as_bytes(), 15);
        format!("pid {pid} ({name})")
    };
    let names: Vec<String> = pids.iter().take(3).map(name).collect();
    if names.is_empty() {
        String::new()
    } else {
        format!(" beside {}", names.join(", "))
    }
}

/// Sets limits on a cgroup whose controllers are enabled, and reads each back.
///
/// # Errors
/// With `best_effort` none: what could not be set stands in the result with its reason. Otherwise the first limit that
/// the kernel refused or did not take over.
pub fn apply(dir: &Dir, limits: &Limits, best_effort: bool) -> Result<BTreeMap<String, EnforcedLimit>> {
    let mut result = BTreeMap::new();
    for limit in limits.writes() {
        let key = key(&limit);
        let entry = match set(dir, &limit) {
            Ok(enforced) => EnforcedLimit {
                asked: limit.value,
                enforced: Some(enforced),
                error: None,
            },
            Err(why) if best_effort => EnforcedLimit {
                asked: limit.value,
                enforced: None,
                error: Some(why),
            },
            Err(why) => {
                let (path, file) = (dir.path().into(), limit.file.into());
                return Err(CageError::Limit {
                    path,
                    file,
                    value: limit.value,
                    why,
                });
            }
        };
        result.insert(key, entry);
    }
    Ok(result)
}

/// Reads limits that somebody else has set: for whoever closes a job that he did not start. What does not hold is told in
/// the result.
#[must_use]
pub fn read_back(dir: &Dir, limits: &Limits) -> BTreeMap<String, EnforcedLimit> {
    let entry = |limit: Limit| {
        let seen = resolved(&limit).and_then(|value| confirm(dir, &limit, &value));
        let (enforced, error) = match seen {
            Ok(enforced) => (Some(enforced), None),
            Err(why) => (None, Some(why)),
        };
        (
            key(&limit),
            EnforcedLimit {
                asked: limit.value,
                enforced,
                error,
            },
        )
    };
    limits.writes().into_iter().map(entry).collect()
}

/// Its key in the report.
fn key(limit: &Limit) -> String {
    match limit.file {
        "io.max" => format!("io.max {}", limit.value.split(' ').next().unwrap_or_default()),
        file => file.to_owned(),
    }
}

/// What to write for a limit.
fn resolved(limit: &Limit) -> std::result::Result<String, String> {
    match limit.file {
        "io.max" => resolve_io(&limit.value),
        _ => Ok(limit.value.clone()),
    }
}

/// Writes one limit and returns what the kernel made of it.
fn set(dir: &Dir, limit: &Limit) -> std::result::Result<String, String> {
    let value = resolved(limit)?;
    dir.write(limit.file, &value).map_err(|errno| match errno {
        Errno::ENOENT => format!(
            "the controller {:?} is not available here",
            limit.controller.name()
        ),
        Errno::ENODEV => "no such block device".to_owned(),
        Errno::ERANGE if limit.file == "cpuset.cpus" => "this host has no such processor".to_owned(),
        errno => errno.desc().to_owned(),
    })?;
    confirm(dir, limit, &value)
}

/// What the kernel says of a limit, if that is what was written.
fn confirm(dir: &Dir, limit: &Limit, value: &str) -> std::result::Result<String, String> {
    let text = dir
        .read(limit.file)
        .map_err(|errno| format!("cannot read it back: {}", errno.desc()))?;
    let enforced = match limit.file {
        "io.max" => text
            .lines()
            .find(|l| l.split(' ').next() == value.split(' ').next())
            .unwrap_or("")
            .to_owned(),
        _ => text.trim().to_owned(),
    };
    if holds(limit.file, value, &enforced) {
        Ok(enforced)
    } else {
        Err(format!("the kernel took it, but says {enforced:?}"))
    }
}

/// Whether what the kernel says is what was asked for. Memory limits are rounded down to a page; a cpuset may be written
/// in another form; io.max adds the rates that were not asked for.
fn holds(file: &str, asked: &str, enforced: &str) -> bool {
    const LARGEST_PAGE: u64 = 64 * 1024;
    match file {
        "cpuset.cpus" => cpu_list(asked) == cpu_list(enforced),
        "io.max" => asked
            .split(' ')
            .all(|word| enforced.split(' ').any(|e| e == word)),
        "memory.max" | "memory.high" | "memory.swap.max" => {
            match (asked.parse::<u64>(), enforced.parse::<u64>()) {
                (Ok(asked), Ok(enforced)) => enforced <= asked && asked - enforced < LARGEST_PAGE,
                // Larger than the machine can address.
                (Ok(asked), Err(_)) => enforced == "max" && asked > u64::MAX >> 13,
                _ => false,
            }
        }
        _ => asked == enforced,
    }
}

/// The processors of a list like `0-3,6`; `None` where it is none.
fn cpu_list(text: &str) -> Option<Vec<u32>> {
    let mut cpus = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        if last < first || last > 1 << 16 {
            return None;
        }
        cpus.extend(first..=last);
    }
    cpus.sort_unstable();
    cpus.dedup();
    Some(cpus)
}

fn resolve_io(value: &str) -> std::result::Result<String, String> {
    let (device, rates) = value.split_once(' ').unwrap_or((value, ""));
    Ok(format!("{} {rates}", resolve_device(device)?))
}

/// The `major:minor` of a block device: of the number itself, of a device file, or of the device that a file or directory
/// lies on. A partition counts for its whole disk where the kernel says which.
///
/// # Errors
/// A sentence with the reason.
pub fn resolve_device(device: &str) -> std::result::Result<String, String> {
    use nix::sys::stat::{SFlag, major, minor, stat};
    let numeric = |text: &str| {
        text.split_once(':')
            .is_some_and(|(a, b)| [a, b].iter().all(|n| n.parse::<u32>().is_ok()))
    };
    if numeric(device) {
        return Ok(device.to_owned());
    }
    let stat = stat(Path::new(device)).map_err(|errno| format!("{device:?}: {}", errno.desc()))?;
    let is_block = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFBLK;
    let number = if is_block { stat.st_rdev } else { stat.st_dev };
    let own = format!("{}:{}", major(number), minor(number));
    // /sys/dev/block/MAJ:MIN is a link into the device tree; a partition's parent there is its disk.
    let partition = format!("/sys/dev/block/{own}/partition");
    if Path::new(&partition).exists() {
        let disk = format!("/sys/dev/block/{own}/../dev");
        return std::fs::read_to_string(&disk)
            .map(|t| t.trim().to_owned())
            .map_err(|e| format!("{disk}: {e}"));
    }
    Ok(own)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn tells_a_rounded_limit_from_a_refused_one() {
        assert!(holds("memory.max", "100000000", "99999744"));
        assert!(!holds("memory.max", "100000000", "max"));
        assert!(!holds("memory.max", "100000000", "200000000"));
        assert!(holds("cpuset.cpus", "0,1,2", "0-2"));
        assert!(!holds("cpuset.cpus", "0,1,2", "0-1"));
        assert!(holds(
            "io.max",
            "8:0 rbps=5",
            "8:0 rbps=5 wbps=max riops=max wiops=max"
        ));
        assert!(!holds("io.max", "8:0 rbps=5", ""));
        assert!(holds("pids.max", "5", "5"));
    }

    proptest! {
        #[test]
        fn no_text_panics(file in "(cpuset.cpus|io.max|memory.max|pids.max)", a in ".{0,20}", b in ".{0,20}") {
            let _ = holds(&file, &a, &b);
        }
    }
}
