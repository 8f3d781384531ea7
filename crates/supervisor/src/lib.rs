//! Looking after a job: its clocks, its end, and whoever looks after it when we are gone.
//!
//! [`machine`] decides and does no I/O; [`foreground`] fetches events and carries out actions; [`closing`] is the one
//! way out, used by it, by `cleanup` and by `gc`; [`watcher`] starts `gc` when a supervisor dies.

pub mod agent;
pub mod asking;
mod beside;
mod capture;
pub mod closing;
mod error;
pub mod foreground;
pub mod gc;
pub mod hand;
pub mod host;
mod job;
mod journal;
pub mod keeper;
pub mod kept;
mod leaving;
pub mod left_guests;
pub mod machine;
mod package;
pub mod prune;
mod quiet;
mod remotes;
pub mod session;
pub mod sessions;
mod signals;
mod sockets;
mod step;
mod unheard;
pub mod watcher;
mod wish;
mod witness;

pub use jobcage_guests::{
    REMOTES_TRY, RemoteFate, beside, is_here as guest_is_here, is_of_the_cage as guest_is_of_the_cage,
    look as look_at_guests, modes as guest_modes, usual as usual_guests,
};

pub use error::{Failure, Result};
pub use job::{After, Command, GuestHome, Host, Job, Known, Outcome, Target, candidates};
