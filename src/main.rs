//! `jobcage`: runs a command so that nothing of it outlives it.

mod cli;
mod verbs;

fn main() {}
