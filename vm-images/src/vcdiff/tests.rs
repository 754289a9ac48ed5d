use std::process::Command;

use proptest::prelude::*;
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;

use super::*;

const PAGE: usize = 4096;

/// A memory of so many pages: code, zeros and small numbers.
fn memory(random: &mut ChaCha8Rng, pages: usize) -> Vec<u8> {
    let mut all = Vec::new();
    for _ in 0..pages {
        match random.random_range(0..3_u8) {
            0 => all.extend([0; PAGE]),
            1 => all.extend((0..PAGE).map(|_| random.random::<u8>())),
            _ => all.extend((0..PAGE).map(|at| if at % 8 == 0 { random.random::<u8>() } else { 0 })),
        }
    }
    all
}

/// What became of it: fields written, pages moved, pages new, and an end that is no whole page.
fn later(random: &mut ChaCha8Rng, memory: &[u8]) -> Vec<u8> {
    let mut later = memory.to_vec();
    for _ in 0..memory.len() / PAGE / 4 {
        let page = random.random_range(0..memory.len() / PAGE) * PAGE;
        let within = random.random_range(0..PAGE - 64);
        match random.random_range(0..4_u8) {
            0 => later[page + within..][..40].fill(random.random()),
            1 => random.fill(&mut later[page..page + PAGE]),
            2 => {
                let from = random.random_range(0..memory.len() - PAGE);
                later[page..page + PAGE].copy_from_slice(&memory[from..from + PAGE]);
            }
            _ => later[page..page + within].fill(0),
        }
    }
    later.extend_from_slice(&memory[..random.random_range(0..PAGE.min(memory.len()))]);
    later
}

fn coded(source: &[u8], target: &[u8]) -> Vec<u8> {
    Encoder::new(source).unwrap().encode_bytes(target).unwrap()
}

fn decoded(source: &[u8], delta: &[u8]) -> Result<Vec<u8>, Error> {
    let mut target = Vec::new();
    decode(source, delta, &mut target, Limits::default()).map(|_| target)
}

fn pair(seed: u64, pages: usize) -> (Vec<u8>, Vec<u8>) {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let source = memory(&mut random, pages);
    let target = later(&mut random, &source);
    (source, target)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn memories_come_out_as_they_were(seed: u64, pages in 1_usize..300) {
        let (source, target) = pair(seed, pages);
        let delta = coded(&source, &target);
        prop_assert!(decoded(&source, &delta).unwrap() == target);
        // The other way, and with nothing in common.
        prop_assert!(decoded(&target, &coded(&target, &source)).unwrap() == source);
        prop_assert!(decoded(&[], &coded(&[], &target)).unwrap() == target);
        prop_assert!(decoded(&source, &coded(&source, &[])).unwrap().is_empty());
    }

    #[test]
    fn small_files_of_few_letters_come_out_as_they_were(
        source in proptest::collection::vec(0_u8..3, 0..600),
        target in proptest::collection::vec(0_u8..3, 0..600),
        steps in 1_usize..50,
    ) {
        let delta = coded(&source, &target);
        let mut decoder = Decoder::new(&source[..], Vec::new(), Limits::default()).unwrap();
        for step in delta.chunks(steps) {
            decoder.push(step).unwrap();
        }
        prop_assert_eq!(decoder.finish().unwrap().0, target);
    }

    #[test]
    fn any_bytes_are_refused_or_decoded(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut delta = vec![0xd6, 0xc3, 0xc4, 0, 0];
        delta.extend(bytes);
        let _ = decoded(&[7; 1000], &delta);
    }
}

/// Flips, cuts, doubles and inserts bytes.
fn damage(random: &mut ChaCha8Rng, delta: &[u8]) -> Vec<u8> {
    let mut delta = delta.to_vec();
    for _ in 0..random.random_range(1..4_u8) {
        // Half of the time near the beginning, where the lengths are.
        let end = if random.random() { delta.len() } else { delta.len().min(40) };
        let at = random.random_range(0..end.max(1));
        match random.random_range(0..4_u8) {
            0 if at < delta.len() => delta[at] ^= 1 << random.random_range(0..8_u8),
            1 => delta.truncate(at),
            2 if at < delta.len() => delta[at] = random.random(),
            _ => delta.insert(at.min(delta.len()), random.random()),
        }
    }
    delta
}

#[test]
fn damaged_deltas_give_errors_or_at_most_what_is_allowed() {
    let limits = Limits { window_bytes: 1 << 20, target_bytes: 2 << 20 };
    let (mut wrong, mut refused) = (0, 0);
    for seed in 0..20 {
        let (source, target) = pair(seed, 60);
        let delta = coded(&source, &target);
        let mut random = ChaCha8Rng::seed_from_u64(seed + 1000);
        for round in 0..300 {
            let damaged = damage(&mut random, &delta);
            let mut out = Vec::new();
            match decode(&source[..], &damaged[..], &mut out, limits) {
                Err(_) => refused += 1,
                Ok(_) => wrong += usize::from(out != target && !target.starts_with(&out)),
            }
            assert!(out.len() as u64 <= limits.target_bytes, "seed {seed}, round {round}");
        }
    }
    // What the checksum of a window guards is never wrong; damaged bits of its indicator switch it off.
    assert!(refused > 5000 && wrong < 60, "{refused} refused, {wrong} wrong");
}

#[test]
fn each_refusal_says_what_is_wrong() {
    let source = [1; 100];
    let of = |bytes: &[u8]| {
        decoded(&source, &[&[0xd6, 0xc3, 0xc4, 0][..], bytes].concat()).unwrap_err().to_string()
    };
    assert!(matches!(decoded(&source, b"no delta"), Err(Error::NotVcdiff)));
    assert!(matches!(decoded(&source, &[]), Err(Error::Truncated)));
    for (bytes, wanted) in [
        (&[2][..], "a code table of its own"),
        (&[8], "unknown bit of the header"),
        (&[4, 0x8f, 0xff, 0x7f], "application data of 262143 bytes"),
        (&[0, 2], "earlier windows"),
        (&[0, 8], "unknown bit of a window"),
        (&[0, 1, 60, 60], "behind the end of the source"),
        (&[0, 0, 0x20, 0xff, 0xff, 0xff, 0x7f], "a window of 268435455 bytes"),
        (&[0, 0, 5, 4, 1], "secondary compression"),
        (&[0, 0, 9, 4, 0, 0, 1, 0], "lengths of a window contradict"),
        (&[0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], "63 bits"),
        // A window of 4 bytes: an add of more than there is; nothing; a copy from where nothing is yet.
        (&[0, 0, 7, 4, 0, 1, 1, 0, 9, 5], "do not fill"),
        (&[0, 0, 5, 4, 0, 0, 0, 0], "do not fill"),
        (&[0, 0, 7, 4, 0, 0, 1, 1, 20, 0], "not there yet"),
        (&[0, 0, 7, 4, 0, 0, 1, 1, 20], "in the middle"),
        (&[0, 4, 12, 4, 0, 1, 2, 0, 9, 9, 9, 9, 5, 0, 4], "came out wrong"),
    ] {
        assert!(of(bytes).contains(wanted), "{bytes:x?}: {}", of(bytes));
    }
}

#[test]
fn the_example_of_the_rfc_is_read() {
    // Section 3: source "abcdefghijklmnop", target "abcdwxyzefghefghefghefghzzzz".
    // COPY 4, 0 | ADD 4 "wxyz" | COPY 4, 4 | COPY 12, 24 (which reaches into itself) | RUN 4 "z".
    let delta = [
        &[0xd6, 0xc3, 0xc4, 0, 0, 1, 16, 0][..],
        &[5 + 5 + 6 + 3, 28, 0, 5, 6, 3],
        b"wxyzz",
        &[20, 5, 20, 28, 0, 4],
        &[0, 4, 24],
    ]
    .concat();
    assert_eq!(decoded(b"abcdefghijklmnop", &delta).unwrap(), b"abcdwxyzefghefghefghefghzzzz");
}

#[test]
fn a_page_that_moved_and_a_changed_field_cost_a_few_bytes() {
    let mut random = ChaCha8Rng::seed_from_u64(5);
    let source: Vec<u8> = (0..64 * PAGE).map(|_| random.random::<u8>()).collect();
    let mut target = source.clone();
    target[10 * PAGE..11 * PAGE].copy_from_slice(&source[40 * PAGE + 13..41 * PAGE + 13]);
    target[20 * PAGE + 100..20 * PAGE + 108].fill(0);
    let delta = coded(&source, &target);
    assert!(delta.len() < 70, "{} bytes", delta.len());
}

/// Runs xdelta3 in a directory.
fn xdelta3(dir: &std::path::Path, arguments: &[&str]) {
    let done =
        Command::new("xdelta3").args(arguments).current_dir(dir).output().expect("xdelta3 is installed");
    assert!(done.status.success(), "xdelta3 {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
}

#[test]
fn xdelta3_reads_ours_and_we_read_its() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    // The last one has three windows.
    for (seed, pages) in [(1, 1), (2, 50), (3, 700), (4, 5000)] {
        let (source, target) = pair(seed, pages);
        std::fs::write(path("source"), &source).unwrap();
        std::fs::write(path("target"), &target).unwrap();
        std::fs::write(path("ours"), coded(&source, &target)).unwrap();
        xdelta3(dir.path(), &["-d", "-f", "-B", "67108864", "-s", "source", "ours", "restored"]);
        assert!(std::fs::read(path("restored")).unwrap() == target, "seed {seed}");
        for more in [&["-S", "none"][..], &["-S", "none", "-n", "-A"], &["-S", "none", "-9", "-W", "16384"]] {
            let arguments = [&["-e", "-f"], more, &["-s", "source", "target", "theirs"]].concat();
            xdelta3(dir.path(), &arguments);
            let theirs = std::fs::read(path("theirs")).unwrap();
            assert!(decoded(&source, &theirs).unwrap() == target, "seed {seed}, {more:?}");
        }
    }
    // Its own packing is refused by name.
    xdelta3(dir.path(), &["-e", "-f", "-S", "djw", "-s", "source", "target", "theirs"]);
    let refused = decoded(&std::fs::read(path("source")).unwrap(), &std::fs::read(path("theirs")).unwrap());
    assert!(matches!(refused, Err(Error::Unsupported("secondary compression"))), "{refused:?}");
}
