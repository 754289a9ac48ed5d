//! Keys, peer ids and addresses.

use libp2p::identity::{PublicKey, ed25519};
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};

/// The peer id of an Ed25519 public key; `None` if the bytes are no key.
pub fn peer_of(key: &[u8; 32]) -> Option<PeerId> {
    let key = ed25519::PublicKey::try_from_bytes(key).ok()?;
    Some(PublicKey::from(key).to_peer_id())
}

/// The Ed25519 public key of a peer id; `None` if it is of another kind.
pub fn key_of(peer: &PeerId) -> Option<[u8; 32]> {
    // Small keys are in the id itself: code 0 ("identity"), length, protobuf.
    let bytes = peer.to_bytes();
    let encoded = bytes.strip_prefix(&[0])?.get(1..)?;
    let key = PublicKey::try_decode_protobuf(encoded).ok()?;
    Some(key.try_into_ed25519().ok()?.to_bytes())
}

/// Which of the addresses that this node listens on others are told of: loopback only if there is nothing else.
pub(super) fn worth_telling(listening: &[Multiaddr]) -> Vec<String> {
    let is_loopback = |address: &&Multiaddr| match address.iter().next() {
        Some(Protocol::Ip4(ip)) => ip.is_loopback(),
        Some(Protocol::Ip6(ip)) => ip.is_loopback(),
        _ => false,
    };
    let far: Vec<&Multiaddr> = listening.iter().filter(|address| !is_loopback(address)).collect();
    let chosen = if far.is_empty() { listening.iter().collect() } else { far };
    let mut texts: Vec<String> = chosen.into_iter().map(ToString::to_string).collect();
    // QUIC first: it takes one round trip less.
    texts.sort_by_key(|text| (!text.contains("/quic-v1"), text.clone()));
    texts.truncate(16);
    texts
}

/// Whether it is a QUIC address.
pub(super) fn is_quic(address: &Multiaddr) -> bool {
    address.iter().any(|part| matches!(part, Protocol::QuicV1))
}

/// The port of the first QUIC or TCP address.
pub(super) fn port(listening: &[Multiaddr], quic: bool) -> u16 {
    let port = |address: &Multiaddr| {
        address.iter().find_map(|part| match part {
            Protocol::Udp(port) if quic => Some(port),
            Protocol::Tcp(port) if !quic => Some(port),
            _ => None,
        })
    };
    listening.iter().find_map(port).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_and_its_peer_id_are_the_same_thing() {
        let key = ed25519_dalek::SigningKey::from_bytes(&[7; 32]).verifying_key().to_bytes();
        let peer = peer_of(&key).unwrap();
        assert_eq!(key_of(&peer), Some(key));
        let other = libp2p::identity::Keypair::generate_ed25519().public().to_peer_id();
        assert_ne!(key_of(&other), Some(key));
    }

    #[test]
    fn loopback_is_told_only_if_there_is_nothing_else() {
        let parse = |text: &str| text.parse::<Multiaddr>().unwrap();
        let near = parse("/ip4/127.0.0.1/udp/1/quic-v1");
        let far = parse("/ip4/10.0.0.1/tcp/1");
        assert_eq!(worth_telling(std::slice::from_ref(&near)), ["/ip4/127.0.0.1/udp/1/quic-v1"]);
        assert_eq!(worth_telling(&[near, far]), ["/ip4/10.0.0.1/tcp/1"]);
    }
}
