//! A token bucket on a clock that is handed in.

use std::time::Duration;

/// So many tokens per second, and at most `burst` saved. May be overdrawn once: whoever waits until it is positive
/// may then take any amount.
#[derive(Debug, Clone)]
pub(super) struct Bucket {
    per_s: f64,
    burst: f64,
    tokens: f64,
    at: Duration,
}

impl Bucket {
    pub(super) fn new(per_s: u64, burst: u64, now: Duration) -> Self {
        let (per_s, burst) = (per_s as f64, burst as f64);
        Self { per_s, burst, tokens: burst, at: now }
    }

    pub(super) fn set_rate(&mut self, per_s: u64, now: Duration) {
        self.fill(now);
        self.per_s = per_s.max(1) as f64;
    }

    fn fill(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.at).as_secs_f64();
        self.tokens = (self.tokens + passed * self.per_s).min(self.burst);
        self.at = self.at.max(now);
    }

    /// Whether something may be taken now.
    pub(super) fn is_open(&mut self, now: Duration) -> bool {
        self.fill(now);
        self.tokens > 0.0
    }

    pub(super) fn take(&mut self, amount: u64, now: Duration) {
        self.fill(now);
        self.tokens -= amount as f64;
    }

    /// Takes `amount` if it is there.
    pub(super) fn try_take(&mut self, amount: u64, now: Duration) -> bool {
        self.fill(now);
        let enough = self.tokens >= amount as f64;
        if enough {
            self.tokens -= amount as f64;
        }
        enough
    }

    /// When something may be taken.
    pub(super) fn opens_at(&self) -> Duration {
        if self.tokens > 0.0 { self.at } else { self.reaches_at(0) }
    }

    /// When so much is there.
    pub(super) fn reaches_at(&self, amount: u64) -> Duration {
        let lacking = amount as f64 - self.tokens;
        if lacking < 0.0 {
            return self.at;
        }
        self.at + Duration::from_secs_f64(lacking / self.per_s) + Duration::from_millis(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overdrawn_bucket_opens_when_the_debt_is_paid() {
        let second = Duration::from_secs;
        let mut bucket = Bucket::new(100, 200, second(0));
        assert!(bucket.is_open(second(0)));
        bucket.take(500, second(0));
        assert!(!bucket.is_open(second(2)));
        assert!(bucket.opens_at() > second(3) && bucket.opens_at() < second(4));
        assert!(bucket.is_open(bucket.opens_at()));
        assert!(!bucket.try_take(1000, second(100)), "never more than the burst");
        assert!(bucket.try_take(200, second(100)));
    }
}
