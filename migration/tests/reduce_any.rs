//! Generated guests: whatever they write in whatever order, what the sink restores is what they have, also when the link
//! is cut and frames are damaged.

#![allow(clippy::unwrap_used, reason = "tests stop at the first thing that goes wrong")]

mod reduce_support;
mod stream_support;

use migration::reduce::{Arrived, Config, Error, Frame, Images, Sink, Source, Space};
use proptest::collection::vec;
use proptest::prelude::*;
use reduce_support::{Host, MEMORY_BLOCK, PAGES, content, fast, restored_memory};
use stream_support::Bytes;

/// What a guest has in a page: see [`content`].
type Kind = (u8, u8);

/// The passes of a live migration; the last one is written while the guest is paused.
#[derive(Debug, Clone)]
struct Guest {
    passes: Vec<Vec<(usize, Kind)>>,
}

fn guests() -> impl Strategy<Value = Guest> {
    let page = (0..PAGES, (0_u8..7, 0_u8..20));
    vec(vec(page, 0..40), 1..5).prop_map(|mut passes| {
        for pass in &mut passes {
            pass.sort_by_key(|(page, _)| *page);
            pass.dedup_by_key(|(page, _)| *page);
        }
        Guest { passes }
    })
}

impl Guest {
    /// QEMU's stream of it: the first pass brings every page.
    fn stream(&self, host: &Host) -> Vec<u8> {
        let mut bytes = Bytes::header("pc-q35-10.0");
        bytes.start(&[(MEMORY_BLOCK.to_owned(), PAGES as u64 * 4096), ("rom".to_owned(), 4096)]).close();
        bytes.go_on(2);
        for page in 0..PAGES {
            let template = host.template[page * 4096..][..4096].try_into().unwrap();
            bytes.page(Some(MEMORY_BLOCK), page as u64 * 4096, Some(template));
        }
        bytes.page(Some("rom"), 0, Some(&[3; 4096])).close();
        let last = self.passes.len() - 1;
        for (number, pass) in self.passes.iter().enumerate() {
            bytes.go_on(if number == last { 3 } else { 2 });
            for (page, kind) in pass {
                let content = content(host, *page, *kind);
                let is_zero = content == [0; 4096];
                bytes.page(Some(MEMORY_BLOCK), *page as u64 * 4096, (!is_zero).then_some(&content));
            }
            bytes.close();
        }
        bytes.device(3, "cpu", &[7; 500]).finish();
        bytes.0
    }

    /// Its memory in the end.
    fn memory(&self, host: &Host) -> Vec<u8> {
        let mut memory = host.template.clone();
        for (page, kind) in self.passes.iter().flatten() {
            memory[page * 4096..][..4096].copy_from_slice(&content(host, *page, *kind));
        }
        memory
    }

    fn frames(&self, host: &Host, images: &Images, have: &[migration::reduce::PageHash]) -> Vec<Frame> {
        let mut frames = Vec::new();
        let mut source = Source::new(images, have, fast()).unwrap();
        let mut outlet = |frame| {
            frames.push(frame);
            Ok(())
        };
        let (template, device) = (host.template_digest(), host.device_digest());
        source
            .memory(&self.stream(host)[..], MEMORY_BLOCK, Some(&template), Some(&device), &mut outlet)
            .unwrap();
        frames
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn what_is_restored_is_what_the_guest_has(guest in guests()) {
        let host = Host::new();
        let images = host.images(true);
        let frames = guest.frames(&host, &images, &[]);
        // The other side has the same images in another order.
        let theirs = host.images(false);
        let mut sink = Sink::new(&theirs, host.arrived("new")).unwrap();
        for frame in frames {
            sink.take(Frame::decode(&frame.encode()).unwrap()).unwrap();
        }
        let mut stream = Vec::new();
        sink.restore_memory(MEMORY_BLOCK, &mut stream).unwrap();
        prop_assert!(restored_memory(&host, &stream) == guest.memory(&host));
    }

    #[test]
    fn after_a_cut_nothing_that_arrived_is_sent_again(guest in guests(), cut in any::<prop::sample::Index>()) {
        let host = Host::new();
        let images = host.images(true);
        let frames = guest.frames(&host, &images, &[]);
        let mut sink = Sink::new(&images, host.arrived("cut")).unwrap();
        for frame in &frames[..cut.index(frames.len())] {
            sink.take(frame.clone()).unwrap();
        }
        let incomplete = sink.restore_memory(MEMORY_BLOCK, &mut Vec::new());
        let is_incomplete = matches!(incomplete, Err(Error::Incomplete { .. }));
        prop_assert!(is_incomplete);
        // Both sides start again.
        drop(sink);
        let arrived = host.arrived("cut");
        let have = arrived.hashes().to_vec();
        let mut sink = Sink::new(&images, arrived).unwrap();
        for frame in guest.frames(&host, &images, &have) {
            sink.take(frame).unwrap();
        }
        let hashes = sink.have().to_vec();
        let mut distinct = hashes.clone();
        distinct.sort_unstable();
        distinct.dedup();
        prop_assert_eq!(distinct.len(), hashes.len(), "a page was sent twice");
        let mut stream = Vec::new();
        sink.restore_memory(MEMORY_BLOCK, &mut stream).unwrap();
        prop_assert!(restored_memory(&host, &stream) == guest.memory(&host));
    }

    #[test]
    fn damaged_frames_never_panic_and_never_restore_something_else(
        guest in guests(),
        which in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        bit in 0_u8..8,
    ) {
        let host = Host::new();
        let images = host.images(true);
        let frames = guest.frames(&host, &images, &[]);
        let which = which.index(frames.len());
        let mut sink = Sink::new(&images, host.arrived("damaged")).unwrap();
        for (number, frame) in frames.iter().enumerate() {
            let mut bytes = frame.encode();
            if number == which {
                let at = at.index(bytes.len());
                bytes[at] ^= 1 << bit;
            }
            let Ok(frame) = Frame::decode(&bytes) else { return Ok(()) };
            if sink.take(frame).is_err() {
                return Ok(());
            }
        }
        let mut stream = Vec::new();
        if sink.restore_memory(MEMORY_BLOCK, &mut stream).is_ok() {
            prop_assert!(restored_memory(&host, &stream) == guest.memory(&host));
        }
    }
}

#[test]
fn what_both_sides_have_is_not_sent() {
    let host = Host::new();
    let images = host.images(true);
    let zero = (0, 0);
    let of_the_disk: Vec<_> = (0..10).map(|page| (page, (1, page as u8))).collect();
    let near_the_template: Vec<_> = (20..28).map(|page| (page, (3, page as u8))).collect();
    let guest = Guest {
        passes: vec![
            [of_the_disk, vec![(12, zero), (13, zero)], near_the_template, vec![(40, (4, 9)), (41, (4, 9))]]
                .concat(),
        ],
    };
    let mut source = Source::new(&images, &[], Config::default()).unwrap();
    let template = host.template_digest();
    let mut wire = Vec::new();
    let stream = guest.stream(&host);
    let mut outlet = reduce_support::encoded(&mut wire);
    let report = source.memory(&stream[..], MEMORY_BLOCK, Some(&template), None, &mut outlet).unwrap();
    drop(outlet);
    assert_eq!((report.known, report.zero, report.arrived, report.base), (10, 2, 1, 0), "{report:?}");
    // Two of the eight are zero in the template, so there is nothing to differ from.
    assert_eq!((report.new, report.differences), (9, 6), "{report:?}");
    assert_eq!(report.differing, 22);
    assert!(wire.len() < 5000, "{} bytes for {} of noise", wire.len(), 4096);
    assert_eq!(report.wire_bytes, wire.len() as u64);
}

#[test]
fn of_what_was_sent_before_the_change_is_sent() {
    let host = Host::new();
    let images = host.images(true);
    // Its own noise, but for a few bytes that are others each time.
    let changed = |seed| (8..40).map(|page| (page, (5, seed))).collect();
    // Passes in which they do not change again, so that they are sent while the guest runs.
    let others = (0..4).map(|seed| vec![(0, (4, seed))]);
    let running = Guest { passes: std::iter::once(changed(1)).chain(others).collect() };
    let paused = Guest { passes: vec![changed(2)] };
    let mut frames = Vec::new();
    let mut outlet = |frame| {
        frames.push(frame);
        Ok(())
    };
    let mut source = Source::new(&images, &[], fast()).unwrap();
    let (template, mut go_on) = (host.template_digest(), |_| true);
    let stream = running.stream(&host);
    let live =
        source.memory_live(&stream[..], MEMORY_BLOCK, Some(&template), &mut go_on, &mut outlet).unwrap();
    let stream = paused.stream(&host);
    let rest = source.memory(&stream[..], MEMORY_BLOCK, Some(&template), None, &mut outlet).unwrap();
    assert_eq!((live.new, live.again), (32, 0), "{live:?}");
    assert_eq!((rest.new, rest.differences, rest.again), (32, 32, 32), "{rest:?}");
    assert!(rest.wire_bytes < 4096, "{} bytes after {} of noise", rest.wire_bytes, live.wire_bytes);

    let mut sink = Sink::new(&images, host.arrived("again")).unwrap();
    frames.into_iter().for_each(|frame| sink.take(frame).unwrap());
    let mut stream = Vec::new();
    sink.restore_memory(MEMORY_BLOCK, &mut stream).unwrap();
    assert!(restored_memory(&host, &stream) == paused.memory(&host));
}

#[test]
fn a_sink_without_an_image_or_with_another_one_says_so() {
    let host = Host::new();
    let images = host.images(true);
    let guest = Guest { passes: vec![vec![(1, (1, 1)), (2, (4, 2))]] };
    let frames = guest.frames(&host, &images, &[]);

    let none = Images::open(&[]).unwrap();
    let mut sink = Sink::new(&none, host.arrived("none")).unwrap();
    assert!(matches!(sink.take(frames[0].clone()), Err(Error::NoSuchPart { .. })));

    // Bits have rotted in the disk since it was verified: what is restored is noticed to be wrong.
    let mut sink = Sink::new(&images, host.arrived("rotten")).unwrap();
    frames.iter().for_each(|frame| sink.take(frame.clone()).unwrap());
    host.rot();
    let error = sink.restore_memory(MEMORY_BLOCK, &mut Vec::new()).unwrap_err();
    assert!(matches!(error, Error::NotTheSame { space: Space::Memory, ours: 2, theirs: 2 }), "{error:?}");
}

#[test]
fn references_out_of_range_and_wrong_counts_are_refused() {
    let host = Host::new();
    let images = host.images(true);
    let guest = Guest { passes: vec![vec![(1, (1, 1)), (2, (4, 2)), (9, (4, 2))]] };
    let frames = guest.frames(&host, &images, &[]);
    let Frame::Begin { blocks, base, parts, space, .. } = frames[0].clone() else {
        panic!("{:?}", frames[0])
    };

    let mut sink = Sink::new(&images, host.arrived("wrong")).unwrap();
    let early = sink.take(frames[1].clone()).unwrap_err();
    assert!(matches!(early, Error::Incomplete { .. }), "{early:?}");
    let counted = Frame::Begin { space, blocks, base, have: 3, parts: parts.clone() };
    assert!(matches!(sink.take(counted), Err(Error::OtherCount { theirs: 3, ours: 0 })));
    let longer = Frame::Begin { space, blocks: blocks + 1, base, have: 0, parts: parts.clone() };
    assert!(matches!(sink.take(longer), Err(Error::OtherBase { .. })));
    sink.take(Frame::Begin { space, blocks, base, have: 0, parts }).unwrap();

    let group = |directory: &[u8]| Frame::Group {
        space,
        first: 0,
        unpacked_bytes: directory.len() as u32,
        packed: zstd::bulk::compress(directory, 3).unwrap(),
    };
    // runs, kinds, lengths, gaps, references: see `reduce::directory`.
    let with_page = |directory: &[u8]| [directory, &[0; 4096]].concat();
    let cases: [(&str, &[u8]); 7] = [
        ("a page that never came", &[1, 4, 0, 0, 0]),
        ("a version that never came", &with_page(&[1, 5, 0, 0, 0])),
        ("a block behind the end of a part", &[1, 6, 0, 0, 0xfe, 0xff, 0x7f]),
        ("a part that is not listed", &[1, 200, 0, 0, 0]),
        ("a page that the group does not have", &[1, 2, 0, 0]),
        ("a block behind the end of the memory", &[1, 0, 0, 0x80, 0x80, 0x02]),
        ("bytes that nobody asked for", &[0, 1, 2, 3]),
    ];
    for (what, directory) in cases {
        assert!(sink.take(group(directory)).is_err(), "{what}");
    }
    assert!(sink.have().is_empty(), "nothing of it was kept");
    let few = Arrived::open(&host.path("few"), 0).unwrap();
    let mut full = Sink::new(&images, few).unwrap();
    let refused = frames.into_iter().try_for_each(|frame| full.take(frame)).unwrap_err();
    assert!(matches!(refused, Error::TooLarge { .. }), "{refused:?}");
}
