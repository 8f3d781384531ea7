//! `jobcage gitlab`: the driver, driven by a stand-in for GitLab Runner that was written from its contract.

#[path = "../support/mod.rs"]
mod support;

mod after;
mod calls;
mod ends;
mod faults;
mod install;
mod points;
mod runner;
mod settings;
mod stages;
