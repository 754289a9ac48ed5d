//! A destination that comes short of something during a handoff: disk, memory, a hypervisor that does as it is told. The VM runs
//! on at its source with the reason said, nothing of it stays running at the destination, and once the destination has what it
//! lacked, it can be moved there.
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "tests use real time and may panic"
)]

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use migration::VmId;
use migration::handoff::share::Priority;
use migration::hypervisor::fake::Operation;
use node::handoff::Phase;
use tokio::runtime::Runtime;

mod api_support;
mod handoff_support;
#[path = "../../vm-images/tests/support/tiny.rs"]
mod tiny;

use handoff_support::nodes::*;
use handoff_support::*;
use tiny::Tiny;

/// Two nodes, and a network that holds a frame.
struct Pair {
    runtime: Runtime,
    net: Arc<Net>,
    source: Node,
    target: Node,
}

impl Pair {
    fn new(source: Node, target: Node, blow: Blow, at: usize) -> Self {
        let runtime = Runtime::new().unwrap();
        let net = network(&runtime, blow, at);
        let mut pair = Self { runtime, net, source, target };
        pair.source.start(&pair.net);
        pair.target.start(&pair.net);
        pair
    }

    fn phase(&self, vm: VmId) -> Option<Phase> {
        assert!(!(self.source.executes(vm) && self.target.executes(vm)), "it runs twice");
        self.net.nodes.lock().unwrap()[&self.source.id].1.status(vm).map(|status| status.phase)
    }

    fn ended(&self, vm: VmId) -> Option<Phase> {
        self.phase(vm).filter(Phase::is_end)
    }

    fn wait_for_the_end(&self, vm: VmId, what: &str) -> Phase {
        let begin = Instant::now();
        loop {
            if let Some(phase) = self.ended(vm) {
                return phase;
            }
            assert!(begin.elapsed() < LIMIT, "{what}: waited too long: {:?}", self.phase(vm));
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// It did not come about: why. The VM runs on at the source, and nothing of it is left at the destination.
    fn failed(&self, vm: VmId, what: &str) -> String {
        let end = self.wait_for_the_end(vm, what);
        let Phase::Failed { reason } = end else { panic!("{what}: {end:?}") };
        wait_until("it runs on", || self.source.executes(vm));
        wait_until("nothing is left there", || {
            let instance = self.target.world.state_dir().join("instances").join(vm.to_string());
            self.target.world.hypervisor.running().is_empty() && !instance.exists()
        });
        reason
    }

    /// It is ordered again, and comes.
    fn comes_now(&self, vm: VmId, memory: [u8; 32], what: &str) {
        let (_, handoffs) = self.source.running.clone().unwrap();
        let here = self.source.runtime.as_ref().unwrap();
        here.block_on(handoffs.order(vm, self.target.id, Priority::default())).unwrap();
        assert_eq!(self.wait_for_the_end(vm, what), Phase::Done, "{what}");
        self.is_there(vm, memory, what);
    }

    fn is_there(&self, vm: VmId, memory: [u8; 32], what: &str) {
        wait_until("it runs there only", || {
            self.target.executes(vm) && !self.source.world.hypervisor.running().contains(&vm)
        });
        arrived_whole(&self.target, vm, memory, what);
    }

    fn close(mut self) {
        self.source.kill(&self.net);
        self.target.kill(&self.net);
        self.runtime.shutdown_background();
    }
}

/// A call of the hypervisor fails once.
fn fails(at_source: bool, operation: Operation, nth: u64) {
    let what = format!("{operation:?} number {nth} at the {}", if at_source { "source" } else { "target" });
    let pair = Pair::new(Node::new(1), Node::new(2), Blow::Hold, 0);
    let (vm, wanted) = begin(&pair.source, &pair.target);
    let who = if at_source { &pair.source } else { &pair.target };
    who.world.hypervisor.fail_nth(operation, nth);
    pair.net.released.send_replace(true);
    let reason = pair.failed(vm, &what);
    println!("{what}: {reason}");
    assert_eq!(reason.starts_with("at the destination"), !at_source, "{what}: {reason}");
    assert!(reason.ends_with(&format!("{operation:?} fails")), "{what}: {reason}");
    pair.comes_now(vm, wanted, &what);
    pair.close();
}

#[test]
fn a_state_that_cannot_be_loaded() {
    fails(false, Operation::ClonePaused, 1);
}

#[test]
fn a_port_that_cannot_be_forwarded() {
    fails(false, Operation::ForwardPort, 1);
}

#[test]
fn a_vm_that_cannot_be_read_or_paused() {
    fails(true, Operation::StreamOut, 1);
    fails(true, Operation::Freeze, 1);
    // Standing still.
    fails(true, Operation::StreamOut, 2);
}

#[test]
fn a_destination_without_memory() {
    let target = Node::new(2);
    let free = target.world.meter.available_bytes.swap(0, Ordering::SeqCst);
    let pair = Pair::new(Node::new(1), target, Blow::Nothing, 0);
    let (vm, wanted) = begin(&pair.source, &pair.target);
    let reason = pair.failed(vm, "no memory");
    println!("{reason}");
    assert!(reason.starts_with("at the destination: not enough is free"), "{reason}");
    pair.target.world.meter.available_bytes.store(free, Ordering::SeqCst);
    pair.comes_now(vm, wanted, "no memory");
    pair.close();
}

/// Takes all room that a file system has.
fn fill(path: &Path) {
    let mut ballast = File::options().create(true).append(true).open(path.join("ballast")).unwrap();
    for piece in [1 << 20, 4096, 1] {
        while ballast.write_all(&vec![1; piece]).is_ok() {}
    }
}

/// How it went on a full disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Went {
    /// It took place: all that had to be written still found room.
    Done,
    /// It did not, and could afterwards.
    Failed,
}

/// A node's disk runs full when a frame is on its way, and has room again later. Nothing where this is not permitted.
fn full_at(at_source: bool, frame: usize) -> Option<Went> {
    let disk = Tiny::mount("size=200m")?;
    let what = format!("{} full at frame {frame}", if at_source { "source" } else { "destination" });
    let state = disk.path().join("state");
    let nodes = match at_source {
        true => (Node::at(1, state), Node::new(2)),
        false => (Node::new(1), Node::at(2, state)),
    };
    let mut pair = Pair::new(nodes.0, nodes.1, Blow::Hold, frame);
    let (vm, wanted) = begin(&pair.source, &pair.target);
    wait_until("the frame, or the end", || {
        pair.net.struck.load(Ordering::SeqCst) || pair.ended(vm).is_some()
    });
    fill(disk.path());
    pair.net.released.send_replace(true);
    // Whatever becomes of it, it runs somewhere, also if the disk stays full.
    let end = pair.wait_for_the_end(vm, &what);
    wait_until("it runs", || pair.source.executes(vm) || pair.target.executes(vm));
    std::fs::remove_file(disk.path().join("ballast")).unwrap();
    let went = match &end {
        Phase::Done => Went::Done,
        _ => {
            let reason = pair.failed(vm, &what);
            println!("{what}: {reason}");
            let said = reason.contains("No space left") || reason.contains("of disk are missing");
            assert!(said && reason.starts_with("at the destination") != at_source, "{what}: {reason}");
            pair.comes_now(vm, wanted, &what);
            Went::Failed
        }
    };
    pair.is_there(vm, wanted, &what);
    // What each knows of it is on its disk.
    for node in [&mut pair.source, &mut pair.target] {
        node.kill(&pair.net);
        node.start(&pair.net);
    }
    pair.is_there(vm, wanted, &what);
    pair.close();
    Some(went)
}

fn full_at_every_frame(at_source: bool) -> Vec<(usize, Went)> {
    if full_at(at_source, usize::MAX).is_none() {
        return Vec::new();
    }
    let pair = Pair::new(Node::new(1), Node::new(2), Blow::Nothing, 0);
    let (vm, _) = begin(&pair.source, &pair.target);
    assert_eq!(pair.wait_for_the_end(vm, "as usual"), Phase::Done);
    let frames = pair.net.kinds.lock().unwrap().len();
    pair.close();
    let (next, went) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let frame = next.fetch_add(1, Ordering::SeqCst);
                    if frame >= frames {
                        return;
                    }
                    let one = full_at(at_source, frame).unwrap();
                    went.lock().unwrap().push((frame, one));
                }
            });
        }
    });
    let mut went = went.into_inner().unwrap();
    went.sort_unstable_by_key(|(frame, _)| *frame);
    println!("{went:?}");
    went
}

#[test]
fn a_destination_whose_disk_runs_full_at_any_frame() {
    let went = full_at_every_frame(false);
    let failed = went.iter().any(|(_, went)| *went == Went::Failed);
    assert!(went.is_empty() || failed, "the disk was never full in time: {went:?}");
}

/// It has nothing to write but who owns the VM, and for that there is a reserve.
#[test]
fn a_source_whose_disk_runs_full_at_any_frame() {
    let went = full_at_every_frame(true);
    assert!(went.iter().all(|(_, went)| *went == Went::Done), "{went:?}");
}
