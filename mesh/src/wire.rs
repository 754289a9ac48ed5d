//! Adverts as bytes between cloudlets.
//!
//! A frame is one version byte and a bincode body (`config::standard()`). The types here are the frame's own and
//! mirror the core's, so that neither can change the other by accident. A reader takes at most [`MAX_BYTES`], must
//! use up every byte, and checks every range before a core type is made. Bincode is unmaintained; it stays behind
//! this module, and nothing at rest or signed uses it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use vm_images::ServiceId;
use vm_images::manifest::Accelerator;

use crate::NodeId;
use crate::advert::{Advert, Capabilities, Held, Load, Position};

/// Version of the frames that this release writes and reads.
pub const VERSION: u8 = 1;
/// Longest frame, bytes. An advert with 100 services has about 3 KiB; the rest is room.
pub const MAX_BYTES: usize = 16 * 1024;
/// Longest name or other text in a frame, bytes.
const MAX_TEXT_BYTES: usize = 128;
/// Most entries of any list in a frame.
const MAX_ENTRIES: usize = 512;

/// Bytes that are not a frame, or an advert that cannot become one.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// More bytes than [`MAX_BYTES`].
    #[error("a frame of {0} bytes is too long (at most {MAX_BYTES})")]
    TooLong(usize),
    /// Nothing at all.
    #[error("an empty frame")]
    Empty,
    /// Written by a release that this one cannot read.
    #[error("frame version {0}, this release reads {VERSION}")]
    Version(u8),
    /// Cut, flipped or not ours.
    #[error("a damaged frame")]
    Damaged(#[source] bincode::error::DecodeError),
    /// A whole frame and then something more.
    #[error("{0} bytes after the end of a frame")]
    Rest(usize),
    /// A value outside its range.
    #[error("a frame with a bad {0}")]
    Value(&'static str),
    /// The body could not be written.
    #[error("cannot encode a frame")]
    Encode(#[source] bincode::error::EncodeError),
}

#[derive(Serialize, Deserialize)]
struct AdvertFrame {
    node: [u8; NodeId::BYTES],
    name: String,
    sequence: u64,
    load: LoadFrame,
    accelerator: u8,
    architecture: String,
    cpu_models: Vec<String>,
    machines: Vec<String>,
    guest_systems: Vec<String>,
    guest_speed_permille: Option<u32>,
    services: Vec<ServiceFrame>,
    position_deg: Option<(f64, f64)>,
}

#[derive(Serialize, Deserialize)]
struct LoadFrame {
    cpu_used_millis: u32,
    cpu_total_millis: u32,
    memory_free_bytes: u64,
    memory_total_bytes: u64,
    instances: u32,
    queue_length: u32,
}

#[derive(Serialize, Deserialize)]
struct ServiceFrame {
    id: String,
    ready_instances: u32,
    ready_time_ms: Option<u32>,
}

/// The bytes of an advert.
pub fn encode(advert: &Advert) -> Result<Vec<u8>, Error> {
    let frame = AdvertFrame::from(advert);
    check(&frame)?;
    let body = bincode::serde::encode_to_vec(&frame, bincode::config::standard()).map_err(Error::Encode)?;
    if body.len() >= MAX_BYTES {
        return Err(Error::TooLong(body.len() + 1));
    }
    Ok([&[VERSION], body.as_slice()].concat())
}

/// The advert in bytes that somebody sent.
pub fn decode(bytes: &[u8]) -> Result<Advert, Error> {
    if bytes.len() > MAX_BYTES {
        return Err(Error::TooLong(bytes.len()));
    }
    let (&version, body) = bytes.split_first().ok_or(Error::Empty)?;
    if version != VERSION {
        return Err(Error::Version(version));
    }
    let config = bincode::config::standard().with_limit::<MAX_BYTES>();
    let (frame, used) =
        bincode::serde::decode_from_slice::<AdvertFrame, _>(body, config).map_err(Error::Damaged)?;
    if used != body.len() {
        return Err(Error::Rest(body.len() - used));
    }
    check(&frame)?;
    advert(frame)
}

fn check(frame: &AdvertFrame) -> Result<(), Error> {
    let text = |text: &String| text.len() <= MAX_TEXT_BYTES && !text.contains(|c: char| c.is_control());
    let texts = |list: &[String]| list.len() <= MAX_ENTRIES && list.iter().all(text);
    for (good, what) in [
        (text(&frame.name), "name"),
        (text(&frame.architecture), "architecture"),
        (texts(&frame.cpu_models), "list of CPU models"),
        (texts(&frame.machines), "list of machine types"),
        (texts(&frame.guest_systems), "list of guest systems"),
        (frame.services.len() <= MAX_ENTRIES, "list of services"),
    ] {
        if !good {
            return Err(Error::Value(what));
        }
    }
    Ok(())
}

fn advert(frame: AdvertFrame) -> Result<Advert, Error> {
    let accelerator = match frame.accelerator {
        0 => Accelerator::Tcg,
        1 => Accelerator::Kvm,
        _ => return Err(Error::Value("accelerator")),
    };
    let position = match frame.position_deg {
        None => None,
        Some((latitude, longitude)) => {
            Some(Position::new(latitude, longitude).ok_or(Error::Value("position"))?)
        }
    };
    let mut services = BTreeMap::new();
    for service in frame.services {
        let id: ServiceId = service.id.parse().map_err(|_| Error::Value("service id"))?;
        let ready_time = service.ready_time_ms.map(|ms| Duration::from_millis(ms.into()));
        services.insert(id, Held { ready_instances: service.ready_instances, ready_time });
    }
    Ok(Advert {
        node: NodeId::from_bytes(frame.node),
        name: frame.name,
        sequence: frame.sequence,
        load: frame.load.into(),
        capabilities: Capabilities {
            accelerator,
            architecture: frame.architecture,
            cpu_models: BTreeSet::from_iter(frame.cpu_models),
            machines: BTreeSet::from_iter(frame.machines),
            guest_systems: BTreeSet::from_iter(frame.guest_systems),
            guest_speed_permille: frame.guest_speed_permille,
        },
        services,
        position,
    })
}

impl From<&Advert> for AdvertFrame {
    fn from(advert: &Advert) -> Self {
        let capabilities = &advert.capabilities;
        let service = |(id, held): (&ServiceId, &Held)| ServiceFrame {
            id: id.to_string(),
            ready_instances: held.ready_instances,
            ready_time_ms: held.ready_time.map(|time| u32::try_from(time.as_millis()).unwrap_or(u32::MAX)),
        };
        Self {
            node: *advert.node.as_bytes(),
            name: advert.name.clone(),
            sequence: advert.sequence,
            load: advert.load.into(),
            accelerator: match capabilities.accelerator {
                Accelerator::Tcg => 0,
                Accelerator::Kvm => 1,
            },
            architecture: capabilities.architecture.clone(),
            cpu_models: capabilities.cpu_models.iter().cloned().collect(),
            machines: capabilities.machines.iter().cloned().collect(),
            guest_systems: capabilities.guest_systems.iter().cloned().collect(),
            guest_speed_permille: capabilities.guest_speed_permille,
            services: advert.services.iter().map(service).collect(),
            position_deg: advert.position.map(|position| (position.latitude_deg(), position.longitude_deg())),
        }
    }
}

impl From<Load> for LoadFrame {
    fn from(load: Load) -> Self {
        let Load {
            cpu_used_millis,
            cpu_total_millis,
            memory_free_bytes,
            memory_total_bytes,
            instances,
            queue_length,
        } = load;
        Self {
            cpu_used_millis,
            cpu_total_millis,
            memory_free_bytes,
            memory_total_bytes,
            instances,
            queue_length,
        }
    }
}

impl From<LoadFrame> for Load {
    fn from(frame: LoadFrame) -> Self {
        let LoadFrame {
            cpu_used_millis,
            cpu_total_millis,
            memory_free_bytes,
            memory_total_bytes,
            instances,
            queue_length,
        } = frame;
        Self {
            cpu_used_millis,
            cpu_total_millis,
            memory_free_bytes,
            memory_total_bytes,
            instances,
            queue_length,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    // Version, node, "alpha", sequence 7; load (fb: 16 bits follow, fc: 32, fd: 64); accelerator, texts; service; place.
    const GOLDEN: &str = "01\
        30313233343536373839616263646566\
        05616c70686107\
        fbf401fbd007fc000000c0fd00000000010000000201\
        00067838365f363401074e6568616c656d010b70632d7133352d31302e30010964656269616e2d31320153\
        01067370656563680101fb5802\
        0100000000004048400000000000802640";

    fn sample() -> Advert {
        Advert {
            node: NodeId::from_bytes(*b"0123456789abcdef"),
            name: "alpha".to_owned(),
            sequence: 7,
            load: Load {
                cpu_used_millis: 500,
                cpu_total_millis: 2000,
                memory_free_bytes: 3 << 30,
                memory_total_bytes: 4 << 30,
                instances: 2,
                queue_length: 1,
            },
            capabilities: Capabilities {
                accelerator: Accelerator::Tcg,
                architecture: "x86_64".to_owned(),
                cpu_models: ["Nehalem".to_owned()].into(),
                machines: ["pc-q35-10.0".to_owned()].into(),
                guest_systems: ["debian-12".to_owned()].into(),
                guest_speed_permille: Some(83),
            },
            services: [(
                "speech".parse().unwrap(),
                Held { ready_instances: 1, ready_time: Some(Duration::from_millis(600)) },
            )]
            .into(),
            position: Position::new(48.5, 11.25),
        }
    }

    #[test]
    fn the_bytes_of_version_1_never_change() {
        let bytes = hex::encode(encode(&sample()).unwrap());
        assert_eq!(bytes, GOLDEN);
        assert_eq!(decode(&hex::decode(GOLDEN).unwrap()).unwrap(), sample());
    }

    #[test]
    fn versions_lengths_and_rests_are_checked() {
        let mut bytes = encode(&sample()).unwrap();
        assert!(matches!(decode(&[]), Err(Error::Empty)));
        assert!(matches!(decode(&vec![1; MAX_BYTES + 1]), Err(Error::TooLong(_))));
        bytes.push(0);
        assert!(matches!(decode(&bytes), Err(Error::Rest(1))));
        bytes[0] = 2;
        assert!(matches!(decode(&bytes), Err(Error::Version(2))));
    }

    #[test]
    fn what_no_reader_would_take_is_not_written() {
        let long = Advert { name: "x".repeat(129), ..sample() };
        assert!(matches!(encode(&long), Err(Error::Value("name"))));
        let many = (0..=MAX_ENTRIES)
            .map(|n| (format!("s{n}").parse().unwrap(), Held { ready_instances: 0, ready_time: None }));
        let many = Advert { services: many.collect(), ..sample() };
        assert!(matches!(encode(&many), Err(Error::Value("list of services"))));
    }

    #[test]
    fn a_length_that_promises_gigabytes_costs_nothing() {
        // The name's length claims 2^60 bytes.
        let mut bytes = vec![VERSION];
        bytes.extend([0; 16]);
        bytes.push(253);
        bytes.extend((1_u64 << 60).to_le_bytes());
        assert!(matches!(decode(&bytes), Err(Error::Damaged(_))));
    }

    #[test]
    fn every_cut_is_an_error() {
        let bytes = encode(&sample()).unwrap();
        for end in 0..bytes.len() {
            assert!(decode(&bytes[..end]).is_err(), "{end}");
        }
    }

    proptest! {
        #[test]
        fn flipped_bytes_never_panic_and_what_is_read_can_be_written(at in 0..200_usize, with in 1..=255_u8) {
            let mut bytes = encode(&sample()).unwrap();
            let at = at % bytes.len();
            bytes[at] ^= with;
            if let Ok(advert) = decode(&bytes) {
                prop_assert_eq!(decode(&encode(&advert).unwrap()).unwrap(), advert);
            }
        }

        #[test]
        fn any_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode(&bytes);
            let _ = decode(&[&[VERSION], bytes.as_slice()].concat());
        }
    }
}
