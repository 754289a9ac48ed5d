//! What a handoff would cost, and where each figure comes from. Nothing moves here.

use std::path::Path;
use std::time::Duration;

use mesh::NodeId;
use mesh::advert::{Advert, Presence};
use mesh::membership::{Members, Reach};
use mesh::placement::Cost;
use mesh::selection::contact::{Contact, Motion};
use migration::VmId;
use migration::handoff::plan::{self, Estimate, Goal, Link, Verdict, Work};
use vm_images::qcow2::{Layer, Mapping};
use vm_images::{Hardware, ImageId, Store};

use crate::causes::chain;
use crate::handoff::Experience;
use crate::lifecycle::{Claim, Service};

/// What of a VM's memory and devices its image does not have, bytes on the wire; measured with the speech service after three
/// recognitions, and a guess for any other.
const MEMORY_BYTES: u64 = 832_000;
/// What a guest adds to that while it works, bytes on the wire each second. Guess, from the same: 0.8 MB in eight seconds.
const DIRTY_BYTES_S: f64 = 100_000.0;
/// What standing still takes apart from the link; measured with QEMU under TCG on two busy cores.
const FIXED: Duration = Duration::from_millis(800);
/// Rate of a link that nothing is known of, bytes each second: 10 Mbit/s, what the project aims at.
const RATE_BYTES_S: f64 = 1_250_000.0;
/// Round trip of one link that nothing is known of. Guess: the radios that were measured.
const ROUND_TRIP: Duration = Duration::from_millis(50);

/// Where a figure comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// It was measured now, or on this very link.
    Measured,
    /// An earlier handoff showed it.
    Earlier,
    /// Nobody knows; it is what others were like.
    Assumed,
}

/// A figure that may be a guess.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Figure<T> {
    /// How much.
    pub value: T,
    /// Says who.
    pub source: Source,
}

impl<T> Figure<T> {
    fn or_assumed(known: Option<T>, source: Source, assumed: T) -> Self {
        match known {
            Some(value) => Self { value, source },
            None => Self { value: assumed, source: Source::Assumed },
        }
    }
}

/// What must travel, whoever it goes to.
#[derive(Debug, Clone, PartialEq)]
pub struct Need {
    /// The VM.
    pub vm: VmId,
    /// What it runs.
    pub image: ImageId,
    /// What that was made from.
    base: Option<ImageId>,
    /// What is on this disk of both, bytes; packed they are less.
    image_bytes: u64,
    base_bytes: u64,
    /// The machine that it sees.
    hardware: Hardware,
    /// What it may use.
    pub claim: Claim,
    /// What the image does not have of its memory and devices, bytes on the wire.
    pub memory_bytes: Figure<u64>,
    /// What it wrote to its disk, bytes before reduction; 0 where `memory_bytes` is of a whole handoff.
    pub disk_bytes: Figure<u64>,
    /// What it adds to that, bytes on the wire each second.
    pub dirty_bytes_s: Figure<f64>,
    /// What standing still takes apart from the link.
    pub fixed: Figure<Duration>,
}

impl Need {
    /// Looks at a VM's disk and image. Blocks.
    pub fn of(
        store: &Store,
        vm: VmId,
        service: &Service,
        overlay: &Path,
        known: Option<Experience>,
    ) -> Result<Self, String> {
        let images = store.chain(service.image).map_err(|error| chain(&error))?;
        let [image, bases @ ..] = images.as_slice() else { return Err("its image is gone".to_owned()) };
        let (memory_bytes, disk_bytes) = match known {
            // All that went over the link: memory, devices and disk.
            Some(known) => {
                let nothing = Figure { value: 0, source: Source::Earlier };
                (Figure { value: known.sent_bytes, source: Source::Earlier }, nothing)
            }
            None => {
                let written = written_bytes(overlay).map_err(|error| chain(&error))?;
                let memory = Figure { value: MEMORY_BYTES, source: Source::Assumed };
                (memory, Figure { value: written, source: Source::Measured })
            }
        };
        let downtime = known.and_then(|known| known.downtime);
        Ok(Self {
            vm,
            image: service.image,
            base: bases.first().map(|base| base.id),
            image_bytes: image.allocated_bytes(),
            base_bytes: bases.iter().map(vm_images::Image::allocated_bytes).sum(),
            hardware: image.manifest.hardware.clone(),
            claim: service.needs,
            memory_bytes,
            disk_bytes,
            dirty_bytes_s: Figure { value: DIRTY_BYTES_S, source: Source::Assumed },
            fixed: Figure::or_assumed(downtime, Source::Earlier, FIXED),
        })
    }
}

/// What a guest has written to its own layer of the disk, bytes.
fn written_bytes(overlay: &Path) -> Result<u64, vm_images::qcow2::Error> {
    let mut layer = Layer::open(overlay)?;
    let (mut next, mut clusters) = (0, 0);
    while let Some((cluster, mapping)) = layer.next_held(next)? {
        clusters += u64::from(matches!(mapping, Mapping::Data(_)));
        next = cluster + 1;
    }
    Ok(clusters * layer.header().cluster_bytes)
}

/// What a destination holds of a VM's images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holds {
    /// The Service VM's own image: only what the guest changed travels.
    Service,
    /// What that was made from.
    Base,
    /// Nothing.
    Nothing,
}

/// The way to a destination.
#[derive(Debug, Clone, PartialEq)]
pub struct Way {
    /// Where to.
    pub to: NodeId,
    /// Whether it can be reached.
    pub is_there: bool,
    /// Bytes each second.
    pub rate_bytes_s: Figure<f64>,
    /// Both ways.
    pub round_trip: Figure<Duration>,
    /// How long it is likely to last.
    pub contact: Contact,
}

impl Way {
    /// As the mesh knows it. `earlier_bytes_s` is what an earlier handoff to it got.
    pub fn to(to: NodeId, members: &Members, earlier_bytes_s: Option<f64>, range_m: f64) -> Self {
        let own = members.values().find(|member| member.reach == Reach::Own).map(|own| &*own.advert);
        let member = members.get(&to);
        let reach = member.map(|member| member.reach);
        let is_neighbour = matches!(reach, Some(Reach::Neighbour { .. }));
        let measured = own.and_then(|own| own.links.get(&to)?.rate_bytes_per_s).map(|rate| rate as f64);
        let earlier = Figure::or_assumed(earlier_bytes_s, Source::Earlier, RATE_BYTES_S);
        let rate_bytes_s =
            measured.map_or(earlier, |value| Figure { value, source: Source::Measured });
        let (rtt, assumed) = match reach {
            Some(Reach::Neighbour { rtt }) => (rtt, ROUND_TRIP),
            Some(Reach::Far { hops }) => (None, ROUND_TRIP * u32::from(hops)),
            _ => (None, ROUND_TRIP),
        };
        let both = own.zip(member.filter(|_| is_neighbour));
        Self {
            to,
            is_there: is_neighbour || matches!(reach, Some(Reach::Far { .. })),
            rate_bytes_s,
            round_trip: Figure::or_assumed(rtt, Source::Measured, assumed),
            contact: both.map_or(Contact::Unknown, |(own, there)| contact(own, &there.advert, range_m)),
        }
    }
}

/// How long two cloudlets will reach each other, if both say where they are.
fn contact(own: &Advert, there: &Advert, range_m: f64) -> Contact {
    let Some(origin) = own.position else { return Contact::Unknown };
    let motion = |advert: &Advert| {
        let (heading, speed) =
            advert.motion.map_or((0.0, 0.0), |motion| (motion.heading_deg(), motion.speed_m_s()));
        Some(Motion::on_earth(origin, advert.position?, heading.into(), speed.into()))
    };
    match (motion(own), motion(there)) {
        (Some(own), Some(there)) => Contact::predict(&own, &there, range_m),
        _ => Contact::Unknown,
    }
}

/// What a handoff would cost, with all that this is made of.
#[derive(Debug, Clone, PartialEq)]
pub struct Forecast {
    /// What must travel.
    pub need: Need,
    /// The way.
    pub way: Way,
    /// What the destination holds.
    pub holds: Holds,
    /// Images that must travel first, bytes at most.
    pub images_bytes: u64,
    /// What an earlier try left there, bytes.
    pub kept_bytes: u64,
    /// How long the images take; the VM runs meanwhile.
    pub images_time: Duration,
    /// The VM itself, after the images.
    pub estimate: Estimate,
    /// Why the destination would not take it, as far as it says.
    pub against: Option<Against>,
}

/// What speaks against a destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Against {
    /// It could never run it.
    Machine(String),
    /// It does not take it now.
    Now(String),
}

impl std::fmt::Display for Against {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (Self::Machine(why) | Self::Now(why)) = self;
        f.write_str(why)
    }
}

impl Forecast {
    /// Puts it together. `kept_bytes` are there from an earlier try.
    pub fn new(need: Need, way: Way, there: Option<&Advert>, kept_bytes: u64) -> Self {
        let holds = |image: &ImageId| {
            there.is_some_and(|there| there.images.values().any(|held| held == image))
        };
        let has_base = |base: &ImageId| there.is_some_and(|there| there.base_images.contains(base)) || holds(base);
        let (holds, images_bytes) = match &need.base {
            _ if holds(&need.image) => (Holds::Service, 0),
            Some(base) if has_base(base) => (Holds::Base, need.image_bytes),
            _ => (Holds::Nothing, need.image_bytes + need.base_bytes),
        };
        let rate = if way.is_there { way.rate_bytes_s.value } else { 0.0 };
        let images_time = if rate > 0.0 { seconds(images_bytes as f64 / rate) } else { Duration::ZERO };
        let rest = way.contact.expected();
        let link = Link {
            rate_bytes_s: rate,
            round_trip: way.round_trip.value,
            rest: rest.map(|rest| rest.saturating_sub(images_time)),
        };
        let lacking = (need.memory_bytes.value + need.disk_bytes.value).saturating_sub(kept_bytes);
        let work = Work {
            lacking_bytes: lacking as f64,
            dirty_bytes_s: need.dirty_bytes_s.value,
            fixed: need.fixed.value,
        };
        let mut estimate = plan::estimate(&link, &work, &Goal::default());
        if let (Verdict::ByInstalments { short_by }, Some(rest)) = (&mut estimate.verdict, rest) {
            *short_by += images_time.saturating_sub(rest);
        }
        let against = there.and_then(|there| against(&need, there));
        Self { need, way, holds, images_bytes, kept_bytes, images_time, estimate, against }
    }

    /// From now until it runs there.
    pub fn total(&self) -> Duration {
        self.images_time + self.estimate.total
    }

    /// All that goes over the link, bytes.
    pub fn bytes(&self) -> u64 {
        // Not negative, and less than what disks hold.
        self.images_bytes + self.estimate.bytes as u64
    }

    /// Whether it could run there, as far as is known. Memory and drain are the policy's to judge.
    pub fn can_run(&self) -> bool {
        !matches!(self.against, Some(Against::Machine(_)))
    }

    /// The same for the policy that weighs it against staying. A contact that ends before is the policy's to judge.
    pub fn cost(&self) -> Cost {
        Cost {
            total: self.total(),
            downtime: self.estimate.downtime,
            bytes: self.bytes(),
            feasible: !matches!(self.estimate.verdict, Verdict::TooBusy | Verdict::NoLink),
        }
    }
}

fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX / 4)
}

/// What the destination's own advert says against it.
fn against(need: &Need, there: &Advert) -> Option<Against> {
    let free = there.load.memory_free_bytes;
    let (guest, can) = (&need.hardware, &there.capabilities);
    let machine = |why| Some(Against::Machine(why));
    if can.accelerator != guest.accelerator {
        let (theirs, ours) = (can.accelerator, guest.accelerator);
        return machine(format!("it runs guests under {theirs}, and this one runs under {ours}"));
    }
    if !can.machines.contains(&guest.machine) {
        return machine(format!("it has no machine {}", guest.machine));
    }
    if !can.cpu_models.contains(&guest.cpu_model) {
        return machine(format!("it has no CPU {}", guest.cpu_model));
    }
    let now = |why: &str| Some(Against::Now(why.to_owned()));
    match there.presence {
        Presence::Draining => now("it is being emptied"),
        Presence::Left => now("it has left"),
        Presence::Serving if free < need.claim.memory_bytes => {
            let missing = (need.claim.memory_bytes - free).div_ceil(1 << 20);
            Some(Against::Now(format!("it lacks {missing} MiB of memory")))
        }
        Presence::Serving => None,
    }
}
