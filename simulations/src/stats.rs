//! The few statistics that reports print.

use serde::Serialize;

/// Median, 95th percentile and count of a set of values, in the values' own unit.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Summary {
    /// How many values there were.
    pub count: usize,
    /// Half of the values are no larger. `None` without values.
    pub median: Option<f64>,
    /// 95 % of the values are no larger. `None` without values.
    pub p95: Option<f64>,
    /// The largest. `None` without values.
    pub max: Option<f64>,
}

impl Summary {
    /// Summarises `values`, in any order.
    pub fn of(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        Self {
            count: sorted.len(),
            median: median(&sorted),
            p95: percentile(&sorted, 95),
            max: sorted.last().copied(),
        }
    }
}

/// The middle of `sorted`, or the mean of the two in the middle.
pub fn median(sorted: &[f64]) -> Option<f64> {
    let upper = sorted.len() / 2;
    if sorted.len() % 2 == 1 {
        return sorted.get(upper).copied();
    }
    let (low, high) = (sorted.get(upper.checked_sub(1)?)?, sorted.get(upper)?);
    Some(low / 2.0 + high / 2.0)
}

/// The smallest of `sorted` that at least `percent` % of the values do not exceed (nearest rank; never a value that
/// was not measured). `percent` above 100 means 100.
pub fn percentile(sorted: &[f64], percent: usize) -> Option<f64> {
    let rank = (sorted.len() * percent.min(100)).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn medians_by_hand() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[4.0]), Some(4.0));
        assert_eq!(median(&[1.0, 2.0, 9.0]), Some(2.0));
        assert_eq!(median(&[1.0, 2.0, 4.0, 9.0]), Some(3.0));
    }

    #[test]
    fn percentiles_by_hand() {
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(percentile(&hundred, 95), Some(95.0));
        assert_eq!(percentile(&hundred, 100), Some(100.0));
        assert_eq!(percentile(&hundred, 0), Some(1.0));
        // Nearest rank of 15, 20, 35, 40, 50: the textbook example (Wikipedia, "Percentile").
        let five = [15.0, 20.0, 35.0, 40.0, 50.0];
        for (percent, expected) in [(5, 15.0), (30, 20.0), (40, 20.0), (50, 35.0), (95, 50.0)] {
            assert_eq!(percentile(&five, percent), Some(expected), "{percent}");
        }
        assert_eq!(percentile(&[], 50), None);
    }

    #[test]
    fn summaries_sort_first() {
        let summary = Summary::of(&[9.0, 1.0, 2.0]);
        assert_eq!(summary, Summary { count: 3, median: Some(2.0), p95: Some(9.0), max: Some(9.0) });
        assert_eq!(Summary::of(&[]), Summary::default());
    }

    proptest! {
        #[test]
        fn a_percentile_is_a_value_with_enough_below(
            mut values in prop::collection::vec(-1e9_f64..1e9, 1..80), percent in 0_usize..=100,
        ) {
            values.sort_by(f64::total_cmp);
            let found = percentile(&values, percent).unwrap();
            let at_most = values.iter().filter(|value| **value <= found).count();
            prop_assert!(at_most * 100 >= percent * values.len());
            let below = values.iter().filter(|value| **value < found).count();
            prop_assert!(percent == 0 || below * 100 < percent * values.len());
        }
    }
}
