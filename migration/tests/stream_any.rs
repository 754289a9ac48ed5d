//! Generated streams: splitting and joining are inverse to each other, and no bytes make either panic.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test panics where it fails")]

mod stream_support;

use std::collections::BTreeMap;

use migration::stream::{MemoryTemplate, Reader, Writer, join, split};
use proptest::collection::vec;
use proptest::prelude::*;
use stream_support::{Bytes, PAGE, page};

/// A page of a generated stream: index of the block, index of the page modulo the block's length, and its fill;
/// `None` is said to be zero, fill 0 is zero and sent in full.
type Sent = (usize, usize, Option<u8>);

/// What a generated stream is made from. Block 0 is the memory.
#[derive(Debug, Clone)]
struct Plan {
    machine: String,
    block_pages: Vec<usize>,
    parts: Vec<Vec<Sent>>,
    /// Whether a page of the same block as the one before says so.
    short_names: bool,
    device: Vec<Vec<u8>>,
}

fn plans() -> impl Strategy<Value = Plan> {
    let sent = (0..4_usize, 0..64_usize, proptest::option::weighted(0.7, 0..5_u8));
    let parts = vec(vec(sent, 0..20), 1..4);
    let device = vec(vec(any::<u8>(), 0..300), 0..4);
    let machine = "[a-z][a-z0-9.-]{0,20}";
    (machine, vec(1..64_usize, 1..4), parts, any::<bool>(), device).prop_map(
        |(machine, block_pages, parts, short_names, device)| Plan {
            machine,
            block_pages,
            parts,
            short_names,
            device,
        },
    )
}

impl Plan {
    fn block_name(&self, block: usize) -> String {
        if block == 0 { "cram".to_owned() } else { format!("rom{block}") }
    }

    /// Block and page index within the blocks that there are.
    fn place(&self, sent: Sent) -> (usize, usize) {
        let block = sent.0 % self.block_pages.len();
        (block, sent.1 % self.block_pages[block])
    }

    /// The stream with those pages that `keeps` says.
    fn encode(&self, short_names: bool, keeps: impl Fn(usize) -> bool) -> Vec<u8> {
        let mut bytes = Bytes::header(&self.machine);
        let blocks: Vec<_> = (self.block_pages.iter().enumerate())
            .map(|(block, pages)| (self.block_name(block), (pages * PAGE) as u64))
            .collect();
        bytes.start(&blocks).close();
        for (number, part) in self.parts.iter().enumerate() {
            bytes.go_on(if number + 1 == self.parts.len() { 3 } else { 2 });
            let mut last = None;
            for &sent in part {
                let (block, index) = self.place(sent);
                if !keeps(block) {
                    continue;
                }
                let name = (!short_names || last != Some(block)).then(|| self.block_name(block));
                bytes.page(name.as_deref(), (index * PAGE) as u64, sent.2.map(page).as_ref());
                last = Some(block);
            }
            bytes.close();
        }
        for (payload, id) in self.device.iter().zip(10..) {
            bytes.device(id, "device", payload);
        }
        bytes.finish();
        bytes.0
    }

    /// The non-zero pages of the memory after the whole stream.
    fn memory(&self) -> BTreeMap<usize, u8> {
        let mut memory = BTreeMap::new();
        for &sent in self.parts.iter().flatten() {
            match (self.place(sent), sent.2) {
                ((0, index), Some(fill)) if fill != 0 => drop(memory.insert(index, fill)),
                ((0, index), _) => drop(memory.remove(&index)),
                _ => {}
            }
        }
        memory
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn splitting_finds_the_memory_and_joining_is_its_inverse(plan in plans()) {
        let stream = plan.encode(plan.short_names, |_| true);
        let (mut template, mut device) = (MemoryTemplate::default(), Vec::new());
        let report = split(&stream[..], "cram", &mut template, &mut device).unwrap();
        prop_assert_eq!(&device, &plan.encode(true, |block| block != 0));
        let memory = plan.memory();
        prop_assert_eq!(report.used_pages, memory.len() as u64);
        for index in 0..plan.block_pages[0] {
            let wanted = page(memory.get(&index).copied().unwrap_or(0));
            prop_assert!(template.page((index * PAGE) as u64) == &wanted, "page {}", index);
        }
        let sent = plan.parts.iter().flatten().filter(|&&sent| plan.place(sent).0 == 0);
        prop_assert_eq!(report.sent_pages, sent.clone().count() as u64);
        prop_assert_eq!(report.zero_pages, sent.filter(|sent| sent.2.unwrap_or(0) == 0).count() as u64);

        let mut joined = Vec::new();
        join(&device[..], "cram", &template, &mut joined).unwrap();
        let (mut template_again, mut device_again) = (MemoryTemplate::default(), Vec::new());
        let again = split(&joined[..], "cram", &mut template_again, &mut device_again).unwrap();
        prop_assert_eq!(&device_again, &device);
        prop_assert_eq!(&template_again, &template);
        prop_assert_eq!(again.used_pages, report.used_pages);
        prop_assert_eq!(again.machine, plan.machine);
    }

    #[test]
    fn a_cut_stream_is_an_error_at_its_end(plan in plans(), cut in any::<prop::sample::Index>()) {
        let stream = plan.encode(plan.short_names, |_| true);
        let cut = cut.index(stream.len());
        let error = split(&stream[..cut], "cram", &mut MemoryTemplate::default(), &mut Vec::new()).unwrap_err();
        prop_assert_eq!(error.offset(), cut as u64, "{}", error);
        let error = join(&stream[..cut], "cram", &MemoryTemplate::default(), &mut Vec::new()).unwrap_err();
        prop_assert!(error.offset() <= cut as u64);
    }

    #[test]
    fn flipped_bytes_never_panic_and_what_is_read_is_written_again(
        plan in plans(),
        flips in vec((any::<prop::sample::Index>(), 1..=255_u8), 1..6),
    ) {
        let mut stream = plan.encode(plan.short_names, |_| true);
        for (at, mask) in flips {
            let at = at.index(stream.len());
            stream[at] ^= mask;
        }
        let (mut template, mut device) = (MemoryTemplate::default(), Vec::new());
        match split(&stream[..], "cram", &mut template, &mut device) {
            Err(error) => prop_assert!(error.offset() <= stream.len() as u64, "{}", error),
            Ok(_) => {
                // Still a stream, so all of it is there: split again and nothing is lost or found.
                let mut joined = Vec::new();
                join(&device[..], "cram", &template, &mut joined).unwrap();
                let (mut template_again, mut device_again) = (MemoryTemplate::default(), Vec::new());
                split(&joined[..], "cram", &mut template_again, &mut device_again).unwrap();
                prop_assert_eq!((&template_again, &device_again), (&template, &device));
            }
        }
        let _ = join(&stream[..], "cram", &template, &mut Vec::new());
    }

    #[test]
    fn rubbish_after_a_header_never_panics(rubbish in vec(any::<u8>(), 0..2000)) {
        for start in [Bytes::header("pc"), Bytes(Vec::new()), stream_support::sample()] {
            let mut bytes = start;
            bytes.raw(&rubbish);
            let _ = split(&bytes.0[..], "cram", &mut MemoryTemplate::default(), &mut Vec::new());
        }
    }

    #[test]
    fn events_written_again_are_the_same_bytes(plan in plans()) {
        let stream = plan.encode(true, |_| true);
        let (mut reader, mut copy) = (Reader::new(&stream[..]), Vec::new());
        let mut writer = Writer::new(&mut copy);
        while let Some(event) = reader.read().unwrap() {
            writer.write(&event).unwrap();
        }
        prop_assert_eq!(writer.finish().unwrap(), stream.len() as u64);
        prop_assert_eq!(copy, stream);
    }
}
