//! Makes frames of a VM.

use std::io::Read;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use vm_images::Digest;

use super::classify::{Classifier, Sent, Verdict};
use super::device::Device;
use super::directory::{MOST_PARTS, What};
use super::hold::Holdback;
use super::level::Controller;
use super::pipeline::{self, Feed, Group, Outlet, Totals};
use super::{BLOCK_BYTES, Base, Error, Frame, Images, PageHash, Space, TemplateBase, base, pack};
use crate::stream::{self, Block, Content, Event, Page, Reader, Section};

/// Level for device state, which is short and comes while the guest is paused: 0.5 MB take 10 ms.
const DEVICE_LEVEL: i32 = 9;
const ZERO_PAGE: Page = [0; BLOCK_BYTES];

/// How a source works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Threads that pack; beside them one reads and decides, and one sends. From 1 to 16.
    pub workers: NonZeroUsize,
}

impl Default for Config {
    /// As many as there are processors beside the one that decides, at most 4: packing at low levels is faster than
    /// any link that pays for more (a guess).
    fn default() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Self { workers: NonZeroUsize::new(processors.saturating_sub(1).min(4)).unwrap_or(NonZeroUsize::MIN) }
    }
}

/// What became of the blocks of a memory or disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Report {
    /// Blocks that QEMU sent, or that the layers hold; a block counts each time that it comes.
    pub seen: u64,
    /// The sink had them so.
    pub same: u64,
    /// All zero.
    pub zero: u64,
    /// Again as in the base.
    pub base: u64,
    /// In an image.
    pub known: u64,
    /// Sent before.
    pub arrived: u64,
    /// Sent.
    pub new: u64,
    /// Of these, as difference from the base or from what was sent before.
    pub differences: u64,
    /// Of these, from what was sent before.
    pub again: u64,
    /// Not sent because a newer content came while they were held back.
    pub superseded: u64,
    /// Blocks that differ from the base in the end.
    pub differing: u64,
    /// Length of the device stream before it was packed, bytes.
    pub device_bytes: u64,
    /// Its frame, bytes.
    pub device_wire_bytes: u64,
    /// Frames.
    pub frames: u64,
    /// All frames, bytes.
    pub wire_bytes: u64,
    /// Processor time of packing.
    pub pack_cpu: Duration,
    /// What the sink must find of a memory that was read to its end: the hash of the blocks that differ.
    pub root: [u8; 32],
    /// The same of the device stream: its hash.
    pub device_digest: [u8; 32],
}

/// How far the live stream of a running guest is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Live {
    /// Blocks that came, each time that they came.
    pub seen: u64,
    /// Blocks of the memory: when as many were seen, all came once.
    pub blocks: u64,
    /// Of these, sent with their content.
    pub new: u64,
    /// Blocks that change again and again, and are kept for the end.
    pub held: u64,
}

/// Makes frames of one VM for one sink.
///
/// After an error it is of no further use: make a new one with what the sink then has ([`super::Sink::have`]).
pub struct Source<'a> {
    images: &'a Images,
    sent: Sent,
    config: Config,
    controller: Mutex<Controller>,
    pub(super) disk: Option<super::disk::Open<'a>>,
}

impl<'a> Source<'a> {
    /// `images` are the parts that both sides hold, at most 250. `have` are the pages that the sink has from before a cut.
    pub fn new(images: &'a Images, have: &[PageHash], config: Config) -> Result<Self, Error> {
        let parts = images.digests().count();
        if parts > MOST_PARTS {
            let (bytes, most) = (parts as u64, MOST_PARTS as u64);
            return Err(Error::TooLarge { what: "a set of image parts", bytes, most });
        }
        let workers = config.workers.min(const { NonZeroUsize::new(16).expect("16 is not zero") });
        let controller = Mutex::new(Controller::new(workers.get()));
        let config = Config { workers };
        Ok(Self { images, sent: Sent::new(have), config, controller, disk: None })
    }

    /// Reads a migration stream of the VM to its end: QEMU may still be running the guest, and sends pages again that
    /// it has changed. `memory_block` is QEMU's name of the memory; `template` is what the sink's QEMU will map under it, `device` the
    /// device stream that belongs to that template, both by digest and both among the images.
    pub fn memory(
        &mut self,
        stream: impl Read,
        memory_block: &str,
        template: Option<&Digest>,
        device: Option<&Digest>,
        outlet: &mut dyn Outlet,
    ) -> Result<Report, Error> {
        let template = self.part(template)?;
        let against = self.part(device)?;
        let (workers, images) = (self.config.workers.get(), self.images);
        let sent = &mut self.sent;
        let ((mut report, differing), totals) = pipeline::run(workers, &self.controller, outlet, |feed| {
            Memory::read_all(images, template, against, sent, feed, stream, memory_block)
        })?;
        report.differing = differing;
        report.add(&totals);
        Ok(report)
    }

    /// Reads the live stream of a guest that runs on, for as long as `go_on` says; it is asked after each of QEMU's
    /// sections. Brings pages early and completes nothing: [`Source::memory`] of the paused guest must follow, with this
    /// same source. What changes again and again is left for that.
    pub fn memory_live(
        &mut self,
        stream: impl Read,
        memory_block: &str,
        template: Option<&Digest>,
        go_on: &mut dyn FnMut(Live) -> bool,
        outlet: &mut dyn Outlet,
    ) -> Result<Report, Error> {
        let template = self.part(template)?;
        let (workers, images) = (self.config.workers.get(), self.images);
        let sent = &mut self.sent;
        let (mut report, totals) = pipeline::run(workers, &self.controller, outlet, |feed| {
            Memory::read_live(images, template, sent, feed, stream, memory_block, go_on)
        })?;
        report.add(&totals);
        Ok(report)
    }

    /// Runs a feed through the pipeline.
    pub(super) fn run<T>(
        &mut self,
        outlet: &mut dyn Outlet,
        feed: impl FnOnce(&mut Feed, &mut Sent, &mut Option<super::disk::Open<'a>>) -> Result<T, Error>,
    ) -> Result<(T, Totals), Error> {
        let (sent, disk) = (&mut self.sent, &mut self.disk);
        pipeline::run(self.config.workers.get(), &self.controller, outlet, |into| feed(into, sent, disk))
    }

    pub(super) fn images(&self) -> &'a Images {
        self.images
    }

    /// Number and file of a part that must be among the images.
    pub(super) fn part(&self, digest: Option<&Digest>) -> Result<Option<(u16, &'a Path)>, Error> {
        let Some(digest) = digest else { return Ok(None) };
        let number = self.images.number_of(digest).ok_or(Error::NoSuchPart { digest: *digest })?;
        Ok(self.images.path(number).map(|path| (number, path.as_path())))
    }
}

impl Report {
    pub(super) fn add(&mut self, totals: &Totals) {
        self.differences += totals.differing.all;
        self.again += totals.differing.again;
        self.frames += totals.frames;
        self.wire_bytes += totals.wire_bytes;
        self.pack_cpu += totals.worker_cpu;
    }
}

/// Decides for blocks and gathers them in groups.
pub(super) struct Gatherer {
    space: Space,
    group: Group,
    pub report: Report,
}

impl Gatherer {
    pub fn new(space: Space, sent: &Sent) -> Self {
        Self { space, group: Group::new(space, sent.next()), report: Report::default() }
    }

    /// A block has this content.
    pub fn block(
        &mut self,
        block: u32,
        page: &Page,
        classifier: &mut Classifier<'_>,
        sent: &mut Sent,
        feed: &mut Feed,
    ) -> Result<(), Error> {
        let report = &mut self.report;
        let (count, what) = match classifier.decide(block, page, sent, self.group.first())? {
            Verdict::Same => {
                report.same += 1;
                return Ok(());
            }
            Verdict::Zero => (&mut report.zero, Some(What::Zero)),
            Verdict::Base => (&mut report.base, Some(What::Base)),
            Verdict::Known(place) => (&mut report.known, Some(What::Known(place))),
            Verdict::Arrived(number) => (&mut report.arrived, Some(What::Arrived(number))),
            Verdict::New(under) => {
                self.group.bring(block, Box::new(*page), under);
                (&mut report.new, None)
            }
        };
        *count += 1;
        if let Some(what) = what {
            self.group.tell(block, what);
        }
        if self.group.is_full() { self.flush(sent, feed) } else { Ok(()) }
    }

    /// Hands on what is gathered.
    pub fn flush(&mut self, sent: &Sent, feed: &mut Feed) -> Result<(), Error> {
        let group = std::mem::replace(&mut self.group, Group::new(self.space, sent.next()));
        if group.is_empty() { Ok(()) } else { feed.group(group) }
    }
}

/// The frame that begins a space.
pub(super) fn begin(images: &Images, space: Space, blocks: u64, base: Option<u16>, sent: &Sent) -> Frame {
    Frame::Begin { space, blocks, base, have: sent.next(), parts: images.digests().copied().collect() }
}

/// A memory while its stream is read.
struct Memory<'a, 'b> {
    sent: &'b mut Sent,
    feed: &'b mut Feed,
    block: usize,
    blocks: u64,
    template: Option<(u16, &'a Path)>,
    classifier: Classifier<'a>,
    hold: Holdback,
    gatherer: Gatherer,
}

impl<'a, 'b> Memory<'a, 'b> {
    /// Gives the report, and how many pages differ in the end.
    fn read_all(
        images: &'a Images,
        template: Option<(u16, &'a Path)>,
        against: Option<(u16, &'a Path)>,
        sent: &'b mut Sent,
        feed: &'b mut Feed,
        stream: impl Read,
        memory_block: &str,
    ) -> Result<(Report, u64), Error> {
        let mut reader = Reader::live(stream);
        let mut device = Device::default();
        let (mut sent, mut feed) = (Some(sent), Some(feed));
        let mut memory: Option<Self> = None;
        loop {
            let at = reader.offset();
            let Some(event) = reader.read().map_err(Error::Stream)? else { break };
            match (&event, &mut memory) {
                (Event::Blocks(blocks), none @ None) => {
                    let block = stream::find_block(at, blocks, memory_block).map_err(Error::Stream)?;
                    if let (Some(sent), Some(feed)) = (sent.take(), feed.take()) {
                        let begun = Self::begin(images, template, sent, feed, (block, &blocks[block]))?;
                        *none = Some(begun);
                    }
                }
                (&Event::Page { block, offset, content }, Some(memory)) if block == memory.block => {
                    memory.page(offset, content)?;
                    continue;
                }
                (Event::Begin { section: Section::End, .. }, Some(memory)) => memory.hold.end_begins(),
                _ => {}
            }
            device.event(&event)?;
        }
        let incomplete = Error::Incomplete { space: Space::Memory, missing: "a list of memory blocks" };
        memory.ok_or(incomplete)?.finish(&device, against)
    }

    fn read_live(
        images: &'a Images,
        template: Option<(u16, &'a Path)>,
        sent: &'b mut Sent,
        feed: &'b mut Feed,
        stream: impl Read,
        memory_block: &str,
        go_on: &mut dyn FnMut(Live) -> bool,
    ) -> Result<Report, Error> {
        let mut reader = Reader::live(stream);
        let (mut sent, mut feed) = (Some(sent), Some(feed));
        let mut memory: Option<Self> = None;
        let read = loop {
            let at = reader.offset();
            let event = match reader.read() {
                Ok(Some(event)) => event,
                // Its end would mean that somebody else paused the guest; what came is as good as ever.
                Ok(None) => break Ok(()),
                Err(error) => break Err(Error::Stream(error)),
            };
            match (&event, &mut memory) {
                (Event::Blocks(blocks), none @ None) => {
                    let block = stream::find_block(at, blocks, memory_block).map_err(Error::Stream)?;
                    if let (Some(sent), Some(feed)) = (sent.take(), feed.take()) {
                        *none = Some(Self::begin(images, template, sent, feed, (block, &blocks[block]))?);
                    }
                }
                (&Event::Page { block, offset, content }, Some(memory)) if block == memory.block => {
                    memory.page(offset, content)?;
                }
                (Event::End { .. }, Some(memory)) if !go_on(memory.live()) => break Ok(()),
                _ => {}
            }
        };
        let incomplete = Error::Incomplete { space: Space::Memory, missing: "a list of memory blocks" };
        let Some(mut memory) = memory else {
            return read.and(Err(incomplete));
        };
        memory.gatherer.flush(memory.sent, memory.feed)?;
        let report = Report { superseded: memory.hold.saved(), ..memory.gatherer.report };
        // Only now: what was gathered counts as sent.
        read.map(|()| report)
    }

    fn live(&self) -> Live {
        let Report { seen, new, .. } = self.gatherer.report;
        Live { seen, blocks: self.blocks, new, held: self.hold.len() as u64 }
    }

    fn begin(
        images: &'a Images,
        template: Option<(u16, &'a Path)>,
        sent: &'b mut Sent,
        feed: &'b mut Feed,
        (block, listed): (usize, &Block),
    ) -> Result<Self, Error> {
        let blocks = listed.bytes / BLOCK_BYTES as u64;
        if listed.bytes > stream::MAX_MEMORY_BYTES || !listed.bytes.is_multiple_of(BLOCK_BYTES as u64) {
            let (bytes, most) = (listed.bytes, stream::MAX_MEMORY_BYTES);
            return Err(Error::TooLarge { what: "a guest's memory", bytes, most });
        }
        let base: Box<dyn Base> = match template {
            Some((_, path)) => Box::new(TemplateBase::open(path)?),
            None => Box::new(base::Nothing { blocks }),
        };
        if base.blocks() != blocks {
            return Err(Error::OtherBase { space: Space::Memory, found: blocks, base: base.blocks() });
        }
        let number = template.map(|(number, _)| number);
        feed.frame(begin(images, Space::Memory, blocks, number, sent))?;
        let gatherer = Gatherer::new(Space::Memory, sent);
        let classifier = Classifier::new(Space::Memory, images, base);
        let hold = Holdback::new(blocks as usize);
        Ok(Self { sent, feed, block, blocks, template, classifier, hold, gatherer })
    }

    fn page(&mut self, offset: u64, content: Content<'_>) -> Result<(), Error> {
        let page = match content {
            Content::Zero => &ZERO_PAGE,
            Content::Bytes(page) => page,
        };
        // The reader has checked that it lies within the block.
        let number = (offset / BLOCK_BYTES as u64) as u32;
        self.gatherer.report.seen += 1;
        let release = self.hold.page(number, page);
        for (number, page) in &release.held {
            self.decide(*number, page)?;
        }
        if release.now { self.decide(number, page) } else { Ok(()) }
    }

    fn decide(&mut self, number: u32, page: &Page) -> Result<(), Error> {
        self.gatherer.block(number, page, &mut self.classifier, self.sent, self.feed)
    }

    fn finish(mut self, device: &Device, against: Option<(u16, &Path)>) -> Result<(Report, u64), Error> {
        for (number, page) in self.hold.finish() {
            self.decide(number, &page)?;
        }
        self.gatherer.flush(self.sent, self.feed)?;
        let mut report = self.gatherer.report;
        report.superseded = self.hold.saved();
        let (frame, device_bytes, device_digest) = device_frame(device, against)?;
        (report.device_bytes, report.device_wire_bytes) = (device_bytes, frame.bytes() as u64);
        report.device_digest = device_digest;
        self.feed.frame(frame)?;
        let base =
            self.template.and_then(|(number, _)| self.classifier.images().digests().nth(number.into()));
        let differences = self.classifier.differences();
        let (differing, root) = (differences.len(), differences.root(base, self.blocks));
        report.root = root;
        self.feed.frame(Frame::End { space: Space::Memory, differing, root })?;
        Ok((report, differing.into()))
    }
}

/// The frame, and length and hash of what it brings.
fn device_frame(device: &Device, against: Option<(u16, &Path)>) -> Result<(Frame, u64, [u8; 32]), Error> {
    let stream = device.stream().map_err(Error::Pack)?;
    let snapshot = match against {
        Some((_, path)) => read_device(path)?,
        None => Vec::new(),
    };
    let packed = pack::pack_against(&snapshot, &stream, DEVICE_LEVEL).map_err(Error::Pack)?;
    let against = against.map(|(number, _)| number);
    let digest = *blake3::hash(&stream).as_bytes();
    Ok((Frame::Device { against, unpacked_bytes: stream.len() as u32, packed }, stream.len() as u64, digest))
}

/// Reads the device stream of an image.
pub(super) fn read_device(path: &Path) -> Result<Vec<u8>, Error> {
    let file = std::fs::File::open(path).map_err(Error::file("open", path))?;
    let most = super::wire::MOST_DEVICE_BYTES as u64;
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes).map_err(Error::file("read", path))?;
    if bytes.len() as u64 > most {
        return Err(Error::TooLarge { what: "an image's device stream", bytes: bytes.len() as u64, most });
    }
    Ok(bytes)
}
