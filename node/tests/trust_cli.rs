//! `cloudlet mission` and `cloudlet up` in a mission, as an operator types them.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod cli_support;

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Command, Stdio};

use cli_support::{Ran, World};
use handheld::{Access, Client, Where, pair};
use mesh::trust::Home;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value as Json;

fn secured(world: &World, arguments: &[&str]) -> Command {
    let mut command = world.command(arguments);
    command.env_remove("CLOUDLET_TRUST__INSECURE");
    command
}

fn run(world: &World, arguments: &[&str]) -> Ran {
    Ran::of(secured(world, arguments).output().unwrap())
}

fn json(world: &World, arguments: &[&str]) -> Json {
    run(world, &[arguments, &["--json"]].concat()).succeeded().json()
}

/// A mission whose authority is in `drawer`, and this world's cloudlet in it.
fn found(world: &World, enroll: &[&str]) {
    run(world, &["mission", "new", "drawer", "--name", "ridge", "--hours", "72"]).succeeded();
    run(world, &["mission", "request", "--out", "truck.csr"]).succeeded();
    let arguments = ["mission", "enroll", "truck.csr", "--authority", "drawer", "--out", "truck.bundle"];
    run(world, &[&arguments, enroll].concat()).succeeded();
    run(world, &["mission", "join", "truck.bundle"]).succeeded();
}

#[test]
fn a_mission_is_made_joined_shown_and_left_by_revocation() {
    let world = World::new();
    let ran = run(&world, &["up", "--set", "discovery.enabled=false"]).failed_with(1);
    assert!(
        ran.stderr.contains("belongs to no mission") && ran.stderr.contains("--insecure"),
        "{}",
        ran.stderr
    );
    let ran = run(&world, &["vm", "list"]).failed_with(1);
    assert!(ran.stderr.contains("belongs to no mission"), "{}", ran.stderr);
    run(&world, &["mission", "show"]).failed_with(1);

    found(&world, &["--allow", "use-services", "--may-enroll", "--role", "cloudlet"]);
    for secret in ["drawer/authority.key", "drawer/secret", "truck.bundle", "state/cloudlet/trust/device.key"]
    {
        let mode = std::fs::metadata(world.path(secret)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{secret}");
    }
    let shown = json(&world, &["mission", "show"]);
    assert_eq!(shown["name"], "ridge");
    assert_eq!(shown["standing"], "member");
    assert_eq!(shown["permissions"], "use-services,enroll");
    assert_eq!(shown["may_grant"], "use-services");
    let issued = json(&world, &["mission", "show", "--authority", "drawer"]);
    assert_eq!(issued["issued"][0]["serial"], shown["serial"]);
    assert_eq!(issued["issued"][0]["node"], shown["node_id"]);

    // A key in the place of another is not signed for by mistake.
    std::fs::remove_file(world.path("state/cloudlet/trust/device.key")).unwrap();
    run(&world, &["mission", "request", "--out", "again.csr"]).succeeded();
    let again = ["mission", "enroll", "again.csr", "--authority", "drawer", "--out", "again.bundle"];
    let ran = run(&world, &again).failed_with(1);
    assert!(ran.stderr.contains("--replace"), "{}", ran.stderr);
    run(&world, &[&again[..], &["--replace"]].concat()).succeeded();
    let ran = run(&world, &["mission", "join", "truck.bundle"]).failed_with(1);
    assert!(
        ran.stderr.contains("not accepted") || ran.stderr.contains("another device's key"),
        "{}",
        ran.stderr
    );
    run(&world, &["mission", "join", "again.bundle"]).succeeded();
    assert_eq!(json(&world, &["mission", "show"])["revoked"][0], shown["serial"]);

    let node = shown["node_id"].as_str().unwrap();
    run(&world, &["mission", "revoke", node, "--authority", "drawer", "--out", "gone"]).succeeded();
    assert_eq!(json(&world, &["mission", "accept", "gone"])["new"], 1);
    assert_eq!(json(&world, &["mission", "accept", "gone"])["new"], 0);
    let ran = run(&world, &["up", "--set", "discovery.enabled=false"]).failed_with(1);
    assert!(ran.stderr.contains("revoked"), "{}", ran.stderr);
}

#[test]
fn mistakes_are_told_and_change_nothing() {
    let world = World::new();
    found(&world, &[]);
    let enroll = |arguments: &[&str]| {
        let all = [&["mission", "enroll"], arguments, &["--authority", "drawer", "--out", "x"]].concat();
        run(&world, &all)
    };
    assert!(enroll(&["nowhere.csr"]).failed_with(2).stderr.contains("nowhere.csr"));
    assert!(
        enroll(&["truck.csr", "--allow", "fly"]).failed_with(2).stderr.contains("'fly' is no permission")
    );
    assert!(
        enroll(&["truck.csr", "--role", "handheld"]).failed_with(2).stderr.contains("nothing was signed")
    );
    assert!(enroll(&["truck.csr", "--hours", "100"]).failed_with(1).stderr.contains("within the mission"));
    assert!(enroll(&["truck.bundle"]).failed_with(1).stderr.contains("request"));
    assert!(!world.path("x").exists());
    let ran = run(&world, &["mission", "new", "drawer", "--hours", "1"]).failed_with(1);
    assert!(ran.stderr.contains("authority.key"), "{}", ran.stderr);
    assert!(run(&world, &["mission", "new", "d", "--hours", "0"]).failed_with(2).stderr.contains("hours"));
    let ran = run(&world, &["mission", "revoke", "nobody", "--authority", "drawer"]).failed_with(1);
    assert!(ran.stderr.contains("nothing was issued to 'nobody'"), "{}", ran.stderr);
    let ran = run(&world, &["mission", "revoke", &"41".repeat(16)]).failed_with(1);
    assert!(ran.stderr.contains("--may-enroll"), "{}", ran.stderr);
    let ran = run(&world, &["mission", "join", "truck.csr"]).failed_with(1);
    assert!(ran.stderr.contains("bundle"), "{}", ran.stderr);
    let ran = run(&world, &["mission", "accept", "truck.csr"]).failed_with(1);
    assert!(ran.stderr.contains("revocations"), "{}", ran.stderr);
    assert_eq!(json(&world, &["mission", "show"])["standing"], "member");
}

/// A daemon in the foreground of a child process; killed if the test fails.
struct Up(Child);

impl Drop for Up {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn up(world: &World, arguments: &[&str], insecure: bool) -> (Up, Json) {
    let common = ["up", "--json", "--set", "discovery.enabled=false", "--listen", "127.0.0.1:0"];
    let mut command = secured(world, &[&common, arguments].concat());
    if insecure {
        command.arg("--insecure");
    }
    let log = std::fs::File::create(world.path("log")).unwrap();
    let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let up = Up(child);
    let mut document = String::new();
    for line in lines {
        document += &line.unwrap();
        if let Ok(ready) = serde_json::from_str(&document) {
            return (up, ready);
        }
    }
    panic!("it ended: {}", std::fs::read_to_string(world.path("log")).unwrap());
}

fn end(mut up: Up) {
    kill(Pid::from_raw(i32::try_from(up.0.id()).unwrap()), Signal::SIGTERM).unwrap();
    assert_eq!(up.0.wait().unwrap().code(), Some(0));
}

#[test]
fn a_running_cloudlet_is_operated_over_tls_and_pairs_and_revokes_handhelds() {
    let world = World::new();
    found(&world, &["--may-enroll"]);
    let (daemon, ready) = up(&world, &["--set", "trust.pairing_listen=127.0.0.1:0"], false);
    assert_eq!(ready["tls"], true);
    let here = format!("api.listen={}", ready["listen"].as_str().unwrap());
    assert_eq!(json(&world, &["vm", "list", "--set", &here])["instances"], Json::Array(Vec::new()));

    let svg = world.path("code.svg");
    let shown = run(&world, &["mission", "pair", "--set", &here, "--svg", svg.to_str().unwrap()]).succeeded();
    assert!(
        shown.stdout.contains('█') && shown.stdout.contains("handheld pair 127.0.0.1:"),
        "{}",
        shown.stdout
    );
    assert!(std::fs::read_to_string(svg).unwrap().contains("<svg"));
    let shown = json(&world, &["mission", "pair", "--set", &here]);
    let place = Where::Invited(shown["invitation"].as_str().unwrap().parse().unwrap());
    let home = Home::at(world.path("hand"));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let trust = runtime.block_on(pair(&home, &place, "hand")).unwrap().trust;
    let listen = ready["listen"].as_str().unwrap().parse().unwrap();
    let client = Client::reaching(&Access::Member(trust.clone()), listen).unwrap();
    runtime.block_on(client.cloudlet()).unwrap();

    let serial = trust.identity().member().serial.to_string();
    run(&world, &["mission", "revoke", &serial, "--set", &here]).succeeded();
    assert!(runtime.block_on(client.cloudlet()).is_err(), "revoked while the daemon runs");
    end(daemon);
    assert_eq!(json(&world, &["mission", "show"])["revoked"][0], serial.as_str());
    assert!(!std::fs::read_to_string(world.path("log")).unwrap().contains("INSECURE"));
}

#[test]
fn an_insecure_cloudlet_says_so_in_every_line_of_its_log() {
    let world = World::new();
    let (daemon, ready) = up(&world, &[], true);
    assert_eq!(ready["tls"], false);
    end(daemon);
    let log = std::fs::read_to_string(world.path("log")).unwrap();
    assert!(log.lines().count() > 1, "{log}");
    for line in log.lines() {
        let line: Json = serde_json::from_str(line).unwrap();
        assert_eq!(line["insecure"], true, "{line}");
    }
}

#[test]
fn a_mission_says_whose_images_are_used_and_that_nobody_calls_out() {
    let world = World::new();
    let key = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
    let new = ["mission", "new", "drawer", "--hours", "1", "--no-multicast", "--trust-images", key];
    let made = json(&world, &new);
    assert_eq!(made["rules"], serde_json::json!({"quiet": true, "image_signers": [key]}));
    run(&world, &["mission", "new", "d", "--hours", "1", "--trust-images", "00"]).failed_with(2);
    run(&world, &["mission", "request", "--out", "truck.csr"]).succeeded();
    run(&world, &["mission", "enroll", "truck.csr", "--authority", "drawer", "--out", "truck.bundle"])
        .succeeded();
    assert!(!run(&world, &["image", "trust"]).succeeded().stdout.contains(key), "it has not joined yet");
    run(&world, &["mission", "join", "truck.bundle"]).succeeded();

    let shown = run(&world, &["mission", "show"]).succeeded().stdout;
    assert!(shown.contains(key) && shown.contains("nobody sends multicast"), "{shown}");
    let trusted = run(&world, &["image", "trust"]).succeeded().stdout;
    assert!(trusted.contains(&format!("{key}  (the mission)")), "{trusted}");
    let refused = run(&world, &["image", "trust", key, "--remove"]).failed_with(1);
    assert!(refused.stderr.contains("trusted by the mission"), "{}", refused.stderr);
    // Without the mission nothing of it is left.
    let alone = run(&world, &["image", "trust", "--set", "trust.insecure=true"]).succeeded().stdout;
    assert!(!alone.contains(key), "{alone}");
}
