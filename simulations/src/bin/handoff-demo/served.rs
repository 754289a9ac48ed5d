//! `handheld serve`: the local address that stays while the service moves.

use std::fs::File;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Stdio};

use anyhow::Context;
use serde_json::Value;

use super::demo_support::handheld::Handheld;

/// The running command; killed when this is dropped.
pub struct Served {
    child: Child,
    address: SocketAddr,
    instance: String,
}

impl Served {
    /// Chooses a cloudlet, starts the service there, and waits for the address.
    pub fn start(handheld: &Handheld, directory: &Path) -> anyhow::Result<Self> {
        eprintln!("* the handheld serves 'speech' at a local address");
        let log = File::create(directory.join(format!("{}.log", handheld.name())))?;
        let mut command = handheld.command();
        command.args(["-v", "serve", "speech", "--ready-within", "3m", "--json"]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).spawn()?;
        let said = child.stdout.take().context("its output is piped")?;
        let mut served = Self { child, address: ([127, 0, 0, 1], 0).into(), instance: String::new() };
        let mut documents = serde_json::Deserializer::from_reader(said).into_iter::<Value>();
        let told = documents.next().context("it ended before it had an address")??;
        let text = |name: &str| told[name].as_str().with_context(|| format!("no {name} in {told}"));
        (served.address, served.instance) = (text("address")?.parse()?, text("instance")?.to_owned());
        Ok(served)
    }

    /// Where programs on the handheld's host find the service.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Id of the instance.
    pub fn instance(&self) -> &str {
        &self.instance
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
