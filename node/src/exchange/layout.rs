//! The blocks of all parts of an image in one row, as the plan counts them.

use vm_images::Role;
use vm_images::blocks::Cut;

/// The blocks of all parts in one row.
#[derive(Debug, Clone, Default)]
pub(super) struct Layout {
    parts: Vec<(Role, Cut, u32)>,
}

impl Layout {
    /// Adds a part behind the others. `None` if there are more blocks than can be counted.
    pub(super) fn push(&mut self, role: Role, cut: Cut) -> Option<()> {
        let first = self.parts.last().map_or(Some(0), |(_, last, first)| first.checked_add(last.count()))?;
        first.checked_add(cut.count())?;
        self.parts.push((role, cut, first));
        Some(())
    }

    /// Length of every block, bytes.
    pub(super) fn lengths(&self) -> Vec<u32> {
        self.parts.iter().flat_map(|(_, cut, _)| (0..cut.count()).map(|block| cut.len(block))).collect()
    }

    /// Part, and block of the part. `None`: there is no such block.
    pub(super) fn place(&self, flat: u32) -> Option<(Role, u32, u32)> {
        let at = self.parts.partition_point(|(_, _, first)| *first <= flat).checked_sub(1)?;
        let (role, cut, first) = self.parts[at];
        let block = flat - first;
        (block < cut.count()).then_some((role, block, cut.len(block)))
    }

    /// The place in the row.
    pub(super) fn flat(&self, role: Role, block: u32) -> Option<u32> {
        let (_, cut, first) = self.parts.iter().find(|part| part.0 == role)?;
        (block < cut.count()).then_some(first + block)
    }

    /// Blocks in ascending order as runs within parts: part, first block, number of blocks.
    pub(super) fn runs(&self, flats: &[u32]) -> Vec<(Role, u32, u32)> {
        let mut runs: Vec<(Role, u32, u32)> = Vec::new();
        for (role, block, _) in flats.iter().filter_map(|flat| self.place(*flat)) {
            match runs.last_mut() {
                Some((last, first, count)) if *last == role && *first + *count == block => *count += 1,
                _ => runs.push((role, block, 1)),
            }
        }
        runs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_and_numbers_belong_together() {
        let mut layout = Layout::default();
        let cut = |bytes| Cut::of(bytes).unwrap();
        layout.push(Role::Disk, cut(65_536 * 3)).unwrap();
        layout.push(Role::Kernel, cut(10)).unwrap();
        layout.push(Role::MemoryTemplate, cut(65_537)).unwrap();
        assert_eq!(layout.lengths(), [65_536, 65_536, 65_536, 10, 65_536, 1]);
        for flat in 0..6 {
            let (role, block, length) = layout.place(flat).unwrap();
            assert_eq!(layout.flat(role, block), Some(flat));
            assert_eq!(length, layout.lengths()[flat as usize]);
        }
        assert_eq!(layout.place(6), None);
        assert_eq!(layout.flat(Role::Disk, 3), None);
        assert_eq!(layout.flat(Role::Initrd, 0), None);
        assert_eq!(
            layout.runs(&[0, 1, 3, 5]),
            [(Role::Disk, 0, 2), (Role::Kernel, 0, 1), (Role::MemoryTemplate, 1, 1)]
        );
    }
}
