//! The store as the daemon and the command line use it.

#![allow(
    clippy::unwrap_used,
    reason = "tests may panic; clippy recognises only the functions marked as tests"
)]

mod support;

use std::collections::BTreeSet;
use std::os::unix::fs::{FileExt, PermissionsExt};

use support::*;
use vm_images::index::{BLOCK_BYTES, Place, Table};
use vm_images::{Digest, Role, Store};

#[test]
fn what_was_published_is_found_and_holds() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let base = publish_base(&store, b"one");
    let speech = publish_service(&store, base, b"two");

    for store in [store, open(dir.path())] {
        assert_eq!(store.by_name("speech").unwrap().id, speech);
        assert_eq!(store.resolve("base").unwrap().id, base);
        assert_eq!(store.resolve(&speech.to_string()).unwrap().id, speech);
        assert_eq!(store.resolve(&speech.to_string()[..6].to_uppercase()).unwrap().id, speech);
        let chain: Vec<_> = store.chain(speech).unwrap().into_iter().map(|image| image.id).collect();
        assert_eq!(chain, [speech, base]);
        assert_eq!(store.verify(speech).unwrap(), store.get(speech).unwrap());
        assert_eq!(store.ensure_intact(speech).unwrap().id, speech);
        assert_eq!(store.find_by_recipe(&Digest::of(b"two")).unwrap().map(|image| image.id), Some(speech));
        assert_eq!(store.find_by_recipe(&Digest::of(b"three")).unwrap(), None);
        assert_eq!(store.list().unwrap().images.len(), 2);
    }
}

#[test]
fn an_image_is_a_read_only_directory_with_nothing_else_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let image = store.get(publish_base(&store, b"x")).unwrap();
    let mut names: Vec<_> = std::fs::read_dir(image.dir())
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            assert_eq!(
                entry.metadata().unwrap().permissions().mode() & 0o777,
                0o444,
                "{:?}",
                entry.file_name()
            );
            entry.file_name().into_string().unwrap()
        })
        .collect();
    names.sort();
    assert_eq!(
        names,
        ["device.stream", "disk.qcow2", "kernel", "manifest.json", "manifest.sig", "memory.template"]
    );
    assert_eq!(std::fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0, "the draft was not removed");
    assert!(image.allocated_bytes() < MEMORY_BYTES / 4, "the template lost its holes");
    assert_eq!(
        image.path(Role::Initrd).unwrap_err().to_string(),
        format!("image {} has no initrd", image.label())
    );
}

#[test]
fn publishing_twice_is_fine_and_the_newest_has_the_name() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let old = publish_base(&store, b"old");
    assert_eq!(publish_base(&store, b"old"), old);
    let new = publish_base(&store, b"new");
    assert_ne!(old, new);
    assert_eq!(store.by_name("base").unwrap().id, new);
    assert_eq!(store.list().unwrap().images.len(), 2);
}

#[test]
fn publishing_again_repairs_a_damaged_image() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let id = publish_base(&store, b"same");
    let kernel = store.get(id).unwrap().path(Role::Kernel).unwrap();
    std::fs::write(&kernel, b"rubbish").unwrap();
    assert!(store.ensure_intact(id).is_err());
    assert_eq!(publish_base(&store, b"same"), id);
    assert_eq!(std::fs::read(kernel).unwrap(), b"kernel");
    store.verify(id).unwrap();
}

#[test]
fn names_ids_and_prefixes_that_mean_nothing_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    publish_base(&store, b"x");
    for wanted in ["speech", "../names/base", "abcde", "000000", &"0".repeat(64), ""] {
        let said = store.resolve(wanted).unwrap_err().to_string();
        assert_eq!(
            said,
            format!("there is no image '{wanted}' in the store; `cloudlet image list` shows what there is")
        );
    }
    // Two ids that begin alike: directories are enough for the look-up.
    for last in ["1", "2"] {
        std::fs::create_dir(dir.path().join("images").join("ab".repeat(31) + "0" + last)).unwrap();
    }
    assert_eq!(
        store.resolve("ababab").unwrap_err().to_string(),
        "'ababab' may mean 2 images; give more digits"
    );
}

#[test]
fn the_fast_check_is_fast_and_notices_every_kind_of_touch() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let base = publish_base(&store, b"one");
    let speech = publish_service(&store, base, b"two");
    store.ensure_intact(speech).unwrap();

    #[expect(clippy::disallowed_methods, reason = "the duration of a call is what is tested")]
    let began = std::time::Instant::now();
    for _ in 0..100 {
        store.ensure_intact(speech).unwrap();
    }
    let each = began.elapsed() / 100;
    eprintln!("ensure_intact on a chain of two: {each:?}");
    assert!(each.as_micros() < 1000, "{each:?}");

    // The very same length, and the modification time put back: only the attribute time tells.
    let template = store.get(base).unwrap().path(Role::MemoryTemplate).unwrap();
    let modified = std::fs::metadata(&template).unwrap().modified().unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&template).unwrap();
    file.write_all_at(b"X", 4711).unwrap();
    file.set_modified(modified).unwrap();
    drop(file);
    for store in [&store, &open(dir.path())] {
        let said = store.ensure_intact(speech).unwrap_err().to_string();
        assert!(
            said.starts_with(&format!("the memory template of image base ({}) is damaged", base.short())),
            "{said}"
        );
    }
}

#[test]
fn stamps_do_not_outlive_trust_and_cannot_be_made_by_others() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let id = publish_base(&store, b"x");
    store.verify(id).unwrap();
    let stamp = dir.path().join("verified").join(id.to_string());
    let genuine = std::fs::read_to_string(&stamp).unwrap();

    // A stamp that somebody adapted to a changed file.
    let image = store.get(id).unwrap();
    std::fs::write(image.path(Role::Kernel).unwrap(), b"KERNEL").unwrap();
    use std::os::unix::fs::MetadataExt as _;
    let meta = std::fs::metadata(image.path(Role::Kernel).unwrap()).unwrap();
    let mut forged: serde_json::Value = serde_json::from_str(&genuine).unwrap();
    let entry = &mut forged["stamp"]["images"][id.to_string()]["kernel"];
    entry["mtime_unix_ns"] = (meta.mtime() * 1_000_000_000 + meta.mtime_nsec()).into();
    entry["ctime_unix_ns"] = (meta.ctime() * 1_000_000_000 + meta.ctime_nsec()).into();
    std::fs::write(&stamp, serde_json::to_vec(&forged).unwrap()).unwrap();
    assert!(open(dir.path()).ensure_intact(id).unwrap_err().to_string().contains("the kernel of image base"));

    assert_eq!(publish_base(&store, b"x"), id);
    store.ensure_intact(id).unwrap();
    assert!(store.distrust(store.own_key()).unwrap());
    let said = told(&store.ensure_intact(id).unwrap_err());
    assert!(said.contains("which this node does not trust"), "{said}");
}

#[test]
fn garbage_is_what_nobody_names_pins_runs_or_builds_on() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let first_base = publish_base(&store, b"base 1");
    let pinned = publish_service(&store, first_base, b"pinned");
    let live = publish_service(&store, first_base, b"live");
    let forgotten = publish_service(&store, first_base, b"forgotten");
    let drafted_on = publish_base(&store, b"base 2");
    let named_base = publish_base(&store, b"base 3");
    let named = publish_service(&store, named_base, b"named");
    store.pin(pinned).unwrap();
    let draft = store.begin(Some(drafted_on)).unwrap();

    let report = store.gc(&BTreeSet::from([live])).unwrap();
    assert_eq!(report.removed, [forgotten]);
    assert!(report.freed_bytes > 0);
    drop(draft);
    assert_eq!(store.gc(&BTreeSet::from([live])).unwrap().removed, [drafted_on]);
    assert!(store.unpin(pinned).unwrap());
    assert!(!store.unpin(pinned).unwrap());
    let mut gone = BTreeSet::from([live, pinned, first_base]);
    for id in store.gc(&BTreeSet::new()).unwrap().removed {
        assert!(gone.remove(&id));
    }
    assert!(gone.is_empty());
    assert_eq!(store.gc(&BTreeSet::new()).unwrap(), vm_images::store::GcReport::default());
    for id in [named, named_base] {
        store.verify(id).unwrap();
    }
    assert_eq!(std::fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
}

#[test]
fn an_image_that_others_need_is_not_removed() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let base = publish_base(&store, b"base");
    let speech = publish_service(&store, base, b"speech");
    let (base_label, speech_label) = (store.get(base).unwrap().label(), store.get(speech).unwrap().label());
    assert_eq!(
        store.remove(base).unwrap_err().to_string(),
        format!(
            "image {base_label} cannot be removed: image {speech_label} depends on it. Remove that first"
        )
    );
    store.pin(speech).unwrap();
    assert_eq!(
        store.remove(speech).unwrap_err().to_string(),
        format!("image {speech_label} is pinned; unpin it first")
    );
    store.unpin(speech).unwrap();
    let draft = store.begin(Some(speech)).unwrap();
    let said = store.remove(speech).unwrap_err().to_string();
    assert!(said.contains("an image that is being built or fetched depends on it"), "{said}");
    drop(draft);
    store.remove(speech).unwrap();
    assert!(store.by_name("speech").is_err());
    store.remove(base).unwrap();
    assert!(store.list().unwrap().images.is_empty());
    assert!(store.names().unwrap().is_empty());
}

#[test]
fn threads_and_handles_publish_and_collect_side_by_side() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let base = publish_base(&store, b"base");
    std::thread::scope(|scope| {
        for worker in 0..3_u8 {
            let root = dir.path();
            scope.spawn(move || {
                // A handle of its own, as another process would have.
                let store: Store = open(root);
                for round in 0..4 {
                    let id = publish_service(&store, base, &[worker, round]);
                    // Its name may be another's by now and a collector may have taken it; half of it must not be there.
                    match store.verify(id) {
                        Ok(_) => {}
                        Err(error) => assert!(!store.contains(id), "{}", told(&error)),
                    }
                    store.gc(&BTreeSet::new()).unwrap();
                }
            });
        }
    });
    assert_eq!(store.list().unwrap().images.len(), 2, "the base and the newest speech");
    assert_eq!(std::fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
    store.verify(store.by_name("speech").unwrap().id).unwrap();
}

#[test]
fn indexes_of_an_image_and_its_parents_are_made_once_and_swept_with_them() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let base = publish_base(&store, &[1; 10_000]);
    let speech = publish_service(&store, base, &[2; 10_000]);
    let (mut steps, mut last) = (0, None);
    let made = store.indexes(speech, &mut |progress| (steps, last) = (steps + 1, Some(progress))).unwrap();
    assert!(steps > 4, "{steps}");
    assert!(
        last.is_some_and(|last| last.done_bytes == last.total_bytes && last.total_bytes > 2 * MEMORY_BYTES)
    );
    let roles: Vec<Role> = made.iter().map(|part| part.role).collect();
    assert_eq!(roles, [Role::Disk, Role::MemoryTemplate, Role::Disk, Role::MemoryTemplate]);
    let found = Table::new(&made.iter().map(|part| &part.index).collect::<Vec<_>>()).unwrap();
    let places: Vec<Place> = found.find_block(&[2; BLOCK_BYTES]).collect();
    // The content is in the middle of the template, which is the second part.
    assert_eq!(places, [Place { part: 1, block: (MEMORY_BYTES / 2 / BLOCK_BYTES as u64) as u32 }]);

    let path = dir.path().join("indexes").join(made[1].digest.to_string());
    let written = std::fs::metadata(&path).unwrap().modified().unwrap();
    assert_eq!(store.indexes(speech, &mut |_| {}).unwrap()[1].index, made[1].index);
    assert_eq!(std::fs::metadata(&path).unwrap().modified().unwrap(), written, "it was made again");
    std::fs::write(&path, b"damaged").unwrap();
    assert_eq!(store.indexes(speech, &mut |_| {}).unwrap()[1].index, made[1].index, "and made again");
    assert!(std::fs::metadata(&path).unwrap().len() > 100);

    store.remove(speech).unwrap();
    store.gc(&BTreeSet::new()).unwrap();
    let left: Vec<_> = std::fs::read_dir(dir.path().join("indexes")).unwrap().collect();
    assert!(!path.exists());
    assert_eq!(left.len(), 2, "those of the base stay");
}
