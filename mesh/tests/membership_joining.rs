//! What joining costs: nodes that all start within a second, counted by kind of frame.
//!
//! The core alone, with the real codec but without transport and packing; `--nocapture` prints what was said.

mod model;

use std::time::Duration;

use model::World;

/// What joining may take, per node: seconds, bytes of frames, connections that it dials.
struct Most {
    joined_s: f64,
    bytes: u64,
    handshakes: f64,
}

/// One joining, counted until 40 s after the start.
fn join(nodes: usize, one_way_ms: u64, rate: u64, most: &Most) {
    let mut world = World::joining(1, nodes, Duration::from_millis(one_way_ms), Some(rate));
    let mut joined = None;
    for tenth in 1..=400 {
        world.run_for(Duration::from_millis(100));
        let all = || (0..nodes).all(|node| world.is_up(node) && world.there(node) == nodes);
        if joined.is_none() && all() {
            joined = Some(f64::from(tenth) / 10.0);
        }
    }
    let links = world.link_count() as f64 * 2.0 / nodes as f64;
    println!("{nodes} nodes, {one_way_ms} ms, {rate} B/s: joined {joined:?}, {links:.1} links per node");
    println!("{}", world.count.per_node(nodes));
    let joined = joined.unwrap_or(f64::INFINITY);
    assert!(joined <= most.joined_s, "{nodes} nodes took {joined} s");
    let bytes = world.count.bytes() / nodes as u64;
    assert!(bytes <= most.bytes, "{nodes} nodes said {bytes} bytes each");
    let handshakes = world.count.handshakes as f64 / nodes as f64;
    assert!(handshakes <= most.handshakes, "{nodes} nodes dialled {handshakes} times each");
}

/// Before links were said in groups and states asked for once, 30 nodes said 357 kB each and dialled 6.9 times.
#[test]
fn joining_is_cheap_on_fast_links() {
    for (nodes, bytes) in [(5, 8_000), (20, 35_000), (30, 50_000)] {
        join(nodes, 1, 12_500_000, &Most { joined_s: 7.0, bytes, handshakes: 3.0 });
    }
}

/// 64 kbit/s. Before, 30 nodes said 308 kB each and dialled 7.3 times.
#[test]
fn joining_is_cheap_on_slow_links() {
    for (nodes, bytes) in [(5, 8_000), (20, 50_000), (30, 60_000)] {
        join(nodes, 50, 8_000, &Most { joined_s: 15.0, bytes, handshakes: 4.0 });
    }
}
