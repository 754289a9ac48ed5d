//! `cloudlet image` on a store with small images.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod cli_support;
#[path = "../../vm-images/tests/support/mod.rs"]
mod images;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::Duration;

use cli_support::World;
use handheld::api::Sharing;
use migration::VmId;
use node::instances::Journal;
use node::lifecycle::{Claim, Instance, Phase, Service, Token};
use vm_images::{ImageId, Role, SigningKey, Store};

struct Shelf {
    world: World,
    store: Store,
    base: ImageId,
    speech: ImageId,
}

/// A store as the program itself makes it, with two images.
fn shelf() -> Shelf {
    let world = World::new();
    world.run(&["image", "list"]).succeeded();
    let key = SigningKey::load_or_create(&world.state_dir().join("image-key")).unwrap();
    let store = Store::open(&world.state_dir().join("images"), key).unwrap();
    let base = images::publish_base(&store, b"one");
    let speech = images::publish_service(&store, base, b"two");
    Shelf { world, store, base, speech }
}

/// Changes one byte of the base image's memory template.
fn damage(shelf: &Shelf) {
    use std::os::unix::fs::FileExt as _;
    let file = shelf.store.get(shelf.base).unwrap().path(Role::MemoryTemplate).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::OpenOptions::new().write(true).open(file).unwrap().write_all_at(b"X", 4711).unwrap();
}

#[test]
fn the_state_directory_is_closed_to_others() {
    let world = World::new();
    let ran = world.run(&["image", "list"]).succeeded();
    assert!(ran.stdout.starts_with("no images in "), "{}", ran.stdout);
    let mode = world.state_dir().metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
fn list_and_show_say_what_there_is() {
    let Shelf { world, base, speech, store: _ } = shelf();
    let listed = world.run(&["image", "list"]).succeeded().stdout;
    assert!(listed.lines().any(|line| line.starts_with("base") && line.contains(&base.short())), "{listed}");
    assert!(listed.contains("2026-09-21"), "{listed}");
    let json = world.run(&["image", "list", "--json"]).succeeded().json();
    assert_eq!(json["images"].as_array().unwrap().len(), 2);
    assert_eq!(json["images"][1]["manifest"]["service"]["id"], "speech");

    let shown = world.run(&["image", "show", "speech"]).succeeded().stdout;
    for part in [
        &speech.to_string(),
        &format!("on top of: base ({})", base.short()),
        "pc-q35-10.0",
        "memory.template",
    ] {
        assert!(shown.contains(part), "'{part}' is not in:\n{shown}");
    }
    let json = world.run(&["image", "show", &speech.to_string()[..8], "--json"]).succeeded().json();
    assert_eq!(json["parents"][0], base.to_string());
    let ran = world.run(&["image", "show", "face"]).failed_with(1);
    assert!(ran.stderr.contains("there is no image 'face'"), "{}", ran.stderr);
}

#[test]
fn verify_finds_one_changed_byte_and_exits_with_1() {
    let shelf = shelf();
    let ran = shelf.world.run(&["image", "verify", "--all"]).succeeded();
    assert_eq!(ran.stdout.matches(": intact\n").count(), 2, "{}", ran.stdout);
    assert_eq!(ran.stderr.lines().count(), 2, "one line of progress an image: {}", ran.stderr);
    assert_eq!(shelf.world.run(&["-q", "image", "verify", "speech"]).succeeded().stderr, "");

    damage(&shelf);
    let ran = shelf.world.run(&["image", "verify", "base"]).failed_with(1);
    let expected = format!("base ({}): the memory template of image base", shelf.base.short());
    assert!(ran.stdout.starts_with(&expected) && ran.stdout.contains("is damaged"), "{}", ran.stdout);
    let json = shelf.world.run(&["image", "verify", "--all", "--json"]).failed_with(1).json();
    let images = json["images"].as_array().unwrap();
    assert!(images.iter().all(|image| image["intact"] == false && image["error"].is_string()), "{json}");
}

#[test]
fn gc_removes_what_nobody_needs_and_says_so_before() {
    let Shelf { world, store, base, speech } = shelf();
    let newer = images::publish_service(&store, base, b"three");
    let dry = world.run(&["image", "gc", "--dry-run", "--json"]).succeeded().json();
    assert_eq!(dry["removed"], serde_json::json!([speech]));
    assert!(store.contains(speech), "a dry run removes nothing");
    world.run(&["image", "pin", &speech.to_string()]).succeeded();
    let kept = world.run(&["image", "gc", "--dry-run", "--json"]).succeeded().json();
    assert_eq!(kept["removed"], serde_json::json!([]));
    let ran = world.run(&["image", "rm", &speech.to_string()]).failed_with(1);
    assert!(ran.stderr.contains("is pinned"), "{}", ran.stderr);
    world.run(&["image", "unpin", &speech.to_string()[..8]]).succeeded();
    let done = world.run(&["image", "gc", "--json"]).succeeded().json();
    assert_eq!(done["removed"], serde_json::json!([speech]));
    assert!(done["freed_bytes"].as_u64().unwrap() > 0);
    assert!(!store.contains(speech) && store.contains(newer) && store.contains(base));
}

#[test]
fn images_of_recorded_instances_are_kept() {
    let Shelf { world, store, base, speech } = shelf();
    images::publish_service(&store, base, b"three");
    record_instance(&world, speech);
    let done = world.run(&["image", "gc", "--json"]).succeeded().json();
    assert_eq!(done["removed"], serde_json::json!([]));
    let ran = world.run(&["image", "rm", &speech.to_string()]).failed_with(1);
    assert!(
        ran.stderr.contains("instances run on image") && ran.stderr.contains("next: stop them"),
        "{}",
        ran.stderr
    );
    assert!(store.contains(speech));
}

#[test]
fn while_something_else_holds_the_state_directory_nothing_is_removed() {
    let Shelf { world, store, base, speech } = shelf();
    images::publish_service(&store, base, b"three");
    let _held = node::daemon::StateDir::lock(&world.state_dir()).unwrap();
    let nobody = ["--set", "api.listen=127.0.0.1:0"];
    let ran = world.run(&[&["image", "gc"][..], &nobody].concat()).failed_with(1);
    assert!(ran.stderr.contains("cannot find out which images are in use"), "{}", ran.stderr);
    assert!(ran.stderr.contains(&format!("process {}", std::process::id())), "{}", ran.stderr);
    assert!(store.contains(speech));
}

#[test]
fn a_damaged_image_can_be_removed_by_its_id() {
    let shelf = shelf();
    let manifest = shelf.store.get(shelf.speech).unwrap().dir().join("manifest.json");
    std::fs::set_permissions(&manifest, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::write(&manifest, "{}").unwrap();
    let listed = shelf.world.run(&["image", "list"]).succeeded().stdout;
    assert!(listed.contains(&format!("{}  cannot be read", shelf.speech.short())), "{listed}");
    let dry = shelf.world.run(&["image", "gc", "--dry-run"]).failed_with(1);
    assert!(dry.stderr.contains("its parents are not known"), "{}", dry.stderr);
    shelf.world.run(&["image", "rm", &shelf.speech.to_string()]).succeeded();
    assert!(!shelf.store.contains(shelf.speech));
}

/// Leaves the record of a ready instance, as a daemon that was killed does.
fn record_instance(world: &World, image: ImageId) {
    let instance = Instance {
        vm: VmId(uuid::Uuid::new_v4()),
        service: Arc::new(Service {
            id: "speech".parse().unwrap(),
            image,
            guest_port: 8080,
            health_path: "/healthz".to_owned(),
            needs: Claim { memory_bytes: 1, cpu_millis: 1 },
            max_users: 1,
        }),
        sharing: Sharing::Shared,
        owner: Token::try_from("phone".to_owned()).unwrap(),
        users: BTreeMap::new(),
        idle_since: None,
        phase: Phase::Ready { running_since: Duration::ZERO, next_check: None, failed_checks: 0 },
        address: None,
        requested_unix_ms: 0,
        begun_at: None,
        ready_after_ms: Some(1),
        reason: None,
        backed_bytes: 0,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let writer = Journal::open(&world.state_dir().join("records")).unwrap().into_writer();
        writer.put(&instance).await;
        writer.close().await;
    });
}
