//! Moving of fake guests: their memory is that of the template and the pages that were written since, and streams are
//! real ones, with what the guest remembers as its only device.

use std::io::{self, Cursor, Read};
use std::sync::Arc;
use std::time::Duration;

use super::faults::Operation;
use super::files;
use super::ram::Ram;
use super::vm::Vm;
use super::world::World;
use super::{CloneSpec, Error, Fake, refuse};
use crate::VmId;
use crate::hypervisor::{MEMORY_BLOCK, Moving, Pace};
use crate::stream::{Block, Content, Event, PAGE_BYTES, Page, Section, Writer, is_zero};

/// Number of the memory's section.
const RAM_ID: u32 = 2;
/// Number of the one device's section.
const DEVICE_ID: u32 = 3;
const MACHINE: &str = "pc-q35-10.0";
const DESCRIPTION: &[u8] = br#"{"devices":[]}"#;
/// Pause before changes of a guest that writes nothing are looked for again.
const LOOK_PAUSE: Duration = Duration::from_millis(1);
/// The same at the slow pace.
const WAITING_PAUSE: Duration = Duration::from_millis(50);

impl Moving for Fake {
    fn stream_out(&self, vm: VmId) -> Result<Box<dyn Read + Send>, Error> {
        self.on(Operation::StreamOut, vm, |state| {
            state.ram.end_stream();
            if state.ram.executing {
                let world = Arc::clone(&self.world);
                return Ok(Box::new(Live::new(world, vm, state.ram.stream)) as Box<dyn Read + Send>);
            }
            let whole = whole(state).map_err(|error| files::cannot("cannot read", &state.disk(), error))?;
            Ok(Box::new(Cursor::new(whole)) as Box<dyn Read + Send>)
        })
    }

    fn pace(&self, vm: VmId, pace: Pace) -> Result<(), Error> {
        self.on(Operation::Pace, vm, |state| {
            state.ram.pace = pace;
            Ok(())
        })
    }

    fn freeze(&self, vm: VmId) -> Result<(), Error> {
        self.on(Operation::Freeze, vm, |state| {
            state.set_executing(false);
            Ok(())
        })
    }

    fn resume(&self, vm: VmId) -> Result<(), Error> {
        self.on(Operation::Resume, vm, |state| {
            state.set_executing(true);
            Ok(())
        })
    }

    fn clone_paused(&self, spec: &CloneSpec) -> Result<(), Error> {
        self.world.begin(Operation::ClonePaused)?;
        let mut vm = self.loaded(spec)?;
        vm.set_executing(false);
        self.start(spec.vm, vm)
    }
}

impl Fake {
    /// The guest writes a page of its memory; fails if it has no such page or stands still.
    pub fn write_page(&self, vm: VmId, page: u64, content: &Page) -> Result<(), Error> {
        let written = self.world.with_vm(vm, |state| state.ram.write(page, content))?;
        if written { Ok(()) } else { refuse("cannot write to memory", format!("page {page} of VM {vm}")) }
    }

    /// Hash of all memory of a guest.
    pub fn memory_digest(&self, vm: VmId) -> Result<[u8; 32], Error> {
        let digest = self.world.with_vm(vm, |state| {
            let mut hasher = blake3::Hasher::new();
            state.ram.pages(|_, page| {
                hasher.update(page);
            })?;
            Ok(*hasher.finalize().as_bytes())
        })?;
        digest.map_err(|error: io::Error| files::cannot("cannot read the memory of", "VM".as_ref(), error))
    }

    /// Whether the guest executes.
    pub fn executes(&self, vm: VmId) -> bool {
        self.world.with_vm(vm, |state| state.ram.executing).unwrap_or(false)
    }
}

/// All of a paused guest.
fn whole(vm: &Vm) -> io::Result<Vec<u8>> {
    let mut out = head(&vm.ram)?;
    let mut pages = Vec::new();
    vm.ram.pages(|number, page| pages.push((number, Box::new(*page))))?;
    out.extend(section(&vm.ram, Section::End, &pages)?);
    out.extend(device(&serde_json::to_vec(&vm.memory()).map_err(io::Error::other)?));
    Ok(out)
}

fn blocks(ram: &Ram) -> [Block; 1] {
    [Block { name: MEMORY_BLOCK.to_owned(), bytes: ram.blocks() * PAGE_BYTES }]
}

/// A stream's beginning, up to the list of blocks.
fn head(ram: &Ram) -> io::Result<Vec<u8>> {
    let mut header = b"QEVM\0\0\0\x03\x07".to_vec();
    header.extend((MACHINE.len() as u32).to_be_bytes());
    header.extend(MACHINE.as_bytes());
    let mut out = Vec::new();
    let mut writer = Writer::new(&mut out);
    writer.write(&Event::Header { machine: MACHINE, bytes: &header })?;
    writer.write(&Event::Begin { section: Section::Start, id: RAM_ID, instance: 0 })?;
    writer.write(&Event::Blocks(&blocks(ram)))?;
    writer.write(&Event::End { section: Section::Start, id: RAM_ID })?;
    writer.finish()?;
    Ok(out)
}

/// A section with these pages.
fn section(ram: &Ram, section: Section, pages: &[(u64, Box<Page>)]) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    let mut writer = Writer::new(&mut out);
    // The writer must know the blocks; the stream has listed them already.
    writer.write(&Event::Blocks(&blocks(ram)))?;
    let listed = writer.bytes();
    writer.write(&Event::Begin { section, id: RAM_ID, instance: 0 })?;
    for (number, page) in pages {
        let content = if is_zero(page) { Content::Zero } else { Content::Bytes(page) };
        writer.write(&Event::Page { block: 0, offset: number * PAGE_BYTES, content })?;
    }
    writer.write(&Event::End { section, id: RAM_ID })?;
    writer.finish()?;
    Ok(out.split_off(usize::try_from(listed).unwrap_or(0)))
}

/// The section of the one device, the end mark and the description.
fn device(memory: &[u8]) -> Vec<u8> {
    let mut out = vec![4];
    out.extend(DEVICE_ID.to_be_bytes());
    out.push(files::DEVICE.len() as u8);
    out.extend(files::DEVICE);
    out.extend([0, 0, 0, 0, 0, 0, 0, 1]);
    out.extend((memory.len() as u32).to_be_bytes());
    out.extend(memory);
    out.push(0x7e);
    out.extend(DEVICE_ID.to_be_bytes());
    out.extend([0, 6]);
    out.extend((DESCRIPTION.len() as u32).to_be_bytes());
    out.extend(DESCRIPTION);
    out
}

/// What a running guest streams: all of its memory, then what it writes, without an end.
struct Live {
    world: Arc<World>,
    vm: VmId,
    stream: u64,
    begun: bool,
    ready: Cursor<Vec<u8>>,
}

impl Live {
    fn new(world: Arc<World>, vm: VmId, stream: u64) -> Self {
        Self { world, vm, stream, begun: false, ready: Cursor::default() }
    }

    /// The next piece, or how long to wait; nothing once the stream was ended.
    fn next(&mut self) -> io::Result<Option<(Vec<u8>, Duration)>> {
        let begun = std::mem::replace(&mut self.begun, true);
        let stream = self.stream;
        let next = self.world.with_vm(self.vm, |vm| {
            if vm.ram.stream != stream {
                return Ok(None);
            }
            let mut pages = Vec::new();
            if !begun {
                vm.ram.take_dirty();
                vm.ram.pages(|number, page| pages.push((number, Box::new(*page))))?;
                let mut out = head(&vm.ram)?;
                out.extend(section(&vm.ram, Section::Part, &pages)?);
                return Ok(Some((out, Duration::ZERO)));
            }
            let pages = vm.ram.take_dirty();
            let pause = match (pages.is_empty(), vm.ram.pace) {
                (_, Pace::Waiting) => WAITING_PAUSE,
                (true, Pace::Full) => LOOK_PAUSE,
                (false, Pace::Full) => Duration::ZERO,
            };
            Ok(Some((section(&vm.ram, Section::Part, &pages)?, pause)))
        });
        next.unwrap_or(Ok(None))
    }
}

impl Read for Live {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.ready.read(into)? {
                0 if !into.is_empty() => {}
                count => return Ok(count),
            }
            let Some((bytes, pause)) = self.next()? else { return Ok(0) };
            std::thread::sleep(pause);
            self.ready = Cursor::new(bytes);
        }
    }
}
