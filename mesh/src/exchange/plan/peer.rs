//! What a plan knows of a peer.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::exchange::Pace;

/// Bytes per second on the wire.
pub type Rate = u64;

/// Shortest stretch over which a rate is measured, bytes and time. A guess: several blocks, or long against the
/// granularity of clocks and of the scheduler.
const SAMPLE_BYTES: u64 = 64 * 1024;
const SAMPLE_TIME: Duration = Duration::from_millis(2);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Not connected; not to be tried before `until`.
    Resting { until: Duration },
    /// The driver was told to connect.
    Opening,
    /// A stream is open.
    Open,
    /// Sent what was not true.
    Liar,
}

#[derive(Debug, Clone)]
pub(super) struct Peer {
    pub(super) state: State,
    /// Whether it is said to hold the image.
    pub(super) is_holder: bool,
    /// Asked for, with the time of asking.
    pub(super) flying: BTreeMap<u32, Duration>,
    pub(super) rate: Option<Rate>,
    pub(super) round_trip: Duration,
    pub(super) heard_at: Duration,
    /// How long it rests after its next failure.
    pub(super) pause: Duration,
    pace: Pace,
    share_permille: u32,
    last_arrival: Option<Duration>,
    sample_bytes: u64,
    sample_time: Duration,
}

impl Peer {
    pub(super) fn new(now: Duration, pause: Duration) -> Self {
        Self {
            state: State::Resting { until: now },
            is_holder: true,
            flying: BTreeMap::new(),
            rate: None,
            round_trip: Duration::ZERO,
            heard_at: now,
            pause,
            pace: Pace::new(now, None),
            share_permille: 0,
            last_arrival: None,
            sample_bytes: 0,
            sample_time: Duration::ZERO,
        }
    }

    pub(super) fn open(&mut self, now: Duration, share_permille: u32) {
        self.state = State::Open;
        self.heard_at = now;
        // Another link, perhaps: what was measured before says nothing.
        self.rate = None;
        self.last_arrival = None;
        self.pace = Pace::new(now, None);
        self.share_permille = share_permille;
    }

    pub(super) fn rest(&mut self, now: Duration, longest: Duration) {
        self.state = State::Resting { until: now + self.pause };
        self.pause = (self.pause * 2).min(longest);
    }

    pub(super) fn set_share(&mut self, now: Duration, share_permille: u32) {
        if self.share_permille != share_permille {
            self.share_permille = share_permille;
            self.repace(now);
        }
    }

    /// Whether its share of its link leaves room for another request.
    pub(super) fn may_be_asked(&mut self, now: Duration) -> bool {
        self.state == State::Open && self.pace.is_open(now)
    }

    pub(super) fn arrived(
        &mut self,
        now: Duration,
        asked_at: Duration,
        wire_bytes: u64,
        first_pause: Duration,
    ) {
        self.heard_at = now;
        self.pause = first_pause;
        self.pace.spend(now, wire_bytes);
        match self.last_arrival {
            // It had this request before it sent the block before, so what passed was spent on sending.
            Some(last) if asked_at + self.round_trip <= last => self.sample(now, now - last, wire_bytes),
            _ => {
                let took = now.saturating_sub(asked_at);
                let is_first = self.round_trip.is_zero();
                self.round_trip = if is_first { took } else { self.round_trip.min(took) };
            }
        }
        self.last_arrival = Some(now);
    }

    fn sample(&mut self, now: Duration, took: Duration, wire_bytes: u64) {
        self.sample_bytes += wire_bytes;
        self.sample_time += took;
        if self.sample_bytes < SAMPLE_BYTES && self.sample_time < SAMPLE_TIME * 50
            || self.sample_time < SAMPLE_TIME
        {
            return;
        }
        let measured = u128::from(self.sample_bytes) * 1_000_000 / self.sample_time.as_micros().max(1);
        let measured = u64::try_from(measured).unwrap_or(u64::MAX).max(1);
        self.rate = Some(self.rate.map_or(measured, |rate| rate / 4 * 3 + measured / 4));
        (self.sample_bytes, self.sample_time) = (0, Duration::ZERO);
        self.repace(now);
    }

    fn repace(&mut self, now: Duration) {
        let share = self.rate.map(|rate| (rate / 1000).saturating_mul(self.share_permille.into()).max(1));
        self.pace.set_rate(now, share);
    }
}
