//! The logs of captured jobs: `log-NN` of the record, or `log-NN.stdout` and `log-NN.stderr`.
//!
//! **The offset in the file is the offset in the output**, for ever. So a log is continued at its size, by whoever
//! holds the record's lock, and whoever follows it needs no more than a number to come back to.
//!
//! A log with a limit may lose its middle: the hole is first *published*, as 16 bytes in `NAME.gap`, and then punched.
//! A reader looks at the gap *after* it has read: zeroes of a hole can then never pass for output.

mod follower;
mod gap;
mod limit;
mod outlet;
mod pace;
mod reader;
mod sources;
mod tail;
mod tap;
mod watch;
mod writer;

pub use follower::{Follower, Happening, Until};
pub use limit::LogLimit;
pub use outlet::Outlet;
pub use reader::{Copied, LogReader, Piece};
pub use sources::{Start, Wanted};
pub use tap::{Place, Tap, Tapped};
pub use writer::{LogWriter, Taken};

use jobcage_job::Stream;

/// The name of a step's log in its record.
#[must_use]
pub fn name(step: u32, stream: Stream) -> String {
    match stream {
        Stream::Merged => format!("log-{step:02}"),
        Stream::Stdout => format!("log-{step:02}.stdout"),
        Stream::Stderr => format!("log-{step:02}.stderr"),
    }
}

/// Step and stream of a log by its name; `None`: it is no log.
#[must_use]
pub fn parse_name(name: &str) -> Option<(u32, Stream)> {
    let rest = name.strip_prefix("log-")?;
    let (number, stream) = match rest.split_once('.') {
        None => (rest, Stream::Merged),
        Some((number, "stdout")) => (number, Stream::Stdout),
        Some((number, "stderr")) => (number, Stream::Stderr),
        Some(_) => return None,
    };
    let digits = number.len() >= 2 && number.bytes().all(|b| b.is_ascii_digit());
    Some((number.parse().ok().filter(|_| digits)?, stream))
}

fn gap_name(log: &str) -> String {
    format!("{log}.gap")
}

fn errno(error: std::io::Error) -> jobcage_sys::Errno {
    jobcage_sys::Errno::from_raw(error.raw_os_error().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_step_and_stream() {
        for step in [1, 2, 99, 100] {
            for stream in [Stream::Merged, Stream::Stdout, Stream::Stderr] {
                assert_eq!(parse_name(&name(step, stream)), Some((step, stream)));
            }
        }
        for other in [
            "log-01.gap",
            "log-01.stdout.gap",
            "log-1",
            "log-",
            "log-+1",
            "log-xx",
            "spec.json",
        ] {
            assert_eq!(parse_name(other), None, "{other}");
        }
    }
}
