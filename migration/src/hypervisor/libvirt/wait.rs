//! Waiting for a condition, with a limit. The one place of this driver that reads the clock.

use std::time::{Duration, Instant};

/// A moment after which nothing is waited for any longer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline(Instant);

impl Deadline {
    pub(super) fn after(limit: Duration) -> Self {
        Self(now() + limit)
    }

    pub(super) fn passed(self) -> bool {
        now() >= self.0
    }

    /// Time left; zero once it has passed.
    pub(super) fn left(self) -> Duration {
        self.0.saturating_duration_since(now())
    }
}

/// Time that has passed since a moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stopwatch(Instant);

impl Stopwatch {
    pub(super) fn start() -> Self {
        Self(now())
    }

    pub(super) fn elapsed(self) -> Duration {
        now() - self.0
    }
}

#[expect(clippy::disallowed_methods, reason = "a driver waits for QEMU and for the guest in real time")]
fn now() -> Instant {
    Instant::now()
}

/// Asks `ready` until it gives something, fails, or the deadline passes (`None`). It is asked at least once.
pub(super) fn poll<T, E>(
    deadline: Deadline,
    every: Duration,
    mut ready: impl FnMut() -> Result<Option<T>, E>,
) -> Result<Option<T>, E> {
    loop {
        if let Some(value) = ready()? {
            return Ok(Some(value));
        }
        if deadline.passed() {
            return Ok(None);
        }
        std::thread::sleep(every.min(deadline.left()));
    }
}
