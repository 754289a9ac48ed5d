//! A VM moves while its guest writes to memory and disk: it streams out, is frozen, reduced against its image, restored and
//! resumed elsewhere, and every byte is there. And a VM that was frozen, or was streaming, runs on where it was.
#![cfg(feature = "libvirt")]
#![allow(clippy::unwrap_used, reason = "tests stop at the first thing that goes wrong")]
#![allow(clippy::disallowed_methods, reason = "the time that a move takes is printed")]

mod libvirt_support;

use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::time::{Duration, Instant};

use libvirt_support::{Image, Root, clone_spec, isolated, open, run, wait_until};
use migration::VmId;
use migration::hypervisor::libvirt::Libvirt;
use migration::hypervisor::{CloneSpec, Hypervisor, Moving, Pace};
use migration::reduce::{Arrived, Config, Frame, Images, KnownPart, Sink, Source, Space};
use migration::stream::{Content, Event, Reader};
use uuid::Uuid;
use vm_images::index::Index;
use vm_images::{Digest, Role};

const MEMORY_BLOCK: &str = "cram";
/// Writes its count, 4096 times, into one of 8 files in memory and of 8 on disk, for ever. Files are replaced as a whole, so at any
/// moment each that is there is right. Little but the shell itself, as each process costs an emulated guest some 100 ms.
const WRITER: &str = r#"
mkdir -p /dev/shm/m /root/d; i=0; n="
"
while :; do
  i=$((i+1)); s=$((i%8)); x="$i$n"
  for twice in 1 2 3 4 5 6 7 8 9 10 11 12; do x="$x$x"; done
  for d in /dev/shm/m /root/d; do printf %s "$x" > $d/new; mv $d/new $d/$s; done
  echo $i > /dev/shm/m/count
done"#;
/// Says how many files there are, how many lines they have, and how many of these are not like the first of their file.
const CHECKER: &str = r#"awk 'FNR == 1 { v = $0; f++ } $0 != v { bad++ } END { print f, NR, bad + 0 }' /dev/shm/m/[0-7] /root/d/[0-7]"#;
/// 16 files of 4096 lines.
const RIGHT: &str = "16 65536 0\n";

#[test]
fn a_vm_moves_while_it_works_and_nothing_is_lost() {
    isolated("a_vm_moves_while_it_works_and_nothing_is_lost", |root, _| moves(root));
}

fn moves(root: &Root) {
    let image = Image::named("base");
    let hypervisor = open(root, &image);
    let source = working(root, &hypervisor, &image);
    let before = count(&hypervisor, source.vm);

    // The guest works on while it streams.
    let live = hypervisor.stream_out(source.vm).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| std::io::copy(&mut BufReader::new(live), &mut std::io::sink()));
        wait_until("the guest has written more", || count(&hypervisor, source.vm) >= before + 5);
        hypervisor.freeze(source.vm).unwrap();
    });
    let frozen = Instant::now();
    let images = Images::open(&known_parts(&image)).unwrap();
    let indexed = frozen.elapsed();
    let mut stream = Vec::new();
    hypervisor.stream_out(source.vm).unwrap().read_to_end(&mut stream).unwrap();
    let mut wire = Vec::new();
    let report = send(&image, &images, &stream, &source, &mut wire);
    println!("{} bytes in {:?}: {report:?}", wire.len(), frozen.elapsed() - indexed);

    let target = restore(root, &image, &images, &source, &wire);
    let mut wanted = vec![0; image.hardware().memory_bytes as usize];
    apply(&stream[..], &mut wanted);
    let mut restored = std::fs::read(image.template()).unwrap();
    apply(File::open(&target.device_stream).unwrap(), &mut restored);
    let differing =
        restored.chunks(4096).zip(wanted.chunks(4096)).filter(|(one, other)| one != other).count();
    assert_eq!((differing, restored.len()), (0, wanted.len()), "pages that differ");
    hypervisor.clone_paused(&target).unwrap();
    assert!(!executes(&hypervisor, target.vm), "it waits");
    hypervisor.resume(target.vm).unwrap();
    println!("stood still for {:?} with the index at hand", frozen.elapsed() - indexed);
    hypervisor.stop(source.vm).unwrap();

    assert_eq!(run(&hypervisor, target.vm, "/bin/sh", &["-c", CHECKER]), RIGHT);
    let after = count(&hypervisor, target.vm);
    assert!(after >= before + 5, "{before} before, {after} after");
    wait_until("the writer writes on", || count(&hypervisor, target.vm) > after + 8);
    assert_eq!(run(&hypervisor, target.vm, "/bin/sh", &["-c", CHECKER]), RIGHT);
    hypervisor.stop(target.vm).unwrap();
    image.assert_unchanged();
}

/// Puts the pages of a stream where they belong.
fn apply(stream: impl Read, memory: &mut [u8]) {
    let mut reader = Reader::live(stream);
    let mut cram = None;
    while let Some(event) = reader.read().unwrap() {
        match event {
            Event::Blocks(blocks) => cram = blocks.iter().position(|block| block.name == MEMORY_BLOCK),
            Event::Page { block, offset, content } if Some(block) == cram => {
                let place = &mut memory[offset as usize..][..4096];
                match content {
                    Content::Zero => place.fill(0),
                    Content::Bytes(page) => place.copy_from_slice(page),
                }
            }
            _ => {}
        }
    }
}

#[test]
fn a_move_that_comes_to_nothing_leaves_the_vm_running() {
    isolated("a_move_that_comes_to_nothing_leaves_the_vm_running", |root, _| comes_to_nothing(root));
}

fn comes_to_nothing(root: &Root) {
    let image = Image::named("base");
    let hypervisor = open(root, &image);
    let vm = working(root, &hypervisor, &image).vm;
    let goes_on = |what: &str| {
        let now = count(&hypervisor, vm);
        wait_until(what, || count(&hypervisor, vm) > now);
    };

    // The other side vanishes in the middle.
    let mut stream = hypervisor.stream_out(vm).unwrap();
    stream.read_exact(&mut [0; 100_000]).unwrap();
    goes_on("it works on while nobody reads");
    drop(stream);
    goes_on("it works on when the stream is gone");

    // It waits for a better link, and is called off.
    let mut stream = hypervisor.stream_out(vm).unwrap();
    hypervisor.pace(vm, Pace::Waiting).unwrap();
    stream.read_exact(&mut [0; 100_000]).unwrap();
    hypervisor.resume(vm).unwrap();
    goes_on("it works on after it was called off");

    // All was sent, and the destination could not verify it; twice.
    for _ in 0..2 {
        hypervisor.freeze(vm).unwrap();
        let mut stream = hypervisor.stream_out(vm).unwrap();
        let sent = std::io::copy(&mut stream, &mut std::io::sink()).unwrap();
        assert!(sent > 1_000_000 && !executes(&hypervisor, vm), "{sent} bytes");
        let begun = Instant::now();
        hypervisor.resume(vm).unwrap();
        println!("{sent} bytes; taken back in {:?}", begun.elapsed());
        goes_on("it works on after it was taken back");
    }
    assert_eq!(run(&hypervisor, vm, "/bin/sh", &["-c", CHECKER]), RIGHT);
    hypervisor.stop(vm).unwrap();
}

/// A clone whose guest writes.
fn working(root: &Root, hypervisor: &Libvirt, image: &Image) -> CloneSpec {
    let spec = clone_spec(root, image, "source");
    hypervisor.clone_from(&spec).unwrap();
    hypervisor.agent_ping(spec.vm, Duration::from_secs(60)).unwrap();
    hypervisor.agent_write_file(spec.vm, "/root/writer", WRITER.as_bytes()).unwrap();
    run(hypervisor, spec.vm, "/bin/sh", &["-c", "setsid sh /root/writer > /dev/null 2>&1 &"]);
    wait_until("every file was written once", || count(hypervisor, spec.vm) > 8);
    spec
}

fn count(hypervisor: &Libvirt, vm: VmId) -> u64 {
    let said = run(hypervisor, vm, "/bin/sh", &["-c", "cat /dev/shm/m/count 2>/dev/null || echo 0"]);
    // Empty at the moment when it is written.
    said.trim().parse().unwrap_or_default()
}

fn executes(hypervisor: &Libvirt, vm: VmId) -> bool {
    hypervisor.list().unwrap().iter().any(|running| running.vm == vm && running.executing)
}

fn known_parts(image: &Image) -> Vec<KnownPart> {
    let known = |(digest, role, path): (Digest, Role, _)| {
        let indexed = matches!(role, Role::Disk | Role::MemoryTemplate);
        let index = indexed.then(|| Index::build(digest, File::open(&path).unwrap(), &mut |_| {}).unwrap());
        (indexed || role == Role::DeviceStream).then_some(KnownPart { digest, path, index })
    };
    image.parts().into_iter().filter_map(known).collect()
}

fn digest_of(image: &Image, wanted: Role) -> Digest {
    image.parts().into_iter().find(|(_, role, _)| *role == wanted).unwrap().0
}

fn send(
    image: &Image,
    images: &Images,
    stream: &[u8],
    vm: &CloneSpec,
    wire: &mut Vec<u8>,
) -> migration::reduce::Report {
    let mut outlet = |frame: Frame| wire.write_all(&frame.encode());
    let mut source = Source::new(images, &[], Config::default()).unwrap();
    let (template, device) = (digest_of(image, Role::MemoryTemplate), digest_of(image, Role::DeviceStream));
    let report = source.memory(stream, MEMORY_BLOCK, Some(&template), Some(&device), &mut outlet).unwrap();
    source.begin_disk(&digest_of(image, Role::Disk), &mut outlet).unwrap();
    source.disk_layer(&vm.disk, &mut outlet).unwrap();
    source.end_disk(&mut outlet).unwrap();
    report
}

fn restore(root: &Root, image: &Image, images: &Images, source: &CloneSpec, mut wire: &[u8]) -> CloneSpec {
    let mut sink = Sink::new(images, Arrived::open(&root.path("arrived"), 1 << 16).unwrap()).unwrap();
    while let Some(frame) = Frame::read(&mut wire).unwrap() {
        sink.take(frame).unwrap();
    }
    assert!(sink.is_complete(Space::Memory) && sink.is_complete(Space::Disk));
    let (disk, device_stream) = (root.path("target.qcow2"), root.path("target.stream"));
    sink.restore_memory(MEMORY_BLOCK, &mut File::create(&device_stream).unwrap()).unwrap();
    sink.restore_disk(&disk, &image.disk()).unwrap();
    CloneSpec { vm: VmId(Uuid::new_v4()), disk, device_stream, ..source.clone() }
}
