//! What the QR code says: where to pair, with which code, and who must answer.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use qrcode::QrCode;
use qrcode::render::{svg, unicode};

use super::super::bundle::Bundle;
use super::super::error::Error;
use super::code::Code;

/// Longest text that is read, bytes. Ours have about 100.
const MAX_BYTES: usize = 300;
const SCHEME: &str = "cloudlet:pair?";

/// An invitation: `cloudlet:pair?at=10.0.0.7:8478&code=12345678&by=0f…`.
///
/// `by` is the first half of the BLAKE3 hash of the cloudlet's enroller certificate. With it, somebody who guesses the code
/// still cannot let the handheld into a mission of his own: the certificate that the handheld gets must be signed by that
/// very enroller. Text that a person types has no `by`; then the code alone must do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invitation {
    /// Where the cloudlet's pairing endpoint is.
    pub at: SocketAddr,
    /// The code.
    pub code: Code,
    by: [u8; 16],
}

/// Text that is no invitation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("that is no invitation; it looks like cloudlet:pair?at=10.0.0.7:8478&code=12345678&by=…")]
pub struct ParseInvitationError;

impl Invitation {
    /// To pair at `at` with the cloudlet that has this enroller certificate (DER).
    pub fn new(at: SocketAddr, code: Code, enroller_der: &[u8]) -> Self {
        Self { at, code, by: half_hash(enroller_der) }
    }

    /// Whether the bundle was made by the cloudlet that invited. The bundle's own chain must be checked besides.
    pub fn fits(&self, bundle: &Bundle) -> bool {
        bundle.chain.get(1).is_some_and(|enroller| half_hash(enroller) == self.by)
    }

    /// As a QR code of half blocks for a terminal.
    pub fn to_unicode(&self) -> Result<String, Error> {
        Ok(self.qr()?.render::<unicode::Dense1x2>().build())
    }

    /// As a QR code in SVG.
    pub fn to_svg(&self) -> Result<String, Error> {
        Ok(self.qr()?.render::<svg::Color<'_>>().min_dimensions(240, 240).build())
    }

    fn qr(&self) -> Result<QrCode, Error> {
        QrCode::new(self.to_string()).map_err(|error| Error::bad("the QR code", error))
    }
}

fn half_hash(der: &[u8]) -> [u8; 16] {
    let mut half = [0; 16];
    half.copy_from_slice(&blake3::hash(der).as_bytes()[..16]);
    half
}

impl fmt::Display for Invitation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}at={}&code={}&by={}", self.at, self.code.digits(), hex::encode(self.by))
    }
}

impl FromStr for Invitation {
    type Err = ParseInvitationError;

    fn from_str(text: &str) -> Result<Self, ParseInvitationError> {
        let read = || {
            let (mut at, mut code, mut by) = (None, None, None);
            for pair in text.strip_prefix(SCHEME)?.split('&') {
                match pair.split_once('=')? {
                    ("at", value) => at = Some(value.parse().ok()?),
                    ("code", value) => code = Some(value.parse().ok()?),
                    ("by", value) => {
                        let mut bytes = [0; 16];
                        hex::decode_to_slice(value, &mut bytes).ok()?;
                        by = Some(bytes);
                    }
                    // A later release may say more.
                    _ => {}
                }
            }
            Some(Self { at: at?, code: code?, by: by? })
        };
        if text.len() > MAX_BYTES { Err(ParseInvitationError) } else { read().ok_or(ParseInvitationError) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn text_round_trips_and_is_drawn() {
        for at in ["10.0.0.7:8478", "[fe80::1%3]:8478"] {
            let invitation =
                Invitation::new(at.parse().unwrap(), "12345678".parse().unwrap(), b"certificate");
            assert_eq!(invitation.to_string().parse(), Ok(invitation.clone()));
            assert!(invitation.to_unicode().unwrap().contains('█'));
            assert!(invitation.to_svg().unwrap().contains("<svg"));
        }
    }

    proptest! {
        #[test]
        fn any_text_is_an_invitation_or_an_error(text in "(cloudlet:pair\\?)?.{0,100}") {
            let _ = text.parse::<Invitation>();
        }
    }
}
