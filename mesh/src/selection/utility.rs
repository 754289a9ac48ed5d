//! How well a candidate serves a need: the plug, and the weighted mean of built-in measures.

use std::borrow::Cow;

use super::measure::Measure;
use super::{Candidate, Completion, Need};

/// Judges candidates. An implementation must be a function of its arguments alone, so that handheld, node and
/// simulator agree, and must not look at other candidates, so that one that comes or goes never changes the others' order.
pub trait Utility {
    /// The candidate's score and the terms that it is made of. `completion` is `None` if it has no way to the service.
    fn score(&self, need: &Need, candidate: &Candidate, completion: Option<&Completion>) -> Scored;

    /// By how much `best` must beat `current` before a change pays, for a margin as [`super::Hysteresis`] has it.
    /// Scores from 0 to 1, as the built-in ones are, take the margin as it is.
    fn lead(&self, margin: f64, _best: f64, _current: f64) -> f64 {
        margin
    }
}

/// A judgement.
#[derive(Debug, Clone, PartialEq)]
pub struct Scored {
    /// Higher is better; 0 to 1 by the built-in utilities. `None`: cannot be judged, the terms say why.
    pub score: Option<f64>,
    /// What it is made of.
    pub terms: Vec<Term>,
}

/// One part of a judgement.
#[derive(Debug, Clone, PartialEq)]
pub struct Term {
    /// What was measured.
    pub name: Cow<'static, str>,
    /// Its worth, higher is better; 0 to 1 by the built-in measures.
    pub value: f64,
    /// Its share of the score; the shares add up to 1.
    pub share: f64,
    /// The figure behind it, with its unit, for people.
    pub figure: String,
}

/// A weighted mean of measures.
#[derive(Debug, Clone, PartialEq)]
pub struct Weighted {
    /// Shares that add up to 1.
    shares: Vec<(Measure, f64)>,
}

/// Weights that make no mean.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("weights must be finite, none negative, and at least one above zero; got {0:?}")]
pub struct BadWeights(Vec<f64>);

impl Weighted {
    /// With these weights; only their ratios matter. A measure named twice counts twice.
    pub fn new(weights: &[(Measure, f64)]) -> Result<Self, BadWeights> {
        let sum: f64 = weights.iter().map(|(_, weight)| weight).sum();
        let sound = weights.iter().all(|(_, weight)| weight.is_finite() && *weight >= 0.0);
        if !sound || !sum.is_finite() || sum <= 0.0 {
            return Err(BadWeights(weights.iter().map(|(_, weight)| *weight).collect()));
        }
        let mut shares: Vec<_> = weights.iter().map(|(measure, weight)| (*measure, weight / sum)).collect();
        shares.sort_by(|one, two| one.0.cmp(&two.0).then(one.1.total_cmp(&two.1)));
        Ok(Self { shares })
    }

    /// By one measure alone.
    pub fn only(measure: Measure) -> Self {
        Self { shares: vec![(measure, 1.0)] }
    }

    /// The shares, which add up to 1.
    pub fn shares(&self) -> &[(Measure, f64)] {
        &self.shares
    }
}

impl Default for Weighted {
    /// The completion decides; the rest settles what is as good as equal, and spreads load and spares batteries then:
    /// all of it together is worth a completion that is about a tenth sooner. With four times as much for the rest,
    /// `cloudlet-sim select-regret` found the wrong cloudlet chosen for it now and then. The ratios are guesses.
    fn default() -> Self {
        Self {
            shares: vec![
                (Measure::CpuFree, 0.0025),
                (Measure::MemoryFree, 0.0025),
                (Measure::Power, 0.005),
                (Measure::Completion, 0.99),
            ],
        }
    }
}

impl Utility for Weighted {
    fn score(&self, need: &Need, candidate: &Candidate, completion: Option<&Completion>) -> Scored {
        let term = |(measure, share): &(Measure, f64)| {
            let (value, figure) = measure.judge(need, candidate, completion);
            Term { name: measure.name().into(), value, share: *share, figure }
        };
        let terms: Vec<Term> = self.shares.iter().map(term).collect();
        let score = terms.iter().map(|term| term.value * term.share).sum();
        Scored { score: Some(score), terms }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_shares_add_up_to_one_and_are_in_order() {
        let default = Weighted::default();
        let sum: f64 = default.shares.iter().map(|(_, share)| share).sum();
        assert!((sum - 1.0).abs() < 1e-12, "{sum}");
        assert!(default.shares.is_sorted_by_key(|(measure, _)| *measure));
    }

    #[test]
    fn weights_that_make_no_mean_are_refused() {
        let rtt = |weight| vec![(Measure::Rtt, weight)];
        for weights in [vec![], rtt(0.0), rtt(-1.0), rtt(f64::NAN), rtt(f64::INFINITY)] {
            assert!(Weighted::new(&weights).is_err(), "{weights:?}");
        }
        assert_eq!(Weighted::new(&rtt(5.0)), Ok(Weighted::only(Measure::Rtt)));
    }
}
