//! The question by unicast: its sockets. What is said is in [`mesh::dnssd::query`].

use std::net::SocketAddr;
use std::time::Duration;

use mesh::dnssd::{Error, Found, Interfaces, query};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

/// When the question is asked, after the start: again in case a packet was lost.
const ASK_AT: [Duration; 3] = [Duration::ZERO, Duration::from_millis(100), Duration::from_millis(400)];
/// When the last answer is expected. Guess: responders answer such a question at once.
const LISTEN: Duration = Duration::from_millis(1500);
/// Most addresses that are asked from.
const MAX_SOCKETS: usize = 32;
/// Answers that may wait. A full queue drops further ones: the multicast conversation repeats what matters.
const QUEUE: usize = 64;

/// The answers as they come; dropped, it closes its sockets.
pub struct Answers {
    found: mpsc::Receiver<Found>,
    _tasks: JoinSet<()>,
}

impl Answers {
    /// The next answer; `None` when no more is expected.
    pub async fn next(&mut self) -> Option<Found> {
        self.found.recv().await
    }
}

/// Asks from every address of these interfaces. An address that cannot send is left out.
pub fn ask(interfaces: &Interfaces) -> Result<Answers, Error> {
    let (send, found) = mpsc::channel(QUEUE);
    let mut tasks = JoinSet::new();
    for address in interfaces.addresses()?.into_iter().filter(sends_to_its_link).take(MAX_SOCKETS) {
        let send = send.clone();
        tasks.spawn(async move {
            if let Err(error) = converse(address, &send).await {
                tracing::debug!(%address, %error, "no question by unicast from here");
            }
        });
    }
    Ok(Answers { found, _tasks: tasks })
}

/// The kernel takes the interface of an IPv4 address or of a scope; for other IPv6 addresses it would guess.
fn sends_to_its_link(address: &SocketAddr) -> bool {
    match address {
        SocketAddr::V4(_) => true,
        SocketAddr::V6(v6) => v6.scope_id() != 0,
    }
}

async fn converse(from: SocketAddr, found: &mpsc::Sender<Found>) -> std::io::Result<()> {
    let socket = UdpSocket::bind(from).await?;
    let scope = match from {
        SocketAddr::V4(_) => 0,
        SocketAddr::V6(v6) => v6.scope_id(),
    };
    let (question, group) = (query::question(), query::group_seen_from(from));
    let start = Instant::now();
    let mut times = ASK_AT.iter().map(|after| start + *after);
    let mut next = times.next();
    let mut buffer = vec![0; query::MAX_ANSWER_BYTES];
    loop {
        tokio::select! {
            () = sleep_until(start + LISTEN) => return Ok(()),
            () = sleep_until(next.unwrap_or(start)), if next.is_some() => {
                socket.send_to(&question, group).await?;
                next = times.next();
            }
            received = socket.recv_from(&mut buffer) => {
                let (length, _) = received?;
                for one in query::answers(&buffer[..length], scope).unwrap_or_default() {
                    let _ = found.try_send(one);
                }
            }
        }
    }
}
