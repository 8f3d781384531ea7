//! Jobs that survive everyone who watches them: detached jobs, their logs and records, and the change of hands.

#[path = "../support/mod.rs"]
mod support;

#[path = "../terminal/pty.rs"]
#[expect(dead_code, reason = "the terminal's own tests use the rest")]
mod pty;

mod builds;
mod endings;
mod follow;
mod hands;
mod large;
mod output;
mod refusals;
mod stage;
mod start;
mod users;
