//! Images that come in block by block.

#![allow(
    clippy::unwrap_used,
    reason = "tests may panic; clippy recognises only the functions marked as tests"
)]

mod support;

use std::collections::BTreeSet;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};

use support::*;
use vm_images::store::{Error, Naming};
use vm_images::{Role, Store};

fn stores(dir: &std::path::Path) -> (Store, Store) {
    (open(&dir.join("from")), open(&dir.join("to")))
}

#[test]
fn a_fetch_goes_on_with_what_is_there_and_ends_in_the_same_image() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = stores(dir.path());
    let base = publish_base(&from, b"base");
    let mut incoming = begin_fetch(&from, &to, base);
    assert_eq!(fetch_blocks(&from, &mut incoming, 2), 2);
    assert!(matches!(
        to.incoming(base, &from.signed(base).unwrap().0, &from.signed(base).unwrap().1),
        Err(Error::BeingFetched { .. })
    ));
    drop(incoming);
    assert!(!to.contains(base));

    let (manifest, signature) = to.begun(base).unwrap();
    let mut incoming = to.incoming(base, &manifest, &signature).unwrap();
    assert!(Role::ALL.iter().filter_map(|role| incoming.tree(*role)).count() >= 4, "the lists were not kept");
    let rest = fetch_blocks(&from, &mut incoming, usize::MAX);
    let elsewhere = open(&dir.path().join("elsewhere"));
    let all = fetch_blocks(&from, &mut begin_fetch(&from, &elsewhere, base), usize::MAX);
    assert_eq!(rest, all - 2, "blocks were fetched twice");
    assert!(all < 12, "{all} blocks: zeros were fetched");
    assert_eq!(incoming.publish(Naming::Take).unwrap(), base);
    let image = to.verify(base).unwrap();
    let meta = std::fs::metadata(image.path(Role::MemoryTemplate).unwrap()).unwrap();
    assert!(meta.blocks() * 512 < 1 << 20, "the memory is not sparse");
    assert_eq!(to.by_name("base").unwrap().id, base);
    assert_eq!(to.interrupted().unwrap(), []);
    assert_eq!(std::fs::read_dir(to.root().join("incoming")).unwrap().count(), 0);
}

#[test]
fn blocks_that_rot_while_nobody_looks_are_fetched_again() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = stores(dir.path());
    let base = publish_base(&from, b"base");
    let mut incoming = begin_fetch(&from, &to, base);
    let all = fetch_blocks(&from, &mut incoming, usize::MAX);
    drop(incoming);
    let template = to.root().join("incoming").join(base.to_string()).join("image/memory.template");
    let file = std::fs::OpenOptions::new().write(true).open(&template).unwrap();
    // In a block of content, and in one of zeros.
    file.write_all_at(b"rot", MEMORY_BYTES / 2).unwrap();
    file.write_all_at(b"rot", 5).unwrap();
    let mut incoming = begin_fetch(&from, &to, base);
    assert_eq!(incoming.scan(Role::MemoryTemplate).unwrap().iter().filter(|here| !**here).count(), 2);
    assert!((1..all).contains(&fetch_blocks(&from, &mut incoming, usize::MAX)));
    incoming.publish(Naming::Take).unwrap();
    to.verify(base).unwrap();
}

#[test]
fn wrong_blocks_lists_and_manifests_are_refused_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = stores(dir.path());
    let base = publish_base(&from, b"base");
    let other = publish_base(&from, b"other");
    let (manifest, signature) = from.signed(base).unwrap();
    let (foreign, foreign_signature) = from.signed(other).unwrap();
    assert!(matches!(to.incoming(base, &foreign, &foreign_signature), Err(Error::ManifestChanged { .. })));
    assert!(matches!(to.incoming(base, &manifest, &foreign_signature), Err(Error::Signature { .. })));
    let strangers = Store::open(&dir.path().join("strangers"), key(7)).unwrap();
    let refused = strangers.incoming(base, &manifest, &signature).unwrap_err();
    assert!(told(&refused).contains("run `cloudlet image trust"), "{}", told(&refused));
    assert_eq!(strangers.interrupted().unwrap(), []);

    let mut incoming = begin_fetch(&from, &to, base);
    assert!(matches!(incoming.set_list(Role::MemoryTemplate, &[0; 1024 * 32]), Err(Error::Blocks { .. })));
    assert!(matches!(incoming.set_list(Role::PackageStatus, &[0; 32]), Err(Error::NoSuchPart { .. })));
    for content in [&b"Kernel"[..], b"kernel and more", b""] {
        assert!(matches!(incoming.write_block(Role::Kernel, 0, content), Err(Error::WrongBlock { .. })));
    }
    assert!(matches!(incoming.write_block(Role::Kernel, 9, b"kernel"), Err(Error::WrongBlock { .. })));
    assert_eq!(incoming.scan(Role::Kernel).unwrap(), [false]);
    // Not whole: it does not appear, and what is there stays.
    incoming.write_block(Role::Kernel, 0, b"kernel").unwrap();
    assert!(matches!(incoming.publish(Naming::Take), Err(Error::PartContent { .. } | Error::Disk { .. })));
    assert!(!to.contains(base));
    assert_eq!(begin_fetch(&from, &to, base).scan(Role::Kernel).unwrap(), [true]);
}

#[test]
fn a_parent_that_comes_along_takes_no_name_and_is_kept_for_its_child() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = stores(dir.path());
    let own = publish_base(&to, b"own");
    let base = publish_base(&from, b"base");
    let service = publish_service(&from, base, b"service");
    let mut child = begin_fetch(&from, &to, service);
    let mut parent = begin_fetch(&from, &to, base);
    fetch_blocks(&from, &mut parent, usize::MAX);
    parent.publish(Naming::IfFree).unwrap();
    assert_eq!(to.by_name("base").unwrap().id, own, "what came along took the name");
    let report = to.gc(&BTreeSet::new()).unwrap();
    assert!(to.contains(base), "{report:?}");
    assert_eq!(report.interrupted, [service]);
    assert!(matches!(to.remove(base), Err(Error::NeededBy { .. })));
    assert!(matches!(to.discard_interrupted(service), Err(Error::BeingFetched { .. })));

    fetch_blocks(&from, &mut child, usize::MAX);
    child.publish(Naming::Take).unwrap();
    to.verify(service).unwrap();

    // And what nobody wants any more goes away.
    drop(begin_fetch(&from, &to, publish_base(&from, b"unwanted")));
    let [left] = &to.interrupted().unwrap()[..] else { panic!("it is not listed") };
    assert!(!left.in_use && left.label.starts_with("base ("));
    to.discard_interrupted(left.id).unwrap();
    to.gc(&BTreeSet::new()).unwrap();
    assert_eq!(to.interrupted().unwrap(), []);
    let lists = std::fs::read_dir(to.root().join("lists")).unwrap().count();
    // Four parts of the base and three of the service.
    assert_eq!(lists, 7, "lists of parts that are not here");
}
