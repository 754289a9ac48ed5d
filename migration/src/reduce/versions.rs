//! What was sent last of each block, so that of one that changes again only the change has to be sent. Pure.
//!
//! A guest that works writes the same pages again and again, a few bytes of each. What is sent of them while it still runs is
//! nearer to what they are in the end than the image is.

use std::collections::BTreeMap;

use super::{Kept, Space};
use crate::stream::Page;

/// Most blocks of which the last version is kept: 8 MiB. A guess: under recognition 600 to 1,500 of 3,000 to 9,000 pages were
/// sent as a difference from one. Once so many are kept, others are not: they come in passes, and to let one go for
/// another would have each gone when it comes again.
pub(super) const MOST_KEPT: usize = 2048;

/// What a page is sent as a difference from.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Under {
    /// What the base has there.
    Base(Kept),
    /// What was sent before under this number.
    Sent(u32, Kept),
}

impl Under {
    pub fn page(&self) -> &Page {
        match self {
            Self::Base(page) | Self::Sent(_, page) => page,
        }
    }
}

/// The last versions of blocks that were sent, with their numbers.
#[derive(Debug, Default)]
pub(super) struct Versions(BTreeMap<(Space, u32), (u32, Kept)>);

impl Versions {
    /// Of what the page is to be a difference: of the base, or of what was sent last of this block, if that is nearer and
    /// its number is below `first`, so that the other side has it when the group comes.
    pub fn under(&self, space: Space, block: u32, page: &Page, base: &Page, first: u32) -> Under {
        match self.0.get(&(space, block)) {
            Some((number, sent)) if *number < first && distance(page, sent) < distance(page, base) => {
                Under::Sent(*number, sent.clone())
            }
            _ => Under::Base(Box::new(*base)),
        }
    }

    /// The page is sent under this number.
    pub fn keep(&mut self, space: Space, block: u32, number: u32, page: &Page) {
        let is_full = self.0.len() >= MOST_KEPT;
        if let Some((kept_number, kept)) = self.0.get_mut(&(space, block)) {
            (*kept_number, **kept) = (number, *page);
        } else if !is_full {
            self.0.insert((space, block), (number, Box::new(*page)));
        }
    }
}

/// In how many words of 8 bytes they differ.
fn distance(one: &Page, other: &Page) -> usize {
    let (one, other) = (one.as_chunks::<8>().0, other.as_chunks::<8>().0);
    one.iter().zip(other).filter(|(one, other)| one != other).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(words: usize) -> Page {
        let mut page = [0; 4096];
        page[..words * 8].fill(1);
        page
    }

    #[test]
    fn the_nearer_of_base_and_last_version_is_under_a_page() {
        let mut versions = Versions::default();
        let (base, space) = (page(0), Space::Memory);
        let under = |versions: &Versions, block, words, first| match versions.under(
            space,
            block,
            &page(words),
            &base,
            first,
        ) {
            Under::Base(found) => {
                assert_eq!(*found, base);
                None
            }
            Under::Sent(number, _) => Some(number),
        };
        versions.keep(space, 7, 3, &page(100));
        assert_eq!(under(&versions, 7, 90, 4), Some(3));
        assert_eq!(under(&versions, 7, 40, 4), None, "the base is nearer");
        assert_eq!(under(&versions, 7, 50, 4), None, "as near");
        assert_eq!(under(&versions, 7, 90, 3), None, "it is in the same group");
        assert_eq!(under(&versions, 8, 90, 4), None);
        versions.keep(space, 7, 9, &page(40));
        assert_eq!(under(&versions, 7, 40, 10), Some(9), "the newest");
        assert!(matches!(versions.under(Space::Disk, 7, &page(40), &base, 10), Under::Base(_)));
    }

    #[test]
    fn no_more_are_kept_than_it_says() {
        let mut versions = Versions::default();
        for block in 0..MOST_KEPT as u32 + 10 {
            versions.keep(Space::Memory, block, block, &page(1));
        }
        assert_eq!(versions.0.len(), MOST_KEPT);
        versions.keep(Space::Memory, 5, 9999, &page(2));
        assert_eq!(versions.0[&(Space::Memory, 5)].0, 9999);
    }
}
