//! A stand-in for a cloudlet: the real wire types over HTTP on a free loopback port, no VMs.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::sse::{self, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router, body::Bytes};
use handheld::api::{
    self, Cloudlet, Code, Event, Instance, Load, Missing, Problem, Service, Sharing, Standing, Start,
};
use tokio::sync::broadcast;
use uuid::Uuid;

/// How an instance becomes ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ready {
    /// A little later, by itself.
    Soon,
    /// After it was asked for this often.
    AfterAsking(usize),
    /// Never.
    Never,
    /// It fails instead.
    Fails,
}

/// How the event stream behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Works,
    /// Ends after the present state.
    Drops,
    /// Is refused.
    Missing,
    /// Stays open and says nothing.
    Silent,
    /// Says goodbye after the present state.
    Goodbye,
}

#[derive(Debug, Clone)]
pub struct Behaviour {
    pub name: String,
    pub id: u8,
    pub services: Vec<String>,
    pub ready: Ready,
    pub stream: Stream,
    /// Refuses every start for want of this.
    pub missing: Option<Missing>,
    /// Gives an unspecified address for its service.
    pub unspecified: bool,
    /// Never answers a recording.
    pub deaf: bool,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            name: "alpha".to_owned(),
            id: 1,
            services: vec!["speech".to_owned()],
            ready: Ready::Soon,
            stream: Stream::Works,
            missing: None,
            unspecified: false,
            deaf: false,
        }
    }
}

/// A running stand-in; its server ends with the runtime, or when told.
pub struct Stub {
    pub address: SocketAddr,
    pub shared: Arc<Shared>,
    server: tokio::task::JoinHandle<()>,
}

/// What it says of itself; may change at any time.
#[derive(Debug, Clone, Default)]
pub struct Said {
    pub cpu_used_millis: u32,
    pub ready_ms: Option<u64>,
    pub joinable: Option<u32>,
    pub standing: Standing,
}

pub struct Shared {
    behaviour: Behaviour,
    pub said: Mutex<Said>,
    speech: SocketAddr,
    instances: Mutex<BTreeMap<Uuid, Held>>,
    changes: broadcast::Sender<Event>,
    pub starts: AtomicUsize,
    pub asked: AtomicUsize,
    pub streams: AtomicUsize,
    pub recognitions: AtomicUsize,
}

struct Held {
    instance: Instance,
    tokens: BTreeSet<String>,
}

impl Stub {
    pub async fn start(behaviour: Behaviour) -> Self {
        Self::start_on("127.0.0.1:0", behaviour).await
    }

    pub async fn start_on(listen: &str, behaviour: Behaviour) -> Self {
        let listener = tokio::net::TcpListener::bind(listen).await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            behaviour,
            said: Mutex::default(),
            speech: address,
            instances: Mutex::default(),
            changes: broadcast::Sender::new(64),
            starts: AtomicUsize::new(0),
            asked: AtomicUsize::new(0),
            streams: AtomicUsize::new(0),
            recognitions: AtomicUsize::new(0),
        });
        let app = Router::new()
            .route("/api/v1/cloudlet", get(cloudlet))
            .route("/api/v1/services", get(services))
            .route("/api/v1/services/{id}", get(service))
            .route("/api/v1/instances", post(start).get(list))
            .route("/api/v1/instances/{id}", get(instance).delete(release))
            .route("/api/v1/events", get(events))
            .route("/recognize", post(recognize))
            .with_state(Arc::clone(&shared));
        let server = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { address, shared, server }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The clients that use any instance.
    pub fn users(&self) -> usize {
        self.shared.instances.lock().unwrap().values().map(|held| held.tokens.len()).sum()
    }

    /// Pulls the plug.
    pub fn vanish(&self) {
        self.server.abort();
    }
}

type App = State<Arc<Shared>>;

async fn cloudlet(State(shared): App) -> Json<Cloudlet> {
    let instances = u32::try_from(shared.instances.lock().unwrap().len()).unwrap();
    let said = shared.said.lock().unwrap().clone();
    Json(Cloudlet {
        api_version: api::VERSION,
        node_id: mesh::NodeId::from_bytes([shared.behaviour.id; 16]).to_string(),
        name: shared.behaviour.name.clone(),
        software: "0.0.0-stub".to_owned(),
        accelerator: "tcg".to_owned(),
        load: Load {
            cpu_used_millis: said.cpu_used_millis,
            cpu_total_millis: 2000,
            memory_free_bytes: 1 << 30,
            memory_total_bytes: 2 << 30,
            instances,
            queue_length: 0,
        },
        services: shared.behaviour.services.iter().map(|id| id.parse().unwrap()).collect(),
        fetchable: Vec::new(),
        standing: said.standing,
    })
}

fn described(shared: &Shared, id: &str) -> Service {
    let said = shared.said.lock().unwrap().clone();
    Service {
        id: id.parse().unwrap(),
        version: "1".to_owned(),
        description: format!("stand-in for {id}"),
        image: "00".repeat(32),
        guest_system: Some("debian-12".to_owned()),
        needs_memory_bytes: 256 << 20,
        needs_cpu_millis: 1000,
        max_users: 4,
        ready_instances: u32::try_from(shared.instances.lock().unwrap().len()).unwrap(),
        joinable_instances: said.joinable,
        ready_ms: said.ready_ms,
    }
}

async fn services(State(shared): App) -> Json<Vec<Service>> {
    Json(shared.behaviour.services.iter().map(|id| described(&shared, id)).collect())
}

async fn service(State(shared): App, Path(id): Path<String>) -> Response {
    if shared.behaviour.services.contains(&id) {
        Json(described(&shared, &id)).into_response()
    } else {
        problem(StatusCode::NOT_FOUND, Code::UnknownService, "no such service", None)
    }
}

async fn start(State(shared): App, Json(start): Json<Start>) -> Response {
    shared.starts.fetch_add(1, Ordering::SeqCst);
    if let Some(missing) = shared.behaviour.missing {
        return problem(
            StatusCode::SERVICE_UNAVAILABLE,
            Code::InsufficientResources,
            "too busy",
            Some(missing),
        );
    }
    if !shared.behaviour.services.iter().any(|service| service == start.service.as_str()) {
        return problem(StatusCode::NOT_FOUND, Code::UnknownService, "no such service", None);
    }
    let mut instances = shared.instances.lock().unwrap();
    if let Some(held) = instances.values().find(|held| held.tokens.contains(&start.client_token)) {
        return Json(held.instance.clone()).into_response();
    }
    let instance = Instance {
        id: Uuid::new_v4(),
        service: start.service,
        image: "00".repeat(32),
        state: api::State::Starting,
        address: None,
        sharing: Sharing::Shared,
        users: 1,
        requested_unix_ms: 0,
        ready_after_ms: None,
        reason: None,
        fetching: None,
    };
    instances.insert(instance.id, Held { instance: instance.clone(), tokens: [start.client_token].into() });
    drop(instances);
    let (later, id) = (Arc::clone(&shared), instance.id);
    match shared.behaviour.ready {
        Ready::Soon => drop(tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(30)).await;
            later.become_ready(id);
        })),
        Ready::Fails => drop(tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(30)).await;
            later.change(id, |instance| {
                instance.state = api::State::Failed;
                instance.reason = Some("the health check never passed".to_owned());
            });
        })),
        Ready::Never | Ready::AfterAsking(_) => {}
    }
    (StatusCode::CREATED, Json(instance)).into_response()
}

impl Shared {
    fn become_ready(&self, id: Uuid) {
        let mut address = self.speech;
        if self.behaviour.unspecified {
            address.set_ip([0, 0, 0, 0].into());
        }
        self.change(id, |instance| {
            instance.state = api::State::Ready;
            instance.address = Some(address);
            instance.ready_after_ms = Some(30);
        });
    }

    fn change(&self, id: Uuid, change: impl FnOnce(&mut Instance)) {
        if let Some(held) = self.instances.lock().unwrap().get_mut(&id) {
            change(&mut held.instance);
            let _ = self.changes.send(Event::Instance(held.instance.clone()));
        }
    }
}

async fn list(State(shared): App) -> Json<Vec<Instance>> {
    Json(shared.instances.lock().unwrap().values().map(|held| held.instance.clone()).collect())
}

async fn instance(State(shared): App, Path(id): Path<Uuid>) -> Response {
    let asked = shared.asked.fetch_add(1, Ordering::SeqCst) + 1;
    if let Ready::AfterAsking(times) = shared.behaviour.ready
        && asked >= times
    {
        shared.become_ready(id);
    }
    match shared.instances.lock().unwrap().get(&id) {
        Some(held) => Json(held.instance.clone()).into_response(),
        None => problem(StatusCode::NOT_FOUND, Code::UnknownInstance, "no such instance", None),
    }
}

async fn release(
    State(shared): App,
    Path(id): Path<Uuid>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Response {
    let mut instances = shared.instances.lock().unwrap();
    let Some(held) = instances.get_mut(&id) else {
        return problem(StatusCode::NOT_FOUND, Code::UnknownInstance, "no such instance", None);
    };
    match query.get("client_token") {
        Some(token) => drop(held.tokens.remove(token)),
        None => held.tokens.clear(),
    }
    held.instance.users = u32::try_from(held.tokens.len()).unwrap();
    Json(held.instance.clone()).into_response()
}

async fn events(State(shared): App) -> Response {
    shared.streams.fetch_add(1, Ordering::SeqCst);
    let stream = shared.behaviour.stream;
    if stream == Stream::Missing {
        return problem(StatusCode::NOT_FOUND, Code::UnknownPath, "no such path", None);
    }
    let changes = shared.changes.subscribe();
    let mut first: Vec<Event> = Vec::new();
    if stream != Stream::Silent {
        first.extend(
            shared.instances.lock().unwrap().values().map(|held| Event::Instance(held.instance.clone())),
        );
    }
    if stream == Stream::Goodbye {
        first.push(Event::Goodbye);
    }
    let state = (first.into_iter(), changes, stream);
    let events = futures_util::stream::unfold(state, async |(mut first, mut changes, stream)| {
        let event = match first.next() {
            Some(event) => event,
            None => match stream {
                Stream::Works => changes.recv().await.ok()?,
                Stream::Silent => std::future::pending().await,
                Stream::Drops | Stream::Missing | Stream::Goodbye => return None,
            },
        };
        Some((
            Ok::<_, Infallible>(sse::Event::default().json_data(&event).unwrap()),
            (first, changes, stream),
        ))
    });
    Sse::new(events).into_response()
}

async fn recognize(State(shared): App, wav: Bytes) -> Response {
    shared.recognitions.fetch_add(1, Ordering::SeqCst);
    if shared.behaviour.deaf {
        std::future::pending::<()>().await;
    }
    match hound::WavReader::new(wav.as_ref()) {
        Ok(reader) => {
            let text = format!("heard {} samples", reader.len());
            Json(serde_json::json!({"text": text, "audio_ms": reader.len() / 16, "took_ms": 7}))
                .into_response()
        }
        Err(_) => {
            (StatusCode::BAD_REQUEST, Json(serde_json::json!({"error": "not a WAV file"}))).into_response()
        }
    }
}

fn problem(status: StatusCode, code: Code, message: &str, missing: Option<Missing>) -> Response {
    (status, Json(Problem { code, message: message.to_owned(), missing })).into_response()
}

/// A recording of silence in the right form.
pub fn wav(samples: u32) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: 16_000,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut writer = hound::WavWriter::new(&mut bytes, spec).unwrap();
    (0..samples).for_each(|_| writer.write_sample(0_i16).unwrap());
    writer.finalize().unwrap();
    bytes.into_inner()
}
