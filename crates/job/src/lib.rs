//! The nouns of jobcage: what a job is, what it may use, how it ended and what is reported of it.
//!
//! Data and serde only. Nothing here reads a file, asks a clock or makes a system call, so every rule in this
//! crate is tested by property tests without root.

mod ending;
mod guests;
pub mod handed;
mod id;
mod limits;
mod main_end;
mod remotes;
mod report;
mod spec;
mod stop;
mod units;

pub use ending::{CONNECTION_LOST, Cause, Clock, Ending, ExitStatus, NeverStarted};
pub use guests::{GuestMode, GuestPlace, GuestReport, Outcome};
pub use id::{IdError, JobId};
pub use limits::{Controller, CpuMax, IoLimit, Limit, Limits};
pub use main_end::{MainEnd, STATUS_VERSION};
pub use remotes::{MOST_REMOTES, RemoteJob, RemoteNote, open_remotes};
pub use report::{
    Census, CensusMethod, Death, EnforcedLimit, Escape, FoundBy, Guarantee, Kill, Left, LogGap, LogReport,
    Proof, Quarantine, REPORT_VERSION, Report, Root, Stall, StepReport, Stream, Usage,
};
pub use spec::{
    AFTER_VERSION, Account, AfterMark, AfterReboot, CaptureSpec, CreatedBy, JobSpec, LeaseHolder, LogFull,
    Login, SPEC_VERSION, StepKind, Streams,
};
pub use stop::{STOP_VERSION, StopRequest};
pub use units::{UnitError, format_bytes, format_duration, parse_duration, parse_size};
