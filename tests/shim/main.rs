//! The shim, under a stand-in for a GitLab Runner with `executor = "shell"`: what such a runner leaves behind without it, that
//! nothing is left with it, and that it touches nothing else.

#[path = "../support/mod.rs"]
mod support;

mod ends;
mod leaks;
mod open;
mod runner;
mod stages;
mod untouched;
