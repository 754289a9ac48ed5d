use proptest::prelude::*;

use super::*;

fn block(seed: u32) -> Block {
    let mut block = [0; BLOCK_BYTES];
    for (at, word) in block.as_chunks_mut::<4>().0.iter_mut().enumerate() {
        *word = (seed.wrapping_mul(0x9e37_79b1) ^ at as u32).to_le_bytes();
    }
    block
}

fn part(blocks: &[Block]) -> (Vec<u8>, Index) {
    let bytes = blocks.as_flattened().to_vec();
    let mut seen = 0;
    let index = Index::build(Digest::of(&bytes), &bytes[..], &mut |step| seen += step).unwrap();
    assert_eq!(seen, bytes.len() as u64);
    (bytes, index)
}

#[test]
fn every_block_is_found_where_it_lies_and_others_are_not() {
    let zero = [0; BLOCK_BYTES];
    let first: Vec<Block> = (0..300).map(|seed| if seed % 7 == 0 { zero } else { block(seed) }).collect();
    let second: Vec<Block> = (250..700).map(block).collect();
    let parts = [part(&first), part(&second)];
    let table = Table::new(&[&parts[0].1, &parts[1].1]).unwrap();
    for (number, blocks) in [(0, &first), (1, &second)] {
        for (at, content) in blocks.iter().enumerate().filter(|(_, content)| **content != zero) {
            let found: Vec<Place> = table.find_block(content).collect();
            assert!(found.contains(&Place { part: number, block: at as u32 }), "{number}, {at}: {found:?}");
            for place in &found {
                let bytes = &parts[usize::from(place.part)].0[place.block as usize * BLOCK_BYTES..];
                assert_eq!(&bytes[..BLOCK_BYTES], content);
            }
        }
    }
    assert_eq!(table.find_block(&block(250)).next().map(|place| place.part), Some(0), "the first part first");
    assert_eq!(table.find_block(&block(9999)).count(), 0);
    assert_eq!(table.find_block(&zero).count(), 0);
    assert_eq!(Table::default().find_block(&block(1)).count(), 0);
    assert_eq!(Table::new(&[]).unwrap().find_block(&block(1)).count(), 0);
}

#[test]
fn content_that_comes_often_is_kept_once_and_a_part_block_at_the_end_is_left_out() {
    let mut bytes = [block(1), block(1), block(2)].as_flattened().to_vec();
    bytes.extend([7; 100]);
    let index = Index::build(Digest::of(&bytes), &bytes[..], &mut |_| {}).unwrap();
    assert_eq!((index.len(), index.part_bytes()), (2, 3 * 4096 + 100));
}

#[test]
fn an_index_is_small_beside_its_part() {
    let blocks: Vec<Block> = (1..5000).map(block).collect();
    let (bytes, index) = part(&blocks);
    assert!(index.to_bytes().len() * 300 < bytes.len(), "{} of {}", index.to_bytes().len(), bytes.len());
    let table = Table::new(&[&index]).unwrap();
    assert!(table.memory_bytes() * 300 < bytes.len(), "{} of {}", table.memory_bytes(), bytes.len());
}

#[test]
fn the_stored_form_is_this() {
    let (_, index) = part(&[block(1)]);
    let bytes = index.to_bytes();
    assert_eq!(&hex::encode(&bytes[..16]), "636c74696e6465780100000000100000");
    assert_eq!(bytes.len(), 60 + 12 + 32);
    assert_eq!(bytes[48..60], [0, 16, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]);
    assert_eq!(bytes[60..68], hash(&block(1))[..8]);
    assert_eq!(Index::from_bytes(&bytes), Ok(index));
}

proptest! {
    #[test]
    fn a_cut_or_changed_index_is_refused(cut in 0_usize..500, at in 0_usize..500, bit in 0_u8..8) {
        let (_, index) = part(&[block(1), block(2), block(3)]);
        let bytes = index.to_bytes();
        if cut < bytes.len() {
            prop_assert!(Index::from_bytes(&bytes[..cut]).is_err());
        }
        let mut changed = bytes.clone();
        if at < bytes.len() {
            changed[at] ^= 1 << bit;
            prop_assert!(Index::from_bytes(&changed).is_err());
        }
        prop_assert_eq!(Index::from_bytes(&bytes), Ok(index));
    }

    #[test]
    fn rubbish_is_no_index(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(Index::from_bytes(&bytes).is_err());
    }
}
