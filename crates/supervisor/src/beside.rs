//! Commands of `jobcage exec`, as the supervisor of the job sees them that they run in.

use crate::error::Result;
use crate::witness::Seen;
use jobcage_cage::{Cage, Dir, Emptied, Patience, empty_seen};
use jobcage_job::{CensusMethod, FoundBy, Kill};

/// The commands beside a step are cut with it: the after phase shall not run beside old processes.
pub(crate) fn cut_beside(cage: &Cage, step: &mut Emptied, seen: Seen<'_>) -> Result<()> {
    cut_leaves(cage, &cage.exec_leaves()?, step, seen)
}

/// As [`cut_beside`], of these leaves.
pub(crate) fn cut_leaves<'d>(
    cage: &Cage,
    leaves: impl IntoIterator<Item = &'d Dir>,
    step: &mut Emptied,
    seen: Seen<'_>,
) -> Result<()> {
    for leaf in leaves {
        let cut = empty_seen(leaf, &Patience::default(), seen)?;
        add(cage, step, leaf, cut);
    }
    Ok(())
}

fn add(cage: &Cage, step: &mut Emptied, leaf: &Dir, mut cut: Emptied) {
    let name = leaf.path().strip_prefix(cage.dir().path());
    let name = name.unwrap_or(leaf.path()).display().to_string();
    for left in cut.census.left.iter_mut().chain(&mut cut.survivors) {
        if let FoundBy::Cgroup(place) = &mut left.found {
            *place = [name.as_str(), place.as_str()]
                .join("/")
                .trim_end_matches('/')
                .to_owned();
        }
    }
    if cut.census.count > 0 {
        let both_frozen =
            cut.census.method == CensusMethod::Frozen && step.census.method != CensusMethod::Running;
        step.census.method = if both_frozen {
            CensusMethod::Frozen
        } else {
            CensusMethod::Running
        };
    }
    step.census.count += cut.census.count;
    step.census.left.extend(cut.census.left);
    step.survivors.extend(cut.survivors);
    step.proof.stragglers += cut.proof.stragglers;
    if !step.proof.populated.unwrap_or(false) {
        step.proof.populated = cut.proof.populated.or(step.proof.populated);
    }
    if step.proof.kill == Kill::NotNeeded {
        step.proof.kill = cut.proof.kill;
    }
    step.proof.frozen_us = step.proof.frozen_us.max(cut.proof.frozen_us);
    step.proof.empty_us = step.proof.empty_us.max(cut.proof.empty_us);
}
