//! What a stage has lost to the kernel for memory: the shell may well go on, and nobody would know why its command died.

use super::cage::say;
use crate::render::harmless;
use jobcage_cage::{Cage, oom_kills, oom_victims, usage};
use jobcage_job::{JobSpec, format_bytes};

/// The kills before a stage.
pub struct Memory(Option<Cage>, u64);

impl Memory {
    /// Before a stage of this job.
    #[must_use]
    pub fn before(spec: &JobSpec) -> Self {
        // Without a limit of its own the job is not to blame.
        let limited = spec.limits.memory.is_some();
        let open = || Cage::open(spec.cage.as_ref(), spec.limited).ok().flatten();
        let cage = limited.then(open).flatten();
        let kills = cage.as_ref().and_then(|cage| oom_kills(cage.dir()));
        Self(cage, kills.unwrap_or(0))
    }

    /// Tells of those that came since.
    pub fn tell(&self, spec: &JobSpec) {
        let Self(Some(cage), before) = self else { return };
        let kills = oom_kills(cage.dir()).unwrap_or(0).saturating_sub(*before);
        if kills == 0 {
            return;
        }
        let peak = usage(cage.limits().unwrap_or(cage.dir())).memory_peak;
        say(&line(spec, kills, peak, &names(spec, kills)));
    }
}

/// The last ones of the kernel's log, which also holds those of earlier stages.
fn names(spec: &JobSpec, kills: u64) -> Vec<String> {
    let victims = oom_victims(&spec.id);
    let earlier = victims
        .len()
        .saturating_sub(usize::try_from(kills).unwrap_or(usize::MAX));
    let last = victims.iter().skip(earlier).take(5);
    last.map(|victim| format!("{} (pid {})", harmless(&victim.name), victim.pid))
        .collect()
}

fn line(spec: &JobSpec, kills: u64, peak: Option<u64>, names: &[String]) -> String {
    let noun = if kills == 1 { "process" } else { "processes" };
    let who = if names.is_empty() {
        String::new()
    } else {
        format!(": {}", names.join(", "))
    };
    let limit = spec.limits.memory.map_or_else(String::new, |limit| {
        format!("; the job's limit is {}", format_bytes(limit))
    });
    let peak = peak.map_or_else(String::new, |peak| format!(", its peak {}", format_bytes(peak)));
    format!("out of memory: the kernel killed {kills} {noun} of this stage{who}{limit}{peak}")
}
