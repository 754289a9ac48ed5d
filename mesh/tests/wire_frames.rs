//! Frames and adverts as bytes: golden bytes, ranges, and bytes that somebody damaged.

use std::time::Duration;

use mesh::advert::{
    Advert, Capabilities, Gpu, Held, ImageSize, LinkQuality, Load, Motion, Position, Power, Presence,
};
use mesh::membership::{Bye, Frame, Signed, Version, Want};
use mesh::wire::cells::{Cells, Delta};
use mesh::wire::frame::MAX_BYTES;
use mesh::{NodeId, wire};
use proptest::prelude::*;
use vm_images::manifest::Accelerator;
use vm_images::{Digest, ImageId};

fn node() -> NodeId {
    NodeId::from_bytes(*b"0123456789abcdef")
}

fn sample() -> Advert {
    let capabilities = Capabilities {
        accelerator: Accelerator::Tcg,
        gpu: Gpu::None,
        architecture: "x86_64".to_owned(),
        cpu_models: ["Nehalem".to_owned()].into(),
        machines: ["pc-q35-10.0".to_owned()].into(),
        guest_systems: ["debian-12".to_owned()].into(),
        guest_speed_permille: Some(83),
    };
    let Ok(speech) = "speech".parse::<vm_images::ServiceId>() else { unreachable!("a good id") };
    let image = ImageId(Digest::of(b"image"));
    let quality = LinkQuality { rtt_ms: Some(12), rate_bytes_per_s: None, loss_permille: Some(5) };
    Advert {
        sequence: 7,
        load: Load { cpu_used_millis: 500, cpu_total_millis: 2000, instances: 2, ..Load::default() },
        services: [(
            speech.clone(),
            Held { ready_instances: 1, ready_time: Some(Duration::from_millis(600)) },
        )]
        .into(),
        position: Position::new(48.5, 11.25),
        motion: Motion::new(90.0, 5.5),
        mission: "exercise".to_owned(),
        api: vec!["https://10.0.0.7:8443".to_owned()],
        addresses: vec!["/ip4/10.0.0.7/udp/4750/quic-v1".to_owned()],
        images: [(speech, image)].into(),
        base_images: [image].into(),
        links: [(node(), quality)].into(),
        power: Power::Battery { percent: 80, remaining: Some(Duration::from_secs(7200)) },
        presence: Presence::Draining,
        ..Advert::new(node(), "alpha".to_owned(), capabilities)
    }
}

fn frames() -> Vec<Frame> {
    let delta = Delta { set: vec![(vec![1], b"alpha".to_vec())], removed: vec![vec![8]] };
    let version = Version { sequence: 7, mark: 0x0102_0304 };
    let signed = Signed { node: node(), sequence: 8, base: version, delta, signature: [0xab; 64] };
    vec![
        Frame::Hello { certificate: b"chain".to_vec() },
        Frame::Beat { digest: 0x0a0b_0c0d, held_us: 4_000_000, degree: 3 },
        Frame::Summary { versions: vec![(node(), version)], revocations: 9 },
        Frame::Want(vec![Want { node: node(), have: version, certificate: true }]),
        Frame::Adverts(vec![signed]),
        Frame::Certificates(vec![b"chain".to_vec()]),
        Frame::Revocations(vec![b"list".to_vec()]),
        Frame::Bye(Bye::Crowded),
        Frame::Bye(Bye::Leaving),
        Frame::Meet(node()),
        Frame::Part,
        Frame::Ready,
        Frame::Have(vec![(node(), version)]),
        Frame::Ask,
        Frame::Here,
    ]
}

/// If this fails, old and new releases no longer understand each other: raise `wire::VERSION`.
#[test]
fn the_bytes_of_every_frame_stay_as_they_are() {
    let id = hex::encode(b"0123456789abcdef");
    let golden = [
        "020005636861696e".to_owned(),
        "02010a0b0c0dfc00093d0003".to_owned(),
        format!("020201{id}07010203040000000000000009"),
        format!("020301{id}070102030401"),
        format!("020401{id}08070102030401010105616c706861010108{}", "ab".repeat(64)),
        "02050105636861696e".to_owned(),
        "020601046c697374".to_owned(),
        "020700".to_owned(),
        "020701".to_owned(),
        format!("0208{id}"),
        "0209".to_owned(),
        "020a".to_owned(),
        format!("020b01{id}0701020304"),
        "020c".to_owned(),
        "020d".to_owned(),
    ];
    assert_eq!(frames().len(), golden.len());
    for (frame, golden) in frames().iter().zip(golden) {
        let bytes = wire::frame::encode(frame).unwrap();
        assert_eq!(wire::frame::decode(&bytes).unwrap(), *frame);
        assert_eq!(hex::encode(&bytes), golden, "{frame:?}");
    }
}

#[test]
fn an_advert_survives_its_cells_and_a_change_is_small() {
    let advert = sample();
    let cells = wire::advert::encode(&advert).unwrap();
    assert_eq!(wire::advert::decode(node(), 7, &cells).unwrap(), advert);
    let mut busier = advert.clone();
    busier.load.cpu_used_millis = 1900;
    let changed = wire::advert::encode(&busier).unwrap();
    let delta = changed.since(&cells);
    assert_eq!((delta.set.len(), delta.removed.len()), (1, 0));
    assert!(delta.bytes() < 20, "{}", delta.bytes());
    assert_eq!(cells.with(&delta).unwrap(), changed);
    assert_eq!(
        hex::encode(cells.digest()),
        "659cf9280200327036186e4f344bf644178175093a6fe646ebcebfab69cd3576",
        "the digest that owners sign has changed"
    );
}

#[test]
fn how_much_there_is_to_fetch_is_a_cell_of_its_own() {
    let without = wire::advert::encode(&sample()).unwrap();
    let mut advert = sample();
    let size = ImageSize { own_bytes: 62_000_000, parent_bytes: 147_000_000 };
    advert.sizes = advert.images.keys().map(|service| (service.clone(), size)).collect();
    let cells = wire::advert::encode(&advert).unwrap();
    assert_eq!(wire::advert::decode(node(), 7, &cells).unwrap(), advert);
    let [(key, value)] = &cells.since(&without).set[..] else { panic!("one cell more") };
    assert_eq!(
        (hex::encode(key), hex::encode(value)),
        ("0f737065656368".into(), "fc800bb203fcc00ac308".into())
    );
}

#[test]
fn cells_of_a_later_release_are_kept_and_passed_over() {
    let mut cells = wire::advert::encode(&sample()).unwrap();
    let before = cells.digest();
    cells.set(vec![200, 1], b"new idea".to_vec());
    assert_eq!(wire::advert::decode(node(), 7, &cells).unwrap(), sample());
    assert_ne!(cells.digest(), before);
}

#[test]
fn what_is_out_of_range_is_no_advert() {
    let good = wire::advert::encode(&sample()).unwrap();
    for (key, value) in [
        (vec![1], vec![0xff; 3]),
        (vec![5], vec![0xff; 16]),
        (vec![7], vec![200, 0]),
        (vec![8], vec![9]),
        (vec![11, b'!'], vec![0, 0]),
        (vec![14, 1], vec![0, 0, 0]),
    ] {
        let mut bad = good.clone();
        bad.set(key.clone(), value);
        assert!(wire::advert::decode(node(), 7, &bad).is_err(), "{key:?}");
    }
    let long = Advert { name: "x".repeat(129), ..sample() };
    assert!(wire::advert::encode(&long).is_err());
    assert!(wire::frame::encode(&Frame::Certificates(vec![vec![0; MAX_BYTES]])).is_err());
    assert!(wire::frame::decode(&[1, 9]).unwrap_err().to_string().contains("version 1"));
}

proptest! {
    #[test]
    fn damaged_frames_never_panic(which in 0..15_usize, cut in 0..400_usize, flip in 0..3200_usize) {
        let mut bytes = wire::frame::encode(&frames()[which]).unwrap();
        let bit = flip % (bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        let _ = wire::frame::decode(&bytes);
        bytes.truncate(cut % (bytes.len() + 1));
        let _ = wire::frame::decode(&bytes);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = wire::frame::decode(&bytes);
        let mut cells = Cells::default();
        for chunk in bytes.chunks(9) {
            if let Some((key, value)) = chunk.split_at_checked(2) {
                cells.set(vec![key[0] % 16], value.to_vec());
            }
        }
        let _ = wire::advert::decode(node(), 1, &cells);
    }

    #[test]
    fn a_damaged_cell_never_panics(kind in 1..15_u8, value in proptest::collection::vec(any::<u8>(), 0..40)) {
        let mut cells = wire::advert::encode(&sample()).unwrap();
        cells.set(vec![kind], value);
        let _ = wire::advert::decode(node(), 1, &cells);
    }
}
