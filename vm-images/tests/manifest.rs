//! The manifest as a format that outlives releases.

#![allow(
    clippy::unwrap_used,
    reason = "tests may panic; clippy recognises only the functions marked as tests"
)]

mod support;

use proptest::prelude::*;
use support::*;
use vm_images::manifest::Part;
use vm_images::{Digest, ImageId, Kind, Manifest, Role};

const GOLDEN: &[u8] = include_bytes!("golden/manifest-v1.json");
/// Changes with a single byte of the file. If this test fails, old images have lost their ids: do not edit, undo.
const GOLDEN_ID: &str = "ace72745709e5707481abeb37e1f0162df876f8862487d47ebef5dc6f992ab7b";

fn example() -> Manifest {
    let mut manifest = service_manifest(ImageId(Digest::of(b"parent")), b"recipe");
    manifest.parts = [Role::Disk, Role::MemoryTemplate, Role::DeviceStream]
        .map(|role| Part { role, bytes: 4096, blake3: Digest::of(role.file_name().as_bytes()) })
        .to_vec();
    manifest
}

#[test]
fn the_format_and_the_id_of_the_first_release_are_kept() {
    assert_eq!(String::from_utf8(example().to_bytes().unwrap()).unwrap(), String::from_utf8_lossy(GOLDEN));
    assert_eq!(Manifest::parse(GOLDEN).unwrap(), example());
    assert_eq!(Manifest::id_of(GOLDEN).to_string(), GOLDEN_ID);
}

#[test]
fn what_makes_no_sense_is_refused_with_its_reason() {
    let refused = |change: &dyn Fn(&mut Manifest)| {
        let mut manifest = example();
        change(&mut manifest);
        let said = told(&Manifest::parse(&manifest.to_bytes().unwrap()).unwrap_err());
        said.strip_prefix("the manifest's ").unwrap_or(&said).replace(" is not acceptable", "")
    };
    let service =
        |change: fn(&mut vm_images::Service)| move |m: &mut Manifest| change(m.service.as_mut().unwrap());

    assert!(
        refused(&|m| m.format = 7)
            .starts_with("the manifest has format 7 and was written by a newer release")
    );
    assert_eq!(refused(&|m| m.format = 0), "the manifest has format 0, which no release ever wrote");
    assert!(refused(&|m| m.name = "../x".into()).starts_with("name: 1 to 40 of"));
    assert_eq!(
        refused(&|m| m.description = "a\x1b[2J".into()),
        "description: it contains control characters"
    );
    assert_eq!(refused(&|m| m.service = None), "service: an image of kind 'service' needs one");
    assert!(refused(&|m| m.parent = None).starts_with("parent: an image of kind 'service' is layered on"));
    assert_eq!(refused(&|m| m.kind = Kind::Base), "service: a base image has no service");
    assert!(refused(&|m| m.hardware.cpu_model = "max".into()).contains("'max' differs between machines"));
    assert!(refused(&|m| m.hardware.machine = "q35".into()).contains("'q35' has no version"));
    assert!(
        refused(&|m| m.hardware.machine = "pc-q35-10.0,kernel=x".into())
            .starts_with("hardware.machine: 1 to 100")
    );
    assert!(
        refused(&|m| m.hardware.memory_bytes = (1 << 40) + 4096)
            .starts_with("hardware.memory_bytes: whole pages")
    );
    assert!(refused(&|m| m.hardware.memory_bytes = 4097).starts_with("hardware.memory_bytes: whole pages"));
    assert_eq!(refused(&|m| m.hardware.vcpus = 0), "hardware.vcpus: 1 to 256 is wanted");
    assert_eq!(refused(&|m| m.parts.push(m.parts[0].clone())), "parts: the disk is listed twice");
    assert_eq!(refused(&|m| m.parts.retain(|part| part.role != Role::Disk)), "parts: there is no disk");
    assert!(refused(&|m| m.parts[0].bytes = 0).starts_with("parts: a disk of 0 bytes"));
    assert!(refused(&|m| m.parts[1].bytes = MEMORY_BYTES + 1).contains("more than the guest's 67108864"));
    assert!(refused(&service(|s| s.port = 0)).starts_with("service.port: 0 is no port"));
    assert!(
        refused(&service(|s| s.health_path = "healthz".into())).starts_with("service.health_path: a path")
    );
    assert!(refused(&service(|s| s.max_users = 0)).starts_with("service.max_users: "));
}

#[test]
fn bytes_that_are_no_manifest_are_refused_before_they_cost_anything() {
    assert_eq!(
        told(&Manifest::parse(&vec![b' '; 70_000]).unwrap_err()),
        "the manifest has 70000 bytes; at most 65536 are read"
    );
    let text = String::from_utf8_lossy(GOLDEN).replace("\"kind\"", "\"sort\"");
    let said = told(&Manifest::parse(text.as_bytes()).unwrap_err());
    assert!(said.starts_with("the manifest is not well formed: unknown field `sort`"), "{said}");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn cut_and_flipped_bytes_never_panic(cut in 0..GOLDEN.len(), at in 0..GOLDEN.len(), value: u8) {
        prop_assert!(Manifest::parse(&GOLDEN[..cut.min(GOLDEN.len() - 2)]).is_err());
        let mut bytes = GOLDEN.to_vec();
        bytes[at] = value;
        if let Ok(manifest) = Manifest::parse(&bytes) {
            prop_assert!(manifest.validate().is_ok());
        }
    }
}
