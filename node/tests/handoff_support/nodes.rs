//! Nodes without API and mesh, and a network between them that strikes.

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use handheld::api::Sharing;
use mesh::NodeId;
use migration::VmId;
use migration::handoff::share::Priority;
use migration::hypervisor::Hypervisor;
use node::exchange::ByteStream;
use node::handoff::{self, Handoffs, Ways, settle};
use node::instances::{self, Instances, Settings, StoreImages};
use node::lifecycle::{self, Limits, Token};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::runtime::{Handle, Runtime};
use tokio::sync::watch;

use super::{CLUSTER, LIMIT, noise, page, publish, read_disk, write_disk};
use crate::api_support::World;

/// What happens at a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blow {
    Nothing,
    Cut,
    KillSource,
    KillDestination,
    /// It waits until the test lets it go on.
    Hold,
}

/// The network between two nodes: it counts frames, and strikes at one.
pub struct Net {
    pub runtime: Handle,
    pub nodes: Mutex<BTreeMap<NodeId, (Handle, Handoffs)>>,
    pub frames: AtomicUsize,
    pub at: usize,
    /// Kinds of the frames that went over, in order.
    pub kinds: Mutex<Vec<u8>>,
    pub blow: Blow,
    pub struck: AtomicBool,
    /// Streams of another generation are broken.
    pub generation: watch::Sender<u64>,
    /// Whether what waits may go on.
    pub released: watch::Sender<bool>,
}

struct Way(Arc<Net>, NodeId);

impl Ways for Way {
    fn open(&self, node: NodeId) -> BoxFuture<'_, io::Result<ByteStream>> {
        let opened = self.0.nodes.lock().unwrap().get(&node).cloned();
        let (net, me) = (Arc::clone(&self.0), self.1);
        Box::pin(async move {
            let (handle, handoffs) = opened.ok_or(io::ErrorKind::HostUnreachable)?;
            let (ours, near) = tokio::io::duplex(16 * 1024);
            let (far, theirs) = tokio::io::duplex(16 * 1024);
            let pumping = Arc::clone(&net);
            net.runtime.spawn(async move { pumping.carry(near, far).await });
            handle.spawn(async move { handoffs.accept(me, Box::new(theirs)).await });
            Ok(Box::new(ours) as ByteStream)
        })
    }

    fn is_there(&self, node: NodeId) -> bool {
        self.0.nodes.lock().unwrap().contains_key(&node)
    }

    fn round_trip(&self, _: NodeId) -> Option<Duration> {
        Some(Duration::from_millis(1))
    }

    fn api(&self, node: NodeId) -> Option<String> {
        Some(format!("https://{node}"))
    }
}

impl Net {
    pub async fn carry(&self, near: DuplexStream, far: DuplexStream) {
        let mut generation = self.generation.subscribe();
        generation.mark_unchanged();
        let (near, far) = (tokio::io::split(near), tokio::io::split(far));
        let pumps = async { tokio::join!(self.pump(near.0, far.1), self.pump(far.0, near.1)) };
        tokio::select! {
            _ = pumps => {}
            _ = generation.changed() => {}
        }
    }

    pub async fn pump(
        &self,
        mut from: tokio::io::ReadHalf<DuplexStream>,
        mut to: tokio::io::WriteHalf<DuplexStream>,
    ) -> Option<()> {
        loop {
            let mut frame = vec![0; 4];
            if from.read_exact(&mut frame).await.is_err() {
                let _ = to.shutdown().await;
                return None;
            }
            let length = u32::from_le_bytes(frame[..4].try_into().unwrap()) as usize;
            frame.resize(4 + length, 0);
            from.read_exact(&mut frame[4..]).await.ok()?;
            self.kinds.lock().unwrap().push(frame[4]);
            if self.frames.fetch_add(1, Ordering::SeqCst) == self.at && self.blow != Blow::Nothing {
                self.struck.store(true, Ordering::SeqCst);
                if self.blow == Blow::Hold {
                    self.released.subscribe().wait_for(|released| *released).await.ok()?;
                    to.write_all(&frame).await.ok()?;
                    continue;
                }
                // The half of it, and then nothing on any stream. Other blows: it is never delivered, because who sent it,
                // or who should get it, dies.
                if self.blow == Blow::Cut {
                    let _ = to.write_all(&frame[..frame.len() / 2]).await;
                    self.generation.send_modify(|generation| *generation += 1);
                }
                return std::future::pending().await;
            }
            to.write_all(&frame).await.ok()?;
        }
    }
}

/// A node without its API and mesh.
pub struct Node {
    pub world: World,
    pub id: NodeId,
    pub runtime: Option<Runtime>,
    pub running: Option<(Instances, Handoffs)>,
}

impl Node {
    pub fn new(byte: u8) -> Self {
        Self::keeping(byte, World::new())
    }

    /// A node with this state directory.
    pub fn at(byte: u8, state: PathBuf) -> Self {
        let mut world = World::new();
        world.config.node.state_dir = state;
        Self::keeping(byte, world)
    }

    fn keeping(byte: u8, world: World) -> Self {
        publish(&world.store);
        std::fs::create_dir_all(world.state_dir()).unwrap();
        Self { world, id: NodeId::from_bytes([byte; NodeId::BYTES]), runtime: None, running: None }
    }

    pub fn start(&mut self, net: &Arc<Net>) {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let state = self.world.state_dir();
        let journal = again(|| instances::Journal::open(&state.join("records")));
        let records = again(|| handoff::Journal::open(&state.join("handoffs")));
        let hypervisor = Arc::new(self.world.hypervisor.reconnect());
        let host = hypervisor.host().unwrap();
        let estate = settle(&records, &*hypervisor).unwrap();
        let limits = Limits {
            max_instances: 8,
            memory_total_bytes: 1 << 30,
            memory_reserve_bytes: 0,
            cpu_millis: 8000,
            idle_stop: LIMIT * 10,
            user_timeout: None,
            start_limit: LIMIT,
        };
        let bind = Ipv4Addr::LOCALHOST.into();
        let directory = state.join("instances");
        let settings = Settings { limits, bind, directory: directory.clone(), mission_ends: None };
        let tools = instances::Tools {
            hypervisor: hypervisor.clone(),
            images: Arc::new(StoreImages::new(self.world.store.clone(), host.clone())),
            meter: self.world.meter.clone(),
        };
        let started = instances::start_after(settings, tools, journal, estate.clone());
        let (instances, owner) = runtime.block_on(started).unwrap();
        // It ends with its runtime.
        drop(owner);
        let tools = handoff::Tools {
            node: self.id,
            hypervisor,
            host,
            instances: instances.clone(),
            store: self.world.store.clone(),
            ways: Arc::new(Way(Arc::clone(net), self.id)),
            exchange: None,
            journal: records,
            directory,
            own: state.join("handoff"),
            bind,
            limits: migration::handoff::Limits::default(),
        };
        let _inside = runtime.enter();
        let handoffs = Handoffs::start(tools, &estate).unwrap();
        net.nodes.lock().unwrap().insert(self.id, (runtime.handle().clone(), handoffs.clone()));
        self.running = Some((instances, handoffs));
        drop(_inside);
        self.runtime = Some(runtime);
    }

    /// Every task ends where it is; only calls of the hypervisor that are under way come to their end.
    pub fn kill(&mut self, net: &Net) {
        net.nodes.lock().unwrap().remove(&self.id);
        self.running = None;
        self.runtime.take().unwrap().shutdown_timeout(LIMIT);
        // Streams end with a process.
        net.generation.send_modify(|generation| *generation += 1);
    }

    pub fn executes(&self, vm: VmId) -> bool {
        self.world.hypervisor.fake().executes(vm)
    }
}

/// Records of a node that was killed a moment ago may still be held, as those of no process are.
pub fn again<T, E: std::fmt::Debug>(mut open: impl FnMut() -> Result<T, E>) -> T {
    let begin = Instant::now();
    loop {
        match open() {
            Ok(opened) => return opened,
            Err(error) => assert!(begin.elapsed() < LIMIT, "{error:?}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < LIMIT, "waited too long: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A network with a blow at a frame.
pub fn network(runtime: &Runtime, blow: Blow, at: usize) -> Arc<Net> {
    Arc::new(Net {
        runtime: runtime.handle().clone(),
        nodes: Mutex::default(),
        frames: AtomicUsize::new(0),
        at,
        kinds: Mutex::default(),
        blow,
        struck: AtomicBool::new(false),
        generation: watch::Sender::new(0),
        released: watch::Sender::new(false),
    })
}

pub fn is_ready(instance: &lifecycle::Instance) -> bool {
    matches!(instance.phase, lifecycle::Phase::Ready { .. })
}

/// Orders a VM that has written something to move. Gives it and the digest of its memory.
pub fn begin(source: &Node, target: &Node) -> (VmId, [u8; 32]) {
    let (vm, wanted) = walking(source, "phone", Sharing::Shared);
    order(source, vm, target, Priority::default());
    (vm, wanted)
}

/// Orders a VM to move.
pub fn order(source: &Node, vm: VmId, target: &Node, priority: Priority) {
    let (_, handoffs) = source.running.clone().unwrap();
    source.runtime.as_ref().unwrap().block_on(handoffs.order(vm, target.id, priority)).unwrap();
}

/// A VM that has written something, and the digest of its memory.
pub fn walking(source: &Node, user: &str, sharing: Sharing) -> (VmId, [u8; 32]) {
    let (instances, _) = source.running.clone().unwrap();
    let runtime = source.runtime.as_ref().unwrap();
    let token = Token::try_from(user.to_owned()).unwrap();
    let asked = runtime.block_on(instances.start(&"walker".parse().unwrap(), token, sharing));
    let vm = asked.unwrap().0.vm;
    wait_until("it is ready", || {
        runtime.block_on(instances.get(vm, None)).unwrap().is_some_and(|instance| is_ready(&instance))
    });
    source.world.hypervisor.fake().adopt(vm).unwrap();
    source.world.hypervisor.fake().agent_write_file(vm, "/root/own", b"own").unwrap();
    let image = source.world.store.by_name("walker").unwrap().id;
    source.write_disk(vm, image);
    for number in 0..30 {
        source.world.hypervisor.fake().write_page(vm, number, &page(number + 500)).unwrap();
    }
    let wanted = source.world.hypervisor.fake().memory_digest(vm).unwrap();
    (vm, wanted)
}

impl Node {
    pub fn write_disk(&self, vm: VmId, image: vm_images::ImageId) {
        write_disk(&self.world, vm, image, &[(3, noise(30, CLUSTER))]);
    }

    pub fn read_disk(&self, vm: VmId) -> Vec<u8> {
        read_disk(&self.world, vm, 3)
    }
}

/// The VM runs there as it was: memory, what its guest remembers, disk; and its instance serves its one user.
pub fn arrived_whole(target: &Node, vm: VmId, memory: [u8; 32], what: &str) {
    let fake = target.world.hypervisor.fake();
    fake.adopt(vm).unwrap();
    assert_eq!(fake.memory_digest(vm).unwrap(), memory, "{what}: its memory");
    assert_eq!(fake.guest_file(vm, "/root/own").unwrap().unwrap(), b"own", "{what}");
    assert_eq!(target.read_disk(vm), noise(30, CLUSTER), "{what}: its disk");
    let (instances, _) = target.running.as_ref().unwrap();
    let there = target.runtime.as_ref().unwrap();
    let instance = || there.block_on(instances.get(vm, None)).unwrap();
    wait_until("it serves", || instance().is_some_and(|instance| is_ready(&instance)));
    assert_eq!(instance().unwrap().users.len(), 1, "{what}");
}
