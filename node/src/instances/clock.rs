//! The two clocks that the driver reads: one that never goes backwards, for decisions, and the wall clock, for people,
//! guests and the end of the mission.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Time since the driver's start.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock(Instant);

impl Clock {
    #[expect(clippy::disallowed_methods, reason = "the driver's one source of `now` for the core")]
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn now(&self) -> Duration {
        self.0.elapsed()
    }

    pub(crate) fn instant(&self, at: Duration) -> tokio::time::Instant {
        (self.0 + at).into()
    }
}

/// Time since 1970 UTC; zero on a host whose clock stands before that.
#[expect(
    clippy::disallowed_methods,
    reason = "guests' clocks and time stamps for people need the wall clock"
)]
pub(crate) fn unix() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Milliseconds since 1970 UTC.
pub(crate) fn unix_ms() -> u64 {
    u64::try_from(unix().as_millis()).unwrap_or(u64::MAX)
}
