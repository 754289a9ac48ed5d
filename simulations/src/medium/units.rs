//! Quantities as people write them: `10M`, `2%`, `50ms`, `64KiB`. The same forms in topologies, on the command line
//! and in JSON.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A text that is not the quantity that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not {wanted}")]
pub struct BadQuantity {
    text: String,
    wanted: &'static str,
}

impl BadQuantity {
    pub(super) fn new(text: &str, wanted: &'static str) -> Self {
        Self { text: text.chars().take(80).collect(), wanted }
    }
}

/// Longest delay that is understood: a day. Longer ones are typing errors.
const MAX_SPAN: Duration = Duration::from_secs(24 * 3600);

/// Bits per second of Ethernet frames, without preamble and checksum (as `tc` counts them), or no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Rate(Option<u64>);

impl Rate {
    /// Frames take no time to send.
    pub const UNLIMITED: Self = Self(None);

    /// This many bits per second; 0 means no limit.
    pub const fn bits_per_second(bits: u64) -> Self {
        if bits == 0 { Self::UNLIMITED } else { Self(Some(bits)) }
    }

    /// Bits per second, or `None` without limit.
    pub const fn get(self) -> Option<u64> {
        self.0
    }

    /// How long sending `bytes` takes.
    pub fn airtime(self, bytes: u32) -> Duration {
        match self.0 {
            None => Duration::ZERO,
            // 2^32 bytes are 3.4e19 bit-nanoseconds, which is why this is not u64.
            Some(rate) => Duration::from_nanos(
                u64::try_from(u128::from(bytes) * 8_000_000_000 / u128::from(rate)).unwrap_or(u64::MAX),
            ),
        }
    }

    /// The slower of two.
    pub fn slower(self, other: Self) -> Self {
        match (self.0, other.0) {
            (Some(one), Some(two)) => Self(Some(one.min(two))),
            (one, two) => Self(one.or(two)),
        }
    }
}

/// `number` followed by one of `units`, as a multiple of the unit.
fn scaled(text: &str, units: &[(&str, f64)]) -> Option<f64> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: f64 = number.parse().ok()?;
    let factor = units.iter().find(|(name, _)| *name == unit.trim())?.1;
    Some(number * factor)
}

impl FromStr for Rate {
    type Err = BadQuantity;

    fn from_str(text: &str) -> Result<Self, BadQuantity> {
        if text == "unlimited" {
            return Ok(Self::UNLIMITED);
        }
        let bare = text.trim_end_matches("/s").trim_end_matches("bit");
        let bits = scaled(bare, &[("", 1.0), ("k", 1e3), ("M", 1e6), ("G", 1e9)]);
        match bits {
            Some(bits) if (1.0..=1e12).contains(&bits) => Ok(Self(Some(bits.round() as u64))),
            _ => Err(BadQuantity::new(
                text,
                "a rate in bits per second from 1 to 1000G: write 64k, 10M, 1.5M, 1G or unlimited",
            )),
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => f.pad("unlimited"),
            Some(bits) if bits >= 1_000_000_000 => f.pad(&format!("{}G", bits as f64 / 1e9)),
            Some(bits) if bits >= 1_000_000 => f.pad(&format!("{}M", bits as f64 / 1e6)),
            Some(bits) if bits >= 1_000 => f.pad(&format!("{}k", bits as f64 / 1e3)),
            Some(bits) => f.pad(&bits.to_string()),
        }
    }
}

/// A share of the whole, 0 to 100 %, exact to a thousand-millionth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Share {
    parts_per_billion: u32,
}

impl Share {
    /// None of it.
    pub const ZERO: Self = Self { parts_per_billion: 0 };
    /// All of it.
    pub const ALL: Self = Self { parts_per_billion: 1_000_000_000 };

    /// From a fraction; below 0 (and NaN) means 0, above 1 means 1.
    pub fn from_fraction(fraction: f64) -> Self {
        Self { parts_per_billion: (fraction.clamp(0.0, 1.0) * 1e9).round() as u32 }
    }

    /// From per cent, 0 to 100; more means 100.
    pub fn percent(percent: f64) -> Self {
        Self::from_fraction(percent / 100.0)
    }

    /// As a fraction, 0 to 1.
    pub fn fraction(self) -> f64 {
        f64::from(self.parts_per_billion) / 1e9
    }
}

impl FromStr for Share {
    type Err = BadQuantity;

    fn from_str(text: &str) -> Result<Self, BadQuantity> {
        match text.strip_suffix('%').map(str::parse::<f64>) {
            Some(Ok(percent)) if (0.0..=100.0).contains(&percent) => Ok(Self::percent(percent)),
            _ => Err(BadQuantity::new(text, "a share: write 0% to 100%, such as 2.5%")),
        }
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}%", f64::from(self.parts_per_billion) / 1e7))
    }
}

/// A stretch of time as people write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Span(pub Duration);

impl From<Duration> for Span {
    fn from(duration: Duration) -> Self {
        Self(duration)
    }
}

impl FromStr for Span {
    type Err = BadQuantity;

    fn from_str(text: &str) -> Result<Self, BadQuantity> {
        let units = [("us", 1e-6), ("ms", 1e-3), ("s", 1.0), ("min", 60.0), ("h", 3600.0)];
        match scaled(text, &units) {
            Some(seconds) if seconds <= MAX_SPAN.as_secs_f64() => {
                Ok(Self(Duration::from_nanos((seconds * 1e9).round() as u64)))
            }
            None if text == "0" => Ok(Self(Duration::ZERO)),
            _ => Err(BadQuantity::new(text, "a time of at most a day: write 250us, 50ms, 1.5s, 10min or 1h")),
        }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.as_nanos() as f64;
        f.pad(&match self.0 {
            zero if zero.is_zero() => "0s".to_owned(),
            long if long >= Duration::from_secs(1) => format!("{}s", nanos / 1e9),
            middle if middle >= Duration::from_millis(1) => format!("{}ms", nanos / 1e6),
            _ => format!("{}us", nanos / 1e3),
        })
    }
}

/// The limit of a queue as people write it: a number of bytes, or `auto` (`None`), by the rate of the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Queue(pub Option<u64>);

impl FromStr for Queue {
    type Err = BadQuantity;

    fn from_str(text: &str) -> Result<Self, BadQuantity> {
        if text == "auto" {
            return Ok(Self(None));
        }
        let units =
            [("", 1.0), ("B", 1.0), ("kB", 1e3), ("MB", 1e6), ("KiB", 1024.0), ("MiB", 1024.0 * 1024.0)];
        match scaled(text, &units) {
            Some(bytes) if bytes <= 1e10 => Ok(Self(Some(bytes.round() as u64))),
            _ => Err(BadQuantity::new(
                text,
                "a number of bytes of at most 10000MB: write 1500, 64KiB, 1MiB, 64kB or auto",
            )),
        }
    }
}

impl fmt::Display for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => f.pad("auto"),
            Some(whole) if whole > 0 && whole.is_multiple_of(1 << 20) => {
                f.pad(&format!("{}MiB", whole >> 20))
            }
            Some(whole) if whole > 0 && whole.is_multiple_of(1 << 10) => {
                f.pad(&format!("{}KiB", whole >> 10))
            }
            Some(bytes) => f.pad(&bytes.to_string()),
        }
    }
}

macro_rules! as_text {
    ($($kind:ty),*) => {$(
        impl TryFrom<String> for $kind {
            type Error = BadQuantity;
            fn try_from(text: String) -> Result<Self, BadQuantity> {
                text.parse()
            }
        }
        impl From<$kind> for String {
            fn from(value: $kind) -> Self {
                value.to_string()
            }
        }
    )*};
}
as_text!(Rate, Share, Span, Queue, super::Loss);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_people_write() {
        for (text, bits) in
            [("9600", 9_600), ("64k", 64_000), ("1.5Mbit", 1_500_000), ("2Gbit/s", 2_000_000_000)]
        {
            assert_eq!(text.parse(), Ok(Rate::bits_per_second(bits)), "{text}");
        }
        assert_eq!("unlimited".parse(), Ok(Rate::UNLIMITED));
        assert_eq!("2.5%".parse(), Ok(Share::from_fraction(0.025)));
        assert_eq!("250us".parse(), Ok(Span(Duration::from_micros(250))));
        assert_eq!("10min".parse(), Ok(Span(Duration::from_secs(600))));
        assert_eq!("64KiB".parse(), Ok(Queue(Some(65_536))));
        assert_eq!("auto".parse(), Ok(Queue(None)));
        for text in ["", "M", "10X", "-1M", "0", "1e9", "2000G", "10 M M"] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
        for text in ["2", "101%", "-1%", "%", "nan%"] {
            assert!(text.parse::<Share>().is_err(), "{text}");
        }
        for text in ["5", "2d", "25h", "ms"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
        let error = "5".parse::<Span>().unwrap_err().to_string();
        assert!(error.contains("'5'") && error.contains("50ms"), "{error}");
    }

    #[test]
    fn airtime_by_hand() {
        assert_eq!(Rate::bits_per_second(1_000_000).airtime(1_250), Duration::from_millis(10));
        assert_eq!(Rate::UNLIMITED.airtime(1_250), Duration::ZERO);
        assert_eq!(Rate::bits_per_second(8).airtime(u32::MAX), Duration::from_secs(u64::from(u32::MAX)));
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(bits in 1_u64..1_000_000_000_000, ppb in 0_u32..=1_000_000_000,
                                        nanos in 0_u64..86_400_000_000_000, bytes in 0_u64..10_000_000_000) {
            let rate = Rate::bits_per_second(bits);
            prop_assert_eq!(rate.to_string().parse(), Ok(rate));
            let share = Share { parts_per_billion: ppb };
            prop_assert_eq!(share.to_string().parse(), Ok(share));
            let span = Span(Duration::from_nanos(nanos));
            prop_assert_eq!(span.to_string().parse(), Ok(span));
            prop_assert_eq!(Queue(Some(bytes)).to_string().parse(), Ok(Queue(Some(bytes))));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,20}") {
            let _ = (text.parse::<Rate>(), text.parse::<Share>(), text.parse::<Span>(), text.parse::<Queue>());
        }
    }
}
