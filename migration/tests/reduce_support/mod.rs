//! What the tests of reduction share: a host with small images, and guests whose pages are made by rules.
#![allow(dead_code, reason = "every test binary uses another part of it")]
#![allow(clippy::unwrap_used, reason = "tests stop at the first thing that goes wrong")]

use std::fs;
use std::io;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use migration::reduce::{Arrived, Config, Frame, Images, KnownPart};
use migration::stream::{Content, Event, Page, Reader};
use tempfile::TempDir;
use vm_images::Digest;
use vm_images::index::Index;

pub const MEMORY_BLOCK: &str = "cram";
/// Pages of a guest's memory.
pub const PAGES: usize = 64;
/// Blocks of the image's disk.
const DISK_BLOCKS: usize = 32;

/// An outlet that appends the frames' bytes.
pub fn encoded(wire: &mut Vec<u8>) -> impl FnMut(Frame) -> io::Result<()> + Send {
    |frame| {
        wire.extend(frame.encode());
        Ok(())
    }
}

pub fn fast() -> Config {
    Config { workers: NonZeroUsize::new(2).unwrap() }
}

/// Bytes that do not pack and differ for each seed.
pub fn noise(seed: u32) -> Page {
    let mut state = seed.wrapping_mul(0x9e37_79b1) | 1;
    std::array::from_fn(|_| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as u8
    })
}

/// What a page of a guest has: zero, a block of the disk, the template's again, nearly the template's, noise, the page's
/// own noise but for a few bytes, or half of the template and half noise.
pub fn content(host: &Host, page: usize, (kind, seed): (u8, u8)) -> Page {
    let template: Page = host.template[page * 4096..][..4096].try_into().unwrap();
    match kind {
        0 => [0; 4096],
        1 => host.disk[usize::from(seed) % DISK_BLOCKS * 4096..][..4096].try_into().unwrap(),
        2 => template,
        3 => {
            let mut near = template;
            near[usize::from(seed) * 50..][..9].iter_mut().for_each(|byte| *byte ^= seed | 1);
            near
        }
        4 => noise(5000 + u32::from(seed)),
        5 => {
            let mut own = noise(9000 + page as u32);
            own[usize::from(seed) * 100..][..7].fill(seed);
            own
        }
        _ => {
            let mut half = template;
            half[2000..].copy_from_slice(&noise(6000 + u32::from(seed))[2000..]);
            half
        }
    }
}

/// A directory with the parts of an image.
pub struct Host {
    directory: TempDir,
    pub template: Vec<u8>,
    pub disk: Vec<u8>,
    device: Vec<u8>,
}

impl Host {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let page = |page: usize| if page.is_multiple_of(5) { [0; 4096] } else { noise(page as u32 + 1) };
        let template: Vec<u8> = (0..PAGES).flat_map(page).collect();
        let disk: Vec<u8> = (0..DISK_BLOCKS).flat_map(|block| noise(1000 + block as u32)).collect();
        let device = noise(7).repeat(3);
        for (name, bytes) in [("template", &template), ("disk", &disk), ("device", &device)] {
            fs::write(directory.path().join(name), bytes).unwrap();
        }
        Self { directory, template, disk, device }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn template_digest(&self) -> Digest {
        Digest::of(&self.template)
    }

    pub fn device_digest(&self) -> Digest {
        Digest::of(&self.device)
    }

    /// The images, in one order or the other.
    pub fn images(&self, in_order: bool) -> Images {
        let part = |(name, bytes): (&str, &Vec<u8>)| {
            let digest = Digest::of(bytes);
            let index = Some(Index::build(digest, &bytes[..], &mut |_| {}).unwrap());
            KnownPart { digest, path: self.path(name), index }
        };
        let mut parts: Vec<KnownPart> =
            [("template", &self.template), ("disk", &self.disk), ("device", &self.device)].map(part).into();
        if !in_order {
            parts.reverse();
        }
        Images::open(&parts).unwrap()
    }

    pub fn arrived(&self, name: &str) -> Arrived {
        Arrived::open(&self.path(name), 1 << 16).unwrap()
    }

    /// One bit of every block of the disk changes.
    pub fn rot(&self) {
        let mut disk = self.disk.clone();
        disk.iter_mut().step_by(4096).for_each(|byte| *byte ^= 4);
        fs::write(self.path("disk"), disk).unwrap();
    }
}

/// The memory of a QEMU that maps the template and loads this stream.
pub fn restored_memory(host: &Host, stream: &[u8]) -> Vec<u8> {
    let mut memory = host.template.clone();
    let mut reader = Reader::new(stream);
    let mut others = 0;
    while let Some(event) = reader.read().unwrap() {
        let Event::Page { block, offset, content } = event else { continue };
        if block != 0 {
            others += 1;
            continue;
        }
        let place = &mut memory[offset as usize..][..4096];
        match content {
            Content::Zero => place.fill(0),
            Content::Bytes(page) => place.copy_from_slice(page),
        }
    }
    assert_eq!(others, 1, "pages of other blocks");
    memory
}
