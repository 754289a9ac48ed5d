//! A daemon on a hypervisor without guests, and a client for it; for the tests beside this directory.
#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests wait by the real clock and may panic"
)]

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use handheld::api::{Instance, Problem, State};
use node::config::Config;
use node::daemon::{self, Parts};
use node::instances::Meter;
use node::instances::host::Memory;
use node::lifecycle::Keep;
use reqwest::StatusCode;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use vm_images::Store;

pub mod fleet;
pub mod hypervisor;
pub mod images;
pub mod mission;
pub mod ports;

pub use hypervisor::Watched;

/// Longest that a test waits for anything. Far more than needed, so that a busy machine fails no test.
pub const PATIENCE: Duration = Duration::from_secs(60);
pub const MIB: u64 = 1 << 20;

/// What outlives a daemon.
pub struct World {
    pub dir: TempDir,
    pub hypervisor: Arc<Watched>,
    pub store: Store,
    pub meter: Arc<FixedMeter>,
    pub config: Config,
    pub keep: Keep,
}

/// A host that has what the test says.
pub struct FixedMeter {
    pub total_bytes: u64,
    pub available_bytes: AtomicU64,
    pub cpu_millis: u32,
}

impl Meter for FixedMeter {
    fn memory(&self) -> Memory {
        let available_bytes = self.available_bytes.load(Ordering::SeqCst);
        Memory { total_bytes: self.total_bytes, available_bytes }
    }

    fn cpu_used_millis(&self) -> u32 {
        100
    }

    fn cpu_total_millis(&self) -> u32 {
        self.cpu_millis
    }
}

impl World {
    /// 1 GiB, 2 cores, services `echo` (shared by 3) and `solo` (private), idle and lease times that do not strike.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = images::store(&dir.path().join("images"));
        let mut config = Config::default();
        config.node.name = "test".into();
        config.node.state_dir = dir.path().join("state");
        config.api.listen = ([127, 0, 0, 1], 0).into();
        config.discovery.enabled = false;
        // Those tests that are about trust make a mission.
        config.trust.insecure = true;
        config.trust.pairing_listen = Some(([127, 0, 0, 1], 0).into());
        config.instances.max = 64;
        config.instances.memory_reserve_mib = 24;
        config.instances.cpu_overcommit = 4.0;
        config.instances.idle_stop_s = 600;
        config.instances.user_timeout_s = 600;
        config.instances.start_limit_s = 60;
        let meter =
            FixedMeter { total_bytes: 1 << 30, available_bytes: AtomicU64::new(1 << 30), cpu_millis: 2000 };
        let hypervisor = Arc::new(Watched::default());
        Self { dir, hypervisor, store, meter: Arc::new(meter), config, keep: Keep::Nothing }
    }

    pub fn state_dir(&self) -> PathBuf {
        self.config.node.state_dir.clone()
    }

    pub fn parts(&self) -> Parts {
        Parts {
            hypervisor: Arc::new(self.hypervisor.reconnect()),
            store: self.store.clone(),
            meter: self.meter.clone(),
            keep: self.keep,
        }
    }

    /// Starts a daemon; fails the test if it does not start.
    pub fn daemon(&self) -> Daemon {
        self.try_daemon().unwrap()
    }

    /// A daemon that was killed a moment ago may still hold its records, as no process that was killed does.
    pub fn try_daemon(&self) -> Result<Daemon, daemon::Error> {
        let begin = Instant::now();
        loop {
            match Daemon::start(self.config.clone(), self.parts()) {
                Err(daemon::Error::Journal(_)) if begin.elapsed() < PATIENCE => std::thread::yield_now(),
                other => return other,
            }
        }
    }

    /// Names of the directories of instances.
    pub fn instance_dirs(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.state_dir().join("instances")) else { return Vec::new() };
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

/// A daemon on a runtime of its own, so that it can be killed as a whole.
pub struct Daemon {
    pub client: Client,
    stop: CancellationToken,
    kill: CancellationToken,
    thread: Option<JoinHandle<Option<Result<(), daemon::Error>>>>,
}

impl Daemon {
    pub fn start(config: Config, parts: Parts) -> Result<Self, daemon::Error> {
        let (stop, kill) = (CancellationToken::new(), CancellationToken::new());
        let (told_stop, told_kill) = (stop.clone(), kill.clone());
        let (ready, is_ready) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            let run = daemon::run(config, parts, told_stop, move |is: &daemon::Ready| {
                ready.send(is.listen).unwrap()
            });
            let result = runtime.block_on(async {
                tokio::select! {
                    result = run => Some(result),
                    () = told_kill.cancelled() => None,
                }
            });
            match result {
                Some(_) => drop(runtime),
                // Tasks end where they are; calls of the hypervisor that are under way come to their end alone.
                None => runtime.shutdown_background(),
            }
            result
        });
        match is_ready.recv() {
            Ok(listen) => {
                let client = Client { base: format!("http://{listen}/api/v1"), http: plain_http() };
                Ok(Self { client, stop, kill, thread: Some(thread) })
            }
            Err(_) => Err(thread.join().unwrap().unwrap().unwrap_err()),
        }
    }

    /// Asks it to end, as SIGTERM does.
    pub fn ask_to_stop(&self) {
        self.stop.cancel();
    }

    /// Ends it in order.
    pub fn stop(mut self) -> Result<(), daemon::Error> {
        self.stop.cancel();
        self.thread.take().unwrap().join().unwrap().unwrap()
    }

    /// Ends it with nothing done in order: every task stops where it is.
    pub fn kill(mut self) {
        self.kill.cancel();
        assert!(self.thread.take().unwrap().join().unwrap().is_none(), "it ended before it was killed");
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A client for plain HTTP.
pub fn plain_http() -> reqwest::Client {
    let builder = reqwest::Client::builder().no_proxy();
    builder.tls_backend_preconfigured(mesh::trust::tls::nobody().unwrap()).build().unwrap()
}

/// Speaks to a daemon.
#[derive(Clone)]
pub struct Client {
    pub base: String,
    pub http: reqwest::Client,
}

impl Client {
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    pub async fn get(&self, path: &str) -> (StatusCode, Value) {
        let answer = self.http.get(self.url(path)).send().await.unwrap();
        (answer.status(), answer.json().await.unwrap())
    }

    pub async fn start_raw(&self, service: &str, token: &str, sharing: &str) -> (StatusCode, Value) {
        let body = json!({"service": service, "client_token": token, "sharing": sharing});
        let answer = self.http.post(self.url("/instances")).json(&body).send().await.unwrap();
        (answer.status(), answer.json().await.unwrap())
    }

    /// Asks for an instance, and says whether it was created.
    pub async fn start(&self, service: &str, token: &str, sharing: &str) -> (Instance, bool) {
        let (status, body) = self.start_raw(service, token, sharing).await;
        assert!(status.is_success(), "{status} {body}");
        (serde_json::from_value(body).unwrap(), status == StatusCode::CREATED)
    }

    /// Asks for an instance that must be refused.
    pub async fn refused(&self, service: &str, token: &str, sharing: &str) -> (StatusCode, Problem) {
        let (status, body) = self.start_raw(service, token, sharing).await;
        (status, serde_json::from_value(body).unwrap())
    }

    pub async fn instance(&self, id: uuid::Uuid) -> Instance {
        let (status, body) = self.get(&format!("/instances/{id}")).await;
        assert_eq!(status, StatusCode::OK, "{body}");
        serde_json::from_value(body).unwrap()
    }

    pub async fn instances(&self) -> Vec<Instance> {
        serde_json::from_value(self.get("/instances").await.1).unwrap()
    }

    pub async fn delete(&self, id: uuid::Uuid, query: &str) -> (StatusCode, Value) {
        let answer = self.http.delete(self.url(&format!("/instances/{id}?{query}"))).send().await.unwrap();
        (answer.status(), answer.json().await.unwrap())
    }

    /// Waits until an instance is in a state.
    pub async fn wait(&self, id: uuid::Uuid, state: State) -> Instance {
        let begin = Instant::now();
        loop {
            let instance = self.instance(id).await;
            if instance.state == state {
                return instance;
            }
            assert!(!instance.state.is_final(), "waited for {state:?}: {instance:?}");
            assert!(begin.elapsed() < PATIENCE, "waited too long for {state:?}: {instance:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Asks for an instance and waits until it is ready.
    pub async fn ready(&self, service: &str, token: &str, sharing: &str) -> Instance {
        let (instance, _) = self.start(service, token, sharing).await;
        self.wait(instance.id, State::Ready).await
    }
}

/// Waits for a condition.
pub async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < PATIENCE, "waited too long: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
