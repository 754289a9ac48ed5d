//! A local address at which a service answers, wherever its instance runs.
//!
//! ```text
//!   program ──TCP──► Follow::address ─┬─ waits while the VM stands still or is looked for
//!                                     ├─ tunnel ──► cloudlet A ──► VM            before the handoff
//!                                     └─ tunnel ──► cloudlet B ──► VM            after it, perhaps through A
//! ```
//!
//! Programs that know nothing of missions and handoffs connect to it. What holds:
//!
//! * A new connection does not fail because of a handoff: it waits, for [`Settings::patience`] at most, and at most
//!   [`Settings::waiting_most`] wait. Connections that are established may be reset: the guest's own connections do not
//!   survive a handoff.
//! * [`Mode::Http`]: requests are kept until they are answered, and sent again at the new place. The client gets one
//!   answer. An idempotent request (GET, HEAD, OPTIONS, TRACE, PUT, DELETE), and one to which the client gave an
//!   `Idempotency-Key`, is sent again as long as nothing of an answer was passed on to the client. Any other is sent again
//!   only while nothing of an answer has arrived; it gets a key of its own, the same each time, by which a service
//!   can tell a repetition. **A service that ignores the key may do such a request twice**: when the VM moved after it had
//!   done the work and before its answer got out. With [`Settings::repeat_unkeyed`] `false`, such a request is not sent
//!   again once a byte of it has left, and fails instead (502, 504).
//! * [`Mode::Tcp`]: bytes as they are. A connection of which nothing was sent is led to the new place without a trace.
//!
//! Where the instance is, is learnt from its place (an event, or the answer 410), by asking the other cloudlets that
//! are known, and, where the new place is out of range, through one that is not; see [`tracker`].
//!
//! Whatever runs on this device can connect, as with any local server.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use mesh::NodeId;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::discovery::Search;
use crate::{Client, Error, Options, Session, Step};

mod carried;
mod door;
mod owner;
mod place;
mod route;
mod seeking;
mod shared;
mod tcp;
pub mod tracker;
mod web;
mod web_answer;

pub use carried::Failure;
pub use route::{Route, Way};
pub use tracker::Pace;
pub use web::KEY;

/// What programs speak with the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// HTTP/1: requests are repeated where the service is.
    Http,
    /// Anything: connections are led to where the service is.
    Tcp,
}

/// How an endpoint behaves.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Where programs connect to. Mind who else can reach it.
    pub listen: SocketAddr,
    /// What they speak.
    pub mode: Mode,
    /// Longest time that a connection or request waits for a place to be served at.
    pub patience: Duration,
    /// Most connections that wait, and requests that are under way.
    pub waiting_most: usize,
    /// Longest request body that can be repeated, bytes. Longer ones are passed on as they come, once.
    pub body_bytes_most: usize,
    /// Most bytes that are kept of all requests together.
    pub kept_bytes_most: usize,
    /// Whether a request that is neither idempotent nor has a key of the client's is repeated when nothing of an answer has
    /// arrived.
    pub repeat_unkeyed: bool,
    /// First bytes of a connection ([`Mode::Tcp`]) that are said again at the new place if the service has not said anything;
    /// 0: none, for protocols in which that could do harm.
    pub replay_bytes: usize,
    /// How fast the instance is looked for.
    pub pace: Pace,
}

impl Default for Settings {
    /// On a free port of loopback, HTTP. All figures are guesses: half a minute is thirty times the aim for a handoff, and
    /// as long as programs wait for an answer by themselves; a recording of a minute has 2 MB.
    fn default() -> Self {
        Self {
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
            mode: Mode::Http,
            patience: Duration::from_secs(30),
            waiting_most: 256,
            body_bytes_most: 8 << 20,
            kept_bytes_most: 64 << 20,
            repeat_unkeyed: true,
            replay_bytes: 0,
            pace: Pace::default(),
        }
    }
}

/// Where the service is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// There. A generation is one stay of the instance at one cloudlet, from 1.
    Serving {
        /// The cloudlet.
        node: NodeId,
        /// The way to it.
        url: String,
        /// The stay.
        generation: u64,
    },
    /// It stands still, or is looked for.
    Waiting,
    /// It has come to its end, for this reason.
    Over(String),
}

/// A local address for a service, wherever it is. Dropped, it is closed with every connection through it; the instance is
/// left to the cloudlet's idle stop, see [`Follow::release`].
#[derive(Debug)]
pub struct Follow {
    address: SocketAddr,
    instance: Uuid,
    client_token: String,
    place: watch::Receiver<Option<Client>>,
    status: watch::Receiver<Status>,
    tasks: Vec<JoinHandle<()>>,
}

impl Follow {
    /// Discovers, chooses, starts, waits until the service is ready, and opens the address. Must be called inside a tokio
    /// runtime.
    pub async fn open(
        options: &Options,
        settings: Settings,
        progress: &(dyn Fn(Step) + Sync),
    ) -> Result<Self, Error> {
        let session = Session::open(options, progress).await?;
        Self::around(session, &options.search, options.cloudlet.is_none(), settings).await
    }

    /// Opens an address for the service of a session. `search` says as whom others are asked and, if `by_multicast`, how
    /// they are looked for.
    pub async fn around(
        session: Session,
        search: &Search,
        by_multicast: bool,
        settings: Settings,
    ) -> Result<Self, Error> {
        let listener = TcpListener::bind(settings.listen).await.map_err(Error::Local)?;
        let address = listener.local_addr().map_err(Error::Local)?;
        let start = owner::Start::of(&session, search, by_multicast).await?;
        let (instance, client_token) = (session.instance().id, session.client_token().to_owned());
        let (busy, is_busy) = watch::channel(0);
        // Reports beyond these would say the same.
        let (broke, breaks) = mpsc::channel(16);
        let (owner, told) = owner::Owner::new(start, settings, is_busy, breaks);
        let shared = shared::Shared::new(settings, told.lead, busy, broke);
        let tasks =
            vec![tokio::spawn(owner.run()), tokio::spawn(door::serve(listener, std::sync::Arc::new(shared)))];
        Ok(Self { address, instance, client_token, place: told.place, status: told.status, tasks })
    }

    /// Where programs connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The instance.
    pub fn instance(&self) -> Uuid {
        self.instance
    }

    /// Where the service is, now and from now on.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Closes the address and tells the cloudlet that has the instance that this client no longer uses it.
    pub async fn release(self) -> Result<(), Error> {
        self.tasks.iter().for_each(JoinHandle::abort);
        let client = self.place.borrow().clone();
        match client {
            Some(client) => client.release(self.instance, &self.client_token).await.map(drop),
            None => Ok(()),
        }
    }
}

impl Drop for Follow {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}
