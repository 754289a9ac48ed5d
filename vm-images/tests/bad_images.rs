//! What is said about images that are not what they should be, word for word, and that nothing is lost by them.

#![allow(
    clippy::unwrap_used,
    reason = "tests may panic; clippy recognises only the functions marked as tests"
)]

mod support;
#[path = "support/tiny.rs"]
mod tiny;

use std::fs::{File, OpenOptions, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use support::*;
use tiny::Tiny;
use vm_images::signature::Detached;
use vm_images::{ImageId, Manifest, Role, Store, qcow2};

const REPAIR: &str = "Do not start it: remove it, then build or import it again";

struct Fixture {
    dir: tempfile::TempDir,
    store: Store,
    base: ImageId,
    speech: ImageId,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let base = publish_base(&store, b"base");
        let speech = publish_service(&store, base, b"speech");
        Self { dir, store, base, speech }
    }

    fn file(&self, id: ImageId, name: &str) -> PathBuf {
        self.dir.path().join("images").join(id.to_string()).join(name)
    }

    /// A part's file, made writable.
    fn writable(&self, id: ImageId, role: Role) -> File {
        let path = self.file(id, role.file_name());
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        OpenOptions::new().read(true).write(true).open(path).unwrap()
    }

    /// What is said before a start, by this process and by one that comes anew.
    fn said_before_start(&self, id: ImageId) -> String {
        let said = told(&self.store.ensure_intact(id).unwrap_err());
        assert_eq!(told(&open(self.dir.path()).ensure_intact(id).unwrap_err()), said);
        said
    }
}

#[test]
fn one_flipped_byte_is_found_before_the_next_start() {
    let fixture = Fixture::new();
    let expected =
        fixture.store.get(fixture.speech).unwrap().manifest.part(Role::MemoryTemplate).unwrap().blake3;
    let template = fixture.writable(fixture.speech, Role::MemoryTemplate);
    template.write_all_at(&[b's' ^ 1], MEMORY_BYTES / 2).unwrap();
    let mut whole = vec![0; MEMORY_BYTES as usize];
    template.read_exact_at(&mut whole, 0).unwrap();
    let found = vm_images::Digest::of(&whole);
    assert_eq!(
        fixture.said_before_start(fixture.speech),
        format!(
            "the memory template of image speech ({}) is damaged: its length is right, its content is not \
             (BLAKE3 {found} instead of {expected}). {REPAIR}",
            fixture.speech.short()
        )
    );
    // The base is not the one that is damaged.
    fixture.store.verify(fixture.base).unwrap();
}

#[test]
fn a_truncated_part_of_the_parent_is_found_too() {
    let fixture = Fixture::new();
    fixture.writable(fixture.base, Role::Disk).set_len(1000).unwrap();
    let whole = fixture.store.get(fixture.base).unwrap().manifest.part(Role::Disk).unwrap().bytes;
    assert_eq!(
        fixture.said_before_start(fixture.speech),
        format!(
            "the disk of image base ({}) is damaged: it has 1000 bytes instead of {whole}. {REPAIR}",
            fixture.base.short()
        )
    );
}

#[test]
fn a_missing_part_is_named_with_its_file() {
    let fixture = Fixture::new();
    let path = fixture.file(fixture.base, "kernel");
    std::fs::remove_file(&path).unwrap();
    assert_eq!(
        fixture.said_before_start(fixture.base),
        format!(
            "the kernel of image base ({}) is missing ({}). {REPAIR}",
            fixture.base.short(),
            path.display()
        )
    );
}

#[test]
fn a_missing_parent_is_named_with_its_child_and_what_to_do() {
    let fixture = Fixture::new();
    let elsewhere = fixture.dir.path().join("elsewhere");
    std::fs::rename(fixture.file(fixture.base, ""), &elsewhere).unwrap();
    assert_eq!(
        fixture.said_before_start(fixture.speech),
        format!(
            "image speech ({}) needs its parent image {}, which is not in the store. \
             Build the parent with `cloudlet image build base`, or import it",
            fixture.speech.short(),
            fixture.base
        )
    );
    assert!(fixture.store.begin(Some(fixture.speech)).is_err());
    // Nothing was lost: with the parent back, all is well.
    std::fs::rename(elsewhere, fixture.file(fixture.base, "")).unwrap();
    fixture.store.ensure_intact(fixture.speech).unwrap();
}

#[test]
fn an_unsigned_image_is_refused() {
    let fixture = Fixture::new();
    std::fs::remove_file(fixture.file(fixture.base, "manifest.sig")).unwrap();
    assert_eq!(
        fixture.said_before_start(fixture.base),
        format!(
            "image base ({}) cannot be used: it is not signed (no manifest.sig); only signed images are used",
            fixture.base.short()
        )
    );
}

#[test]
fn an_image_signed_by_a_stranger_is_refused_until_the_key_is_trusted() {
    let fixture = Fixture::new();
    let manifest = std::fs::read(fixture.file(fixture.base, "manifest.json")).unwrap();
    let signature = fixture.file(fixture.base, "manifest.sig");
    std::fs::remove_file(&signature).unwrap();
    std::fs::write(&signature, key(9).sign(&manifest).to_bytes()).unwrap();
    let stranger = key(9).public();
    assert_eq!(
        fixture.said_before_start(fixture.base),
        format!(
            "image base ({}) cannot be used: it is signed by key {stranger}, which this node does not trust. \
             If you know whose key this is, run `cloudlet image trust {stranger}`",
            fixture.base.short()
        )
    );
    fixture.store.trust(stranger).unwrap();
    fixture.store.ensure_intact(fixture.base).unwrap();
}

#[test]
fn a_changed_manifest_is_refused_even_by_a_look_at_it() {
    let fixture = Fixture::new();
    let path = fixture.file(fixture.speech, "manifest.json");
    let text = std::fs::read_to_string(&path).unwrap().replace("\"vcpus\": 1", "\"vcpus\": 2");
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, &text).unwrap();
    let found = Manifest::id_of(text.as_bytes());
    let said = format!(
        "the manifest of image {} was changed: it now hashes to {}. {REPAIR}",
        fixture.speech,
        found.short()
    );
    assert_eq!(fixture.said_before_start(fixture.speech), said);
    let listing = fixture.store.list().unwrap();
    assert_eq!(listing.images.len(), 1);
    assert_eq!(listing.broken[0].error.to_string(), said);
}

#[test]
fn a_manifest_of_a_newer_release_is_told_as_that() {
    let fixture = Fixture::new();
    let text = "{\"format\": 2, \"something\": \"new\"}";
    let id = Manifest::id_of(text.as_bytes());
    std::fs::create_dir(fixture.file(id, "")).unwrap();
    std::fs::write(fixture.file(id, "manifest.json"), text).unwrap();
    assert_eq!(
        fixture.said_before_start(id),
        format!(
            "image {} cannot be used: the manifest has format 2 and was written by a newer release; \
             this release reads format 1. Update this node, or build the image with this release",
            id.short()
        )
    );
}

#[test]
fn a_store_of_a_newer_release_is_not_touched() {
    let fixture = Fixture::new();
    std::fs::write(fixture.dir.path().join("FORMAT"), "2\n").unwrap();
    let root = fixture.dir.path().canonicalize().unwrap();
    assert_eq!(
        Store::open(&root, key(1)).unwrap_err().to_string(),
        format!(
            "the image store {} has layout 2 and was written by a newer release; this release knows layout 1. \
             Update this node, or give it an image store of its own",
            root.display()
        )
    );
}

#[test]
fn a_disk_on_another_parent_than_the_manifest_says_is_not_published() {
    let fixture = Fixture::new();
    let draft = fixture.store.begin(Some(fixture.base)).unwrap();
    fill_service(&draft, b"x");
    std::fs::remove_file(draft.path(Role::Disk)).unwrap();
    qcow2::create_overlay(&draft.path(Role::Disk), Path::new("/etc/passwd"), DISK_BYTES).unwrap();
    let said = told(&draft.publish(service_manifest(fixture.base, b"x")).unwrap_err());
    let wanted = format!("is layered on /etc/passwd, but its manifest wants ../{}/disk.qcow2", fixture.base);
    assert!(said.ends_with(&wanted), "{said}");
    assert_eq!(fixture.store.list().unwrap().images.len(), 2);
    assert_eq!(std::fs::read_dir(fixture.dir.path().join("tmp")).unwrap().count(), 0);
}

#[test]
fn what_is_no_image_is_not_published() {
    let fixture = Fixture::new();
    let attempt = |change: &dyn Fn(&Path, &mut Manifest)| {
        let draft = fixture.store.begin(None).unwrap();
        fill_base(&draft, b"y");
        let mut manifest = base_manifest(b"y");
        change(&draft.dir(), &mut manifest);
        told(&draft.publish(manifest).unwrap_err())
    };
    assert_eq!(
        attempt(&|dir, _| std::fs::write(dir.join("notes.txt"), "x").unwrap()),
        "nothing was published: 'notes.txt' is no part of an image"
    );
    assert!(
        attempt(&|dir, _| std::os::unix::fs::symlink("/etc/passwd", dir.join("initrd")).unwrap())
            .ends_with("initrd is not a plain file")
    );
    assert_eq!(
        attempt(&|_, manifest| manifest.parent = Some(fixture.base)),
        "nothing was published: the manifest names another parent than the draft was begun with"
    );
    assert_eq!(
        attempt(&|_, manifest| manifest.hardware.cpu_model = "host".into()),
        "image 'base' cannot be used: the manifest's hardware.cpu_model is not acceptable: \
         'host' differs between machines; name a model such as Nehalem"
    );
    assert_eq!(
        attempt(&|dir, _| std::fs::remove_file(dir.join("device.stream")).unwrap()),
        "image 'base' cannot be used: the manifest's parts is not acceptable: \
         a suspended guest is a memory template and a device stream; one of them is missing"
    );
    assert_eq!(fixture.store.list().unwrap().images.len(), 2);
}

#[test]
fn an_image_of_another_node_comes_in_under_its_own_id_or_not_at_all() {
    let theirs = Fixture::new();
    let dir = tempfile::tempdir().unwrap();
    let ours = Store::open(dir.path(), key(2)).unwrap();
    let image = theirs.store.get(theirs.base).unwrap();
    let manifest = std::fs::read(theirs.file(theirs.base, "manifest.json")).unwrap();
    let signature = std::fs::read(theirs.file(theirs.base, "manifest.sig")).unwrap();
    let import = |spoil: Option<&[u8]>| {
        let draft = ours.begin(None).unwrap();
        for part in &image.manifest.parts {
            draft.add_copy(part.role, &image.path(part.role).unwrap()).unwrap();
        }
        if let Some(bytes) = spoil {
            std::fs::remove_file(draft.path(Role::Kernel)).unwrap();
            draft.add_bytes(Role::Kernel, bytes).unwrap();
        }
        draft.publish_signed(&manifest, &signature)
    };
    let said = told(&import(None).unwrap_err());
    assert!(said.contains(&format!("run `cloudlet image trust {}`", key(1).public())), "{said}");
    ours.trust(Detached::parse(&signature).unwrap().signer).unwrap();
    let said = told(&import(Some(b"KERNEL")).unwrap_err());
    assert!(
        said.starts_with(&format!("the kernel of image {} is damaged: its length is right", image.label())),
        "{said}"
    );
    assert!(ours.list().unwrap().images.is_empty());
    assert_eq!(import(None).unwrap(), theirs.base);
    assert_eq!(ours.verify(theirs.base).unwrap().manifest, image.manifest);
}

#[test]
fn a_full_disk_is_told_and_nothing_is_lost() {
    let Some(tiny) = Tiny::mount("size=4m") else { return };
    let store = open(tiny.path());
    let base = publish_base(&store, b"base");

    // While the image is being built.
    let elsewhere = tempfile::tempdir().unwrap();
    let large = elsewhere.path().join("kernel");
    std::fs::write(&large, vec![7; 8 * 1024 * 1024]).unwrap();
    let draft = store.begin(None).unwrap();
    let said = told(&draft.add_copy(Role::Kernel, &large).unwrap_err());
    let wanted = format!(
        "no space left for {} (8388608 bytes were needed, 0 are free); nothing was published. \
         Free some space, for example with `cloudlet image gc`, and try again",
        draft.path(Role::Kernel).display()
    );
    assert_eq!(said, wanted);
    let said = draft.require_space(1 << 30).unwrap_err().to_string();
    assert!(said.contains("(1073741824 bytes were needed, 0 are free)"), "{said}");
    drop(draft);

    // While it is being published: the parts fit, the manifest does not.
    let draft = store.begin(None).unwrap();
    fill_base(&draft, b"new");
    let filler = File::create(tiny.path().join("filler")).unwrap();
    let mut at = 0;
    while filler.write_all_at(&[1; 4096], at).is_ok() {
        at += 4096;
    }
    let said = told(&draft.publish(base_manifest(b"new")).unwrap_err());
    assert!(said.starts_with("no space left for ") && said.contains("manifest.json ("), "{said}");
    assert!(said.contains("bytes were needed, 0 are free); nothing was published"), "{said}");
    drop(filler);
    std::fs::remove_file(tiny.path().join("filler")).unwrap();

    assert_eq!(std::fs::read_dir(tiny.path().join("tmp")).unwrap().count(), 0, "the draft was not removed");
    assert_eq!(store.by_name("base").unwrap().id, base);
    store.verify(base).unwrap();
    publish_base(&store, b"new");
}

#[test]
fn without_inodes_a_store_says_so_too() {
    let Some(tiny) = Tiny::mount("size=4m,nr_inodes=40") else { return };
    let store = open(tiny.path());
    let base = publish_base(&store, b"base");
    let mut published = 1;
    let error = loop {
        let content = [published];
        let Ok(draft) = store.begin(None) else { break None };
        let filled = qcow2::create(&draft.path(Role::Disk), DISK_BYTES);
        if filled.is_err() {
            break None;
        }
        match draft.publish(base_manifest(&content)) {
            Ok(_) => published += 1,
            Err(error) => break Some(error),
        }
    };
    if let Some(error) = error {
        assert!(told(&error).contains("no space left"), "{}", told(&error));
    }
    assert!(published > 1);
    assert_eq!(std::fs::read_dir(tiny.path().join("tmp")).unwrap().count(), 0);
    store.verify(base).unwrap();
    assert!(store.list().unwrap().broken.is_empty());
    store.verify(store.by_name("base").unwrap().id).unwrap();
}
