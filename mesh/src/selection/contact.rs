//! How long two nodes will reach each other: from where they go, or from what contacts were like before.
//!
//! A forecast is no promise. The chance that a contact lasts longer than `t` is log-logistic, which needs no logarithm, so
//! everybody computes the same:
//!
//! ```text
//! lasting(t, median, k) = 1 / (1 + (t / median)^k)
//! forecast:   mean over the ENDS of straight_on(t, end): where one of the two turns sooner or later, or nobody does, in each of RANGES
//! predicted:  straight_on(t, way out) x lasting(t, TURNING, 2), with straight_on(t, end) = lasting(t, LATER x end, 4)
//! otherwise:  lasting(t, median of earlier contacts, 2)
//! ```
//!
//! The constants of a prediction were fitted by eye to 12,000 predictions (positions off by up to 7 m, velocities by up to
//! 0.7 m/s, true range within 10 % of the nominal 300 m) on movement recorded in The ONE (rh50, the hour after the excerpt
//! that choices are judged by) and SUMO. Of contacts predicted for 10 to 80 s, half the time was reached by 95 to 98 % and
//! 89 to 98 %, the whole by 67 to 72 % and 66 to 75 %, half as long again by 25 to 30 % and 48 to 56 %; the formula gives 97,
//! 71 and 33 % before turning. Of those predicted for more than 300 s, 80 s were reached by 67 % and 93 %; the formula gives
//! 78 %. Shape 2 for earlier contacts: contacts recorded in The ONE (5237: p10 8 s, median 17 s, p90 45 s) and in SUMO
//! (688: 11, 28, 79 s) have p90/p10 of 5.6 and 7.2, which is shape 2.5 and 2.2.
//!
//! A turn ends a contact soon near the end of the range and late in its middle, so it is not a factor but a set of ways: the one
//! who goes faster is the likelier to turn; to the left, to the right, half as often back or to a stop. Beside one factor for all,
//! that took 0.4 points of regret off the convoys (6.2 to 5.8 %, with ENDS of them 5.9) and changed the others by less than their
//! noise, over 3,065 to 11,232 choices with seeds that nothing was fitted to. Tried and not kept, because they gained less than their
//! noise: mean velocities of the last 10, 20, 30 or 60 s beside or instead of the present one; a hazard by how long the contact has
//! lasted (medians of 28 to 300 s); other shapes of every chance here; a spread of the completion; more or less fear of failure.
//! With each pair's true range known it is 5.6 and 5.9 % (Helsinki, convoys), with the ends of all contacts known 3.2 and 3.0 %.
//! The trend of rate or signal was not tried.

use std::time::Duration;

use crate::advert::Position;

/// Median that is assumed when nothing is known: the median of 688 contacts of vehicles at 300 m recorded with SUMO.
pub const UNKNOWN_MEDIAN: Duration = Duration::from_secs(28);
/// Longest forecast: two nodes that stand still have contact for at least this long. Guess.
pub const LONGEST: Duration = Duration::from_secs(3600);
/// Median time for which nodes go on as they do; who turns, or starts, breaks a prediction. See the module's text.
pub const TURNING: Duration = Duration::from_secs(150);
/// Median of how long a contact lasts, by how long the way out of the range would take. See the module's text.
const LATER: f64 = 1.25;
/// How far a radio really reaches, as shares of its nominal range, each as likely. Guess: within a tenth of it. Two that are
/// near the end of the range and move slowly towards each other have hours by the nominal range, and seconds if it is a
/// little shorter; one figure would hide that. Over 60 seeds of three scenarios it makes regret smaller by less than 0.1
/// points (`cloudlet-sim select-regret`), so it is here for such cases and not for the mean.
pub const RANGES: [f64; 4] = [0.92, 0.97, 1.03, 1.08];
/// Ends of a forecast, each as likely. With 16 the regret of the convoys was 0.1 points larger, with 160 no smaller.
pub const ENDS: usize = 24;
/// Median way that somebody goes straight on, metres. Fitted by regret, on seeds that it was not judged by: 600 and 2,200 were
/// worse by less than the noise, 150 by a point.
pub const STRAIGHT_M: f64 = 1100.0;
/// When the turn comes, by chance: 10, 30, 50, 70 and 90 % of them before that many medians (log-logistic, shape 1).
const TURNS: [f64; 5] = [1.0 / 9.0, 3.0 / 7.0, 1.0, 7.0 / 3.0, 9.0];
/// Where to, as a factor of the motion ahead and of that to the left, with its weight: left, right, stop, back. Guess.
const TURNED: [(f64, f64, f64); 4] = [(0.0, 1.0, 2.0), (0.0, -1.0, 2.0), (0.0, 0.0, 1.0), (-1.0, 0.0, 1.0)];
/// A contact at a greater distance than the nominal range shows a longer range: taken as this times the distance.
pub const FARTHER: f64 = 1.05;
/// Fewest earlier contacts that make a forecast. Guess: a median of less says nothing.
pub const FEWEST_CONTACTS: usize = 5;
/// Metres of a degree of latitude, mean radius of the earth.
const METRES_PER_DEGREE: f64 = 111_195.0;
/// Slower than this towards each other is standing still, metres per second: less than satellite navigation tells apart.
const STANDING_M_PER_S: f64 = 0.05;

/// What is known of how long a contact will last.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "one for each candidate of a choice; most are forecasts")]
pub enum Contact {
    /// Nothing.
    #[default]
    Unknown,
    /// Somebody knows: the way out of the radio's range takes this long if nobody turns.
    Predicted {
        /// From now.
        lasts: Duration,
    },
    /// From place and motion of both: how long the way out of the radio's range takes, whoever turns when.
    Forecast {
        /// From now, the soonest first; each as likely.
        ends: [Duration; ENDS],
    },
    /// From earlier contacts.
    History {
        /// Median length of earlier contacts.
        median: Duration,
        /// How long this one has lasted already.
        lasted: Duration,
    },
}

/// Where a node is and where it goes, on a plane.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Motion {
    /// East of any common point, metres.
    pub east_m: f64,
    /// North of it, metres.
    pub north_m: f64,
    /// Towards the east, metres per second.
    pub east_m_per_s: f64,
    /// Towards the north, metres per second.
    pub north_m_per_s: f64,
}

impl Motion {
    /// From what adverts carry: a position, a heading (degrees clockwise from north) and a speed. `origin` is the
    /// common point, best one of the two nodes'. Good to a few per mille within some kilometres.
    pub fn on_earth(origin: Position, at: Position, heading_deg: f64, speed_m_per_s: f64) -> Self {
        let shrink = origin.latitude_deg().to_radians().cos();
        let mut east_deg = at.longitude_deg() - origin.longitude_deg();
        if east_deg.abs() > 180.0 {
            east_deg -= 360.0 * east_deg.signum();
        }
        let (sin, cos) = heading_deg.to_radians().sin_cos();
        Self {
            east_m: east_deg * METRES_PER_DEGREE * shrink,
            north_m: (at.latitude_deg() - origin.latitude_deg()) * METRES_PER_DEGREE,
            east_m_per_s: speed_m_per_s * sin,
            north_m_per_s: speed_m_per_s * cos,
        }
    }
}

impl Contact {
    /// From place and motion of both and the radio's nominal range. Both are in contact now, so the range is at least
    /// [`FARTHER`] than they are apart. Anything that is not finite gives [`Contact::Unknown`].
    pub fn predict(ours: &Motion, theirs: &Motion, range_m: f64) -> Self {
        let (x, y) = (theirs.east_m - ours.east_m, theirs.north_m - ours.north_m);
        let (vx, vy) = (theirs.east_m_per_s - ours.east_m_per_s, theirs.north_m_per_s - ours.north_m_per_s);
        if ![x, y, vx, vy, range_m].iter().all(|number| number.is_finite()) || range_m <= 0.0 {
            return Self::Unknown;
        }
        Self::Forecast { ends: evenly(ways(ours, theirs, range_m)) }
    }

    /// From the lengths of earlier contacts, and how long this one has lasted. Fewer than [`FEWEST_CONTACTS`] give
    /// [`Contact::Unknown`].
    pub fn from_history(lengths: &[Duration], lasted: Duration) -> Self {
        if lengths.len() < FEWEST_CONTACTS {
            return Self::Unknown;
        }
        let mut sorted = lengths.to_vec();
        sorted.sort_unstable();
        match sorted.get(sorted.len() / 2) {
            Some(median) => Self::History { median: *median, lasted },
            None => Self::Unknown,
        }
    }

    /// Of two contacts that are both needed, the one that is expected to end first. One of which nothing is known counts only
    /// beside another such.
    pub fn shorter(self, other: Self) -> Self {
        match (self.expected(), other.expected()) {
            (Some(one), Some(two)) if two < one => other,
            (None, Some(_)) => other,
            _ => self,
        }
    }

    /// The chance, 0 to 1, that it lasts for `time` from now.
    pub fn chance(&self, time: Duration) -> f64 {
        match self {
            Self::Unknown => lasting(time, UNKNOWN_MEDIAN),
            Self::Predicted { lasts } => lasting(time, TURNING) * straight_on(time, *lasts),
            Self::Forecast { ends } => {
                let sum: f64 = ends.iter().map(|end| straight_on(time, *end)).sum();
                sum / ends.len() as f64
            }
            Self::History { median, lasted } => {
                lasting(lasted.saturating_add(time), *median) / lasting(*lasted, *median).max(1e-12)
            }
        }
    }

    /// How long it is expected to last from now: of a prediction the way out of the range (the median), but no longer than
    /// [`TURNING`]; else the median. `None` if nothing is known.
    pub fn expected(&self) -> Option<Duration> {
        match self {
            Self::Unknown => None,
            Self::Predicted { lasts } => Some((*lasts).min(TURNING)),
            Self::Forecast { ends } => {
                let middle = &ends[(ends.len() - 1) / 2..=ends.len() / 2];
                Some(middle.iter().sum::<Duration>() / u32::try_from(middle.len()).unwrap_or(1))
            }
            // chance(t) = 1/2 means (lasted + t)² = median² + 2 lasted².
            Self::History { median, lasted } => {
                let (median_s, lasted_s) = (median.as_secs_f64(), lasted.as_secs_f64());
                let whole_s = (median_s * median_s + 2.0 * lasted_s * lasted_s).sqrt();
                Some(
                    Duration::try_from_secs_f64((whole_s - lasted_s).max(0.0))
                        .unwrap_or(LONGEST)
                        .min(LONGEST),
                )
            }
        }
    }
}

/// When the contact would end, and how likely that is, for each range, each turn, and none.
fn ways(ours: &Motion, theirs: &Motion, range_m: f64) -> Vec<(Duration, f64)> {
    let apart = (theirs.east_m - ours.east_m, theirs.north_m - ours.north_m);
    let velocity = |one: &Motion| (one.east_m_per_s, one.north_m_per_s);
    let between = |from: (f64, f64), to: (f64, f64)| (to.0 - from.0, to.1 - from.1);
    let (we, they) = (velocity(ours), velocity(theirs));
    let speeds = [we, they].map(|(east, north)| (east * east + north * north).sqrt());
    let both = speeds[0] + speeds[1];
    let mut ways = Vec::new();
    for share in RANGES {
        // Both are in contact, so the range is longer than they are apart.
        let reach = range_m.max(0.0) * share;
        let reach = reach.max((apart.0 * apart.0 + apart.1 * apart.1).sqrt() * FARTHER);
        let relative = between(we, they);
        let straight = way_out(apart, relative, reach);
        for medians in TURNS {
            let turn_s = medians * STRAIGHT_M / both.max(STANDING_M_PER_S);
            let turn = Duration::try_from_secs_f64(turn_s).unwrap_or(LONGEST);
            if turn >= straight {
                ways.push((straight, 1.0));
                continue;
            }
            let then = (apart.0 + relative.0 * turn_s, apart.1 + relative.1 * turn_s);
            let weight: f64 = TURNED.iter().map(|(.., weight)| weight).sum();
            for (ahead, left, likely) in TURNED {
                let turned =
                    |(east, north): (f64, f64)| (ahead * east - left * north, ahead * north + left * east);
                let after = [between(turned(we), they), between(we, turned(they))];
                for (after, speed) in after.into_iter().zip(speeds) {
                    let end = turn.saturating_add(way_out(then, after, reach)).min(LONGEST);
                    ways.push((end, likely / weight * speed / both));
                }
            }
        }
    }
    ways
}

/// Stands for weighted times by [`ENDS`] that are equally likely, in order.
fn evenly(mut ways: Vec<(Duration, f64)>) -> [Duration; ENDS] {
    ways.sort_by_key(|(end, _)| *end);
    let all: f64 = ways.iter().map(|(_, weight)| weight).sum();
    let mut ends = [Duration::ZERO; ENDS];
    let (mut passed, mut place) = (0.0, 0);
    for (number, end) in ends.iter_mut().enumerate() {
        let wanted = (number as f64 + 0.5) / ENDS as f64 * all;
        while let Some((time, weight)) = ways.get(place) {
            *end = *time;
            if passed + weight >= wanted {
                break;
            }
            passed += weight;
            place += 1;
        }
        if let (true, Some((last, _))) = (place >= ways.len(), ways.last()) {
            *end = *last;
        }
    }
    ends
}

/// How long two that are `(x, y)` apart and move so against each other need to be out of this range.
fn way_out((x, y): (f64, f64), (vx, vy): (f64, f64), range_m: f64) -> Duration {
    let speed_squared = vx * vx + vy * vy;
    if speed_squared < STANDING_M_PER_S * STANDING_M_PER_S {
        return LONGEST;
    }
    // |(x, y) + (vx, vy) t| = range, the later root of a t² + 2 b t + c = 0.
    let b = x * vx + y * vy;
    let apart_squared = x * x + y * y;
    let c = apart_squared - range_m * range_m;
    if c > 0.0 {
        return Duration::ZERO;
    }
    let seconds = (-b + (b * b - speed_squared * c).max(0.0).sqrt()) / speed_squared;
    Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(LONGEST).min(LONGEST)
}

/// Below this a contact is as good as over, seconds; it also keeps 0/0 away.
const SHORTEST_S: f64 = 0.001;

/// The chance of being in range after `time`, if nobody turns and the way out takes `way`.
fn straight_on(time: Duration, way: Duration) -> f64 {
    let squared = ratio_squared(time, way.mul_f64(LATER));
    1.0 / (1.0 + squared * squared)
}

fn lasting(time: Duration, median: Duration) -> f64 {
    1.0 / (1.0 + ratio_squared(time, median))
}

fn ratio_squared(time: Duration, median: Duration) -> f64 {
    let ratio = time.as_secs_f64() / median.as_secs_f64().max(SHORTEST_S);
    ratio * ratio
}

#[cfg(test)]
mod tests {
    use super::*;

    const STILL: Motion = Motion { east_m: 0.0, north_m: 0.0, east_m_per_s: 0.0, north_m_per_s: 0.0 };

    fn lasts_s(theirs: Motion) -> f64 {
        let apart = (theirs.east_m, theirs.north_m);
        let reach = f64::max(250.0, FARTHER * (apart.0 * apart.0 + apart.1 * apart.1).sqrt());
        way_out(apart, (theirs.east_m_per_s, theirs.north_m_per_s), reach).as_secs_f64()
    }

    #[test]
    fn who_passes_by_is_gone_when_it_leaves_the_circle() {
        // From the centre, from 230 m before it through it, 150 m beside it (out at 200 m), and outward.
        let passing = |east_m, north_m| lasts_s(Motion { east_m, north_m, east_m_per_s: 10.0, ..STILL });
        assert!((passing(0.0, 0.0) - 25.0).abs() < 1e-9);
        assert!((passing(-230.0, 0.0) - 48.0).abs() < 1e-9);
        assert!((passing(-150.0, 150.0) - 35.0).abs() < 1e-9);
        assert!((passing(230.0, 0.0) - 2.0).abs() < 1e-9);
    }

    #[test]
    fn beyond_the_range_the_radio_carries_farther_and_standing_still_it_stays() {
        assert!((lasts_s(Motion { east_m: 300.0, east_m_per_s: 1.0, ..STILL }) - 15.0).abs() < 1e-6);
        assert_eq!(lasts_s(Motion { east_m: 300.0, ..STILL }), LONGEST.as_secs_f64());
        let broken = Motion { east_m: f64::NAN, ..STILL };
        assert_eq!(Contact::predict(&STILL, &broken, 250.0), Contact::Unknown);
    }

    #[test]
    fn the_median_is_the_time_with_even_chances() {
        let second = Duration::from_secs;
        for contact in [
            Contact::History { median: second(20), lasted: second(0) },
            Contact::History { median: second(20), lasted: second(45) },
        ] {
            let median = contact.expected().unwrap();
            assert!((contact.chance(median) - 0.5).abs() < 1e-6, "{contact:?} {median:?}");
            assert!(contact.chance(second(0)) > 0.999);
        }
        assert_eq!(Contact::Unknown.expected(), None);
        assert!((Contact::Unknown.chance(UNKNOWN_MEDIAN) - 0.5).abs() < 1e-9);
    }

    #[test]
    fn predictions_are_believed_as_far_as_recorded_contacts_bear_them_out() {
        let chance = |lasts, time: f64| {
            Contact::Predicted { lasts: Duration::from_secs(lasts) }.chance(Duration::from_secs_f64(time))
        };
        // Lowest and highest share in the two recordings, see the module's text.
        for (lasts, time, low, high) in
            [(20, 10.0, 0.94, 0.99), (20, 20.0, 0.65, 0.76), (20, 30.0, 0.24, 0.57), (1000, 80.0, 0.66, 0.94)]
        {
            let chance = chance(lasts, time);
            assert!((low..high).contains(&chance), "{lasts} s, {time} s: {chance}");
        }
    }

    #[test]
    fn at_the_end_of_the_range_hours_may_be_seconds() {
        // 245 m away, coming nearer at walking pace: by a range of 250 m it lasts for eight minutes.
        let theirs = Motion { east_m: 245.0, east_m_per_s: -1.0, ..STILL };
        let forecast = Contact::predict(&STILL, &theirs, 250.0);
        assert!(matches!(forecast, Contact::Forecast { ends } if ends.is_sorted()), "{forecast:?}");
        // 200 m beside the way of one that passes at 10 m/s: how far the radio reaches makes it 11 or 18 s.
        let passing = Motion { north_m: 200.0, east_m_per_s: 10.0, ..STILL };
        let Contact::Forecast { ends } = Contact::predict(&STILL, &passing, 250.0) else { panic!() };
        for straight_s in [11, 13, 16, 18] {
            assert!(ends.iter().any(|end| end.as_secs() == straight_s), "{ends:?}");
        }
        assert_eq!(Contact::Forecast { ends }.expected(), Some((ends[11] + ends[12]) / 2));
    }

    #[test]
    fn who_turns_is_lost_sooner_near_the_end_of_the_range() {
        let north = Motion { north_m_per_s: 10.0, ..STILL };
        let beside = |east_m| Contact::predict(&north, &Motion { east_m, ..north }, 250.0);
        let chance = |east_m, seconds| beside(east_m).chance(Duration::from_secs(seconds));
        // If nobody turned, both would last for ever.
        assert!(beside(20.0).expected() > beside(240.0).expected());
        assert!(chance(20.0, 20) > 0.9 && chance(240.0, 20) < chance(20.0, 20) - 0.05);
        // Who stands still turns nowhere.
        let still = Contact::predict(&STILL, &Motion { east_m: 240.0, ..STILL }, 250.0);
        assert_eq!(still.expected(), Some(LONGEST));
    }

    #[test]
    fn few_earlier_contacts_say_nothing() {
        let lengths = [3, 9, 5, 7, 1].map(Duration::from_secs);
        let zero = Duration::ZERO;
        assert_eq!(Contact::from_history(&lengths[1..], zero), Contact::Unknown);
        let median = Duration::from_secs(5);
        assert_eq!(Contact::from_history(&lengths, zero), Contact::History { median, lasted: zero });
    }

    #[test]
    fn headings_are_clockwise_from_north_and_the_date_line_is_no_wall() {
        let at = |latitude, longitude| Position::new(latitude, longitude).unwrap();
        let east = Motion::on_earth(at(60.0, 179.999), at(60.0, -179.999), 90.0, 5.0);
        assert!((east.east_m - 0.002 * METRES_PER_DEGREE * 0.5).abs() < 0.5, "{east:?}");
        assert!((east.east_m_per_s - 5.0).abs() < 1e-9 && east.north_m_per_s.abs() < 1e-9);
    }
}
