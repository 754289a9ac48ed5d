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
            // All that the destination lacked: memory, devices and disk.
            Some(known) => {
                let nothing = Figure { value: 0, source: Source::Earlier };
                (Figure { value: known.lacking_bytes, source: Source::Earlier }, nothing)
            }
            None => {
                let written = written_bytes(overlay).map_err(|error| chain(&error))?;
                let memory = Figure { value: MEMORY_BYTES, source: Source::Assumed };
                (memory, Figure { value: written, source: Source::Measured })
            }
        };
        let dirty_bytes_s = known.map(|known| known.dirty_bytes_s);
        let fixed = known.and_then(|known| known.fixed);
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
            dirty_bytes_s: Figure::or_assumed(dirty_bytes_s, Source::Earlier, DIRTY_BYTES_S),
            fixed: Figure::or_assumed(fixed, Source::Earlier, FIXED),
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
        let rate_bytes_s = measured.map_or(earlier, |value| Figure { value, source: Source::Measured });
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
        let holds =
            |image: &ImageId| there.is_some_and(|there| there.images.values().any(|held| held == image));
        let has_base =
            |base: &ImageId| there.is_some_and(|there| there.base_images.contains(base)) || holds(base);
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use mesh::advert::{Capabilities, Gpu, LinkQuality, Position};
    use mesh::membership::Member;
    use migration::hypervisor::fake::hardware;
    use vm_images::Digest;

    use super::*;

    fn node(number: u8) -> NodeId {
        NodeId::from_bytes([number; NodeId::BYTES])
    }

    fn image(name: &str) -> ImageId {
        ImageId(Digest::of(name.as_bytes()))
    }

    fn advert(number: u8) -> Advert {
        let guest = hardware();
        let capabilities = Capabilities {
            accelerator: guest.accelerator,
            gpu: Gpu::None,
            architecture: "x86_64".to_owned(),
            cpu_models: BTreeSet::from([guest.cpu_model]),
            machines: BTreeSet::from([guest.machine]),
            guest_systems: BTreeSet::new(),
            guest_speed_permille: None,
        };
        let mut advert = Advert::new(node(number), format!("truck-{number}"), capabilities);
        advert.load.memory_free_bytes = 1 << 30;
        advert
    }

    fn members(own: Advert, there: Advert) -> Members {
        let rtt = Some(Duration::from_millis(20));
        let member = |advert: Advert, reach| Member {
            advert: Arc::new(advert),
            key: [0; 32],
            reach,
            heard: Duration::ZERO,
        };
        [(node(1), member(own, Reach::Own)), (node(2), member(there, Reach::Neighbour { rtt }))].into()
    }

    fn need() -> Need {
        let assumed = |value| Figure { value, source: Source::Assumed };
        Need {
            vm: VmId(uuid::Uuid::from_u128(1)),
            image: image("service"),
            base: Some(image("base")),
            image_bytes: 50_000_000,
            base_bytes: 500_000_000,
            hardware: hardware(),
            claim: Claim { memory_bytes: 256 << 20, cpu_millis: 500 },
            memory_bytes: assumed(1_000_000),
            disk_bytes: assumed(250_000),
            dirty_bytes_s: Figure { value: 0.0, source: Source::Assumed },
            fixed: Figure { value: Duration::from_millis(250), source: Source::Assumed },
        }
    }

    fn plan(members: &Members, kept_bytes: u64) -> Forecast {
        let there = members.get(&node(2)).map(|member| &*member.advert);
        Forecast::new(need(), Way::to(node(2), members, None, 300.0), there, kept_bytes)
    }

    #[test]
    fn what_the_destination_holds_decides_what_travels() {
        let (own, mut there) = (advert(1), advert(2));
        let with = |there: &Advert, kept| plan(&members(own.clone(), there.clone()), kept);
        let nothing = with(&there, 0);
        assert_eq!((nothing.holds, nothing.images_bytes), (Holds::Nothing, 550_000_000));
        there.base_images.insert(image("base"));
        let base = with(&there, 0);
        assert_eq!((base.holds, base.images_bytes), (Holds::Base, 50_000_000));
        assert_eq!(base.images_time, Duration::from_secs(40), "10 Mbit/s are assumed");
        there.images.insert("speech".parse().unwrap(), image("service"));
        let service = with(&there, 0);
        assert_eq!((service.holds, service.images_bytes, service.bytes()), (Holds::Service, 0, 1_250_000));
        assert_eq!(service.total() + Duration::from_secs(40), base.total());
        // What came already is not sent again.
        assert_eq!(with(&there, 1_000_000).bytes(), 250_000);
        assert_eq!(with(&there, u64::MAX).bytes(), 0);
    }

    #[test]
    fn figures_say_where_they_come_from() {
        let (mut own, there) = (advert(1), advert(2));
        let way =
            |own: &Advert, earlier| Way::to(node(2), &members(own.clone(), there.clone()), earlier, 300.0);
        assert_eq!(way(&own, None).rate_bytes_s, Figure { value: RATE_BYTES_S, source: Source::Assumed });
        assert_eq!(way(&own, Some(7.0)).rate_bytes_s, Figure { value: 7.0, source: Source::Earlier });
        let link = LinkQuality { rate_bytes_per_s: Some(9), ..LinkQuality::default() };
        own.links.insert(node(2), link);
        assert_eq!(way(&own, Some(7.0)).rate_bytes_s, Figure { value: 9.0, source: Source::Measured });
        assert_eq!(way(&own, None).round_trip.source, Source::Measured);
        assert!(way(&own, None).is_there && !Way::to(node(3), &members(own, there), None, 300.0).is_there);
    }

    #[test]
    fn a_contact_that_ends_too_soon_is_said_with_what_is_lacking() {
        let (mut own, mut there) = (advert(1), advert(2));
        there.base_images.insert(image("base"));
        own.position = Position::new(48.0, 11.0);
        // 250 m north and away at 20 m/s: the image alone takes 40 s.
        there.position = Position::new(48.0 + 250.0 / 111_195.0, 11.0);
        there.motion = mesh::advert::Motion::new(0.0, 20.0);
        let forecast = plan(&members(own, there), 0);
        let rest = forecast.way.contact.expected().unwrap();
        assert!(rest < Duration::from_secs(10), "{rest:?}");
        let needed = forecast.total() + Goal::default().margin;
        assert_eq!(forecast.estimate.verdict, Verdict::ByInstalments { short_by: needed - rest });
        assert!(forecast.cost().feasible, "what the policy makes of it is its own affair");
    }

    #[test]
    fn who_would_refuse_is_named_and_who_is_gone_has_no_link() {
        let (own, mut there) = (advert(1), advert(2));
        there.load.memory_free_bytes = 1 << 20;
        let forecast = plan(&members(own.clone(), there.clone()), 0);
        assert_eq!(forecast.against.as_ref().unwrap().to_string(), "it lacks 255 MiB of memory");
        assert!(forecast.can_run(), "it may have room later");
        there.capabilities.machines.clear();
        assert!(!plan(&members(own.clone(), there.clone()), 0).can_run());
        let mut known = members(own, there);
        known.get_mut(&node(2)).unwrap().reach = Reach::UnreachableSince(Duration::ZERO);
        let gone = plan(&known, 0);
        assert_eq!((gone.estimate.verdict, gone.cost().feasible), (Verdict::NoLink, false));
    }
}
