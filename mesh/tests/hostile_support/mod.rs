//! Somebody who speaks the mesh's protocols by hand, and says what the real node never would.

#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, reason = "support of tests: a failure is a panic")]

use std::time::Duration;

use libp2p::futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use libp2p::identity::Keypair;
use libp2p::swarm::SwarmEvent;
use libp2p::{Multiaddr, PeerId, Stream, StreamProtocol, SwarmBuilder, noise, tcp, yamux};
use libp2p_stream::{Control, OpenStreamError};
use mesh::NodeId;
use mesh::membership::{Frame, Identity};
use mesh::wire::frame;
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub const LINK: StreamProtocol = StreamProtocol::new("/cloudlet/link/2");
/// What members speak behind the gate.
pub const PROVEN: [StreamProtocol; 5] = [
    StreamProtocol::new("/meshsub/1.1.0"),
    StreamProtocol::new("/meshsub/1.2.0"),
    StreamProtocol::new("/ipfs/id/1.0.0"),
    StreamProtocol::new("/test/1"),
    StreamProtocol::new("/cloudlet/api/1"),
];

/// A libp2p program with one connection, and whether it still has it.
pub struct Hostile {
    pub control: Control,
    pub peer: PeerId,
    connected: watch::Receiver<Option<bool>>,
    task: JoinHandle<()>,
}

impl Drop for Hostile {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A keypair of its own for everybody who has no better one.
pub fn stranger() -> Keypair {
    Keypair::generate_ed25519()
}

/// The key of a member.
pub fn keypair(identity: &Identity) -> Keypair {
    Keypair::ed25519_from_bytes(identity.key.to_bytes()).unwrap()
}

impl Hostile {
    /// Dials, from this address if one is given.
    pub fn dial(keypair: Keypair, from: Option<Multiaddr>, to: &Multiaddr) -> Self {
        let mut swarm = SwarmBuilder::with_existing_identity(keypair)
            .with_tokio()
            .with_tcp(tcp::Config::new(), noise::Config::new, yamux::Config::default)
            .unwrap()
            .with_quic()
            .with_behaviour(|_| libp2p_stream::Behaviour::new())
            .unwrap()
            .with_swarm_config(|config| config.with_idle_connection_timeout(Duration::from_secs(600)))
            .build();
        let control = swarm.behaviour().new_control();
        let (told, connected) = watch::channel(None);
        let peer = match to.iter().last() {
            Some(libp2p::multiaddr::Protocol::P2p(peer)) => peer,
            _ => PeerId::random(),
        };
        let to = to.clone();
        let task = tokio::spawn(async move {
            if let Some(from) = from {
                swarm.listen_on(from).unwrap();
                while !matches!(swarm.select_next_some().await, SwarmEvent::NewListenAddr { .. }) {}
            }
            swarm.dial(to).unwrap();
            loop {
                match swarm.select_next_some().await {
                    SwarmEvent::ConnectionEstablished { .. } => {
                        let _ = told.send(Some(true));
                    }
                    SwarmEvent::ConnectionClosed { .. } | SwarmEvent::OutgoingConnectionError { .. } => {
                        let _ = told.send(Some(false));
                    }
                    _ => {}
                }
            }
        });
        Self { control, peer, connected, task }
    }

    /// Waits until the connection is there (`true`) or refused.
    pub async fn outcome(&mut self) -> bool {
        self.connected.wait_for(Option::is_some).await.unwrap().unwrap()
    }

    /// Waits until the connection is gone.
    pub async fn gone(&mut self) {
        self.connected.wait_for(|state| *state == Some(false)).await.unwrap();
    }

    pub fn is_connected(&self) -> bool {
        *self.connected.borrow() == Some(true)
    }

    pub async fn open(&mut self, protocol: StreamProtocol) -> Result<Stream, OpenStreamError> {
        self.control.open_stream(self.peer, protocol).await
    }

    /// The link with this certificate shown; the answer is theirs, or `None` if they hung up.
    pub async fn link(&mut self, certificate: &[u8]) -> Option<Link> {
        let stream = self.open(LINK).await.ok()?;
        let mut link = Link { stream };
        link.say(&Frame::Hello { certificate: certificate.to_vec() }).await.ok()?;
        match link.hear().await {
            Some(Frame::Hello { .. }) => Some(link),
            _ => None,
        }
    }
}

/// A link, spoken by hand.
pub struct Link {
    pub stream: Stream,
}

impl Link {
    pub async fn say(&mut self, frame: &Frame) -> std::io::Result<()> {
        let bytes = frame::encode(frame).unwrap();
        self.say_bytes(&bytes).await
    }

    pub async fn say_bytes(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        let mut framed = Vec::new();
        let mut length = bytes.len();
        while length >= 0x80 {
            framed.push(u8::try_from(length & 0x7f).unwrap() | 0x80);
            length >>= 7;
        }
        framed.push(u8::try_from(length).unwrap());
        framed.extend_from_slice(bytes);
        self.stream.write_all(&framed).await?;
        self.stream.flush().await
    }

    /// The next frame; `None` at the end.
    pub async fn hear(&mut self) -> Option<Frame> {
        let mut length = 0_usize;
        for shift in [0, 7, 14] {
            let mut byte = [0];
            self.stream.read_exact(&mut byte).await.ok()?;
            length |= usize::from(byte[0] & 0x7f) << shift;
            if byte[0] & 0x80 == 0 {
                break;
            }
        }
        let mut bytes = vec![0; length];
        self.stream.read_exact(&mut bytes).await.ok()?;
        Some(frame::decode(&bytes).unwrap())
    }

    /// The newest state of a node that the other side holds, signed by that node.
    pub async fn state_of(&mut self, node: NodeId) -> mesh::membership::Signed {
        use mesh::membership::{Version, Want};
        self.say(&Frame::Want(vec![Want { node, have: Version::default(), certificate: false }]))
            .await
            .unwrap();
        loop {
            if let Frame::Adverts(adverts) = self.hear().await.unwrap()
                && let Some(signed) = adverts.into_iter().find(|signed| signed.node == node)
            {
                return signed;
            }
        }
    }
}
