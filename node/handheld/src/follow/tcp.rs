//! Connections of programs that speak whatever they like.
//!
//! A new connection waits until the service can be reached, and is led to another place as often as it takes while nothing
//! of it has been sent. With [`super::Settings::replay_bytes`], so many first bytes are sent again as long as the service
//! has not said anything. Beyond that, what breaks is reset, so that no program takes a cut for the end.

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::carried::{Carried, Failure, Fate, Repeat, Stage};
use super::place::Stream;
use super::shared::{GivenUp, Shared};

/// Bytes under way in each direction. Two records of TLS.
const BUFFER_BYTES: usize = 32 * 1024;

/// Carries one connection to its end.
pub(super) async fn carry(shared: Arc<Shared>, mut local: TcpStream) {
    if let Err(error) = local.set_nodelay(true) {
        tracing::debug!(%error, "cannot set TCP_NODELAY");
    }
    if let Err(failure) = carry_whole(&shared, &mut local).await {
        tracing::info!(why = %failure, "a local connection is reset");
        if let Err(error) = local.set_zero_linger() {
            tracing::debug!(%error, "cannot reset a local connection");
        }
    }
}

/// What the program has said so far, for as long as it may have to be said again.
#[derive(Default)]
struct Said {
    bytes: Vec<u8>,
    /// It has said all.
    ended: bool,
}

enum Opening {
    /// The service has begun to answer.
    Answered,
    /// Both have said all.
    Ended,
    Broken,
}

async fn carry_whole(shared: &Arc<Shared>, local: &mut TcpStream) -> Result<(), Failure> {
    let settings = &shared.settings;
    let repeat = if settings.replay_bytes > 0 { Repeat::Unanswered } else { Repeat::Unsent };
    let mut carried = Carried::new(shared.now(), repeat, settings.patience);
    let mut said = Said::default();
    let mut ticket = Some(shared.enter().ok_or(Failure::Full)?);
    let mut not_before = shared.now();
    loop {
        let place = shared.place(&mut carried, not_before).await?;
        carried.goes(place.generation);
        let fate = match shared.race(&mut carried, place.open()).await {
            Ok(Ok(mut far)) => {
                ticket = None;
                match opening(shared, &mut carried, local, &mut far, &mut said).await {
                    Ok(Opening::Ended) => return Ok(()),
                    Ok(Opening::Answered) => match pass_on(shared, &mut carried, local, &mut far).await {
                        true => return Ok(()),
                        false => carried.broke(shared.now()),
                    },
                    Ok(Opening::Broken) => {
                        shared.broke(place.generation);
                        carried.broke(shared.now())
                    }
                    Err(GivenUp::Moved) => carried.broke(shared.now()),
                    Err(GivenUp::For(failure)) => return Err(failure),
                }
            }
            Ok(Err(error)) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "no connection to the service");
                shared.broke(place.generation);
                carried.broke(shared.now())
            }
            Err(GivenUp::Moved) => carried.broke(shared.now()),
            Err(GivenUp::For(failure)) => return Err(failure),
        };
        not_before = match fate {
            Fate::Again(when) => when,
            Fate::Fail(failure) => return Err(failure),
            Fate::Cut => return Err(Failure::Broken),
        };
        if ticket.is_none() {
            ticket = Some(shared.enter().ok_or(Failure::Full)?);
        }
    }
}

/// Until the service says something; what the program said before is said again first.
async fn opening(
    shared: &Shared,
    carried: &mut Carried,
    local: &mut TcpStream,
    far: &mut Box<dyn Stream>,
    said: &mut Said,
) -> Result<Opening, GivenUp> {
    if !said.bytes.is_empty() {
        carried.reached(Stage::Sent);
        if shared.race(carried, far.write_all(&said.bytes)).await?.is_err() {
            return Ok(Opening::Broken);
        }
    }
    if said.ended && shared.race(carried, far.shutdown()).await?.is_err() {
        return Ok(Opening::Broken);
    }
    let (mut there, mut here) = (vec![0; BUFFER_BYTES], vec![0; BUFFER_BYTES]);
    loop {
        let turn = async {
            tokio::select! {
                read = local.read(&mut there), if !said.ended => Turn::Local(read),
                read = far.read(&mut here) => Turn::Far(read),
            }
        };
        match shared.race(carried, turn).await? {
            Turn::Local(Err(_)) => return Ok(Opening::Ended),
            Turn::Local(Ok(0)) => {
                said.ended = true;
                if shared.race(carried, far.shutdown()).await?.is_err() {
                    return Ok(Opening::Broken);
                }
            }
            Turn::Local(Ok(bytes)) => {
                if said.bytes.len() + bytes <= shared.settings.replay_bytes {
                    said.bytes.extend_from_slice(&there[..bytes]);
                } else {
                    carried.allow(Repeat::Unsent);
                    said.bytes = Vec::new();
                }
                carried.reached(Stage::Sent);
                if shared.race(carried, far.write_all(&there[..bytes])).await?.is_err() {
                    return Ok(Opening::Broken);
                }
            }
            // It ended without a word. When nothing was sent to it either, that is the port of a VM that is gone; and
            // who has things said again expects an answer.
            Turn::Far(Ok(0)) if !said.bytes.is_empty() => return Ok(Opening::Broken),
            Turn::Far(Ok(0)) if carried.stage() == Stage::Opening && !said.ended => {
                return Ok(Opening::Broken);
            }
            Turn::Far(Ok(0)) => return Ok(Opening::Ended),
            Turn::Far(Err(_)) => return Ok(Opening::Broken),
            Turn::Far(Ok(bytes)) => {
                carried.reached(Stage::Sent);
                carried.reached(Stage::PassingOn);
                return Ok(match local.write_all(&here[..bytes]).await {
                    Ok(()) => Opening::Answered,
                    Err(_) => Opening::Ended,
                });
            }
        }
    }
}

enum Turn {
    Local(std::io::Result<usize>),
    Far(std::io::Result<usize>),
}

/// The rest; says whether it came to a regular end.
async fn pass_on(
    shared: &Shared,
    carried: &mut Carried,
    local: &mut TcpStream,
    far: &mut Box<dyn Stream>,
) -> bool {
    let copied = tokio::io::copy_bidirectional_with_sizes(local, far, BUFFER_BYTES, BUFFER_BYTES);
    match shared.race(carried, copied).await {
        Ok(copied) => {
            if copied.is_err() {
                shared.broke(carried.generation());
            }
            copied.is_ok()
        }
        Err(_) => false,
    }
}
