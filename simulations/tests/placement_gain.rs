//! Services that move after their users, over the recorded scenarios.

#![allow(clippy::unwrap_used, reason = "a test stops at the first thing that goes wrong")]

use std::path::Path;

use simulations::placement::{Line, compare};
use simulations::selection::load;

fn lines(name: &str) -> Vec<Line> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("scenarios/selection/{name}.toml"));
    let (scenario, tracks) = load(&file).unwrap();
    let lines = compare(&scenario, tracks.as_deref(), &[1]).unwrap();
    lines.iter().for_each(|line| println!("{name}: {line:?}"));
    lines
}

#[test]
fn moving_serves_more_than_never_moving_and_less_to_and_fro_than_the_nearest() {
    for name in ["camp", "helsinki", "convoys"] {
        let [never, nearest, ours, oracle] = <[Line; 4]>::try_from(lines(name)).unwrap();
        assert!(ours.served_s >= never.served_s, "{name}");
        assert!(ours.served_s <= oracle.served_s, "{name}: nobody is better than who knows");
        assert!(ours.moves < nearest.moves && ours.ping_pongs * 10 <= nearest.ping_pongs, "{name}");
    }
}
