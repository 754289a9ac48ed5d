//! At every single frame of a handoff: the link is cut, the source is killed, the destination is killed. The VM never runs twice,
//! nothing that it wrote is lost, and in the end it runs where it was sent. Everything is real but guests and network.
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "tests use real time and may panic"
)]

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use handheld::api::Sharing;
use mesh::NodeId;
use migration::VmId;
use migration::hypervisor::Hypervisor;
use node::exchange::ByteStream;
use node::handoff::{self, Handoffs, Phase, Ways, settle};
use node::instances::{self, Instances, Settings, StoreImages};
use node::lifecycle::{self, Limits, Token};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::runtime::{Handle, Runtime};
use tokio::sync::watch;

mod api_support;
mod handoff_support;

use api_support::World;
use handoff_support::*;

/// What happens at a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blow {
    Nothing,
    Cut,
    KillSource,
    KillDestination,
}

/// The network between two nodes: it counts frames, and strikes at one.
struct Net {
    runtime: Handle,
    nodes: Mutex<BTreeMap<NodeId, (Handle, Handoffs)>>,
    frames: AtomicUsize,
    at: usize,
    /// Kinds of the frames that went over, in order.
    kinds: Mutex<Vec<u8>>,
    blow: Blow,
    struck: AtomicBool,
    /// Streams of another generation are broken.
    generation: watch::Sender<u64>,
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
    async fn carry(&self, near: DuplexStream, far: DuplexStream) {
        let mut generation = self.generation.subscribe();
        generation.mark_unchanged();
        let (near, far) = (tokio::io::split(near), tokio::io::split(far));
        let pumps = async { tokio::join!(self.pump(near.0, far.1), self.pump(far.0, near.1)) };
        tokio::select! {
            _ = pumps => {}
            _ = generation.changed() => {}
        }
    }

    async fn pump(
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
struct Node {
    world: World,
    id: NodeId,
    runtime: Option<Runtime>,
    running: Option<(Instances, Handoffs)>,
}

impl Node {
    fn new(byte: u8) -> Self {
        let world = World::new();
        publish(&world.store);
        std::fs::create_dir_all(world.state_dir()).unwrap();
        Self { world, id: NodeId::from_bytes([byte; NodeId::BYTES]), runtime: None, running: None }
    }

    fn start(&mut self, net: &Arc<Net>) {
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
    fn kill(&mut self, net: &Net) {
        net.nodes.lock().unwrap().remove(&self.id);
        self.running = None;
        self.runtime.take().unwrap().shutdown_timeout(LIMIT);
        // Streams end with a process.
        net.generation.send_modify(|generation| *generation += 1);
    }

    fn executes(&self, vm: VmId) -> bool {
        self.world.hypervisor.fake().executes(vm)
    }
}

/// Records of a node that was killed a moment ago may still be held, as those of no process are.
fn again<T, E: std::fmt::Debug>(mut open: impl FnMut() -> Result<T, E>) -> T {
    let begin = Instant::now();
    loop {
        match open() {
            Ok(opened) => return opened,
            Err(error) => assert!(begin.elapsed() < LIMIT, "{error:?}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < LIMIT, "waited too long: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A network with a blow at a frame.
fn network(runtime: &Runtime, blow: Blow, at: usize) -> Arc<Net> {
    Arc::new(Net {
        runtime: runtime.handle().clone(),
        nodes: Mutex::default(),
        frames: AtomicUsize::new(0),
        at,
        kinds: Mutex::default(),
        blow,
        struck: AtomicBool::new(false),
        generation: watch::Sender::new(0),
    })
}

fn is_ready(instance: &lifecycle::Instance) -> bool {
    matches!(instance.phase, lifecycle::Phase::Ready { .. })
}

/// Orders a VM that has written something to move. Gives it and the digest of its memory.
fn begin(source: &Node, target: &Node) -> (VmId, [u8; 32]) {
    let (instances, handoffs) = source.running.clone().unwrap();
    let runtime = source.runtime.as_ref().unwrap();
    let token = Token::try_from("phone".to_owned()).unwrap();
    let asked = runtime.block_on(instances.start(&"walker".parse().unwrap(), token, Sharing::Shared));
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
    runtime.block_on(handoffs.order(vm, target.id)).unwrap();
    (vm, wanted)
}

/// Moves a VM, with a blow at a frame. Gives the kinds of all frames, and whether the blow fell.
fn moves(blow: Blow, at: usize) -> (Vec<u8>, bool) {
    let runtime = Runtime::new().unwrap();
    let net = network(&runtime, blow, at);
    let (mut source, mut target) = (Node::new(1), Node::new(2));
    source.start(&net);
    target.start(&net);
    let what = format!("{blow:?} at frame {at}");
    let (vm, wanted) = begin(&source, &target);

    let begin = Instant::now();
    let mut dead = false;
    loop {
        assert!(!(source.executes(vm) && target.executes(vm)), "{what}: it runs twice");
        if net.struck.load(Ordering::SeqCst) && !dead {
            dead = true;
            match blow {
                Blow::KillSource => {
                    source.kill(&net);
                    assert!(!(source.executes(vm) && target.executes(vm)), "{what}: it runs twice");
                    source.start(&net);
                }
                Blow::KillDestination => {
                    target.kill(&net);
                    target.start(&net);
                }
                Blow::Nothing | Blow::Cut => {}
            }
        }
        let there = target.executes(vm) && !source.world.hypervisor.running().contains(&vm);
        // Whoever is in doubt about it, or must be told, has been told.
        let settled = net.nodes.lock().unwrap()[&source.id].1.moved(vm).is_some();
        if there && settled && (dead || matches!(blow, Blow::Nothing) || ended(&net, source.id, vm)) {
            break;
        }
        let status = net.nodes.lock().unwrap()[&source.id].1.status(vm);
        assert!(
            begin.elapsed() < LIMIT,
            "{what}: it is not there: {status:?}, source executes: {}, target: {}",
            source.executes(vm),
            target.executes(vm)
        );
        std::thread::sleep(Duration::from_millis(1));
    }
    let fake = target.world.hypervisor.fake();
    fake.adopt(vm).unwrap();
    assert_eq!(fake.memory_digest(vm).unwrap(), wanted, "{what}: its memory");
    assert_eq!(fake.guest_file(vm, "/root/own").unwrap().unwrap(), b"own", "{what}");
    assert_eq!(target.read_disk(vm), noise(30, CLUSTER), "{what}: its disk");
    let (instances, _) = target.running.clone().unwrap();
    let there = target.runtime.as_ref().unwrap();
    wait_until("it serves", || {
        there.block_on(instances.get(vm, None)).unwrap().is_some_and(|instance| is_ready(&instance))
    });
    let users = there.block_on(instances.get(vm, None)).unwrap().unwrap().users.len();
    assert_eq!(users, 1, "{what}");
    drop(instances);
    let result = (net.kinds.lock().unwrap().clone(), dead);
    source.kill(&net);
    target.kill(&net);
    runtime.shutdown_background();
    result
}

fn ended(net: &Net, node: NodeId, vm: VmId) -> bool {
    let status = net.nodes.lock().unwrap()[&node].1.status(vm);
    status.is_some_and(|status| status.phase == Phase::Done)
}

impl Node {
    fn write_disk(&self, vm: VmId, image: vm_images::ImageId) {
        write_disk(&self.world, vm, image, &[(3, noise(30, CLUSTER))]);
    }

    fn read_disk(&self, vm: VmId) -> Vec<u8> {
        read_disk(&self.world, vm, 3)
    }
}

/// At every frame, some at a time.
fn at_every_frame(blow: Blow) {
    let (kinds, _) = moves(Blow::Nothing, usize::MAX);
    println!("a handoff has {} frames: kinds {kinds:?}", kinds.len());
    let next = AtomicUsize::new(0);
    let fell = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::SeqCst);
                    if at >= kinds.len() {
                        return;
                    }
                    let (_, dead) = moves(blow, at);
                    fell.fetch_add(usize::from(dead), Ordering::SeqCst);
                }
            });
        }
    });
    let fell = fell.into_inner();
    println!("{blow:?} at {fell} of {} frames", kinds.len());
    // Repeated words come or do not come, so the last of all may be missing now and then.
    assert!(fell + 2 >= kinds.len(), "{fell} of {}", kinds.len());
}

#[test]
fn a_cut_at_any_frame() {
    at_every_frame(Blow::Cut);
}

#[test]
fn a_source_that_is_killed_at_any_frame() {
    at_every_frame(Blow::KillSource);
}

#[test]
fn a_destination_that_is_killed_at_any_frame() {
    at_every_frame(Blow::KillDestination);
}

/// What became of a VM whose destination was lost at a frame, for good as far as anybody knows.
#[derive(Debug, PartialEq, Eq)]
enum Lost {
    /// There was no need: it was known where it runs.
    Known,
    /// An operator had to say so, and the destination never ran it.
    Forced,
    /// The same, but the operator was wrong: the destination ran it, too, until both met again.
    Twice,
}

/// Loses the destination at a frame, has an operator vouch that it is gone for good, and has it come back all the same.
fn forces(at: usize) -> Lost {
    let runtime = Runtime::new().unwrap();
    let net = network(&runtime, Blow::KillDestination, at);
    let (mut source, mut target) = (Node::new(1), Node::new(2));
    source.start(&net);
    target.start(&net);
    let (vm, wanted) = begin(&source, &target);
    let phase = || net.nodes.lock().unwrap()[&source.id].1.status(vm).map(|status| status.phase);
    wait_until("the blow falls, or it is done", || {
        net.struck.load(Ordering::SeqCst) || phase() == Some(Phase::Done)
    });
    target.kill(&net);
    let (_, handoffs) = source.running.clone().unwrap();
    let here = source.runtime.as_ref().unwrap();
    // A word that is lost is said again, so a doubt may begin after the blow.
    let mut forced = false;
    wait_until("it runs here, has left, or is in doubt", || {
        forced = here.block_on(handoffs.force(vm)).is_ok();
        forced || source.executes(vm) || handoffs.moved(vm).is_some()
    });
    let mut result = Lost::Known;
    if forced {
        wait_until("it runs on here", || source.executes(vm));
        assert_eq!(source.world.hypervisor.fake().memory_digest(vm).unwrap(), wanted, "frame {at}");
        assert!(matches!(phase(), Some(Phase::Failed { .. })), "{:?}", phase());
        assert!(here.block_on(handoffs.force(vm)).is_err(), "nothing is in doubt any more");
        result = if target.executes(vm) { Lost::Twice } else { Lost::Forced };
        target.start(&net);
        wait_until("only one runs after both have met", || !target.executes(vm) && source.executes(vm));
        target.kill(&net);
    }
    drop(handoffs);
    source.kill(&net);
    runtime.shutdown_background();
    result
}

#[test]
fn an_operator_says_that_a_destination_is_gone_rightly_and_wrongly() {
    let (kinds, _) = moves(Blow::Nothing, usize::MAX);
    // The doubt is at the end: commit, and the word that it runs there.
    let ends: Vec<Lost> = (kinds.len().saturating_sub(8)..kinds.len()).map(forces).collect();
    println!("{ends:?}");
    assert!(ends.contains(&Lost::Forced) && ends.contains(&Lost::Twice), "{ends:?}");
}
