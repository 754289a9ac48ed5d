//! `THREATS.md` names a test for everything that it calls stopped. Those tests must be there.
#![allow(clippy::unwrap_used, reason = "a test stops at the first thing that goes wrong")]

use std::path::Path;

/// How the test files begin that show what is stopped.
const KINDS: [&str; 9] =
    ["trust_", "tunnel_", "swarm_", "wire_", "exchange_", "handoff_", "placement_", "bad_images", "incoming"];

/// Every `file::function` of a test in the text.
fn named(text: &str) -> Vec<(&str, &str)> {
    let quoted = text.split('`').skip(1).step_by(2);
    quoted
        .filter(|word| KINDS.iter().any(|kind| word.starts_with(kind)))
        .filter_map(|word| word.split_once("::"))
        .collect()
}

#[test]
fn every_test_that_the_threats_name_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let text = std::fs::read_to_string(root.join("THREATS.md")).unwrap();
    let tests = named(&text);
    assert!(tests.len() > 30, "{}", tests.len());
    for (file, function) in tests {
        let source = ["mesh/tests", "node/tests", "node/handheld/tests", "vm-images/tests"]
            .into_iter()
            .find_map(|place| std::fs::read_to_string(root.join(place).join(format!("{file}.rs"))).ok());
        let source = source.unwrap_or_else(|| panic!("there is no test file {file}.rs"));
        assert!(source.contains(&format!("fn {function}(")), "{file}.rs has no test '{function}'");
    }
    // Each row of a table in which something is stopped names one.
    for row in text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| attack")) {
        let last = row.trim_end_matches('|').rsplit('|').next().unwrap();
        let says = KINDS.iter().any(|kind| last.contains(kind)) || last.contains("by construction");
        assert!(says, "no test: {row}");
    }
}
