//! What a cage used, in the kernel's own numbers. A file that is not there gives no value.

use crate::dir::Dir;
use jobcage_job::{Stall, Usage};
use std::collections::BTreeMap;

/// Reads all counters of a cgroup.
#[must_use]
pub fn usage(dir: &Dir) -> Usage {
    let cpu = dir.read("cpu.stat").unwrap_or_default();
    let number = |file: &str| dir.read(file).ok().and_then(|text| text.trim().parse().ok());
    let io = dir.read("io.stat").ok();
    let io_sum = |key: &str| io.as_deref().map(|text| sum(text, key));
    Usage {
        cpu_us: value(&cpu, "usage_usec"),
        user_us: value(&cpu, "user_usec"),
        system_us: value(&cpu, "system_usec"),
        throttled_us: value(&cpu, "throttled_usec"),
        memory_peak: number("memory.peak"),
        swap_peak: number("memory.swap.peak"),
        oom_kills: oom_kills(dir),
        pids_peak: number("pids.peak"),
        forks_refused: dir.read("pids.events").ok().and_then(|text| value(&text, "max")),
        io_read: io_sum("rbytes"),
        io_written: io_sum("wbytes"),
        stalled: stalls(dir),
    }
}

/// How many processes in the cgroup and below it the kernel killed for memory.
#[must_use]
pub fn oom_kills(dir: &Dir) -> Option<u64> {
    dir.read("memory.events")
        .ok()
        .and_then(|text| value(&text, "oom_kill"))
}

/// The value of a key in a flat-keyed file.
fn value(text: &str, key: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

/// The sum of `key=value` over all devices of `io.stat`. Lines may hold further keys, or none at all.
fn sum(text: &str, key: &str) -> u64 {
    text.split_ascii_whitespace()
        .filter_map(|pair| pair.strip_prefix(key)?.strip_prefix('=')?.parse::<u64>().ok())
        .fold(0, u64::saturating_add)
}

fn stalls(dir: &Dir) -> BTreeMap<String, Stall> {
    let one = |resource: &str| {
        // EOPNOTSUPP where PSI is compiled in but off.
        let text = dir.read(&format!("{resource}.pressure")).ok()?;
        let total = |kind: &str| {
            let line = text.lines().find(|line| line.starts_with(kind))?;
            line.rsplit_once("total=")?.1.trim().parse().ok()
        };
        Some((
            resource.to_owned(),
            Stall {
                some_us: total("some")?,
                full_us: total("full"),
            },
        ))
    };
    ["cpu", "io", "memory"].into_iter().filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_the_kernels_formats() {
        assert_eq!(value("usage_usec 12\nuser_usec 7\n", "user_usec"), Some(7));
        assert_eq!(value("max 3\nmax_usage 9\n", "max"), Some(3));
        assert_eq!(
            sum(
                "8:0 rbytes=10 wbytes=2\n253:0 \n8:16 rbytes=5 cost.usage=1\n",
                "rbytes"
            ),
            15
        );
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".{0,200}") {
            let _ = (value(&text, "max"), sum(&text, "rbytes"));
        }
    }
}
