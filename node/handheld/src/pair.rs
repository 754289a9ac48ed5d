//! Getting into a mission: the handheld's side of `mesh::trust::pairing` over TCP.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use mesh::trust::pairing::{Code, Failure, Handheld, Invitation, MAX_ANSWER_BYTES};
use mesh::trust::{Bundle, Home, Role, Trust};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Longest wait for a connection. As for the API.
const CONNECT_LIMIT: Duration = Duration::from_secs(3);
/// Longest wait for each answer. Guess: the cloudlet computes some milliseconds, and a bundle with a thousand revocations takes
/// half a minute at 100 kbit/s.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// Where and with what to pair.
#[derive(Debug, Clone)]
pub enum Where {
    /// What a QR code said.
    Invited(Invitation),
    /// What a person typed.
    Typed {
        /// The cloudlet's pairing endpoint.
        at: SocketAddr,
        /// The code on its screen.
        code: Code,
    },
}

/// What came of pairing.
#[derive(Debug)]
pub struct Paired {
    /// The member that this handheld is now.
    pub trust: Trust,
}

/// Why a handheld was not paired. It is in the mission that it was in before, if it was in one.
#[derive(Debug, thiserror::Error)]
pub enum PairError {
    /// Nobody answers there, or no longer.
    #[error("no cloudlet shows a pairing code at {at}")]
    Unreachable {
        /// Where.
        at: SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The two did not agree, or the cloudlet refused.
    #[error(transparent)]
    Failed(#[from] Failure),
    /// Somebody who knew the code gave a bundle that is not the inviting cloudlet's.
    #[error("somebody else than the cloudlet that showed the QR code answered; do not use this code again")]
    Impostor,
    /// The bundle does not fit this handheld, or cannot be stored.
    #[error("the cloudlet's answer cannot be used")]
    Trust(#[from] mesh::trust::Error),
}

impl PairError {
    /// What the user can do.
    pub fn next_step(&self) -> Option<String> {
        let text = match self {
            Self::Unreachable { .. } => {
                "have the cloudlet show a code ('cloudlet mission pair') and use the address that it prints"
            }
            Self::Failed(Failure::Malformed) => "use the same release on both sides",
            Self::Failed(Failure::WrongCode) => "type the code again, or have the cloudlet show a new one",
            Self::Impostor => "tell whoever is responsible for the mission: somebody knew the code",
            _ => return None,
        };
        Some(text.to_owned())
    }
}

/// Pairs this handheld: its key is made if it has none, the cloudlet signs its certificate, and both are kept in `home`.
pub async fn pair(home: &Home, place: &Where, name: &str) -> Result<Paired, PairError> {
    let (at, code) = match place {
        Where::Invited(invitation) => (invitation.at, &invitation.code),
        Where::Typed { at, code } => (*at, code),
    };
    let request = home.device()?.request(Role::Handheld, name)?;
    let json = exchange(at, code, &request).await?;
    let bundle = Bundle::from_json(&json)?;
    if let Where::Invited(invitation) = place
        && !invitation.fits(&bundle)
    {
        return Err(PairError::Impostor);
    }
    Ok(Paired { trust: home.join(&bundle)? })
}

async fn exchange(at: SocketAddr, code: &Code, request: &[u8]) -> Result<Vec<u8>, PairError> {
    let unreachable = |source| PairError::Unreachable { at, source };
    let late = || unreachable(io::ErrorKind::TimedOut.into());
    let stream = tokio::time::timeout(CONNECT_LIMIT, TcpStream::connect(at)).await.map_err(|_| late())?;
    let mut stream = stream.map_err(unreachable)?;
    let (handheld, hello) = Handheld::begin(code)?;
    let answer = tokio::time::timeout(ANSWER_LIMIT, ask(&mut stream, &hello)).await.map_err(|_| late())?;
    let (waiting, frame) = handheld.request(&answer.map_err(unreachable)?, request)?;
    let grant = tokio::time::timeout(ANSWER_LIMIT, ask(&mut stream, &frame)).await.map_err(|_| late())?;
    Ok(waiting.bundle(&grant.map_err(unreachable)?)?)
}

async fn ask(stream: &mut TcpStream, frame: &[u8]) -> io::Result<Vec<u8>> {
    let length = u32::try_from(frame.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), frame].concat()).await?;
    let length = stream.read_u32().await? as usize;
    if length > MAX_ANSWER_BYTES {
        return Err(io::Error::other(format!(
            "an answer of {length} bytes; {MAX_ANSWER_BYTES} are read at most"
        )));
    }
    // What has not come yet takes no memory.
    let mut answer = Vec::new();
    stream.take(length as u64).read_to_end(&mut answer).await?;
    if answer.len() < length { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(answer) }
}
