//! Rounds: in each one, all contestants run one after the other, in an order that is shuffled anew.

use crate::Result;
use crate::ground::loudly;
use crate::guard::progressed;
use crate::stats::Dice;
use std::time::Duration;

/// Someone to be measured.
pub struct Contestant<'a> {
    /// As it stands in the table.
    pub name: String,
    /// What is missing if this one cannot run: a peer is skipped, loudly; ours is an error.
    pub needed: bool,
    /// One measurement: as many numbers as the case has measures.
    pub run: Box<dyn FnMut() -> Result<Vec<f64>> + 'a>,
}

impl<'a> Contestant<'a> {
    /// One without which the case is worth nothing.
    pub fn needed(name: &str, run: impl FnMut() -> Result<Vec<f64>> + 'a) -> Self {
        Self {
            name: name.into(),
            needed: true,
            run: Box::new(run),
        }
    }

    /// One to compare with, where the host has it.
    pub fn peer(name: &str, run: impl FnMut() -> Result<Vec<f64>> + 'a) -> Self {
        Self {
            name: name.into(),
            needed: false,
            run: Box::new(run),
        }
    }
}

/// The values of one measure.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Samples {
    /// The contestants, in the order of the table.
    pub names: Vec<String>,
    /// For each of them its values, one a round.
    pub values: Vec<Vec<f64>>,
}

impl Samples {
    /// The values of a contestant, if it took part.
    #[must_use]
    pub fn of(&self, name: &str) -> Option<&[f64]> {
        self.names
            .iter()
            .position(|known| known == name)
            .map(|place| self.values[place].as_slice())
    }
}

/// How a contest is held.
pub struct Rules {
    /// The number of rounds, after one that does not count.
    pub rounds: usize,
    /// What stands still before each measurement: part of the measure where jobs come seldom.
    pub pause: Duration,
    /// How many numbers each contestant brings home.
    pub measures: usize,
}

/// Holds it: the samples of each measure, and who was skipped and why.
pub fn hold(
    dice: &mut Dice,
    rules: &Rules,
    mut contestants: Vec<Contestant<'_>>,
) -> Result<(Vec<Samples>, Vec<String>)> {
    let skipped = warm_up(&mut contestants)?;
    let names: Vec<_> = contestants
        .iter()
        .map(|contestant| contestant.name.clone())
        .collect();
    let empty = Samples {
        values: vec![Vec::new(); names.len()],
        names,
    };
    let mut measures = vec![empty; rules.measures];
    let mut order: Vec<usize> = (0..contestants.len()).collect();
    for round in 0..rules.rounds {
        dice.shuffle(&mut order);
        for &place in &order {
            std::thread::sleep(rules.pause);
            let contestant = &mut contestants[place];
            let values = run_counted(contestant)
                .map_err(|why| format!("{} in round {round}: {why}", contestant.name))?;
            for (samples, value) in measures.iter_mut().zip(values) {
                samples.values[place].push(value);
            }
        }
    }
    Ok((measures, skipped))
}

/// The round that does not count: files come into the page cache, and who cannot run here leaves.
fn warm_up(contestants: &mut Vec<Contestant<'_>>) -> Result<Vec<String>> {
    let mut skipped = Vec::new();
    let mut fatal = None;
    contestants.retain_mut(|contestant| match run_counted(contestant) {
        Ok(_) => true,
        Err(why) if contestant.needed => {
            fatal.get_or_insert(format!("{}: {why}", contestant.name));
            true
        }
        Err(why) => {
            let note = format!("SKIPPED {}: {why}", contestant.name);
            loudly(&note);
            skipped.push(note);
            false
        }
    });
    fatal.map_or(Ok(skipped), |why| Err(why.into()))
}

fn run_counted(contestant: &mut Contestant<'_>) -> Result<Vec<f64>> {
    let done = (contestant.run)();
    progressed();
    done
}
