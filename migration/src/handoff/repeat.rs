//! When a word that got no answer is said again.

use std::time::Duration;

use super::RESEND_FIRST;

/// Doubles the pause after each time, up to a limit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Repeat {
    pub due: Duration,
    pause: Duration,
    most: Duration,
}

impl Repeat {
    /// The word was just said for the first time.
    pub fn after(now: Duration, most: Duration) -> Self {
        Self { due: now + RESEND_FIRST, pause: RESEND_FIRST, most }
    }

    /// Whether it is to be said now; counts it as said.
    pub fn take(&mut self, now: Duration) -> bool {
        let due = now >= self.due;
        if due {
            self.pause = (self.pause * 2).min(self.most);
            self.due = now + self.pause;
        }
        due
    }
}
