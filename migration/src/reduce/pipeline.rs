//! Packs groups on several threads and sends them in order, with a bound on what is on its way.

use std::collections::BTreeMap;
use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::directory::{Directory, MOST_RUNS, What};
use super::level::{Controller, Level};
use super::pack::Packer;
use super::versions::Under;
use super::{BLOCK_BYTES, Error, Frame, GROUP_PAGES, Kept, Space};
use crate::speed::thread_cpu;

/// Shorter sends tell nothing of the link: they went into a buffer.
const TELLING: Duration = Duration::from_millis(2);

/// Where frames go. A slow one makes everything before it wait, up to QEMU.
pub trait Outlet: Send {
    /// Sends a frame, or stores it where it will be sent from. Blocks while there is no room.
    fn send(&mut self, frame: Frame) -> io::Result<()>;

    /// What the link carries, bytes per second, if the outlet knows; else it is told from how long `send` takes.
    fn drain_bytes_per_s(&self) -> Option<f64> {
        None
    }
}

impl<F: FnMut(Frame) -> io::Result<()> + Send> Outlet for F {
    fn send(&mut self, frame: Frame) -> io::Result<()> {
        self(frame)
    }
}

/// What is said of one block.
pub(super) enum Entry {
    Told(What),
    /// In this place of the group's pages.
    New,
}

/// Blocks that are sent together.
pub(super) struct Group {
    space: Space,
    first: u32,
    entries: Vec<(u32, Entry)>,
    /// Each with what it may be a difference from.
    pages: Vec<(Kept, Under)>,
}

impl Group {
    /// `first` is the number that its first page will have.
    pub fn new(space: Space, first: u32) -> Self {
        Self { space, first, entries: Vec::new(), pages: Vec::new() }
    }

    pub fn tell(&mut self, block: u32, what: What) {
        self.entries.push((block, Entry::Told(what)));
    }

    pub fn bring(&mut self, block: u32, page: Kept, under: Under) {
        self.entries.push((block, Entry::New));
        self.pages.push((page, under));
    }

    /// Number of its first page.
    pub fn first(&self) -> u32 {
        self.first
    }

    pub fn is_full(&self) -> bool {
        self.pages.len() >= GROUP_PAGES || self.entries.len() >= MOST_RUNS
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The frame, what was packed (bytes), and what became of the pages.
    fn frame(self, packer: &mut Packer, level: Level) -> io::Result<(Frame, usize, Differing)> {
        let mut content = Vec::with_capacity(self.pages.len() * BLOCK_BYTES);
        let mut directory = Directory::default();
        let mut pages = self.pages.iter();
        let mut differing = Differing::default();
        for (block, entry) in self.entries {
            let what = match (entry, pages.as_slice()) {
                (Entry::Told(what), _) => what,
                (Entry::New, []) => continue,
                (Entry::New, [(page, under), ..]) => {
                    pages.next();
                    let is_xor = packer.put(page, under.page(), &mut content)?;
                    differing.count(is_xor.then_some(under))
                }
            };
            directory.push(block, what);
        }
        let mut unpacked = Vec::with_capacity(content.len() + directory.runs.len() * 4);
        directory.encode(&mut unpacked);
        unpacked.extend_from_slice(&content);
        let (space, first) = (self.space, self.first);
        let packed = packer.pack(&unpacked, level)?;
        let unpacked_bytes = unpacked.len() as u32;
        Ok((Frame::Group { space, first, unpacked_bytes, packed }, unpacked.len(), differing))
    }
}

/// How many pages were sent as differences.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Differing {
    /// From the base, or from what was sent before.
    pub all: u64,
    /// From what was sent before.
    pub again: u64,
}

impl Differing {
    /// Counts a page that was put as a difference from this; gives what is said of it.
    fn count(&mut self, from: Option<&Under>) -> What {
        self.all += u64::from(from.is_some());
        match from {
            None => What::Raw,
            Some(Under::Base(_)) => What::Xor,
            Some(Under::Sent(number, _)) => {
                self.again += 1;
                What::Again(*number)
            }
        }
    }
}

/// What went through.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Totals {
    pub frames: u64,
    pub wire_bytes: u64,
    pub differing: Differing,
    pub worker_cpu: Duration,
}

type Packed = (u64, io::Result<(Frame, Differing, Duration)>);

/// Takes groups and frames in the order in which they are to be sent.
pub(super) struct Feed {
    groups: SyncSender<(u64, Group)>,
    packed: SyncSender<Packed>,
    /// One for each that was sent, so that no more than the window are on their way.
    credits: Receiver<()>,
    left: usize,
    next: u64,
}

/// The other end has gone; why, it says itself.
struct Gone;

impl Feed {
    pub fn group(&mut self, group: Group) -> Result<(), Error> {
        self.number().and_then(|number| self.groups.send((number, group)).map_err(|_| Gone)).map_err(gone)
    }

    pub fn frame(&mut self, frame: Frame) -> Result<(), Error> {
        let ready = Ok((frame, Differing::default(), Duration::ZERO));
        self.number().and_then(|number| self.packed.send((number, ready)).map_err(|_| Gone)).map_err(gone)
    }

    fn number(&mut self) -> Result<u64, Gone> {
        match self.left.checked_sub(1) {
            Some(left) => self.left = left,
            None => self.credits.recv().map_err(|_| Gone)?,
        }
        self.next += 1;
        Ok(self.next - 1)
    }
}

/// Takes the place of the real error until that is known.
fn gone(_: Gone) -> Error {
    Error::Worker
}

/// Runs `feed`, packs what it gives with `workers` threads, and sends it in order.
pub(super) fn run<T>(
    workers: usize,
    controller: &Mutex<Controller>,
    outlet: &mut dyn Outlet,
    feed: impl FnOnce(&mut Feed) -> Result<T, Error>,
) -> Result<(T, Totals), Error> {
    // One in each worker's hands, one waiting for it, and two for the link to take while they work.
    let window = 2 * workers + 2;
    let (groups, waiting) = sync_channel(window);
    let (packed, ready) = sync_channel(window);
    let (credit, credits) = sync_channel(window);
    let waiting = Mutex::new(waiting);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            let (packed, waiting) = (packed.clone(), &waiting);
            scope.spawn(move || work(waiting, &packed, controller));
        }
        let sender = scope.spawn(move || send(&ready, &credit, outlet, controller));
        let mut entry = Feed { groups, packed, credits, left: window, next: 0 };
        let fed = feed(&mut entry);
        drop(entry);
        let sent = sender.join().map_err(|_| Error::Worker)?;
        match (fed, sent) {
            // What stopped the sender is why the feeder could not go on.
            (Err(Error::Worker) | Ok(_), Err(error)) => Err(error),
            (Err(error), _) => Err(error),
            (Ok(fed), Ok(totals)) => Ok((fed, totals)),
        }
    })
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // A panic elsewhere is reported by whoever joins; what it left here is whole after every statement.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A worker: packs until there is nothing more, or nobody who wants it.
fn work(
    waiting: &Mutex<Receiver<(u64, Group)>>,
    packed: &SyncSender<Packed>,
    controller: &Mutex<Controller>,
) {
    let mut packer = Packer::new();
    loop {
        let next = lock(waiting).recv();
        let Ok((number, group)) = next else { return };
        let result = match &mut packer {
            Ok(packer) => pack(group, packer, controller),
            Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
        };
        if packed.send((number, result)).is_err() {
            return;
        }
    }
}

fn pack(
    group: Group,
    packer: &mut Packer,
    controller: &Mutex<Controller>,
) -> io::Result<(Frame, Differing, Duration)> {
    let level = lock(controller).level();
    let begin = thread_cpu();
    let (frame, bytes, differing) = group.frame(packer, level)?;
    let cpu = thread_cpu().saturating_sub(begin);
    // A directory alone says nothing of how content packs.
    if bytes > GROUP_PAGES * BLOCK_BYTES / 4 {
        lock(controller).packed(level, bytes, frame.bytes(), cpu);
    }
    Ok((frame, differing, cpu))
}

fn send(
    ready: &Receiver<Packed>,
    credit: &SyncSender<()>,
    outlet: &mut dyn Outlet,
    controller: &Mutex<Controller>,
) -> Result<Totals, Error> {
    let mut totals = Totals::default();
    // Never more than the window.
    let mut early = BTreeMap::new();
    while let Ok((number, result)) = ready.recv() {
        early.insert(number, result);
        while let Some(result) = early.remove(&totals.frames) {
            let (frame, differing, cpu) = result.map_err(Error::Pack)?;
            let bytes = frame.bytes();
            send_one(frame, bytes, outlet, controller)
                .map_err(|source| Error::Send { frame: totals.frames, source })?;
            totals.frames += 1;
            totals.wire_bytes += bytes as u64;
            totals.differing.all += differing.all;
            totals.differing.again += differing.again;
            totals.worker_cpu += cpu;
            // Full only if nobody waits for one.
            let _ = credit.try_send(());
        }
    }
    Ok(totals)
}

fn send_one(
    frame: Frame,
    bytes: usize,
    outlet: &mut dyn Outlet,
    controller: &Mutex<Controller>,
) -> io::Result<()> {
    #[expect(clippy::disallowed_methods, reason = "measures the link; the controller itself reads no clock")]
    let begin = std::time::Instant::now();
    outlet.send(frame)?;
    let took = begin.elapsed();
    match outlet.drain_bytes_per_s() {
        Some(drain) => lock(controller).set_drain(drain),
        None if took >= TELLING => lock(controller).drained(bytes, took),
        None => {}
    }
    Ok(())
}
