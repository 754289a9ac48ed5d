//! Several VMs go to the same cloudlet at once: the one that should come first is not kept waiting by the others.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests use real time and may panic")]

mod api_support;
mod handoff_support;

use handheld::api::Sharing;
use handoff_support::nodes::{Blow, Node, arrived_whole, begin, network, order, wait_until, walking};
use migration::VmId;
use migration::handoff::share::Priority;
use node::handoff::Phase;
use tokio::runtime::Runtime;

/// Kind of the frames that bring what a source made of a VM: see `node::handoff::wire`.
const PIECE: u8 = 4;

fn phase(source: &Node, vm: VmId) -> Phase {
    source.running.as_ref().unwrap().1.status(vm).unwrap().phase
}

fn sent_bytes(source: &Node, vm: VmId) -> u64 {
    source.running.as_ref().unwrap().1.status(vm).unwrap().sent_bytes
}

/// Which of all frames is the first piece.
fn first_piece(runtime: &Runtime) -> usize {
    let net = network(runtime, Blow::Nothing, 0);
    let (mut source, mut target) = (Node::new(1), Node::new(2));
    source.start(&net);
    target.start(&net);
    let (vm, _) = begin(&source, &target);
    wait_until("it has moved", || phase(&source, vm) == Phase::Done);
    let kinds = net.kinds.lock().unwrap().clone();
    kinds.iter().position(|kind| *kind == PIECE).unwrap()
}

#[test]
fn the_higher_priority_overtakes_and_the_lower_waits() {
    let runtime = Runtime::new().unwrap();
    let net = network(&runtime, Blow::Hold, first_piece(&runtime));
    let (mut source, mut target) = (Node::new(1), Node::new(2));
    source.start(&net);
    target.start(&net);
    let start = |user| walking(&source, user, Sharing::Private);
    let (one, low, high) = (start("one"), start("low"), start("high"));
    // It has something on its way that does not arrive yet.
    order(&source, one.0, &target, Priority::Normal);
    wait_until("its first piece is held", || net.struck.load(std::sync::atomic::Ordering::SeqCst));
    order(&source, low.0, &target, Priority::Low);
    order(&source, high.0, &target, Priority::High);
    wait_until("the other one has overtaken it", || phase(&source, high.0) == Phase::Done);
    assert_eq!((phase(&source, one.0), phase(&source, low.0)), (Phase::Precopy, Phase::Precopy));
    // That it is alive is all that it may say.
    assert!(sent_bytes(&source, low.0) < 200, "{} bytes", sent_bytes(&source, low.0));
    net.released.send_replace(true);
    for (vm, memory) in [one, low, high] {
        wait_until("all have moved", || phase(&source, vm) == Phase::Done);
        arrived_whole(&target, vm, memory, "it moved beside others");
    }
}
