//! What this cloudlet says of its circumstances beside its load: where it is, what it runs on, whether it is being emptied,
//! what its guests can be, and how long its services took to be ready.
//!
//! The API and the advert for other cloudlets say the same because both ask here. That it is being emptied, and a place that
//! an operator gave, survive a restart; the place of a vehicle that moves does not.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use handheld::api::{self, Place};
use mesh::advert::{Capabilities, Motion, Position, Power};
use migration::hypervisor::Host;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use vm_images::{ImageId, ServiceId};

use crate::config::Config;
use crate::instances::clock::Clock;
use crate::lifecycle::Instance;

mod experience;
mod guests;
mod power;

use experience::Experience;

/// File in the state directory.
const FILE: &str = "standing.json";
/// Longest file that is read, bytes. One has about 150.
const MAX_FILE_BYTES: u64 = 4096;
/// How often the power supply is looked at. Guess: a charge changes by a per cent in minutes; reading it makes some
/// embedded controllers work.
const POWER_INTERVAL: Duration = Duration::from_secs(10);

/// What is kept cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read. Nothing was started.
    #[error("cannot read {}; remove it if it is damaged: then this cloudlet takes work and knows no place", .0.display())]
    Read(PathBuf, #[source] io::Error),
    /// The file cannot be written. What was asked for holds until the daemon ends.
    #[error("cannot write {}, so this holds only until the cloudlet ends", .0.display())]
    Write(PathBuf, #[source] io::Error),
    /// The numbers are no place.
    #[error(
        "no such place: latitude is from -90 to 90, longitude from -180 to 180, heading from 0 to 360 degrees, speed from 0 to 400 m/s"
    )]
    Place,
}

/// What survives a restart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Kept {
    draining: bool,
    place: Option<Place>,
}

/// The circumstances of this cloudlet. Cheap to clone; clones are the same.
#[derive(Clone)]
pub struct Standing(Arc<Inner>);

struct Inner {
    file: PathBuf,
    supplies: PathBuf,
    host: Host,
    clock: Clock,
    now: Mutex<Now>,
}

#[derive(Debug)]
struct Now {
    draining: bool,
    place: Option<Told>,
    /// Where it stands if nobody says anything else.
    configured: Option<Position>,
    power: Power,
    experience: Experience,
}

/// A place, and when it was told.
#[derive(Debug, Clone, Copy)]
struct Told {
    position: Position,
    motion: Option<Motion>,
    at: Duration,
}

impl Standing {
    /// What an earlier daemon kept in this directory, and what the configuration says.
    pub fn open(config: &Config, state_dir: &Path, host: Host) -> Result<Self, Error> {
        let file = state_dir.join(FILE);
        let kept = read(&file).map_err(|source| Error::Read(file.clone(), source))?;
        let clock = Clock::start();
        let told = |place: Place| {
            place.unpack().map(|(position, motion)| Told { position, motion, at: clock.now() })
        };
        let now = Now {
            draining: kept.draining,
            place: kept.place.and_then(told),
            configured: config.node.position(),
            power: Power::Unknown,
            experience: Experience::default(),
        };
        let supplies = config.node.power_supply.clone();
        Ok(Self(Arc::new(Inner { file, supplies, host, clock, now: Mutex::new(now) })))
    }

    fn lock(&self) -> MutexGuard<'_, Now> {
        // Nothing that a panic could leave half done is done under the lock.
        self.0.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the power supply again and again until `stop` is cancelled.
    pub async fn watch_power(self, stop: CancellationToken) {
        let mut interval = tokio::time::interval(POWER_INTERVAL);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = interval.tick() => {}
            }
            let supplies = self.0.supplies.clone();
            match tokio::task::spawn_blocking(move || power::read(&supplies)).await {
                Ok(power) => self.lock().power = power,
                Err(panic) => tracing::error!(%panic, "reading the power supply panicked"),
            }
        }
    }

    /// Whether it is being emptied.
    pub fn is_draining(&self) -> bool {
        self.lock().draining
    }

    /// It is now being emptied, or no longer. On [`Error::Write`] it is all the same.
    pub fn drain(&self, draining: bool) -> Result<(), Error> {
        self.lock().draining = draining;
        tracing::info!(draining, "whether this cloudlet takes new users was changed");
        self.keep()
    }

    /// It is there; `None`: nobody knows. On [`Error::Write`] it holds all the same.
    pub fn tell_place(&self, place: Option<Place>) -> Result<(), Error> {
        let told = match place {
            None => None,
            Some(place) => {
                let (position, motion) = place.unpack().ok_or(Error::Place)?;
                Some(Told { position, motion, at: self.0.clock.now() })
            }
        };
        let mut now = self.lock();
        let kept_before = now.place.filter(|told| told.motion.is_none()).is_some();
        now.place = told;
        drop(now);
        // A vehicle says every second where it is; that is not worth the flash.
        if kept_before || told.is_some_and(|told| told.motion.is_none()) { self.keep() } else { Ok(()) }
    }

    fn keep(&self) -> Result<(), Error> {
        // Held while it is written, so that of two changes the later one is what is kept.
        let now = self.lock();
        let fixed = now.place.filter(|told| told.motion.is_none());
        let kept = Kept { draining: now.draining, place: fixed.map(|told| Place::of(told.position, None)) };
        write(&self.0.file, kept).map_err(|source| Error::Write(self.0.file.clone(), source))
    }

    /// Where it is and how it moves, if that is known.
    pub fn place(&self) -> (Option<Position>, Option<Motion>) {
        let now = self.lock();
        let known = now.place.filter(|told| told.holds(self.0.clock.now()));
        match known {
            Some(told) => (Some(told.position), told.motion),
            None => (now.configured, None),
        }
    }

    /// What it runs on.
    pub fn power(&self) -> Power {
        self.lock().power
    }

    /// What guests can be here beside images of these systems.
    pub fn capabilities(&self, guest_systems: BTreeSet<String>) -> Capabilities {
        guests::capabilities(&self.0.host, guest_systems)
    }

    /// How long a start of this service from this image takes here, by all instances that are listed or were.
    pub fn ready_time(
        &self,
        service: &ServiceId,
        image: ImageId,
        instances: &[Instance],
    ) -> Option<Duration> {
        let mut now = self.lock();
        now.experience.learn(instances);
        now.experience.ready_time(service, image)
    }

    /// All of it, as the API says it.
    pub fn view(&self, guest_systems: BTreeSet<String>) -> api::Standing {
        let (position, motion) = self.place();
        view(self.is_draining(), position, motion, self.power(), &self.capabilities(guest_systems))
    }
}

/// Circumstances as the API says them.
pub fn view(
    draining: bool,
    position: Option<Position>,
    motion: Option<Motion>,
    power: Power,
    capabilities: &Capabilities,
) -> api::Standing {
    let list = |set: &BTreeSet<String>| set.iter().cloned().collect();
    api::Standing {
        draining,
        place: position.map(|position| Place::of(position, motion)),
        power: match power {
            Power::Unknown => None,
            Power::Mains => Some(api::PowerSource::Mains),
            Power::Battery { percent, remaining } => {
                Some(api::PowerSource::Battery { percent, remaining_s: remaining.map(|left| left.as_secs()) })
            }
        },
        guests: Some(api::Guests {
            architecture: capabilities.architecture.clone(),
            systems: list(&capabilities.guest_systems),
            cpu_models: list(&capabilities.cpu_models),
            machines: list(&capabilities.machines),
            speed_permille: capabilities.guest_speed_permille,
        }),
    }
}

impl Told {
    fn holds(&self, now: Duration) -> bool {
        self.motion.is_none() || now.saturating_sub(self.at) <= Place::MOVING_HOLDS
    }
}

fn read(file: &Path) -> io::Result<Kept> {
    let mut text = String::new();
    match std::fs::File::open(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Kept::default()),
        Err(error) => return Err(error),
        Ok(open) => open.take(MAX_FILE_BYTES).read_to_string(&mut text)?,
    };
    serde_json::from_str(&text).map_err(io::Error::other)
}

fn write(file: &Path, kept: Kept) -> io::Result<()> {
    let directory = file.parent().unwrap_or(Path::new("."));
    let mut temporary = tempfile::NamedTempFile::new_in(directory)?;
    temporary.write_all(serde_json::to_string(&kept)?.as_bytes())?;
    temporary.as_file().sync_all()?;
    temporary.persist(file)?;
    std::fs::File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(speed_m_s: Option<f32>) -> Place {
        let motion = speed_m_s.map(|speed_m_s| api::Heading { heading_deg: 90.0, speed_m_s });
        Place { latitude_deg: 48.5, longitude_deg: 11.25, motion }
    }

    fn host() -> Host {
        Host {
            hypervisor: "fake".to_owned(),
            libvirt_version: "11.3.0".to_owned(),
            qemu_version: "10.0.2".to_owned(),
            accelerator: vm_images::manifest::Accelerator::Tcg,
            machines: vec!["pc-q35-10.0".to_owned()],
            cpu_models: vec!["Nehalem".to_owned()],
            core_permille: None,
        }
    }

    fn open(dir: &Path) -> Result<Standing, Error> {
        Standing::open(&Config::default(), dir, host())
    }

    #[test]
    fn what_an_operator_said_survives_a_restart_and_a_moving_place_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let standing = open(dir.path()).unwrap();
        assert_eq!((standing.is_draining(), standing.place()), (false, (None, None)));
        standing.drain(true).unwrap();
        standing.tell_place(Some(place(None))).unwrap();
        let again = open(dir.path()).unwrap();
        assert!(again.is_draining() && again.place().0.is_some());
        again.tell_place(Some(place(Some(8.0)))).unwrap();
        assert_eq!(again.place().1, Motion::new(90.0, 8.0));
        let again = open(dir.path()).unwrap();
        assert!(again.is_draining());
        assert_eq!(again.place(), (None, None), "the place that the vehicle left long ago is not told again");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "a temporary file was left");
    }

    #[test]
    fn the_place_of_a_vehicle_holds_for_a_minute() {
        let (position, motion) = place(Some(8.0)).unpack().unwrap();
        let told = Told { position, motion, at: Duration::from_secs(100) };
        assert!(told.holds(Duration::from_secs(160)) && !told.holds(Duration::from_secs(161)));
        assert!(Told { motion: None, ..told }.holds(Duration::from_secs(1_000_000)));
    }

    #[test]
    fn bad_places_and_damaged_files_are_refused_and_nothing_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let standing = open(dir.path()).unwrap();
        standing.tell_place(Some(place(None))).unwrap();
        let nowhere = Place { latitude_deg: 100.0, ..place(None) };
        assert!(matches!(standing.tell_place(Some(nowhere)), Err(Error::Place)));
        assert!(standing.place().0.is_some());
        std::fs::write(dir.path().join(FILE), "{\"draining\":").unwrap();
        assert!(matches!(open(dir.path()), Err(Error::Read(..))));
    }
}
