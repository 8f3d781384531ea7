//! `jobcage run` as its user meets it: each option does what `docs/options.md` says of it, and the command behaves as
//! it would without jobcage.

#[path = "../support/mod.rs"]
mod support;

mod after;
mod agent;
mod capture;
mod endings;
mod environment;
mod guard;
mod identity;
mod places;
mod reports;
mod secrets;
mod spare;
mod stdio;
mod surroundings;
