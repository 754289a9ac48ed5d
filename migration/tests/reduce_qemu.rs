//! A guest that goes on writing while QEMU streams it live through the reducer wakes up as it was when it was paused.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test panics where it fails")]

mod stream_qemu_support;

use std::fs::{self, File};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use migration::reduce::{Arrived, Config, Frame, Images, KnownPart, Report, Sink, Source};
use migration::stream::{PAGE_BYTES, SparseTemplate, split};
use serde_json::json;
use stream_qemu_support::{MEMORY_BYTES, Memory, Qemu};
use vm_images::Digest;
use vm_images::index::Index;

/// Has QEMU stream the guest to a socket.
fn migrate(source: &mut Qemu, directory: &Path, name: &str) -> UnixStream {
    let socket = directory.join(name);
    let listener = UnixListener::bind(&socket).unwrap();
    source.ask("migrate", json!({ "uri": format!("unix:{}", socket.display()) }));
    listener.accept().unwrap().0
}

/// Suspends the guest as an image, and lets it go on.
fn suspend(source: &mut Qemu, directory: &Path) -> [PathBuf; 2] {
    let [template, device] = ["template", "device"].map(|name| directory.join(name));
    source.ask("stop", json!({}));
    let stream = migrate(source, directory, "suspend");
    let mut sink = SparseTemplate::create(&template).unwrap();
    split(stream, "cram", &mut sink, &mut File::create_new(&device).unwrap()).unwrap();
    source.wait_migrated();
    source.ask("cont", json!({}));
    [template, device]
}

fn known(path: &Path) -> KnownPart {
    let bytes = fs::read(path).unwrap();
    let digest = Digest::of(&bytes);
    let index = Some(Index::build(digest, &bytes[..], &mut |_| {}).unwrap());
    KnownPart { digest, path: path.to_owned(), index }
}

fn reduce(stream: UnixStream, images: &Images) -> (Vec<Frame>, Report) {
    let mut frames = Vec::new();
    let mut outlet = |frame| {
        frames.push(frame);
        Ok(())
    };
    let [template, device]: [Digest; 2] = images.digests().copied().collect::<Vec<_>>().try_into().unwrap();
    let mut source = Source::new(images, &[], Config::default()).unwrap();
    let report = source.memory(stream, "cram", Some(&template), Some(&device), &mut outlet).unwrap();
    (frames, report)
}

#[test]
fn a_guest_that_writes_while_it_is_reduced_wakes_up_as_it_was_when_it_was_paused() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let mut source = Qemu::start(directory, "source", &Memory::Own, false);
    source.wait_until_it_counts();
    let parts = suspend(&mut source, directory).map(|path| known(&path));
    let images = Images::open(&parts).unwrap();
    let count = source.count();
    source.wait_until_it_counts_beyond(count);

    // Slow enough that the guest changes pages while the first pass goes over its memory; and such a pause is allowed that
    // QEMU comes to an end on a busy machine, too: the guest changes 16 MiB over and over.
    source.ask("migrate-set-parameters", json!({ "max-bandwidth": 100 << 20, "downtime-limit": 10_000 }));
    let stream = migrate(&mut source, directory, "live");
    let (frames, report) = reduce(stream, &images);
    source.wait_migrated();
    println!("{report:#?}");
    assert!(report.seen > MEMORY_BYTES / PAGE_BYTES, "the guest changed nothing: {report:?}");

    let mut sink = Sink::new(&images, Arrived::open(&directory.join("arrived"), 1 << 16).unwrap()).unwrap();
    for frame in &frames {
        sink.take(Frame::decode(&frame.encode()).unwrap()).unwrap();
    }
    let restored = directory.join("restored");
    let written = sink.restore_memory("cram", &mut File::create(&restored).unwrap()).unwrap();
    assert_eq!(u64::from(written.differing), report.differing);

    let (memory, count) = (source.memory(), source.count());
    let mut clone = Qemu::start(directory, "clone", &Memory::Template(&parts[0].path), true);
    clone.load(&restored);
    let found = clone.memory();
    let different = found.chunks(4096).zip(memory.chunks(4096)).filter(|(one, other)| one != other).count();
    assert_eq!(different, 0, "pages differ");
    assert_eq!(clone.count(), count);
    clone.ask("cont", json!({}));
    clone.wait_until_it_counts_beyond(count);
}
