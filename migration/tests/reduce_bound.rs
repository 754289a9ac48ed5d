//! What a source holds at most, measured with an allocator that counts, and that a link which takes nothing stops QEMU.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

mod reduce_support;
mod stream_support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::{self, Read};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::sync_channel;
use std::sync::{Mutex, PoisonError};

use migration::reduce::{Config, Error, Frame, Images, Source};
use reduce_support::{fast, noise};
use stream_support::Bytes;

struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);
/// Tests of this file measure one after the other.
static ALONE: Mutex<()> = Mutex::new(());

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

/// A live stream of any length that needs no memory itself: every page of the memory in each pass, all different.
struct Live<'a> {
    next: Vec<u8>,
    at: usize,
    pages: u32,
    passes: u32,
    page: u32,
    read: &'a AtomicU64,
}

impl<'a> Live<'a> {
    fn new(pages: u32, passes: u32, read: &'a AtomicU64) -> Self {
        let mut head = Bytes::header("pc-q35-10.0");
        head.start(&[("cram".to_owned(), u64::from(pages) * 4096)]).close().go_on(2);
        head.page(Some("cram"), 0, Some(&noise(1)));
        Self { next: head.0, at: 0, pages, passes, page: 1, read }
    }

    fn refill(&mut self) {
        let mut bytes = Bytes(Vec::new());
        if self.page < self.pages * self.passes {
            let offset = u64::from(self.page % self.pages) * 4096;
            // zstd does not pack noise, so a cheap one for each page is enough.
            let mut content = [0x5a; 4096];
            content[..4].copy_from_slice(&self.page.to_le_bytes());
            content[100..1124].copy_from_slice(&noise(self.page)[..1024]);
            bytes.page(None, offset, Some(&content));
        } else if self.page == self.pages * self.passes {
            bytes.close().go_on(3).close().device(3, "cpu", &[1; 100]).finish();
        }
        self.page += 1;
        (self.next, self.at) = (bytes.0, 0);
    }
}

impl Read for Live<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.at == self.next.len() {
            self.refill();
        }
        let count = (&self.next[self.at..]).read(into)?;
        self.at += count;
        self.read.fetch_add(count as u64, Relaxed);
        Ok(count)
    }
}

/// The documented bound for two workers.
fn bound(differing: usize) -> usize {
    const MIB: usize = 1 << 20;
    6 * 5 * MIB / 2 + 2 * 8 * MIB + 26 * MIB + 2 * MIB + differing * 90
}

#[test]
fn a_source_holds_no_more_than_it_says_however_much_goes_through() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let images = Images::open(&[]).unwrap();
    let read = AtomicU64::new(0);
    let pages = 30_000;
    let before = NOW.load(Relaxed);
    MOST.store(before, Relaxed);
    let mut source = Source::new(&images, &[], fast()).unwrap();
    let mut outlet = |_: Frame| Ok(());
    let report = source.memory(Live::new(pages, 4, &read), "cram", None, None, &mut outlet).unwrap();
    let most = MOST.load(Relaxed) - before;
    println!("{most} bytes at most, {} read, {report:?}", read.load(Relaxed));
    assert_eq!(report.seen, 4 * u64::from(pages));
    assert!(report.superseded > 1000, "{report:?}");
    // Sent pages are remembered, too: each has the 40 bytes of an entry.
    let sent = report.new as usize * 40;
    assert!(most < bound(pages as usize) + sent, "{most} bytes");
}

#[test]
fn a_link_that_takes_nothing_stops_the_reading() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let images = Images::open(&[]).unwrap();
    let read = AtomicU64::new(0);
    // A link that takes 5 frames, and then says so and waits until it is told to go on.
    let (stopped, is_stopped) = sync_channel(1);
    let (go_on, may_go_on) = sync_channel::<()>(1);
    std::thread::scope(|scope| {
        let (read, images) = (&read, &images);
        let worker = scope.spawn(move || {
            let mut frames = 0;
            let mut outlet = move |_: Frame| {
                frames += 1;
                if frames == 5 {
                    stopped.send(()).map_err(io::Error::other)?;
                    may_go_on.recv().map_err(io::Error::other)?;
                }
                Ok(())
            };
            let mut source = Source::new(images, &[], Config::default()).unwrap();
            source.memory(Live::new(12_000, 1, read), "cram", None, None, &mut outlet).unwrap()
        });
        is_stopped.recv().unwrap();
        // It reads on until everything is full, and then no more.
        let mut last = u64::MAX;
        while last != read.load(Relaxed) {
            last = read.load(Relaxed);
            std::thread::sleep(std::time::Duration::from_millis(200));
        }
        let groups = last / 4096 / 256;
        assert!(groups < 5 + 2 * 4 + 2 + 2, "{groups} groups were read while nothing was sent");
        go_on.send(()).unwrap();
        assert_eq!(worker.join().unwrap().new, 12_000);
    });
}

#[test]
fn a_link_that_breaks_ends_everything_and_says_why() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let images = Images::open(&[]).unwrap();
    for broken in [0, 1, 7] {
        let read = AtomicU64::new(0);
        let mut frames = 0;
        let mut outlet = |_: Frame| {
            frames += 1;
            if frames > broken { Err(io::Error::other("out of reach")) } else { Ok(()) }
        };
        let mut source = Source::new(&images, &[], fast()).unwrap();
        let error = source.memory(Live::new(40_000, 1, &read), "cram", None, None, &mut outlet).unwrap_err();
        let Error::Send { frame, source } = &error else { panic!("{error:?}") };
        assert_eq!((*frame, source.to_string().as_str()), (broken, "out of reach"));
        assert!(read.load(Relaxed) < 30 << 20, "it read on");
    }
}
