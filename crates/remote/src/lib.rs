//! Jobs on another host, over the user's own ssh. One connection carries everything: frames, in both directions, between a client and the
//! jobcage that it starts there. The job itself needs neither; a line that breaks is made anew, and output goes on at the byte where it stopped.
//!
//! ```text
//! client ── ssh HOST ── jobcage __remote ──reads── record of the job ◄── supervisor (captured job, as after run --detach)
//! ```

mod buffer;
mod cache;
mod call;
mod course;
mod door;
mod error;
mod files;
mod frame;
mod line;
mod link;
mod pace;
mod serve;
mod spool;
mod wait;

pub use call::{Ended, From, Lost, Options, Outcome, Wanted, What};
pub use course::{Course, Ends};
pub use door::{BUILD, Binary};
pub use error::RemoteError;
pub use files::{FilesError, pack, unpack};
pub use frame::{PROTOCOL, PROTOCOLS, Start};
pub use line::Client;
pub use serve::{Host, serve};
pub use spool::spool;
