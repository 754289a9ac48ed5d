//! Recorded choices: what the handheld saw, and what would have come of every alternative.

use std::time::Duration;

use mesh::NodeId;
use mesh::advert::Load;
use mesh::selection::record::Survey;
use mesh::selection::{Candidate, Contact, Instance, Link, Motion, Need, Offer, Task};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use vm_images::manifest::Accelerator;

use super::scenario::{Error, Holds, Scenario, TaskKind};
use super::tracks::{self, Ways, velocity};
use super::world::{self, Host, Outcome, TrueLink, off_by};
use crate::movement::Path;
use crate::random::{self, Purpose};

/// Bytes of a MiB.
const MIB: u64 = 1024 * 1024;

/// A choice among at least two cloudlets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decision {
    /// When, microseconds since the start.
    pub at_us: u64,
    /// Number of the handheld.
    pub handheld: u32,
    /// What it saw.
    pub survey: Survey,
    /// What it did not see, one for each candidate.
    pub truth: Vec<Truth>,
}

/// What would have come of a candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Truth {
    /// How it would have ended.
    pub end: End,
    /// After how long, microseconds.
    pub after_us: u64,
    /// True distance when it was chosen, metres: what "the nearest" goes by.
    pub distance_m: u32,
}

/// How a task ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum End {
    /// With the cloudlet's result.
    Done,
    /// The contact was lost; the time includes getting the result without the cloudlet.
    Broken,
    /// The cloudlet had no memory left.
    Refused,
}

/// Records a scenario with `seed`. `tracks` is the text of its file of tracks.
pub fn record(scenario: &Scenario, seed: u64, tracks: Option<&str>) -> Result<Vec<Decision>, Error> {
    let ways = tracks::ways(scenario, seed, tracks)?;
    let hosts = world::hosts(scenario, seed, ways.cloudlets.keys().copied());
    let mut decisions = Vec::new();
    for (handheld, path) in &ways.handhelds {
        let mut rng = random::stream(seed, Purpose::Workload, *handheld);
        let links: Vec<(u32, TrueLink<'_>, &Host)> = ways
            .cloudlets
            .iter()
            .filter_map(|(number, theirs)| {
                let link = TrueLink::draw(scenario, (path, theirs), &mut rng);
                hosts.get(number).map(|host| (*number, link, host))
            })
            .collect();
        let moment = Moment { scenario, ways: &ways, handheld: *handheld, path };
        let mut at = Duration::ZERO;
        let last = Duration::from_secs_f64(scenario.duration_s - scenario.tail_s);
        loop {
            at += random::exponential(&mut rng, Duration::from_secs_f64(scenario.mean_between_tasks_s));
            if at >= last {
                break;
            }
            decisions.extend(moment.decide(at, &links, &mut rng)?);
        }
    }
    decisions.sort_by_key(|decision| (decision.at_us, decision.handheld));
    Ok(thinned(decisions, scenario.decisions))
}

/// At most `many`, evenly over time.
fn thinned(all: Vec<Decision>, many: usize) -> Vec<Decision> {
    let there = all.len();
    if there <= many {
        return all;
    }
    let kept = |place: &usize| place * many / there != (place + 1) * many / there;
    all.into_iter().enumerate().filter(|(place, _)| kept(place)).map(|(_, one)| one).collect()
}

/// Who may choose.
struct Moment<'a> {
    scenario: &'a Scenario,
    ways: &'a Ways,
    handheld: u32,
    path: &'a Path,
}

impl Moment<'_> {
    /// The choice at `at`, if there is one between at least two cloudlets.
    fn decide(
        &self,
        at: Duration,
        links: &[(u32, TrueLink<'_>, &Host)],
        rng: &mut ChaCha8Rng,
    ) -> Result<Option<Decision>, Error> {
        let Self { scenario, .. } = self;
        let task = &scenario.tasks[rng.random_range(0..scenario.tasks.len())];
        let need = need(task)?;
        let ours = self.seen_motion(self.path, at, rng);
        let (mut candidates, mut truth) = (Vec::new(), Vec::new());
        for (number, link, host) in links {
            if !link.is_up(at) {
                continue;
            }
            let Some(theirs) = self.ways.cloudlets.get(number) else { continue };
            let theirs = self.seen_motion(theirs, at, rng);
            let contact = Contact::predict(&ours, &theirs, scenario.radio.range_m);
            candidates.push(seen(scenario, (*number, link, host), task, at, contact, rng));
            let slower = off_by(rng, scenario.hidden.ready);
            truth.push(truth_of(link, world::play(link, host, task, &scenario.hidden, at, slower), at));
        }
        let choice = truth.iter().filter(|one| one.end != End::Refused).count() >= 2;
        Ok(choice.then(|| Decision {
            at_us: us(at),
            handheld: self.handheld,
            survey: Survey::of(&need, &candidates, None),
            truth,
        }))
    }

    /// Place and motion as satellite navigation and adverts give them.
    fn seen_motion(&self, path: &Path, at: Duration, rng: &mut ChaCha8Rng) -> Motion {
        let hidden = &self.scenario.hidden;
        let place = path.position(at);
        let (x_m, y_m) = place.map_or((0.0, 0.0), |place| (place.x_m, place.y_m));
        let (vx, vy) = velocity(path, at);
        let mut off = |by: f64| random::between(rng, -by, by);
        Motion {
            east_m: x_m + off(hidden.position_m),
            north_m: y_m + off(hidden.position_m),
            east_m_per_s: vx + off(hidden.velocity_m_per_s),
            north_m_per_s: vy + off(hidden.velocity_m_per_s),
        }
    }
}

fn need(task: &TaskKind) -> Result<Need, Error> {
    let service = task.service.parse().map_err(|_| Error::Service(task.service.clone()))?;
    Ok(Need {
        memory_bytes: task.memory_mib * MIB,
        cpu_millis: 1000,
        instance: Instance::Shared,
        task: Task {
            requests: task.requests,
            up_bytes: task.up_bytes,
            down_bytes: task.down_bytes,
            cpu: Duration::from_secs_f64(task.cpu_s),
        },
        overlay_bytes: Some(task.overlay_bytes),
        fallback: Some(Duration::from_secs_f64(task.fallback_s)),
        ..Need::of(service)
    })
}

/// What a handheld knows of a cloudlet: an advert of some seconds ago, and its own measurements.
fn seen(
    scenario: &Scenario,
    (number, link, host): (u32, &TrueLink<'_>, &Host),
    task: &TaskKind,
    at: Duration,
    contact: Contact,
    rng: &mut ChaCha8Rng,
) -> Candidate {
    let hidden = &scenario.hidden;
    let age = Duration::from_secs_f64(hidden.advert_interval_s * rng.random::<f64>()).min(at);
    let then = at.saturating_sub(age);
    let kind = &host.kind;
    // An operating system says how much of its cores is used, not how many more would like to use them.
    let load = Load {
        cpu_used_millis: host.others(then).min(kind.cores) * 1000,
        cpu_total_millis: kind.cores * 1000,
        memory_free_bytes: host.memory_free_mib(then) * MIB,
        memory_total_bytes: kind.memory_mib * MIB,
        instances: host.others(then),
        queue_length: host.queue(then).0,
    };
    let rate = link.rate(at) * off_by(rng, hidden.measurement);
    let rtt = Duration::from_micros((link.radio.rtt_ms * 1000.0 * off_by(rng, hidden.measurement)) as u64);
    let link = Link { rtt: Some(rtt), rate_bytes_per_s: Some(rate as u64), ..Link::default() };
    let offer = match kind.holds {
        Holds::Running => Offer::Running,
        Holds::Cached => Offer::Cached,
        Holds::Base => Offer::Base,
    };
    let ready = (kind.holds != Holds::Running).then(|| world::usual_ready(kind, task));
    let accelerator = if kind.speed_permille >= 500 { Accelerator::Kvm } else { Accelerator::Tcg };
    let mut id = [0; NodeId::BYTES];
    // The id is mixed, so that the order of ids is not the order of kinds.
    id[..4].copy_from_slice(&number.wrapping_mul(0x9E37_79B9).to_be_bytes());
    Candidate {
        load_age: Some(age),
        accelerator: Some(accelerator),
        guest_speed_permille: Some(kind.speed_permille),
        contact,
        ready_time: ready,
        ..Candidate::unknown(NodeId::from_bytes(id), &format!("c{number}"), load, link, offer)
    }
}

fn truth_of(link: &TrueLink<'_>, outcome: Outcome, at: Duration) -> Truth {
    let (end, after) = match outcome {
        Outcome::Done(after) => (End::Done, after),
        Outcome::Broken(after) => (End::Broken, after),
        Outcome::Refused(after) => (End::Refused, after),
    };
    Truth { end, after_us: us(after), distance_m: link.distance_m(at).min(1e6) as u32 }
}

fn us(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
