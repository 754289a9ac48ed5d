//! Seeded random numbers, one independent stream for each purpose.
//!
//! The purposes do not disturb each other: asking for one more waypoint changes no request. Nothing here calls the
//! platform's mathematical library, whose last digit may differ between machines, so a seed means the same run
//! everywhere.

use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// What a stream of random numbers is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum Purpose {
    /// Where nodes go.
    Movement = 1,
    /// When handhelds ask, for what, and for how long.
    Workload = 2,
    /// What mission data handhelds collect, and when.
    MissionData = 3,
    /// What others do with cloudlets while one choice is looked at.
    Others = 4,
    /// What the radio medium loses, delays and reorders.
    Radio = 5,
}

/// The stream for `purpose` of node number `node` in a run with `seed`.
pub fn stream(seed: u64, purpose: Purpose, node: u32) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream((purpose as u64) << 32 | u64::from(node));
    rng
}

/// An exponentially distributed duration with this mean: the time until the next of independent events.
///
/// Von Neumann's method: a falling run of uniform numbers has odd length with probability e^-x when it starts at
/// x, so comparisons alone draw from e^-x. ("Various techniques used in connection with random digits", 1951.)
pub fn exponential(rng: &mut ChaCha8Rng, mean: Duration) -> Duration {
    let mut whole = 0.0;
    loop {
        let first: f64 = rng.random();
        let mut last = first;
        let mut falling = 1_u32;
        loop {
            let next: f64 = rng.random();
            if next >= last {
                break;
            }
            last = next;
            falling += 1;
        }
        if falling % 2 == 1 {
            return mean.mul_f64(whole + first);
        }
        whole += 1.0;
    }
}

/// A number drawn evenly from `low..=high`; `low` when the two are equal.
pub fn between(rng: &mut ChaCha8Rng, low: f64, high: f64) -> f64 {
    low + (high - low) * rng.random::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_and_purposes_differ() {
        let draw = |seed, purpose, node| stream(seed, purpose, node).random::<u64>();
        assert_eq!(draw(7, Purpose::Movement, 3), draw(7, Purpose::Movement, 3));
        assert_ne!(draw(7, Purpose::Movement, 3), draw(8, Purpose::Movement, 3));
        assert_ne!(draw(7, Purpose::Movement, 3), draw(7, Purpose::Workload, 3));
        assert_ne!(draw(7, Purpose::Movement, 3), draw(7, Purpose::Movement, 4));
    }

    #[test]
    fn exponential_has_its_mean_and_its_tail() {
        let mut rng = stream(1, Purpose::Workload, 0);
        let draws: Vec<f64> =
            (0..40_000).map(|_| exponential(&mut rng, Duration::from_secs(10)).as_secs_f64()).collect();
        let share =
            |limit: f64| draws.iter().filter(|draw| **draw > limit).count() as f64 / draws.len() as f64;
        let mean = draws.iter().sum::<f64>() / draws.len() as f64;
        // Four standard errors: 10/sqrt(40000) = 0.05 for the mean, at most 0.0025 for a share.
        assert!((mean - 10.0).abs() < 0.2, "mean {mean}");
        for (limit, expected) in [(5.0, 0.6065), (10.0, 0.3679), (30.0, 0.0498)] {
            assert!((share(limit) - expected).abs() < 0.01, "{limit}: {}", share(limit));
        }
    }
}
