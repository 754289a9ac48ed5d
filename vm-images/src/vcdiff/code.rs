//! The default code table of RFC 3284, section 5.6: what each of the 256 codes stands for.

use super::cache::MODES;

/// Half of what a code stands for. A size of 0 follows the code as an integer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Half {
    Nothing,
    Add(u8),
    Run,
    Copy { size: u8, mode: u8 },
}

/// Shortest copy that has a code of its own.
const LEAST_COPY: u8 = 4;
/// Longest add and longest copy that have codes of their own.
const MOST_ADD: u8 = 17;
const MOST_COPY: u8 = 18;
/// Code of the first copy: of mode 0, its size follows.
const FIRST_COPY: u8 = 19;
/// Codes of copies of each mode: one whose size follows, and sizes 4 to 18.
const COPIES: u8 = MOST_COPY - LEAST_COPY + 2;

/// The table. Built rather than written down: the RFC gives it as these loops.
pub(super) fn table() -> [[Half; 2]; 256] {
    let mut codes = Vec::with_capacity(256);
    codes.push([Half::Run, Half::Nothing]);
    codes.extend((0..=MOST_ADD).map(|size| [Half::Add(size), Half::Nothing]));
    for mode in 0..MODES {
        let sizes = std::iter::once(0).chain(LEAST_COPY..=MOST_COPY);
        codes.extend(sizes.map(|size| [Half::Copy { size, mode }, Half::Nothing]));
    }
    for mode in 0..MODES {
        // The modes of the cache's last part have a code for the shortest copy only.
        let longest = if mode < 6 { 6 } else { 4 };
        for add in 1..=4 {
            codes.extend((LEAST_COPY..=longest).map(|size| [Half::Add(add), Half::Copy { size, mode }]));
        }
    }
    codes.extend((0..MODES).map(|mode| [Half::Copy { size: 4, mode }, Half::Add(1)]));
    let mut table = [[Half::Nothing; 2]; 256];
    for (place, code) in table.iter_mut().zip(codes) {
        *place = code;
    }
    table
}

/// Code of a run; its size follows.
pub(super) const RUN: u8 = 0;

/// Code of an add, and whether its size follows.
pub(super) fn add(size: usize) -> (u8, bool) {
    match u8::try_from(size) {
        Ok(size) if size > 0 && size <= MOST_ADD => (1 + size, false),
        _ => (1, true),
    }
}

/// Code of a copy, and whether its size follows.
pub(super) fn copy(size: usize, mode: u8) -> (u8, bool) {
    let first = FIRST_COPY + mode * COPIES;
    match u8::try_from(size) {
        Ok(size) if (LEAST_COPY..=MOST_COPY).contains(&size) => (first + 1 + size - LEAST_COPY, false),
        _ => (first, true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_that_of_the_rfc() {
        let table = table();
        // Lines of the table in section 5.6, at their first and last codes.
        for (code, halves) in [
            (0, [Half::Run, Half::Nothing]),
            (1, [Half::Add(0), Half::Nothing]),
            (18, [Half::Add(17), Half::Nothing]),
            (19, [Half::Copy { size: 0, mode: 0 }, Half::Nothing]),
            (34, [Half::Copy { size: 18, mode: 0 }, Half::Nothing]),
            (147, [Half::Copy { size: 0, mode: 8 }, Half::Nothing]),
            (162, [Half::Copy { size: 18, mode: 8 }, Half::Nothing]),
            (163, [Half::Add(1), Half::Copy { size: 4, mode: 0 }]),
            (174, [Half::Add(4), Half::Copy { size: 6, mode: 0 }]),
            (234, [Half::Add(4), Half::Copy { size: 6, mode: 5 }]),
            (235, [Half::Add(1), Half::Copy { size: 4, mode: 6 }]),
            (246, [Half::Add(4), Half::Copy { size: 4, mode: 8 }]),
            (247, [Half::Copy { size: 4, mode: 0 }, Half::Add(1)]),
            (255, [Half::Copy { size: 4, mode: 8 }, Half::Add(1)]),
        ] {
            assert_eq!(table[code], halves, "{code}");
        }
    }

    #[test]
    fn codes_stand_for_what_they_were_chosen_for() {
        let table = table();
        for size in 1..40_u8 {
            let (code, follows) = add(size.into());
            assert_eq!(table[usize::from(code)][0], Half::Add(if follows { 0 } else { size }));
            for mode in 0..MODES {
                let (code, follows) = copy(size.into(), mode);
                assert_eq!(
                    table[usize::from(code)][0],
                    Half::Copy { size: if follows { 0 } else { size }, mode }
                );
            }
        }
    }
}
