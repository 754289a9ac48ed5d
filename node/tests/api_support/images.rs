//! A store with a base image and two services, a few KiB each.

use std::path::Path;

use migration::hypervisor::fake::hardware;
use vm_images::manifest::GuestOs;
use vm_images::{Digest, Hardware, ImageId, Kind, Manifest, Role, Service, SigningKey, Store, qcow2};

use super::MIB;

/// Port of every service in its guest.
pub const GUEST_PORT: u16 = 8080;
/// What `echo` needs.
pub const ECHO_BYTES: u64 = 100 * MIB;

pub fn store(root: &Path) -> Store {
    let store = Store::open(root, SigningKey::from_secret(&[7; 32])).unwrap();
    let base = base(&store);
    service(&store, base, "echo", 3, "pc-q35-10.0");
    service(&store, base, "solo", 1, "pc-q35-10.0");
    store
}

fn manifest(name: &str, kind: Kind, parent: Option<ImageId>, machine: &str) -> Manifest {
    Manifest {
        format: vm_images::manifest::FORMAT,
        kind,
        name: name.into(),
        description: "for tests".into(),
        created_unix_s: 1,
        recipe: Digest::of(name.as_bytes()),
        parent,
        hardware: Hardware { machine: machine.into(), ..hardware() },
        guest_os: GuestOs { id: "debian".into(), version: "12".into(), architecture: "x86_64".into() },
        parts: Vec::new(),
        service: None,
    }
}

fn base(store: &Store) -> ImageId {
    let draft = store.begin(None).unwrap();
    qcow2::create(&draft.path(Role::Disk), 1 << 20).unwrap();
    draft.publish(manifest("base", Kind::Base, None, "pc-q35-10.0")).unwrap()
}

pub fn service(store: &Store, base: ImageId, name: &str, max_users: u32, machine: &str) -> ImageId {
    with_memory(store, base, name, max_users, machine, &[7; 4096])
}

/// A service that it takes a while to fetch: this is its memory.
pub fn large(store: &Store, name: &str, memory: &[u8]) -> ImageId {
    let base = store.by_name("base").unwrap().id;
    with_memory(store, base, name, 3, "pc-q35-10.0", memory)
}

fn with_memory(
    store: &Store,
    base: ImageId,
    name: &str,
    max_users: u32,
    machine: &str,
    memory: &[u8],
) -> ImageId {
    let draft = store.begin(Some(base)).unwrap();
    qcow2::create_overlay(&draft.path(Role::Disk), &draft.backing().unwrap(), 1 << 20).unwrap();
    draft.add_bytes(Role::MemoryTemplate, memory).unwrap();
    draft.add_bytes(Role::DeviceStream, b"stream").unwrap();
    let mut manifest = manifest(name, Kind::Service, Some(base), machine);
    manifest.service = Some(Service {
        id: name.parse().unwrap(),
        version: "1".into(),
        description: "for tests".into(),
        port: GUEST_PORT,
        health_path: "/healthz".into(),
        needs_memory_bytes: ECHO_BYTES,
        needs_cpu_millis: 500,
        max_users,
    });
    draft.publish(manifest).unwrap()
}
