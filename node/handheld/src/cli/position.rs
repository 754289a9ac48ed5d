//! `position`: where this handheld is.

use anyhow::Context;
use handheld::Memory;
use handheld::api::{Heading, Place};

use super::args::Global;
use super::{output, pair};

/// What was typed.
pub struct Words {
    /// Latitude and longitude, degrees.
    pub at: Option<(f64, f64)>,
    /// Heading in degrees, speed in metres per second.
    pub motion: Option<(f32, f32)>,
    /// Whether to forget.
    pub forget: bool,
}

/// Tells, forgets or shows.
pub fn position(global: &Global, words: &Words) -> anyhow::Result<()> {
    let (memory, now) = (Memory::of(&pair::home(global)?), handheld::unix_now());
    let motion = words.motion.map(|(heading_deg, speed_m_s)| Heading { heading_deg, speed_m_s });
    let told = words.at.map(|(latitude_deg, longitude_deg)| Place { latitude_deg, longitude_deg, motion });
    if let Some(place) = &told {
        place.unpack().context(
            "no such place: latitude is from -90 to 90, longitude from -180 to 180, heading from 0 to 360 degrees, speed \
             from 0 to 400 m/s",
        )?;
    }
    if told.is_some() || words.forget {
        memory.tell_place(told, now)?;
    }
    let place = memory.place(now);
    if global.json {
        return output::json(&serde_json::json!({ "place": place }));
    }
    output::print(&match place {
        None => "not known\n".to_owned(),
        Some(Place { latitude_deg, longitude_deg, motion }) => {
            let motion =
                motion.map(|one| format!(" at {:.1} m/s towards {:.0}°", one.speed_m_s, one.heading_deg));
            format!("{latitude_deg:.5},{longitude_deg:.5}{}\n", motion.unwrap_or_default())
        }
    })
}
