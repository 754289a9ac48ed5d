//! Packets that are lost below a stream, and the time that it takes to repeat them as QUIC does.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

/// What a receiver may wait before it acknowledges (RFC 9000, 18.2).
const MAX_ACK_DELAY: Duration = Duration::from_millis(25);
/// Packets that are sent when nothing was acknowledged in time (RFC 9002, 6.2.4; quinn sends as many).
const PROBES: u32 = 2;
/// Nobody repeats for longer: the link has been given up by then.
const MAX_REPEATS: u32 = 12;

/// Losses of every ordered pair (Gilbert's model: all is lost while it is bad).
pub struct Air {
    becomes_bad: f64,
    becomes_good: f64,
    is_bad: BTreeMap<(usize, usize), bool>,
}

impl Air {
    /// `share` of all packets is lost, `in_a_row` at a time on the average; 1 / (1 - share) in a row is pure chance.
    pub fn new(share: f64, in_a_row: f64) -> Self {
        let becomes_good = 1.0 / in_a_row;
        let becomes_bad = share * becomes_good / (1.0 - share);
        Self { becomes_bad, becomes_good, is_bad: BTreeMap::new() }
    }

    fn loses(&mut self, pair: (usize, usize), rng: &mut ChaCha8Rng) -> bool {
        let is_bad = self.is_bad.entry(pair).or_default();
        *is_bad =
            if *is_bad { !rng.random_bool(self.becomes_good) } else { rng.random_bool(self.becomes_bad) };
        *is_bad
    }

    /// How much later something arrives because it has to be repeated, on a link with this round trip.
    pub fn repeats(&mut self, pair: (usize, usize), round_trip: Duration, rng: &mut ChaCha8Rng) -> Duration {
        let mut late = Duration::ZERO;
        // RFC 9002, 6.2.1, with a deviation of a quarter of the round trip, which is what queues make of it.
        let mut timeout = round_trip * 2 + MAX_ACK_DELAY;
        let mut copies = 1;
        for _ in 0..MAX_REPEATS {
            if (0..copies).any(|_| !self.loses(pair, rng)) {
                break;
            }
            late += timeout;
            timeout *= 2;
            copies = PROBES;
        }
        late
    }
}
