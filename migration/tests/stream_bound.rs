//! The bound on memory that the documentation of `stream` states, measured with an allocator that counts.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test panics where it fails")]

mod stream_support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs::File;
use std::io::{self, Read};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use migration::stream::{
    MAX_DESCRIPTION_BYTES, MAX_MEMORY_BYTES, PAGE_BYTES, READ_BUFFER_BYTES, RUN_BYTES, SparseTemplate,
    WRITE_BUFFER_BYTES, join, split,
};
use stream_support::{Add, Bytes, PAGE, page};

struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every call is passed to the system's allocator as it came; the counters do not touch the memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        MOST.fetch_max(NOW.fetch_add(layout.size(), Relaxed) + layout.size(), Relaxed);
        // SAFETY: as required of our caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as required of our caller.
        unsafe { System.dealloc(at, layout) }
    }
}

/// Most bytes that were allocated at a time while `work` ran, beyond those before.
fn most_allocated<T>(work: impl FnOnce() -> T) -> (usize, T) {
    let before = NOW.load(Relaxed);
    MOST.store(before, Relaxed);
    let result = work();
    (MOST.load(Relaxed) - before, result)
}

/// The documented bound for a memory block of this length, with a template file.
fn bound(memory_bytes: u64) -> usize {
    let bits = (memory_bytes / PAGE_BYTES / 8) as usize;
    READ_BUFFER_BYTES + WRITE_BUFFER_BYTES + 2 * MAX_DESCRIPTION_BYTES + 160 * 1024 + RUN_BYTES + bits
}

/// A valid stream of any length that needs no memory itself: 20,001 pages, then device bytes.
fn long_stream(memory_bytes: u64, device_bytes: u64) -> impl Read {
    let mut head = Bytes::header("pc-q35-10.0");
    head.start(&[("cram".to_owned(), memory_bytes)]).close().go_on(3);
    head.page(Some("cram"), 0, Some(&page(1)));
    let mut next = Bytes(Vec::new());
    next.page(None, 5 * PAGE as u64, Some(&page(2)));
    let mut middle = Bytes(Vec::new());
    middle.close().raw(&[4]);
    let mut end = Bytes(Vec::new());
    end.raw(&[0x7e, 0, 0, 0, 4]).finish();
    let pages = Repeat { piece: next.0, times: 20_000, at: 0 };
    let device = io::repeat(0x55).take(device_bytes);
    let head = io::Cursor::new(head.0).chain(pages).chain(io::Cursor::new(middle.0));
    head.chain(device).chain(io::Cursor::new(end.0))
}

/// Reads the same piece many times.
struct Repeat {
    piece: Vec<u8>,
    times: usize,
    /// How much of the first of them is read.
    at: usize,
}

impl Read for Repeat {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.at == self.piece.len() {
            (self.at, self.times) = (0, self.times - 1);
        }
        if self.times == 0 {
            return Ok(0);
        }
        let count = (&self.piece[self.at..]).read(into)?;
        self.at += count;
        Ok(count)
    }
}

// One test, because the counters are the process's.
#[test]
fn memory_stays_within_the_documented_bound_whatever_the_stream_says() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let (memory_bytes, device_bytes) = (64 << 20, 20 << 20);

    let mut device = File::create(path("device")).unwrap();
    let stream = long_stream(memory_bytes, device_bytes);
    let (most, result) = most_allocated(|| {
        let mut template = SparseTemplate::create(&path("template")).unwrap();
        split(stream, "cram", &mut template, &mut device)
    });
    assert_eq!(result.unwrap().sent_pages, 20_001);
    println!("split: {most} bytes of {}", bound(memory_bytes));
    assert!(most <= bound(memory_bytes), "split of a long stream: {most} bytes");

    let (device, mut full) = (File::open(path("device")).unwrap(), File::create(path("full")).unwrap());
    let template = File::open(path("template")).unwrap();
    let (most, result) = most_allocated(|| join(device, "cram", &template, &mut full));
    assert_eq!(result.unwrap().used_pages, 2);
    assert!(most <= bound(memory_bytes), "join of a long stream: {most} bytes");

    // 256 blocks with the longest names are listed by both reader and writer, and are allowed.
    let name = |n: usize| format!("{n:0>255}");
    let claims: [(&str, u64, Add<'_>); 6] = [
        ("the longest memory", MAX_MEMORY_BYTES, &|bytes| {
            bytes.start(&[("cram".to_owned(), MAX_MEMORY_BYTES)]).close().go_on(3);
            bytes.page(Some("cram"), MAX_MEMORY_BYTES - PAGE_BYTES, Some(&page(1)));
        }),
        ("more memory", 0, &|bytes| {
            bytes.start(&[("cram".to_owned(), !0xfff)]);
        }),
        ("as many blocks as allowed", 0, &|bytes| {
            let last = [("cram".to_owned(), 4096)];
            bytes.start(&(0..255).map(|n| (name(n), 4096)).chain(last).collect::<Vec<_>>());
            bytes.close().go_on(3);
        }),
        ("many blocks", 0, &|bytes| {
            bytes.start(&(0..4000).map(|n| (name(n), 4096)).collect::<Vec<_>>());
        }),
        ("a long machine name", 0, &|bytes| {
            *bytes = Bytes(b"QEVM\0\0\0\x03\x07\xff\xff\xff\xff".to_vec());
            bytes.raw(&[b'a'; 1 << 20]);
        }),
        ("a long list of capabilities", 0, &|bytes| {
            bytes.raw(&[5]).name("configuration/capabilities").u32(1).u32(u32::MAX);
            for _ in 0..5000 {
                bytes.name(&"c".repeat(255));
            }
        }),
    ];
    for (name, (what, memory_bytes, claim)) in claims.into_iter().enumerate() {
        let mut bytes = Bytes::header("pc");
        claim(&mut bytes);
        let mut device = File::create(path("device")).unwrap();
        let (most, result) = most_allocated(|| {
            let mut template = SparseTemplate::create(&path(&format!("template{name}"))).unwrap();
            split(&bytes.0[..], "cram", &mut template, &mut device)
        });
        assert!(result.is_err(), "{what}");
        println!("{what}: {most} bytes");
        assert!(most <= bound(memory_bytes), "{what}: {most} bytes, {} allowed", bound(memory_bytes));
    }
}
