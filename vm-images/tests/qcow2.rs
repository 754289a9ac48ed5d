//! Our qcow2 files against QEMU's own tools, in both directions.

#![allow(
    clippy::unwrap_used,
    reason = "tests may panic; clippy recognises only the functions marked as tests"
)]

use std::path::Path;
use std::process::Command;

use proptest::prelude::*;
use vm_images::qcow2::{
    Chain, Header, Layer, LayerWriter, Mapping, create, create_overlay, read_header, virtual_size,
};

fn qemu_img(dir: &Path, arguments: &[&str]) -> String {
    let output = Command::new("qemu-img").args(arguments).current_dir(dir).output().unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "qemu-img {arguments:?}: {text}");
    text
}

#[test]
fn qemu_reads_a_backing_file_through_our_overlay() {
    let dir = tempfile::tempdir().unwrap();
    let content: Vec<u8> = (0..3_000_000_u32).map(|i| (i % 251) as u8).collect();
    std::fs::create_dir(dir.path().join("base")).unwrap();
    std::fs::create_dir(dir.path().join("child")).unwrap();
    std::fs::write(dir.path().join("raw"), &content).unwrap();
    qemu_img(dir.path(), &["convert", "-f", "raw", "-O", "qcow2", "raw", "base/disk.qcow2"]);

    let backing = Path::new("../base/disk.qcow2");
    let bytes = virtual_size(&dir.path().join("base/disk.qcow2")).unwrap();
    create_overlay(&dir.path().join("child/disk.qcow2"), backing, bytes).unwrap();

    assert!(qemu_img(dir.path(), &["check", "child/disk.qcow2"]).contains("No errors were found"));
    let info: serde_json::Value =
        serde_json::from_str(&qemu_img(dir.path(), &["info", "--output=json", "child/disk.qcow2"])).unwrap();
    assert_eq!(info["virtual-size"], bytes);
    assert_eq!(info["backing-filename"], "../base/disk.qcow2");
    assert_eq!(info["backing-filename-format"], "qcow2");
    assert_eq!(info["format-specific"]["data"]["compat"], "1.1");
    assert_eq!(info["cluster-size"], 65536);
    let same = qemu_img(dir.path(), &["compare", "-f", "raw", "-F", "qcow2", "raw", "child/disk.qcow2"]);
    assert!(same.contains("Images are identical"), "{same}");
    assert!(std::fs::metadata(dir.path().join("child/disk.qcow2")).unwrap().len() <= 4 * 65536);

    // A guest's writes go to the overlay and leave it sound.
    let base_before = std::fs::read(dir.path().join("base/disk.qcow2")).unwrap();
    for (at, length) in [("0", "100k"), ("1M", "1M")] {
        let write = format!("write -P 7 {at} {length}");
        let status =
            Command::new("qemu-io").args(["-c", &write, "child/disk.qcow2"]).current_dir(dir.path()).output();
        assert!(status.unwrap().status.success());
    }
    assert!(qemu_img(dir.path(), &["check", "child/disk.qcow2"]).contains("No errors were found"));
    assert_eq!(std::fs::read(dir.path().join("base/disk.qcow2")).unwrap(), base_before);
}

#[test]
fn disks_of_every_size_are_sound() {
    let dir = tempfile::tempdir().unwrap();
    for bytes in [0, 512, 512 << 20, (512 << 20) + 512, 2 << 30, 1 << 44] {
        let path = dir.path().join(format!("{bytes}.qcow2"));
        create(&path, bytes).unwrap();
        assert!(qemu_img(dir.path(), &["check", path.to_str().unwrap()]).contains("No errors were found"));
        assert_eq!(virtual_size(&path).unwrap(), bytes);
        assert_eq!(read_header(&path).unwrap().backing, None);
    }
}

#[test]
fn impossible_disks_are_refused_and_leave_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.qcow2");
    assert!(create(&path, 1000).unwrap_err().to_string().starts_with("a disk of 1000 bytes cannot be made"));
    assert!(create(&path, u64::MAX - 511).is_err());
    let long = "x".repeat(1024);
    assert!(create_overlay(&path, Path::new(&long), 512).is_err());
    assert!(create_overlay(&path, Path::new(""), 512).is_err());
    assert!(!path.exists());
    create(&path, 512).unwrap();
    let before = std::fs::read(&path).unwrap();
    assert!(create(&path, 1024).unwrap_err().to_string().starts_with("cannot create disk"));
    assert_eq!(std::fs::read(&path).unwrap(), before, "an existing disk was overwritten");
}

#[test]
fn disks_that_qemu_made_are_understood_or_refused_for_the_right_reason() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    qemu_img(dir.path(), &["create", "-q", "-f", "qcow2", "base", "5M"]);
    qemu_img(dir.path(), &["create", "-q", "-f", "qcow2", "-b", "base", "-F", "qcow2", "new"]);
    qemu_img(
        dir.path(),
        &[
            "create",
            "-q",
            "-f",
            "qcow2",
            "-o",
            "compat=0.10,cluster_size=4096",
            "-b",
            "base",
            "-F",
            "qcow2",
            "old",
        ],
    );
    qemu_img(dir.path(), &["create", "-q", "-f", "qcow2", "-o", "data_file=outside", "data", "5M"]);
    qemu_img(dir.path(), &["create", "-q", "-f", "raw", "raw", "5M"]);
    for (name, version, cluster_bytes) in [("new", 3, 65536), ("old", 2, 4096)] {
        let backing = Some("base".to_owned());
        let backing_format = Some("qcow2".to_owned());
        let wanted = Header { version, virtual_bytes: 5 << 20, cluster_bytes, backing, backing_format };
        assert_eq!(read_header(&at(name)).unwrap(), wanted);
    }
    let said = |name: &str| read_header(&at(name)).unwrap_err().to_string();
    assert!(
        said("data").ends_with("it uses an external data file, which an image may not"),
        "{}",
        said("data")
    );
    assert!(said("raw").ends_with("it does not start with a qcow2 header"), "{}", said("raw"));
    assert!(said("nowhere").starts_with("cannot read disk"));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_make_the_parser_panic(
        flips in prop::collection::vec((0_usize..200, any::<u8>()), 0..8),
        length in 0_usize..300,
        with_backing: bool,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d");
        if with_backing {
            create_overlay(&path, Path::new("../x/disk.qcow2"), 1 << 20).unwrap();
        } else {
            create(&path, 1 << 20).unwrap();
        }
        let mut bytes = std::fs::read(&path).unwrap();
        for (at, value) in flips {
            bytes[at] = value;
        }
        bytes.truncate(length);
        // Only that it returns is asked for, and that what it accepts is within its limits.
        if let Ok(header) = Header::parse(&bytes) {
            prop_assert!(header.virtual_bytes <= 1 << 44);
            prop_assert!(header.backing.is_none_or(|name| name.len() <= 1023));
        }
    }
}

/// A chain of two layers that QEMU wrote, and what the guest sees through it.
fn qemu_chain(dir: &Path) -> Vec<u8> {
    qemu_img(dir, &["create", "-q", "-f", "qcow2", "base.qcow2", "700M"]);
    qemu_img(dir, &["create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "top.qcow2"]);
    let io = |disk: &str, commands: &[&str]| {
        let arguments = commands.iter().flat_map(|command| ["-c", command]);
        let output =
            Command::new("qemu-io").args(["-d", "unmap"]).args(arguments).arg(disk).current_dir(dir).output();
        assert!(output.unwrap().status.success());
    };
    io("base.qcow2", &["write -P 1 0 1M", "write -P 2 600M 200k", "write -P 3 699M 1M"]);
    io(
        "top.qcow2",
        &["write -P 4 100k 20k", "discard 512k 128k", "write -P 5 600M 64k", "write -z 699M 64k"],
    );
    qemu_img(dir, &["convert", "-O", "raw", "top.qcow2", "seen.raw"]);
    std::fs::read(dir.join("seen.raw")).unwrap()
}

#[test]
fn a_chain_reads_as_qemu_reads_it() {
    let dir = tempfile::tempdir().unwrap();
    let seen = qemu_chain(dir.path());
    let mut chain = Chain::open(&dir.path().join("top.qcow2")).unwrap();
    assert_eq!(chain.virtual_bytes(), seen.len() as u64);
    let mut found = vec![1; 3_000_000];
    for (piece, offset) in seen.chunks(found.len()).zip((0..).step_by(found.len())) {
        chain.read(offset, &mut found[..piece.len()]).unwrap();
        assert!(found[..piece.len()] == *piece, "differs after {offset}");
    }
    found[..9].fill(1);
    chain.read(seen.len() as u64 - 4, &mut found[..9]).unwrap();
    assert_eq!(found[..9], [3, 3, 3, 3, 0, 0, 0, 0, 0], "behind the end is nothing");

    let mut layer = Layer::open(&dir.path().join("top.qcow2")).unwrap();
    let mut held = Vec::new();
    let mut next = 0;
    while let Some((cluster, mapping)) = layer.next_held(next).unwrap() {
        held.push((cluster, matches!(mapping, Mapping::Data(_))));
        next = cluster + 1;
    }
    let megabyte = 16;
    let wanted = [(1, true), (8, false), (9, false), (600 * megabyte, true), (699 * megabyte, false)];
    assert_eq!(held, wanted, "written, discarded, written, zeroed");
}

#[test]
fn a_written_layer_is_sound_and_reads_as_it_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let mut seen = qemu_chain(dir.path());
    let cluster_bytes = LayerWriter::CLUSTER_BYTES as usize;
    let path = dir.path().join("mine.qcow2");
    let mut writer = LayerWriter::create(&path, Some(Path::new("top.qcow2")), seen.len() as u64).unwrap();
    for cluster in [11_199_usize, 3, 0, 9000, 3] {
        let content = &mut seen[cluster * cluster_bytes..(cluster + 1) * cluster_bytes];
        content.iter_mut().enumerate().for_each(|(at, byte)| *byte = (at / 3 + cluster) as u8);
        writer.put(cluster as u64, content.first_chunk().unwrap()).unwrap();
    }
    for cluster in [9601_usize, 1] {
        seen[cluster * cluster_bytes..(cluster + 1) * cluster_bytes].fill(0);
        writer.discard(cluster as u64).unwrap();
    }
    assert!(writer.discard(11_200).is_err(), "behind the end");
    writer.finish().unwrap();
    std::fs::write(dir.path().join("wanted.raw"), &seen).unwrap();

    let check = qemu_img(dir.path(), &["check", "mine.qcow2"]);
    assert!(check.contains("No errors were found"), "{check}");
    let same = qemu_img(dir.path(), &["compare", "-f", "raw", "-F", "qcow2", "wanted.raw", "mine.qcow2"]);
    assert!(same.contains("Images are identical"), "{same}");
    let write = Command::new("qemu-io")
        .args(["-c", "write -P 9 5M 70M", "mine.qcow2"])
        .current_dir(dir.path())
        .output()
        .unwrap();
    assert!(write.status.success(), "QEMU cannot write to it");
}

#[test]
fn layers_that_cannot_be_read_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("raw"), vec![7; 300_000]).unwrap();
    qemu_img(dir.path(), &["convert", "-c", "-f", "raw", "-O", "qcow2", "raw", "packed.qcow2"]);
    let mut packed = Layer::open(&dir.path().join("packed.qcow2")).unwrap();
    assert!(packed.mapping(0).unwrap_err().to_string().contains("compressed clusters"));
    qemu_img(dir.path(), &["create", "-q", "-f", "qcow2", "-o", "extended_l2=on", "extended.qcow2", "1M"]);
    let error = Layer::open(&dir.path().join("extended.qcow2")).unwrap_err().to_string();
    assert!(error.contains("extended L2"), "{error}");
    create(&dir.path().join("cut.qcow2"), 1 << 30).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(dir.path().join("cut.qcow2")).unwrap();
    file.set_len(3 * 65536).unwrap();
    assert!(Layer::open(&dir.path().join("cut.qcow2")).is_err(), "its L1 table is cut off");
}
