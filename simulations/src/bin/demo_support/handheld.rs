//! A handheld of a demo: the real command line in its own namespace.

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
pub const RECORDING: &str = "/usr/share/pocketsphinx/test/data/cards/001.wav";
/// What pocketsphinx hears in it, outside any VM too.
pub const WORDS: &str = "i've been up close";

/// A recording that was recognised.
#[derive(Debug)]
pub struct Heard {
    /// Name of the cloudlet whose Service VM did it.
    pub by: String,
    /// Name of the cloudlet in between.
    pub via: Option<String>,
}

impl std::fmt::Display for Heard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "'{WORDS}', recognised by {}", self.by)?;
        self.via.as_ref().map_or(Ok(()), |via| write!(f, " by way of {via}"))
    }
}

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

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Serial of its certificate.
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// The command line of this handheld, in its namespace.
    pub fn command(&self) -> Command {
        (self.command)()
    }

    /// Which cloudlet it would choose, and why.
    pub fn explain(&self) -> anyhow::Result<String> {
        output((self.command)().args(["select", "speech", "--explain"]))
    }

    /// Has a recording recognised by whichever cloudlet it chooses; says which that was.
    pub fn recognise(&self) -> anyhow::Result<Heard> {
        self.recognise_with(&[])
    }

    /// Has it recognised by this cloudlet.
    pub fn recognise_at(&self, url: &str) -> anyhow::Result<Heard> {
        self.recognise_with(&["--cloudlet", url])
    }

    fn recognise_with(&self, flags: &[&str]) -> anyhow::Result<Heard> {
        let text = output((self.command)().args(flags).args([
            "run",
            "speech",
            RECORDING,
            "--ready-within",
            "3m",
            "--json",
        ]))?;
        let result: Value = serde_json::from_str(&text)?;
        let words = result["results"][0]["text"].as_str().with_context(|| format!("no words in {result}"))?;
        if words != WORDS {
            bail!("it heard '{words}' instead of '{WORDS}'");
        }
        let text = |name: &str| result[name].as_str().map(str::to_owned);
        Ok(Heard { by: text("cloudlet").context("a cloudlet's name")?, via: text("via") })
    }

    /// The cloudlets that answer it themselves, by name.
    pub fn sees(&self) -> anyhow::Result<Vec<String>> {
        let text = output((self.command)().args(["discover", "--for", "2s", "--json"]))?;
        let found: Value = serde_json::from_str(&text)?;
        let found = found["cloudlets"].as_array().with_context(|| format!("no list in {found}"))?;
        let direct = found.iter().filter(|one| one["via"].is_null());
        Ok(direct.filter_map(|one| Some(one["name"].as_str()?.to_owned())).collect())
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
