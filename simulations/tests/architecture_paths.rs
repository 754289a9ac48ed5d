//! `ARCHITECTURE.md` names only files and directories that exist, so that the map for newcomers cannot rot unseen.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeSet;
use std::path::Path;

/// Endings that make a word in backticks a file name even without a slash.
const FILE_ENDINGS: [&str; 6] = [".rs", ".toml", ".md", ".lock", ".txt", ".c"];

/// The paths that `text` names: words in backticks, outside of code blocks, that hold a slash or end like a file.
/// Absolute paths and addresses are not ours.
fn named_paths(text: &str) -> BTreeSet<&str> {
    let prose = text.split("```").step_by(2);
    let quoted = prose.flat_map(|prose| prose.split('`').skip(1).step_by(2));
    let is_path = |word: &&str| {
        let ours = !word.starts_with(['/', '~', '$'])
            && !word.contains("://")
            && !word.contains(char::is_whitespace);
        ours && (word.contains('/') || FILE_ENDINGS.iter().any(|ending| word.ends_with(ending)))
    };
    quoted.filter(is_path).collect()
}

/// The paths of `text` that are not under `root`.
fn missing<'a>(text: &'a str, root: &Path) -> Vec<&'a str> {
    named_paths(text).into_iter().filter(|path| !root.join(path).exists()).collect()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

#[test]
fn every_path_in_the_architecture_page_exists() {
    let text = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let named = named_paths(&text);
    assert!(named.len() >= 10, "only {named:?} look like paths: has the form of the page changed?");
    let missing = missing(&text, root());
    assert!(missing.is_empty(), "ARCHITECTURE.md names what does not exist: {missing:?}");
}

#[test]
fn paths_are_told_from_other_words() {
    let text = "`mesh/src/lib.rs`, `sync/`, `deny.toml`, not `NodeId`, `GET /healthz`, `/api/v1`, `https://a/b`, `gone/x`\n\
                ```\nin `a/block`\n```\n`Gone.md`";
    let expected = ["mesh/src/lib.rs", "sync/", "deny.toml", "gone/x", "Gone.md"];
    assert_eq!(named_paths(text), expected.into_iter().collect());
    assert_eq!(missing(text, root()), ["Gone.md", "gone/x"]);
}
