//! Real libp2p on loopback: who gets in, who does not, and what the others notice.

#![allow(clippy::disallowed_methods, reason = "real nodes run on the real clock")]

mod swarm_support;

use std::time::{Duration, Instant};

use libp2p::futures::StreamExt;
use libp2p::swarm::SwarmEvent;
use mesh::membership::{Event, Reach};
use mesh::swarm::PeerId;
use swarm_support::{Mission, Net, Peer, is_there, wait_until};

const SOON: Duration = Duration::from_secs(30);

async fn converged(peers: &[&Peer]) {
    for peer in peers {
        wait_until(SOON, "everybody sees everybody", || peer.there() == peers.len()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn five_nodes_agree_over_quic_and_hear_of_a_change_and_a_goodbye() {
    let mission = Mission::new();
    let first = mission.start(Net::Quic, &[]).await;
    let mut peers = vec![first];
    for _ in 0..4 {
        let known = peers[0].address();
        peers.push(mission.start(Net::Quic, &[known]).await);
    }
    converged(&peers.iter().collect::<Vec<_>>()).await;
    peers[3].rename("renamed").await;
    let node = peers[3].node();
    for peer in &peers {
        wait_until(SOON, "the change arrives", || peer.name_of(node).as_deref() == Some("renamed")).await;
    }
    let mut events = peers[0].handle.events();
    peers[4].handle.leave().await.unwrap();
    let left = peers[4].node();
    let started = Instant::now();
    while events.recv().await.unwrap() != Event::Left(left) {
        assert!(started.elapsed() < Duration::from_secs(5), "the goodbye was not heard");
    }
    let mut notices = peers[1].handle.notices();
    assert!(peers[0].handle.announce(b"to all".to_vec()).await.unwrap());
    let notice = tokio::time::timeout(SOON, notices.recv()).await.unwrap().unwrap();
    assert_eq!((notice.from, &*notice.bytes), (peers[0].node(), &b"to all"[..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn tcp_alone_is_enough() {
    let mission = Mission::new();
    let one = mission.start(Net::Tcp, &[]).await;
    let two = mission.start(Net::Tcp, &[one.address()]).await;
    converged(&[&one, &two]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_neighbour_is_noticed_within_ten_seconds_and_comes_back_as_itself() {
    let mission = Mission::new();
    let one = mission.start(Net::Quic, &[]).await;
    let home = mission.enroll();
    let two = mission.start_as(&home, Net::Quic, &[one.address()]).await;
    converged(&[&one, &two]).await;
    let node = two.node();
    let killed = Instant::now();
    two.running.abort();
    wait_until(Duration::from_secs(10), "the crash is noticed", || !is_there(&one.handle, node)).await;
    assert!(killed.elapsed() <= Duration::from_secs(10), "{:?}", killed.elapsed());
    let again = mission.start_as(&home, Net::Quic, &[one.address()]).await;
    assert_eq!(again.node(), node);
    converged(&[&one, &again]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_was_slow_to_prove_itself_is_let_in_when_it_does() {
    let mission = Mission::new();
    let one = mission.start(Net::Quic, &[]).await;
    let home = mission.enroll();
    let mut silent = swarm_support::Silent::new(&home);
    tokio::time::timeout(SOON, silent.stay_until_cut(one.address().parse().unwrap())).await.unwrap();
    drop(silent);
    assert_eq!(one.there(), 1);
    let started = Instant::now();
    let two = mission.start_as(&home, Net::Quic, &[one.address()]).await;
    converged(&[&one, &two]).await;
    assert!(started.elapsed() < Duration::from_secs(10), "kept out for {:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn another_mission_and_strangers_get_nothing() {
    let (ours, theirs) = (Mission::new(), Mission::new());
    let one = ours.start(Net::Quic, &[]).await;
    let foreign = theirs.start(Net::Quic, &[one.address()]).await;
    wait_until(SOON, "the foreign node is cut", || one.handle.counters().peers_cut >= 1).await;
    assert_eq!((one.there(), foreign.there()), (1, 1));
    // A stranger that speaks gossipsub and identify, but has no certificate.
    let mut stranger = swarm_support::Stranger::new();
    stranger.dial(one.address().parse().unwrap());
    let started = Instant::now();
    loop {
        match tokio::time::timeout(SOON, stranger.swarm.select_next_some()).await.unwrap() {
            SwarmEvent::ConnectionClosed { .. } => break,
            SwarmEvent::Behaviour(event) => assert!(!stranger.tells_something(&event), "{event:?}"),
            _ => {}
        }
    }
    assert!(started.elapsed() < Duration::from_secs(12), "a stranger stayed for {:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flooding_member_is_cut_and_the_rest_go_on() {
    let mission = Mission::new();
    let one = mission.start(Net::Quic, &[]).await;
    let two = mission.start(Net::Quic, &[one.address()]).await;
    let flooder = mission.start(Net::Quic, &[one.address()]).await;
    converged(&[&one, &two, &flooder]).await;
    let node = flooder.node();
    let started = Instant::now();
    while one.handle.counters().peers_cut == 0 {
        // Each notice is signed and checked, which takes milliseconds in a debug build.
        assert!(started.elapsed() < Duration::from_secs(240), "the flood goes on");
        for n in 0..50_u32 {
            // Refused as soon as it is cut.
            let _ = flooder.handle.announce(n.to_be_bytes().to_vec()).await;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    wait_until(SOON, "the flooder is no neighbour", || {
        one.handle
            .members()
            .borrow()
            .get(&node)
            .is_none_or(|member| !matches!(member.reach, Reach::Neighbour { .. }))
    })
    .await;
    one.rename("calm").await;
    let own = one.node();
    wait_until(SOON, "the others go on", || two.name_of(own).as_deref() == Some("calm")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_open_streams_to_each_other() {
    use libp2p::futures::{AsyncReadExt, AsyncWriteExt};
    let mission = Mission::new();
    let one = mission.start(Net::Quic, &[]).await;
    let two = mission.start(Net::Quic, &[one.address()]).await;
    converged(&[&one, &two]).await;
    let protocol = mesh::swarm::StreamProtocol::new("/test/1");
    let mut incoming = one.handle.accept_streams(protocol.clone()).unwrap();
    let mut stream = two.handle.open_stream(one.node(), protocol, SOON).await.unwrap();
    let blocks: Vec<u8> = (0..4_000_000_u32).map(|n| (n % 251) as u8).collect();
    let sent = blocks.clone();
    let sending = tokio::spawn(async move {
        stream.write_all(&sent).await.unwrap();
        stream.close().await.unwrap();
    });
    let (peer, mut stream): (PeerId, _) = incoming.next().await.unwrap();
    let mut bytes = Vec::new();
    tokio::time::timeout(SOON, stream.read_to_end(&mut bytes)).await.expect("the stream stalls").unwrap();
    assert_eq!(bytes, blocks);
    sending.await.unwrap();
    let key = mesh::swarm::key_of(&peer).unwrap();
    assert_eq!(one.handle.members().borrow()[&two.node()].key, key);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_of_long_notices_arrives_whole() {
    let mission = Mission::new();
    let one = mission.start(Net::Quic, &[]).await;
    let two = mission.start(Net::Quic, &[one.address()]).await;
    let three = mission.start(Net::Quic, &[one.address()]).await;
    converged(&[&one, &two, &three]).await;
    // As many as one node may send at once.
    const COUNT: u16 = 50;
    let mut heard = [two.handle.notices(), three.handle.notices()];
    for n in 0..COUNT {
        let notice = [&n.to_be_bytes()[..], &[7; 2000]].concat();
        assert!(one.handle.announce(notice).await.unwrap(), "notice {n} was not taken");
    }
    for (who, notices) in heard.iter_mut().enumerate() {
        let mut numbers = std::collections::BTreeSet::new();
        while numbers.len() < usize::from(COUNT) {
            let notice = tokio::time::timeout(SOON, notices.recv()).await;
            let notice =
                notice.unwrap_or_else(|_| panic!("node {who} heard only {}", numbers.len())).unwrap();
            assert_eq!(notice.bytes.len(), 2002);
            numbers.insert(u16::from_be_bytes([notice.bytes[0], notice.bytes[1]]));
        }
    }
}
