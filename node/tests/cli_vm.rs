//! `cloudlet vm` against a daemon on a hypervisor without guests.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod api_support;
mod cli_support;

use cli_support::{Ran, World};

/// The command line, pointed at a daemon.
struct Operator<'a> {
    world: &'a World,
    url: String,
}

impl Operator<'_> {
    fn vm(&self, arguments: &[&str]) -> Ran {
        self.world.run(&[&["vm", "--api", &self.url][..], arguments].concat())
    }

    fn json(&self, arguments: &[&str]) -> serde_json::Value {
        self.vm(&[arguments, &["--json"]].concat()).succeeded().json()
    }
}

fn url(daemon: &api_support::Daemon) -> String {
    let base = reqwest::Url::parse(&daemon.client.base).unwrap();
    format!("http://{}:{}", base.host_str().unwrap(), base.port().unwrap())
}

#[test]
fn an_instance_is_started_shown_left_and_stopped() {
    let host = api_support::World::new();
    let daemon = host.daemon();
    let world = World::new();
    let operator = Operator { world: &world, url: url(&daemon) };

    let started = operator.json(&["start", "echo", "--token", "mine"]);
    assert_eq!(started["client_token"], "mine");
    assert_eq!((&started["instance"]["state"], &started["instance"]["users"]), (&"ready".into(), &1.into()));
    let id = started["instance"]["id"].as_str().unwrap().to_owned();
    let address = started["instance"]["address"].as_str().unwrap().to_owned();

    // The same token gets the same instance, another one joins it, and a private one is another instance.
    assert_eq!(operator.json(&["start", "echo", "--token", "mine"])["instance"]["id"], id);
    let second = operator.json(&["start", "echo"]);
    assert_eq!((&second["instance"]["id"], &second["instance"]["users"]), (&id.clone().into(), &2.into()));
    let token = second["client_token"].as_str().unwrap();
    let private = operator.vm(&["start", "echo", "--private"]).succeeded();
    assert!(
        private.stdout.contains("sharing:     private\n") && !private.stdout.contains(&id),
        "{}",
        private.stdout
    );
    assert_eq!(private.stderr, "starting echo\nwaiting until its service answers\n");

    let listed = operator.vm(&["list"]).succeeded().stdout;
    assert_eq!(listed.lines().count(), 3, "{listed}");
    assert!(
        listed.lines().any(|line| line.contains(&id) && line.contains("ready") && line.contains(&address))
    );
    let shown = operator.vm(&["show", &id]).succeeded().stdout;
    assert!(
        shown.contains(&format!("address:     {address}\n")) && shown.contains("users:       2\n"),
        "{shown}"
    );

    // Leaving ends one use; stopping ends it for all.
    assert_eq!(operator.json(&["stop", &id, "--token", token])["users"], 1);
    assert_eq!(operator.json(&["stop", &id])["state"], "stopping");
    let ran = operator.vm(&["stop", &id, "--force", "--token", token]).failed_with(2);
    assert!(ran.stderr.contains("cannot be used with"), "{}", ran.stderr);
    daemon.stop().unwrap();
}

#[test]
fn a_refusal_says_what_is_missing() {
    let host = api_support::World::new();
    host.meter.available_bytes.store(0, std::sync::atomic::Ordering::SeqCst);
    let daemon = host.daemon();
    let world = World::new();
    let operator = Operator { world: &world, url: url(&daemon) };
    let ran = operator.vm(&["start", "echo", "-q"]).failed_with(1);
    assert!(ran.stderr.starts_with("cloudlet: ") && ran.stderr.contains("memory"), "{}", ran.stderr);
    assert!(ran.stderr.contains("next: "), "{}", ran.stderr);
    daemon.stop().unwrap();
}
