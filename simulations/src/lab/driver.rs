//! Carries frames between the TAP devices as the [`Medium`] says. One thread owns the medium and all devices.
//!
//! Two system calls for each frame and receiver are unavoidable with TAP devices: a read and a write. Everything else is
//! shared by many frames: one `epoll_pwait2` for a batch, buffers that are reused, a heap of small entries for what is
//! on its way.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::num::NonZeroU64;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};
use rustix::io::Errno;

use super::pool::{Pool, Slot};
use super::{Error, error::system};
use crate::medium::{BadSettings, Delivery, Frame, HostIx, LinkState, Mac, Medium, Order, counters};

/// Frames read from one device before others get their turn.
const BATCH: usize = 32;
/// Frames written before new ones are read.
const WRITES: usize = 256;
/// What the epoll set calls the descriptor that asks wake it up with.
const WAKE: u64 = u64::MAX;
/// Asks that wait for the thread; whoever asks one more waits. The thread answers within a batch, so this is only
/// about as many as there are threads that ask.
const INBOX: usize = 16;
/// How much the scheduler should prefer the medium to what runs in the lab: real radio does not slow down when the
/// hosts are busy. A guess that is above all default priorities.
const PRIORITY: i32 = -11;
/// How much before a frame is due the thread wakes up, to wait for the rest without sleeping. Measured: waking an idle
/// virtual processor takes 0.05 to 0.1 ms, which would be up to 1 % of a delay of 10 ms.
const LEAD: Duration = Duration::from_micros(200);
/// One part of how many of its time the thread may wait without sleeping: 5 %, so that hosts with many frames do not
/// lose a processor to it. A guess.
const AWAKE_PART: u32 = 20;
/// The most of such time that is saved up: a hundred frames.
const MOST_AWAKE: Duration = Duration::from_millis(20);

/// What the thread can be asked.
enum Ask {
    Orders(Vec<Order>, SyncSender<Result<(), BadSettings>>),
    Snapshot(SyncSender<Snapshot>),
    Stop,
}

/// The state of the medium at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// Time since the lab's start.
    pub at: Duration,
    /// Counters of the hosts, in order of their numbers.
    pub hosts: Vec<counters::Host>,
    /// The ordered pairs in reach, by sender, then receiver.
    pub links: Vec<LinkState>,
    /// Frames dropped because too many were on their way in the whole lab. Not 0 means that the lab was asked for more
    /// than it can do.
    pub overload_frames: u64,
    /// The most that a frame came too late, since the last snapshot.
    pub worst_lateness: Duration,
}

/// Talks to the thread. Ends it when dropped.
pub(super) struct Driver {
    inbox: SyncSender<Ask>,
    wake: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
    died: Arc<AtomicU64>,
}

impl Driver {
    /// Starts carrying frames between `taps`, in order of the hosts' numbers.
    pub(super) fn start(medium: Medium, taps: Vec<OwnedFd>, mtu: u32) -> Result<Self, Error> {
        let wake = Arc::new(
            eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(system("make an eventfd"))?,
        );
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(system("make an epoll set"))?;
        let watch = |fd: &OwnedFd, data| {
            epoll::add(&epoll, fd, epoll::EventData::new_u64(data), epoll::EventFlags::IN)
                .map_err(system("watch a TAP device"))
        };
        watch(&wake, WAKE)?;
        for (number, tap) in (0_u64..).zip(&taps) {
            watch(tap, number)?;
        }
        let (inbox, asks) = sync_channel(INBOX);
        let died = Arc::new(AtomicU64::new(0));
        let mut carrier = Carrier {
            epoll,
            wake: Arc::clone(&wake),
            asks,
            medium,
            taps,
            // Ethernet header and a VLAN tag on top.
            pool: Pool::new(mtu as usize + 18),
            way: BinaryHeap::new(),
            sent: 0,
            out: Vec::new(),
            clock: Clock::start(),
            looked_at: Duration::ZERO,
            awake: false,
            may_be_awake: Duration::ZERO,
            overload_frames: 0,
            worst_lateness: Duration::ZERO,
            died: Arc::clone(&died),
        };
        let thread = std::thread::Builder::new()
            .name("lab-medium".to_owned())
            .spawn(move || {
                // Both make times more exact and may be forbidden; the lab works without.
                let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), PRIORITY);
                let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
                carrier.run();
            })
            .map_err(system("start the medium's thread"))?;
        Ok(Self { inbox, wake, thread: Some(thread), died })
    }

    fn ask(&self, ask: Ask) -> Result<(), Error> {
        self.inbox.send(ask).map_err(|_| Error::Ended)?;
        // A full counter is a thread that is awake already.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
        Ok(())
    }

    /// Does `orders`, all at once; stops at the first that cannot be.
    pub(super) fn order(&self, orders: Vec<Order>) -> Result<(), Error> {
        let (reply, answer) = sync_channel(1);
        self.ask(Ask::Orders(orders, reply))?;
        Ok(answer.recv().map_err(|_| Error::Ended)??)
    }

    pub(super) fn snapshot(&self) -> Result<Snapshot, Error> {
        let (reply, answer) = sync_channel(1);
        self.ask(Ask::Snapshot(reply))?;
        answer.recv().map_err(|_| Error::Ended)
    }

    /// How many TAP devices went away under the lab.
    pub(super) fn dead_devices(&self) -> u64 {
        self.died.load(Ordering::Relaxed)
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let asked = match self.inbox.try_send(Ask::Stop) {
            Ok(()) => {
                let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
                true
            }
            Err(TrySendError::Full(stop)) => self.ask(stop).is_ok(),
            Err(TrySendError::Disconnected(_)) => false,
        };
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && asked
        {
            eprintln!("cloudlet-lab: the medium's thread panicked");
        }
    }
}

/// Time since the start of the lab.
struct Clock(Instant);

impl Clock {
    #[expect(clippy::disallowed_methods, reason = "the driver tells the medium what time it is")]
    fn start() -> Self {
        Self(Instant::now())
    }

    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}

/// A frame on its way, in order of arrival, then of sending.
#[derive(Clone, Copy, PartialEq, Eq)]
struct OnTheWay {
    sent: u64,
    delivery: Delivery,
    slot: Slot,
}

impl OnTheWay {
    fn key(&self) -> (Duration, u64) {
        (self.delivery.due, self.sent)
    }
}

impl Ord for OnTheWay {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

impl PartialOrd for OnTheWay {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// What the thread owns.
struct Carrier {
    epoll: OwnedFd,
    wake: Arc<OwnedFd>,
    asks: Receiver<Ask>,
    medium: Medium,
    taps: Vec<OwnedFd>,
    pool: Pool,
    way: BinaryHeap<Reverse<OnTheWay>>,
    sent: u64,
    out: Vec<Delivery>,
    clock: Clock,
    /// When the time to wait was last asked for; whether the thread then stayed awake; how long it still may.
    looked_at: Duration,
    awake: bool,
    may_be_awake: Duration,
    overload_frames: u64,
    worst_lateness: Duration,
    died: Arc<AtomicU64>,
}

impl Carrier {
    fn run(&mut self) {
        let mut events: Vec<epoll::Event> = Vec::with_capacity(self.taps.len() + 1);
        loop {
            self.deliver_due();
            events.clear();
            let wait = self.time_to_wait();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), wait.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => {
                    eprintln!("cloudlet-lab: the medium ends: epoll_wait: {error}");
                    return;
                }
            }
            for event in &events {
                match event.data.u64() {
                    WAKE => {
                        if !self.answer() {
                            return;
                        }
                    }
                    number => {
                        self.read(number as usize);
                        self.deliver_due();
                    }
                }
            }
        }
    }

    /// Until something is due; `None`: for ever. The last bit of it is zero again and again, within limits, because
    /// waking up takes its time.
    fn time_to_wait(&mut self) -> Option<Timespec> {
        let now = self.clock.now();
        let passed = now - std::mem::replace(&mut self.looked_at, now);
        self.may_be_awake = match self.awake {
            true => self.may_be_awake.saturating_sub(passed),
            false => (self.may_be_awake + passed / AWAKE_PART).min(MOST_AWAKE),
        };
        let delivery = self.way.peek().map(|Reverse(first)| first.delivery.due);
        let next = delivery.into_iter().chain(self.medium.next_order_at()).min();
        let wait = next.map(|next| next.saturating_sub(now));
        self.awake = wait.is_some_and(|wait| wait <= LEAD) && !self.may_be_awake.is_zero();
        let wait = match wait? {
            _ if self.awake => Duration::ZERO,
            wait if self.may_be_awake >= LEAD => wait.saturating_sub(LEAD),
            wait => wait,
        };
        Some(Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: i64::from(wait.subsec_nanos()) })
    }

    /// Answers what was asked; whether to go on.
    fn answer(&mut self) -> bool {
        let _ = rustix::io::read(&self.wake, &mut [0; 8]);
        while let Ok(ask) = self.asks.try_recv() {
            let at = self.clock.now();
            self.medium.advance(at);
            match ask {
                Ask::Stop => return false,
                // Whoever asked may have gone.
                Ask::Orders(orders, reply) => {
                    let done = orders.into_iter().try_for_each(|order| self.medium.order(order));
                    let _ = reply.try_send(done);
                }
                Ask::Snapshot(reply) => {
                    let _ = reply.try_send(Snapshot {
                        at,
                        hosts: self.medium.hosts().to_vec(),
                        links: self.medium.links().collect(),
                        overload_frames: self.overload_frames,
                        worst_lateness: std::mem::take(&mut self.worst_lateness),
                    });
                }
            }
        }
        true
    }

    /// Reads what host `number` has sent.
    fn read(&mut self, number: usize) {
        for _ in 0..BATCH {
            let Some(slot) = self.pool.take() else {
                // The frame must still be taken from the device, or the loop would spin.
                match rustix::io::read(&self.taps[number], &mut [0_u8; 14]) {
                    Ok(_) => self.overload_frames += 1,
                    Err(_) => return,
                }
                continue;
            };
            let length = match rustix::io::read(&self.taps[number], self.pool.whole(slot)) {
                Ok(length) => length,
                Err(error) => {
                    self.pool.fill(slot, 0, 0);
                    if error != Errno::AGAIN && error != Errno::INTR {
                        self.bury(number, error);
                    }
                    return;
                }
            };
            self.send(number, slot, length);
        }
    }

    fn send(&mut self, number: usize, slot: Slot, length: usize) {
        let frame = inspect(HostIx(number as u16), &self.pool.whole(slot)[..length]);
        if let Some(frame) = frame {
            self.medium.send(self.clock.now(), frame, &mut self.out);
        }
        self.pool.fill(slot, length, self.out.len());
        for delivery in self.out.drain(..) {
            self.sent += 1;
            self.way.push(Reverse(OnTheWay { sent: self.sent, delivery, slot }));
        }
    }

    /// A device that is gone would wake the thread for ever.
    fn bury(&mut self, number: usize, error: Errno) {
        eprintln!("cloudlet-lab: host number {number} has lost its radio: {error}");
        let _ = epoll::delete(&self.epoll, &self.taps[number]);
        self.died.fetch_add(1, Ordering::Relaxed);
    }

    /// Writes what is due, at most so much that reading is not forgotten.
    fn deliver_due(&mut self) {
        let mut now = self.clock.now();
        for _ in 0..WRITES {
            let Some(Reverse(first)) = self.way.peek() else { return };
            if first.delivery.due > now {
                now = self.clock.now();
                if first.delivery.due > now {
                    return;
                }
            }
            let OnTheWay { delivery, slot, .. } = *first;
            self.way.pop();
            self.worst_lateness = self.worst_lateness.max(now - delivery.due);
            if self.medium.arrives(&delivery) {
                let tap = self.taps[usize::from(delivery.to.0)].as_fd();
                if rustix::io::write(tap, self.pool.frame(slot)).is_err() {
                    self.medium.refused(&delivery);
                }
            }
            self.pool.release(slot);
        }
    }
}

/// What the medium must know of an Ethernet frame; `None` if it is too short to be one.
fn inspect(from: HostIx, frame: &[u8]) -> Option<Frame> {
    /// Ethernet's numbers for IPv4 and IPv6.
    const IP: [[u8; 2]; 2] = [[0x08, 0x00], [0x86, 0xdd]];
    const HEADER: usize = 14;
    let (to, kind) = (frame.get(..6)?, frame.get(12..HEADER)?);
    let is_ip = IP.iter().any(|ip| ip == kind);
    Some(Frame {
        from,
        to: Mac(to.try_into().ok()?),
        bytes: frame.len() as u32,
        ip_bytes: if is_ip { (frame.len() - HEADER) as u32 } else { 0 },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ip_is_told_from_other_frames() {
        let mut frame = [0_u8; 60];
        frame[..6].copy_from_slice(&[1, 2, 3, 4, 5, 6]);
        let bytes = |frame: &[u8]| inspect(HostIx(3), frame).map(|it| (it.bytes, it.ip_bytes));
        frame[12..14].copy_from_slice(&[8, 6]);
        assert_eq!(bytes(&frame), Some((60, 0)), "ARP");
        frame[12..14].copy_from_slice(&[8, 0]);
        assert_eq!(bytes(&frame), Some((60, 46)));
        frame[12..14].copy_from_slice(&[0x86, 0xdd]);
        assert_eq!(bytes(&frame), Some((60, 46)));
        assert_eq!(inspect(HostIx(3), &frame).unwrap().to, Mac([1, 2, 3, 4, 5, 6]));
        assert_eq!(bytes(&frame[..13]), None);
    }
}
