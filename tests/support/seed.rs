//! Choices that differ from run to run and can be repeated: the seed is printed, and `JOBCAGE_SEED` sets it.

use std::sync::OnceLock;

/// The seed of this run.
pub fn seed() -> u64 {
    static SEED: OnceLock<u64> = OnceLock::new();
    *SEED.get_or_init(|| {
        let seed = match std::env::var("JOBCAGE_SEED") {
            Ok(given) => given
                .parse()
                .unwrap_or_else(|e| panic!("JOBCAGE_SEED={given}: {e}")),
            Err(_) => std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .map_or(1, |t| t.as_secs() % 1_000_000),
        };
        super::say(&format!("seed {seed} (JOBCAGE_SEED={seed} repeats this choice)"));
        seed
    })
}

/// Whether everything is to be run: `JOBCAGE_SWEEP=full`.
pub fn full_sweep() -> bool {
    std::env::var("JOBCAGE_SWEEP").is_ok_and(|v| v == "full")
}

/// SplitMix64: enough for choices.
pub struct SplitMix(pub u64);

impl SplitMix {
    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// Choices of this run.
pub struct Random(SplitMix);

impl Random {
    /// A sequence of its own for each name, so that tests do not depend on each other's order.
    pub fn of(name: &str) -> Self {
        let mixed = name
            .bytes()
            .fold(seed(), |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
        Self(SplitMix(mixed))
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0.next()
    }

    /// One of them.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[usize::try_from(self.next() % from.len() as u64).unwrap()]
    }
}
