//! What was counted.

use std::collections::BTreeMap;
use std::fmt;

/// The counts of one sweep.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    /// Jobs that were started.
    pub jobs: u32,
    /// Of these, jobs whose client was killed or failed, so that nothing was promised.
    pub unpromised: u32,
    /// Jobs closed as lost, whose supervisor and keeper had both died.
    pub lost: u32,
    /// Kills by who was killed.
    pub kills: BTreeMap<&'static str, u32>,
    /// `jobcage gc` in between.
    pub gc: u32,
    /// Changes of the supervisor that the reports tell.
    pub taken_over: u32,
    /// Bytes that were compared.
    pub bytes: u64,
    /// Bytes that were written and are in no log.
    pub missing: u64,
    /// Logs with a byte too much, twice or wrong.
    pub damaged: u32,
    /// Statuses or endings that were not the true ones.
    pub statuses: u32,
    /// After phases that ran more than once.
    pub twice: u32,
    /// After phases that never ran.
    pub never: u32,
    /// 1: something was left.
    pub left: u32,
}

impl Counts {
    /// All kills.
    pub fn killed(&self) -> u32 {
        self.kills.values().sum()
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kills: Vec<String> = self.kills.iter().map(|(who, n)| format!("{n} {who}")).collect();
        write!(
            f,
            "{} jobs, {} kills ({}), {} gc, {} take-overs, {:.1} MB compared; {} bytes lost, {} logs damaged, {} statuses wrong, \
             after phase {} twice and {} never, {} left; {} lost as both had died, {} without a promise",
            self.jobs,
            self.killed(),
            kills.join(", "),
            self.gc,
            self.taken_over,
            self.bytes as f64 / 1e6,
            self.missing,
            self.damaged,
            self.statuses,
            self.twice,
            self.never,
            self.left,
            self.lost,
            self.unpromised
        )
    }
}
