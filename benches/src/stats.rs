//! Quantiles, and ratios that are paired: taken within each round, so that what slows the whole machine for a moment
//! slows both sides of a ratio.

/// What is told of a list of numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Summary {
    /// A quarter of the values is below.
    pub q1: f64,
    /// Half of them.
    pub median: f64,
    /// Three quarters.
    pub q3: f64,
    /// Ninety-nine of a hundred; with fewer values close to the largest.
    pub p99: f64,
}

impl Summary {
    /// Of values in any order; `None` if there are none.
    #[must_use]
    pub fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |share| quantile(&sorted, share);
        (!sorted.is_empty()).then(|| Self {
            q1: at(0.25),
            median: at(0.5),
            q3: at(0.75),
            p99: at(0.99),
        })
    }
}

/// By linear interpolation between the two nearest.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let place = share * (sorted.len() - 1) as f64;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    below + (above - below) * place.fract()
}

/// The ratio of each round; a round whose base is 0 tells nothing and is left out.
#[must_use]
pub fn ratios(values: &[f64], base: &[f64]) -> Vec<f64> {
    values
        .iter()
        .zip(base)
        .filter(|(_, base)| **base != 0.0)
        .map(|(value, base)| value / base)
        .collect()
}

/// Random numbers from a seed that is printed (splitmix64), for the order of the contestants.
pub struct Dice(u64);

impl Dice {
    /// The same seed gives the same orders.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Shuffles in place (Fisher-Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, (self.next() % (last as u64 + 1)) as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_are_interpolated() {
        let summary = Summary::of(&[4.0, 1.0, 3.0, 2.0]).expect("four values");
        assert_eq!((summary.q1, summary.median, summary.q3), (1.75, 2.5, 3.25));
        assert!(Summary::of(&[]).is_none());
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        // The second round ran on a machine twice as slow: the ratio does not see it.
        assert_eq!(ratios(&[3.0, 6.0, 1.0], &[2.0, 4.0, 0.0]), [1.5, 1.5]);
    }

    #[test]
    fn a_shuffle_keeps_the_items_and_repeats_with_its_seed() {
        let order = |seed| {
            let mut items: Vec<u32> = (0..20).collect();
            Dice::new(seed).shuffle(&mut items);
            items
        };
        assert_eq!(order(7), order(7));
        assert_ne!(order(7), order(8));
        let mut sorted = order(7);
        sorted.sort_unstable();
        assert_eq!(sorted, (0..20).collect::<Vec<_>>());
    }
}
