//! Which frames are lost on the air.

use std::fmt;
use std::str::FromStr;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::units::{BadQuantity, Share};

/// How frames are lost.
///
/// Written `2%` (each frame by itself), `2% burst 8` (2 % on average, 8 frames in a row on average) or
/// `gilbert 1% 25% 0% 100%` (all four numbers of [`Loss::GilbertElliott`], in its order).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Loss {
    /// Each frame by itself.
    Random(Share),
    /// A link with a good and a bad state, which may change before every frame. (Gilbert, "Capacity of a burst-noise
    /// channel", 1960; Elliott, "Estimates of error rates for codes on burst-noise channels", 1963.)
    GilbertElliott {
        /// Probability of turning bad, for each frame sent in the good state.
        to_bad: Share,
        /// Probability of turning good, for each frame sent in the bad state; a bad state lasts 1 / `to_good` frames
        /// on average.
        to_good: Share,
        /// Share of frames lost in the good state.
        in_good: Share,
        /// Share of frames lost in the bad state.
        in_bad: Share,
    },
}

impl Default for Loss {
    fn default() -> Self {
        Self::Random(Share::ZERO)
    }
}

impl Loss {
    /// Losses that come in runs of `burst` frames on average and make up `mean` of all frames: Gilbert's model, which
    /// loses nothing in the good state and everything in the bad one. `None` if there is no such link: `burst` below
    /// 1, everything lost, or runs so short that good frames would have to be shorter than one.
    pub fn bursts(mean: Share, burst: f64) -> Option<Self> {
        let (mean, to_good) = (mean.fraction(), 1.0 / burst);
        let to_bad = mean * to_good / (1.0 - mean);
        let exists = burst >= 1.0 && mean < 1.0 && to_bad <= 1.0;
        exists.then(|| Self::GilbertElliott {
            to_bad: Share::from_fraction(to_bad),
            to_good: Share::from_fraction(to_good),
            in_good: Share::ZERO,
            in_bad: Share::ALL,
        })
    }

    /// Share of frames lost in the long run, 0 to 1. A link that never changes its state stays good.
    pub fn mean(&self) -> f64 {
        match self {
            Self::Random(share) => share.fraction(),
            Self::GilbertElliott { to_bad, to_good, in_good, in_bad } => {
                let (to_bad, to_good) = (to_bad.fraction(), to_good.fraction());
                let bad = if to_bad > 0.0 { to_bad / (to_bad + to_good) } else { 0.0 };
                (1.0 - bad) * in_good.fraction() + bad * in_bad.fraction()
            }
        }
    }
}

/// The state that losses depend on, of one ordered pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum State {
    #[default]
    Good,
    Bad,
}

fn chance(share: Share, rng: &mut ChaCha8Rng) -> bool {
    rng.random::<f64>() < share.fraction()
}

impl State {
    /// Whether the next frame is lost. Always draws two numbers, so that what is lost later does not depend on how
    /// losses were set before.
    pub(super) fn loses(&mut self, loss: &Loss, rng: &mut ChaCha8Rng) -> bool {
        match loss {
            Loss::Random(share) => {
                *self = Self::Good;
                let _: f64 = rng.random();
                chance(*share, rng)
            }
            Loss::GilbertElliott { to_bad, to_good, in_good, in_bad } => {
                let turns = chance(if *self == Self::Good { *to_bad } else { *to_good }, rng);
                *self = match (*self, turns) {
                    (Self::Good, true) | (Self::Bad, false) => Self::Bad,
                    (Self::Bad, true) | (Self::Good, false) => Self::Good,
                };
                chance(if *self == Self::Good { *in_good } else { *in_bad }, rng)
            }
        }
    }
}

impl FromStr for Loss {
    type Err = BadQuantity;

    fn from_str(text: &str) -> Result<Self, BadQuantity> {
        let bad = || {
            BadQuantity::new(
                text,
                "a loss that exists: write 2%, or 2% burst 8, or gilbert TO_BAD TO_GOOD IN_GOOD IN_BAD (four shares)",
            )
        };
        let words: Vec<&str> = text.split_whitespace().collect();
        match words[..] {
            [share] => Ok(Self::Random(share.parse().map_err(|_| bad())?)),
            [share, "burst", length] => {
                let (mean, length) = (share.parse().map_err(|_| bad())?, length.parse().map_err(|_| bad())?);
                Self::bursts(mean, length).ok_or_else(bad)
            }
            ["gilbert", to_bad, to_good, in_good, in_bad] => {
                let share = |word: &str| word.parse::<Share>().map_err(|_| bad());
                Ok(Self::GilbertElliott {
                    to_bad: share(to_bad)?,
                    to_good: share(to_good)?,
                    in_good: share(in_good)?,
                    in_bad: share(in_bad)?,
                })
            }
            _ => Err(bad()),
        }
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Random(share) => share.fmt(f),
            Self::GilbertElliott { to_bad, to_good, in_good, in_bad } => {
                f.pad(&format!("gilbert {to_bad} {to_good} {in_good} {in_bad}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Purpose, stream};
    use proptest::prelude::*;

    /// Frames lost of `frames`, and how many runs of losses there were.
    fn run(loss: &Loss, seed: u64, frames: u32) -> (u32, u32) {
        let (mut rng, mut state) = (stream(seed, Purpose::Radio, 0), State::Good);
        let (mut lost, mut runs, mut before) = (0, 0, false);
        for _ in 0..frames {
            let now = state.loses(loss, &mut rng);
            lost += u32::from(now);
            runs += u32::from(now && !before);
            before = now;
        }
        (lost, runs)
    }

    #[test]
    fn forms_that_people_write() {
        assert_eq!("2%".parse(), Ok(Loss::Random(Share::percent(2.0))));
        let gilbert: Loss = "gilbert 1% 25% 0% 100%".parse().unwrap();
        assert!((gilbert.mean() - 1.0 / 26.0).abs() < 1e-9);
        let bursts: Loss = "20% burst 4".parse().unwrap();
        assert_eq!(bursts.to_string(), "gilbert 6.25% 25% 0% 100%");
        assert_eq!(bursts.to_string().parse(), Ok(bursts));
        for text in [
            "",
            "2",
            "2% burst",
            "2% burst 0.5",
            "100% burst 4",
            "90% burst 1",
            "gilbert 1% 2% 3%",
            "2% burst NaN",
        ] {
            assert!(text.parse::<Loss>().is_err(), "{text}");
        }
    }

    #[test]
    fn random_loss_is_as_asked() {
        for percent in [0.0, 0.5, 2.0, 10.0, 50.0, 100.0] {
            let loss = Loss::Random(Share::percent(percent));
            let frames = 200_000;
            let (lost, _) = run(&loss, 3, frames);
            let (share, asked) = (f64::from(lost) / f64::from(frames), percent / 100.0);
            // Four standard errors.
            let allowed = 4.0 * (asked * (1.0 - asked) / f64::from(frames)).sqrt();
            assert!((share - asked).abs() <= allowed, "asked {asked}, lost {share}");
        }
    }

    #[test]
    fn gilbert_elliott_has_its_mean_and_its_bursts() {
        // So many frames that one standard error is below 1 % of what is looked at.
        for (percent, burst) in [(5.0, 4.0), (20.0, 4.0), (30.0, 8.0)] {
            let loss = Loss::bursts(Share::percent(percent), burst).unwrap();
            let (lost, runs) = run(&loss, 11, 800_000);
            let (mean, length) = (f64::from(lost) / 8e5, f64::from(lost) / f64::from(runs));
            assert!((mean / (percent / 100.0) - 1.0).abs() < 0.02, "{percent} % burst {burst}: mean {mean}");
            assert!((length / burst - 1.0).abs() < 0.02, "{percent} % burst {burst}: runs of {length}");
        }
        // Elliott's extension: something is lost in the good state, something passes in the bad one.
        let loss: Loss = "gilbert 2% 10% 1% 60%".parse().unwrap();
        let (lost, _) = run(&loss, 5, 800_000);
        assert!(
            (f64::from(lost) / 8e5 / loss.mean() - 1.0).abs() < 0.02,
            "{lost} of 8e5, asked {}",
            loss.mean()
        );
    }

    proptest! {
        #[test]
        fn bursts_keep_their_mean(percent in 0.0_f64..90.0, burst in 1.0_f64..1_000.0) {
            if let Some(loss) = Loss::bursts(Share::percent(percent), burst) {
                prop_assert!((loss.mean() - percent / 100.0).abs() < 1e-5, "{loss} has {}", loss.mean());
            }
        }
    }
}
