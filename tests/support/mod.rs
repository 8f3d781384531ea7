//! What the integration tests share: a small world of its own for each test (a directory, a cgroup root, runtime
//! and state directories), `jobcage` in it, and the proof that nothing of it is left.
//!
//! A test binary may be carried to another machine: it takes `jobcage` from `JOBCAGE_BIN` and the animals from
//! `JOBCAGE_ZOO`, and builds or finds them itself only where these are not set.

#![allow(dead_code, reason = "each test binary uses its own part")]

pub mod call;
pub mod captured;
pub mod cgroup;
pub mod commit;
pub mod job;
pub mod leaks;
pub mod needs;
pub mod process;
pub mod programs;
pub mod seed;
pub mod world;

use std::io::Write as _;
use std::time::{Duration, Instant};

/// Says a line that is seen though libtest keeps the output of tests that pass.
pub fn say(line: &str) {
    let mut err = std::io::stderr().lock();
    // A test does not fail because nobody listens.
    let _ = writeln!(err, "{line}");
}

/// How long a test waits for what must happen. Generous, as the machine may be slow (a VM without KVM).
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The time left until `end`, in the form that poll(2) takes, rounded up.
pub fn left(end: Instant) -> nix::poll::PollTimeout {
    let ms = end
        .saturating_duration_since(Instant::now())
        .as_micros()
        .div_ceil(1000);
    nix::poll::PollTimeout::try_from(ms).unwrap_or(nix::poll::PollTimeout::MAX)
}
