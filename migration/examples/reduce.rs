//! What moving a suspended VM would cost: reduces a migration stream (and a disk) against images, restores it, compares, and
//! prints bytes and times beside zstd.
//!
//! ```text
//! cargo run --release -p migration --example reduce -- IMAGE_DIR STREAM [DISK.qcow2]
//! ```
//! IMAGE_DIR is that of an image in a store, its parents beside it. STREAM is what QEMU writes on `migrate file:…`.
//! The test `reduce_speech` leaves both in the directory that CLOUDLET_TEST_KEEP names.

#![allow(clippy::print_stdout, reason = "a tool for people")]

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use migration::reduce::{
    Arrived, Base, Config, Error, Frame, Images, KnownPart, Report, Sink, Source, TemplateBase,
};
use migration::stream::{Content, Event, Reader};
use vm_images::index::Index;
use vm_images::{Digest, Manifest, Role};

/// The memory block of VMs that this project starts.
const MEMORY_BLOCK: &str = "cram";
type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [image, stream, disk @ ..] = &arguments[..] else {
        return Err("usage: reduce IMAGE_DIR STREAM [DISK.qcow2]".into());
    };
    let image = image.canonicalize()?;
    let (parts, took) = timed(|| parts(&image));
    let parts = parts?;
    let bytes: u64 = parts.iter().filter_map(|part| part.index.as_ref().map(Index::part_bytes)).sum();
    let stored: usize = parts.iter().filter_map(|part| part.index.as_ref().map(Index::stored_bytes)).sum();
    println!(
        "index   of {:.0} MB in {:.2} s: {:.2} MB, {:.2} %",
        mb(bytes),
        took.as_secs_f64(),
        mb(stored as u64),
        stored as f64 * 100.0 / bytes as f64
    );
    let images = Images::open(&parts)?;
    let wire = reduce(&image, &images, stream, disk.first().map(PathBuf::as_path))?;
    restore(&images, &wire, disk.is_empty())?;
    compare_with_zstd(&image, stream, &wire)
}

/// What one image and its parents have.
fn parts(image: &Path) -> Result<Vec<KnownPart>, Failure> {
    let mut parts = Vec::new();
    let mut next = Some(image.to_owned());
    while let Some(dir) = next {
        let manifest = Manifest::parse(&fs::read(dir.join("manifest.json"))?)?;
        for part in &manifest.parts {
            let path = dir.join(part.role.file_name());
            let indexed = matches!(part.role, Role::Disk | Role::MemoryTemplate);
            let index =
                indexed.then(|| Index::build(part.blake3, File::open(&path)?, &mut |_| {})).transpose()?;
            if indexed || part.role == Role::DeviceStream {
                parts.push(KnownPart { digest: part.blake3, path, index });
            }
        }
        next = manifest.parent.map(|parent| dir.with_file_name(parent.to_string()));
    }
    Ok(parts)
}

fn digest(image: &Path, role: Role) -> Result<Digest, Failure> {
    let manifest = Manifest::parse(&fs::read(image.join("manifest.json"))?)?;
    Ok(manifest.part(role).ok_or("the image lacks a part")?.blake3)
}

fn reduce(image: &Path, images: &Images, stream: &Path, disk: Option<&Path>) -> Result<Vec<Frame>, Failure> {
    let mut frames = Vec::new();
    let mut outlet = |frame| {
        frames.push(frame);
        Ok(())
    };
    let (template, device) = (digest(image, Role::MemoryTemplate)?, digest(image, Role::DeviceStream)?);
    let mut source = Source::new(images, &[], Config::default())?;
    let cpu = process_cpu();
    let (report, took) = timed(|| {
        source
            .memory(File::open(stream)?, MEMORY_BLOCK, Some(&template), Some(&device), &mut outlet)
            .map_err(Failure::from)
    });
    let report = report?;
    let bytes = fs::metadata(stream)?.len();
    println!(
        "memory  {:.1} MB of stream in {:.3} s ({:.0} MB/s), {:.3} s of processor",
        mb(bytes),
        took.as_secs_f64(),
        mb(bytes) / took.as_secs_f64(),
        (process_cpu() - cpu).as_secs_f64()
    );
    print_report(&report);
    println!("        device state {} bytes, sent in {}", report.device_bytes, report.device_wire_bytes);
    if let Some(disk) = disk {
        source.begin_disk(&digest(image, Role::Disk)?, &mut outlet)?;
        let (report, took) = timed(|| source.disk_layer(disk, &mut outlet));
        source.end_disk(&mut outlet)?;
        println!("disk    {:.1} MB in {:.3} s", mb(fs::metadata(disk)?.len()), took.as_secs_f64());
        print_report(&report?);
    }
    let wire: usize = frames.iter().map(Frame::bytes).sum();
    println!("wire    {wire} bytes in {} frames", frames.len());
    Ok(frames)
}

fn print_report(report: &Report) {
    let Report { seen, same, zero, base, known, arrived, new, differences, again, superseded, .. } = report;
    println!(
        "        {seen} blocks: {same} same, {zero} zero, {base} as before, {known} in images, {arrived} sent before, {new} new \
         ({differences} as differences, {again} of them from what was sent before), {superseded} superseded; {} bytes",
        report.wire_bytes
    );
}

fn restore(images: &Images, frames: &[Frame], without_disk: bool) -> Result<(), Failure> {
    let directory = tempfile::tempdir()?;
    let cpu = process_cpu();
    let (restored, took) = timed(|| -> Result<_, Error> {
        let mut sink = Sink::new(images, Arrived::open(&directory.path().join("arrived"), 1 << 20)?)?;
        for frame in frames {
            sink.take(frame.clone())?;
        }
        let memory = sink.restore_memory(MEMORY_BLOCK, &mut io::sink())?;
        if !without_disk {
            sink.restore_disk(&directory.path().join("disk.qcow2"), Path::new("base.qcow2"))?;
        }
        Ok(memory)
    });
    println!(
        "restore {} pages, {:.1} MB, hashed and the same, in {:.3} s, {:.3} s of processor",
        restored.as_ref().map_or(0, |restored| restored.differing),
        restored.as_ref().map_or(0.0, |restored| mb(restored.bytes)),
        took.as_secs_f64(),
        (process_cpu() - cpu).as_secs_f64()
    );
    restored?;
    Ok(())
}

/// What `zstd -9 --long=27` makes of the pages that differ from the template, and of all.
fn compare_with_zstd(image: &Path, stream: &Path, frames: &[Frame]) -> Result<(), Failure> {
    let mut base = TemplateBase::open(&image.join(Role::MemoryTemplate.file_name()))?;
    let (mut all, mut differing) = (packer()?, packer()?);
    let mut under = [0; 4096];
    let mut reader = Reader::new(File::open(stream)?);
    let mut memory = None;
    while let Some(event) = reader.read()? {
        match event {
            Event::Blocks(blocks) => memory = blocks.iter().position(|block| block.name == MEMORY_BLOCK),
            Event::Page { block, offset, content } if Some(block) == memory => {
                let page = match content {
                    Content::Zero => &[0; 4096],
                    Content::Bytes(page) => page,
                };
                all.write_all(page)?;
                base.read((offset / 4096) as u32, &mut under)?;
                if under != *page {
                    differing.write_all(page)?;
                }
            }
            _ => {}
        }
    }
    let wire: usize = frames.iter().map(Frame::bytes).sum();
    for (what, packer) in [("all pages", all), ("pages that differ", differing)] {
        let packed = packer.finish()?.len();
        println!(
            "zstd -9 --long=27 of {what}: {packed} bytes, {:.1} times ours",
            packed as f64 / wire as f64
        );
    }
    Ok(())
}

fn packer() -> io::Result<zstd::Encoder<'static, Vec<u8>>> {
    let mut packer = zstd::Encoder::new(Vec::new(), 9)?;
    packer.long_distance_matching(true)?;
    packer.window_log(27)?;
    Ok(packer)
}

fn mb(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

fn process_cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.max(0) as u64, time.tv_nsec.max(0) as u32)
}

#[expect(clippy::disallowed_methods, reason = "a tool that measures time")]
fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let begin = std::time::Instant::now();
    let result = work();
    (result, begin.elapsed())
}
