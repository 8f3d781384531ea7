//! What is written down of jobs: one directory a job, whose files are the interface (`docs/state-on-disk.md`).
//!
//! `report.json` present → the job is over. `lock` held → somebody looks after it, and the kernel says who. Neither → an
//! orphan, which `gc` closes; but a job of `jobcage create` is open without a lock.

mod dirs;
mod error;
pub mod handed;
pub mod log;
mod record;
mod removal;
mod reserve;
mod steps;
mod version;
mod wishes;

pub use dirs::Places;
pub use error::{LedgerError, Result};
pub use record::{Attended, Lock, Record, State, boot_id, open_base};
pub use steps::EndFile;
