//! What the tests of the store share: small images that are real enough to be verified.
#![allow(dead_code, reason = "every test binary uses another part of it")]
#![allow(
    clippy::unwrap_used,
    reason = "tests may panic; clippy recognises only the functions marked as tests"
)]

use std::os::unix::fs::FileExt;
use std::path::Path;

use vm_images::manifest::{Accelerator, FORMAT, GuestOs};
use vm_images::store::{Draft, Incoming};
use vm_images::{Digest, Hardware, ImageId, Kind, Manifest, Role, Service, SigningKey, Store, qcow2};

/// Guest memory of test images, bytes; the template has this apparent length, but is nearly all hole.
pub const MEMORY_BYTES: u64 = 64 * 1024 * 1024;
pub const DISK_BYTES: u64 = 32 * 1024 * 1024;

pub fn key(seed: u8) -> SigningKey {
    SigningKey::from_secret(&[seed; 32])
}

pub fn open(root: &Path) -> Store {
    Store::open(root, key(1)).unwrap()
}

pub fn base_manifest(recipe: &[u8]) -> Manifest {
    Manifest {
        format: FORMAT,
        kind: Kind::Base,
        name: "base".to_owned(),
        description: "a test's base".to_owned(),
        created_unix_s: 1_790_000_000,
        recipe: Digest::of(recipe),
        parent: None,
        hardware: Hardware {
            machine: "pc-q35-10.0".to_owned(),
            cpu_model: "Nehalem".to_owned(),
            accelerator: Accelerator::Tcg,
            topology: 1,
            memory_bytes: MEMORY_BYTES,
            vcpus: 1,
            command_line: "root=/dev/vda console=ttyS0".to_owned(),
        },
        guest_os: GuestOs {
            id: "debian".to_owned(),
            version: "12".to_owned(),
            architecture: "x86_64".to_owned(),
        },
        parts: Vec::new(),
        service: None,
    }
}

pub fn service_manifest(parent: ImageId, recipe: &[u8]) -> Manifest {
    Manifest {
        kind: Kind::Service,
        name: "speech".to_owned(),
        description: "a test's service".to_owned(),
        parent: Some(parent),
        service: Some(Service {
            id: "speech".parse().unwrap(),
            version: "1".to_owned(),
            description: "answers".to_owned(),
            port: 8080,
            health_path: "/healthz".to_owned(),
            needs_memory_bytes: MEMORY_BYTES,
            needs_cpu_millis: 1000,
            max_users: 4,
        }),
        ..base_manifest(recipe)
    }
}

fn add_state(draft: &Draft, content: &[u8]) {
    let template = std::fs::File::create_new(draft.path(Role::MemoryTemplate)).unwrap();
    template.set_len(MEMORY_BYTES).unwrap();
    template.write_all_at(content, MEMORY_BYTES / 2).unwrap();
    draft.add_bytes(Role::DeviceStream, content).unwrap();
}

/// Fills a draft of a base image.
pub fn fill_base(draft: &Draft, content: &[u8]) {
    qcow2::create(&draft.path(Role::Disk), DISK_BYTES).unwrap();
    draft.add_bytes(Role::Kernel, b"kernel").unwrap();
    add_state(draft, content);
}

/// Fills a draft of a Service VM image.
pub fn fill_service(draft: &Draft, content: &[u8]) {
    qcow2::create_overlay(&draft.path(Role::Disk), &draft.backing().unwrap(), DISK_BYTES).unwrap();
    add_state(draft, content);
}

pub fn publish_base(store: &Store, content: &[u8]) -> ImageId {
    let draft = store.begin(None).unwrap();
    fill_base(&draft, content);
    draft.publish(base_manifest(content)).unwrap()
}

pub fn publish_service(store: &Store, parent: ImageId, content: &[u8]) -> ImageId {
    let draft = store.begin(Some(parent)).unwrap();
    fill_service(&draft, content);
    draft.publish(service_manifest(parent, content)).unwrap()
}

/// Begins to fetch an image from another store.
pub fn begin_fetch(from: &Store, to: &Store, id: ImageId) -> Incoming {
    let (manifest, signature) = from.signed(id).unwrap();
    let mut incoming = to.incoming(id, &manifest, &signature).unwrap();
    let image = from.get(id).unwrap();
    for part in &image.manifest.parts {
        incoming.set_list(part.role, from.tree(&image, part).unwrap().list()).unwrap();
    }
    incoming
}

/// Copies the blocks that are not here, at most this many; says how many were copied.
pub fn fetch_blocks(from: &Store, incoming: &mut Incoming, most: usize) -> usize {
    let image = from.get(incoming.id()).unwrap();
    let mut copied = 0;
    for part in &image.manifest.parts {
        let cut = incoming.tree(part.role).unwrap().cut();
        let file = std::fs::File::open(image.path(part.role).unwrap()).unwrap();
        for (block, is_here) in incoming.scan(part.role).unwrap().into_iter().enumerate() {
            if is_here || copied == most {
                continue;
            }
            let mut content = vec![0; cut.len(block as u32) as usize];
            file.read_exact_at(&mut content, cut.offset(block as u32)).unwrap();
            incoming.write_block(part.role, block as u32, &content).unwrap();
            copied += 1;
        }
    }
    copied
}

/// An error and its causes, as the command line prints them.
pub fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text += &format!(": {cause}");
        next = cause.source();
    }
    text
}
