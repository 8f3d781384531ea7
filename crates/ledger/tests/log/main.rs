//! The logs of captured jobs, both ends, on the file systems that records are on.

mod follower;
mod killed;
mod outlets;
mod reader;
mod support;
mod tail;
mod writer;
