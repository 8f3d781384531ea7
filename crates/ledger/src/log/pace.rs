//! Wakeups, not bytes, are what many short lines cost. So who finds only a little, and again and again, rests for a moment
//! between two looks, and finds more. Who finds a little now and then does not: it is passed on at once.

use std::time::{Duration, Instant};

/// What one look that found only a little costs, and how long a rest is.
pub(super) const ROUND: Duration = Duration::from_micros(500);

/// The most that can be saved up.
const MOST: Duration = Duration::from_millis(4);

/// Time saved up by not looking, spent by looking.
#[derive(Debug)]
pub(super) struct Pace {
    saved: Duration,
    last: Instant,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            saved: MOST,
            last: now,
        }
    }

    /// To be called when a look found only a little; whether to rest for a [`ROUND`] before the next one.
    pub(super) fn is_to_rest(&mut self, now: Instant) -> bool {
        self.saved = (self.saved + now.saturating_duration_since(self.last)).min(MOST);
        self.last = now;
        match self.saved.checked_sub(ROUND) {
            Some(rest) => {
                self.saved = rest;
                false
            }
            None => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of 1 000 looks, so far apart, end with a rest.
    fn rests(apart: Duration) -> usize {
        let mut now = Instant::now();
        let mut pace = Pace::new(now);
        (0..1000)
            .filter(|_| {
                now += apart;
                let rest = pace.is_to_rest(now);
                now += if rest { ROUND } else { Duration::ZERO };
                rest
            })
            .count()
    }

    #[test]
    fn what_comes_now_and_then_is_passed_on_at_once_and_a_flood_is_taken_in_portions() {
        assert_eq!(rests(Duration::from_millis(1)), 0);
        assert_eq!(rests(ROUND), 0);
        let flood = rests(Duration::from_micros(5));
        assert!((450..=500).contains(&flood), "{flood}");
    }
}
