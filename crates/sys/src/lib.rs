//! The only room with `unsafe`: system calls that neither std nor nix wraps, each wrapped once.
//!
//! Everything here does what its name says and nothing more; whoever calls decides. Errors are [`Errno`], since
//! every caller has to tell `ENOSYS` from `EACCES`.

pub mod clock;
pub mod environ;
pub mod file;
pub mod landlock;
pub mod listing;
pub mod lock;
pub mod memory;
pub mod pidfd;
mod raw;
pub mod seccomp;
pub mod signal;
pub mod socket;
pub mod spawn;
pub mod sweep;
pub mod wait;

pub use nix::errno::Errno;
/// `Result` with the kernel's own word for the failure.
pub type Result<T> = std::result::Result<T, Errno>;
