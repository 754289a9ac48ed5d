//! The event log: one line an event.

use std::fmt::{Arguments, Write};
use std::time::Duration;

/// Collects lines.
#[derive(Debug, Default)]
pub(super) struct EventLog(String);

impl EventLog {
    /// Adds `what` with the time: seconds with six decimals.
    pub(super) fn line(&mut self, now: Duration, what: Arguments<'_>) {
        // Writing into a String cannot fail.
        let _ = writeln!(self.0, "{}.{:06} {what}", now.as_secs(), now.subsec_micros());
    }

    /// Everything that was logged.
    pub(super) fn text(self) -> String {
        self.0
    }
}
