//! What is true: links that fade, cloudlets that others use, contacts that end; and how a task fares in it.
//!
//! The others' use of a cloudlet is drawn as a discrete-event run on [`Engine`] before anything is asked of it; what one
//! handheld's task adds to it is played against that, once for every cloudlet that it could have chosen. So the outcome
//! of every alternative is known, which no field test could give.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::scenario::{Hidden, Holds, Kind, Radio, Scenario, TaskKind};
use crate::engine::Engine;
use crate::movement::Path;
use crate::random::{self, Purpose};

/// Steps in which a transfer or a computation is played.
const STEP: Duration = Duration::from_millis(250);
/// Longest task that is played on; by then something else has failed.
const LONGEST: Duration = Duration::from_secs(3600);

/// A cloudlet as the others use it.
#[derive(Debug)]
pub struct Host {
    /// What it is.
    pub kind: Kind,
    /// Instances of others from a time on, as (time, how many).
    others: Vec<(Duration, u32)>,
    /// Times at which others asked for an instance, with the time at which it was ready.
    starts: Vec<(Duration, Duration)>,
}

enum Event {
    Arrives,
    Leaves,
}

impl Host {
    /// Draws what others do with it until `end`.
    pub fn draw(kind: &Kind, end: Duration, rng: &mut ChaCha8Rng) -> Self {
        let mut engine = Engine::default();
        let stay = Duration::from_secs_f64(kind.mean_use_s);
        let between = Duration::from_secs_f64(kind.mean_use_s / kind.mean_others.max(0.01));
        let room = u32::try_from(kind.memory_mib / 256).unwrap_or(u32::MAX);
        let start = Duration::from_secs_f64(0.8 * 1000.0 / f64::from(kind.speed_permille).max(250.0));
        let mut now_there = 0_u32;
        let (mut others, mut starts): (_, Vec<(Duration, Duration)>) =
            (vec![(Duration::ZERO, 0)], Vec::new());
        engine.at(random::exponential(rng, between / 8), Event::Arrives);
        while let Some(event) = engine.next(end) {
            let now = engine.now();
            match event {
                Event::Arrives => {
                    // It fills up quickly at first, so that the recording does not begin with idle cloudlets.
                    let filling = now < stay && f64::from(now_there) < kind.mean_others;
                    engine.after(
                        random::exponential(rng, if filling { between / 8 } else { between }),
                        Event::Arrives,
                    );
                    if now_there < room {
                        now_there += 1;
                        let free = starts.last().map_or(now, |(_, ready)| (*ready).max(now));
                        starts.push((now, free + start));
                        engine.after(random::exponential(rng, stay), Event::Leaves);
                    }
                }
                Event::Leaves => now_there -= 1,
            }
            others.push((now, now_there));
        }
        Self { kind: kind.clone(), others, starts }
    }

    /// Others' instances at `at`; each keeps a core busy.
    pub fn others(&self, at: Duration) -> u32 {
        let place = self.others.partition_point(|(since, _)| *since <= at);
        place.checked_sub(1).and_then(|place| self.others.get(place)).map_or(0, |(_, many)| *many)
    }

    /// Others' requests that wait at `at`, and when the last of them will be served.
    pub fn queue(&self, at: Duration) -> (u32, Duration) {
        let asked = self.starts.partition_point(|(asked, _)| *asked <= at);
        let waiting = self.starts[..asked].iter().rev().take_while(|(_, ready)| *ready > at);
        let (mut many, mut until) = (0, at);
        for (_, ready) in waiting {
            many += 1;
            until = until.max(*ready);
        }
        (many, until)
    }

    /// Memory that nobody uses at `at`, MiB.
    pub fn memory_free_mib(&self, at: Duration) -> u64 {
        self.kind.memory_mib.saturating_sub(256 * u64::from(self.others(at)))
    }
}

/// The true link of a handheld and a cloudlet.
#[derive(Debug)]
pub struct TrueLink<'a> {
    /// The radio.
    pub radio: Radio,
    /// How far it really reaches, metres.
    pub range_m: f64,
    /// Of both.
    pub paths: (&'a Path, &'a Path),
    /// How its rate fades, one factor after the other.
    pub fading: Vec<f64>,
    /// How long each holds.
    pub fading_step: Duration,
}

impl<'a> TrueLink<'a> {
    /// Draws a link.
    pub fn draw(scenario: &Scenario, paths: (&'a Path, &'a Path), rng: &mut ChaCha8Rng) -> Self {
        let Hidden { fading, fading_s, range, .. } = scenario.hidden;
        let range_m = scenario.radio.range_m * random::between(rng, 1.0 - range, 1.0 + range);
        let fading_step = Duration::from_secs_f64(fading_s);
        let steps = (scenario.duration_s / fading_s) as usize + 2;
        // Half of each factor stays for the next one: neighbours in time are alike.
        let mut last = 0.0;
        let factor = |_| {
            last = 0.5 * last + random::between(rng, -fading, fading) * 0.75;
            (1.0 + last).max(0.1)
        };
        let fading = (0..steps).map(factor).collect();
        Self { radio: scenario.radio, range_m, paths, fading, fading_step }
    }

    /// Metres between the two.
    pub fn distance_m(&self, at: Duration) -> f64 {
        match (self.paths.0.position(at), self.paths.1.position(at)) {
            (Some(one), Some(two)) => one.distance_m(two),
            _ => f64::INFINITY,
        }
    }

    /// Whether there is contact.
    pub fn is_up(&self, at: Duration) -> bool {
        let there = |path| super::tracks::is_there(path, at);
        there(self.paths.0) && there(self.paths.1) && self.distance_m(at) <= self.range_m
    }

    /// Bytes per second.
    pub fn rate(&self, at: Duration) -> f64 {
        let Radio { near_bytes_per_s, far_bytes_per_s, .. } = self.radio;
        let share = (self.distance_m(at) / self.range_m).min(1.0);
        let rate = near_bytes_per_s - (near_bytes_per_s - far_bytes_per_s) * share * share;
        let step = (at.as_nanos() / self.fading_step.as_nanos().max(1)) as usize;
        rate * self.fading.get(step).copied().unwrap_or(1.0)
    }
}

/// How a task fared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Done after this time.
    Done(Duration),
    /// The contact ended; the result was had without the cloudlet after this time.
    Broken(Duration),
    /// The cloudlet had no memory left; known after this time.
    Refused(Duration),
}

/// Plays a task that begins at `start`. `slower` is by how much the true time to be ready exceeds the usual.
pub fn play(
    link: &TrueLink<'_>,
    host: &Host,
    task: &TaskKind,
    hidden: &Hidden,
    start: Duration,
    slower: f64,
) -> Outcome {
    let mut run = Run { link, host, now: start, broken: None };
    let rtt = Duration::from_secs_f64(link.radio.rtt_ms / 1000.0);
    run.wait(rtt * 2);
    if host.kind.holds != Holds::Running {
        if host.memory_free_mib(run.now) < task.memory_mib {
            return Outcome::Refused(run.now.saturating_sub(start));
        }
        if host.kind.holds == Holds::Base {
            run.carry(task.overlay_bytes);
        }
        let (_, free) = host.queue(run.now);
        run.wait(free.saturating_sub(run.now));
        run.wait(usual_ready(&host.kind, task).mul_f64(slower));
    }
    for _ in 0..task.requests {
        run.carry(task.up_bytes);
        run.compute(task.cpu_s);
        run.carry(task.down_bytes);
        run.wait(rtt);
        if run.broken.is_some() {
            break;
        }
    }
    match run.broken {
        Some(at) => {
            let lost = Duration::from_secs_f64(hidden.notice_s + task.fallback_s);
            Outcome::Broken((at + lost).saturating_sub(start))
        }
        None => Outcome::Done(run.now.saturating_sub(start)),
    }
}

/// The time to be ready that the cloudlet knows from experience.
pub fn usual_ready(kind: &Kind, task: &TaskKind) -> Duration {
    let full_speed_s = match kind.holds {
        Holds::Running => return Duration::ZERO,
        Holds::Cached => task.cached_ready_s,
        Holds::Base => task.base_ready_s,
    };
    Duration::from_secs_f64(full_speed_s * 1000.0 / f64::from(kind.speed_permille))
}

/// A task on its way.
struct Run<'a> {
    link: &'a TrueLink<'a>,
    host: &'a Host,
    now: Duration,
    /// When the contact ended.
    broken: Option<Duration>,
}

impl Run<'_> {
    fn wait(&mut self, time: Duration) {
        let end = self.now.saturating_add(time);
        while self.now < end && self.broken.is_none() {
            self.pass(STEP.min(end.saturating_sub(self.now)));
        }
    }

    fn carry(&mut self, bytes: u64) {
        let mut left = bytes as f64;
        while left > 0.0 && self.broken.is_none() {
            let rate = self.link.rate(self.now).max(1.0);
            let through = rate * STEP.as_secs_f64();
            self.pass(if through < left { STEP } else { Duration::from_secs_f64(left / rate) });
            left -= through;
        }
    }

    /// The cores are shared evenly among all who compute.
    fn compute(&mut self, cpu_s: f64) {
        let mut left = cpu_s;
        while left > 0.0 && self.broken.is_none() {
            let sharing = f64::from(self.host.others(self.now) + 1);
            let share = (f64::from(self.host.kind.cores) / sharing).min(1.0);
            let speed = share * f64::from(self.host.kind.speed_permille) / 1000.0;
            let through = speed * STEP.as_secs_f64();
            self.pass(if through < left { STEP } else { Duration::from_secs_f64(left / speed) });
            left -= through;
        }
    }

    fn pass(&mut self, time: Duration) {
        if !self.link.is_up(self.now) || self.now >= LONGEST.saturating_mul(24) {
            self.broken = Some(self.now);
            return;
        }
        self.now = self.now.saturating_add(time);
    }
}

/// The cloudlets of a scenario as others use them.
pub fn hosts(scenario: &Scenario, seed: u64, numbers: impl Iterator<Item = u32>) -> BTreeMap<u32, Host> {
    let host = |(place, number): (usize, u32)| {
        let mut rng = random::stream(seed, Purpose::Others, number);
        // The kinds go round, so that neighbours in a convoy differ.
        let kind = &scenario.kinds[place % scenario.kinds.len()];
        (number, Host::draw(kind, scenario.duration(), &mut rng))
    };
    numbers.enumerate().map(host).collect()
}

/// A factor from 1 minus to 1 plus `share`.
pub fn off_by(rng: &mut ChaCha8Rng, share: f64) -> f64 {
    1.0 - share + 2.0 * share * rng.random::<f64>()
}
