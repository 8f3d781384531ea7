//! How long a stage may take to end, and the runner's timeouts that leave it this time.
//!
//! What has to hold: grace + after budget + 10 s < `graceful_kill_timeout` < `shutdown_timeout`, and below the 300 s that
//! the runner waits for a job that ran out of time. A runner that kills earlier loses the output of the after phase; one
//! that gives up earlier never calls cleanup.

use std::time::Duration;

/// The cut, the census and the kill at their slowest, and what is told of them.
const REAP: u64 = 10;
/// So long the runner waits for a stage of a job that is over (`WaitForBuildFinishTimeout`): it cannot be configured.
pub const RUNNER_WAITS: u64 = 300;
/// The runner's `graceful_kill_timeout`, unless it is set.
pub const GRACEFUL_DEFAULT: u64 = 600;
/// The runner's `force_kill_timeout`, unless it is set.
pub const FORCE_DEFAULT: u64 = 10;
/// The runner's `shutdown_timeout`, unless it is set.
pub const SHUTDOWN_DEFAULT: u64 = 30;
/// The runner's `cleanup_exec_timeout`, unless it is set.
pub const CLEANUP_DEFAULT: u64 = 3600;
/// The most that is asked of `cleanup_exec_timeout`: what takes a day is no cleanup.
const CLEANUP_MOST: u64 = 24 * 3600;
/// What is set where the budgets do not fit: near the runner's limit, with time for its own kill.
const WHAT_FITS: u64 = 295;

/// What this host's configuration gives a job between the first signal and its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budgets {
    /// From the first signal to the kill.
    pub grace: Duration,
    /// The after phase.
    pub after: Duration,
}

impl Budgets {
    /// Both and the kill, in whole seconds.
    #[must_use]
    pub fn sum(&self) -> u64 {
        let budgets = self.grace.saturating_add(self.after);
        let part = u64::from(budgets.subsec_nanos() > 0);
        budgets.as_secs().saturating_add(part).saturating_add(REAP)
    }

    /// Whether any `graceful_kill_timeout` leaves them their time.
    #[must_use]
    pub fn fit(&self) -> bool {
        self.sum() < RUNNER_WAITS - 1
    }

    /// What `cleanup_exec_timeout` has to be: cleanup may come while all of it is still to be done.
    #[must_use]
    pub fn cleanup(&self) -> u64 {
        self.sum().min(CLEANUP_MOST)
    }

    /// What an after phase has of a stage that the runner lets end for so long.
    #[must_use]
    pub fn after_within(&self, graceful: u64) -> u64 {
        let rest = Duration::from_secs(graceful.saturating_sub(REAP)).saturating_sub(self.grace);
        rest.as_secs()
    }

    /// The sum, as one writes it down.
    #[must_use]
    pub fn tell(&self) -> String {
        format!(
            "grace {} + after phase {} + {REAP} s = {} s",
            seconds(self.grace),
            seconds(self.after),
            self.sum()
        )
    }
}

/// A time in seconds, as the runner's configuration has it.
fn seconds(time: Duration) -> String {
    format!("{} s", time.as_secs_f64())
}

/// The runner's timeouts, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// `graceful_kill_timeout`.
    pub graceful: u64,
    /// `force_kill_timeout`.
    pub force: u64,
    /// `cleanup_exec_timeout`.
    pub cleanup: u64,
    /// `shutdown_timeout`.
    pub shutdown: u64,
}

impl Timeouts {
    /// Those that fit to the budgets, or, where none do, those that give the most.
    #[must_use]
    pub fn of(budgets: &Budgets) -> Self {
        let graceful = if budgets.fit() {
            above(budgets.sum()).clamp(20, RUNNER_WAITS - 1)
        } else {
            WHAT_FITS
        };
        let force = 5;
        Self {
            graceful,
            force,
            cleanup: above(budgets.cleanup()).clamp(60, CLEANUP_MOST),
            // Both kills, and a cleanup that finds little to do.
            shutdown: graceful + force + 30,
        }
    }
}

/// The next five seconds.
fn above(seconds: u64) -> u64 {
    (seconds / 5).saturating_add(1).saturating_mul(5)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    pub fn budgets(grace: u64, after: u64) -> Budgets {
        Budgets {
            grace: Duration::from_secs(grace),
            after: Duration::from_secs(after),
        }
    }

    #[test]
    fn the_usual_ones() {
        let of = |grace, after| Timeouts::of(&budgets(grace, after));
        let (graceful, force, cleanup, shutdown) = (265, 5, 265, 300);
        assert_eq!(
            of(10, 240),
            Timeouts {
                graceful,
                force,
                cleanup,
                shutdown
            }
        );
        assert_eq!((of(0, 0).graceful, of(0, 0).cleanup), (20, 60));
        assert_eq!((of(10, 278).graceful, of(10, 279).graceful), (299, 295));
        // GitLab's own five minutes, with our ten seconds: more than the runner waits.
        assert!(!budgets(10, 300).fit());
        assert_eq!(budgets(10, 300).after_within(of(10, 300).graceful), 275);
    }

    #[test]
    fn a_part_of_a_second_counts() {
        let budgets = Budgets {
            grace: Duration::from_millis(100),
            after: Duration::from_millis(1500),
        };
        assert_eq!(
            (budgets.sum(), budgets.tell().as_str()),
            (12, "grace 0.1 s + after phase 1.5 s + 10 s = 12 s")
        );
    }

    proptest! {
        #[test]
        fn the_inequality_holds_wherever_it_can(grace in 0_u64..u64::MAX, after in 0_u64..u64::MAX, small: bool) {
            let cut = |time: u64| if small { time % 200 } else { time };
            let budgets = budgets(cut(grace), cut(after));
            let set = Timeouts::of(&budgets);
            prop_assert!(set.graceful < set.shutdown && set.graceful < RUNNER_WAITS);
            prop_assert!(set.cleanup >= budgets.cleanup() && i32::try_from(set.cleanup).is_ok());
            prop_assert_eq!(budgets.fit(), budgets.sum() < set.graceful);
        }
    }
}
