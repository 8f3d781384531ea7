//! The logs of captured jobs, both ends, on the file systems that records are on.

mod killed;
mod support;
mod writer;
