//! Our qcow2 files against QEMU's own tools, in both directions.

#![allow(
    clippy::unwrap_used,
    reason = "tests may panic; clippy recognises only the functions marked as tests"
)]

use std::path::Path;
use std::process::Command;

use proptest::prelude::*;
use vm_images::qcow2::{Header, create, create_overlay, read_header, virtual_size};

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
