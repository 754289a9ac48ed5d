//! Where new connections go, and how one comes about.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use uuid::Uuid;

use super::route::Route;
use crate::{Client, Error};

/// Longest wait for a connection to a forwarded port, without a mission. Guess, as for the cloudlet's API.
const CONNECT_LIMIT: Duration = Duration::from_secs(3);

/// What connections are told.
#[derive(Debug, Clone)]
pub(super) enum Lead {
    /// Wait.
    Hold,
    /// Go there.
    To(Arc<Place>),
    /// There is nothing to wait for.
    Over,
}

/// A stay of the instance at a cloudlet, and the way there.
#[derive(Debug)]
pub(super) struct Place {
    pub generation: u64,
    pub route: Route,
    pub client: Client,
    pub instance: Uuid,
    pub client_token: String,
    /// Its forwarded port, for those who reach it: without a mission.
    pub direct: Option<SocketAddr>,
}

/// A connection to the service.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    #[error(transparent)]
    Tunnel(Error),
    #[error("cannot connect to the service at {address}")]
    Connect {
        address: SocketAddr,
        #[source]
        source: std::io::Error,
    },
    #[error("the service at {0} takes no connection")]
    Late(SocketAddr),
}

impl Place {
    /// A connection to the service, through a tunnel or, without a mission, to its forwarded port.
    pub async fn open(&self) -> Result<Box<dyn Stream>, OpenError> {
        let Some(address) = self.direct else {
            let tunnel = self.client.tunnel(self.instance, &self.client_token).await;
            return Ok(Box::new(tunnel.map_err(OpenError::Tunnel)?));
        };
        let connected = tokio::time::timeout(CONNECT_LIMIT, TcpStream::connect(address)).await;
        let stream = connected.map_err(|_| OpenError::Late(address))?;
        let stream = stream.map_err(|source| OpenError::Connect { address, source })?;
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
        Ok(Box::new(stream))
    }
}
