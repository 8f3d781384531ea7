//! The cage of one job and the leaves of its steps.
//!
//! ```text
//! <root>/<job>/NN-step         a step of a job without limits
//! <root>/<job>/steps/NN-step   a step of a job with limits, which stand on steps/
//! <root>/<job>/after/NN-after  the after phase, outside of the job's limits
//! <root>/<job>/exec-NN         a command of `jobcage exec`; below steps/ where that is
//! <root>/<job>/kept            agents that the job has started, spared until the cage is killed
//! <root>/<job>/kept/agent      the job's ssh-agent that jobcage has started (`--ssh-agent`)
//! ```

use crate::dir::Dir;
use crate::empty::remove;
use crate::error::{CageError, Result};
use jobcage_job::{JobId, StepKind};
use jobcage_sys::Errno;
use std::ffi::OsString;
use std::path::Path;

/// A job's cgroup.
#[derive(Debug)]
pub struct Cage {
    parent: Dir,
    dir: Dir,
    name: OsString,
    steps: Option<Dir>,
    leaves: Vec<(bool, String)>,
}

/// The cgroup of one step.
#[derive(Debug)]
pub struct Leaf {
    /// Its number, from 1, over all steps of its kind.
    pub number: u32,
    /// The directory.
    pub dir: Dir,
}

const STEPS: &str = "steps";
const AFTER: &str = "after";
const EXEC: &str = "exec-";
const KEPT: &str = "kept";
const AGENT: &str = "agent";

/// Makes a leaf whose name is not in use. The mkdir itself decides who has the number: two clients may start a step at the
/// same time.
fn fresh(place: &Dir, name: impl Fn(u32) -> String) -> Result<(Leaf, String)> {
    let mut number = first_free(|number| place.has_child(&name(number)));
    loop {
        let name = name(number);
        match place.create(&name) {
            Ok(dir) => return Ok((Leaf { number, dir }, name)),
            Err(error) if error.errno() == Some(Errno::EEXIST) => number += 1,
            Err(error) => return Err(error),
        }
    }
}

/// A free number right behind a taken one, or 1: the first one where numbers are given in order. In some steps, since a job may have had thousands.
fn first_free(is_taken: impl Fn(u32) -> bool) -> u32 {
    let (mut taken, mut free) = (0, 1_u32);
    while is_taken(free) {
        taken = free;
        free = free.saturating_mul(2);
    }
    while free - taken > 1 {
        let middle = taken.midpoint(free);
        if is_taken(middle) {
            taken = middle;
        } else {
            free = middle;
        }
    }
    free
}

impl Cage {
    /// Below the cage: where those are that jobcage itself has started in it. They are nothing that a job leaves behind.
    pub const OURS: &str = "kept/agent";

    /// Makes the cage of a job, which must not exist. `limited`: with a `steps/` to carry limits.
    ///
    /// # Errors
    /// As mkdir(2); `EEXIST` if the id is in use.
    pub fn create(root: Dir, id: &JobId, limited: bool) -> Result<Self> {
        let dir = root.create(id.as_str())?;
        let steps = if limited { Some(dir.create(STEPS)?) } else { None };
        Ok(Self {
            parent: root,
            dir,
            name: id.as_str().into(),
            steps,
            leaves: Vec::new(),
        })
    }

    /// Opens a cage by its path. `None`: it is gone.
    ///
    /// # Errors
    /// As openat(2), without `ENOENT`.
    pub fn open(path: &Path, limited: bool) -> Result<Option<Self>> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(CageError::NoRoot(format!(
                "{} is no path of a cage",
                path.display()
            )));
        };
        let gone = |error: &CageError| error.errno() == Some(Errno::ENOENT);
        let parent = match Dir::open(parent) {
            Err(error) if gone(&error) => return Ok(None),
            other => other?,
        };
        let dir = match parent.child(name) {
            Err(error) if gone(&error) => return Ok(None),
            other => other?,
        };
        // Not there after a crash between the two mkdirs; whoever only wants to empty and remove it does not need it.
        let steps = limited.then(|| dir.child(STEPS).ok()).flatten();
        Ok(Some(Self {
            parent,
            dir,
            name: name.into(),
            steps,
            leaves: Vec::new(),
        }))
    }

    /// Makes the fresh leaf of a step: never one that was there before, since it may have been killed as a whole.
    ///
    /// # Errors
    /// As mkdir(2).
    pub fn leaf(&mut self, kind: StepKind) -> Result<Leaf> {
        let after;
        let (place, below_after) = match (kind, &self.steps) {
            (StepKind::After, _) => {
                after = self.dir.create_or_open(AFTER)?;
                (&after, true)
            }
            (StepKind::Step, Some(steps)) => (steps, false),
            (StepKind::Step, None) => (&self.dir, false),
        };
        let word = if kind == StepKind::After { "after" } else { "step" };
        let (leaf, name) = fresh(place, |number| format!("{number:02}-{word}"))?;
        self.leaves.push((below_after, name));
        Ok(leaf)
    }

    /// Makes the fresh leaf of a further command beside the steps: under the limits of the job, and with numbers of its own.
    ///
    /// # Errors
    /// As mkdir(2).
    pub fn exec_leaf(&self) -> Result<Leaf> {
        fresh(self.steps(), |number| format!("{EXEC}{number:02}")).map(|(leaf, _)| leaf)
    }

    /// Removes the leaf of a further command, if nothing is in it any more.
    pub fn remove_exec_leaf(&self, leaf: &Leaf) {
        // What it has left keeps it, and goes with the cage.
        let _ = self.steps().remove_child(format!("{EXEC}{:02}", leaf.number));
    }

    /// The leaves of further commands that there are now.
    ///
    /// # Errors
    /// As getdents64(2) and openat(2).
    pub fn exec_leaves(&self) -> Result<Vec<Dir>> {
        self.leaves_named(|name| name.starts_with(EXEC))
    }

    /// The leaves of steps that there are now.
    ///
    /// # Errors
    /// As getdents64(2) and openat(2).
    pub fn step_leaves(&self) -> Result<Vec<Dir>> {
        self.leaves_named(|name| name.ends_with("-step"))
    }

    fn leaves_named(&self, wanted: impl Fn(&str) -> bool) -> Result<Vec<Dir>> {
        let steps = self.steps();
        let io = |errno| CageError::io("list the leaves", steps.path(), errno);
        let mut found = Vec::new();
        for name in steps.children().map_err(io)? {
            if !name.to_str().is_some_and(&wanted) {
                continue;
            }
            match steps.child(&name) {
                Ok(dir) => found.push(dir),
                // It is gone since.
                Err(error) if error.errno() == Some(Errno::ENOENT) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    /// What all leaves of steps are in.
    #[must_use]
    pub fn steps(&self) -> &Dir {
        self.steps.as_ref().unwrap_or(&self.dir)
    }

    /// The leaf of a step that another process of ours has made. `None`: it is gone.
    ///
    /// # Errors
    /// As openat(2), without `ENOENT`.
    pub fn find_leaf(&self, number: u32) -> Result<Option<Dir>> {
        let place = self.steps.as_ref().unwrap_or(&self.dir);
        match place.child(format!("{number:02}-step")) {
            Ok(leaf) => Ok(Some(leaf)),
            Err(error) if error.errno() == Some(Errno::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The leaf of spared agents, outside of the steps and of the job's limits: killed with the cage and not before.
    ///
    /// # Errors
    /// As mkdir(2).
    pub fn kept(&self) -> Result<Dir> {
        self.dir.create_or_open(KEPT)
    }

    /// The leaf of the job's own ssh-agent.
    ///
    /// # Errors
    /// As mkdir(2).
    pub fn agent_leaf(&self) -> Result<Dir> {
        self.kept()?.create_or_open(AGENT)
    }

    /// The cage's own cgroup.
    #[must_use]
    pub fn dir(&self) -> &Dir {
        &self.dir
    }

    /// Where the limits stand.
    #[must_use]
    pub fn limits(&self) -> Option<&Dir> {
        self.steps.as_ref()
    }

    /// Removes the cage, which must be empty: the known leaves directly, whatever else there is after them.
    ///
    /// # Errors
    /// `EBUSY` if something lives in it.
    pub fn remove(&self) -> Result<()> {
        for (_, leaf) in self.leaves.iter().filter(|(after, _)| !after) {
            // A nested cgroup of the job's making keeps it busy: the walk below takes both.
            let _ = self.steps.as_ref().unwrap_or(&self.dir).remove_child(leaf);
        }
        remove(&self.parent, &self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::cell::Cell;

    proptest! {
        #[test]
        fn numbers_in_order_are_gone_on_with(taken in 0..1_000_000_u32) {
            let looks = Cell::new(0);
            let first = first_free(|number| {
                looks.set(looks.get() + 1);
                number <= taken
            });
            prop_assert_eq!(first, taken + 1);
            prop_assert!(looks.get() <= 42, "{} looks", looks.get());
        }

        #[test]
        fn a_free_number_is_found_whatever_is_taken(taken in prop::collection::btree_set(1..200_u32, 0..150)) {
            let first = first_free(|number| taken.contains(&number));
            prop_assert!(!taken.contains(&first) && (first == 1 || taken.contains(&(first - 1))));
        }
    }
}
