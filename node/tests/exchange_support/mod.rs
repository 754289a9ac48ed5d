//! A network of stores in memory, with peers that lie, die and are slow, and counters on every stream.
#![allow(dead_code, reason = "every test binary uses another part of it")]
#![allow(
    clippy::unwrap_used,
    reason = "tests may panic; clippy recognises only the functions marked as tests"
)]

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use mesh::NodeId;
use mesh::exchange::policy::Holdings;
use node::exchange::{ByteStream, Config, Exchange, Peers, Phase, Progress, Running};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use vm_images::manifest::{Accelerator, FORMAT, GuestOs};
use vm_images::{Digest, Hardware, ImageId, Kind, Manifest, Role, Service, SigningKey, Store, qcow2};

/// Longer than any test needs on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(60);
/// Guest memory of test images, bytes: a few hundred blocks, of which a third has content.
pub const MEMORY_BYTES: u64 = 24 * 1024 * 1024;

pub fn node(byte: u8) -> NodeId {
    NodeId::from_bytes([byte; NodeId::BYTES])
}

pub fn open(root: &Path, seed: u8) -> Store {
    Store::open(root, SigningKey::from_secret(&[seed; 32])).unwrap()
}

/// Bytes that do not compress.
pub fn noise(seed: u8, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    let mut reader = blake3::Hasher::new().update(&[seed]).finalize_xof();
    reader.fill(&mut bytes);
    bytes
}

fn hardware() -> Hardware {
    Hardware {
        machine: "pc-q35-10.0".to_owned(),
        cpu_model: "Nehalem".to_owned(),
        accelerator: Accelerator::Tcg,
        topology: 1,
        memory_bytes: MEMORY_BYTES,
        vcpus: 1,
        command_line: "console=ttyS0".to_owned(),
    }
}

fn manifest(kind: Kind, name: &str, parent: Option<ImageId>, seed: u8) -> Manifest {
    let service = Service {
        id: "speech".parse().unwrap(),
        version: "1".to_owned(),
        description: "answers".to_owned(),
        port: 8080,
        health_path: "/healthz".to_owned(),
        needs_memory_bytes: MEMORY_BYTES,
        needs_cpu_millis: 1000,
        max_users: 4,
    };
    Manifest {
        format: FORMAT,
        kind,
        name: name.to_owned(),
        description: "a test's image".to_owned(),
        created_unix_s: 1_790_000_000 + u64::from(seed),
        recipe: Digest::of(&[seed]),
        parent,
        hardware: hardware(),
        guest_os: GuestOs {
            id: "debian".to_owned(),
            version: "12".to_owned(),
            architecture: "x86_64".to_owned(),
        },
        parts: Vec::new(),
        service: (kind == Kind::Service).then_some(service),
    }
}

/// A third of the memory is noise, a third is the same in every image, a third is zeros.
fn memory(path: &Path, seed: u8) {
    let third = MEMORY_BYTES / 3;
    let file = std::fs::File::create_new(path).unwrap();
    file.set_len(MEMORY_BYTES).unwrap();
    file.write_all_at(&noise(seed, third as usize), 0).unwrap();
    file.write_all_at(&noise(200, third as usize), third).unwrap();
}

pub fn publish_base(store: &Store, seed: u8) -> ImageId {
    let draft = store.begin(None).unwrap();
    qcow2::create(&draft.path(Role::Disk), 32 << 20).unwrap();
    draft.add_bytes(Role::Kernel, &noise(seed, 100_000)).unwrap();
    memory(&draft.path(Role::MemoryTemplate), seed);
    draft.add_bytes(Role::DeviceStream, b"devices").unwrap();
    draft.publish(manifest(Kind::Base, "base", None, seed)).unwrap()
}

pub fn publish_service(store: &Store, base: ImageId, seed: u8) -> ImageId {
    let draft = store.begin(Some(base)).unwrap();
    qcow2::create_overlay(&draft.path(Role::Disk), &draft.backing().unwrap(), 32 << 20).unwrap();
    memory(&draft.path(Role::MemoryTemplate), seed);
    draft.add_bytes(Role::DeviceStream, b"devices of the service").unwrap();
    draft.publish(manifest(Kind::Service, "speech", Some(base), seed)).unwrap()
}

/// A store with a base image and a service.
pub fn holder(root: &Path) -> (Store, ImageId, ImageId) {
    let store = open(root, 1);
    let base = publish_base(&store, 10);
    let service = publish_service(&store, base, 11);
    (store, base, service)
}

/// What a peer does with its answers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Manner {
    Honest,
    /// Flips a bit in every answer after this many bytes.
    Flips {
        after: u64,
    },
    /// Ends every stream after this many bytes in all.
    Dies {
        after: u64,
    },
    /// Sends at most this many bytes per second.
    Slow {
        bytes_per_s: u64,
    },
    /// Sends what these bytes are, again and again, whatever it is asked for.
    Raves(&'static [u8]),
}

pub struct Member {
    pub exchange: Exchange,
    pub manner: Manner,
    pub holdings: Holdings,
    /// Bytes that it sent.
    pub sent: Arc<AtomicU64>,
    pub opened: Arc<AtomicU64>,
}

/// Everybody, as one node sees them.
#[derive(Clone)]
pub struct Network {
    me: NodeId,
    pub members: Arc<Mutex<BTreeMap<NodeId, Member>>>,
    changes: Arc<watch::Sender<u64>>,
}

impl Network {
    pub fn new(me: NodeId) -> Self {
        Self { me, members: Arc::default(), changes: Arc::new(watch::Sender::new(0)) }
    }

    /// Adds a store that serves its images in this manner.
    pub fn add(&self, byte: u8, store: &Store, manner: Manner) {
        let nobody = Self::new(node(byte));
        let (exchange, running) = Exchange::start(store.clone(), Arc::new(nobody), Config::default());
        drop(running);
        let mut holdings = Holdings::default();
        for image in store.list().unwrap().images {
            match &image.manifest.service {
                // The newest: they come first.
                Some(service) => drop(holdings.images.entry(service.id.clone()).or_insert(image.id)),
                None => drop(holdings.base_images.insert(image.id)),
            }
        }
        let member = Member { exchange, manner, holdings, sent: Arc::default(), opened: Arc::default() };
        self.members.lock().unwrap().insert(node(byte), member);
        self.changes.send_modify(|count| *count += 1);
    }

    pub fn remove(&self, byte: u8) {
        self.members.lock().unwrap().remove(&node(byte));
        self.changes.send_modify(|count| *count += 1);
    }

    pub fn set_manner(&self, byte: u8, manner: Manner) {
        self.members.lock().unwrap().get_mut(&node(byte)).unwrap().manner = manner;
    }

    pub fn sent(&self, byte: u8) -> u64 {
        self.members.lock().unwrap()[&node(byte)].sent.load(Ordering::SeqCst)
    }

    pub fn opened(&self, byte: u8) -> u64 {
        self.members.lock().unwrap()[&node(byte)].opened.load(Ordering::SeqCst)
    }

    pub fn all_sent(&self) -> u64 {
        self.members.lock().unwrap().values().map(|member| member.sent.load(Ordering::SeqCst)).sum()
    }
}

impl Peers for Network {
    fn members(&self) -> BTreeMap<NodeId, Holdings> {
        let members = self.members.lock().unwrap();
        members.iter().map(|(node, member)| (*node, member.holdings.clone())).collect()
    }

    fn changed(&self) -> BoxFuture<'_, ()> {
        let mut changes = self.changes.subscribe();
        Box::pin(async move { drop(changes.changed().await) })
    }

    fn open(&self, node: NodeId) -> BoxFuture<'_, io::Result<ByteStream>> {
        let me = self.me;
        let opened = (|| {
            let members = self.members.lock().unwrap();
            let member = members.get(&node).ok_or(io::ErrorKind::HostUnreachable)?;
            member.opened.fetch_add(1, Ordering::SeqCst);
            let (ours, theirs) = tokio::io::duplex(256 * 1024);
            if let Manner::Raves(bytes) = member.manner {
                tokio::spawn(rave(theirs, bytes, Arc::clone(&member.sent)));
                return Ok(Box::new(ours) as ByteStream);
            }
            // A pump of its own, so that what it does to the bytes costs its own time.
            let (near, far) = tokio::io::duplex(256 * 1024);
            let exchange = member.exchange.clone();
            tokio::spawn(async move { exchange.serve(me, Box::new(far)).await });
            tokio::spawn(pump(near, theirs, member.manner, Arc::clone(&member.sent)));
            Ok(Box::new(ours) as ByteStream)
        })();
        Box::pin(async move { opened })
    }
}

async fn rave(stream: tokio::io::DuplexStream, bytes: &'static [u8], sent: Arc<AtomicU64>) {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let reading = async {
        let mut sink = vec![0; 4096];
        while reader.read(&mut sink).await.is_ok_and(|count| count > 0) {}
    };
    let writing = async {
        while writer.write_all(bytes).await.is_ok() {
            sent.fetch_add(bytes.len() as u64, Ordering::SeqCst);
        }
    };
    tokio::join!(reading, writing);
}

/// Between the server (`near`) and the fetcher (`theirs`).
async fn pump(
    near: tokio::io::DuplexStream,
    theirs: tokio::io::DuplexStream,
    manner: Manner,
    sent: Arc<AtomicU64>,
) {
    let (mut from_server, mut to_server) = tokio::io::split(near);
    let (mut from_fetcher, mut to_fetcher) = tokio::io::split(theirs);
    let asking = async {
        let _ = tokio::io::copy(&mut from_fetcher, &mut to_server).await;
        let _ = to_server.shutdown().await;
    };
    let answering = async {
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(count @ 1..) = from_server.read(&mut buffer).await {
            let before = sent.fetch_add(count as u64, Ordering::SeqCst);
            match manner {
                Manner::Flips { after } if before >= after => buffer[count / 2] ^= 1,
                Manner::Dies { after } if before >= after => break,
                Manner::Slow { bytes_per_s } => {
                    tokio::time::sleep(Duration::from_micros(count as u64 * 1_000_000 / bytes_per_s)).await;
                }
                _ => {}
            }
            if to_fetcher.write_all(&buffer[..count]).await.is_err() {
                break;
            }
        }
        let _ = to_fetcher.shutdown().await;
    };
    // Dead is dead in both directions.
    tokio::select! {
        () = asking => {}
        () = answering => {}
    }
}

/// A node that fetches.
pub struct Fetcher {
    pub store: Store,
    pub network: Network,
    pub exchange: Exchange,
    pub running: Running,
}

impl Fetcher {
    pub fn new(root: &Path, network: &Network, config: Config) -> Self {
        let store = open(root, 2);
        store.trust(SigningKey::from_secret(&[1; 32]).public()).unwrap();
        let (exchange, running) = Exchange::start(store.clone(), Arc::new(network.clone()), config);
        Self { store, network: network.clone(), exchange, running }
    }

    pub async fn fetch(&self, image: ImageId) -> Progress {
        ended(self.exchange.fetch(image, None).await.unwrap()).await
    }
}

/// How a fetch ended.
pub async fn ended(progress: watch::Receiver<Progress>) -> Progress {
    reached(progress, |progress| progress.phase.is_end()).await
}

pub async fn reached(progress: watch::Receiver<Progress>, wanted: impl Fn(&Progress) -> bool) -> Progress {
    let mut waiting = progress.clone();
    let wait = waiting.wait_for(wanted);
    match tokio::time::timeout(LIMIT, wait).await {
        Ok(reached) => reached.unwrap().clone(),
        Err(_) => panic!("the fetch takes too long: {:?}", progress.borrow()),
    }
}

pub fn failed(progress: &Progress) -> &str {
    match &progress.phase {
        Phase::Failed(reason) => reason,
        other => panic!("it did not fail: {other:?}"),
    }
}

/// Whether the image is whole in both stores, and as sparse as it was.
pub fn assert_same(from: &Store, to: &Store, image: ImageId) {
    to.verify(image).unwrap();
    let (one, other) = (from.get(image).unwrap(), to.get(image).unwrap());
    for part in &one.manifest.parts {
        let blocks =
            |image: &vm_images::Image| std::fs::metadata(image.path(part.role).unwrap()).unwrap().blocks();
        assert!(blocks(&other) <= blocks(&one) + 16, "{} is less sparse than it was", part.role.title());
    }
}

/// Peers behind one TCP address.
pub struct Remote {
    pub address: SocketAddr,
    pub holdings: Holdings,
}

impl Peers for Remote {
    fn members(&self) -> BTreeMap<NodeId, Holdings> {
        BTreeMap::from([(node(1), self.holdings.clone())])
    }

    fn changed(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::pending())
    }

    fn open(&self, _: NodeId) -> BoxFuture<'_, io::Result<ByteStream>> {
        Box::pin(async move { Ok(Box::new(TcpStream::connect(self.address).await?) as ByteStream) })
    }
}

/// Serves a member of a network on TCP.
pub async fn serve_tcp(network: &Network, byte: u8) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let network = network.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut member = network.open(node(byte)).await.unwrap();
            tokio::spawn(async move { drop(tokio::io::copy_bidirectional(&mut stream, &mut member).await) });
        }
    });
    address
}

pub fn holdings(images: &[(&str, ImageId)]) -> Holdings {
    let images = images.iter().map(|(service, image)| (service.parse().unwrap(), *image)).collect();
    Holdings { images, ..Holdings::default() }
}
