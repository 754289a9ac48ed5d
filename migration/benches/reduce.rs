//! How fast pages are looked up in an index, on one core, with hashing and comparing: the aim is 1 GB/s.
//!
//! The baseline, in the same run, is what no index can do without: hashing each page (BLAKE3). The ratio to it is printed at
//! the end, by processor time, for pages that are in an image, pages that are in none, and pages that the template has at their place.

#![allow(clippy::unwrap_used, missing_docs, reason = "a bench stops where something goes wrong")]

use std::fs;
use std::hint::black_box;

use criterion::{Criterion, Throughput};
use migration::reduce::{Base, Images, KnownPart, TemplateBase};
use migration::stream::Page;
use vm_images::Digest;
use vm_images::index::{Index, hash};

/// Pages of the image: 256 MiB, so that neither it nor what is looked up fits a cache.
const IMAGE_PAGES: u32 = 65_536;
/// Pages that are looked up in each round: 64 MiB.
const ROUND_PAGES: usize = 16_384;
const ROUND_BYTES: u64 = ROUND_PAGES as u64 * 4096;

fn noise(seed: u32) -> Page {
    let mut state = u64::from(seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut page = [0; 4096];
    for word in page.as_chunks_mut::<8>().0 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        *word = state.to_le_bytes();
    }
    page
}

/// Looks every page up; says how many were found.
fn look_up(images: &Images, pages: &[Page]) -> usize {
    let mut scratch = [0; 4096];
    let mut found = 0;
    for page in pages {
        found += usize::from(images.find(&hash(page), page, &mut scratch).unwrap().is_some());
    }
    found
}

fn same(base: &mut TemplateBase, pages: &[Page]) -> usize {
    let mut under = [0; 4096];
    let mut found = 0;
    for (number, page) in (0..).zip(pages) {
        base.read(number, &mut under).unwrap();
        found += usize::from(under == *page);
    }
    found
}

fn hash_all(pages: &[Page]) -> u8 {
    pages.iter().fold(0, |all, page| all ^ hash(page)[0])
}

/// Processor time that this thread has used, that of the kernel included; what else the machine does counts little.
fn cpu_s() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Bytes per second of processor time, the median of nine rounds.
fn rate<T>(mut round: impl FnMut() -> T) -> f64 {
    let mut rates: Vec<f64> = (0..9)
        .map(|_| {
            let begin = cpu_s();
            black_box(round());
            ROUND_BYTES as f64 / (cpu_s() - begin)
        })
        .collect();
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

fn main() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("image");
    let image: Vec<Page> = (0..IMAGE_PAGES).map(noise).collect();
    fs::write(&path, image.as_flattened()).unwrap();
    let digest = Digest::of(b"the image of the bench");
    let index = Index::build(digest, image.as_flattened(), &mut |_| {}).unwrap();
    let (stored, share) = (index.to_bytes().len(), 100.0 / image.as_flattened().len() as f64);
    let images = Images::open(&[KnownPart { digest, path: path.clone(), index: Some(index) }]).unwrap();
    println!(
        "index: {:.2} % of the image on the disk, {:.2} % in memory",
        stored as f64 * share,
        images.memory_bytes() as f64 * share
    );
    // Scattered over the image, as a page cache is.
    let known: Vec<Page> =
        (0..ROUND_PAGES).map(|at| image[at.wrapping_mul(40_503) % IMAGE_PAGES as usize]).collect();
    let unknown: Vec<Page> = (0..ROUND_PAGES as u32).map(|at| noise(IMAGE_PAGES + at)).collect();
    assert_eq!((look_up(&images, &known), look_up(&images, &unknown)), (ROUND_PAGES, 0));
    let mut base = TemplateBase::open(&path).unwrap();
    let template = &image[..ROUND_PAGES];
    assert_eq!(same(&mut base, template), ROUND_PAGES);

    let mut criterion = Criterion::default().configure_from_args().sample_size(10);
    let mut group = criterion.benchmark_group("reduce");
    group.throughput(Throughput::Bytes(ROUND_BYTES));
    group.bench_function("hash alone", |bench| bench.iter(|| hash_all(&known)));
    group.bench_function("look up, in the image", |bench| bench.iter(|| look_up(&images, &known)));
    group.bench_function("look up, in no image", |bench| bench.iter(|| look_up(&images, &unknown)));
    group.bench_function("as in the template", |bench| bench.iter(|| same(&mut base, template)));
    group.bench_function("make an index", |bench| {
        bench.iter(|| Index::build(digest, known.as_flattened(), &mut |_| {}).unwrap());
    });
    group.finish();

    let baseline = rate(|| hash_all(&known));
    println!("\nGB per second of one core, and beside hashing alone ({:.2} GB/s):", baseline / 1e9);
    for (what, found) in [
        ("look up, in the image (hash, find, read, compare)", rate(|| look_up(&images, &known))),
        ("look up, in no image (hash, find)", rate(|| look_up(&images, &unknown))),
        ("as in the template (read, compare)", rate(|| same(&mut base, template))),
    ] {
        println!("  {what:<52} {:.2}  {:.2}", found / 1e9, found / baseline);
    }
}
