//! Places where a test kills the process, to see what a crash there leaves.

/// Every place, in the order in which a publication passes them.
#[cfg(test)]
pub(super) const POINTS: [&str; 9] = [
    "draft made",
    "parts synced",
    "parts hashed",
    "manifest written",
    "signature written",
    "image synced",
    "image renamed",
    "name renamed",
    "stamped",
];

/// Outside of tests this is nothing at all.
#[cfg(not(test))]
pub(super) fn point(_name: &str) {}

/// Kills the process here, as a power cut would, if the environment asks for it.
#[cfg(test)]
pub(super) fn point(name: &str) {
    assert!(POINTS.contains(&name), "'{name}' is not in the list, so no test kills there");
    if std::env::var("CRASH_AT").is_ok_and(|wanted| wanted == name) {
        let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
    }
}

#[cfg(test)]
#[path = "../../tests/support/mod.rs"]
mod support;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::os::unix::process::ExitStatusExt;
    use std::path::Path;
    use std::process::Command;

    use super::support::{open, publish_base, publish_service};
    use super::*;

    /// Does nothing unless [`publish_in_a_process_that_dies_at`] starts it.
    #[test]
    fn the_process_that_is_killed() {
        if let Some(root) = std::env::var_os("CRASH_ROOT") {
            let store = open(Path::new(&root));
            let base = store.by_name("base").unwrap().id;
            publish_service(&store, base, b"new");
        }
    }

    fn publish_in_a_process_that_dies_at(point: &str, root: &Path) {
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "store::crash::tests::the_process_that_is_killed"])
            .env("CRASH_AT", point)
            .env("CRASH_ROOT", root)
            .stdout(std::process::Stdio::null())
            .status()
            .unwrap();
        assert_eq!(status.signal(), Some(9), "the process was not killed at '{point}'");
    }

    #[test]
    fn a_publisher_that_is_killed_anywhere_leaves_the_old_image_or_the_new() {
        let named = POINTS.iter().position(|point| *point == "name renamed").unwrap();
        for (index, point) in POINTS.iter().enumerate() {
            let dir = tempfile::tempdir().unwrap();
            let store = open(dir.path());
            let base = publish_base(&store, b"base");
            let old = publish_service(&store, base, b"old");
            publish_in_a_process_that_dies_at(point, dir.path());

            assert_eq!(
                std::fs::read_dir(dir.path().join("tmp")).unwrap().count(),
                1,
                "'{point}' left no draft"
            );
            let store = open(dir.path());
            assert_eq!(std::fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0, "rubbish of '{point}'");
            let listing = store.list().unwrap();
            assert!(listing.broken.is_empty(), "'{point}' left half an image: {:?}", listing.broken);
            for image in &listing.images {
                store.verify(image.id).unwrap();
            }
            let found = store.by_name("speech").unwrap().id;
            assert_eq!(found == old, index < named, "'{point}'");

            // What was interrupted can be done again, and nothing stays that has no name.
            let new = publish_service(&store, base, b"new");
            assert_eq!(store.by_name("speech").unwrap().id, new);
            store.gc(&BTreeSet::new()).unwrap();
            assert_eq!(store.list().unwrap().images.len(), 2, "'{point}'");
        }
    }
}
