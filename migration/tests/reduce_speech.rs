//! The real speech VM, moved: suspended in the middle of its life, reduced against its image, restored, compared byte by
//! byte, and woken up again.
#![cfg(feature = "libvirt")]
#![allow(clippy::unwrap_used, reason = "tests stop at the first thing that goes wrong")]

mod libvirt_support;
mod reduce_support;

use std::fs::{self, File};
use std::io::{BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};

use libvirt_support::{ANSWER_LIMIT, Image, Root, clone_spec, isolated, open, run, wait_until};
use migration::VmId;
use migration::hypervisor::{CloneSpec, Hypervisor, SuspendFiles};
use migration::reduce::{Arrived, Config, Frame, Images, KnownPart, Report, Sink, Source, Space};
use migration::stream::{Content, Event, Reader, join};
use reduce_support::encoded;
use uuid::Uuid;
use vm_images::index::Index;
use vm_images::{Digest, Role};

const MEMORY_BLOCK: &str = "cram";
const SPEECH_PORT: u16 = 80;
/// Debian's pocketsphinx-testdata; the image is built with it, too.
const RECORDING: &str = "/usr/share/pocketsphinx/test/data/cards/002.wav";

#[test]
fn an_idle_speech_vm_is_reduced_restored_and_goes_on() {
    isolated("an_idle_speech_vm_is_reduced_restored_and_goes_on", |root, _| moves(root, 0));
}

#[test]
fn a_speech_vm_that_has_worked_is_reduced_restored_and_goes_on() {
    isolated("a_speech_vm_that_has_worked_is_reduced_restored_and_goes_on", |root, _| moves(root, 3));
}

/// Everything that a move of `source` needs.
struct Moved {
    memory: Report,
    disk: Report,
    wire: Vec<u8>,
}

fn moves(root: &Root, recognitions: usize) {
    let speech = Image::named("speech");
    let hypervisor = open(root, &speech);
    let source = clone_spec(root, &speech, "source");
    hypervisor.clone_from(&source).unwrap();
    let words: Vec<String> = (0..recognitions).map(|_| recognise(&hypervisor, source.vm)).collect();
    run(&hypervisor, source.vm, "/bin/sh", &["-c", "echo was here > /root/mark; sync"]);
    let into =
        SuspendFiles { template: root.path("paused.memory"), device_stream: root.path("paused.device") };
    hypervisor.suspend(source.vm, &into).unwrap();
    let stream = root.path("paused.stream");
    let device = BufReader::new(File::open(&into.device_stream).unwrap());
    let template = File::open(&into.template).unwrap();
    join(device, MEMORY_BLOCK, &template, &mut File::create(&stream).unwrap()).unwrap();
    keep(&stream, &source.disk, recognitions);

    let parts = known_parts(&speech);
    let images = Images::open(&parts).unwrap();
    let moved = reduce(&speech, &images, &stream, &source.disk);
    println!(
        "{recognitions} recognitions: {} bytes on the wire\n{:#?}\n{:#?}",
        moved.wire.len(),
        moved.memory,
        moved.disk
    );
    // Measured 50 kB and 0.83 MB; the stream has 181 MB.
    let most = if recognitions == 0 { 150_000 } else { 1_500_000 };
    assert!(moved.wire.len() < most, "{} bytes", moved.wire.len());
    assert!(moved.memory.known > 0 && moved.memory.device_wire_bytes < 4_000, "{:?}", moved.memory);

    let mut sink = Sink::new(&images, Arrived::open(&root.path("arrived"), 1 << 16).unwrap()).unwrap();
    let mut wire = &moved.wire[..];
    while let Some(frame) = Frame::read(&mut wire).unwrap() {
        sink.take(frame).unwrap();
    }
    assert!(sink.is_complete(Space::Memory) && sink.is_complete(Space::Disk));
    let restored = root.path("restored.stream");
    sink.restore_memory(MEMORY_BLOCK, &mut File::create(&restored).unwrap()).unwrap();
    let disk = root.path("restored.qcow2");
    sink.restore_disk(&disk, &speech.disk()).unwrap();
    assert_same_memory(&speech.template(), &restored, &into.template);
    assert_same_disk(&source.disk, &disk);

    let target = CloneSpec { vm: VmId(Uuid::new_v4()), disk, device_stream: restored, ..source };
    hypervisor.clone_from(&target).unwrap();
    assert_eq!(run(&hypervisor, target.vm, "/bin/cat", &["/root/mark"]), "was here\n");
    let again = recognise(&hypervisor, target.vm);
    assert!(words.iter().all(|words| *words == again), "'{again}' where it was {words:?}");
    hypervisor.stop(target.vm).unwrap();
    speech.assert_unchanged();
}

/// Where `CLOUDLET_TEST_KEEP` names a directory, what was reduced stays there, for the example `reduce`.
fn keep(stream: &Path, disk: &Path, recognitions: usize) {
    let Some(directory) = std::env::var_os("CLOUDLET_TEST_KEEP").map(PathBuf::from) else { return };
    fs::copy(stream, directory.join(format!("{recognitions}.stream"))).unwrap();
    fs::copy(disk, directory.join(format!("{recognitions}.qcow2"))).unwrap();
}

fn known_parts(image: &Image) -> Vec<KnownPart> {
    let known = |(digest, role, path): (Digest, Role, PathBuf)| {
        let indexed = matches!(role, Role::Disk | Role::MemoryTemplate);
        let index = indexed.then(|| Index::build(digest, File::open(&path).unwrap(), &mut |_| {}).unwrap());
        let wanted = indexed || role == Role::DeviceStream;
        wanted.then_some(KnownPart { digest, path, index })
    };
    image.parts().into_iter().filter_map(known).collect()
}

fn reduce(image: &Image, images: &Images, stream: &Path, disk: &Path) -> Moved {
    let digest = |wanted: Role| image.parts().into_iter().find(|(_, role, _)| *role == wanted).unwrap().0;
    let (template, device) = (digest(Role::MemoryTemplate), digest(Role::DeviceStream));
    let mut source = Source::new(images, &[], Config::default()).unwrap();
    let mut wire = Vec::new();
    let mut outlet = encoded(&mut wire);
    let stream = File::open(stream).unwrap();
    let memory = source.memory(stream, MEMORY_BLOCK, Some(&template), Some(&device), &mut outlet).unwrap();
    source.begin_disk(&digest(Role::Disk), &mut outlet).unwrap();
    let disk = source.disk_layer(disk, &mut outlet).unwrap();
    source.end_disk(&mut outlet).unwrap();
    drop(outlet);
    Moved { memory, disk, wire }
}

/// The template with the restored stream's pages in it is what the source's memory was.
fn assert_same_memory(template: &Path, stream: &Path, wanted: &Path) {
    let mut memory = fs::read(template).unwrap();
    let wanted = fs::read(wanted).unwrap();
    let mut reader = Reader::new(File::open(stream).unwrap());
    let mut cram = None;
    while let Some(event) = reader.read().unwrap() {
        match event {
            Event::Blocks(blocks) => cram = blocks.iter().position(|block| block.name == MEMORY_BLOCK),
            Event::Page { block, offset, content } if Some(block) == cram => {
                let place = &mut memory[offset as usize..offset as usize + 4096];
                match content {
                    Content::Zero => place.fill(0),
                    Content::Bytes(page) => place.copy_from_slice(page),
                }
            }
            _ => {}
        }
    }
    let differing = memory.chunks(4096).zip(wanted.chunks(4096)).filter(|(one, other)| one != other).count();
    assert_eq!((differing, memory.len()), (0, wanted.len()), "pages that differ");
}

fn assert_same_disk(one: &Path, other: &Path) {
    let output = std::process::Command::new("qemu-img").arg("compare").args([one, other]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("Images are identical"), "{said}{}", String::from_utf8_lossy(&output.stderr));
}

/// Has the service recognise the recording; gives the words.
fn recognise(hypervisor: &dyn Hypervisor, vm: VmId) -> String {
    let localhost = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let address = hypervisor.forward_port(vm, localhost, 0, SPEECH_PORT).unwrap();
    wait_until("the service is healthy", || request(address, "GET /healthz", b"").contains(" 200 "));
    let answer = request(address, "POST /recognize", &fs::read(RECORDING).unwrap());
    let text = answer.split("\"text\":\"").nth(1).and_then(|rest| rest.split('"').next());
    text.unwrap_or_else(|| panic!("the service said: {answer}")).to_owned()
}

fn request(address: SocketAddr, line: &str, body: &[u8]) -> String {
    let Ok(mut connection) = TcpStream::connect(address) else { return String::new() };
    // A recognition takes half a second of processor time outside a VM, and ten times that in one.
    connection.set_read_timeout(Some(3 * ANSWER_LIMIT)).unwrap();
    let head = format!(
        "{line} HTTP/1.1\r\nHost: vm\r\nContent-Type: audio/wav\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let mut answer = String::new();
    let _ = connection.write_all(head.as_bytes()).and_then(|()| connection.write_all(body));
    let _ = connection.read_to_string(&mut answer);
    answer
}
