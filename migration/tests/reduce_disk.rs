//! A disk that QEMU has written in rounds: frozen layers are reduced one after the other, and what is restored reads as the
//! last one does.

#![allow(clippy::unwrap_used, reason = "tests stop at the first thing that goes wrong")]

mod reduce_support;

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use migration::reduce::{Arrived, Error, Frame, Images, KnownPart, Report, Sink, Source, Space};
use reduce_support::{fast, noise};
use vm_images::index::Index;
use vm_images::qcow2::{LayerWriter, create_overlay};
use vm_images::{Digest, qcow2};

/// Not a whole number of clusters, nor of blocks.
const DISK_BYTES: u64 = 700 * 1024 * 1024 + 512;
const CLUSTER: usize = LayerWriter::CLUSTER_BYTES as usize;

fn qemu(program: &str, dir: &Path, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).current_dir(dir).output().unwrap();
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
    said
}

/// Two rounds on an image's disk of 40 clusters of noise; `first` is the frozen layer, `second` the one above it.
fn written(dir: &Path) {
    let mut base = LayerWriter::create(&dir.join("base.qcow2"), None, DISK_BYTES).unwrap();
    for cluster in 0..40_u64 {
        let content: Vec<u8> = (0..16).flat_map(|block| noise(cluster as u32 * 16 + block)).collect();
        base.put(cluster * 200, content.first_chunk::<CLUSTER>().unwrap()).unwrap();
    }
    base.finish().unwrap();
    create_overlay(&dir.join("first.qcow2"), Path::new("base.qcow2"), DISK_BYTES).unwrap();
    create_overlay(&dir.join("second.qcow2"), Path::new("first.qcow2"), DISK_BYTES).unwrap();
    let io = |disk: &str, commands: &[&str]| {
        let mut arguments = vec!["-d", "unmap"];
        arguments.extend(commands.iter().flat_map(|command| ["-c", *command]));
        arguments.push(disk);
        qemu("qemu-io", dir, &arguments);
    };
    // A file in the image that is written to another place, blocks that change a little, discarded and new ones.
    fs::write(dir.join("copy"), (0..16).flat_map(|block| noise(320 + block)).collect::<Vec<u8>>()).unwrap();
    let copy = format!("write -s {} 300M 64k", dir.join("copy").display());
    let behind = format!("write -P 5 {} 512", DISK_BYTES - 512);
    io("first.qcow2", &[&copy, "write -P 1 4k 100", "write -P 7 400M 3M", "discard 12800k 64k", &behind]);
    io("second.qcow2", &["write -P 8 401M 1M", "discard 402M 64k", "write -P 1 25M 4k", "write -z 300M 4k"]);
}

fn images(dir: &Path) -> (Images, Digest) {
    let path = dir.join("base.qcow2");
    let digest = Digest::of(&fs::read(&path).unwrap());
    let index = Some(Index::build(digest, File::open(&path).unwrap(), &mut |_| {}).unwrap());
    (Images::open(&[KnownPart { digest, path, index }]).unwrap(), digest)
}

fn reduce(dir: &Path, images: &Images, base: &Digest) -> (Vec<Frame>, Vec<Report>) {
    let mut frames = Vec::new();
    let mut outlet = |frame| {
        frames.push(frame);
        Ok(())
    };
    let mut source = Source::new(images, &[], fast()).unwrap();
    source.begin_disk(base, &mut outlet).unwrap();
    let layers = ["first.qcow2", "second.qcow2"];
    let reports = layers.map(|layer| source.disk_layer(&dir.join(layer), &mut outlet).unwrap()).into();
    source.end_disk(&mut outlet).unwrap();
    (frames, reports)
}

#[test]
fn rounds_of_layers_become_one_layer_that_reads_as_the_last() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    written(dir);
    let (images, base) = images(dir);
    let (frames, reports) = reduce(dir, &images, &base);
    let wire: usize = frames.iter().map(Frame::bytes).sum();
    assert!(wire < 3000, "{wire} bytes for {reports:#?}");
    assert!(reports[0].known >= 16, "the copy of a file in the image: {reports:#?}");
    assert!(reports[0].zero >= 16, "what was discarded: {reports:#?}");
    assert!(reports[0].same >= 15, "the rest of a cluster that changed in one block: {reports:#?}");

    let mut sink = Sink::new(&images, Arrived::open(&dir.join("arrived"), 1 << 16).unwrap()).unwrap();
    frames.iter().for_each(|frame| sink.take(frame.clone()).unwrap());
    let restored = sink.restore_disk(&dir.join("restored.qcow2"), Path::new("base.qcow2")).unwrap();
    assert_eq!(u64::from(restored.differing), reports[1].differing);
    let check = qemu("qemu-img", dir, &["check", "restored.qcow2"]);
    assert!(check.contains("No errors were found"), "{check}");
    let same = qemu("qemu-img", dir, &["compare", "second.qcow2", "restored.qcow2"]);
    assert!(same.contains("Images are identical"), "{same}");
    assert_eq!(qcow2::virtual_size(&dir.join("restored.qcow2")).unwrap(), DISK_BYTES);
    qemu("qemu-io", dir, &["-c", "write -P 3 1M 10M", "restored.qcow2"]);
}

#[test]
fn what_is_not_complete_or_not_the_same_leaves_no_disk() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    written(dir);
    let (images, base) = images(dir);
    let (mut frames, _) = reduce(dir, &images, &base);
    let restored = dir.join("restored.qcow2");
    let backing = Path::new("base.qcow2");
    let end = frames.pop().unwrap();
    let mut sink = Sink::new(&images, Arrived::open(&dir.join("arrived"), 1 << 16).unwrap()).unwrap();
    frames.into_iter().for_each(|frame| sink.take(frame).unwrap());
    assert!(!sink.is_complete(Space::Disk));
    assert!(matches!(sink.restore_disk(&restored, backing), Err(Error::Incomplete { .. })));

    let Frame::End { space, differing, mut root } = end else { panic!("{end:?}") };
    root[0] ^= 1;
    sink.take(Frame::End { space, differing, root }).unwrap();
    assert!(sink.is_complete(Space::Disk));
    let error = sink.restore_disk(&restored, backing).unwrap_err();
    assert!(matches!(error, Error::NotTheSame { space: Space::Disk, .. }), "{error:?}");
    assert!(!restored.exists());

    // A file that is there already is not ours to remove.
    fs::write(&restored, b"mine").unwrap();
    assert!(sink.restore_disk(&restored, backing).is_err());
    assert_eq!(fs::read(&restored).unwrap(), b"mine");
}

#[test]
fn layers_of_another_disk_and_layers_without_a_beginning_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    written(dir);
    let (images, base) = images(dir);
    let mut outlet = |_| Ok(());
    let mut source = Source::new(&images, &[], fast()).unwrap();
    let early = source.disk_layer(&dir.join("first.qcow2"), &mut outlet).unwrap_err();
    assert!(matches!(early, Error::Incomplete { space: Space::Disk, .. }), "{early:?}");
    source.begin_disk(&base, &mut outlet).unwrap();
    qcow2::create(&dir.join("other.qcow2"), 1 << 20).unwrap();
    let other = source.disk_layer(&dir.join("other.qcow2"), &mut outlet).unwrap_err();
    assert!(matches!(other, Error::OtherBase { space: Space::Disk, .. }), "{other:?}");
    let unknown = source.begin_disk(&Digest::of(b"unknown"), &mut outlet).unwrap_err();
    assert!(matches!(unknown, Error::NoSuchPart { .. }), "{unknown:?}");
}
