//! What both sides derive from the code and from what they said.

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use spake2::{Ed25519Group, Identity, Password, Spake2};

use super::Failure;
use super::code::Code;
use super::frame::{ELEMENT_BYTES, Frame, TAG_BYTES};

/// Which side says something; each has keys of its own, so that nothing can be sent back to where it came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Handheld,
    Cloudlet,
}

/// SPAKE2 begun; nothing secret is known yet.
pub(super) struct Begun {
    state: Spake2<Ed25519Group>,
    pub element: [u8; ELEMENT_BYTES],
}

impl Begun {
    pub fn new(side: Side, code: &Code) -> Result<Self, Failure> {
        let password = Password::new(code.digits().as_bytes());
        let (a, b) =
            (Identity::new(b"cloudlet pairing 1: handheld"), Identity::new(b"cloudlet pairing 1: cloudlet"));
        let (state, message) = match side {
            Side::Handheld => Spake2::start_a(&password, &a, &b),
            Side::Cloudlet => Spake2::start_b(&password, &a, &b),
        };
        Ok(Self { state, element: message.try_into().map_err(|_| Failure::Broken)? })
    }

    /// `hello` and `answer` are the elements of handheld and cloudlet, one of which is the other side's.
    pub fn finish(
        self,
        theirs: &[u8; ELEMENT_BYTES],
        hello: [u8; ELEMENT_BYTES],
        answer: [u8; ELEMENT_BYTES],
    ) -> Result<Keys, Failure> {
        let secret = self.state.finish(theirs).map_err(|_| Failure::Malformed)?;
        let said = [Frame::Hello(hello).encode(), Frame::Answer(answer).encode()].concat();
        Ok(Keys { secret, said: *blake3::hash(&said).as_bytes() })
    }
}

/// The key that both sides have if they had the same code, and what was said until then.
pub(super) struct Keys {
    secret: Vec<u8>,
    said: [u8; 32],
}

impl Keys {
    /// Proof of having the key.
    pub fn tag(&self, by: Side) -> [u8; TAG_BYTES] {
        *self.hash(by).as_bytes()
    }

    fn hash(&self, by: Side) -> blake3::Hash {
        let context = match by {
            Side::Handheld => "cloudlet 2026-11 pairing 1: the handheld confirms",
            Side::Cloudlet => "cloudlet 2026-11 pairing 1: the cloudlet confirms",
        };
        blake3::keyed_hash(&blake3::derive_key(context, &self.secret), &self.said)
    }

    /// Whether the other side has the key, in constant time.
    pub fn check(&self, by: Side, tag: [u8; TAG_BYTES]) -> Result<(), Failure> {
        if self.hash(by) == tag { Ok(()) } else { Err(Failure::WrongCode) }
    }

    fn sealing(&self, by: Side) -> Result<LessSafeKey, Failure> {
        let context = match by {
            Side::Handheld => "cloudlet 2026-11 pairing 1: the handheld seals",
            Side::Cloudlet => "cloudlet 2026-11 pairing 1: the cloudlet seals",
        };
        let key = blake3::derive_key(context, &self.secret);
        UnboundKey::new(&CHACHA20_POLY1305, &key).map(LessSafeKey::new).map_err(|_| Failure::Broken)
    }

    /// Each key seals one text, so its nonce can be zero.
    pub fn seal(&self, by: Side, text: &[u8]) -> Result<Vec<u8>, Failure> {
        let mut sealed = text.to_vec();
        self.sealing(by)?
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key([0; 12]),
                Aad::from(self.said),
                &mut sealed,
            )
            .map_err(|_| Failure::Broken)?;
        Ok(sealed)
    }

    pub fn open(&self, by: Side, mut sealed: Vec<u8>) -> Result<Vec<u8>, Failure> {
        let opened = self
            .sealing(by)?
            .open_in_place(Nonce::assume_unique_for_key([0; 12]), Aad::from(self.said), &mut sealed)
            .map_err(|_| Failure::WrongCode)?
            .len();
        sealed.truncate(opened);
        Ok(sealed)
    }
}
