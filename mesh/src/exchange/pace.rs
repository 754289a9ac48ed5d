//! How fast: a token bucket that may go into debt, and how fetching gives way to people.
//!
//! The price of an answer is known only when it is there (compression), so the bucket is charged afterwards: one may
//! go on as long as it is not empty. In the long run the rate is kept exactly.

use std::time::Duration;

/// How much of a second's worth a rested bucket holds: short enough that a burst after a pause is not noticed as one.
/// A guess.
const DEPTH: Duration = Duration::from_millis(250);
/// What a bucket holds at least, bytes: a block, or small rates would stutter more than they need.
const LEAST_DEPTH_BYTES: i64 = 64 * 1024;

/// A token bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pace {
    /// `None`: as fast as it goes.
    rate_bytes_per_s: Option<u64>,
    level_bytes: i64,
    /// Until when the level is reckoned. Moves on only by whole bytes, so that no fraction is lost.
    at: Duration,
}

impl Pace {
    /// A full bucket.
    pub fn new(now: Duration, rate_bytes_per_s: Option<u64>) -> Self {
        let mut pace = Self { rate_bytes_per_s, level_bytes: 0, at: now };
        pace.level_bytes = pace.depth();
        pace
    }

    /// Changes the rate from now on.
    pub fn set_rate(&mut self, now: Duration, rate_bytes_per_s: Option<u64>) {
        self.fill(now);
        self.rate_bytes_per_s = rate_bytes_per_s;
        self.level_bytes = self.level_bytes.min(self.depth());
    }

    /// Whether one may go on.
    pub fn is_open(&mut self, now: Duration) -> bool {
        self.fill(now);
        self.rate_bytes_per_s.is_none() || self.level_bytes > 0
    }

    /// Pays for `bytes`.
    pub fn spend(&mut self, now: Duration, bytes: u64) {
        self.fill(now);
        if self.rate_bytes_per_s.is_some() {
            self.level_bytes = self.level_bytes.saturating_sub(i64::try_from(bytes).unwrap_or(i64::MAX));
        }
    }

    /// How long to wait until one may go on; zero: not at all.
    pub fn wait(&mut self, now: Duration) -> Duration {
        self.fill(now);
        match self.rate_bytes_per_s {
            Some(rate) if self.level_bytes <= 0 => {
                let missing = self.level_bytes.unsigned_abs() + 1;
                Duration::from_millis(missing.saturating_mul(1000).div_ceil(rate.max(1)))
            }
            _ => Duration::ZERO,
        }
    }

    fn depth(&self) -> i64 {
        let rate = self.rate_bytes_per_s.unwrap_or(0);
        let depth = u128::from(rate) * DEPTH.as_millis() / 1000;
        i64::try_from(depth).unwrap_or(i64::MAX).max(LEAST_DEPTH_BYTES)
    }

    fn fill(&mut self, now: Duration) {
        let Some(rate) = self.rate_bytes_per_s else {
            self.at = self.at.max(now);
            return;
        };
        let since = now.saturating_sub(self.at);
        let gained = since.as_nanos() * u128::from(rate) / 1_000_000_000;
        if gained == 0 {
            return;
        }
        // Rounded up to a nanosecond, so that the rate is never exceeded.
        let reckoned = (gained * 1_000_000_000).div_ceil(u128::from(rate));
        self.at = now.min(self.at + Duration::from_nanos(u64::try_from(reckoned).unwrap_or(u64::MAX)));
        let gained = i64::try_from(gained).unwrap_or(i64::MAX);
        self.level_bytes = self.level_bytes.saturating_add(gained).min(self.depth());
    }
}

/// How the exchange gives way.
///
/// While somebody presses (a handheld's request is being served, an instance moves to another cloudlet), and for
/// [`Courtesy::AFTER`] after the last one let go, fetching takes [`Courtesy::SHARE_PERMILLE_PRESSED`] of what each
/// link was measured to carry, and serving [`Courtesy::SERVE_PRESSED_BYTES_PER_S`]: enough to keep streams alive, so
/// that nothing has to be set up again afterwards. Otherwise fetching takes [`Courtesy::SHARE_PERMILLE`] of the link,
/// so that there is always room for a first packet, and both stay below the configured limit.
#[derive(Debug, Clone, Default)]
pub struct Courtesy {
    limit_bytes_per_s: Option<u64>,
    pressing: u32,
    released_at: Option<Duration>,
}

impl Courtesy {
    /// Share of a link's measured rate for fetching, thousandths. A guess: what TCP itself leaves free on average
    /// after a loss is 25 % (half the window, growing back linearly).
    pub const SHARE_PERMILLE: u32 = 800;
    /// The same while somebody presses. A guess.
    pub const SHARE_PERMILLE_PRESSED: u32 = 50;
    /// What is served in all while somebody presses, bytes per second. A guess: a compressed block in a second or two.
    pub const SERVE_PRESSED_BYTES_PER_S: u64 = 16 * 1024;
    /// How long after the last request people still count as busy. A guess: the pause between two requests of one
    /// session.
    pub const AFTER: Duration = Duration::from_millis(300);

    /// With a limit for each direction, or without.
    pub fn new(limit_bytes_per_s: Option<u64>) -> Self {
        Self { limit_bytes_per_s, ..Self::default() }
    }

    /// Somebody begins to press.
    pub fn press(&mut self) {
        self.pressing += 1;
    }

    /// Somebody lets go.
    pub fn release(&mut self, now: Duration) {
        self.pressing = self.pressing.saturating_sub(1);
        self.released_at = Some(now);
    }

    /// Whether fetching and serving have to give way now.
    pub fn is_pressed(&self, now: Duration) -> bool {
        self.pressing > 0 || self.released_at.is_some_and(|at| now < at + Self::AFTER)
    }

    /// Most that may be fetched in all, bytes per second.
    pub fn fetch_rate(&self) -> Option<u64> {
        self.limit_bytes_per_s
    }

    /// Most that may be served in all, bytes per second.
    pub fn serve_rate(&self, now: Duration) -> Option<u64> {
        if !self.is_pressed(now) {
            return self.limit_bytes_per_s;
        }
        let limit = self.limit_bytes_per_s.unwrap_or(u64::MAX);
        Some(limit.min(Self::SERVE_PRESSED_BYTES_PER_S))
    }

    /// What to take of each link, thousandths.
    pub fn share_permille(&self, now: Duration) -> u32 {
        if self.is_pressed(now) { Self::SHARE_PERMILLE_PRESSED } else { Self::SHARE_PERMILLE }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    proptest! {
        #[test]
        fn the_rate_is_kept_in_the_long_run(rate in 1_000_u64..10_000_000, piece in 1_u64..300_000, step_ms in 1_u64..50) {
            let mut pace = Pace::new(ms(0), Some(rate));
            let mut sent = 0;
            let end = 600_000 / step_ms;
            for step in 0..end {
                while pace.is_open(ms(step * step_ms)) {
                    pace.spend(ms(step * step_ms), piece);
                    sent += piece;
                }
            }
            let allowed = rate * end * step_ms / 1000;
            let burst = 64 * 1024 + rate / 4 + piece;
            prop_assert!(sent <= allowed + burst, "{sent} of {allowed}");
            // A bucket that overflows between two steps cannot pay out more than it holds.
            let held = (rate / 4).max(64 * 1024) * 1000 / step_ms;
            prop_assert!(sent + burst >= allowed.min(held * end * step_ms / 1000), "{sent} of {allowed}");
        }
    }

    #[test]
    fn waiting_as_long_as_told_is_enough() {
        let mut pace = Pace::new(ms(0), Some(1000));
        pace.spend(ms(0), 70_000);
        let wait = pace.wait(ms(0));
        assert!(!pace.is_open(wait - ms(2)));
        assert!(pace.is_open(wait));
        assert_eq!(Pace::new(ms(0), None).wait(ms(5)), Duration::ZERO);
    }

    #[test]
    fn people_go_first_and_a_little_longer() {
        let mut courtesy = Courtesy::new(Some(1_000_000));
        assert_eq!(courtesy.serve_rate(ms(0)), Some(1_000_000));
        courtesy.press();
        courtesy.press();
        courtesy.release(ms(100));
        assert_eq!(courtesy.serve_rate(ms(5000)), Some(Courtesy::SERVE_PRESSED_BYTES_PER_S));
        courtesy.release(ms(5000));
        assert!(courtesy.is_pressed(ms(5299)));
        assert_eq!(courtesy.share_permille(ms(5299)), Courtesy::SHARE_PERMILLE_PRESSED);
        assert!(!courtesy.is_pressed(ms(5300)));
        assert_eq!(courtesy.share_permille(ms(5300)), Courtesy::SHARE_PERMILLE);
    }
}
