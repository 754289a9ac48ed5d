//! The radio medium between hosts: which frame arrives where, when, or why not.
//!
//! Pure: it takes `now` and a frame and returns what arrives when. It reads no clock, owns only seeded random
//! generators, one for each ordered pair, and so loses the same frames of the same conversation every time. The lab
//! (feature `lab`) drives it with real frames, a simulator with invented ones.
//!
//! ```text
//! frame --> queue and rate of the sender --> loss --> delay, jitter, reordering --> Delivery (when it is due)
//!                                                            a cut meanwhile? <-- arrives()
//! ```
//!
//! What the driver owes: call [`Medium::arrives`] for each delivery when it is due, hand over the frame if it says so,
//! and call [`Medium::advance`] when [`Medium::next_order_at`] has come. Late is fine, never is not. `now` never goes
//! backwards.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::random::{Purpose, stream};

pub mod counters;
mod link;
mod loss;
pub mod units;

#[cfg(test)]
mod tests;

use link::Link;
pub use link::{BadSettings, Change, Settings};
pub use loss::Loss;
use units::Rate;

/// Most hosts of one medium: ordered pairs are kept in a table of their square.
pub const MAX_HOSTS: usize = 1_000;

/// Number of a host, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostIx(pub u16);

/// Address of an Ethernet interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Whether this stands for several hosts: multicast and broadcast.
    pub fn is_group(self) -> bool {
        self.0[0] & 1 == 1
    }
}

/// What the medium must know of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// The host that sends it.
    pub from: HostIx,
    /// Whom it is for.
    pub to: Mac,
    /// Its length, Ethernet header included.
    pub bytes: u32,
    /// Length of the IP packet in it; 0 if there is none.
    pub ip_bytes: u32,
}

/// A frame on its way to one host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivery {
    /// When it arrives.
    pub due: Duration,
    /// Who sent it.
    pub from: HostIx,
    /// Where it arrives.
    pub to: HostIx,
    bytes: u32,
    ip_bytes: u32,
    cuts: u32,
}

/// Who shares what airtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Airtime {
    /// Each ordered pair has its own: a mesh of cables.
    #[default]
    PerPair,
    /// All hosts share one channel, on which one sends at a time, first come first served, each frame at the rate of
    /// its pair; a multicast frame is sent once, at the slowest rate among those in reach. Each sender has one queue,
    /// with the limit of the pair that the frame goes to. There are no collisions: a perfect arbiter.
    Shared,
}

/// A change of the medium.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Nothing passes from the first to the second any more; what is on its way is lost.
    Cut(HostIx, HostIx),
    /// Frames pass again from the first to the second.
    Heal(HostIx, HostIx),
    /// All links that were cut pass frames again.
    HealAll,
    /// The link from the first to the second changes, for frames that are sent from now on. A pair that was out of
    /// reach comes into reach.
    Set(HostIx, HostIx, Change),
}

/// The state of an ordered pair that is in reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkState {
    /// Sender.
    pub from: HostIx,
    /// Receiver.
    pub to: HostIx,
    /// Not cut.
    pub up: bool,
    /// How it carries frames.
    pub settings: Settings,
    /// What it carried.
    pub counters: counters::Pair,
}

/// The medium. See the module.
#[derive(Debug)]
pub struct Medium {
    seed: u64,
    airtime: Airtime,
    by_mac: BTreeMap<Mac, HostIx>,
    hosts: Vec<counters::Host>,
    /// Sender-major table; `None` is out of reach.
    links: Vec<Option<Link>>,
    /// With [`Airtime::Shared`]: one queue for each host, and when the channel is free.
    senders: Vec<link::Sender>,
    channel_free_at: Duration,
    /// In order of time.
    orders: VecDeque<(Duration, Order)>,
}

impl Medium {
    /// A medium between hosts with these addresses, none of which is in reach of another yet. At most [`MAX_HOSTS`]
    /// hosts are taken, the rest is ignored.
    pub fn new(addresses: &[Mac], airtime: Airtime, seed: u64) -> Self {
        let count = addresses.len().min(MAX_HOSTS);
        let hosts = (0_u16..).map(HostIx);
        Self {
            seed,
            airtime,
            by_mac: addresses.iter().copied().take(count).zip(hosts).collect(),
            hosts: vec![counters::Host::default(); count],
            links: (0..count * count).map(|_| None).collect(),
            senders: (0..count).map(|_| link::Sender::default()).collect(),
            channel_free_at: Duration::ZERO,
            orders: VecDeque::new(),
        }
    }

    /// Does `order` at `at` instead of now. Orders for the same time are done as they came.
    pub fn schedule(&mut self, at: Duration, order: Order) {
        let place = self.orders.partition_point(|(other, _)| *other <= at);
        self.orders.insert(place, (at, order));
    }

    /// When the next scheduled order is due.
    pub fn next_order_at(&self) -> Option<Duration> {
        self.orders.front().map(|(at, _)| *at)
    }

    /// Does all orders that are due at `now`.
    pub fn advance(&mut self, now: Duration) {
        while let Some((_, order)) = self.orders.pop_front_if(|(at, _)| *at <= now) {
            // Settings of scheduled orders were checked by whoever scheduled them; a bad one changes nothing.
            let _ = self.order(order);
        }
    }

    /// Changes the medium. Orders about hosts that do not exist, about a host and itself, and cuts of pairs out of
    /// reach change nothing.
    ///
    /// # Errors
    /// [`BadSettings`] if the link cannot be so; it stays as it was.
    pub fn order(&mut self, order: Order) -> Result<(), BadSettings> {
        match order {
            Order::Cut(from, to) => {
                if let Some(link) = self.link_mut(from, to) {
                    link.cut();
                }
            }
            Order::Heal(from, to) => {
                if let Some(link) = self.link_mut(from, to) {
                    link.up = true;
                }
            }
            Order::HealAll => self.links.iter_mut().flatten().for_each(|link| link.up = true),
            Order::Set(from, to, change) => self.set(from, to, &change)?,
        }
        Ok(())
    }

    fn set(&mut self, from: HostIx, to: HostIx, change: &Change) -> Result<(), BadSettings> {
        let settings = match self.link_mut(from, to) {
            Some(link) => change.apply(&link.settings),
            None => change.apply(&Settings::default()),
        };
        settings.check()?;
        let rng = stream(self.seed, Purpose::Radio, u32::from(from.0) << 16 | u32::from(to.0));
        let Some(place) = self.place(from, to) else { return Ok(()) };
        match &mut self.links[place] {
            Some(link) => link.settings = settings,
            empty => *empty = Some(Link::new(settings, rng)),
        }
        Ok(())
    }

    fn place(&self, from: HostIx, to: HostIx) -> Option<usize> {
        let (from, to, count) = (usize::from(from.0), usize::from(to.0), self.hosts.len());
        (from < count && to < count && from != to).then_some(from * count + to)
    }

    fn link_mut(&mut self, from: HostIx, to: HostIx) -> Option<&mut Link> {
        let place = self.place(from, to)?;
        self.links[place].as_mut()
    }

    /// A host sends `frame` at `now`: pushes what will arrive, where and when. Frames of hosts that do not exist are
    /// ignored.
    pub fn send(&mut self, now: Duration, frame: Frame, out: &mut Vec<Delivery>) {
        self.advance(now);
        let Some(host) = self.hosts.get_mut(usize::from(frame.from.0)) else { return };
        host.sent.count(frame.bytes, frame.ip_bytes);
        if frame.to.is_group() {
            host.sent_group.count(frame.bytes, frame.ip_bytes);
        }
        let target = self.by_mac.get(&frame.to).copied();
        let in_reach = match target {
            _ if frame.to.is_group() => true,
            Some(to) => self.link_mut(frame.from, to).is_some(),
            None => false,
        };
        if !in_reach {
            self.hosts[usize::from(frame.from.0)].unreachable += 1;
            return;
        }
        let first = usize::from(frame.from.0) * self.hosts.len();
        let row = match target {
            Some(to) if !frame.to.is_group() => first + usize::from(to.0)..first + usize::from(to.0) + 1,
            _ => first..first + self.hosts.len(),
        };
        self.send_to_row(now, frame, row, out);
    }

    /// Sends `frame` over the links at `row` of the table.
    fn send_to_row(
        &mut self,
        now: Duration,
        frame: Frame,
        row: std::ops::Range<usize>,
        out: &mut Vec<Delivery>,
    ) {
        let on_channel = match self.airtime {
            Airtime::PerPair => None,
            Airtime::Shared => Some(self.send_on_channel(now, frame, row.clone())),
        };
        let count = self.hosts.len();
        for place in row {
            let Some(link) = &mut self.links[place] else { continue };
            link.counters.offered.count(frame.bytes, frame.ip_bytes);
            if !link.up {
                link.counters.dropped.cut += 1;
                continue;
            }
            let sent_at = on_channel.unwrap_or_else(|| {
                let airtime = link.settings.rate.airtime(frame.bytes);
                link.sender.send(now, now, frame.bytes, airtime, link.settings.queue_limit_bytes())
            });
            let Some(sent_at) = sent_at else {
                link.counters.dropped.queue += 1;
                continue;
            };
            match link.propagate(sent_at) {
                None => link.counters.dropped.loss += 1,
                Some(due) => out.push(Delivery {
                    due,
                    from: frame.from,
                    // The remainder is below MAX_HOSTS.
                    to: HostIx((place % count) as u16),
                    bytes: frame.bytes,
                    ip_bytes: frame.ip_bytes,
                    cuts: link.cuts,
                }),
            }
        }
    }

    /// When the shared channel has carried `frame`; `None` if its sender has no room. Links that are cut take no
    /// airtime: the radio knows its neighbours.
    fn send_on_channel(
        &mut self,
        now: Duration,
        frame: Frame,
        row: std::ops::Range<usize>,
    ) -> Option<Duration> {
        let mut heard = self.links[row].iter().flatten().filter(|link| link.up).peekable();
        heard.peek()?;
        let (rate, limit_bytes) = heard.fold((Rate::UNLIMITED, u64::MAX), |(rate, limit), link| {
            (rate.slower(link.settings.rate), limit.min(link.settings.queue_limit_bytes()))
        });
        let sender = &mut self.senders[usize::from(frame.from.0)];
        let airtime = rate.airtime(frame.bytes);
        let sent_at = sender.send(now, self.channel_free_at, frame.bytes, airtime, limit_bytes)?;
        self.channel_free_at = sent_at;
        Some(sent_at)
    }

    /// Whether `delivery`, which is due, arrives: not if its link was cut since it was sent. Counts it either way.
    pub fn arrives(&mut self, delivery: &Delivery) -> bool {
        self.advance(delivery.due);
        let Some(link) = self.link_mut(delivery.from, delivery.to) else { return false };
        let arrives = link.cuts == delivery.cuts;
        if arrives {
            link.counters.delivered.count(delivery.bytes, delivery.ip_bytes);
            self.hosts[usize::from(delivery.to.0)].received.count(delivery.bytes, delivery.ip_bytes);
        } else {
            link.counters.dropped.cut += 1;
        }
        arrives
    }

    /// The receiver did not take `delivery`, for which [`Medium::arrives`] has just said yes.
    pub fn refused(&mut self, delivery: &Delivery) {
        if let Some(link) = self.link_mut(delivery.from, delivery.to) {
            link.counters.delivered.uncount(delivery.bytes, delivery.ip_bytes);
            link.counters.dropped.refused += 1;
            self.hosts[usize::from(delivery.to.0)].received.uncount(delivery.bytes, delivery.ip_bytes);
        }
    }

    /// Counters of the hosts, in order of their numbers.
    pub fn hosts(&self) -> &[counters::Host] {
        &self.hosts
    }

    /// All ordered pairs that are in reach, by sender, then receiver.
    pub fn links(&self) -> impl Iterator<Item = LinkState> {
        let count = self.hosts.len();
        self.links.iter().enumerate().filter_map(move |(place, link)| {
            let link = link.as_ref()?;
            // Both are below MAX_HOSTS.
            let (from, to) = (HostIx((place / count) as u16), HostIx((place % count) as u16));
            Some(LinkState { from, to, up: link.up, settings: link.settings, counters: link.counters })
        })
    }
}
