//! Where the last lines of a log begin.

use super::reader::LogReader;
use jobcage_sys::Result;

/// What was found from the end on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tail {
    /// Where the lines begin.
    pub(super) offset: u64,
    /// How many they are: fewer than asked for if the log has no more.
    pub(super) lines: u64,
}

/// Where the last lines begin. What stands behind the last newline is a line. The dropped middle is passed over; whoever is
/// overtaken by it while looking gets what is left.
///
/// # Errors
/// As [`LogReader::read`].
pub(super) fn tail(log: &mut LogReader, wanted: u64) -> Result<Tail> {
    let len = log.len()?;
    if wanted == 0 || len == 0 {
        return Ok(Tail {
            offset: len,
            lines: 0,
        });
    }
    let mut lines = 1;
    let mut buffer = vec![0; 65536];
    let mut end = len;
    while end > 0 {
        let floor = match log.gap()? {
            Some(gap) if gap.from < end && end <= gap.to => {
                end = gap.from;
                continue;
            }
            Some(gap) if gap.to < end => gap.to,
            _ => 0,
        };
        let from = end.saturating_sub(buffer.len() as u64).max(floor);
        let part = usize::try_from(end - from).unwrap_or(buffer.len());
        let read = log.read_at(from, &mut buffer[..part])?;
        if let Some(gap) = log.gap()?.filter(|gap| gap.from <= from && from < gap.to) {
            return Ok(Tail {
                offset: gap.to,
                lines,
            });
        }
        let newlines = (from..).zip(&buffer[..read]).filter(|(_, b)| **b == b'\n');
        for (at, _) in newlines.collect::<Vec<_>>().into_iter().rev() {
            // The one at the very end ends the last line and begins none.
            if at + 1 == len {
                continue;
            }
            if lines == wanted {
                return Ok(Tail {
                    offset: at + 1,
                    lines,
                });
            }
            lines += 1;
        }
        end = from;
    }
    Ok(Tail { offset: 0, lines })
}
