//! Cloudlets between which one instance moves: the real wire types over HTTP, and forwarded ports that lead to one
//! service, which is the VM. What a handoff does to connections happens here: bytes stop while the VM stands still, and
//! what was under way is lost with the connections of the former place.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{self, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use handheld::api::{self, Code, Event, Gone, Instance, Moved, Problem, Sharing};
use handheld::{Options, Session};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{broadcast, watch};
use uuid::Uuid;

/// How a cloudlet lets others know that the instance went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Farewell {
    /// By an event and by the answer 410.
    Tells,
    /// By the answer 410 only.
    WhenAsked,
    /// It knows nothing of it any more.
    Forgets,
}

/// What a cloudlet has to say of the instance.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Has {
    Nothing,
    Frozen,
    Ready,
    Sent(usize),
}

/// One cloudlet.
pub struct Site {
    pub api: SocketAddr,
    port: SocketAddr,
    has: Mutex<Has>,
    changes: broadcast::Sender<Event>,
    /// Whether bytes go through its forwarded port; a change of the number cuts its connections.
    gate: watch::Sender<(bool, u64)>,
    /// Out of range: it takes connections, and nothing comes back.
    pub away: watch::Sender<bool>,
    pub asked: AtomicUsize,
    pub released: AtomicBool,
}

/// All of them, and the VM.
pub struct Fleet {
    pub sites: Vec<Arc<Site>>,
    pub vm: Arc<Vm>,
    pub id: Uuid,
    here: Mutex<usize>,
}

/// What the service has seen: its memory moves with it.
#[derive(Default)]
pub struct Vm {
    /// Times that each request was done, by what the client called it, and the keys that it came with.
    pub done: Mutex<BTreeMap<String, Vec<String>>>,
    pub requests: AtomicU64,
}

impl Fleet {
    pub async fn start(count: usize) -> Arc<Self> {
        let vm = Arc::new(Vm::default());
        let inside = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let service = inside.local_addr().unwrap();
        tokio::spawn(axum::serve(inside, service_of(vm.clone())).into_future());
        let lines = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let line_service = lines.local_addr().unwrap();
        tokio::spawn(answer_lines(lines));
        let mut sites = Vec::new();
        let mut listeners = Vec::new();
        for number in 0..count {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let forward = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let site = Arc::new(Site {
                api: listener.local_addr().unwrap(),
                port: forward.local_addr().unwrap(),
                has: Mutex::new(if number == 0 { Has::Ready } else { Has::Nothing }),
                changes: broadcast::Sender::new(64),
                gate: watch::Sender::new((number == 0, 0)),
                away: watch::Sender::new(false),
                asked: AtomicUsize::new(0),
                released: AtomicBool::new(false),
            });
            tokio::spawn(forward_to(forward, site.clone(), service, line_service));
            sites.push(site);
            listeners.push(listener);
        }
        let fleet = Arc::new(Self { sites, vm, id: Uuid::new_v4(), here: Mutex::new(0) });
        for (number, listener) in listeners.into_iter().enumerate() {
            // The API itself stands behind a door that can be out of range.
            let inner = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let behind = inner.local_addr().unwrap();
            tokio::spawn(axum::serve(inner, api_of(fleet.clone(), number)).into_future());
            tokio::spawn(radio(listener, behind, fleet.sites[number].away.subscribe()));
        }
        fleet
    }

    pub fn options(&self) -> Options {
        let cloudlet = Some(format!("http://{}", self.sites[0].api));
        Options { cloudlet, ..Options::new("speech".parse().unwrap()) }
    }

    pub async fn session(&self) -> Session {
        Session::open(&self.options(), &|_| ()).await.unwrap()
    }

    pub fn here(&self) -> usize {
        *self.here.lock().unwrap()
    }

    fn instance(&self, number: usize) -> Instance {
        let frozen = *self.sites[number].has.lock().unwrap() == Has::Frozen;
        Instance {
            id: self.id,
            service: "speech".parse().unwrap(),
            image: "00".repeat(32),
            state: if frozen { api::State::Starting } else { api::State::Ready },
            address: Some(self.sites[number].port),
            sharing: Sharing::Private,
            users: 1,
            requested_unix_ms: 0,
            ready_after_ms: Some(1),
            reason: None,
            fetching: None,
        }
    }

    fn moved(&self, to: usize) -> Moved {
        Moved { instance: self.id, node: node(to), api: vec![format!("http://{}", self.sites[to].api)] }
    }

    /// The VM stands still: nothing goes in or out.
    pub fn freeze(&self) {
        let site = &self.sites[self.here()];
        *site.has.lock().unwrap() = Has::Frozen;
        site.gate.send_modify(|gate| gate.0 = false);
        let _ = site.changes.send(Event::Instance(self.instance(self.here())));
    }

    /// It goes on where it was.
    pub fn thaw(&self) {
        let site = &self.sites[self.here()];
        *site.has.lock().unwrap() = Has::Ready;
        site.gate.send_modify(|gate| gate.0 = true);
        let _ = site.changes.send(Event::Instance(self.instance(self.here())));
    }

    /// It runs over there; what was under way here is lost.
    pub fn commit(&self, to: usize, farewell: Farewell) {
        let from = std::mem::replace(&mut *self.here.lock().unwrap(), to);
        let (source, destination) = (&self.sites[from], &self.sites[to]);
        *destination.has.lock().unwrap() = Has::Ready;
        destination.gate.send_modify(|gate| gate.0 = true);
        *source.has.lock().unwrap() = match farewell {
            Farewell::Forgets => Has::Nothing,
            _ => Has::Sent(to),
        };
        // Without a word, its connections are not even cut.
        if !*source.away.borrow() {
            source.gate.send_modify(|gate| gate.1 += 1);
        }
        if farewell == Farewell::Tells {
            let _ = source.changes.send(Event::Moved(self.moved(to)));
        }
        let _ = destination.changes.send(Event::Instance(self.instance(to)));
    }

    pub async fn hand_off(&self, to: usize, frozen: Duration, farewell: Farewell) {
        self.freeze();
        tokio::time::sleep(frozen).await;
        self.commit(to, farewell);
    }

    /// How often the service did each request, most often first.
    pub fn repeats(&self) -> Vec<usize> {
        let mut times: Vec<usize> = self.vm.done.lock().unwrap().values().map(Vec::len).collect();
        times.sort_unstable_by(|one, two| two.cmp(one));
        times
    }
}

pub fn node(number: usize) -> String {
    mesh::NodeId::from_bytes([u8::try_from(number).unwrap() + 1; 16]).to_string()
}

type App = State<(Arc<Fleet>, usize)>;

fn api_of(fleet: Arc<Fleet>, number: usize) -> Router {
    Router::new()
        .route("/api/v1/cloudlet", get(cloudlet))
        .route("/api/v1/services", get(|| async { Json(vec![service()]) }))
        .route("/api/v1/services/speech", get(|| async { Json(service()) }))
        .route("/api/v1/peers", get(peers))
        .route(
            "/api/v1/instances",
            post(|State((fleet, number)): App| async move { Json(fleet.instance(number)) }),
        )
        .route("/api/v1/instances/{id}", get(instance).delete(release))
        .route("/api/v1/events", get(events))
        .with_state((fleet, number))
}

fn load() -> api::Load {
    api::Load {
        cpu_used_millis: 0,
        cpu_total_millis: 2000,
        memory_free_bytes: 1 << 30,
        memory_total_bytes: 2 << 30,
        instances: 1,
        queue_length: 0,
    }
}

fn service() -> api::Service {
    api::Service {
        id: "speech".parse().unwrap(),
        version: "1".to_owned(),
        description: String::new(),
        image: "00".repeat(32),
        guest_system: None,
        needs_memory_bytes: 1 << 20,
        needs_cpu_millis: 100,
        max_users: 1,
        ready_instances: 0,
        joinable_instances: None,
        ready_ms: None,
    }
}

async fn cloudlet(State((_, number)): App) -> Json<api::Cloudlet> {
    Json(api::Cloudlet {
        api_version: api::VERSION,
        node_id: node(number),
        name: format!("truck-{number}"),
        software: String::new(),
        accelerator: "tcg".to_owned(),
        load: load(),
        services: vec!["speech".parse().unwrap()],
        fetchable: Vec::new(),
        standing: api::Standing::default(),
    })
}

async fn peers(State((fleet, number)): App) -> Json<Vec<api::Peer>> {
    let peer = |(other, site): (usize, &Arc<Site>)| api::Peer {
        node_id: node(other),
        name: format!("truck-{other}"),
        reach: if other == number { api::PeerReach::Own } else { api::PeerReach::Neighbour },
        hops: u16::from(other != number),
        rtt_ms: None,
        api: vec![format!("http://{}", site.api)],
        accelerator: "tcg".to_owned(),
        load: load(),
        services: Vec::new(),
        held: BTreeMap::new(),
        rate_bytes_per_s: None,
        standing: api::Standing::default(),
    };
    Json(fleet.sites.iter().enumerate().map(peer).collect())
}

async fn instance(State((fleet, number)): App, Path(id): Path<Uuid>) -> Response {
    let site = &fleet.sites[number];
    site.asked.fetch_add(1, Ordering::SeqCst);
    let has = site.has.lock().unwrap().clone();
    match has {
        Has::Sent(to) if id == fleet.id => {
            (StatusCode::GONE, Json(Gone::from(fleet.moved(to)))).into_response()
        }
        Has::Ready | Has::Frozen if id == fleet.id => Json(fleet.instance(number)).into_response(),
        _ => {
            let problem = Problem {
                code: Code::UnknownInstance,
                message: "no such instance".to_owned(),
                missing: None,
            };
            (StatusCode::NOT_FOUND, Json(problem)).into_response()
        }
    }
}

async fn release(State((fleet, number)): App, Path(_): Path<Uuid>) -> Json<Instance> {
    fleet.sites[number].released.store(true, Ordering::SeqCst);
    Json(fleet.instance(number))
}

async fn events(State((fleet, number)): App) -> Response {
    let changes = fleet.sites[number].changes.subscribe();
    let events = futures_util::stream::unfold(changes, async |mut changes| {
        let event = changes.recv().await.ok()?;
        Some((Ok::<_, Infallible>(sse::Event::default().json_data(&event).unwrap()), changes))
    });
    Sse::new(events).into_response()
}

/// The way to a cloudlet's API: while it is away, connections stand and nothing comes through.
async fn radio(listener: TcpListener, behind: SocketAddr, away: watch::Receiver<bool>) {
    loop {
        let (local, _) = listener.accept().await.unwrap();
        let mut away = away.clone();
        tokio::spawn(async move {
            let mut local = local;
            away.wait_for(|away| !*away).await.unwrap();
            let Ok(mut far) = TcpStream::connect(behind).await else { return };
            tokio::select! {
                _ = tokio::io::copy_bidirectional(&mut local, &mut far) => {}
                () = gone(away) => std::future::pending().await,
            }
        });
    }
}

async fn gone(mut away: watch::Receiver<bool>) {
    away.wait_for(|away| *away).await.unwrap();
}

/// The forwarded port.
async fn forward_to(listener: TcpListener, site: Arc<Site>, web: SocketAddr, lines: SocketAddr) {
    loop {
        let (local, _) = listener.accept().await.unwrap();
        tokio::spawn(forward(local, site.clone(), web, lines));
    }
}

async fn forward(mut local: TcpStream, site: Arc<Site>, web: SocketAddr, lines: SocketAddr) {
    let mut gate = site.gate.subscribe();
    let epoch = gate.borrow_and_update().1;
    if *site.away.borrow() {
        std::future::pending::<()>().await;
    }
    // QEMU takes connections of its forwarded port also while the guest stands still; where no VM is, nobody listens.
    if matches!(*site.has.lock().unwrap(), Has::Nothing | Has::Sent(_)) {
        local.set_zero_linger().unwrap();
        return;
    }
    let carried = async {
        gate.clone().wait_for(|gate| gate.0).await.unwrap();
        let mut first = [0; 1];
        let peeked = local.peek(&mut first).await.unwrap_or(0);
        let to = if peeked == 1 && first[0].is_ascii_uppercase() { web } else { lines };
        let mut far = TcpStream::connect(to).await.unwrap();
        let (mut here, mut there) = (vec![0; 16384], vec![0; 16384]);
        let mut said_all = false;
        loop {
            let open = gate.clone();
            tokio::select! {
                read = local.read(&mut here), if !said_all => {
                    let Ok(bytes) = read else { break };
                    passes(open).await;
                    said_all = bytes == 0;
                    let sent = if said_all { far.shutdown().await } else { far.write_all(&here[..bytes]).await };
                    if sent.is_err() { break }
                }
                read = far.read(&mut there) => {
                    let Ok(bytes @ 1..) = read else { break };
                    passes(open).await;
                    if local.write_all(&there[..bytes]).await.is_err() { break }
                }
            }
        }
    };
    let mut cut = gate.clone();
    tokio::select! {
        () = carried => {}
        _ = cut.wait_for(|gate| gate.1 != epoch) => local.set_zero_linger().unwrap(),
    }
}

async fn passes(mut gate: watch::Receiver<(bool, u64)>) {
    gate.wait_for(|gate| gate.0).await.unwrap();
}

fn service_of(vm: Arc<Vm>) -> Router {
    Router::new()
        .route("/work/{name}", post(work).get(work))
        .route("/long/{ms}/{name}", post(long))
        .route("/drip/{name}", get(drip))
        .layer(axum::extract::DefaultBodyLimit::disable())
        .with_state(vm)
}

fn note(vm: &Vm, name: &str, headers: &HeaderMap) {
    vm.requests.fetch_add(1, Ordering::SeqCst);
    let key = headers.get("idempotency-key").map(|key| key.to_str().unwrap().to_owned()).unwrap_or_default();
    vm.done.lock().unwrap().entry(name.to_owned()).or_default().push(key);
}

async fn work(
    State(vm): State<Arc<Vm>>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> String {
    tokio::time::sleep(Duration::from_millis(2)).await;
    note(&vm, &name, &headers);
    format!("{name} {}", body.len())
}

async fn long(
    State(vm): State<Arc<Vm>>,
    Path((ms, name)): Path<(u64, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> String {
    note(&vm, &name, &headers);
    tokio::time::sleep(Duration::from_millis(ms)).await;
    format!("{name} {}", body.len())
}

/// An answer that never ends, a piece every 20 ms.
async fn drip(State(vm): State<Arc<Vm>>, Path(name): Path<String>, headers: HeaderMap) -> Response {
    note(&vm, &name, &headers);
    let pieces = futures_util::stream::unfold(0_u32, async |count| {
        tokio::time::sleep(Duration::from_millis(20)).await;
        Some((Ok::<_, Infallible>(Bytes::from(format!("{count}\n"))), count + 1))
    });
    ([("content-type", "text/event-stream")], axum::body::Body::from_stream(pieces)).into_response()
}

/// A service that is not HTTP: each line comes back with a greeting before it.
async fn answer_lines(listener: TcpListener) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        tokio::spawn(async move {
            let mut stream = tokio::io::BufReader::new(stream);
            let mut line = String::new();
            while tokio::io::AsyncBufReadExt::read_line(&mut stream, &mut line)
                .await
                .is_ok_and(|bytes| bytes > 0)
            {
                if stream.write_all(format!("heard {line}").as_bytes()).await.is_err() {
                    break;
                }
                line.clear();
            }
        });
    }
}
