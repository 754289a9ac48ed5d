//! What a handheld remembers from one use to the next: which cloudlet served it last, and where it is.
//!
//! One file, `memory.json` in the handheld's state directory. Nothing in it is secret, and nothing is lost with it but a
//! preference: a file that cannot be read counts as empty.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use mesh::NodeId;
use mesh::selection::{Current, Tie};
use mesh::trust::Home;
use serde::{Deserialize, Serialize};
use vm_images::ServiceId;

use crate::api::Place;

/// Longest file that is read, bytes. A service takes about 120.
const MAX_FILE_BYTES: u64 = 64 * 1024;
/// Most services that are remembered; those used longest ago go first. Guess: nobody has so many in one mission.
const MAX_SERVICES: usize = 64;
/// How long a cloudlet that served is preferred after its last use. Guess: after ten minutes a handheld is elsewhere and its
/// cloudlet has stopped what was idle (after a minute).
const HABIT_HOLDS: Duration = Duration::from_secs(600);

/// It cannot be kept. What was to be remembered is forgotten; nothing else is wrong.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}", file.display())]
pub struct Error {
    file: PathBuf,
    #[source]
    source: io::Error,
}

/// The memory of a handheld.
#[derive(Debug, Clone)]
pub struct Memory {
    file: PathBuf,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Kept {
    served: BTreeMap<ServiceId, Served>,
    place: Option<Told>,
}

/// Who served, by this handheld's clock in seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Served {
    node: NodeId,
    since_unix_s: u64,
    last_unix_s: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Told {
    place: Place,
    unix_s: u64,
}

impl Memory {
    /// In the state directory of this handheld.
    pub fn of(home: &Home) -> Self {
        Self { file: home.path().join("memory.json") }
    }

    /// The cloudlet that served this service last, if that was lately. `now` is time since 1970, as everywhere here.
    pub fn current(&self, service: &ServiceId, now: Duration) -> Option<Current> {
        self.read().served.get(service)?.current(now.as_secs())
    }

    /// `node` has just served.
    pub fn note(&self, service: &ServiceId, node: NodeId, now: Duration) -> Result<(), Error> {
        let mut kept = self.read();
        kept.note(service, node, now.as_secs());
        self.write(&kept)
    }

    /// Where the handheld is, if it is known. The place of one that moves holds for [`Place::MOVING_HOLDS`].
    pub fn place(&self, now: Duration) -> Option<Place> {
        let told = self.read().place?;
        let age = Duration::from_secs(now.as_secs().abs_diff(told.unix_s));
        (told.place.motion.is_none() || age <= Place::MOVING_HOLDS).then_some(told.place)
    }

    /// The handheld is there; `None`: nobody knows.
    pub fn tell_place(&self, place: Option<Place>, now: Duration) -> Result<(), Error> {
        let mut kept = self.read();
        kept.place = place.map(|place| Told { place, unix_s: now.as_secs() });
        self.write(&kept)
    }

    fn read(&self) -> Kept {
        match read(&self.file) {
            Ok(kept) => kept,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Kept::default(),
            Err(error) => {
                tracing::warn!(file = %self.file.display(), %error, "what was remembered cannot be read");
                Kept::default()
            }
        }
    }

    fn write(&self, kept: &Kept) -> Result<(), Error> {
        write(&self.file, kept).map_err(|source| Error { file: self.file.clone(), source })
    }
}

impl Served {
    /// A clock that was set back since makes the last use lie in the future; then it counts as now.
    fn current(&self, now_unix_s: u64) -> Option<Current> {
        let idle = Duration::from_secs(now_unix_s.saturating_sub(self.last_unix_s));
        let since = Duration::from_secs(now_unix_s.saturating_sub(self.since_unix_s));
        (idle <= HABIT_HOLDS).then_some(Current { node: self.node, since, tie: Tie::Habit })
    }
}

impl Kept {
    fn note(&mut self, service: &ServiceId, node: NodeId, now_unix_s: u64) {
        let goes_on = |served: &&Served| served.node == node && served.current(now_unix_s).is_some();
        let since =
            self.served.get(service).filter(goes_on).map(|served| served.since_unix_s.min(now_unix_s));
        let since_unix_s = since.unwrap_or(now_unix_s);
        self.served.insert(service.clone(), Served { node, since_unix_s, last_unix_s: now_unix_s });
        while self.served.len() > MAX_SERVICES {
            let oldest = self.served.iter().min_by_key(|(_, served)| served.last_unix_s);
            let Some(oldest) = oldest.map(|(service, _)| service.clone()) else { return };
            self.served.remove(&oldest);
        }
    }
}

fn read(file: &Path) -> io::Result<Kept> {
    let mut text = String::new();
    std::fs::File::open(file)?.take(MAX_FILE_BYTES).read_to_string(&mut text)?;
    serde_json::from_str(&text).map_err(io::Error::other)
}

fn write(file: &Path, kept: &Kept) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;

    let directory = file.parent().unwrap_or(Path::new("."));
    // Keys are kept beside it.
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let mut temporary = tempfile::NamedTempFile::new_in(directory)?;
    temporary.write_all(serde_json::to_string(kept)?.as_bytes())?;
    temporary.as_file().sync_all()?;
    temporary.persist(file)?;
    std::fs::File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Heading;

    const S: fn(u64) -> Duration = Duration::from_secs;

    fn memory() -> (tempfile::TempDir, Memory, ServiceId) {
        let dir = tempfile::tempdir().unwrap();
        let memory = Memory::of(&Home::at(dir.path().join("new")));
        (dir, memory, "speech".parse().unwrap())
    }

    fn node(byte: u8) -> NodeId {
        NodeId::from_bytes([byte; 16])
    }

    #[test]
    fn who_served_lately_is_preferred_and_for_how_long_is_counted_from_the_first_use() {
        let (_dir, memory, speech) = memory();
        assert_eq!(memory.current(&speech, S(1000)), None);
        memory.note(&speech, node(1), S(1000)).unwrap();
        memory.note(&speech, node(1), S(1500)).unwrap();
        let current = memory.current(&speech, S(1600)).unwrap();
        assert_eq!(current, Current { node: node(1), since: S(600), tie: Tie::Habit });
        assert_eq!(memory.current(&speech, S(2101)), None, "that was too long ago");
        assert_eq!(memory.current(&"face".parse().unwrap(), S(1600)), None);
        memory.note(&speech, node(2), S(1700)).unwrap();
        assert_eq!(memory.current(&speech, S(1700)).unwrap().since, S(0));
        // After a pause it begins anew; a clock that was set back breaks nothing.
        memory.note(&speech, node(2), S(9000)).unwrap();
        assert_eq!(memory.current(&speech, S(9010)).unwrap().since, S(10));
        assert_eq!(memory.current(&speech, S(10)).unwrap().since, S(0));
    }

    #[test]
    fn the_place_of_one_who_moves_is_soon_forgotten() {
        let (_dir, memory, _) = memory();
        let still = Place { latitude_deg: 48.5, longitude_deg: 11.25, motion: None };
        let moving = Place { motion: Some(Heading { heading_deg: 90.0, speed_m_s: 1.5 }), ..still };
        memory.tell_place(Some(still), S(100)).unwrap();
        assert_eq!(memory.place(S(1_000_000)), Some(still));
        memory.tell_place(Some(moving), S(100)).unwrap();
        assert_eq!((memory.place(S(160)), memory.place(S(161))), (Some(moving), None));
        assert_eq!(memory.place(S(30)), None, "the clock was set back by more than it holds");
        memory.tell_place(None, S(100)).unwrap();
        assert_eq!(memory.place(S(100)), None);
    }

    #[test]
    fn a_damaged_file_counts_as_empty_and_the_list_stays_short() {
        let (_dir, memory, speech) = memory();
        memory.note(&speech, node(1), S(5)).unwrap();
        std::fs::write(&memory.file, "{\"served\":7").unwrap();
        assert_eq!(memory.current(&speech, S(5)), None);
        for number in 0..100_u8 {
            memory
                .note(&format!("service-{number}").parse().unwrap(), node(number), S(10 + u64::from(number)))
                .unwrap();
        }
        let kept = memory.read();
        assert_eq!(kept.served.len(), MAX_SERVICES);
        assert!(kept.served.contains_key(&"service-99".parse().unwrap()));
        assert_eq!(std::fs::read_dir(memory.file.parent().unwrap()).unwrap().count(), 1);
    }
}
