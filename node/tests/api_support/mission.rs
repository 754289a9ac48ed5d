//! Missions for daemons of tests, their members, and a service that echoes.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use handheld::api::{Sharing, Start};
use handheld::{Access, Client, Error};
use mesh::NodeId;
use mesh::advert::{Advert, Capabilities, Gpu};
use mesh::trust::{
    Authority, Device, Grant, Home, Identity, Permissions, Request, Role, Rules, Trust, Window,
};
use vm_images::manifest::Accelerator;

use super::{Daemon, PATIENCE, World};

pub const USE: Permissions = Permissions::USE_SERVICES;
/// What the echo says after its client has said all.
pub const LAST_WORD: &[u8] = b"that was all";

pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

pub fn authority() -> Authority {
    authority_with(Rules::default())
}

pub fn authority_with(rules: Rules) -> Authority {
    let window = Window { not_before_unix_s: now() - 60, not_after_unix_s: now() + 3600 };
    Authority::create_with("test", window, rules).unwrap()
}

/// A world whose cloudlet is in the authority's mission, without other cloudlets.
pub fn join(authority: &Authority, name: &str) -> World {
    let mut world = World::new();
    world.config.trust.insecure = false;
    world.config.mesh.enabled = false;
    world.config.node.name = name.into();
    std::fs::create_dir_all(world.state_dir()).unwrap();
    let node = node(&world);
    let home = world.config.trust_home();
    let pem = home.device().unwrap().request_pem(Role::Cloudlet(node), name).unwrap();
    let request = Request::from_bytes(pem.as_bytes()).unwrap();
    let grant = Grant { permissions: Permissions::NONE, may_enroll: Some(USE), not_after_unix_s: None };
    home.join(&authority.enroll(&request, grant).unwrap()).unwrap();
    world
}

pub fn node(world: &World) -> NodeId {
    NodeId::load_or_create(&world.state_dir().join("node-id"), &mut rand::rng()).unwrap()
}

/// A handheld that the authority enrolled.
pub fn handheld(authority: &Authority, permissions: Permissions, dir: &Path) -> Trust {
    let home = Home::at(dir);
    let request = home.device().unwrap().request(Role::Handheld, "hand").unwrap();
    let grant = Grant { permissions, may_enroll: None, not_after_unix_s: None };
    home.join(&authority.enroll(&Request::from_der(&request).unwrap(), grant).unwrap()).unwrap()
}

/// A cloudlet that the authority enrolled, without a daemon.
pub fn cloudlet(authority: &Authority) -> Trust {
    let device = Device::generate().unwrap();
    let node = NodeId::generate(&mut rand::rng());
    let request = Request::from_der(&device.request(Role::Cloudlet(node), "member").unwrap()).unwrap();
    let grant = Grant { permissions: Permissions::NONE, may_enroll: None, not_after_unix_s: None };
    let bundle = authority.enroll(&request, grant).unwrap();
    let mission = bundle.mission().unwrap();
    Trust::new(Identity::new(device, &bundle, &mission).unwrap(), mission)
}

/// What a cloudlet says of itself that has nothing.
pub fn advert(node: NodeId, name: &str) -> Advert {
    let capabilities = Capabilities {
        accelerator: Accelerator::Kvm,
        gpu: Gpu::None,
        architecture: "x86_64".to_owned(),
        cpu_models: BTreeSet::new(),
        machines: BTreeSet::new(),
        guest_systems: BTreeSet::new(),
        guest_speed_permille: Some(1000),
    };
    Advert::new(node, name.to_owned(), capabilities)
}

pub fn address(daemon: &Daemon) -> SocketAddr {
    reqwest::Url::parse(&daemon.client.base).unwrap().socket_addrs(|| None).unwrap()[0]
}

pub fn client(daemon: &Daemon, trust: &Trust) -> Client {
    Client::reaching(&Access::Member(trust.clone()), address(daemon)).unwrap()
}

pub fn start(service: &str, token: &str) -> Start {
    Start { service: service.parse().unwrap(), client_token: token.to_owned(), sharing: Sharing::Shared }
}

/// An instance of a service that is ready for a token.
pub async fn ready(client: &Client, service: &str, token: &str) -> handheld::api::Instance {
    let instance = client.start(&start(service, token)).await.unwrap();
    client.wait_ready(instance.id, PATIENCE).await.unwrap()
}

pub fn code_of(error: &Error) -> handheld::api::Code {
    match error {
        Error::Refused { refusal, .. } => refusal.problem.code,
        other => panic!("{other:?}"),
    }
}

/// A service that is healthy and otherwise sends back what it gets, then its last word.
pub fn echo() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            // A client that goes away in the middle is its own affair.
            std::thread::spawn(move || drop(answer(stream)));
        }
    });
    address
}

fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    let mut bytes = vec![0; 64 * 1024];
    let mut is_first = true;
    loop {
        let read = stream.read(&mut bytes)?;
        if read == 0 {
            stream.write_all(LAST_WORD)?;
            return stream.shutdown(Shutdown::Write);
        }
        if std::mem::take(&mut is_first) && bytes[..read].starts_with(b"GET /healthz ") {
            let healthy = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok";
            return stream.write_all(healthy);
        }
        stream.write_all(&bytes[..read])?;
    }
}
