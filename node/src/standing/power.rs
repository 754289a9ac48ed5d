//! What this host runs on, as the kernel says below `/sys/class/power_supply`.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use mesh::advert::Power;

/// Most supplies that are looked at. Guess: a vehicle's computer has two or three.
const MAX_SUPPLIES: usize = 32;
/// Longest value that is read, bytes; they are numbers and single words.
const MAX_VALUE_BYTES: u64 = 64;
/// Longest time that a battery is believed to last. Guess: beyond a week a reading is noise of a nearly idle supply.
const LONGEST: Duration = Duration::from_secs(7 * 86_400);

/// A battery.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Battery {
    percent: f64,
    /// It gives power now; `None` if it does not say.
    discharging: Option<bool>,
    /// What is in it and what flows out of it each hour, in one unit.
    left_and_draw: Option<(f64, f64)>,
    /// What it holds when it is full, in that unit.
    full: Option<f64>,
}

/// What the supplies in `directory` come to. [`Power::Unknown`] where there is none, as on most servers.
pub fn read(directory: &Path) -> Power {
    let Ok(entries) = std::fs::read_dir(directory) else { return Power::Unknown };
    let mut supplies: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    supplies.sort();
    let (mut mains, mut batteries) = (false, Vec::new());
    for supply in supplies.iter().take(MAX_SUPPLIES) {
        // The battery of a mouse says nothing of this computer.
        if value(supply, "scope").as_deref() == Some("Device") {
            continue;
        }
        match value(supply, "type").as_deref() {
            Some("Mains" | "USB" | "Wireless") => mains |= value(supply, "online").as_deref() == Some("1"),
            Some("Battery" | "UPS") if value(supply, "present").as_deref() != Some("0") => {
                batteries.extend(battery(supply));
            }
            _ => {}
        }
    }
    sum(mains, &batteries)
}

fn sum(mains: bool, batteries: &[Battery]) -> Power {
    if mains {
        return Power::Mains;
    }
    if batteries.is_empty() {
        return Power::Unknown;
    }
    // Something charges it, although nothing said that it is there.
    if batteries.iter().all(|battery| battery.discharging == Some(false)) {
        return Power::Mains;
    }
    let weights: Option<Vec<f64>> = batteries.iter().map(|battery| battery.full).collect();
    let weights = weights.unwrap_or_else(|| vec![1.0; batteries.len()]);
    let whole: f64 = weights.iter().sum();
    let charge: f64 = batteries.iter().zip(&weights).map(|(battery, weight)| battery.percent * weight).sum();
    let flows: Option<Vec<(f64, f64)>> = batteries.iter().map(|battery| battery.left_and_draw).collect();
    let remaining = flows.and_then(|flows| {
        let (left, draw) = flows.iter().fold((0.0, 0.0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        let seconds = left / draw * 3600.0;
        (draw > 0.0).then(|| Duration::try_from_secs_f64(seconds).unwrap_or(LONGEST).min(LONGEST))
    });
    // Saturates at the ends, as `as` does; the shares are of 0 to 100.
    let percent = (charge / whole.max(1.0)).clamp(0.0, 100.0).round() as u8;
    Power::Battery { percent, remaining: remaining.map(whole_minutes) }
}

/// A draw changes all the time; minutes are as much as is known.
fn whole_minutes(time: Duration) -> Duration {
    Duration::from_secs(time.as_secs() / 60 * 60)
}

/// `None` if it does not say how full it is.
fn battery(supply: &Path) -> Option<Battery> {
    let number = |name: &str| value(supply, name)?.parse::<f64>().ok().filter(|number| number.is_finite());
    let energy = number("energy_now").zip(number("energy_full")).zip(Some(number("power_now")));
    let charge = || number("charge_now").zip(number("charge_full")).zip(Some(number("current_now")));
    let flow = energy.or_else(charge);
    let by_flow = flow.filter(|((_, full), _)| *full > 0.0).map(|((now, full), _)| now / full * 100.0);
    let percent = number("capacity").or(by_flow)?.clamp(0.0, 100.0);
    let discharging = match value(supply, "status").as_deref() {
        Some("Discharging") => Some(true),
        Some("Charging" | "Full" | "Not charging") => Some(false),
        _ => None,
    };
    Some(Battery {
        percent,
        discharging,
        // Some drivers give a negative current while discharging.
        left_and_draw: flow.and_then(|((now, _), draw)| Some((now, draw?.abs()))),
        full: flow.map(|((_, full), _)| full).filter(|full| *full > 0.0),
    })
}

fn value(supply: &Path, name: &str) -> Option<String> {
    let mut text = String::new();
    File::open(supply.join(name)).ok()?.take(MAX_VALUE_BYTES).read_to_string(&mut text).ok()?;
    Some(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory as the kernel's, with these supplies.
    fn host(supplies: &[(&str, &[(&str, &str)])]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, values) in supplies {
            std::fs::create_dir(dir.path().join(name)).unwrap();
            for (key, value) in *values {
                std::fs::write(dir.path().join(name).join(key), format!("{value}\n")).unwrap();
            }
        }
        dir
    }

    fn on(supplies: &[(&str, &[(&str, &str)])]) -> Power {
        read(host(supplies).path())
    }

    const AC_OFF: (&str, &[(&str, &str)]) = ("AC", &[("type", "Mains"), ("online", "0")]);

    #[test]
    fn mains_a_battery_or_nothing_known() {
        assert_eq!(on(&[]), Power::Unknown);
        assert_eq!(read(Path::new("/nonexistent")), Power::Unknown);
        let battery: (&str, &[(&str, &str)]) =
            ("BAT0", &[("type", "Battery"), ("status", "Discharging"), ("capacity", "37")]);
        assert_eq!(on(&[("AC", &[("type", "Mains"), ("online", "1")]), battery]), Power::Mains);
        assert_eq!(on(&[AC_OFF, battery]), Power::Battery { percent: 37, remaining: None });
        let full: (&str, &[(&str, &str)]) =
            ("BAT0", &[("type", "Battery"), ("status", "Full"), ("capacity", "100")]);
        assert_eq!(on(&[full]), Power::Mains, "a charger that is not listed");
        let mouse: (&str, &[(&str, &str)]) = (
            "hid",
            &[("type", "Battery"), ("scope", "Device"), ("status", "Discharging"), ("capacity", "5")],
        );
        assert_eq!(on(&[mouse]), Power::Unknown);
    }

    #[test]
    fn two_batteries_count_by_what_they_hold_and_last_together() {
        let one: &[(&str, &str)] = &[
            ("type", "Battery"),
            ("status", "Discharging"),
            ("energy_now", "30000000"),
            ("energy_full", "60000000"),
            ("power_now", "10000000"),
        ];
        let two: &[(&str, &str)] = &[
            ("type", "Battery"),
            ("status", "Unknown"),
            ("energy_now", "20000000"),
            ("energy_full", "20000000"),
            ("power_now", "0"),
        ];
        let five_hours = Some(Duration::from_secs(5 * 3600));
        assert_eq!(
            on(&[AC_OFF, ("BAT0", one), ("BAT1", two)]),
            Power::Battery { percent: 63, remaining: five_hours }
        );
    }

    #[test]
    fn rubbish_is_no_battery() {
        for capacity in ["", "many", "NaN"] {
            let values: &[(&str, &str)] =
                &[("type", "Battery"), ("status", "Discharging"), ("capacity", capacity)];
            assert_eq!(on(&[("BAT0", values)]), Power::Unknown, "{capacity}");
        }
        let values: &[(&str, &str)] = &[("type", "Battery"), ("capacity", "250"), ("energy_full", "0")];
        assert_eq!(on(&[("BAT0", values)]), Power::Battery { percent: 100, remaining: None });
    }
}
