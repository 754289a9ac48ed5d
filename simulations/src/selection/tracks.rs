//! Who goes where: tracks from a file, or random waypoints; both as [`Path`]s.

use std::collections::BTreeMap;
use std::time::Duration;

use super::scenario::{Error, MAX_TRACK_BYTES, Scenario, Walk};
use crate::movement::{Leg, Path, Point, Waypoints};
use crate::random::{self, Purpose};

/// The ways of cloudlets and handhelds, by number.
#[derive(Debug)]
pub struct Ways {
    /// Of cloudlets.
    pub cloudlets: BTreeMap<u32, Path>,
    /// Of handhelds.
    pub handhelds: BTreeMap<u32, Path>,
}

/// The ways of a scenario; `tracks` is the text of its file of tracks.
pub fn ways(scenario: &Scenario, seed: u64, tracks: Option<&str>) -> Result<Ways, Error> {
    match (&scenario.walk, tracks) {
        (Some(walk), _) => Ok(walked(scenario, walk, seed)),
        (None, None) => Err(Error::Value("the scenario needs its file of tracks")),
        (None, Some(text)) => {
            let all = read(text)?;
            let pick = |numbers: &[u32]| -> Result<BTreeMap<u32, Path>, Error> {
                let one = |number: &u32| match all.get(number) {
                    Some(path) => Ok((*number, path.clone())),
                    None => Err(Error::NoNode(*number)),
                };
                numbers.iter().map(one).collect()
            };
            Ok(Ways { cloudlets: pick(&scenario.cloudlets)?, handhelds: pick(&scenario.handhelds)? })
        }
    }
}

fn walked(scenario: &Scenario, walk: &Walk, seed: u64) -> Ways {
    let way = |number: u32, speed: [f64; 2]| {
        let waypoints = Waypoints {
            width_m: walk.width_m,
            height_m: walk.height_m,
            slowest_m_per_s: speed[0],
            fastest_m_per_s: speed[1],
            longest_pause_s: walk.longest_pause_s,
        };
        let mut rng = random::stream(seed, Purpose::Movement, number);
        (number, Path::random(&waypoints, scenario.duration(), &mut rng))
    };
    let end = walk.cloudlets.saturating_add(walk.handhelds);
    Ways {
        cloudlets: (0..walk.cloudlets).map(|number| way(number, walk.cloudlet_m_per_s)).collect(),
        handhelds: (walk.cloudlets..end).map(|number| way(number, walk.handheld_m_per_s)).collect(),
    }
}

/// Lines `NODE SECONDS EAST_M NORTH_M`, by node and time.
fn read(text: &str) -> Result<BTreeMap<u32, Path>, Error> {
    if text.len() > MAX_TRACK_BYTES {
        return Err(Error::TooLong(text.len(), MAX_TRACK_BYTES));
    }
    let mut points: BTreeMap<u32, Vec<(Duration, Point)>> = BTreeMap::new();
    for (line, text) in (1..).zip(text.lines()) {
        if text.starts_with('#') || text.trim().is_empty() {
            continue;
        }
        let wrong = |problem| Error::Track { line, problem };
        let (node, at, point) = parse(text).ok_or_else(|| wrong("it is not 'node seconds east north'"))?;
        let way = points.entry(node).or_default();
        if way.last().is_some_and(|(last, _)| *last >= at) {
            return Err(wrong("it is not later than the line before"));
        }
        way.push((at, point));
    }
    let path = |(node, way): (u32, Vec<(Duration, Point)>)| {
        let leg = |pair: &[(Duration, Point)]| match pair {
            [(start, from), (end, to)] => Some(Leg { start: *start, end: *end, from: *from, to: *to }),
            _ => None,
        };
        (node, Path(way.windows(2).filter_map(leg).collect()))
    };
    Ok(points.into_iter().map(path).filter(|(_, path)| !path.0.is_empty()).collect())
}

fn parse(line: &str) -> Option<(u32, Duration, Point)> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [node, at, east, north] = words[..] else { return None };
    let (x_m, y_m): (f64, f64) = (east.parse().ok()?, north.parse().ok()?);
    let at = Duration::try_from_secs_f64(at.parse().ok()?).ok()?;
    (x_m.is_finite() && y_m.is_finite()).then_some((node.parse().ok()?, at, Point { x_m, y_m }))
}

/// Metres per second to the east and to the north at `at`.
pub fn velocity(path: &Path, at: Duration) -> (f64, f64) {
    let leg = path.0.iter().find(|leg| leg.start <= at && at < leg.end);
    leg.map_or((0.0, 0.0), |leg| {
        let seconds = leg.end.saturating_sub(leg.start).as_secs_f64();
        ((leg.to.x_m - leg.from.x_m) / seconds, (leg.to.y_m - leg.from.y_m) / seconds)
    })
}

/// Whether the node is there at all at `at`: vehicles enter a recording late and leave it early.
pub fn is_there(path: &Path, at: Duration) -> bool {
    path.0.first().is_some_and(|leg| leg.start <= at) && path.0.last().is_some_and(|leg| at < leg.end)
}
