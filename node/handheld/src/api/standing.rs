//! What a cloudlet says of its circumstances: what is left of its power, where it is, whether it is being emptied.

use serde::{Deserialize, Serialize};

/// What makes a cloudlet a good choice or a bad one, beside its load. What it does not know is left out.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Standing {
    /// Whether it is being emptied and takes nobody new.
    #[serde(default)]
    pub draining: bool,
    /// Where it is and where it goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<Place>,
    /// What it runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power: Option<PowerSource>,
    /// What its guests can be; `None` from a release that does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guests: Option<Guests>,
}

/// Where somebody is, and where they go.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Place {
    /// Degrees north, -90 to 90 (WGS 84).
    pub latitude_deg: f64,
    /// Degrees east, -180 to 180.
    pub longitude_deg: f64,
    /// How they move. Without it they stand still, and the place holds until another is told; with it, it holds for
    /// [`Self::MOVING_HOLDS`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub motion: Option<Heading>,
}

/// How somebody moves over ground.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Heading {
    /// Degrees clockwise from north, 0 to 360.
    pub heading_deg: f32,
    /// Metres per second, 0 to 400.
    pub speed_m_s: f32,
}

impl Place {
    /// How long the place of somebody who moves holds; then nobody knows where they are. Guess: readers of satellite
    /// navigation say it every second, and after a minute without a word a vehicle is out of radio range of where it was.
    pub const MOVING_HOLDS: std::time::Duration = std::time::Duration::from_secs(60);

    /// As the core has it; `None` if a number is out of its range.
    pub fn unpack(&self) -> Option<(mesh::advert::Position, Option<mesh::advert::Motion>)> {
        let position = mesh::advert::Position::new(self.latitude_deg, self.longitude_deg)?;
        match self.motion {
            None => Some((position, None)),
            Some(Heading { heading_deg, speed_m_s }) => {
                Some((position, Some(mesh::advert::Motion::new(heading_deg, speed_m_s)?)))
            }
        }
    }

    /// From what the core has.
    pub fn of(position: mesh::advert::Position, motion: Option<mesh::advert::Motion>) -> Self {
        let (latitude_deg, longitude_deg) = (position.latitude_deg(), position.longitude_deg());
        let heading = |motion: mesh::advert::Motion| Heading {
            heading_deg: motion.heading_deg(),
            speed_m_s: motion.speed_m_s(),
        };
        Self { latitude_deg, longitude_deg, motion: motion.map(heading) }
    }
}

/// What a cloudlet runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "source", rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum PowerSource {
    /// Mains, or a running engine.
    Mains,
    /// A battery.
    Battery {
        /// Charge, 0 to 100.
        percent: u8,
        /// How long it will last at the present load, seconds, if known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        remaining_s: Option<u64>,
    },
}

/// What guests can be on a cloudlet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Guests {
    /// Machine architecture as `uname -m` says it.
    pub architecture: String,
    /// Systems of the images that it holds, as `ID-VERSION_ID` of os-release: `debian-12`.
    pub systems: Vec<String>,
    /// Named CPU models that stand for levels of the architecture.
    pub cpu_models: Vec<String>,
    /// The newest machine type of each family.
    pub machines: Vec<String>,
    /// Measured speed of guest code on one core, thousandths of a core under KVM; `None`: not measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speed_permille: Option<u32>,
}

/// A service that a cloudlet holds, as another one knows it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct HeldService {
    /// Instances that are ready and have room for another user.
    pub joinable_instances: u32,
    /// Application-ready time that a further instance is expected to take, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_ms: Option<u64>,
}

/// Whether a cloudlet is being emptied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Drain {
    /// It is: whoever uses an instance keeps it, nobody new is taken.
    pub draining: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_that_is_nowhere_is_none() {
        let place = |latitude_deg, heading_deg| Place {
            latitude_deg,
            longitude_deg: 11.5,
            motion: Some(Heading { heading_deg, speed_m_s: 5.0 }),
        };
        let good = place(48.1, 90.0);
        let (position, motion) = good.unpack().unwrap();
        assert_eq!(Place::of(position, motion), good);
        assert_eq!(place(91.0, 90.0).unpack(), None);
        assert_eq!(place(48.1, 400.0).unpack(), None);
    }

    #[test]
    fn it_reads_as_people_write_it() {
        let text = r#"{"draining":true,"power":{"source":"battery","percent":40},"place":{"latitude_deg":48.5,"longitude_deg":11.25}}"#;
        let standing: Standing = serde_json::from_str(text).unwrap();
        assert_eq!(standing.power, Some(PowerSource::Battery { percent: 40, remaining_s: None }));
        assert_eq!(serde_json::from_str::<Standing>("{}").unwrap(), Standing::default());
        assert!(serde_json::from_str::<Place>(r#"{"latitude_deg":1,"longitude_deg":2,"height":3}"#).is_err());
    }
}
