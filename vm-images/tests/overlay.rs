//! Overlays in both codings: made, carried over links that are cut, applied, and read by other people's tools.

#![allow(
    clippy::unwrap_used,
    reason = "tests may panic; clippy recognises only the functions marked as tests"
)]

use std::num::NonZeroU32;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use vm_images::overlay::{Applier, Coding, Error, Guest, Inbox, Overlay, Payload, create};
use vm_images::{Digest, ImageId, Role, qcow2};

const CODINGS: [Coding; 2] = [Coding::Vcdiff, Coding::Blocks];
const CLUSTER: usize = qcow2::LayerWriter::CLUSTER_BYTES as usize;
const DISK_BYTES: u64 = 64 << 20;

fn noise(random: &mut ChaCha8Rng, bytes: usize) -> Vec<u8> {
    (0..bytes).map(|_| random.random()).collect()
}

/// A base and a service over it, each in its directory, as in an image store.
struct World {
    dir: tempfile::TempDir,
    base: Guest,
    service: Guest,
    base_id: ImageId,
}

fn world(seed: u64) -> World {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let dir = tempfile::tempdir().unwrap();
    let guest = |name: &str| {
        std::fs::create_dir(dir.path().join(name)).unwrap();
        Guest::in_dir(&dir.path().join(name))
    };
    let (base, service) = (guest("base"), guest("service"));
    let layer = |path: &Path, backing: Option<&Path>, content: &[u8]| {
        let mut layer = qcow2::LayerWriter::create(path, backing, DISK_BYTES).unwrap();
        for (number, cluster) in content.as_chunks::<CLUSTER>().0.iter().enumerate() {
            layer.put(3 * number as u64, cluster).unwrap();
        }
        layer.finish().unwrap();
    };
    let system = noise(&mut random, 20 * CLUSTER);
    layer(&base.disk, None, &system);
    // The model of the service: new, but for a library that the base has, too; twice the same cluster.
    let mut model = noise(&mut random, 30 * CLUSTER);
    model[..2 * CLUSTER].copy_from_slice(&system[5 * CLUSTER..7 * CLUSTER]);
    let again = model[10 * CLUSTER..11 * CLUSTER].to_vec();
    model[20 * CLUSTER..21 * CLUSTER].copy_from_slice(&again);
    layer(&service.disk, Some(Path::new("../base/disk.qcow2")), &model);

    let mut memory = vec![0; 12 << 20];
    memory[1 << 20..3 << 20].copy_from_slice(&noise(&mut random, 2 << 20));
    std::fs::write(&base.memory, &memory).unwrap();
    // The service has read its model to an odd address, changed fields of pages, and freed some.
    memory[(5 << 20) + 1111..][..25 * CLUSTER].copy_from_slice(&model[4 * CLUSTER..29 * CLUSTER]);
    (0..200).for_each(|page| memory[(1 << 20) + page * 4096 + 77] ^= 1);
    memory[2 << 20..(2 << 20) + 40_960].fill(0);
    memory[8 << 20..(8 << 20) + 8192].copy_from_slice(&system[..8192]);
    std::fs::write(&service.memory, &memory).unwrap();

    let mut device = noise(&mut random, 500_000);
    std::fs::write(&base.device, &device).unwrap();
    device[1234] ^= 3;
    std::fs::write(&service.device, &device).unwrap();
    World { dir, base, service, base_id: ImageId(Digest::of(b"base")) }
}

impl World {
    /// Makes the overlay, with its files in a directory of its own.
    fn overlay(&self, coding: Coding) -> Payload {
        let dir = self.dir.path().join(format!("{coding:?}"));
        std::fs::create_dir(&dir).unwrap();
        let threads = NonZeroU32::new(2).unwrap();
        let service = ("speech".parse().unwrap(), &self.service);
        let mut made = create(coding, (self.base_id, &self.base), service, &dir, threads).unwrap();
        made = Overlay::parse(&made.to_bytes().unwrap()).unwrap();
        Payload::open(&dir, made).unwrap()
    }

    fn empty(&self, name: &str) -> std::path::PathBuf {
        let dir = self.dir.path().join(name);
        std::fs::create_dir(&dir).unwrap();
        dir
    }

    fn applier(&self, overlay: &Overlay, dir: &Path) -> Applier {
        Applier::begin(overlay.clone(), self.base_id, self.base.clone(), dir).unwrap()
    }

    fn assert_restored(&self, restored: &Guest) {
        for role in [Role::Disk, Role::MemoryTemplate, Role::DeviceStream] {
            let same = std::fs::read(restored.path(role)).unwrap()
                == std::fs::read(self.service.path(role)).unwrap();
            assert!(same, "{role:?}");
        }
    }
}

fn files(dir: &Path) -> usize {
    std::fs::read_dir(dir).unwrap().count()
}

fn run(dir: &Path, program: &str, arguments: &[&str]) -> String {
    let done = Command::new(program).args(arguments).current_dir(dir).output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "{program} {arguments:?}: {text}");
    text
}

#[test]
fn chunks_in_any_order_over_cut_links_become_the_service_vm() {
    for (seed, coding) in (1..).zip(CODINGS) {
        let world = world(seed);
        let payload = world.overlay(coding);
        let overlay = payload.overlay().clone();
        let into = world.empty("restored");
        let inbox_path = world.dir.path().join("inbox");
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut order: Vec<u32> = (0..overlay.chunks()).collect();
        order.shuffle(&mut random);
        let mut applier = world.applier(&overlay, &into);
        let mut is_whole = false;
        // Each contact brings a few chunks; between two of them the receiver is killed in the middle of a write.
        for contact in order.chunks(5) {
            let mut inbox = Inbox::open(&inbox_path, overlay.clone()).unwrap();
            for number in contact {
                assert!(inbox.missing().any(|missing| missing == *number), "seed {seed}");
                inbox.put(*number, &payload.chunk(*number).unwrap()).unwrap();
                inbox.put(*number, &payload.chunk(*number).unwrap()).unwrap();
                is_whole = inbox.feed(&mut applier).unwrap();
            }
            if let Some(next) = inbox.missing().next() {
                let file = std::fs::OpenOptions::new().write(true).open(&inbox_path).unwrap();
                let at = u64::from(next) * u64::from(overlay.chunk_bytes);
                // Half a chunk in a place that is not there yet; only the first part's chunks lie at this offset.
                if next < overlay.parts[0].chunks.len() as u32 {
                    file.write_all_at(&payload.chunk(next).unwrap()[..100], at).unwrap();
                }
            }
        }
        assert!(is_whole, "seed {seed}");
        world.assert_restored(&applier.finish().unwrap());
        assert_eq!(files(&into), 3);
    }
}

#[test]
fn other_people_s_tools_read_the_paper_s_format() {
    let world = world(3);
    world.overlay(Coding::Vcdiff);
    let dir = world.dir.path().join("Vcdiff");
    run(&dir, "xz", &["-t", "disk.qcow2.xz", "memory.vcdiff.xz", "device.vcdiff.xz"]);
    run(&dir, "xz", &["-d", "-k", "disk.qcow2.xz", "memory.vcdiff.xz"]);
    run(
        &dir,
        "xdelta3",
        &["-d", "-B", "67108864", "-s", "../base/memory.template", "memory.vcdiff", "memory"],
    );
    assert!(std::fs::read(dir.join("memory")).unwrap() == std::fs::read(&world.service.memory).unwrap());
    assert!(run(&dir, "qemu-img", &["check", "disk.qcow2"]).contains("No errors"));
}

#[test]
fn blocks_need_not_send_what_is_in_the_memory_and_on_the_disk() {
    let world = world(4);
    let [paper, ours] = CODINGS.map(|coding| world.overlay(coding).overlay().payload_bytes());
    // 28 clusters of the model are new, one of them twice; what of it is in memory comes from the disk.
    let model = 27 * CLUSTER as u64;
    assert!((model..model + 100_000).contains(&ours), "{ours}");
    assert!(paper > model + 24 * CLUSTER as u64, "{paper}");
}

#[test]
fn what_is_not_the_next_chunk_is_refused_and_changes_nothing() {
    for coding in CODINGS {
        let world = world(5);
        let payload = world.overlay(coding);
        let overlay = payload.overlay().clone();
        let into = world.empty("restored");
        let other = ImageId(Digest::of(b"another"));
        let wrong = Applier::begin(overlay.clone(), other, world.base.clone(), &into).err();
        assert!(matches!(wrong, Some(Error::WrongBase { found, .. }) if found == other));
        assert_eq!(files(&into), 0);

        let mut applier = world.applier(&overlay, &into);
        for number in 0..overlay.chunks() {
            let chunk = payload.chunk(number).unwrap();
            let mut changed = chunk.clone();
            changed[chunk.len() / 2] ^= 1;
            let refused = applier.chunk(number, &chunk[1..]);
            assert!(matches!(refused, Err(Error::ChunkLength { .. })), "{refused:?}");
            let refused = applier.chunk(number, &changed);
            assert!(matches!(refused, Err(Error::ChunkHash { .. })), "{refused:?}");
            let far = (number + 1) % overlay.chunks();
            let refused = applier.chunk(far, &payload.chunk(far).unwrap());
            assert!(
                matches!(refused, Err(Error::OutOfOrder { expected, .. }) if expected == number),
                "{refused:?}"
            );
            let refused = applier.chunk(u32::MAX, &chunk);
            assert!(matches!(refused, Err(Error::NoSuchChunk { .. })), "{refused:?}");
            applier.chunk(number, &chunk).unwrap();
        }
        world.assert_restored(&applier.finish().unwrap());
    }
}

#[test]
fn nothing_stays_of_what_was_not_finished() {
    for coding in CODINGS {
        let world = world(6);
        let payload = world.overlay(coding);
        let overlay = payload.overlay().clone();
        let into = world.empty("restored");
        // Cut before the last chunk.
        let mut applier = world.applier(&overlay, &into);
        for number in 0..overlay.chunks() - 1 {
            applier.chunk(number, &payload.chunk(number).unwrap()).unwrap();
        }
        assert!(files(&into) >= 2);
        assert!(matches!(applier.finish(), Err(Error::Incomplete { missing: 1 })));
        assert_eq!(files(&into), 0);
        // The base's memory is not what it was.
        let memory = std::fs::OpenOptions::new().write(true).open(&world.base.memory).unwrap();
        memory.write_all_at(&[9; 64], 3 << 20).unwrap();
        memory.write_all_at(&[9; 64], (1 << 20) + (1 << 19)).unwrap();
        let mut applier = world.applier(&overlay, &into);
        let ended = (0..overlay.chunks())
            .find_map(|number| applier.chunk(number, &payload.chunk(number).unwrap()).err());
        assert!(matches!(ended, Some(Error::WrongResult { .. } | Error::Decode { .. })), "{ended:?}");
        assert_eq!(files(&into), 0);
        let again = applier.chunk(applier.next(), &payload.chunk(applier.next()).unwrap());
        assert!(matches!(again, Err(Error::Ended)));
        // Nor of an overlay that could not be made.
        std::fs::remove_file(&world.service.memory).unwrap();
        let service = ("speech".parse().unwrap(), &world.service);
        let threads = NonZeroU32::MIN;
        let unmade = world.empty("unmade");
        let failed = create(coding, (world.base_id, &world.base), service, &unmade, threads);
        assert!(matches!(failed, Err(Error::File { .. })), "{failed:?}");
        assert_eq!(files(&unmade), 0);
    }
}

#[test]
fn payloads_that_lie_end_in_an_error_and_leave_nothing() {
    for coding in CODINGS {
        let world = world(7);
        let payload = world.overlay(coding);
        let into = world.empty("restored");
        for seed in 0..60 {
            let mut random = ChaCha8Rng::seed_from_u64(seed);
            let mut overlay = payload.overlay().clone();
            let mut chunks: Vec<Vec<u8>> =
                (0..overlay.chunks()).map(|number| payload.chunk(number).unwrap()).collect();
            // Whoever made the overlay has also made its hashes.
            let part = random.random_range(0..3);
            let first: usize = overlay.parts[..part].iter().map(|part| part.chunks.len()).sum();
            let within = random.random_range(0..overlay.parts[part].chunks.len());
            let chunk = &mut chunks[first + within];
            let end = if random.random() { chunk.len() } else { chunk.len().min(64) };
            chunk[random.random_range(0..end)] ^= 1 << random.random_range(0..8_u8);
            overlay.parts[part].chunks[within] = Digest::of(chunk);
            let mut applier = world.applier(&overlay, &into);
            let failed = (0..).zip(&chunks).find_map(|(number, chunk)| applier.chunk(number, chunk).err());
            match failed {
                Some(Error::Decode { .. } | Error::WrongResult { .. }) => drop(applier),
                // A bit that nothing depends on.
                None => {
                    let restored = applier.finish().unwrap();
                    world.assert_restored(&restored);
                    for role in [Role::Disk, Role::MemoryTemplate, Role::DeviceStream] {
                        std::fs::remove_file(restored.path(role)).unwrap();
                    }
                }
                other => panic!("seed {seed}: {other:?}"),
            }
            assert_eq!(files(&into), 0, "seed {seed}");
        }
    }
}

#[test]
fn metadata_that_contradicts_itself_is_refused() {
    let world = world(8);
    let good = world.overlay(Coding::Blocks).overlay().clone();
    let refused = |change: &dyn Fn(&mut Overlay)| {
        let mut overlay = good.clone();
        change(&mut overlay);
        assert!(Overlay::parse(&overlay.to_bytes().unwrap()).is_err());
    };
    refused(&|overlay| overlay.format = 2);
    refused(&|overlay| overlay.chunk_bytes = 0);
    refused(&|overlay| overlay.chunk_bytes = u32::MAX);
    refused(&|overlay| overlay.parts.swap(0, 1));
    refused(&|overlay| overlay.parts[0].bytes = u64::MAX);
    refused(&|overlay| overlay.parts[1].bytes = 0);
    refused(&|overlay| overlay.parts[0].chunks.clear());
    assert!(Overlay::parse(b"{}").is_err());
    assert!(Overlay::parse(&vec![b' '; 5 << 20]).is_err());
    assert_eq!(Overlay::parse(&good.to_bytes().unwrap()).unwrap(), good);
}
