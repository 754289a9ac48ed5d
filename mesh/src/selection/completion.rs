//! When a candidate would have done the whole task: the heart of the default utility.
//!
//! ```text
//! moving + queue + start round trips + (payload or fetch) + ready + requests x (upload + work + download + round trip) = total
//! expected = mean of min(total, end of the contact) + (1 - chance) x fallback
//!                                                chance: that the contact lasts for the total
//! ```
//!
//! Why this and not a mean of figures: what a person in the field waits for is the answer. Free CPU, memory, signal and
//! what the cloudlet holds matter only as far as they change when the answer comes, and seconds weigh them against each
//! other with no taste involved: a cloudlet that must first be sent 147 MB loses to a slow one that already runs the
//! service, unless the link is very good. A cloudlet that drives away is not excluded but its answer is discounted:
//! with the time that is lost until it is out of reach and what it then costs to have the result in another way.
//!
//! Nobody tells everything. Each [`Part`] says whether it was told, or assumed; assumptions are on the bad side, so that
//! silence gains nothing.

use std::time::Duration;

use vm_images::manifest::Accelerator;

use super::{Candidate, Contact, Fetch, Instance, Need, Offer};

/// Ready time of a cached service without an estimate. Measured: 539 to 638 ms median, p95 738 and 806 ms under TCG.
pub const CACHED_READY: Duration = Duration::from_millis(800);
/// Time to make a Service VM from a base system and an overlay, without sending the overlay. Table I of "Tactical
/// Cloudlets", speech on Linux: 99.0 s with 147 MB sent over 65 Mbit/s.
pub const BASE_READY: Duration = Duration::from_millis(80_900);
/// Rate of a link that nobody measured, bytes per second: the lowest of 802.11a/g, 6 Mbit/s.
pub const UNKNOWN_RATE_BYTES_PER_S: u64 = 750_000;
/// Round-trip time that nobody measured. Guess: a loaded Wi-Fi link of two hops.
pub const UNKNOWN_RTT: Duration = Duration::from_millis(50);
/// What a failure costs beside the time until then, if the client does not say. Guess: noticing, looking again, and
/// starting anew.
pub const FALLBACK: Duration = Duration::from_secs(30);
/// CPU that one task keeps busy if nobody says, thousandths of a core: one thread.
const ONE_THREAD_MILLIS: u32 = 1000;
/// Speed of guest code under KVM, the unit.
pub const KVM_PERMILLE: u32 = 1000;
/// TCG was measured to be about 12 times slower (see [`Accelerator::Tcg`]).
pub const TCG_PERMILLE: u32 = 83;
/// Round trips until an instance is there: the connection, and the request with its answer.
const START_ROUND_TRIPS: u32 = 2;

/// Expected completion of a task at one candidate, with what it is made of.
#[derive(Debug, Clone, PartialEq)]
pub struct Completion {
    /// In the order in which they pass. Parts that take no time by the nature of the offer are left out.
    pub parts: Vec<Part>,
    /// Their sum: when the task is done if the contact lasts.
    pub total: Duration,
    /// The chance that it lasts so long, 0 to 1.
    pub chance: f64,
    /// Median of what the contact is expected to last; `None`: nothing is known of it.
    pub contact: Option<Duration>,
    /// The total, with the chance of failure and its cost counted in.
    pub expected: Duration,
}

/// A stretch of time on the way to completion.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// What passes: `moving`, `queue`, `round_trips`, `payload` (from the client), `fetch` (from another cloudlet), `ready`, `upload`, `work`, `download`.
    pub name: &'static str,
    /// How long it takes.
    pub time: Duration,
    /// Whether the figures behind it were told or measured.
    pub basis: Basis,
    /// Those figures, for people.
    pub figure: String,
}

/// What a figure rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Basis {
    /// The candidate said it, or the asker measured it.
    Known,
    /// A constant of this module stands in for it.
    Assumed,
}

/// What a candidate is to the client when the choice is made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Role {
    /// Nobody serves the client yet.
    #[default]
    New,
    /// This one serves it.
    Serves,
    /// Another one serves it, and to change takes this long.
    Elsewhere {
        /// For carrying the state over and reaching the new place.
        moving: Duration,
    },
}

/// When `candidate` would have done `need`'s task; `None` if it has no way to the service.
pub fn completion(need: &Need, candidate: &Candidate, role: Role) -> Option<Completion> {
    if role == Role::Serves {
        let ready = part("ready", Duration::ZERO, Basis::Known, "serves already");
        return Some(finish(need, candidate, vec![round_trips(need, candidate, 0), ready]));
    }
    let (brought, ready) = provisioning(need, candidate)?;
    let mut parts: Vec<Part> = Vec::new();
    if let Role::Elsewhere { moving: time } = role {
        parts.push(part("moving", time, Basis::Known, "from who serves now"));
    }
    parts.extend(queue(need, candidate, ready.time));
    parts.push(round_trips(need, candidate, START_ROUND_TRIPS));
    parts.extend(brought);
    parts.push(ready);
    Some(finish(need, candidate, parts))
}

/// Adds the requests to what comes before them, and the end of the contact to the whole.
fn finish(need: &Need, candidate: &Candidate, mut parts: Vec<Part>) -> Completion {
    let task = &need.task;
    parts.push(carried("upload", task.up_bytes, task.requests, candidate));
    parts.push(work(need, candidate));
    parts.push(carried("download", task.down_bytes, task.requests, candidate));
    let total = parts.iter().fold(Duration::ZERO, |sum, part| sum.saturating_add(part.time));
    let chance = candidate.contact.chance(total);
    let contact = candidate.contact.expected();
    let expected = expected(&candidate.contact, total, need.fallback.unwrap_or(FALLBACK));
    Completion { parts, total, chance, contact, expected }
}

fn part(name: &'static str, time: Duration, basis: Basis, figure: &str) -> Part {
    Part { name, time, basis, figure: figure.to_owned() }
}

/// Stretches into which a task is cut to see when its contact may end; even. With 16 the mean is off by less than a per mille.
const STRETCHES: u32 = 16;

/// Mean time until the task is done, here or, if the contact ends before, after that in another way. The mean of the smaller
/// of total and end is the area below the chance that the contact still lasts, here by Simpson's rule.
fn expected(contact: &Contact, total: Duration, fallback: Duration) -> Duration {
    let width = total / STRETCHES;
    let mut area = 0.0;
    for place in 0..=STRETCHES {
        let weight = match place {
            0 | STRETCHES => 1.0,
            odd if odd % 2 == 1 => 4.0,
            _ => 2.0,
        };
        area += weight * contact.chance(width.saturating_mul(place));
    }
    let until_over = area * width.as_secs_f64() / 3.0;
    let seconds = until_over + (1.0 - contact.chance(total)) * fallback.as_secs_f64();
    // A total near the largest Duration is for ever anyway.
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}

/// Whether the need is met by joining an instance that others use.
pub(super) fn joins(need: &Need, candidate: &Candidate) -> bool {
    candidate.offer == Offer::Running && need.instance == Instance::Shared
}

/// What must be brought there first, and how long the start takes then: by the client's overlay, or from another cloudlet,
/// whichever is sooner.
fn provisioning(need: &Need, candidate: &Candidate) -> Option<(Option<Part>, Part)> {
    let by_client = ready(need, candidate).map(|ready| match (candidate.offer, need.overlay_bytes) {
        (Offer::Base, Some(bytes)) => (Some(carried("payload", bytes, 1, candidate)), ready),
        _ => (None, ready),
    });
    let by_others = candidate.fetch.as_ref().filter(|_| candidate.offer < Offer::Cached).map(|fetch| {
        let ready = part("ready", CACHED_READY, Basis::Assumed, "cached then");
        (Some(fetched(fetch)), ready)
    });
    let takes = |(brought, ready): &(Option<Part>, Part)| {
        brought.as_ref().map_or(Duration::ZERO, |part| part.time).saturating_add(ready.time)
    };
    by_client.into_iter().chain(by_others).min_by_key(takes)
}

/// From one cloudlet to another. What the link between them carries is seldom known before the first transfer.
fn fetched(fetch: &Fetch) -> Part {
    let (rate, basis) = rate_or_usual(fetch.rate_bytes_per_s);
    Part { name: "fetch", time: transfer(fetch.bytes.into(), rate), basis, figure: fetch.to_string() }
}

fn ready(need: &Need, candidate: &Candidate) -> Option<Part> {
    let part = |time, basis, figure| part("ready", time, basis, figure);
    if joins(need, candidate) {
        return Some(part(Duration::ZERO, Basis::Known, "running, with room"));
    }
    Some(match (candidate.offer, candidate.ready_time) {
        (Offer::Nothing, Some(time)) => part(time, Basis::Known, "nothing there, fetched first"),
        (Offer::Nothing, None) => return None,
        (Offer::Base, Some(time)) => part(time, Basis::Known, "base system and overlay"),
        // The service is in the overlay.
        (Offer::Base, None) if need.overlay_bytes.is_none() => return None,
        (Offer::Base, None) => part(BASE_READY, Basis::Assumed, "base system and overlay"),
        (Offer::Cached | Offer::Running, Some(time)) => part(time, Basis::Known, "cached"),
        (Offer::Cached | Offer::Running, None) => part(CACHED_READY, Basis::Assumed, "cached"),
    })
}

/// Requests for instances are served one after the other, each about as long as ours; since the queue was told, some were.
fn queue(need: &Need, candidate: &Candidate, ready: Duration) -> Option<Part> {
    let ahead = candidate.load.queue_length;
    let age = candidate.load_age.unwrap_or_default();
    (ahead > 0 && !joins(need, candidate)).then(|| Part {
        name: "queue",
        time: ready.saturating_mul(ahead).saturating_sub(age),
        basis: Basis::Known,
        figure: match age.as_secs() {
            0 => format!("{ahead} ahead"),
            seconds => format!("{ahead} ahead {seconds} s ago"),
        },
    })
}

fn round_trips(need: &Need, candidate: &Candidate, before: u32) -> Part {
    let (rtt, basis) = match candidate.link.rtt {
        Some(rtt) => (rtt, Basis::Known),
        None => (UNKNOWN_RTT, Basis::Assumed),
    };
    let count = need.task.requests.saturating_add(before);
    let figure = format!("{count} of {:.1} ms", rtt.as_secs_f64() * 1000.0);
    Part { name: "round_trips", time: rtt.saturating_mul(count), basis, figure }
}

fn carried(name: &'static str, bytes: u64, times: u32, candidate: &Candidate) -> Part {
    let (rate, basis) = rate_or_usual(candidate.link.rate_bytes_per_s);
    let time = transfer(u128::from(bytes) * u128::from(times), rate);
    let figure = format!("{times} x {:.1} kB at {:.0} kB/s", bytes as f64 / 1000.0, rate as f64 / 1000.0);
    Part { name, time, basis, figure }
}

fn rate_or_usual(measured: Option<u64>) -> (u64, Basis) {
    match measured {
        Some(rate) => (rate, Basis::Known),
        None => (UNKNOWN_RATE_BYTES_PER_S, Basis::Assumed),
    }
}

fn transfer(bytes: u128, rate: u64) -> Duration {
    match (bytes, rate) {
        (0, _) => Duration::ZERO,
        (_, 0) => Duration::MAX,
        _ => u64::try_from(bytes * 1_000_000 / u128::from(rate)).map_or(Duration::MAX, Duration::from_micros),
    }
}

/// CPU time at the speed of the candidate's guests, stretched by how many others want its cores.
fn work(need: &Need, candidate: &Candidate) -> Part {
    let (speed, source) = guest_speed(candidate);
    let (stretch, told) = stretch(need, candidate);
    let cpu = need.task.cpu.saturating_mul(need.task.requests).as_secs_f64();
    let seconds = cpu * f64::from(KVM_PERMILLE) / f64::from(speed.max(1)) * stretch;
    let known = source != "assumed" && told;
    Part {
        name: "work",
        time: Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX),
        basis: if known { Basis::Known } else { Basis::Assumed },
        figure: format!("{cpu:.2} s of CPU at {speed} ‰ ({source}), stretched {stretch:.2} times"),
    }
}

/// Speed of guest code, and where the figure comes from. Who does not say is taken to be slow.
pub(super) fn guest_speed(candidate: &Candidate) -> (u32, &'static str) {
    match (candidate.guest_speed_permille, candidate.accelerator) {
        (Some(speed), _) => (speed, "measured"),
        (None, Some(Accelerator::Kvm)) => (KVM_PERMILLE, "kvm"),
        (None, Some(Accelerator::Tcg)) => (TCG_PERMILLE, "tcg"),
        (None, None) => (TCG_PERMILLE, "assumed"),
    }
}

/// Load that a cloudlet has in the long run, as a share of its cores. Guess.
const USUAL_LOAD: f64 = 0.75;
/// Time after which half of what was known of a load still holds. Guess: about how long a Service VM is used at a time.
/// With no such decay, `cloudlet-sim select-regret` found 0.4 points more regret: small cloudlets that are idle for a
/// moment were trusted too much.
const LOAD_HOLDS_S: f64 = 60.0;

/// What a load will be after `seconds`: it goes from what was seen to what is usual.
fn later(load: f64, total: f64, seconds: f64) -> f64 {
    load + (USUAL_LOAD * total - load) * seconds / (seconds + LOAD_HOLDS_S)
}

/// From when the load was told to when the work would be done if nobody shared the cores, seconds.
fn work_ahead(need: &Need, candidate: &Candidate) -> f64 {
    let cpu = need.task.cpu.saturating_mul(need.task.requests).as_secs_f64();
    let alone = cpu * f64::from(KVM_PERMILLE) / f64::from(guest_speed(candidate).0.max(1));
    candidate.load_age.unwrap_or_default().as_secs_f64() + alone
}

/// By how much longer the work takes because the cores are shared, at least 1; and whether the load was told. By the time
/// of the work there is one thread less than now, as many, or one more, with chances of 1:2:1 (guess).
fn stretch(need: &Need, candidate: &Candidate) -> (f64, bool) {
    let load = &candidate.load;
    if load.cpu_total_millis == 0 {
        return (1.0, false);
    }
    let ours = if need.cpu_millis == 0 { ONE_THREAD_MILLIS } else { need.cpu_millis };
    // A processor that is all in use does not say how many more would like to use it; its instances tell.
    let others = if load.cpu_used_millis >= load.cpu_total_millis {
        load.cpu_used_millis.max(load.instances.saturating_mul(ONE_THREAD_MILLIS))
    } else {
        load.cpu_used_millis
    };
    let (others, ours, total) = (f64::from(others), f64::from(ours), f64::from(load.cpu_total_millis));
    let others = later(others, total, work_ahead(need, candidate));
    let at = |others: f64| ((others.max(0.0) + ours) / total).max(1.0);
    // Who comes and goes meanwhile hurts a nearly full cloudlet and not an idle one.
    let thread = f64::from(ONE_THREAD_MILLIS);
    let mean = 0.25 * at(others - thread) + 0.5 * at(others) + 0.25 * at(others + thread);
    (mean, true)
}
