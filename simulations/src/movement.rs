//! Who is where: nodes on a plane that walk from waypoint to waypoint.
//!
//! A node's way is a list of straight [`Leg`]s for the whole run, made before anything else happens. Movement does
//! not depend on what nodes do, and with the legs known contacts are computed exactly instead of being sampled.

use std::time::Duration;

use rand_chacha::ChaCha8Rng;

use crate::random;

/// A place on the plane, metres.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// Metres to the east.
    pub x_m: f64,
    /// Metres to the north.
    pub y_m: f64,
}

impl Point {
    /// Metres between two places.
    pub fn distance_m(self, other: Self) -> f64 {
        let (dx, dy) = (self.x_m - other.x_m, self.y_m - other.y_m);
        (dx * dx + dy * dy).sqrt()
    }
}

/// A straight movement at constant speed, or a stay where `from` equals `to`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Leg {
    /// When it starts.
    pub start: Duration,
    /// When it ends; after `start`.
    pub end: Duration,
    /// Where it starts.
    pub from: Point,
    /// Where it ends.
    pub to: Point,
}

impl Leg {
    /// Where the node is at `at`; the nearer end outside the leg's time.
    pub fn position(&self, at: Duration) -> Point {
        let length = self.end.saturating_sub(self.start).as_secs_f64();
        if length == 0.0 {
            return self.to;
        }
        let share = (at.saturating_sub(self.start).as_secs_f64() / length).min(1.0);
        Point {
            x_m: self.from.x_m + (self.to.x_m - self.from.x_m) * share,
            y_m: self.from.y_m + (self.to.y_m - self.from.y_m) * share,
        }
    }
}

/// How a kind of node moves: random waypoints with pauses (Johnson and Maltz, 1996).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Waypoints {
    /// East-west extent of the area, metres.
    pub width_m: f64,
    /// North-south extent of the area, metres.
    pub height_m: f64,
    /// Slowest speed, metres per second. Zero together with `fastest_m_per_s` means a node that stays.
    pub slowest_m_per_s: f64,
    /// Fastest speed, metres per second.
    pub fastest_m_per_s: f64,
    /// Longest pause at a waypoint, seconds; pauses are drawn evenly from zero to this.
    pub longest_pause_s: f64,
}

/// A node's legs, in order and without a gap, from zero to the end of the run.
#[derive(Debug, Clone, PartialEq)]
pub struct Path(pub Vec<Leg>);

impl Path {
    /// Draws a way of length `duration` from `rng`.
    pub fn random(waypoints: &Waypoints, duration: Duration, rng: &mut ChaCha8Rng) -> Self {
        let mut legs = Vec::new();
        let mut here = waypoints.place(rng);
        let mut now = Duration::ZERO;
        while now < duration {
            let speed_m_per_s = random::between(rng, waypoints.slowest_m_per_s, waypoints.fastest_m_per_s);
            if speed_m_per_s <= 0.0 {
                legs.push(Leg { start: now, end: duration, from: here, to: here });
                break;
            }
            let to = waypoints.place(rng);
            let walk = Duration::from_secs_f64(here.distance_m(to) / speed_m_per_s);
            let pause = Duration::from_secs_f64(random::between(rng, 0.0, waypoints.longest_pause_s));
            for (length, from) in [(walk, here), (pause, to)] {
                if !length.is_zero() {
                    legs.push(Leg { start: now, end: now + length, from, to });
                    now += length;
                }
            }
            here = to;
        }
        Self(legs)
    }

    /// Where the node is at `at`. `None` only for a way without legs.
    pub fn position(&self, at: Duration) -> Option<Point> {
        let index = self.0.partition_point(|leg| leg.end <= at).min(self.0.len().checked_sub(1)?);
        self.0.get(index).map(|leg| leg.position(at))
    }
}

impl Waypoints {
    fn place(&self, rng: &mut ChaCha8Rng) -> Point {
        Point { x_m: random::between(rng, 0.0, self.width_m), y_m: random::between(rng, 0.0, self.height_m) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Purpose;
    use proptest::prelude::*;

    const AREA: Waypoints = Waypoints {
        width_m: 500.0,
        height_m: 200.0,
        slowest_m_per_s: 1.0,
        fastest_m_per_s: 4.0,
        longest_pause_s: 20.0,
    };

    proptest! {
        #[test]
        fn ways_have_no_gap_keep_to_the_area_and_to_the_speed(seed: u64) {
            let end = Duration::from_secs(900);
            let path = Path::random(&AREA, end, &mut random::stream(seed, Purpose::Movement, 0));
            prop_assert_eq!(path.0[0].start, Duration::ZERO);
            prop_assert!(path.0.last().unwrap().end >= end);
            for pair in path.0.windows(2) {
                prop_assert_eq!(pair[0].end, pair[1].start);
                prop_assert_eq!(pair[0].to, pair[1].from);
            }
            for second in 0..900_u32 {
                let at = path.position(Duration::from_secs(second.into())).unwrap();
                let then = path.position(Duration::from_secs(u64::from(second) + 1)).unwrap();
                prop_assert!((0.0..=500.0).contains(&at.x_m) && (0.0..=200.0).contains(&at.y_m));
                prop_assert!(at.distance_m(then) <= 4.0 + 1e-6);
            }
        }
    }

    #[test]
    fn a_node_without_speed_stays() {
        let parked = Waypoints { slowest_m_per_s: 0.0, fastest_m_per_s: 0.0, ..AREA };
        let path =
            Path::random(&parked, Duration::from_secs(60), &mut random::stream(1, Purpose::Movement, 0));
        assert_eq!(path.0.len(), 1);
        assert_eq!(path.position(Duration::ZERO), path.position(Duration::from_secs(60)));
    }
}
