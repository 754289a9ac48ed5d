//! The discrete-event engine: a queue of things that will happen, and the simulated clock that they move.
//!
//! Time is the [`Duration`] since the scenario's start. Two events at the same time happen in the order in which
//! they were scheduled, so a run depends on nothing but its inputs.
//!
//! **Invariant:** the clock never goes backwards, and nothing in this crate's simulated half reads a real one.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::time::Duration;

/// A queue of future events of type `E` with the simulated clock.
#[derive(Debug)]
pub struct Engine<E> {
    now: Duration,
    scheduled: u64,
    queue: BinaryHeap<Reverse<Entry<E>>>,
}

/// What is due when. Ordered by time, then by the order of scheduling; the event itself takes no part.
#[derive(Debug)]
struct Entry<E> {
    at: Duration,
    sequence: u64,
    event: E,
}

impl<E> Entry<E> {
    fn key(&self) -> (Duration, u64) {
        (self.at, self.sequence)
    }
}

impl<E> PartialEq for Entry<E> {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl<E> Eq for Entry<E> {}

impl<E> PartialOrd for Entry<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Entry<E> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

impl<E> Default for Engine<E> {
    fn default() -> Self {
        Self { now: Duration::ZERO, scheduled: 0, queue: BinaryHeap::new() }
    }
}

impl<E> Engine<E> {
    /// Simulated time since the start.
    pub fn now(&self) -> Duration {
        self.now
    }

    /// Schedules `event` for `at`. A time that has passed means now: the event is late, never lost.
    pub fn at(&mut self, at: Duration, event: E) {
        let entry = Entry { at: at.max(self.now), sequence: self.scheduled, event };
        self.scheduled += 1;
        self.queue.push(Reverse(entry));
    }

    /// Schedules `event` for `delay` from now.
    pub fn after(&mut self, delay: Duration, event: E) {
        self.at(self.now.saturating_add(delay), event);
    }

    /// The next event that is due no later than `end`, with the clock moved to it. `None` when there is none; the
    /// clock then stands at `end`, and later events stay queued.
    pub fn next(&mut self, end: Duration) -> Option<E> {
        match self.queue.peek() {
            Some(Reverse(entry)) if entry.at <= end => {
                let Reverse(entry) = self.queue.pop()?;
                self.now = entry.at;
                Some(entry.event)
            }
            _ => {
                self.now = self.now.max(end);
                None
            }
        }
    }

    /// How many events wait.
    pub fn pending(&self) -> usize {
        self.queue.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn drain(engine: &mut Engine<u32>, end: Duration) -> Vec<(u64, u32)> {
        let mut seen = Vec::new();
        while let Some(event) = engine.next(end) {
            seen.push((engine.now().as_secs(), event));
        }
        seen
    }

    #[test]
    fn events_of_one_time_keep_their_order() {
        let mut engine = Engine::default();
        for (at, event) in [(5, 1), (3, 2), (5, 3), (3, 4)] {
            engine.at(Duration::from_secs(at), event);
        }
        assert_eq!(drain(&mut engine, Duration::from_secs(9)), [(3, 2), (3, 4), (5, 1), (5, 3)]);
        assert_eq!(engine.now(), Duration::from_secs(9));
    }

    #[test]
    fn the_end_holds_back_what_is_later() {
        let mut engine = Engine::default();
        engine.at(Duration::from_secs(10), 1);
        assert_eq!(drain(&mut engine, Duration::from_secs(9)), []);
        assert_eq!(engine.pending(), 1);
        assert_eq!(drain(&mut engine, Duration::from_secs(10)), [(10, 1)]);
    }

    #[test]
    fn an_event_for_the_past_is_late_and_not_lost() {
        let mut engine = Engine::default();
        engine.at(Duration::from_secs(4), 1);
        assert_eq!(engine.next(Duration::from_secs(9)), Some(1));
        engine.at(Duration::from_secs(1), 2);
        assert_eq!(drain(&mut engine, Duration::from_secs(9)), [(4, 2)]);
    }

    proptest! {
        #[test]
        fn the_clock_never_goes_backwards(times in prop::collection::vec(0_u64..50, 0..60)) {
            let mut engine = Engine::default();
            for (event, at) in (0..).zip(&times) {
                engine.at(Duration::from_secs(*at), event);
            }
            let seen = drain(&mut engine, Duration::from_secs(50));
            prop_assert_eq!(seen.len(), times.len());
            prop_assert!(seen.is_sorted(), "{:?}", seen);
        }
    }
}
