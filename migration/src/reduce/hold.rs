//! Holds pages back that change again and again.
//!
//! QEMU sends a page again whenever the guest has changed it since. What changes in every pass is sent in every pass
//! and is worthless each time but the last. So a page that comes again is kept here, the newer content in place of the
//! older, until it has not come for a whole pass or the end has come. When there is no more room, pages are sent as they
//! come: to let one go for another would save nothing, as a pass goes over all of them.
//!
//! A pass is noticed by QEMU's going back to the beginning of the memory. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::Kept;
use crate::stream::Page;

/// Most pages that are held: 16 MiB.
pub const MOST_PAGES: usize = 4096;
/// How often a page comes until it is held back. The first time is QEMU's first pass; who comes a second time was
/// changed within one pass, and will be again. A guess.
const HOT_AFTER: u8 = 2;
/// A page that was not changed for this many passes has cooled down. With one, what changes in every second pass would
/// be sent each time. A guess.
const COOL_PASSES: u64 = 2;

/// Pages that are held back.
#[derive(Debug, Default)]
pub struct Holdback {
    /// How often each page has come, up to 255.
    times: Vec<u8>,
    held: BTreeMap<u32, (u64, Kept)>,
    /// The held pages by the pass in which they last came.
    by_pass: BTreeSet<(u64, u32)>,
    pass: u64,
    last: Option<u32>,
    ended: bool,
    /// Pages that came while an older content of them was held: so often sending was saved.
    saved: u64,
}

/// What is to be sent now, in this order.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Release {
    /// Pages that were held.
    pub held: Vec<(u32, Kept)>,
    /// Whether the page that came is to be sent, too; else it is held.
    pub now: bool,
}

impl Holdback {
    /// For a memory of this many pages.
    pub fn new(pages: usize) -> Self {
        Self { times: vec![0; pages], ..Self::default() }
    }

    /// A page comes.
    pub fn page(&mut self, block: u32, page: &Page) -> Release {
        let mut release = Release::default();
        if self.last.is_some_and(|last| block <= last) {
            self.pass += 1;
            self.release_cool(&mut release);
        }
        self.last = Some(block);
        let times = self.times.get_mut(block as usize).map_or(0, |times| {
            *times = times.saturating_add(1);
            *times
        });
        let superseded = self.take(block);
        self.saved += u64::from(superseded.is_some());
        if self.ended || times < HOT_AFTER || self.held.len() >= MOST_PAGES {
            release.now = true;
            return release;
        }
        self.held.insert(block, (self.pass, Box::new(*page)));
        self.by_pass.insert((self.pass, block));
        release
    }

    /// The guest has been paused: every page that comes from now on is the last.
    pub fn end_begins(&mut self) {
        self.ended = true;
    }

    /// All pages have come; these are left, in order.
    pub fn finish(&mut self) -> Vec<(u32, Kept)> {
        self.by_pass.clear();
        std::mem::take(&mut self.held).into_iter().map(|(block, (_, page))| (block, page)).collect()
    }

    /// How many pages are held.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// How many pages did not have to be sent because a newer content came.
    pub fn saved(&self) -> u64 {
        self.saved
    }

    fn release_cool(&mut self, release: &mut Release) {
        while let Some((pass, block)) = self.by_pass.first().copied()
            && pass + COOL_PASSES < self.pass
        {
            release.held.extend(self.take(block).map(|page| (block, page)));
        }
    }

    fn take(&mut self, block: u32) -> Option<Kept> {
        let (pass, page) = self.held.remove(&block)?;
        self.by_pass.remove(&(pass, block));
        Some(page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(content: u8) -> Page {
        [content; 4096]
    }

    fn blocks(release: &[(u32, Kept)]) -> Vec<(u32, u8)> {
        release.iter().map(|(block, page)| (*block, page[0])).collect()
    }

    #[test]
    fn a_page_that_changes_in_every_pass_is_sent_twice_in_all() {
        let mut hold = Holdback::new(10);
        let mut sent = 0;
        for pass in 0..50 {
            for block in [3, 4] {
                let release = hold.page(block, &page(pass));
                assert_eq!(blocks(&release.held), []);
                sent += usize::from(release.now);
            }
        }
        assert_eq!((sent, hold.len(), hold.saved()), (2, 2, 96));
        hold.end_begins();
        assert!(hold.page(3, &page(99)).now, "the last content of all");
        assert_eq!(blocks(&hold.finish()), [(4, 49)]);
        assert!(hold.finish().is_empty());
    }

    #[test]
    fn a_page_that_has_cooled_down_is_sent_in_its_newest_content() {
        let mut hold = Holdback::new(10);
        assert!(hold.page(5, &page(1)).now);
        assert!(!hold.page(5, &page(2)).now);
        assert!(!hold.page(5, &page(3)).now);
        let mut released = Vec::new();
        for pass in 0..4 {
            released.extend(blocks(&hold.page(1, &page(pass)).held));
        }
        assert_eq!(released, [(5, 3)]);
    }

    #[test]
    fn what_has_no_room_is_sent_and_what_is_held_stays() {
        let pages = MOST_PAGES as u32 + 10;
        let mut hold = Holdback::new(pages as usize);
        let mut pass = |content| (0..pages).filter(|block| hold.page(*block, &page(content)).now).count();
        assert_eq!(pass(1), pages as usize);
        for content in 2..5 {
            assert_eq!(pass(content), 10);
        }
        assert_eq!((hold.len(), hold.saved()), (MOST_PAGES, 2 * MOST_PAGES as u64));
        assert!(hold.finish().iter().all(|(_, page)| page[0] == 4));
    }
}
