//! How much may be on its way to the destination: enough to keep the link busy, and so little that the last frame, for which a VM
//! stands still, does not wait behind what was sent before.
//!
//! The transport below buffers megabytes, so that writing to it tells nothing of the link. The destination says of each
//! frame that it has come. Pure: it reads no clock.

use std::collections::VecDeque;
use std::time::Duration;

/// Bytes that may be on their way at first, and at least: what a link of 10 Mbit/s carries in 50 ms. Frames are longer at times,
/// and one may always be sent.
const LEAST: u64 = 64 * 1024;
/// The same at most: 300 Mbit/s at 100 ms. A guess.
const MOST: u64 = 4 * 1024 * 1024;
/// Longest time that a byte should wait in queues, beside the shortest trip that was seen. A guess: what a link needs in store for
/// when the sender is late, and little of a downtime.
const QUEUE: Duration = Duration::from_millis(80);
/// Fewer bytes tell nothing of a rate.
const TELLING: u64 = 64 * 1024;

/// What is on its way, and what the link has shown.
#[derive(Debug)]
pub(super) struct Flow {
    /// Length of each frame that is on its way, and when it was sent.
    waiting: VecDeque<(u64, Duration)>,
    in_flight: u64,
    taken_frames: u64,
    taken_bytes: u64,
    window: u64,
    /// The shortest time from sending a frame to hearing that it has come.
    shortest: Option<Duration>,
    /// How long something was on its way, up to the last change.
    busy: Duration,
    changed: Duration,
}

impl Flow {
    pub fn new() -> Self {
        Self {
            waiting: VecDeque::new(),
            in_flight: 0,
            taken_frames: 0,
            taken_bytes: 0,
            window: LEAST,
            shortest: None,
            busy: Duration::ZERO,
            changed: Duration::ZERO,
        }
    }

    /// Whether another frame may be sent.
    pub fn has_room(&self) -> bool {
        self.in_flight < self.window
    }

    /// A frame is sent.
    pub fn sent(&mut self, now: Duration, bytes: u64) {
        self.pass(now);
        self.waiting.push_back((bytes, now));
        self.in_flight += bytes;
    }

    /// So many frames have come in all. `false`: more than were sent.
    pub fn taken(&mut self, now: Duration, frames: u64) -> bool {
        self.pass(now);
        while self.taken_frames < frames {
            let Some((bytes, sent)) = self.waiting.pop_front() else { return false };
            self.taken_frames += 1;
            self.taken_bytes += bytes;
            let was_full = self.in_flight >= self.window;
            self.in_flight -= bytes;
            self.adapt(bytes, now.saturating_sub(sent), was_full);
        }
        true
    }

    /// More while frames come as fast as they can, less when they wait in queues.
    fn adapt(&mut self, bytes: u64, trip: Duration, was_full: bool) {
        let shortest = self.shortest.map_or(trip, |shortest| shortest.min(trip));
        self.shortest = Some(shortest);
        self.window = if trip > shortest + QUEUE * 2 {
            self.window.saturating_sub(bytes / 4)
        } else if was_full && trip < shortest + QUEUE {
            self.window + bytes
        } else {
            self.window
        };
        self.window = self.window.clamp(LEAST, MOST);
    }

    fn pass(&mut self, now: Duration) {
        if self.in_flight > 0 {
            self.busy += now.saturating_sub(self.changed);
        }
        self.changed = now;
    }

    /// What the link carries while there is something to carry, bytes each second; nothing before that can be told.
    pub fn rate_bytes_s(&self) -> Option<f64> {
        let seconds = self.busy.as_secs_f64();
        (self.taken_bytes >= TELLING && seconds > 0.0).then(|| self.taken_bytes as f64 / seconds)
    }

    /// Bytes that are on their way.
    pub fn in_flight(&self) -> u64 {
        self.in_flight
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends frames over a link for ten seconds; gives bytes that came, and the longest that one waited after the first second.
    fn over(rate_bytes_s: f64, trip: Duration, frame: u64) -> (Flow, Duration) {
        let (mut flow, mut now, step) = (Flow::new(), Duration::ZERO, Duration::from_millis(1));
        let mut link_free = Duration::ZERO;
        let mut arrivals: VecDeque<(Duration, Duration)> = VecDeque::new();
        let (mut frames, mut longest) = (0, Duration::ZERO);
        while now < Duration::from_secs(10) {
            while flow.has_room() {
                flow.sent(now, frame);
                link_free = link_free.max(now) + Duration::from_secs_f64(frame as f64 / rate_bytes_s);
                arrivals.push_back((link_free + trip, now));
            }
            now += step;
            while let Some((_, sent)) = arrivals.pop_front_if(|(at, _)| *at <= now) {
                frames += 1;
                assert!(flow.taken(now, frames));
                if now > Duration::from_secs(3) {
                    longest = longest.max(now - sent);
                }
            }
        }
        (flow, longest)
    }

    #[test]
    fn a_link_is_kept_busy_and_its_queue_short() {
        for (mbit, trip_ms, frame) in [
            (5.0, 50, 20_000),
            (10.0, 50, 60_000),
            (25.0, 50, 60_000),
            (100.0, 50, 60_000),
            (100.0, 5, 100_000),
        ] {
            let rate = mbit * 125_000.0;
            let (flow, longest) = over(rate, Duration::from_millis(trip_ms), frame);
            let used = flow.taken_bytes as f64 / 10.0 / rate;
            assert!(used > 0.85, "{mbit} Mbit/s: {used}");
            let found = flow.rate_bytes_s().unwrap() / rate;
            assert!((0.8..1.05).contains(&found), "{mbit} Mbit/s: {found}");
            let own = Duration::from_secs_f64(frame as f64 / rate) * 2 + Duration::from_millis(trip_ms);
            assert!(longest < own + QUEUE * 3, "{mbit} Mbit/s: {longest:?}");
        }
    }

    #[test]
    fn pauses_are_not_the_links() {
        let mut flow = Flow::new();
        for second in 0..10 {
            let now = Duration::from_secs(second);
            flow.sent(now, 100_000);
            assert!(flow.taken(now + Duration::from_millis(100), second + 1));
        }
        assert_eq!(flow.rate_bytes_s(), Some(1e6));
        assert_eq!(flow.in_flight(), 0);
        assert!(!flow.taken(Duration::from_secs(10), 11), "more than were sent");
    }
}
