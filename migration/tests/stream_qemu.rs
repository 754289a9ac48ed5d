//! Streams of the real QEMU: what is split wakes up on its template, and what is joined wakes up without.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test panics where it fails")]

mod stream_qemu_support;

use std::fs::{self, File};
use std::os::unix::net::UnixListener;
use std::path::Path;

use migration::stream::{PAGE_BYTES, SparseTemplate, Split, join, split};
use serde_json::json;
use stream_qemu_support::{MEMORY_BYTES, Memory, PATTERN, Qemu, pattern_at};

/// Lets `source` write its stream to a socket and splits it as it comes.
fn split_from(source: &mut Qemu, directory: &Path) -> Split {
    let socket = directory.join("stream");
    let listener = UnixListener::bind(&socket).unwrap();
    source.ask("migrate", json!({ "uri": format!("unix:{}", socket.display()) }));
    let (stream, _) = listener.accept().unwrap();
    let mut template = SparseTemplate::create(&directory.join("template")).unwrap();
    let mut device = File::create_new(directory.join("device")).unwrap();
    let split = split(stream, "cram", &mut template, &mut device).unwrap();
    source.wait_migrated();
    split
}

fn assert_same_memory(found: &[u8], wanted: &[u8]) {
    let pages = found.chunks(4096).zip(wanted.chunks(4096)).enumerate();
    let different: Vec<usize> =
        pages.filter(|(_, (one, other))| one != other).map(|(page, _)| page).collect();
    assert!(different.is_empty(), "{} pages differ, first {:?}", different.len(), different.first());
}

/// Wakes a clone up, compares its memory with the source's and lets it count on.
fn assert_wakes_up(mut clone: Qemu, stream: &Path, memory: &[u8], count: u32) {
    clone.load(stream);
    assert_same_memory(&clone.memory(), memory);
    assert_eq!(clone.count(), count);
    clone.ask("cont", json!({}));
    clone.wait_until_it_counts_beyond(count);
}

fn assert_both_ways_wake_up(source: &mut Qemu, directory: &Path) {
    let (memory, count) = (source.memory(), source.count());
    let (template, device, full) =
        (directory.join("template"), directory.join("device"), directory.join("full"));
    let before = blake3::hash(&fs::read(&template).unwrap());

    let clone = Qemu::start(directory, "clone", &Memory::Template(&template), true);
    assert_wakes_up(clone, &device, &memory, count);
    assert_eq!(blake3::hash(&fs::read(&template).unwrap()), before, "a clone wrote into its template");

    let joined = join(
        File::open(&device).unwrap(),
        "cram",
        &File::open(&template).unwrap(),
        &mut File::create(&full).unwrap(),
    );
    assert_eq!(joined.unwrap().stream_bytes, fs::metadata(&full).unwrap().len());
    let copy = Qemu::start(directory, "copy", &Memory::Own, true);
    assert_wakes_up(copy, &full, &memory, count);
}

#[test]
fn a_paused_guest_wakes_up_on_its_template() {
    let directory = tempfile::tempdir().unwrap();
    let mut source = Qemu::start(directory.path(), "source", &Memory::Own, false);
    source.wait_until_it_counts();
    source.ask("stop", json!({}));
    let split = split_from(&mut source, directory.path());

    assert_eq!((split.template_bytes, split.machine.as_str()), (MEMORY_BYTES, "pc-q35-10.0"));
    assert_eq!(split.sent_pages, MEMORY_BYTES / PAGE_BYTES, "each page of a paused guest once");
    assert_eq!(split.used_pages + split.zero_pages, split.sent_pages);
    assert_eq!(split.device_bytes, fs::metadata(directory.path().join("device")).unwrap().len());
    assert!(split.device_bytes < 2 << 20, "{} bytes without pages", split.device_bytes);
    let template = fs::read(directory.path().join("template")).unwrap();
    for address in PATTERN.step_by(4) {
        let found = template[address as usize..].first_chunk().map(|bytes| u32::from_le_bytes(*bytes));
        assert_eq!(found, Some(pattern_at(address)), "guest address {address:#x}");
    }
    assert_both_ways_wake_up(&mut source, directory.path());
}

#[test]
fn a_guest_that_writes_while_it_is_streamed_wakes_up_as_it_was_when_it_was_paused() {
    let directory = tempfile::tempdir().unwrap();
    let mut source = Qemu::start(directory.path(), "source", &Memory::Own, false);
    source.wait_until_it_counts();
    // Slow enough that the guest changes pages between passes over its memory.
    source.ask("migrate-set-parameters", json!({ "max-bandwidth": 200 << 20, "downtime-limit": 50 }));
    let split = split_from(&mut source, directory.path());
    let pages = MEMORY_BYTES / PAGE_BYTES;
    assert!(split.sent_pages > pages, "{} pages sent of {pages}: the guest changed none", split.sent_pages);
    assert_both_ways_wake_up(&mut source, directory.path());
}
