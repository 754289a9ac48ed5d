//! A stable local address for something that only a tunnel reaches.
//!
//! Programs that know nothing of missions connect to [`Endpoint::address`], an address of this device; each connection
//! becomes a tunnel of its own. Where tunnels lead may change while the address stays: connections that are open end as
//! they may, new ones take the new way. A connection whose tunnel breaks is reset, so that a program never takes a cut for
//! the regular end of what it reads.
//!
//! Whatever runs on this device can connect, as with any local server.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use mesh::NodeId;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use uuid::Uuid;

use crate::{Client, Error};

/// Bytes under way in each direction of a connection. Two records of TLS.
const BUFFER_BYTES: usize = 32 * 1024;
/// Pause after the system refused to accept, which is because it has no descriptors left. Guess.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where tunnels lead.
#[derive(Debug, Clone)]
pub enum Way {
    /// To the service of an instance on the cloudlet that `client` speaks to.
    Service {
        /// The cloudlet.
        client: Client,
        /// The instance.
        instance: Uuid,
        /// As whom it is used.
        client_token: String,
    },
    /// To the API of `node`, through the cloudlet that `client` speaks to.
    Cloudlet {
        /// The cloudlet in between.
        client: Client,
        /// The cloudlet behind it.
        node: NodeId,
    },
}

impl Way {
    async fn open(&self) -> Result<reqwest::Upgraded, Error> {
        match self {
            Self::Service { client, instance, client_token } => client.tunnel(*instance, client_token).await,
            Self::Cloudlet { client, node } => client.tunnel_to(*node).await,
        }
    }
}

/// A local address; dropped, it is closed with every connection through it.
#[derive(Debug)]
pub struct Endpoint {
    address: SocketAddr,
    way: watch::Sender<Arc<Way>>,
    task: JoinHandle<()>,
}

impl Endpoint {
    /// Opens a free port on loopback. Must be called inside a tokio runtime.
    pub fn open(way: Way) -> io::Result<Self> {
        Self::open_at((Ipv4Addr::LOCALHOST, 0).into(), way)
    }

    /// As [`Self::open`], on this address. Mind who else can reach it.
    pub fn open_at(address: SocketAddr, way: Way) -> io::Result<Self> {
        let runtime = tokio::runtime::Handle::try_current().map_err(io::Error::other)?;
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let listener = TcpListener::from_std(listener)?;
        let (way, now) = watch::channel(Arc::new(way));
        Ok(Self { address, way, task: runtime.spawn(serve(listener, now)) })
    }

    /// Where programs connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Leads new connections there from now on.
    pub fn lead(&self, way: Way) {
        self.way.send_replace(Arc::new(way));
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, way: watch::Receiver<Arc<Way>>) {
    // How many at once the cloudlet decides, which counts them by member; the set ends them with this task.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((local, _)) => {
                    connections.spawn(carry(local, way.borrow().clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a local connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(ended) = connections.join_next() => if let Err(panic) = ended {
                tracing::error!(%panic, "a local connection panicked");
            },
        }
    }
}

async fn carry(mut local: TcpStream, way: Arc<Way>) {
    if let Err(error) = local.set_nodelay(true) {
        tracing::debug!(%error, "cannot set TCP_NODELAY");
    }
    let whole = match way.open().await {
        Ok(mut far) => {
            let copied =
                tokio::io::copy_bidirectional_with_sizes(&mut local, &mut far, BUFFER_BYTES, BUFFER_BYTES);
            copied.await.inspect_err(|error| tracing::debug!(%error, "a tunnel broke")).is_ok()
        }
        Err(error) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "no tunnel");
            false
        }
    };
    if !whole && let Err(error) = local.set_zero_linger() {
        tracing::debug!(%error, "cannot reset a local connection");
    }
}
