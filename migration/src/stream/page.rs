//! A page of guest memory.

/// Bytes of a guest page; fixed for x86 guests.
pub const PAGE_BYTES: u64 = 4096;

/// A page of guest memory.
pub type Page = [u8; PAGE_BYTES as usize];

/// The page of which most of a guest's memory consists.
pub(super) const ZERO_PAGE: Page = [0; PAGE_BYTES as usize];

/// Whether every byte of `page` is zero. Most other pages are told apart by their first 256 bytes.
pub fn is_zero(page: &Page) -> bool {
    let (words, _) = page.as_chunks::<16>();
    words.chunks(16).all(|words| words.iter().fold(0, |all, word| all | u128::from_ne_bytes(*word)) == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_set_bit_anywhere_makes_a_page_non_zero() {
        assert!(is_zero(&ZERO_PAGE));
        for at in 0..ZERO_PAGE.len() {
            let mut page = ZERO_PAGE;
            page[at] = 1 << (at % 8);
            assert!(!is_zero(&page), "byte {at}");
        }
    }
}
