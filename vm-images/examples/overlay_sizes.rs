//! Makes the overlay of one image over its base in both codings, applies both, and compares their lengths with those of
//! `xdelta3 -e` and `xz -6` on the same files.
//!
//! ```text
//! cargo run --release -p vm-images --example overlay_sizes [-- IMAGE [BASE]]     (speech over base)
//! ```
//! The image store is that of `CLOUDLET_NODE__IMAGE_STORE`. Ends with 1 when a coding does not restore what it was
//! made of, or misses an aim: ours at most half of the paper's, the paper's at most what the other tools need.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a tool for developers, which may stop where it stands"
)]
#![expect(clippy::disallowed_methods, reason = "it measures time")]

use std::io::Read as _;
use std::num::NonZeroU32;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use vm_images::overlay::{Applier, Coding, Guest, Overlay, Payload, create};
use vm_images::{Image, ImageId, Role, SigningKey, Store};

const ROLES: [Role; 3] = [Role::Disk, Role::MemoryTemplate, Role::DeviceStream];

fn main() -> ExitCode {
    let root = std::env::var_os("CLOUDLET_NODE__IMAGE_STORE")
        .expect("CLOUDLET_NODE__IMAGE_STORE is the image store");
    // A key that is never used: nothing is published.
    let store = Store::open(Path::new(&root), SigningKey::from_secret(&[1; 32])).unwrap();
    let mut words = std::env::args().skip(1);
    let service = named(&store, &words.next().unwrap_or_else(|| "speech".to_owned()));
    let base = named(&store, &words.next().unwrap_or_else(|| "base".to_owned()));
    let dir = tempfile::tempdir().unwrap();
    println!("{} over {}; bytes, seconds", service.label(), base.label());
    println!(
        "{:10} {:>12} {:>12} {:>12} {:>12} {:>8} {:>8}",
        "", "disk", "memory", "device", "all", "make", "apply"
    );

    let paper = measured(Coding::Vcdiff, &base, &service, dir.path());
    let ours = measured(Coding::Blocks, &base, &service, dir.path());
    let others = other_tools(&Guest::in_dir(base.dir()), &Guest::in_dir(service.dir()), dir.path());
    let ratio = |one: u64, other: u64| 100.0 * one as f64 / other as f64;
    println!("blocks / vcdiff: {:.1} % (aim: 50)", ratio(ours, paper));
    println!("vcdiff / xdelta3 and xz: {:.1} % (aim: 100)", ratio(paper, others));
    if 2 * ours <= paper && paper <= others { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn named(store: &Store, name: &str) -> Image {
    let id: ImageId = *store.names().unwrap().get(name).expect("an image with this name");
    store.get(id).unwrap()
}

fn line(what: &str, lengths: [u64; 3], make_s: f64, apply_s: Option<f64>) -> u64 {
    let all = lengths.iter().sum();
    let [disk, memory, device] = lengths;
    let apply = apply_s.map_or_else(String::new, |seconds| format!("{seconds:.1}"));
    println!("{what:10} {disk:12} {memory:12} {device:12} {all:12} {make_s:8.1} {apply:>8}");
    all
}

fn measured(coding: Coding, base: &Image, service: &Image, dir: &Path) -> u64 {
    let dir = dir.join(format!("{coding:?}"));
    std::fs::create_dir(&dir).unwrap();
    let (base_files, service_files) = (Guest::in_dir(base.dir()), Guest::in_dir(service.dir()));
    let threads = std::thread::available_parallelism().map_or(NonZeroU32::MIN, |threads| {
        NonZeroU32::try_from(threads.get() as u32).unwrap_or(NonZeroU32::MIN)
    });
    let id = service.manifest.service.as_ref().expect("a service").id.clone();
    let begun = Instant::now();
    let overlay = create(coding, (base.id, &base_files), (id, &service_files), &dir, threads).unwrap();
    let make_s = begun.elapsed().as_secs_f64();
    let apply_s = applied(&overlay, base.id, base_files, &dir);
    let lengths = [0, 1, 2].map(|part| overlay.parts[part].bytes);
    line(if coding == Coding::Vcdiff { "vcdiff" } else { "blocks" }, lengths, make_s, Some(apply_s))
}

/// Applies the overlay; the hashes in it are those of the image's parts, so what comes out is the image.
fn applied(overlay: &Overlay, base: ImageId, files: Guest, dir: &Path) -> f64 {
    let payload = Payload::open(dir, overlay.clone()).unwrap();
    let into = dir.join("restored");
    std::fs::create_dir(&into).unwrap();
    let begun = Instant::now();
    let mut applier = Applier::begin(overlay.clone(), base, files, &into).unwrap();
    for number in 0..overlay.chunks() {
        applier.chunk(number, &payload.chunk(number).unwrap()).unwrap();
    }
    applier.finish().unwrap();
    let seconds = begun.elapsed().as_secs_f64();
    std::fs::remove_dir_all(into).unwrap();
    seconds
}

/// The same as the paper's coding with other people's tools: the best that xdelta3 can, which is to see the whole source.
fn other_tools(base: &Guest, service: &Guest, dir: &Path) -> u64 {
    let begun = Instant::now();
    let lengths = ROLES.map(|role| match role {
        Role::Disk => xz(service.path(role)),
        _ => ["none", "lzma"]
            .map(|packing| xz(&xdelta3(base.path(role), service.path(role), packing, dir)))
            .into_iter()
            .min()
            .unwrap_or(0),
    });
    line("xdelta3,xz", lengths, begun.elapsed().as_secs_f64(), None)
}

fn xdelta3(source: &Path, target: &Path, packing: &str, dir: &Path) -> std::path::PathBuf {
    let delta = dir.join("delta");
    let window = source.metadata().unwrap().len().next_power_of_two().to_string();
    let done = Command::new("xdelta3")
        .args(["-e", "-f", "-S", packing, "-B", &window, "-s"])
        .args([source, target, &delta])
        .status();
    assert!(done.expect("xdelta3 is installed").success());
    delta
}

fn xz(path: &Path) -> u64 {
    let mut xz =
        Command::new("xz").args(["-6", "-T1", "-c"]).arg(path).stdout(Stdio::piped()).spawn().unwrap();
    let bytes = std::io::copy(&mut xz.stdout.take().unwrap().by_ref(), &mut std::io::sink()).unwrap();
    assert!(xz.wait().unwrap().success());
    bytes
}
