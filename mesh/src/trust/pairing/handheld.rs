//! The handheld's side of a run.

use super::code::Code;
use super::frame::{ELEMENT_BYTES, Frame};
use super::keys::{Begun, Keys, Side};
use super::{Failure, MAX_ANSWER_BYTES};

/// A run of the protocol that has sent its first frame.
pub struct Handheld {
    begun: Begun,
    hello: [u8; ELEMENT_BYTES],
}

/// A run that has sent its request.
pub struct Waiting {
    keys: Keys,
}

impl Handheld {
    /// Begins with the code that the user typed; gives the first frame.
    pub fn begin(code: &Code) -> Result<(Self, Vec<u8>), Failure> {
        let begun = Begun::new(Side::Handheld, code)?;
        let hello = begun.element;
        Ok((Self { begun, hello }, Frame::Hello(hello).encode()))
    }

    /// The cloudlet's answer has come; gives the frame with the certificate request.
    pub fn request(self, answer: &[u8], request_der: &[u8]) -> Result<(Waiting, Vec<u8>), Failure> {
        let answer = match Frame::decode(answer)? {
            Frame::Answer(answer) => answer,
            Frame::Refused(failure) => return Err(failure),
            _ => return Err(Failure::Malformed),
        };
        let keys = self.begun.finish(&answer, self.hello, answer)?;
        let sealed = keys.seal(Side::Handheld, request_der)?;
        let frame = Frame::Request { tag: keys.tag(Side::Handheld), sealed }.encode();
        Ok((Waiting { keys }, frame))
    }
}

impl Waiting {
    /// The grant has come; gives the bundle's JSON, from somebody who knows the code.
    pub fn bundle(self, grant: &[u8]) -> Result<Vec<u8>, Failure> {
        if grant.len() > MAX_ANSWER_BYTES {
            return Err(Failure::Malformed);
        }
        match Frame::decode(grant)? {
            Frame::Grant { tag, sealed } => {
                self.keys.check(Side::Cloudlet, tag)?;
                self.keys.open(Side::Cloudlet, sealed)
            }
            Frame::Refused(failure) => Err(failure),
            _ => Err(Failure::Malformed),
        }
    }
}
