//! Real libp2p on loopback: what strangers and lying members can do to a node, and what not.

#![allow(clippy::unwrap_used, reason = "a test stops at the first thing that goes wrong")]
#![allow(clippy::disallowed_methods, reason = "real nodes run on the real clock")]

mod hostile_support;
mod swarm_support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hostile_support::{Hostile, Link, PROVEN, keypair, stranger};
use libp2p::futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use libp2p::identity::Keypair;
use libp2p::swarm::SwarmEvent;
use libp2p_stream::OpenStreamError;
use mesh::NodeId;
use mesh::membership::{Frame, Identity, Reach, Signed, Version, Want, sign};
use mesh::swarm::{self, Multiaddr};
use mesh::trust::Trust;
use mesh::wire::cells::Cells;
use swarm_support::{Mission, Net, Peer, wait_until};

/// A guess: far more than is needed on a machine that has something else to do.
const SOON: Duration = Duration::from_secs(120);

fn at(peer: &Peer) -> Multiaddr {
    let id = swarm::peer_of(&peer.handle.members().borrow()[&peer.node()].key).unwrap();
    peer.address().parse::<Multiaddr>().unwrap().with_p2p(id).unwrap()
}

async fn pair(mission: &Mission) -> (Peer, Peer) {
    let one = mission.start(Net::Quic, &[]).await;
    let two = mission.start(Net::Quic, &[one.address()]).await;
    wait_until(SOON, "two see each other", || one.there() == 2 && two.there() == 2).await;
    (one, two)
}

async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, future).await.unwrap_or_else(|_| panic!("not in time: {what}"))
}

/// Changes its name and waits until the other one knows.
async fn still_heard(one: &Peer, other: &Peer, name: &str) {
    one.rename(name).await;
    let node = one.node();
    wait_until(SOON, "a change is heard", || other.name_of(node).as_deref() == Some(name)).await;
}

/// A member that speaks by hand, with its link to `to`.
async fn lying_member(mission: &Mission, to: &Peer) -> (Identity, Hostile, Link) {
    let identity = swarm::identity(&mission.enroll()).unwrap();
    let mut hostile = Hostile::dial(keypair(&identity), None, &at(to));
    assert!(in_time("it gets in", hostile.outcome()).await);
    let link = in_time("it is proved", hostile.link(&identity.certificate)).await.unwrap();
    (identity, hostile, link)
}

/// A state as a member may write it of any node, signed by its own key.
fn state(node: NodeId, sequence: u64, name: &str, identity: &Identity) -> Signed {
    let cells =
        mesh::wire::advert::encode(&mesh::advert::Advert { sequence, ..swarm_support::advert(node, name) })
            .unwrap();
    let signature = sign(&identity.key, node, sequence, &cells);
    Signed { node, sequence, base: Version::default(), delta: cells.since(&Cells::default()), signature }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_of_the_mission_can_neither_subscribe_nor_publish_nor_ask_nor_open_a_stream() {
    let (ours, theirs) = (Mission::new(), Mission::new());
    let (one, two) = pair(&ours).await;
    let _streams = one.handle.accept_streams(PROVEN[3].clone()).unwrap();
    let (foreign, robbed) = (swarm::identity(&theirs.enroll()), swarm::identity(&ours.enroll()));
    let (foreign, robbed) = (foreign.unwrap(), robbed.unwrap());
    let robbed_node = robbed.node;
    let shown: [(&str, Keypair, Vec<u8>); 5] = [
        ("nothing", stranger(), Vec::new()),
        ("rubbish", stranger(), vec![0x30; 700]),
        ("another mission's certificate", keypair(&foreign), foreign.certificate.clone()),
        ("a member's certificate without its key", stranger(), robbed.certificate.clone()),
        ("a handheld's certificate", stranger(), ours.enroll_handheld()),
    ];
    for (what, key, certificate) in shown {
        let mut hostile = Hostile::dial(key, None, &at(&one));
        assert!(in_time("the handshake", hostile.outcome()).await, "{what}");
        for protocol in PROVEN {
            let opened = in_time("an answer", hostile.open(protocol.clone())).await;
            assert!(
                matches!(opened, Err(OpenStreamError::UnsupportedProtocol(_) | OpenStreamError::Io(_))),
                "{what}: {protocol}"
            );
        }
        let cut = one.handle.counters().peers_cut;
        assert!(in_time("an answer", hostile.link(&certificate)).await.is_none(), "{what} was answered");
        in_time("it is cut", hostile.gone()).await;
        wait_until(SOON, "it is counted", || one.handle.counters().peers_cut > cut).await;
    }
    // Without a word before it, an advert is no proof.
    let mut hostile = Hostile::dial(stranger(), None, &at(&one));
    assert!(in_time("the handshake", hostile.outcome()).await);
    let mut link = Link { stream: hostile.open(hostile_support::LINK).await.unwrap() };
    link.say(&Frame::Adverts(vec![state(robbed_node, 9, "forged", &robbed)])).await.unwrap();
    assert_eq!(in_time("the end", link.hear()).await, None);
    in_time("it is cut", hostile.gone()).await;

    assert_eq!(one.name_of(robbed_node), None);
    assert_eq!((one.there(), two.there()), (2, 2));
    still_heard(&one, &two, "calm").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_who_keeps_opening_streams_is_shown_out() {
    let mission = Mission::new();
    let (one, two) = pair(&mission).await;
    for net in [Net::Quic, Net::Tcp] {
        let third = mission.start(net, &[one.address()]).await;
        wait_until(SOON, "it is there", || third.there() == 3).await;
        let mut hostile = Hostile::dial(stranger(), None, &at(&third));
        assert!(in_time("the handshake", hostile.outcome()).await);
        let begun = Instant::now();
        let mut streams = tokio::task::JoinSet::new();
        while hostile.is_connected() {
            // Each is asked for, and each keeps the connection busy for as long as it is talked about.
            for _ in 0..20 {
                let (mut control, peer) = (hostile.control.clone(), hostile.peer);
                streams.spawn(async move { control.open_stream(peer, PROVEN[3].clone()).await.is_ok() });
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "it is still there");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        drop(hostile);
        while let Some(opened) = streams.join_next().await {
            assert!(!opened.unwrap(), "a stream was opened");
        }
        third.handle.leave().await.unwrap();
        wait_until(SOON, "it has left", || one.there() == 2).await;
    }
    still_heard(&one, &two, "calm").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_lies_about_others_changes_nothing() {
    let mission = Mission::new();
    let (one, two) = pair(&mission).await;
    let (victim, own) = (two.node(), one.node());
    let number = |peer: &Peer, node| peer.handle.members().borrow()[&node].advert.sequence;

    // What the victim said some time ago, with its signature, is kept for later.
    let (_, _kept, mut link) = lying_member(&mission, &one).await;
    let old = in_time("the victim's state", link.state_of(victim)).await;
    still_heard(&two, &one, "newer").await;
    let (said, ours) = (number(&two, victim), number(&one, own));

    let forger = swarm::identity(&mission.enroll()).unwrap();
    let high = said + 1000;
    let lies = [
        ("an old state again", old.clone()),
        ("an old state as a new one", Signed { sequence: high, ..old.clone() }),
        ("a new state with another's signature", state(victim, high, "forged", &forger)),
        ("the highest number", state(victim, 1 << 60, "forged", &forger)),
        ("a number that is too high", state(victim, u64::MAX, "forged", &forger)),
        ("the node's own state", state(own, ours + 1000, "forged", &forger)),
        ("the node's own state with the highest number", state(own, 1 << 60, "forged", &forger)),
        ("a node that is not there", state(NodeId::from_bytes([7; 16]), 5, "forged", &forger)),
    ];
    for (what, lie) in lies {
        let (_, _hostile, mut link) = lying_member(&mission, &one).await;
        // As often as the node listens.
        for _ in 0..10 {
            if link.say(&Frame::Adverts(vec![lie.clone()])).await.is_err() {
                break;
            }
        }
        still_heard(&two, &one, &format!("after {what}")[..].chars().take(60).collect::<String>()).await;
        still_heard(&one, &two, what).await;
        assert!(number(&one, victim) < said + 100, "{what}: the victim's number was driven up");
        assert!(number(&two, own) < ours + 100, "{what}: the node's number was driven up");
        assert_eq!(one.name_of(NodeId::from_bytes([7; 16])), None);
        let members = one.handle.members();
        let is_neighbour = matches!(members.borrow()[&victim].reach, Reach::Neighbour { .. });
        assert!(is_neighbour, "{what}: two honest nodes were parted");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_only_says_that_there_are_higher_numbers_is_not_believed() {
    let mission = Mission::new();
    let (one, two) = pair(&mission).await;
    let (own, other) = (one.node(), two.node());
    let number = || two.handle.members().borrow()[&own].advert.sequence;
    let before = number();
    for sequence in [before + 500, (1 << 60) - 1, 1 << 60, u64::MAX] {
        let (_, _hostile, mut link) = lying_member(&mission, &one).await;
        let version = Version { sequence, mark: 1 };
        let versions = vec![(own, version), (other, version)];
        link.say(&Frame::Summary { versions, revocations: 3 }).await.unwrap();
        // It is asked for what it has; it does not have it.
        let asked = async {
            loop {
                if let Frame::Want(wants) = link.hear().await.unwrap()
                    && wants.iter().any(|want| want.node == own && want.have == Version::default())
                {
                    return;
                }
            }
        };
        in_time("the question", asked).await;
    }
    still_heard(&one, &two, "mine").await;
    still_heard(&two, &one, "too").await;
    assert!(number() < before + 100, "from {before} to {}", number());
}

/// One that came back with an old number, as after a lost clock, still gets over what it said before.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_outbids_what_it_signed_itself() {
    let mission = Mission::new();
    let (one, two) = pair(&mission).await;
    let trust = mission.enroll();
    let identity = swarm::identity(&trust).unwrap();
    // In its former life, its clock was ahead.
    let mut before = Hostile::dial(keypair(&identity), None, &at(&one));
    assert!(in_time("it gets in", before.outcome()).await);
    let mut link = in_time("it is proved", before.link(&identity.certificate)).await.unwrap();
    let ahead = 1 << 40;
    link.say(&Frame::Adverts(vec![state(identity.node, ahead, "before", &identity)])).await.unwrap();
    let node = identity.node;
    wait_until(SOON, "it is known", || one.name_of(node).as_deref() == Some("before")).await;
    drop((link, before));
    let again = mission.start_as(&trust, Net::Quic, &[one.address()]).await;
    wait_until(SOON, "its new state holds", || two.name_of(node).as_deref() == Some("new")).await;
    assert!(two.handle.members().borrow()[&node].advert.sequence > ahead);
    drop(again);
}

/// More than one frame takes, told at once: all arrive, and nobody is cut for bringing them.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_list_of_revocations_goes_round_and_reaches_those_who_come_later() {
    let mut mission = Mission::new();
    let trusts = [mission.enroll(), mission.enroll(), mission.enroll()];
    let told = mission.revoke_many(400);
    assert!(told.len() > 64 * 1024, "{} bytes fit into one frame", told.len());
    let one = mission.start_as(&trusts[0], Net::Quic, &[]).await;
    let two = mission.start_as(&trusts[1], Net::Quic, &[one.address()]).await;
    wait_until(SOON, "two see each other", || one.there() == 2 && two.there() == 2).await;
    let begun = Instant::now();
    one.handle.revoke(told).await.unwrap();
    println!("told after {:?}", begun.elapsed());
    let known = |trust: &Trust| trust.with(|mission| mission.revoked().serials().count());
    wait_until(SOON, "the second knows all", || known(&trusts[1]) == 400).await;
    println!("the second knew all after {:?}", begun.elapsed());
    let three = mission.start_as(&trusts[2], Net::Quic, &[two.address()]).await;
    wait_until(SOON, "the third knows all", || known(&trusts[2]) == 400).await;
    assert_eq!((one.handle.counters().peers_cut, two.handle.counters().peers_cut), (0, 0));
    still_heard(&three, &one, "calm").await;
}

/// What a flood is called, and its frames by number.
type Flood = (&'static str, fn(&Identity, u64) -> Frame);

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_floods_is_throttled_and_the_others_converge() {
    let mission = Mission::new();
    let (one, two) = pair(&mission).await;
    let floods: [Flood; 5] = [
        ("adverts", |identity, n| Frame::Adverts(vec![state(identity.node, 10 + n, "x", identity)])),
        ("adverts of nobody", |identity, n| {
            let node = NodeId::from_bytes([n.to_be_bytes(), [1; 8]].concat().try_into().unwrap());
            Frame::Adverts(vec![state(node, 10 + n, "x", identity)])
        }),
        ("requests", |identity, _| {
            let want = Want { node: identity.node, have: Version::default(), certificate: true };
            Frame::Want(vec![want; 64])
        }),
        ("whether somebody is there", |_, _| Frame::Ask),
        ("rumours of revocations", |_, n| Frame::Summary { versions: Vec::new(), revocations: n }),
    ];
    for (what, frame) in floods {
        let cut = one.handle.counters().peers_cut;
        let (identity, mut hostile, link) = lying_member(&mission, &one).await;
        let (mut reader, mut writer) = link.stream.split();
        let reading = tokio::spawn(async move {
            let (mut bytes, mut heard) = ([0; 4096], 0);
            while let Ok(read @ 1..) = reader.read(&mut bytes).await {
                heard += read;
            }
            heard
        });
        let mut said = 0_u64;
        let flood = async {
            for n in 0.. {
                let bytes = mesh::wire::frame::encode(&frame(&identity, n)).unwrap();
                let prefix = if bytes.len() < 0x80 {
                    vec![u8::try_from(bytes.len()).unwrap()]
                } else {
                    vec![(bytes.len() & 0x7f) as u8 | 0x80, (bytes.len() >> 7) as u8]
                };
                if writer.write_all(&[prefix, bytes].concat()).await.is_err() {
                    break;
                }
                said = n;
            }
        };
        // While it goes on, the others hear of each other.
        let (_, ()) = tokio::join!(
            async {
                for n in 0..3 {
                    still_heard(&one, &two, &format!("{what} {n}")).await;
                    still_heard(&two, &one, &format!("{what} {n}")).await;
                }
            },
            async { in_time("the flood is cut", flood).await }
        );
        in_time("it is cut", hostile.gone()).await;
        wait_until(SOON, "it is counted", || one.handle.counters().peers_cut > cut).await;
        let heard = in_time("the end", reading).await.unwrap();
        println!("{what}: {said} frames until it was cut; {heard} bytes came back");
        assert!(heard < 4 << 20, "{what}: {heard} bytes for nothing");
        still_heard(&one, &two, "calm").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_strangers_do_not_keep_members_out() {
    let mission = Mission::new();
    let one = mission.start(Net::Quic, &[]).await;
    let address: Multiaddr = one.address().parse().unwrap();
    let members_are_in = Arc::new(AtomicBool::new(false));
    let enough = members_are_in.clone();
    let strangers = tokio::spawn(async move {
        let mut gone = 0_usize;
        let mut running = tokio::task::JoinSet::new();
        let mut count = 0;
        // A thousand, and more until the members are in.
        while count < 1000 || !enough.load(Ordering::Relaxed) {
            count += 1;
            let address = address.clone();
            running.spawn(async move {
                let mut stranger = swarm_support::Stranger::new();
                // Their address is another one than that of the members.
                stranger.listen("/ip4/127.0.0.2/udp/0/quic-v1".parse().unwrap()).await;
                stranger.dial(address);
                let end = async {
                    loop {
                        match stranger.swarm.select_next_some().await {
                            SwarmEvent::ConnectionClosed { .. }
                            | SwarmEvent::OutgoingConnectionError { .. } => break,
                            _ => {}
                        }
                    }
                };
                tokio::time::timeout(Duration::from_secs(20), end).await.is_ok()
            });
            while running.len() >= 200 {
                gone += usize::from(running.join_next().await.unwrap().unwrap());
            }
        }
        while let Some(ended) = running.join_next().await {
            gone += usize::from(ended.unwrap());
        }
        (gone, count)
    });
    let two = mission.start(Net::Quic, &[one.address()]).await;
    let three = mission.start(Net::Quic, &[one.address()]).await;
    wait_until(Duration::from_secs(120), "members get in", || {
        one.there() == 3 && two.there() == 3 && three.there() == 3
    })
    .await;
    assert!(!strangers.is_finished(), "the strangers ended by themselves; nothing was shown");
    two.rename("heard").await;
    let node = two.node();
    wait_until(Duration::from_secs(30), "a change is served", || {
        one.name_of(node).as_deref() == Some("heard")
    })
    .await;
    members_are_in.store(true, Ordering::Relaxed);
    let (gone, count) = strangers.await.unwrap();
    println!("{gone} of {count} strangers were sent away");
    assert!(gone * 100 >= count * 95, "only {gone} of {count} strangers were sent away");
    assert_eq!(one.there(), 3);
}
