//! Decides what has to be said of a block. Pure but for reading base and images.

use std::collections::BTreeMap;

use vm_images::index::{Place, hash};

use super::differences::short;
use super::versions::{Under, Versions};
use super::{Base, Differences, Error, Images, Kept, PageHash, Space, new_page};
use crate::stream::{Page, is_zero};

/// Most pages that were sent and can be referred to: 1 Mi pages, with 24 bytes and some for each. What is sent after
/// that is sent again when it comes again. A guess.
const MOST_REMEMBERED: usize = 1 << 20;

/// What has to be said of a block.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The other side has it like that already.
    Same,
    /// It is all zero.
    Zero,
    /// It is again what it is in the base.
    Base,
    /// It lies in an image.
    Known(Place),
    /// It was sent before, under this number.
    Arrived(u32),
    /// It has to be sent. This is what it may be XORed with.
    New(Under),
}

/// The pages that were sent, by content.
#[derive(Debug, Default)]
pub(super) struct Sent {
    numbers: BTreeMap<PageHash, u32>,
    next: u32,
    versions: Versions,
}

impl Sent {
    /// The other side has these, in this order.
    pub fn new(have: &[PageHash]) -> Self {
        let mut sent = Self::default();
        for hash in have {
            sent.add(*hash);
        }
        sent
    }

    /// Number of the next page that is sent.
    pub fn next(&self) -> u32 {
        self.next
    }

    fn add(&mut self, hash: PageHash) -> u32 {
        let number = self.next;
        self.next += 1;
        if self.numbers.len() < MOST_REMEMBERED {
            self.numbers.entry(hash).or_insert(number);
        }
        number
    }
}

/// Decides for the blocks of one memory or disk.
pub(super) struct Classifier<'a> {
    space: Space,
    images: &'a Images,
    base: Box<dyn Base>,
    differences: Differences,
    base_page: Kept,
    scratch: Kept,
}

impl<'a> Classifier<'a> {
    pub fn new(space: Space, images: &'a Images, base: Box<dyn Base>) -> Self {
        let differences = Differences::default();
        Self { space, images, base, differences, base_page: new_page(), scratch: new_page() }
    }

    /// The images that blocks are looked up in.
    pub fn images(&self) -> &'a Images {
        self.images
    }

    /// The blocks that differ, by what was said so far.
    pub fn differences(&self) -> &Differences {
        &self.differences
    }

    /// What a block that has this content now needs, in a group whose first page has the number `first`. After `New` the
    /// page is taken as sent with the next number.
    pub fn decide(&mut self, block: u32, page: &Page, sent: &mut Sent, first: u32) -> Result<Verdict, Error> {
        self.base.read(block, &mut self.base_page)?;
        if *self.base_page == *page {
            return Ok(if self.differences.clear(block) { Verdict::Base } else { Verdict::Same });
        }
        let full = hash(page);
        let short = short(&full);
        if self.differences.set(block, short) == Some(short) {
            return Ok(Verdict::Same);
        }
        if is_zero(page) {
            return Ok(Verdict::Zero);
        }
        if let Some(place) = self.images.find(&full, page, &mut self.scratch)? {
            return Ok(Verdict::Known(place));
        }
        if let Some(number) = sent.numbers.get(&short) {
            return Ok(Verdict::Arrived(*number));
        }
        let under = sent.versions.under(self.space, block, page, &self.base_page, first);
        let number = sent.add(short);
        sent.versions.keep(self.space, block, number, page);
        Ok(Verdict::New(under))
    }
}
