//! Takes frames and remembers what each block is.

use std::collections::BTreeMap;

use vm_images::Digest;
use vm_images::index::Place;

use super::directory::{Directory, Run, What};
use super::pack::{Unpacker, unpack_against};
use super::source::read_device;
use super::{
    Arrived, BLOCK_BYTES, Base, DiskBase, Error, Frame, Images, PageHash, Space, TemplateBase, WireError,
    base,
};
use crate::stream::{self, Page};

/// What a block is that differs from the base.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Held {
    Zero,
    Known(Place),
    Arrived(u32),
}

/// A memory or disk as far as it has come.
pub(super) struct State {
    pub blocks: u64,
    pub base_digest: Option<Digest>,
    pub base: Box<dyn Base>,
    /// Numbers here of the source's parts.
    parts: Vec<u16>,
    pub held: BTreeMap<u32, Held>,
    /// How many blocks differ, and their hash, once all have come.
    pub end: Option<(u32, [u8; 32])>,
}

/// Takes the frames of one VM. Whatever the frames are, it never panics and never allocates by what they claim.
///
/// After an error it can take nothing more. A new one that is given the same [`Arrived`] has every page that came.
pub struct Sink<'a> {
    pub(super) images: &'a Images,
    pub(super) arrived: Arrived,
    pub(super) states: BTreeMap<Space, State>,
    pub(super) device: Vec<u8>,
    unpacker: Unpacker,
}

impl<'a> Sink<'a> {
    /// `images` hold at least the parts that the source refers to.
    pub fn new(images: &'a Images, arrived: Arrived) -> Result<Self, Error> {
        let unpacker = Unpacker::new().map_err(Error::Pack)?;
        Ok(Self { images, arrived, states: BTreeMap::new(), device: Vec::new(), unpacker })
    }

    /// The pages that are here, for a source that begins: in this order, so that it can count on.
    pub fn have(&self) -> &[PageHash] {
        self.arrived.hashes()
    }

    /// The file of pages that came.
    pub fn arrived(&self) -> &Arrived {
        &self.arrived
    }

    /// Gives the file of pages back, for another sink.
    pub fn into_arrived(self) -> Arrived {
        self.arrived
    }

    /// Takes the next frame.
    pub fn take(&mut self, frame: Frame) -> Result<(), Error> {
        match frame {
            Frame::Begin { space, blocks, base, have, parts } => {
                self.begin(space, blocks, base, have, &parts)
            }
            Frame::Group { space, first, unpacked_bytes, packed } => {
                self.group(space, first, unpacked_bytes, &packed)
            }
            Frame::Device { against, unpacked_bytes, packed } => {
                self.device(against, unpacked_bytes, &packed)
            }
            Frame::End { space, differing, root } => {
                self.state(space)?.end = Some((differing, root));
                Ok(())
            }
        }
    }

    /// Hash of the device stream that came.
    pub fn device_digest(&self) -> [u8; 32] {
        *blake3::hash(&self.device).as_bytes()
    }

    /// Whether everything of a memory or disk has come. Restoring then checks that it is right.
    pub fn is_complete(&self, space: Space) -> bool {
        self.states.get(&space).is_some_and(|state| state.end.is_some())
    }

    fn begin(
        &mut self,
        space: Space,
        blocks: u64,
        base: Option<u16>,
        have: u32,
        parts: &[Digest],
    ) -> Result<(), Error> {
        self.check_count(have)?;
        let local =
            |digest: &Digest| self.images.number_of(digest).ok_or(Error::NoSuchPart { digest: *digest });
        let locals = parts.iter().map(local).collect::<Result<Vec<_>, _>>()?;
        let number = |base: u16| locals.get(usize::from(base)).copied().ok_or(DANGLING);
        let number = base.map(number).transpose()?;
        let base = match (number.and_then(|number| self.images.path(number)), space) {
            (Some(path), Space::Memory) => Box::new(TemplateBase::open(path)?) as Box<dyn Base>,
            (Some(path), Space::Disk) => Box::new(DiskBase::open(path)?),
            (None, Space::Memory) if blocks * BLOCK_BYTES as u64 <= stream::MAX_MEMORY_BYTES => {
                Box::new(base::Nothing { blocks })
            }
            (None, _) => return Err(Error::Incomplete { space, missing: "what it is based on" }),
        };
        if base.blocks() != blocks {
            return Err(Error::OtherBase { space, found: blocks, base: base.blocks() });
        }
        let base_digest = number.and_then(|number| self.images.digests().nth(number.into()).copied());
        let state = State { blocks, base_digest, base, parts: locals, held: BTreeMap::new(), end: None };
        self.states.insert(space, state);
        Ok(())
    }

    fn check_count(&self, theirs: u32) -> Result<(), Error> {
        let ours = self.arrived.len();
        if theirs == ours { Ok(()) } else { Err(Error::OtherCount { theirs, ours }) }
    }

    fn state(&mut self, space: Space) -> Result<&mut State, Error> {
        self.states.get_mut(&space).ok_or(Error::Incomplete { space, missing: "its beginning" })
    }

    fn group(&mut self, space: Space, first: u32, bytes: u32, packed: &[u8]) -> Result<(), Error> {
        self.check_count(first)?;
        super::wire::cap("the length of an unpacked group", bytes as usize, super::wire::MOST_GROUP_BYTES)?;
        let unpacked = self.unpacker.unpack(packed, bytes as usize)?;
        let images = self.images;
        let begun = self.states.get_mut(&space);
        let state = begun.ok_or(Error::Incomplete { space, missing: "its beginning" })?;
        let (directory, content) = Directory::decode(&unpacked, state.blocks)?;
        let (pages, rest) = content.as_chunks::<BLOCK_BYTES>();
        let wanted: u64 =
            directory.runs.iter().filter(|run| run.is_brought()).map(|run| u64::from(run.count)).sum();
        if !rest.is_empty() || wanted != pages.len() as u64 {
            return Err(WireError::Damaged("a group has other pages than it says").into());
        }
        let arrived_after = u64::from(first) + wanted;
        for run in &directory.runs {
            check_reference(run, &state.parts, images, (first, arrived_after))?;
        }
        let mut pages = pages.to_vec();
        undo_differences(&directory, &mut pages, state.base.as_mut(), &self.arrived)?;
        self.arrived.add(&pages)?;
        let mut next = first;
        for (block, what) in directory.runs.iter().flat_map(Run::blocks) {
            let held = match what {
                What::Base => {
                    state.held.remove(&block);
                    continue;
                }
                What::Zero => Held::Zero,
                What::Arrived(number) => Held::Arrived(number),
                What::Known(Place { part, block }) => {
                    Held::Known(Place { part: state.parts[usize::from(part)], block })
                }
                What::Raw | What::Xor | What::Again(_) => {
                    next += 1;
                    Held::Arrived(next - 1)
                }
            };
            state.held.insert(block, held);
        }
        Ok(())
    }

    fn device(&mut self, against: Option<u16>, bytes: u32, packed: &[u8]) -> Result<(), Error> {
        super::wire::cap("the length of device state", bytes as usize, super::wire::MOST_DEVICE_BYTES)?;
        let images = self.images;
        let parts = &self.state(Space::Memory)?.parts;
        let path = match against {
            Some(part) => {
                parts.get(usize::from(part)).and_then(|part| images.path(*part)).ok_or(DANGLING).map(Some)?
            }
            None => None,
        };
        let snapshot = path.map(|path| read_device(path)).transpose()?.unwrap_or_default();
        self.device = unpack_against(&snapshot, packed, bytes as usize)?;
        Ok(())
    }
}

const DANGLING: Error = Error::Frame(WireError::Damaged("it refers to a part that it did not list"));

/// Every block of a run leads to something that is here: among the pages that have arrived before the group, and after it.
fn check_reference(
    run: &Run,
    parts: &[u16],
    images: &Images,
    (before, after): (u32, u64),
) -> Result<(), Error> {
    let (end, most) = match run.what {
        What::Arrived(number) => (u64::from(number) + u64::from(run.count), after),
        What::Again(number) => (u64::from(number) + u64::from(run.count), u64::from(before)),
        What::Known(Place { part, block }) => {
            let part = parts.get(usize::from(part)).ok_or(DANGLING)?;
            (u64::from(block) + u64::from(run.count), images.blocks(*part))
        }
        _ => return Ok(()),
    };
    if end <= most {
        Ok(())
    } else {
        Err(WireError::Damaged("it refers to a block that is not there").into())
    }
}

/// Makes pages of differences.
fn undo_differences(
    directory: &Directory,
    pages: &mut [Page],
    base: &mut dyn Base,
    arrived: &Arrived,
) -> Result<(), Error> {
    let mut under = super::new_page();
    let brought = directory.runs.iter().filter(|run| run.is_brought());
    for ((block, what), page) in brought.flat_map(Run::blocks).zip(pages) {
        match what {
            What::Xor => base.read(block, &mut under)?,
            What::Again(number) => arrived.read(number, &mut under)?,
            _ => continue,
        }
        page.iter_mut().zip(under.iter()).for_each(|(byte, under)| *byte ^= under);
    }
    Ok(())
}
