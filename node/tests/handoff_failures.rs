//! At every single frame of a handoff: the link is cut, the source is killed, the destination is killed. The VM never runs twice,
//! nothing that it wrote is lost, and in the end it runs where it was sent. Everything is real but guests and network.
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "tests use real time and may panic"
)]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use mesh::NodeId;
use migration::VmId;
use node::handoff::Phase;
use tokio::runtime::Runtime;

mod api_support;
mod handoff_support;

use handoff_support::nodes::*;
use handoff_support::*;

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
                Blow::Nothing | Blow::Cut | Blow::Hold => {}
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
    arrived_whole(&target, vm, wanted, &what);
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
