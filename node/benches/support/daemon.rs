//! The real daemon, and clients of it.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::Context;
use futures_util::future::join_all;
use handheld::Client;
use handheld::api::{Instance, Sharing, Start};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::figures::Figures;
use super::{LIMIT, image_store, now, until_healthy};

/// The service that is measured, and its health check.
const SERVICE: &str = "speech";
const HEALTH_PATH: &str = "/healthz";

/// A running daemon; ended in order when this is dropped.
pub struct Daemon {
    child: Child,
    client: Client,
    directory: tempfile::TempDir,
}

impl Daemon {
    pub fn start() -> anyhow::Result<Self> {
        let directory = tempfile::tempdir()?;
        let mut child = Command::new(env!("CARGO_BIN_EXE_cloudlet"))
            .args(["up", "--insecure", "--json", "--listen", "127.0.0.1:0", "--name", "bench"])
            // The benchmark starts more at once than a cloudlet of this size would admit.
            .args(["--set", "instances.cpu_overcommit=100", "--set", "discovery.enabled=false"])
            .arg("--state-dir")
            .arg(directory.path())
            .arg("--image-store")
            .arg(image_store()?)
            .env("CLOUDLET_LOG__FILTER", "warn")
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().context("the daemon has no standard output")?;
        let mut text = String::new();
        for line in BufReader::new(stdout).lines() {
            text.push_str(&line?);
            if let Ok(ready) = serde_json::from_str::<serde_json::Value>(&text) {
                let listen = ready["listen"].as_str().context("no address")?.parse()?;
                return Ok(Self { child, client: Client::at(listen)?, directory });
            }
        }
        anyhow::bail!("the daemon did not start; it said why above")
    }

    pub fn state_dir(&self) -> PathBuf {
        Path::to_owned(self.directory.path())
    }

    /// Starts one instance, waits until the service answers this client, stops it; milliseconds until the answer.
    pub async fn time_one(&self, token: &str) -> anyhow::Result<f64> {
        let start = now();
        let instance = self.answering(token).await?;
        let took = start.elapsed().as_secs_f64() * 1000.0;
        self.client.stop(instance.id).await?;
        self.wait_gone(&instance).await?;
        Ok(took)
    }

    /// Starts `count` instances one after the other.
    pub async fn start_private(&self, count: usize) -> anyhow::Result<Vec<Instance>> {
        let mut instances = Vec::new();
        for number in 0..count {
            instances.push(self.answering(&format!("idle {number}")).await?);
        }
        Ok(instances)
    }

    pub async fn stop_all(&self, instances: &[Instance]) -> anyhow::Result<()> {
        for instance in instances {
            self.client.stop(instance.id).await?;
        }
        for instance in instances {
            self.wait_gone(instance).await?;
        }
        Ok(())
    }

    /// Starts `count` instances at once; the times until each answered, and how many of them answer in the end.
    pub async fn at_once(&self, count: usize) -> anyhow::Result<(Figures, usize)> {
        let start = now();
        let one = async |number: usize| {
            let instance = self.answering(&format!("at once {number}")).await?;
            anyhow::Ok((instance, start.elapsed().as_secs_f64() * 1000.0))
        };
        let all = join_all((0..count).map(one)).await.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
        let mut figures = Figures::new(format!("{count} at once: request to service answers, ms"));
        all.iter().for_each(|(_, took)| figures.add(*took));
        let answers = join_all(all.iter().filter_map(|(instance, _)| {
            Some(until_healthy(self.client.service_address(instance)?, HEALTH_PATH))
        }));
        let answering = answers.await.iter().filter(|answer| answer.is_ok()).count();
        let instances: Vec<Instance> = all.into_iter().map(|(instance, _)| instance).collect();
        self.stop_all(&instances).await?;
        Ok((figures, answering))
    }

    async fn answering(&self, token: &str) -> anyhow::Result<Instance> {
        let start =
            Start { service: SERVICE.parse()?, client_token: token.to_owned(), sharing: Sharing::Private };
        let instance = self.client.start(&start).await?;
        let instance = self.client.wait_ready(instance.id, LIMIT).await?;
        let address =
            self.client.service_address(&instance).context("a ready instance without an address")?;
        until_healthy(address, HEALTH_PATH).await?;
        Ok(instance)
    }

    async fn wait_gone(&self, instance: &Instance) -> anyhow::Result<()> {
        let start = now();
        while !self.client.instance(instance.id).await?.state.is_final() {
            anyhow::ensure!(start.elapsed() < LIMIT, "instance {} does not stop", instance.id);
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Ok(id) = i32::try_from(self.child.id()) {
            let _ = kill(Pid::from_raw(id), Signal::SIGTERM);
        }
        let _ = self.child.wait();
    }
}
