//! Everything about control groups, and the only writer below the cgroup mount.
//!
//! A **cage** is a cgroup directory of its own for a job, made before its first process. Each **step** runs in a fresh
//! **leaf** of the cage, since kernels of 2025 and 2026 kill what is born in a cgroup that was ever killed as a whole.
//! [`empty`] is the heart: freeze, look, kill, and wait until the kernel itself says `populated 0`.
//!
//! Features are found by what the kernel answers (a missing file, an errno), never by its version.

mod cage;
mod census;
mod counters;
mod dir;
mod empty;
mod error;
mod escape;
mod events;
mod kmsg;
mod kvm;
mod limits;
mod mount;
mod root;
mod selftest;
mod signal;
mod spare;
mod systemd;

pub use cage::{Cage, Leaf};
pub use census::{Process, describe, process_start};
pub use counters::{oom_kills, usage};
pub use dir::Dir;
pub use empty::{Emptied, Patience, empty, empty_seen, remove};
pub use error::{CageError, Result};
pub use escape::{Fence, carriers, descendants};
pub use events::{Events, EventsFile};
pub use kmsg::{Victim, oom_victims};
pub use limits::{apply, available, enable, read_back, resolve_device};
pub use mount::{Mount, cgroup_of, mount_points, own_cgroup};
pub use root::{Found, HOLD, Kind, Search, find, host_scope, is_in_slurm_step, own_place};
pub use selftest::{SelfTest, selftest};
pub use signal::{count, listed, signal_all};
pub use spare::spare;
pub use systemd::{Bus, is_in_delegated_unit, start_scope};
