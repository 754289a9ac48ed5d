//! Moments of the calendar as seconds since 1970.

use toml::value::{Datetime, Offset};

use super::Mission;

impl Mission {
    /// When it ends, seconds since 1970 UTC; `None` if it has no end. A checked configuration has no other text.
    pub fn ends_unix_s(&self) -> Option<u64> {
        unix_s(&self.ends.as_ref()?.parse().ok()?)
    }
}

/// Seconds since 1970 UTC of a complete moment: date, time and offset. `None` if one is missing or it is before 1970.
pub(super) fn unix_s(moment: &Datetime) -> Option<u64> {
    let (date, time) = (moment.date?, moment.time?);
    let offset_minutes = match moment.offset? {
        Offset::Z => 0,
        Offset::Custom { minutes } => i64::from(minutes),
    };
    let of_day =
        i64::from(time.hour) * 3600 + i64::from(time.minute) * 60 + i64::from(time.second.unwrap_or(0));
    let days = days_since_1970(i64::from(date.year), i64::from(date.month), i64::from(date.day));
    u64::try_from(days * 86_400 + of_day - offset_minutes * 60).ok()
}

/// Days from 1970-01-01 in the Gregorian calendar. The year begins in March, so that the leap day comes last.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Option<u64> {
        unix_s(&text.parse().unwrap())
    }

    // Expected values are those of `date -u -d TEXT +%s`.
    #[test]
    fn moments_agree_with_date() {
        assert_eq!(of("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(of("2000-02-29T12:34:56Z"), Some(951_827_696));
        assert_eq!(of("2026-12-01T06:00:00Z"), Some(1_796_104_800));
        assert_eq!(of("2026-12-01T06:00:00+02:00"), Some(1_796_097_600));
        assert_eq!(of("2026-12-01T06:00:00-05:30"), Some(1_796_124_600));
        assert_eq!(of("2100-03-01T00:00:00Z"), Some(4_107_542_400));
    }

    #[test]
    fn incomplete_moments_are_none() {
        for text in ["2026-12-01", "2026-12-01T06:00:00", "06:00:00", "1969-12-31T23:59:59Z"] {
            assert_eq!(of(text), None, "{text}");
        }
    }
}
