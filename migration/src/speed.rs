//! How fast a core of this host is, so that unequal cloudlets can be compared.

use std::hint::black_box;
use std::time::Duration;

/// Processor time of [`work`] on the core that is the unit: an Intel Xeon (Skylake-SP generation or later, 2 virtual cores of
/// a cloud host of 2026), optimised build. Measured, the least of 50.
const UNIT: Duration = Duration::from_micros(1940);
/// How often it is done; the fastest counts, as caches are warm then.
const TIMES: usize = 5;
/// Words that are worked on: 256 KiB, above the first level of caches, as what services work on is.
const WORDS: usize = 64 * 1024;

/// Processor time that the calling thread has used.
pub(crate) fn thread_cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.max(0) as u64, time.tv_nsec.max(0) as u32)
}

/// Speed of a core, thousandths of the unit's. Takes some 20 ms of processor time; others that use the processor meanwhile
/// count little. The crate must be optimised, or it is a fraction of what it should be.
pub fn core_permille() -> u32 {
    let mut words: Vec<u32> = (0..WORDS as u32).map(|at| at.wrapping_mul(0x9e37_79b1)).collect();
    let least = (0..TIMES).map(|_| {
        let begin = thread_cpu();
        work(black_box(&mut words));
        thread_cpu().saturating_sub(begin)
    });
    let least = least.min().unwrap_or(UNIT).max(Duration::from_micros(1));
    (UNIT.as_micros() * 1000 / least.as_micros()).try_into().unwrap_or(u32::MAX)
}

/// What recognisers do, in small: sums of products, integers that depend on each other, and reads that nobody can foresee.
fn work(words: &mut [u32]) {
    let sum: f32 = words.iter().zip(words.iter().rev()).map(|(a, b)| (*a as f32) * (*b as f32)).sum();
    black_box(sum);
    let (mut state, mut at) = (1_u32, 0);
    for _ in 0..words.len() * 4 {
        state = (state ^ words[at]).rotate_left(7).wrapping_mul(0x85eb_ca6b);
        at = state as usize % WORDS;
        words[at] = words[at].wrapping_add(state);
    }
    black_box(state);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_figure_is_that_of_a_processor() {
        // From a tenth of the unit to ten of it: more is wrong by a factor somewhere.
        let speeds = [core_permille(), core_permille(), core_permille()];
        assert!(speeds.iter().all(|speed| (100..10_000).contains(speed)), "{speeds:?}");
    }
}
