//! Contacts: who could talk to whom, and when. Computed from movement, or read from a recorded trace.
//!
//! A trace is text in the form of The ONE's `StandardEventsReader`, one event a line:
//! `<seconds> CONN <node> <node> up|down`, in the order of time; `#` starts a comment. A contact that is still up
//! at the end of the trace lasts to the end of the run.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::movement::{Path, Point};

/// Longest trace that is read, bytes. Four hours of 50 nodes take 0.24 MB.
pub const MAX_TRACE_BYTES: usize = 64 * 1024 * 1024;

/// Gaps up to this long between two legs' contacts are rounding, not lost contacts.
const ROUNDING: Duration = Duration::from_millis(1);

/// Two nodes in reach of each other from `up` to `down`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Contact {
    /// Start of the contact.
    pub up: Duration,
    /// End of the contact; after `up`.
    pub down: Duration,
    /// The node with the smaller number.
    pub low: u32,
    /// The node with the larger number.
    pub high: u32,
}

impl Contact {
    /// How long it lasts.
    pub fn length(&self) -> Duration {
        self.down.saturating_sub(self.up)
    }
}

/// A trace that cannot be read. Nothing was kept of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TraceError {
    /// A line that is no event.
    #[error("line {line}: '{text}' is not '<seconds> CONN <node> <node> up|down'")]
    Line {
        /// Line number from 1.
        line: usize,
        /// The line's beginning.
        text: String,
    },
    /// An event that cannot follow those before it.
    #[error("line {line}: {problem}")]
    Order {
        /// Line number from 1.
        line: usize,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Longer than [`MAX_TRACE_BYTES`].
    #[error(
        "the trace has {bytes} bytes; at most {MAX_TRACE_BYTES} are read. Cut it to the hours that are needed"
    )]
    TooLong {
        /// Its length.
        bytes: usize,
    },
}

/// Reads a recorded trace. Contacts are cut off at `end`; later ones are left out. Ordered by start, then nodes.
pub fn from_trace(text: &str, end: Duration) -> Result<Vec<Contact>, TraceError> {
    if text.len() > MAX_TRACE_BYTES {
        return Err(TraceError::TooLong { bytes: text.len() });
    }
    let mut up_since: BTreeMap<(u32, u32), Duration> = BTreeMap::new();
    let mut contacts = Vec::new();
    let mut last = Duration::ZERO;
    for (line, text) in (1..).zip(text.lines()) {
        let event = text.split('#').next().unwrap_or_default().trim();
        if event.is_empty() {
            continue;
        }
        let event =
            parse(event).ok_or_else(|| TraceError::Line { line, text: text.chars().take(60).collect() })?;
        let wrong = |problem| TraceError::Order { line, problem };
        if event.at < last {
            return Err(wrong("earlier than the line before"));
        }
        last = event.at;
        let pair = (event.low, event.high);
        match (event.up, up_since.remove(&pair)) {
            (true, None) => _ = up_since.insert(pair, event.at),
            (false, Some(up)) => contacts.push(Contact { up, down: event.at, low: pair.0, high: pair.1 }),
            (true, Some(_)) => return Err(wrong("this contact is up already")),
            (false, None) => return Err(wrong("this contact is not up")),
        }
    }
    contacts.extend(up_since.into_iter().map(|((low, high), up)| Contact { up, down: end, low, high }));
    Ok(clip(contacts, end))
}

struct Event {
    at: Duration,
    low: u32,
    high: u32,
    up: bool,
}

fn parse(line: &str) -> Option<Event> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [at, "CONN", a, b, state] = words[..] else { return None };
    let at = Duration::try_from_secs_f64(at.parse().ok()?).ok()?;
    let (a, b): (u32, u32) = (a.parse().ok()?, b.parse().ok()?);
    let up = match state {
        "up" => true,
        "down" => false,
        _ => return None,
    };
    (a != b).then_some(Event { at, low: a.min(b), high: a.max(b), up })
}

fn clip(mut contacts: Vec<Contact>, end: Duration) -> Vec<Contact> {
    for contact in &mut contacts {
        contact.down = contact.down.min(end);
    }
    contacts.retain(|contact| contact.up < contact.down);
    contacts.sort_unstable();
    contacts
}

/// The contacts between each of `low` and each of `high`, given as node numbers and ways, where two nodes reach each
/// other up to `range_m` metres. Exact crossing times, not samples. Ordered by start, then nodes.
pub fn from_paths(low: &[(u32, &Path)], high: &[(u32, &Path)], range_m: f64, end: Duration) -> Vec<Contact> {
    let mut contacts = Vec::new();
    for (a, a_path) in low {
        for (b, b_path) in high {
            let near = intervals(a_path, b_path, range_m);
            let contact = |(up, down)| Contact { up, down, low: *a.min(b), high: *a.max(b) };
            contacts.extend(near.into_iter().map(contact));
        }
    }
    clip(contacts, end)
}

/// When two ways are within `range_m` of each other.
fn intervals(a: &Path, b: &Path, range_m: f64) -> Vec<(Duration, Duration)> {
    let mut near: Vec<(Duration, Duration)> = Vec::new();
    let (mut i, mut j) = (0, 0);
    while let (Some(leg), Some(other)) = (a.0.get(i), b.0.get(j)) {
        let start = leg.start.max(other.start);
        let end = leg.end.min(other.end);
        let apart = |at| {
            let (p, q) = (leg.position(at), other.position(at));
            Point { x_m: p.x_m - q.x_m, y_m: p.y_m - q.y_m }
        };
        if let Some((up, down)) = within(apart(start), apart(end), range_m) {
            let length = end.saturating_sub(start);
            let (up, down) = (start + length.mul_f64(up), start + length.mul_f64(down));
            match near.last_mut() {
                Some(last) if up.saturating_sub(last.1) <= ROUNDING => last.1 = last.1.max(down),
                _ => near.push((up, down)),
            }
        }
        i += usize::from(leg.end == end);
        j += usize::from(other.end == end);
    }
    near
}

/// The share of the straight way from `from` to `to` (0 to 1, in and out) that is inside the circle of `range_m`
/// around the origin.
fn within(from: Point, to: Point, range_m: f64) -> Option<(f64, f64)> {
    let (vx, vy) = (to.x_m - from.x_m, to.y_m - from.y_m);
    // |from + v t|^2 = range^2 as a t^2 + 2 b t + c = 0.
    let a = vx * vx + vy * vy;
    let b = from.x_m * vx + from.y_m * vy;
    let c = from.x_m * from.x_m + from.y_m * from.y_m - range_m * range_m;
    if a == 0.0 {
        return (c <= 0.0).then_some((0.0, 1.0));
    }
    let discriminant = b * b - a * c;
    if discriminant <= 0.0 {
        return None;
    }
    let root = discriminant.sqrt();
    let (enter, leave) = (((-b - root) / a).max(0.0), ((-b + root) / a).min(1.0));
    (enter < leave).then_some((enter, leave))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::movement::{Leg, Waypoints};
    use crate::random::{self, Purpose};
    use proptest::prelude::*;

    const END: Duration = Duration::from_secs(600);

    fn seconds(up: u64, down: u64, low: u32, high: u32) -> Contact {
        Contact { up: Duration::from_secs(up), down: Duration::from_secs(down), low, high }
    }

    #[test]
    fn traces_are_read_and_what_is_up_lasts_to_the_end() {
        let text = "# two nodes\n1.00 CONN 7 3 up\n\n4.50 CONN 3 7 down\n590 CONN 1 2 up # stays\n";
        let found = from_trace(text, END).unwrap();
        let first = Contact { down: Duration::from_millis(4500), ..seconds(1, 4, 3, 7) };
        assert_eq!(found, [first, seconds(590, 600, 1, 2)]);
    }

    #[test]
    fn contacts_are_cut_at_the_end_of_the_run() {
        let text = "1 CONN 0 1 up\n20 CONN 0 1 down\n30 CONN 0 1 up\n40 CONN 0 1 down\n";
        assert_eq!(from_trace(text, Duration::from_secs(10)).unwrap(), [seconds(1, 10, 0, 1)]);
    }

    #[test]
    fn bad_traces_are_named_by_line() {
        for (text, expected) in [
            ("1 CONN 0 1 up\nx CONN 0 1 down", "line 2: 'x CONN"),
            ("1 CONN 0 1", "line 1:"),
            ("-1 CONN 0 1 up", "line 1:"),
            ("NaN CONN 0 1 up", "line 1:"),
            ("1e300 CONN 0 1 up", "line 1:"),
            ("1 CONN 4 4 up", "line 1:"),
            ("1 CONN 0 1 sideways", "line 1:"),
            ("5 CONN 0 1 up\n4 CONN 0 2 up", "line 2: earlier"),
            ("5 CONN 0 1 up\n6 CONN 1 0 up", "line 2: this contact is up already"),
            ("5 CONN 0 1 down", "line 1: this contact is not up"),
        ] {
            let error = from_trace(text, END).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{text}: {error}");
        }
    }

    #[test]
    fn a_drive_past_a_parked_node_takes_the_chord() {
        // 60 m off a straight road, range 100 m: in reach for 160 m of it, at 10 m/s 16 s, the nearest after 50 s.
        let at = |x_m, y_m| Point { x_m, y_m };
        let hundred = Duration::from_secs(100);
        let parked = Path(vec![Leg {
            start: Duration::ZERO,
            end: hundred,
            from: at(500.0, 60.0),
            to: at(500.0, 60.0),
        }]);
        let driving =
            Path(vec![Leg { start: Duration::ZERO, end: hundred, from: at(0.0, 0.0), to: at(1000.0, 0.0) }]);
        assert_eq!(from_paths(&[(4, &parked)], &[(2, &driving)], 100.0, END), [seconds(42, 58, 2, 4)]);
        assert_eq!(from_paths(&[(4, &parked)], &[(2, &driving)], 59.0, END), []);
    }

    proptest! {
        #[test]
        fn computed_contacts_agree_with_looking_every_second(seed: u64, range_m in 20.0_f64..300.0) {
            let area = Waypoints {
                width_m: 600.0, height_m: 600.0, slowest_m_per_s: 2.0, fastest_m_per_s: 15.0, longest_pause_s: 30.0,
            };
            let way = |node| Path::random(&area, END, &mut random::stream(seed, Purpose::Movement, node));
            let (a, b) = (way(0), way(1));
            let contacts = from_paths(&[(0, &a)], &[(1, &b)], range_m, END);
            prop_assert!(contacts.windows(2).all(|pair| pair[0].down < pair[1].up), "one contact in two pieces");
            for second in 0..600 {
                let at = Duration::from_secs(second);
                let distance = a.position(at).unwrap().distance_m(b.position(at).unwrap());
                let up = contacts.iter().any(|contact| contact.up <= at && at < contact.down);
                // Within a millimetre of the edge either answer is right.
                prop_assert!((distance - range_m).abs() < 1e-3 || up == (distance < range_m),
                    "seed {} at {} s: {} m", seed, second, distance);
            }
        }

        #[test]
        fn any_text_is_read_or_refused(text in "([0-9]{1,3} CONN [0-3] [0-3] (up|down)\n|.{0,20}\n){0,12}") {
            if let Ok(contacts) = from_trace(&text, END) {
                prop_assert!(contacts.iter().all(|contact| contact.up < contact.down && contact.down <= END));
            }
        }
    }
}
