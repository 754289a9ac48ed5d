//! A proven neighbour that says anything at all, to the core itself: no panic, nothing without end, and nothing about others.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test stops at the first thing that goes wrong"
)]

use std::collections::BTreeSet;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use mesh::NodeId;
use mesh::advert::{Advert, Capabilities, Gpu};
use mesh::membership::{
    Bye, Config, Core, Effect, Frame, Identity, Input, Learnt, Now, Proof, Refused, Signed, Verifier,
    Version, Want, sign,
};
use mesh::wire::cells::{Cells, Delta};
use proptest::prelude::*;
use vm_images::manifest::Accelerator;

const OWN: u8 = 0;
const LIAR: u8 = 1;
const VICTIM: u8 = 2;

fn id(node: u8) -> NodeId {
    NodeId::from_bytes([node; 16])
}

fn key(node: u8) -> SigningKey {
    SigningKey::from_bytes(&[node + 100; 32])
}

/// A certificate is a number; the few members are known.
struct Few(BTreeSet<Vec<u8>>);

impl Verifier for Few {
    fn verify(&self, certificate: &[u8], _: u64) -> Result<Proof, Refused> {
        match certificate {
            [node @ 0..=3] => {
                let key = key(*node).verifying_key().to_bytes();
                Ok(Proof { node: id(*node), key, expires_unix_s: u64::MAX })
            }
            _ => Err(Refused("no member".to_owned())),
        }
    }

    fn revoke(&mut self, statement: &[u8], _: u64) -> Result<Learnt, Refused> {
        match statement {
            [1, ..] if self.0.insert(statement.to_vec()) => Ok(Learnt::New),
            [1, ..] => Ok(Learnt::Known),
            _ => Err(Refused("not signed".to_owned())),
        }
    }

    fn revocations(&self) -> Vec<Vec<u8>> {
        self.0.iter().cloned().collect()
    }
}

fn advert(node: u8, name: &str) -> Advert {
    let capabilities = Capabilities {
        accelerator: Accelerator::Tcg,
        gpu: Gpu::None,
        architecture: "x86_64".to_owned(),
        cpu_models: BTreeSet::new(),
        machines: BTreeSet::new(),
        guest_systems: BTreeSet::new(),
        guest_speed_permille: None,
    };
    Advert::new(id(node), name.to_owned(), capabilities)
}

/// A state of a node as its owner says it.
fn honest(node: u8, sequence: u64) -> Signed {
    let cells = mesh::wire::advert::encode(&Advert { sequence, ..advert(node, "honest") }).unwrap();
    let signature = sign(&key(node), id(node), sequence, &cells);
    Signed {
        node: id(node),
        sequence,
        base: Version::default(),
        delta: cells.since(&Cells::default()),
        signature,
    }
}

fn sequences() -> impl Strategy<Value = u64> {
    prop_oneof![0..50_u64, Just(1000), Just((1 << 60) - 1), Just(1 << 60), Just(u64::MAX), any::<u64>()]
}

fn versions() -> impl Strategy<Value = Version> {
    (sequences(), any::<u32>()).prop_map(|(sequence, mark)| Version { sequence, mark })
}

fn nodes() -> impl Strategy<Value = NodeId> {
    prop_oneof![(0..6_u8).prop_map(id), any::<[u8; 16]>().prop_map(NodeId::from_bytes)]
}

fn bytes(most: usize) -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 0..most)
}

/// Forged, cut from an honest state, an honest one replayed, or the liar's own.
fn adverts() -> impl Strategy<Value = Signed> {
    let forged = (
        nodes(),
        sequences(),
        versions(),
        proptest::collection::vec((bytes(20), bytes(20)), 0..4),
        any::<u8>(),
    )
        .prop_map(|(node, sequence, base, set, fill)| {
            let delta = Delta { set, removed: Vec::new() };
            Signed { node, sequence, base, delta, signature: [fill; 64] }
        });
    let renumbered =
        (sequences(), 0..4_u8).prop_map(|(sequence, node)| Signed { sequence, ..honest(node, 5) });
    let by_the_liar = (sequences(), nodes()).prop_map(|(sequence, node)| {
        let cells = mesh::wire::advert::encode(&advert(LIAR, "forged")).unwrap();
        let signature = sign(&key(LIAR), node, sequence, &cells);
        let delta = cells.since(&Cells::default());
        Signed { node, sequence, base: Version::default(), delta, signature }
    });
    prop_oneof![forged, renumbered, by_the_liar, Just(honest(VICTIM, 3))]
}

fn frames() -> impl Strategy<Value = Frame> {
    let want = (nodes(), versions(), any::<bool>()).prop_map(|(node, have, certificate)| Want {
        node,
        have,
        certificate,
    });
    prop_oneof![
        bytes(40).prop_map(|certificate| Frame::Hello { certificate }),
        (any::<u32>(), any::<u32>(), any::<u8>()).prop_map(|(digest, held_us, degree)| Frame::Beat {
            digest,
            held_us,
            degree
        }),
        (proptest::collection::vec((nodes(), versions()), 0..6), any::<u64>())
            .prop_map(|(versions, revocations)| Frame::Summary { versions, revocations }),
        proptest::collection::vec(want, 0..6).prop_map(Frame::Want),
        proptest::collection::vec(adverts(), 0..4).prop_map(Frame::Adverts),
        proptest::collection::vec(bytes(3), 0..4).prop_map(Frame::Certificates),
        proptest::collection::vec(bytes(3), 0..3).prop_map(Frame::Revocations),
        Just(Frame::Bye(Bye::Crowded)),
        nodes().prop_map(Frame::Meet),
        Just(Frame::Part),
        Just(Frame::Ready),
        Just(Frame::Ask),
        Just(Frame::Here),
    ]
}

struct World {
    core: Core,
    now: Duration,
    sent: usize,
}

impl World {
    fn new(seed: u64) -> Self {
        let identity = Identity { node: id(OWN), key: key(OWN), certificate: vec![OWN] };
        let now = Now { boot: Duration::ZERO, unix_s: 100 };
        let local = advert(OWN, "own");
        let core = Core::new(Config::default(), identity, Box::new(Few(BTreeSet::new())), seed, local, now);
        let mut world = Self { core, now: Duration::ZERO, sent: 0 };
        world.step(Input::Tick);
        for node in [LIAR, VICTIM] {
            world.link(node);
        }
        // The victim tells itself.
        let bytes = 200;
        world.step(Input::Frame { from: id(VICTIM), frame: Frame::Adverts(vec![honest(VICTIM, 5)]), bytes });
        world
    }

    fn link(&mut self, node: u8) {
        let now = Now { boot: self.now, unix_s: 100 };
        self.core.prove(now, key(node).verifying_key().to_bytes(), &[node]).unwrap();
        self.step(Input::LinkUp { node: id(node), rendezvous: None, rtt: Some(Duration::from_millis(5)) });
    }

    fn step(&mut self, input: Input) {
        let effects = self.core.step(Now { boot: self.now, unix_s: 100 }, input);
        for effect in effects {
            match effect {
                Effect::Send(_, frame) => {
                    self.sent +=
                        mesh::wire::frame::encode(&frame).expect("a frame that cannot be sent").len();
                }
                Effect::Close(node, _) => {
                    assert_ne!(node, id(VICTIM), "the victim is cut");
                }
                _ => {}
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]
    #[test]
    fn whatever_a_member_says_others_are_what_they_say_themselves(
        seed in any::<u64>(),
        said in proptest::collection::vec((frames(), 0..300_u64), 1..60),
    ) {
        let mut world = World::new(seed);
        let own = world.core.members()[&id(OWN)].advert.sequence;
        let count = said.len();
        for (frame, after_ms) in said {
            world.now += Duration::from_millis(after_ms);
            if world.core.neighbours().contains_key(&id(LIAR)) {
                let bytes = mesh::wire::frame::encode(&frame).unwrap().len();
                world.step(Input::Frame { from: id(LIAR), frame, bytes });
            } else {
                world.link(LIAR);
            }
            let beat = Frame::Beat { digest: world.core.digest(), held_us: 0, degree: 3 };
            world.step(Input::Frame { from: id(VICTIM), frame: beat, bytes: 10 });
            world.step(Input::Tick);
            let members = world.core.members();
            // `honest` is what the victim signed; 5 is the last number that it gave.
            let victim = &members[&id(VICTIM)].advert;
            prop_assert_eq!((victim.name.as_str(), victim.sequence), ("honest", 5));
            prop_assert!(members.keys().all(|node| (0..=3).any(|known| id(known) == *node)));
            // A number of one's own goes up by what one has to say, not by what others say of it.
            let now = members[&id(OWN)].advert.sequence;
            prop_assert!(now <= own + 2 * count as u64 + 4, "from {} to {}", own, now);
        }
        prop_assert!(world.sent < 1 << 20, "{} bytes", world.sent);
    }
}
