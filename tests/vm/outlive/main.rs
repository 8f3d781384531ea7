//! What a job outlives, and what it ends with, on a whole system: the ssh connection and the service that it was started
//! from, and those who look after it. For the test VM, where there are an ssh server, systemd and kernels of other years.

#[path = "../../support/mod.rs"]
mod support;

// The change of hands on these kernels, too: not each of them can tell the status of somebody else's child.
#[path = "../../durable/hands.rs"]
mod hands;
#[path = "../../durable/stage.rs"]
mod stage;

#[path = "../../gitlab/runner.rs"]
#[allow(dead_code, reason = "most of it is for other tests")]
mod runner;

// A line between two hosts, which these kernels can make bad.
#[path = "../../remote/cable.rs"]
mod cable;
#[path = "../../remote/door.rs"]
#[allow(dead_code, reason = "it is for other tests")]
mod door;
#[path = "../../remote/rig.rs"]
#[allow(dead_code, reason = "most of it is for other tests")]
mod rig;

mod lossy;
mod memory;
mod service;
mod ssh;
