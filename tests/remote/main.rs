//! Jobs on another host, over real ssh and a real sshd: on this machine, behind a door of ours that can break each line at each byte, and in a
//! network namespace, behind a cable that goes down.

#[path = "../support/mod.rs"]
mod support;

mod agent;
mod broken;
mod cable;
mod cancel;
mod door;
mod endings;
mod files;
mod hosts;
mod many;
mod registered;
mod rig;
mod same;
mod space;
mod user;
mod verbs;
