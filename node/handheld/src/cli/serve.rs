//! `serve`: a local address for a service, wherever it runs.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use clap::Args;
use handheld::Follow;
use handheld::follow::{Mode, Settings, Status};
use mesh::selection::Task;
use vm_images::ServiceId;

use super::args::{Global, StartOptions, duration};
use super::output::{self, Spinner};
use super::run::{interrupted, open};

/// What `serve` is told.
#[derive(Debug, Args)]
pub struct Serve {
    /// The service.
    pub service: ServiceId,
    /// Address to listen on [default: a free port on loopback].
    #[arg(long, value_name = "IP:PORT")]
    pub listen: Option<SocketAddr>,
    /// Carry bytes as they are, for services that do not speak HTTP/1. New connections wait during a handoff, and those that
    /// are open are reset.
    #[arg(long)]
    pub tcp: bool,
    /// Longest time that a connection or request waits while the service moves.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub patience: Duration,
    /// Most requests under way, and most connections that wait.
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..))]
    pub waiting: u16,
    /// Longest request body that is kept and can be repeated, MiB.
    #[arg(long, value_name = "MIB", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub keep_mib: u16,
    /// Never repeat a request that is not idempotent and has no Idempotency-Key of the client's; it fails instead.
    #[arg(long, conflicts_with = "tcp")]
    pub at_most_once: bool,
    /// Say the first bytes of a connection again at the new place, up to so many, if the service has not answered yet.
    #[arg(long, value_name = "BYTES", default_value_t = 0, requires = "tcp",
        value_parser = clap::value_parser!(u32).range(0..=1_048_576))]
    pub replay: u32,
    #[command(flatten)]
    pub start: StartOptions,
}

impl Serve {
    fn settings(&self) -> Settings {
        let usual = Settings::default();
        let bytes = |bytes: u32| usize::try_from(bytes).unwrap_or(usize::MAX);
        Settings {
            listen: self.listen.unwrap_or_else(|| (Ipv4Addr::LOCALHOST, 0).into()),
            mode: if self.tcp { Mode::Tcp } else { Mode::Http },
            patience: self.patience,
            waiting_most: self.waiting.into(),
            body_bytes_most: bytes(u32::from(self.keep_mib) << 20),
            // Eight of the longest at once.
            kept_bytes_most: bytes(u32::from(self.keep_mib) << 23),
            repeat_unkeyed: !self.at_most_once,
            replay_bytes: bytes(self.replay),
            ..usual
        }
    }
}

/// Keeps a local address open until interrupted, then releases the instance.
pub async fn serve(global: &Global, serve: Serve) -> anyhow::Result<()> {
    let options = super::options(global, serve.service.clone(), &serve.start, Task::default())?;
    let spinner = Spinner::default();
    let session = open(global, &options, &spinner).await?;
    let name = session.cloudlet().label();
    let settings = serve.settings();
    let follow = Follow::around(session, &options.search, options.cloudlet.is_none(), settings).await?;
    spinner.clear();
    let address = follow.address();
    if global.json {
        output::json(
            &serde_json::json!({"address": address, "service": serve.service, "instance": follow.instance()}),
        )?;
    } else {
        let what = if serve.tcp { address.to_string() } else { format!("http://{address}") };
        let name = output::printable(&name);
        output::print(&format!("{what} leads to {} (now on {name}) until interrupted\n", serve.service))?;
    }
    let ended = tokio::select! {
        over = tell(follow.status()) => Err(over),
        _ = interrupted() => Ok(()),
        () = terminated() => Ok(()),
    };
    match tokio::time::timeout(Duration::from_secs(10), follow.release()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) if ended.is_ok() => {
            eprintln!("handheld: the instance was not released and will be stopped when idle: {error}");
        }
        Err(_) => {
            eprintln!("handheld: the instance was not released within 10 s and will be stopped when idle")
        }
        Ok(Err(_)) => {}
    }
    ended
}

/// A SIGTERM, as from a supervisor.
async fn terminated() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut asked) => drop(asked.recv().await),
        Err(error) => {
            tracing::warn!(%error, "SIGTERM cannot be waited for");
            std::future::pending().await
        }
    }
}

/// Says where the service is; comes back when it has come to its end.
async fn tell(mut status: tokio::sync::watch::Receiver<Status>) -> anyhow::Error {
    let mut known = None;
    loop {
        let now = status.borrow_and_update().clone();
        match now {
            Status::Serving { node, url, .. } if known.as_ref() != Some(&url) => {
                if known.is_some() {
                    eprintln!("handheld: the service is on {} now, at {url}", node.short());
                }
                known = Some(url);
            }
            Status::Serving { .. } | Status::Waiting => {}
            Status::Over(reason) => {
                let reason = output::printable(&reason);
                return anyhow::anyhow!("the service has come to its end: {reason}");
            }
        }
        if status.changed().await.is_err() {
            return anyhow::anyhow!("the endpoint has closed");
        }
    }
}
