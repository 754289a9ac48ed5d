//! What a choice goes by, from configuration: the same for handheld, node and simulator.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

use super::choice::{Choice, Current, Hysteresis, Rules, decide};
use super::completion::Completion;
use super::expression::{BadExpression, Expression, Facts, Kind, nearest_of};
use super::measure::Measure;
use super::utility::{BadWeights, Scored, Term, Utility, Weighted};
use super::{Candidate, Need};

/// The part `[selection]` of a configuration file. Everything may be left out.
///
/// ```toml
/// [selection]
/// require = "link.rtt_ms < 200"
/// weights = { completion = 9, power = 1 }     # or: utility = "measure.completion - 0.01 * link.hops"
/// hysteresis = { margin = 0.02, moving_ms = 2000, hold_ms = 10000 }
/// ```
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Expression that must be true of a candidate; default: none. See [`super::expression`].
    pub require: Option<String>,
    /// Expression whose value is the score, or the name of a [`Measure`] alone. Not together with `weights`.
    pub utility: Option<String>,
    /// Weights of measures, by name; only their ratios matter. Default: [`Weighted::default`].
    pub weights: Option<BTreeMap<String, f64>>,
    /// What a change must be worth.
    #[serde(default)]
    pub hysteresis: HysteresisSettings,
}

/// The part `[selection.hysteresis]`.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HysteresisSettings {
    /// See [`Hysteresis::margin`]; 0 to 1.
    pub margin: f64,
    /// See [`Hysteresis::moving`], milliseconds.
    pub moving_ms: u64,
    /// See [`Hysteresis::hold`], milliseconds.
    pub hold_ms: u64,
}

/// Rules of selection that were checked.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Policy {
    require: Option<Expression>,
    score: Score,
    hysteresis: Hysteresis,
}

#[derive(Debug, Clone, PartialEq)]
enum Score {
    Weighted(Weighted),
    Expression(Expression),
}

/// Settings that cannot be used.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum BadPolicy {
    /// The requirement is no good expression.
    #[error("bad selection.require")]
    Require(#[source] BadExpression),
    /// The utility is no good expression.
    #[error("bad selection.utility")]
    Utility(#[source] BadExpression),
    /// Both were given.
    #[error("selection has both utility and weights; give one of them")]
    UtilityAndWeights,
    /// A weight for something that is no measure.
    #[error("selection.weights: there is no measure '{name}'{hint}; there are {}", all_measures())]
    Measure {
        /// The wrong name.
        name: String,
        /// The right one, perhaps.
        hint: String,
    },
    /// The weights make no mean.
    #[error("bad selection.weights")]
    Weights(#[source] BadWeights),
    /// The margin is out of range.
    #[error("selection.hysteresis.margin is {0}; give a number from 0 to 1")]
    Margin(f64),
}

fn all_measures() -> String {
    Measure::ALL.map(Measure::name).join(", ")
}

impl Default for HysteresisSettings {
    fn default() -> Self {
        let Hysteresis { margin, moving, hold } = Hysteresis::default();
        let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Self { margin, moving_ms: ms(moving), hold_ms: ms(hold) }
    }
}

impl Default for Score {
    fn default() -> Self {
        Self::Weighted(Weighted::default())
    }
}

impl Policy {
    /// Checks settings.
    pub fn new(settings: &Settings) -> Result<Self, BadPolicy> {
        let HysteresisSettings { margin, moving_ms, hold_ms } = settings.hysteresis;
        if !(0.0..=1.0).contains(&margin) {
            return Err(BadPolicy::Margin(margin));
        }
        let (moving, hold) = (Duration::from_millis(moving_ms), Duration::from_millis(hold_ms));
        let require = settings.require.as_deref().map(|source| Expression::new(source, Kind::Flag));
        Ok(Self {
            require: require.transpose().map_err(BadPolicy::Require)?,
            score: score(settings)?,
            hysteresis: Hysteresis { margin, moving, hold },
        })
    }

    /// Chooses among `candidates` for `need`; `current` is who serves now.
    pub fn choose(&self, need: &Need, candidates: &[Candidate], current: Option<Current>) -> Choice {
        let rules = Rules { utility: self, require: self.require.as_ref(), hysteresis: self.hysteresis };
        decide(need, candidates, &rules, current)
    }

    /// What a change must be worth.
    pub fn hysteresis(&self) -> Hysteresis {
        self.hysteresis
    }
}

fn score(settings: &Settings) -> Result<Score, BadPolicy> {
    match (&settings.utility, &settings.weights) {
        (Some(_), Some(_)) => Err(BadPolicy::UtilityAndWeights),
        (None, None) => Ok(Score::default()),
        (Some(utility), None) => match Measure::named(utility.trim()) {
            Some(measure) => Ok(Score::Weighted(Weighted::only(measure))),
            None => Expression::new(utility, Kind::Number).map(Score::Expression).map_err(BadPolicy::Utility),
        },
        (None, Some(weights)) => {
            let weight = |(name, weight): (&String, &f64)| match Measure::named(name) {
                Some(measure) => Ok((measure, *weight)),
                None => Err(no_measure(name)),
            };
            let weights = weights.iter().map(weight).collect::<Result<Vec<_>, _>>()?;
            Weighted::new(&weights).map(Score::Weighted).map_err(BadPolicy::Weights)
        }
    }
}

fn no_measure(name: &str) -> BadPolicy {
    let nearest = nearest_of(name, Measure::ALL.into_iter().map(Measure::name));
    let hint = nearest.map(|nearest| format!("; did you mean '{nearest}'?")).unwrap_or_default();
    BadPolicy::Measure { name: name.to_owned(), hint }
}

impl Utility for Policy {
    fn score(&self, need: &Need, candidate: &Candidate, completion: Option<&Completion>) -> Scored {
        match &self.score {
            Score::Weighted(weighted) => weighted.score(need, candidate, completion),
            Score::Expression(expression) => {
                let facts = Facts { need, candidate, completion };
                let value = expression.number(&facts);
                let figure = match &value {
                    Ok(_) => expression.figures(&facts),
                    Err(no_value) => no_value.to_string(),
                };
                let term =
                    Term { name: "utility".into(), value: value.clone().unwrap_or(0.0), share: 1.0, figure };
                Scored { score: value.ok(), terms: vec![term] }
            }
        }
    }

    fn lead(&self, margin: f64, best: f64, current: f64) -> f64 {
        match &self.score {
            Score::Weighted(_) => margin,
            Score::Expression(_) => margin * best.abs().max(current.abs()),
        }
    }
}
