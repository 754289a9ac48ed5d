//! The one place that reads the clock.

use std::time::{Duration, Instant};

#[expect(clippy::disallowed_methods, reason = "a program that measures reads the clock")]
pub fn now() -> Instant {
    Instant::now()
}

/// Sleeping is no synchronisation here: the passing of time is what is measured.
pub fn pass(time: Duration) {
    std::thread::sleep(time);
}

pub fn seconds(from: Instant, to: Instant) -> f64 {
    to.saturating_duration_since(from).as_secs_f64()
}
