//! How hard to pack, so that neither processor nor link waits for the other. Pure.
//!
//! Groups are packed while earlier ones are on the link, so a byte of content takes the longer of two times: that of
//! the processor (shared by the workers) and that of its packed form on the link. A higher level costs the one and
//! saves the other; the best is where they meet. What a level costs and saves is known beforehand only as a ratio to
//! others, so what is measured at one corrects what is believed of all.

use std::time::Duration;

/// What packs, and how hard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// zstd at this level.
    Zstd(i32),
    /// LZMA2 with this preset of xz, set up for words of 8 bytes.
    Lzma(u32),
}

/// A level, and what it costs and saves beside the others.
struct Rung {
    level: Level,
    /// Processor time, nanoseconds for each byte of content.
    cost: f64,
    /// Packed length beside that of zstd's level 1.
    length: f64,
}

/// Measured with zstd 1.5 and xz 5.4 (one thread, groups of 1 MiB) on the pages that three recognitions had changed in the speech
/// VM, XORed with the template. Only ratios matter. Higher levels of zstd are not here: 9 has 0.902 for what LZMA costs. Nor is LZMA's
/// preset 3 (0.738 for 30 ns): with a few groups, the link waits longer for the first than is saved.
const LADDER: [Rung; 4] = [
    Rung { level: Level::Zstd(1), cost: 4.2, length: 1.0 },
    Rung { level: Level::Zstd(3), cost: 5.4, length: 0.953 },
    Rung { level: Level::Lzma(0), cost: 18.0, length: 0.756 },
    Rung { level: Level::Lzma(6), cost: 117.0, length: 0.706 },
];
/// Packed length beside the content's, at level 1, of the same pages.
const LENGTH: f64 = 0.12;
/// Where to begin: 3, zstd's own default.
const BEGIN: usize = 1;
/// How much of a new measurement is believed. A guess: three groups make up most of the estimate.
const WEIGHT: f64 = 0.4;
/// A change must promise to save this part of the time, or measurements that swing would make the level swing. A guess.
const WORTH: f64 = 0.02;
/// Content that packs to less than this part is measured as this, so that nothing is divided by zero.
const LEAST: f64 = 1e-6;

/// Chooses the level for the next group.
#[derive(Debug, Clone)]
pub struct Controller {
    rung: usize,
    workers: f64,
    /// Measured cost beside the ladder's.
    cost: f64,
    /// Packed length beside the content's, at level 1.
    length: f64,
    /// What the link carries, bytes per second, once that is known.
    drain: Option<f64>,
}

impl Controller {
    /// For this many workers.
    pub fn new(workers: usize) -> Self {
        Self { rung: BEGIN, workers: workers.max(1) as f64, cost: 1.0, length: LENGTH, drain: None }
    }

    /// The level for the next group.
    pub fn level(&self) -> Level {
        LADDER[self.rung].level
    }

    /// A group was packed at `level`.
    pub fn packed(&mut self, level: Level, content_bytes: usize, packed_bytes: usize, cpu: Duration) {
        let Some(rung) = LADDER.iter().find(|rung| rung.level == level) else { return };
        if content_bytes == 0 {
            return;
        }
        let bytes = content_bytes as f64;
        approach(&mut self.cost, cpu.as_nanos() as f64 / bytes / rung.cost);
        approach(&mut self.length, packed_bytes as f64 / bytes / rung.length);
        self.step();
    }

    /// The link took these bytes in this time.
    pub fn drained(&mut self, bytes: usize, took: Duration) {
        self.set_drain(bytes as f64 / took.as_secs_f64().max(1e-9));
    }

    /// The link carries this, bytes per second.
    pub fn set_drain(&mut self, bytes_per_s: f64) {
        match &mut self.drain {
            Some(drain) => approach(drain, bytes_per_s),
            none => {
                *none = Some(bytes_per_s);
                // Not only after a group: of some handoffs there are few.
                self.step();
            }
        }
    }

    /// To the best rung, if that is worth it.
    fn step(&mut self) {
        let Some(drain) = self.drain else { return };
        let now = self.time(self.rung, drain);
        let best = (0..LADDER.len()).min_by(|a, b| self.time(*a, drain).total_cmp(&self.time(*b, drain)));
        if let Some(best) = best
            && self.time(best, drain) < now * (1.0 - WORTH)
        {
            self.rung = best;
        }
    }

    /// Time for a byte of content at a rung, seconds.
    fn time(&self, rung: usize, drain: f64) -> f64 {
        let Rung { cost, length, .. } = LADDER[rung];
        let processor = self.cost * cost * 1e-9 / self.workers;
        let link = (self.length * length).max(LEAST) / drain;
        processor.max(link)
    }
}

fn approach(estimate: &mut f64, measured: f64) {
    *estimate += WEIGHT * (measured - *estimate);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine on which every level costs `slow` times what the ladder says, and a link of `drain` bytes per second.
    fn run(controller: &mut Controller, groups: usize, slow: f64, drain: f64) -> f64 {
        let content = 1 << 20;
        let mut busy = 0.0;
        for _ in 0..groups {
            let rung = LADDER.iter().find(|rung| rung.level == controller.level()).unwrap();
            let cpu = Duration::from_secs_f64(slow * rung.cost * 1e-9 * content as f64);
            let packed = (0.3 * rung.length * content as f64) as usize;
            let link = Duration::from_secs_f64(packed as f64 / drain);
            busy += (cpu.as_secs_f64() / controller.workers).max(link.as_secs_f64());
            controller.packed(controller.level(), content, packed, cpu);
            controller.drained(packed, link);
        }
        busy
    }

    /// What the best fixed level would have taken.
    fn oracle(groups: usize, workers: f64, slow: f64, drain: f64) -> f64 {
        let content = f64::from(1 << 20);
        let time = |rung: &Rung| {
            (slow * rung.cost * 1e-9 / workers).max(0.3 * rung.length / drain) * content * groups as f64
        };
        LADDER.iter().map(time).min_by(f64::total_cmp).unwrap()
    }

    #[test]
    fn it_is_nearly_as_fast_as_the_best_fixed_level() {
        for workers in [1, 2, 4] {
            for slow in [0.3, 1.0, 4.0] {
                for drain in [8e3, 625e3, 1.25e6, 12.5e6, 125e6] {
                    let mut controller = Controller::new(workers);
                    run(&mut controller, 12, slow, drain);
                    let found = run(&mut controller, 40, slow, drain);
                    let best = oracle(40, workers as f64, slow, drain);
                    assert!(found < best * 1.06, "{workers} {slow} {drain}: {found} and {best}");
                }
            }
        }
    }

    #[test]
    fn it_follows_a_link_that_changes_and_stays_where_it_is_best() {
        let mut controller = Controller::new(1);
        run(&mut controller, 30, 1.0, 125e6);
        let fast = controller.level();
        run(&mut controller, 30, 1.0, 625e3);
        let slow = controller.level();
        assert!(matches!(fast, Level::Zstd(_)) && matches!(slow, Level::Lzma(_)), "{fast:?} {slow:?}");
        for _ in 0..20 {
            run(&mut controller, 1, 1.0, 625e3);
            assert_eq!(controller.level(), slow);
        }
        run(&mut controller, 30, 1.0, 125e6);
        assert_eq!(controller.level(), fast);
    }

    #[test]
    fn without_a_measured_link_the_level_stays() {
        let mut controller = Controller::new(1);
        for _ in 0..20 {
            controller.packed(Level::Zstd(3), 1 << 20, 0, Duration::ZERO);
            controller.packed(Level::Zstd(99), 1 << 20, 0, Duration::ZERO);
            controller.packed(Level::Zstd(3), 0, 0, Duration::MAX);
        }
        assert_eq!(controller.level(), Level::Zstd(3));
    }
}
