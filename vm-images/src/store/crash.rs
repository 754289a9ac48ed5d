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

    use super::super::Naming;
    use super::support::{begin_fetch, fetch_blocks, open, publish_base, publish_service};
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

    /// Does nothing unless the test below starts it.
    #[test]
    fn the_process_that_is_killed_when_it_has_fetched() {
        if let Some(root) = std::env::var_os("CRASH_FETCHED") {
            let from = open(&Path::new(&root).join("from"));
            let to = open(&Path::new(&root).join("to"));
            let mut incoming = begin_fetch(&from, &to, from.by_name("base").unwrap().id);
            fetch_blocks(&from, &mut incoming, usize::MAX);
            incoming.publish(Naming::Take).unwrap();
        }
    }

    #[test]
    fn a_fetcher_that_is_killed_while_it_publishes_leaves_a_whole_image_or_all_its_blocks() {
        // The first point is passed by builders only.
        for point in &POINTS[1..] {
            let dir = tempfile::tempdir().unwrap();
            let from = open(&dir.path().join("from"));
            let base = publish_base(&from, b"base");
            die_at(point, "the_process_that_is_killed_when_it_has_fetched", "CRASH_FETCHED", dir.path());

            let to = open(&dir.path().join("to"));
            assert!(to.list().unwrap().broken.is_empty(), "'{point}' left half an image");
            if to.contains(base) {
                to.verify(base).unwrap();
                // What is left of the fetch goes away, whoever looks first.
                assert_eq!(to.gc(&BTreeSet::from([base])).unwrap().interrupted, [], "'{point}'");
            } else {
                let mut incoming = begin_fetch(&from, &to, base);
                assert_eq!(fetch_blocks(&from, &mut incoming, usize::MAX), 0, "'{point}' lost blocks");
                incoming.publish(Naming::Take).unwrap();
                to.verify(base).unwrap();
            }
            assert_eq!(to.interrupted().unwrap(), [], "'{point}'");
        }
    }

    fn publish_in_a_process_that_dies_at(point: &str, root: &Path) {
        die_at(point, "the_process_that_is_killed", "CRASH_ROOT", root);
    }

    fn die_at(point: &str, process: &str, variable: &str, root: &Path) {
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &format!("store::crash::tests::{process}")])
            .env("CRASH_AT", point)
            .env(variable, root)
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
