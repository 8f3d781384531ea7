//! How long to wait before a broken line is tried again.

use std::time::Duration;

/// The first wait.
const FIRST: Duration = Duration::from_millis(500);
/// The longest one.
const LONGEST: Duration = Duration::from_secs(15);

/// Doubles from try to try, with a quarter of jitter: clients that lost one host at once shall not all come back at once.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    tries: u32,
}

impl Pace {
    /// The wait before the next try.
    pub(crate) fn next(&mut self, random: u64) -> Duration {
        let wait = FIRST.saturating_mul(1 << self.tries.min(10)).min(LONGEST);
        self.tries = self.tries.saturating_add(1);
        let quarter = u64::try_from(wait.as_micros() / 4).unwrap_or(0).max(1);
        wait + Duration::from_micros(random % quarter)
    }

    /// The line is there again.
    pub(crate) fn reset(&mut self) {
        self.tries = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_grows_to_its_most_and_begins_anew(randoms in prop::collection::vec(any::<u64>(), 12..40)) {
            let mut pace = Pace::default();
            let waits: Vec<_> = randoms.iter().map(|random| pace.next(*random)).collect();
            prop_assert!(waits[0] < Duration::from_millis(700));
            prop_assert!(waits.iter().all(|wait| *wait >= FIRST && *wait <= LONGEST + LONGEST / 4));
            prop_assert!(waits[10..].iter().all(|wait| *wait >= LONGEST));
            pace.reset();
            prop_assert!(pace.next(randoms[0]) < Duration::from_millis(700));
        }
    }
}
