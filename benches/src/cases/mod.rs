//! The cases, one file each.

mod bombs;
mod calls;
mod detach;
mod detached_many;
mod detached_memory;
mod driver;
mod end;
mod latency;
mod launch;
mod many;
mod memory;
mod output;
mod remote;
mod rootless;

use crate::Result;
use crate::contest::{Contestant, Rules, Samples, hold};
use crate::ground::Ground;
use crate::options::Options;
use crate::stats::Dice;
use crate::table::Table;
use crate::tools::Tools;
use std::cell::RefCell;
use std::time::Duration;

/// What every case needs.
pub struct Context<'a> {
    /// The command line.
    pub options: &'a Options,
    /// Where everything is.
    pub ground: &'a Ground,
    /// Who takes part.
    pub tools: &'a Tools,
    /// The order within the rounds.
    pub dice: RefCell<Dice>,
}

impl Context<'_> {
    /// Holds a contest with this run's dice.
    fn hold(&self, rules: &Rules, contestants: Vec<Contestant<'_>>) -> Result<(Vec<Samples>, Vec<String>)> {
        hold(&mut self.dice.borrow_mut(), rules, contestants)
    }

    /// The rules of a case without pauses.
    fn rules(&self, rounds: usize, measures: usize) -> Rules {
        Rules {
            rounds: self.options.rounds(rounds),
            pause: Duration::ZERO,
            measures,
        }
    }
}

/// One case.
pub struct Case {
    /// Its word for `--only`.
    pub name: &'static str,
    /// The measures of docs/performance.md that it gives.
    pub measures: &'static [&'static str],
    /// Whether its jobs are made of our helpers in C.
    pub helpers: bool,
    /// Does it.
    pub run: fn(&Context<'_>) -> Result<Vec<Table>>,
}

impl Case {
    /// Whether this word names it, or one of its measures.
    #[must_use]
    pub fn is_called(&self, word: &str) -> bool {
        self.name == word || self.measures.contains(&word)
    }

    /// Whether it is to run.
    #[must_use]
    pub fn is_asked(&self, options: &Options) -> bool {
        options.only.is_empty() || options.only.iter().any(|word| self.is_called(word))
    }
}

/// All of them, in the order of their tables.
pub const CASES: &[Case] = &[
    Case {
        name: "launch",
        measures: &["l1", "l2"],
        helpers: false,
        run: launch::launch,
    },
    Case {
        name: "spaced",
        measures: &["l4"],
        helpers: false,
        run: launch::spaced,
    },
    Case {
        name: "calls",
        measures: &["l3"],
        helpers: false,
        run: calls::calls,
    },
    Case {
        name: "end",
        measures: &["k1", "k2"],
        helpers: true,
        run: end::end,
    },
    Case {
        name: "bombs",
        measures: &["k3"],
        helpers: true,
        run: bombs::bombs,
    },
    Case {
        name: "memory",
        measures: &["m1"],
        helpers: true,
        run: memory::memory,
    },
    Case {
        name: "many",
        measures: &["s1", "s2"],
        helpers: true,
        run: many::many,
    },
    Case {
        name: "detach",
        measures: &["d1"],
        helpers: true,
        run: detach::detach,
    },
    Case {
        name: "detached-memory",
        measures: &["d2"],
        helpers: true,
        run: detached_memory::memory,
    },
    Case {
        name: "output",
        measures: &["d3"],
        helpers: true,
        run: output::output,
    },
    Case {
        name: "slow-reader",
        measures: &["d3"],
        helpers: true,
        run: output::slow_reader,
    },
    Case {
        name: "latency",
        measures: &["d4"],
        helpers: true,
        run: latency::latency,
    },
    Case {
        name: "detached-many",
        measures: &["d5"],
        helpers: true,
        run: detached_many::many,
    },
    Case {
        name: "driver",
        measures: &["g1"],
        helpers: false,
        run: driver::driver,
    },
    Case {
        name: "remote",
        measures: &["r1", "r2", "r3"],
        helpers: false,
        run: remote::remote,
    },
    Case {
        name: "rootless",
        measures: &[],
        helpers: false,
        run: rootless::rootless,
    },
];
