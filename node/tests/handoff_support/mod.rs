//! Two cloudlets of one mission with hypervisors without guests, and a service whose VMs have some memory and a disk.
#![allow(dead_code, reason = "every test binary uses a part of it")]
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests use real time and may panic; clippy recognises only the functions marked as tests"
)]

use std::net::SocketAddr;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use handheld::Client;
use handheld::api::{Handoff, HandoffState, Instance};
use mesh::trust::Authority;
use migration::VmId;
use migration::hypervisor::fake::hardware;
use vm_images::manifest::GuestOs;
use vm_images::qcow2::{self, Chain, LayerWriter};
use vm_images::{Digest, ImageId, Kind, Manifest, Role, Service, SigningKey, Store};

use crate::api_support::mission::{self, client};
use crate::api_support::ports::free;
use crate::api_support::{Daemon, World, images};

pub mod nodes;

/// Longest that anything may take here; a busy machine fails no test.
pub const LIMIT: Duration = Duration::from_secs(60);
pub const PAGE: usize = 4096;
/// Memory of the service's VMs, pages: 8 MiB.
pub const PAGES: u64 = 2048;
const DISK_BYTES: u64 = 8 << 20;
pub const CLUSTER: usize = LayerWriter::CLUSTER_BYTES as usize;

/// Bytes that do not compress.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

pub fn page(seed: u64) -> [u8; PAGE] {
    noise(seed, PAGE).try_into().unwrap()
}

/// Publishes `walker`: the same image, with the same id, in every store of the tests' key.
pub fn publish(store: &Store) -> ImageId {
    let base = store.by_name("base").unwrap().id;
    let draft = store.begin(Some(base)).unwrap();
    qcow2::create_overlay(&draft.path(Role::Disk), &draft.backing().unwrap(), DISK_BYTES).unwrap();
    let template = std::fs::File::create_new(draft.path(Role::MemoryTemplate)).unwrap();
    template.set_len(PAGES * PAGE as u64).unwrap();
    template.write_all_at(&noise(1, PAGES as usize * PAGE / 2), 0).unwrap();
    draft.add_bytes(Role::DeviceStream, b"devices").unwrap();
    let manifest = Manifest {
        format: vm_images::manifest::FORMAT,
        kind: Kind::Service,
        name: "walker".to_owned(),
        description: "for tests".to_owned(),
        created_unix_s: 1,
        recipe: Digest::of(b"walker"),
        parent: Some(base),
        hardware: hardware(),
        guest_os: GuestOs {
            id: "debian".to_owned(),
            version: "12".to_owned(),
            architecture: "x86_64".to_owned(),
        },
        parts: Vec::new(),
        service: Some(Service {
            id: "walker".parse().unwrap(),
            version: "1".to_owned(),
            description: "for tests".to_owned(),
            port: images::GUEST_PORT,
            health_path: "/healthz".to_owned(),
            needs_memory_bytes: images::ECHO_BYTES,
            needs_cpu_millis: 500,
            max_users: 3,
        }),
    };
    draft.publish(manifest).unwrap()
}

/// A cloudlet.
pub struct Site {
    pub world: World,
    pub daemon: Option<Daemon>,
}

impl Site {
    pub fn daemon(&self) -> &Daemon {
        self.daemon.as_ref().unwrap()
    }

    /// As its own operator.
    pub fn operator(&self) -> Client {
        client(self.daemon(), &self.world.config.trust_home().load().unwrap().unwrap())
    }

    pub fn kill(&mut self) {
        self.daemon.take().unwrap().kill();
    }

    pub fn start(&mut self) {
        self.daemon = Some(self.world.daemon());
    }

    /// Whether a VM executes here.
    pub fn executes(&self, vm: VmId) -> bool {
        self.world.hypervisor.fake().executes(vm)
    }

    pub fn write_disk(&self, vm: VmId, image: ImageId, clusters: &[(u64, Vec<u8>)]) {
        write_disk(&self.world, vm, image, clusters);
    }

    pub fn read_disk(&self, vm: VmId, cluster: u64) -> Vec<u8> {
        read_disk(&self.world, vm, cluster)
    }
}

fn disk(world: &World, vm: VmId) -> PathBuf {
    world.state_dir().join("instances").join(vm.to_string()).join("disk.qcow2")
}

/// Gives a VM's disk this content in these clusters, as if its guest had written it.
pub fn write_disk(world: &World, vm: VmId, image: ImageId, clusters: &[(u64, Vec<u8>)]) {
    let path = disk(world, vm);
    std::fs::remove_file(&path).unwrap();
    let backing = world.store.get(image).unwrap().path(Role::Disk).unwrap();
    let mut writer = LayerWriter::create(&path, Some(&backing), DISK_BYTES).unwrap();
    for (cluster, content) in clusters {
        writer.put(*cluster, content.as_slice().try_into().unwrap()).unwrap();
    }
    writer.finish().unwrap();
}

/// A cluster of a VM's disk.
pub fn read_disk(world: &World, vm: VmId, cluster: u64) -> Vec<u8> {
    let mut content = vec![0; CLUSTER];
    let mut chain = Chain::open(&disk(world, vm)).unwrap();
    chain.read(cluster * CLUSTER as u64, &mut content).unwrap();
    content
}

/// So many cloudlets that know each other and have `walker`; names `site-0`, `site-1`, ….
pub fn sites(authority: &Authority, count: usize, change: impl Fn(usize, &mut World)) -> Vec<Site> {
    let listens: Vec<SocketAddr> = (0..count).map(|_| free()).collect();
    let start = |at: usize| {
        let mut world = mission::join(authority, &format!("site-{at}"));
        world.config.mesh.enabled = true;
        world.config.mesh.multicast = false;
        world.config.mesh.listen = Some(listens[at]);
        world.config.mesh.peers =
            listens.iter().filter(|other| **other != listens[at]).map(ToString::to_string).collect();
        world.config.exchange.reserve_mib = 0;
        publish(&world.store);
        change(at, &mut world);
        Site { daemon: Some(world.daemon()), world }
    };
    (0..count).map(start).collect()
}

/// Stores that trust each other's images although their keys differ are not needed: every test store has this key.
pub fn signer() -> SigningKey {
    SigningKey::from_secret(&[7; 32])
}

/// Waits until something holds.
pub async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let begin = Instant::now();
    while !holds().await {
        assert!(begin.elapsed() < LIMIT, "waited too long: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until a cloudlet knows so many others.
pub async fn knows(site: &Site, others: usize) {
    let operator = site.operator();
    until("the others' adverts", || async {
        let peers = operator.peers().await.unwrap();
        let there = |peer: &&handheld::api::Peer| {
            !matches!(peer.reach, handheld::api::PeerReach::Own | handheld::api::PeerReach::Unreachable)
        };
        peers.iter().filter(there).count() == others
    })
    .await;
}

/// Waits until a handoff is so far, or has ended.
pub async fn reached(client: &Client, instance: &Instance, wanted: HandoffState) -> Handoff {
    let begin = Instant::now();
    loop {
        let handoff = client.handoff(instance.id).await.unwrap();
        if handoff.state == wanted {
            return handoff;
        }
        assert!(!handoff.state.is_final(), "waited for {wanted:?}: {handoff:?}");
        assert!(begin.elapsed() < LIMIT, "waited too long for {wanted:?}: {handoff:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
