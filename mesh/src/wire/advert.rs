//! Which cell of [`Cells`] holds what of an [`Advert`].

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use vm_images::manifest::Accelerator;
use vm_images::{Digest, ImageId, ServiceId};

use super::cells::{Cells, MAX_VALUE_BYTES};
use super::{Error, from_bytes, to_bytes};
use crate::NodeId;
use crate::advert::{
    Advert, Capabilities, Gpu, Held, ImageSize, LinkQuality, Load, Motion, Position, Power, Presence,
};

/// Longest name or other text, bytes.
const MAX_TEXT_BYTES: usize = 128;
/// Most texts in a list.
const MAX_LIST: usize = 128;

const NAME: u8 = 1;
const MISSION: u8 = 2;
const LOAD: u8 = 3;
const CAPABILITIES: u8 = 4;
const POSITION: u8 = 5;
const MOTION: u8 = 6;
const POWER: u8 = 7;
const PRESENCE: u8 = 8;
const API: u8 = 9;
const ADDRESSES: u8 = 10;
const SERVICE: u8 = 11;
const IMAGE: u8 = 12;
const BASE_IMAGE: u8 = 13;
const LINK: u8 = 14;
const IMAGE_SIZE: u8 = 15;

#[derive(Serialize, Deserialize)]
struct LoadCell {
    cpu_used_millis: u32,
    cpu_total_millis: u32,
    memory_free_bytes: u64,
    memory_total_bytes: u64,
    instances: u32,
    queue_length: u32,
}

#[derive(Serialize, Deserialize)]
struct CapabilitiesCell {
    accelerator: u8,
    gpu: u8,
    architecture: String,
    cpu_models: Vec<String>,
    machines: Vec<String>,
    guest_systems: Vec<String>,
    guest_speed_permille: Option<u32>,
}

/// Instances that are ready, and the ready time in milliseconds.
type ServiceCell = (u32, Option<u32>);
/// Round trip in milliseconds, bytes per second, loss in thousandths.
type LinkCell = (Option<u32>, Option<u64>, Option<u16>);

/// The cells of an advert. `node` and `sequence` are not among them: they stand beside them in every frame.
pub fn encode(advert: &Advert) -> Result<Cells, Error> {
    let mut cells = Cells::default();
    let mut put = |kind: u8, rest: &[u8], value: Vec<u8>| cells.set([&[kind], rest].concat(), value);
    put(NAME, &[], to_bytes(&advert.name)?);
    put(MISSION, &[], to_bytes(&advert.mission)?);
    put(LOAD, &[], to_bytes(&LoadCell::from(advert.load))?);
    put(CAPABILITIES, &[], to_bytes(&CapabilitiesCell::from(&advert.capabilities))?);
    put(API, &[], to_bytes(&advert.api)?);
    put(ADDRESSES, &[], to_bytes(&advert.addresses)?);
    if let Some(position) = advert.position {
        put(POSITION, &[], to_bytes(&(position.latitude_deg(), position.longitude_deg()))?);
    }
    if let Some(motion) = advert.motion {
        put(MOTION, &[], to_bytes(&(motion.heading_deg(), motion.speed_m_s()))?);
    }
    match advert.power {
        Power::Unknown => {}
        Power::Mains => put(POWER, &[], to_bytes(&(0_u8, None::<u32>))?),
        Power::Battery { percent, remaining } => {
            let remaining_s = remaining.map(|left| u32::try_from(left.as_secs()).unwrap_or(u32::MAX));
            put(POWER, &[], to_bytes(&(percent.saturating_add(1), remaining_s))?);
        }
    }
    match advert.presence {
        Presence::Serving => {}
        Presence::Draining => put(PRESENCE, &[], vec![1]),
        Presence::Left => put(PRESENCE, &[], vec![2]),
    }
    for (id, held) in &advert.services {
        let ready_ms = held.ready_time.map(|time| u32::try_from(time.as_millis()).unwrap_or(u32::MAX));
        let cell: ServiceCell = (held.ready_instances, ready_ms);
        put(SERVICE, id.to_string().as_bytes(), to_bytes(&cell)?);
    }
    for (id, image) in &advert.images {
        put(IMAGE, id.to_string().as_bytes(), image.0.as_bytes().to_vec());
    }
    for (id, size) in &advert.sizes {
        put(IMAGE_SIZE, id.to_string().as_bytes(), to_bytes(&(size.own_bytes, size.parent_bytes))?);
    }
    for image in &advert.base_images {
        put(BASE_IMAGE, image.0.as_bytes(), Vec::new());
    }
    for (node, quality) in &advert.links {
        let cell: LinkCell = (quality.rtt_ms, quality.rate_bytes_per_s, quality.loss_permille);
        put(LINK, node.as_bytes(), to_bytes(&cell)?);
    }
    cells.check()?;
    decode(advert.node, advert.sequence, &cells)?;
    Ok(cells)
}

/// The advert in cells that somebody sent. Kinds of cells that this release does not know are left out.
pub fn decode(node: NodeId, sequence: u64, cells: &Cells) -> Result<Advert, Error> {
    cells.check()?;
    let capabilities = capabilities(cell(cells, CAPABILITIES, "capabilities")?)?;
    let mut advert = Advert::new(node, text(cell(cells, NAME, "name")?, "name")?, capabilities);
    advert.sequence = sequence;
    advert.mission = text(cell(cells, MISSION, "mission")?, "mission")?;
    advert.load = cell::<LoadCell>(cells, LOAD, "load")?.into();
    advert.api = texts(cell(cells, API, "API")?, "API endpoint")?;
    advert.addresses = texts(cell(cells, ADDRESSES, "addresses")?, "address")?;
    advert.position = optional(cells, POSITION)?
        .map(|(latitude, longitude)| Position::new(latitude, longitude).ok_or(Error::Value("position")))
        .transpose()?;
    advert.motion = optional(cells, MOTION)?
        .map(|(heading, speed)| Motion::new(heading, speed).ok_or(Error::Value("motion")))
        .transpose()?;
    advert.power = match optional::<(u8, Option<u32>)>(cells, POWER)? {
        None => Power::Unknown,
        Some((0, _)) => Power::Mains,
        Some((charge @ 1..=101, left)) => Power::Battery {
            percent: charge - 1,
            remaining: left.map(|seconds| Duration::from_secs(seconds.into())),
        },
        Some(_) => return Err(Error::Value("charge")),
    };
    advert.presence = match cells.get(&[PRESENCE]) {
        None => Presence::Serving,
        Some([1]) => Presence::Draining,
        Some([2]) => Presence::Left,
        Some(_) => return Err(Error::Value("presence")),
    };
    lists(cells, &mut advert)?;
    Ok(advert)
}

fn lists(cells: &Cells, advert: &mut Advert) -> Result<(), Error> {
    for (key, value) in cells.of_kind(SERVICE) {
        let (ready_instances, ready_ms): ServiceCell = from_bytes::<_, MAX_VALUE_BYTES>(value)?;
        let ready_time = ready_ms.map(|ms| Duration::from_millis(ms.into()));
        advert.services.insert(service(key)?, Held { ready_instances, ready_time });
    }
    for (key, value) in cells.of_kind(IMAGE) {
        advert.images.insert(service(key)?, image(value)?);
    }
    for (key, value) in cells.of_kind(IMAGE_SIZE) {
        let (own_bytes, parent_bytes) = from_bytes::<(u64, u64), MAX_VALUE_BYTES>(value)?;
        advert.sizes.insert(service(key)?, ImageSize { own_bytes, parent_bytes });
    }
    for (key, _) in cells.of_kind(BASE_IMAGE) {
        advert.base_images.insert(image(key)?);
    }
    for (key, value) in cells.of_kind(LINK) {
        let node = <[u8; NodeId::BYTES]>::try_from(key).map_err(|_| Error::Value("neighbour"))?;
        let (rtt_ms, rate_bytes_per_s, loss_permille): LinkCell = from_bytes::<_, MAX_VALUE_BYTES>(value)?;
        let quality = LinkQuality { rtt_ms, rate_bytes_per_s, loss_permille };
        advert.links.insert(NodeId::from_bytes(node), quality);
    }
    Ok(())
}

fn cell<T: serde::de::DeserializeOwned>(cells: &Cells, kind: u8, name: &'static str) -> Result<T, Error> {
    optional(cells, kind)?.ok_or(Error::Value(name))
}

fn optional<T: serde::de::DeserializeOwned>(cells: &Cells, kind: u8) -> Result<Option<T>, Error> {
    cells.get(&[kind]).map(from_bytes::<T, MAX_VALUE_BYTES>).transpose()
}

fn text(text: String, name: &'static str) -> Result<String, Error> {
    let good = text.len() <= MAX_TEXT_BYTES && !text.contains(|c: char| c.is_control());
    if good { Ok(text) } else { Err(Error::Value(name)) }
}

fn texts(list: Vec<String>, name: &'static str) -> Result<Vec<String>, Error> {
    if list.len() > MAX_LIST {
        return Err(Error::Value(name));
    }
    list.into_iter().map(|one| text(one, name)).collect()
}

fn set(list: Vec<String>, name: &'static str) -> Result<BTreeSet<String>, Error> {
    Ok(BTreeSet::from_iter(texts(list, name)?))
}

fn service(key: &[u8]) -> Result<ServiceId, Error> {
    let text = std::str::from_utf8(key).map_err(|_| Error::Value("service id"))?;
    text.parse().map_err(|_| Error::Value("service id"))
}

fn image(bytes: &[u8]) -> Result<ImageId, Error> {
    let bytes = <[u8; 32]>::try_from(bytes).map_err(|_| Error::Value("image id"))?;
    Ok(ImageId(Digest::from(blake3::Hash::from_bytes(bytes))))
}

fn capabilities(cell: CapabilitiesCell) -> Result<Capabilities, Error> {
    Ok(Capabilities {
        accelerator: match cell.accelerator {
            0 => Accelerator::Tcg,
            1 => Accelerator::Kvm,
            _ => return Err(Error::Value("accelerator")),
        },
        gpu: match cell.gpu {
            0 => Gpu::None,
            _ => return Err(Error::Value("GPU")),
        },
        architecture: text(cell.architecture, "architecture")?,
        cpu_models: set(cell.cpu_models, "list of CPU models")?,
        machines: set(cell.machines, "list of machine types")?,
        guest_systems: set(cell.guest_systems, "list of guest systems")?,
        guest_speed_permille: cell.guest_speed_permille,
    })
}

impl From<&Capabilities> for CapabilitiesCell {
    fn from(capabilities: &Capabilities) -> Self {
        let list = |set: &BTreeSet<String>| set.iter().cloned().collect();
        Self {
            accelerator: match capabilities.accelerator {
                Accelerator::Tcg => 0,
                Accelerator::Kvm => 1,
            },
            gpu: match capabilities.gpu {
                Gpu::None => 0,
            },
            architecture: capabilities.architecture.clone(),
            cpu_models: list(&capabilities.cpu_models),
            machines: list(&capabilities.machines),
            guest_systems: list(&capabilities.guest_systems),
            guest_speed_permille: capabilities.guest_speed_permille,
        }
    }
}

impl From<Load> for LoadCell {
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

impl From<LoadCell> for Load {
    fn from(cell: LoadCell) -> Self {
        let LoadCell {
            cpu_used_millis,
            cpu_total_millis,
            memory_free_bytes,
            memory_total_bytes,
            instances,
            queue_length,
        } = cell;
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
