//! Services that move after their users: what [`mesh::placement`] does, against never moving, against always moving to the
//! nearest, and against an oracle that knows what will happen.
//!
//! Each handheld of a scenario of choices (`scenarios/selection/`) uses one service, which starts on the nearest cloudlet at
//! their first contact. The policy sees what it would see: contacts that are there now, predicted from positions and
//! velocities that are a little off. What a handoff takes is estimated and played by [`migration::handoff::plan`]; it
//! comes to nothing when the link ends before. Every second counts as served, 0.8 of it through another cloudlet, 0 while the
//! VM stands still. Load, power and drain are not played here.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use mesh::NodeId;
use mesh::advert::Power;
use mesh::placement::{Cost, Instance, Mode, Other, Outcome, Policy, Settings, Site, Situation, User};
use mesh::selection::contact::{Contact, Motion};
use migration::handoff::plan::{self, Goal, Link, Verdict, Work};
use rand_chacha::ChaCha8Rng;

use crate::movement::Path;
use crate::random::{self, Purpose};
use crate::selection::scenario::{Error as ScenarioError, Scenario};
use crate::selection::tracks::{self, Ways, velocity};
use crate::selection::world::TrueLink;
use crate::selection::{Error, load};

/// How often a cloudlet decides, seconds.
const DECIDE_EVERY_S: usize = 5;
/// What use through another cloudlet counts, as in `mesh::placement`.
const RELAYED: f64 = 0.8;
/// A return to a cloudlet that was left so lately is a ping-pong, seconds. Guess.
const PING_PONG_S: usize = 120;
/// What the destination lacks of the speech service after some use (measured: `migration/tests/reduce_speech.rs`), and
/// what its guest adds each second (guess).
const LACKING_BYTES: f64 = 832_000.0;
const DIRTY_BYTES_S: f64 = 20_000.0;
/// Pausing, loading and comparing, as measured for `migration::handoff::plan`.
const FIXED: Duration = Duration::from_millis(250);

/// What `cloudlet-sim placement` is told.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// Scenario files of choices (TOML).
    #[arg(required = true)]
    pub scenarios: Vec<PathBuf>,
    /// Seeds, instead of each scenario's own.
    #[arg(long, value_delimiter = ',', value_name = "SEED")]
    pub seeds: Vec<u64>,
    /// Print the table as JSON.
    #[arg(long)]
    pub json: bool,
}

/// What came of one way to decide.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize)]
pub struct Line {
    /// Who decided.
    pub who: &'static str,
    /// Seconds of service, of all users together.
    pub served_s: f64,
    /// Seconds from the first contact of each user to the end.
    pub of_s: f64,
    /// Handoffs that came to their end.
    pub moves: usize,
    /// Those that led back to where it had been lately.
    pub ping_pongs: usize,
    /// Handoffs that came to nothing.
    pub broken: usize,
}

/// Who decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Never,
    Nearest,
    Ours,
}

/// Prints a table for each scenario.
pub fn run(arguments: &Arguments) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    for file in &arguments.scenarios {
        let (scenario, tracks) = load(file)?;
        let own = [scenario.seed];
        let seeds = if arguments.seeds.is_empty() { &own[..] } else { &arguments.seeds };
        let lines = compare(&scenario, tracks.as_deref(), seeds);
        let lines = lines.map_err(|source| Error::Scenario(file.clone(), source))?;
        print(&mut out, &file.display().to_string(), &lines, arguments.json).map_err(Error::Print)?;
    }
    out.flush().map_err(Error::Print)
}

fn print(out: &mut impl Write, name: &str, lines: &[Line], json: bool) -> io::Result<()> {
    if json {
        serde_json::to_writer(&mut *out, &serde_json::json!({"scenario": name, "lines": lines}))?;
        return writeln!(out);
    }
    writeln!(
        out,
        "{name}\n{:<10} {:>8} {:>6} {:>10} {:>7}",
        "WHO", "SERVED", "MOVES", "PING-PONGS", "BROKEN"
    )?;
    for line in lines {
        let share = 100.0 * line.served_s / line.of_s.max(1.0);
        let Line { who, moves, ping_pongs, broken, .. } = line;
        writeln!(out, "{who:<10} {share:>6.1} % {moves:>6} {ping_pongs:>10} {broken:>7}")?;
    }
    Ok(())
}

/// All ways to decide over all users and seeds.
pub fn compare(scenario: &Scenario, tracks: Option<&str>, seeds: &[u64]) -> Result<Vec<Line>, ScenarioError> {
    let names = ["never", "nearest", "ours", "oracle"];
    let mut lines: Vec<Line> = names.map(|who| Line { who, ..Line::default() }).to_vec();
    for seed in seeds {
        let ways = tracks::ways(scenario, *seed, tracks)?;
        let air = Air::of(scenario, &ways, *seed);
        for (handheld, path) in &ways.handhelds {
            let Some(user) = Played::of(scenario, &ways, &air, *seed, *handheld, path) else { continue };
            for (line, who) in lines.iter_mut().zip([Who::Never, Who::Nearest, Who::Ours]) {
                user.play(who, line);
            }
            if let Some(oracle) = lines.last_mut() {
                user.foresee(oracle);
            }
        }
    }
    Ok(lines)
}

/// The links between cloudlets, second by second.
struct Air {
    sites: Vec<u32>,
    seconds: usize,
    /// Bytes per second by pair of places and second; 0: no contact.
    rates: BTreeMap<(usize, usize), Vec<f64>>,
}

fn second(number: usize) -> Duration {
    Duration::from_secs(u64::try_from(number).unwrap_or(u64::MAX))
}

fn rates(link: &TrueLink<'_>, seconds: usize) -> Vec<f64> {
    let rate = |at| if link.is_up(at) { link.rate(at) } else { 0.0 };
    (0..seconds).map(|number| rate(second(number))).collect()
}

impl Air {
    fn of(scenario: &Scenario, ways: &Ways, seed: u64) -> Self {
        let sites: Vec<u32> = ways.cloudlets.keys().copied().collect();
        let paths: Vec<&Path> = ways.cloudlets.values().collect();
        let seconds = scenario.duration_s as usize;
        let mut between = BTreeMap::new();
        for one in 0..sites.len() {
            // The numbers of handhelds and cloudlets are apart, so these draws are nobody else's.
            let mut rng = random::stream(seed, Purpose::Others, sites[one]);
            for other in one + 1..sites.len() {
                let link = TrueLink::draw(scenario, (paths[one], paths[other]), &mut rng);
                between.insert((one, other), rates(&link, seconds));
            }
        }
        Self { sites, seconds, rates: between }
    }

    fn rate(&self, one: usize, other: usize, at: usize) -> f64 {
        let rates = self.rates.get(&(one.min(other), one.max(other)));
        rates.and_then(|rates| rates.get(at)).copied().unwrap_or(0.0)
    }
}

/// One user and the service.
struct Played<'a> {
    scenario: &'a Scenario,
    ways: &'a Ways,
    air: &'a Air,
    path: &'a Path,
    seed: u64,
    handheld: u32,
    /// Bytes per second to each cloudlet; 0: no contact.
    contacts: Vec<Vec<f64>>,
    begin: usize,
    first: usize,
}

impl<'a> Played<'a> {
    fn of(
        scenario: &'a Scenario,
        ways: &'a Ways,
        air: &'a Air,
        seed: u64,
        handheld: u32,
        path: &'a Path,
    ) -> Option<Self> {
        let mut rng = random::stream(seed, Purpose::Workload, handheld);
        let contacts: Vec<Vec<f64>> = ways
            .cloudlets
            .values()
            .map(|theirs| rates(&TrueLink::draw(scenario, (path, theirs), &mut rng), air.seconds))
            .collect();
        let begin = (0..air.seconds).find(|at| contacts.iter().any(|rates| rates[*at] > 0.0))?;
        let mut played = Self { scenario, ways, air, path, seed, handheld, contacts, begin, first: 0 };
        played.first = played.nearest(begin)?;
        Some(played)
    }

    /// The cloudlet with the fastest link.
    fn nearest(&self, at: usize) -> Option<usize> {
        let there = (0..self.contacts.len()).filter(|site| self.contacts[*site][at] > 0.0);
        there.max_by(|one, two| self.contacts[*one][at].total_cmp(&self.contacts[*two][at]))
    }

    /// Share of that second in which the service is had, if it is there.
    fn share(&self, site: usize, at: usize) -> f64 {
        if self.contacts[site][at] > 0.0 {
            return 1.0;
        }
        let leads = |via: usize| self.contacts[via][at] > 0.0 && self.air.rate(via, site, at) > 0.0;
        if (0..self.contacts.len()).any(|via| via != site && leads(via)) { RELAYED } else { 0.0 }
    }

    /// What a handoff begun then would take.
    fn cost(&self, from: usize, to: usize, at: usize) -> Cost {
        let rate_bytes_s = self.air.rate(from, to, at);
        let round_trip = Duration::from_secs_f64(self.scenario.radio.rtt_ms / 1000.0);
        let link = Link { rate_bytes_s, round_trip, rest: None };
        let work = Work { lacking_bytes: LACKING_BYTES, dirty_bytes_s: DIRTY_BYTES_S, fixed: FIXED };
        let plan::Estimate { total, downtime, bytes, verdict, .. } =
            plan::estimate(&link, &work, &Goal::default());
        Cost { total, downtime, bytes: bytes as u64, feasible: verdict == Verdict::Fits }
    }

    /// Plays a handoff that begins at `at`: seconds that it takes, whether it comes to its end, and what was served.
    fn hand_off(&self, from: usize, to: usize, at: usize) -> (usize, bool, f64) {
        let cost = self.cost(from, to, at);
        let takes = cost.total.as_secs_f64().ceil().max(1.0) as usize;
        let end = (at + takes).min(self.air.seconds);
        let last = (at..end).find(|now| self.air.rate(from, to, *now) == 0.0);
        let (stop, whole) = (last.unwrap_or(end), last.is_none() && cost.feasible && end == at + takes);
        let served: f64 = (at..stop).map(|now| self.share(from, now)).sum();
        let still =
            if whole { cost.downtime.as_secs_f64() * self.share(from, stop.saturating_sub(1)) } else { 0.0 };
        ((stop - at).max(1), whole, (served - still).max(0.0))
    }

    fn play(&self, who: Who, line: &mut Line) {
        let mut rng = random::stream(self.seed, Purpose::Radio, self.handheld);
        let settings = Settings { mode: Mode::Enabled, ..Settings::default() };
        let mut policies: Vec<Policy> = self.air.sites.iter().map(|_| Policy::new(settings)).collect();
        let (mut site, mut came, mut at) = (self.first, self.begin, self.begin);
        // When it left which.
        let mut moves: Vec<(usize, usize)> = Vec::new();
        line.of_s += (self.air.seconds - self.begin) as f64;
        while at < self.air.seconds {
            let decides = (at - self.begin).is_multiple_of(DECIDE_EVERY_S);
            let to = match who {
                Who::Never => None,
                Who::Nearest => self.nearest(at).filter(|to| self.air.rate(site, *to, at) > 0.0),
                Who::Ours if decides => {
                    let situation = self.situation(site, came, &moves, at, &mut rng);
                    let decision = policies[site].decide(second(at), &situation).pop();
                    decision.and_then(|one| match one.outcome {
                        Outcome::Move { to, .. } => (0..self.air.sites.len()).find(|one| node(*one) == to),
                        _ => None,
                    })
                }
                Who::Ours => None,
            };
            let Some(to) = to.filter(|to| *to != site) else {
                line.served_s += self.share(site, at);
                at += 1;
                continue;
            };
            let (takes, whole, served) = self.hand_off(site, to, at);
            line.served_s += served;
            at += takes;
            if !whole {
                line.broken += 1;
                continue;
            }
            let back = moves.iter().any(|(when, left)| *left == to && at - when <= PING_PONG_S);
            line.ping_pongs += usize::from(back);
            line.moves += 1;
            moves.push((at, site));
            (site, came) = (to, at);
        }
    }

    fn seen(&self, path: &Path, at: usize, rng: &mut ChaCha8Rng) -> Motion {
        let hidden = &self.scenario.hidden;
        let (x_m, y_m) = path.position(second(at)).map_or((0.0, 0.0), |place| (place.x_m, place.y_m));
        let (vx, vy) = velocity(path, second(at));
        let mut off = |by: f64| random::between(rng, -by, by);
        Motion {
            east_m: x_m + off(hidden.position_m),
            north_m: y_m + off(hidden.position_m),
            east_m_per_s: vx + off(hidden.velocity_m_per_s),
            north_m_per_s: vy + off(hidden.velocity_m_per_s),
        }
    }

    /// What the cloudlet that has the service knows.
    fn situation(
        &self,
        here: usize,
        came: usize,
        moves: &[(usize, usize)],
        at: usize,
        rng: &mut ChaCha8Rng,
    ) -> Situation {
        let seen: Vec<Motion> = self.ways.cloudlets.values().map(|path| self.seen(path, at, rng)).collect();
        let user = self.seen(self.path, at, rng);
        let range_m = self.scenario.radio.range_m;
        let reached = (0..seen.len()).filter(|site| self.contacts[*site][at] > 0.0);
        let contacts =
            reached.map(|site| (node(site), Contact::predict(&user, &seen[site], range_m))).collect();
        let near: Vec<usize> =
            (0..seen.len()).filter(|other| self.air.rate(here, *other, at) > 0.0).collect();
        let costs = near.iter().map(|other| (node(*other), self.cost(here, *other, at))).collect();
        let instance = Instance {
            id: self.handheld.to_string(),
            here_for: second(at - came),
            moves: moves.iter().map(|(when, _)| second(at - when)).collect(),
            cpu_millis: 1000,
            memory_bytes: 256 << 20,
            users: vec![User { contacts }],
            costs,
            pinned: false,
        };
        let others = near.iter().map(|other| Other {
            site: site(*other),
            contact: Contact::predict(&seen[here], &seen[*other], range_m),
        });
        Situation {
            here: site(here),
            shutdown: None,
            instances: vec![instance],
            others: others.collect(),
            under_way: 0,
        }
    }

    /// The best that could have been, backwards from the end.
    fn foresee(&self, line: &mut Line) {
        let (count, end) = (self.contacts.len(), self.air.seconds);
        line.of_s += (end - self.begin) as f64;
        // Seconds served from there on, with the moves.
        let mut best = vec![vec![(0.0_f64, 0_usize); count]; end + 1];
        for at in (self.begin..end).rev() {
            for from in 0..count {
                let (served, moves) = best[at + 1][from];
                let mut top = (served + self.share(from, at), moves);
                for to in (0..count).filter(|to| *to != from && self.air.rate(from, *to, at) > 0.0) {
                    let (takes, whole, served) = self.hand_off(from, to, at);
                    if whole {
                        let (later, moves) = best[at + takes][to];
                        if served + later > top.0 + 1e-9 {
                            top = (served + later, moves + 1);
                        }
                    }
                }
                best[at][from] = top;
            }
        }
        let (served, moves) = best[self.begin][self.first];
        line.served_s += served;
        line.moves += moves;
    }
}

fn node(site: usize) -> NodeId {
    NodeId::from_bytes([u8::try_from(site).unwrap_or(u8::MAX); NodeId::BYTES])
}

fn site(number: usize) -> Site {
    Site {
        node: node(number),
        name: number.to_string(),
        cpu_wanted_millis: 0,
        cpu_total_millis: 8000,
        memory_free_bytes: 8 << 30,
        power: Power::Mains,
        draining: false,
    }
}
