//! A handheld of the demo: the real command line in its own namespace.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::Value;
use simulations::lab::Lab;

use super::cloudlet::Cloudlet;
use super::mission::output;
use super::{ASK_EVERY, now, program};

/// A human recording of the package pocketsphinx-testdata.
const RECORDING: &str = "/usr/share/pocketsphinx/test/data/cards/001.wav";
/// What pocketsphinx hears in it, outside any VM too.
const WORDS: &str = "i've been up close";

/// A paired handheld.
pub struct Handheld {
    name: String,
    serial: String,
    command: Box<dyn Fn() -> Command>,
}

impl Handheld {
    /// Gets it into the mission with a code that `by` shows.
    pub fn pair(lab: &Lab, directory: &Path, name: &str, by: &Cloudlet) -> anyhow::Result<Self> {
        let host = lab.host(name)?;
        let (program, namespace, state) = (program("handheld")?, host.namespace(), directory.join(name));
        let command = move || {
            let mut command = Command::new("nsenter");
            command
                .arg(format!("--net={}", namespace.display()))
                .arg(&program)
                .arg("--state-dir")
                .arg(&state);
            command
        };
        let shown = by.ask(&["mission", "pair"])?;
        let place = shown["addresses"][0].as_str().context("a place to pair at")?;
        let code = shown["code"].as_str().context("a code")?;
        let paired = output(command().args(["pair", place, "--code", code, "--name", name, "--json"]))?;
        let paired: Value = serde_json::from_str(&paired)?;
        let serial = paired["serial"].as_str().context("a certificate with a serial")?.to_owned();
        Ok(Self { name: name.to_owned(), serial, command: Box::new(command) })
    }

    /// Serial of its certificate.
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// Which cloudlet it would choose, and why.
    pub fn explain(&self) -> anyhow::Result<String> {
        output((self.command)().args(["select", "speech", "--explain"]))
    }

    /// Has a recording recognised by whichever cloudlet it chooses; says which that was.
    pub fn recognise(&self) -> anyhow::Result<String> {
        let text = output((self.command)().args(["run", "speech", RECORDING, "--json"]))?;
        let result: Value = serde_json::from_str(&text)?;
        let words = result["results"][0]["text"].as_str().with_context(|| format!("no words in {result}"))?;
        if words != WORDS {
            bail!("it heard '{words}' instead of '{WORDS}'");
        }
        let by = result["cloudlet"].as_str().unwrap_or("?");
        Ok(format!("'{words}', recognised by {by}"))
    }

    /// Waits until no cloudlet lets it in any more.
    pub fn wait_refused(&self, limit: Duration) -> anyhow::Result<()> {
        let begin = now();
        while begin.elapsed() < limit {
            let services = (self.command)().args(["services", "--json"]).output()?;
            let listed = serde_json::from_slice::<Value>(&services.stdout).ok();
            let offers = listed.as_ref().and_then(Value::as_array).map_or(0, Vec::len);
            if offers == 0 {
                return Ok(());
            }
            std::thread::sleep(ASK_EVERY);
        }
        bail!("a cloudlet still lets {} in after {} s", self.name, limit.as_secs())
    }
}
