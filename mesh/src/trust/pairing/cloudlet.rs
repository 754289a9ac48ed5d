//! The cloudlet's side: one code, and the runs that handhelds begin with it. Reads no clock.

use std::collections::BTreeMap;
use std::time::Duration;

use super::code::Code;
use super::frame::Frame;
use super::keys::{Begun, Keys, Side};
use super::{Failure, LIFETIME, MAX_ASKING_BYTES, MAX_RUNS, MAX_WRONG_TRIES};

/// How a code stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It can be used.
    Open,
    /// A handheld has used it.
    Used,
    /// There were too many wrong tries.
    Locked,
    /// Its time is over.
    Expired,
}

/// A code that is shown, and what became of it.
///
/// The driver gives each connection a number that it never uses again, hands in what comes, sends what is returned (for a
/// failure, its frame), and calls [`Self::lost`] when a connection ends.
pub struct Cloudlet {
    code: Code,
    ends: Duration,
    wrong: u32,
    begun: u32,
    used: bool,
    runs: BTreeMap<u64, Keys>,
}

/// A handheld that knew the code asks to be let in.
pub struct Asked {
    /// Its certificate request (PKCS #10, DER). What is in it is not checked yet.
    pub request: Vec<u8>,
    keys: Keys,
}

impl Asked {
    /// The frame that hands over the bundle's JSON.
    pub fn grant(self, bundle_json: &[u8]) -> Result<Vec<u8>, Failure> {
        let sealed = self.keys.seal(Side::Cloudlet, bundle_json)?;
        Ok(Frame::Grant { tag: self.keys.tag(Side::Cloudlet), sealed }.encode())
    }
}

impl Cloudlet {
    /// Shows `code` from `now` (since boot, never going backwards) for [`LIFETIME`].
    pub fn show(code: Code, now: Duration) -> Self {
        Self { code, ends: now + LIFETIME, wrong: 0, begun: 0, used: false, runs: BTreeMap::new() }
    }

    /// The code.
    pub fn code(&self) -> &Code {
        &self.code
    }

    /// When it expires, on the clock of `now`.
    pub fn ends(&self) -> Duration {
        self.ends
    }

    /// How the code stands.
    pub fn state(&self, now: Duration) -> State {
        if self.used {
            State::Used
        } else if self.wrong >= MAX_WRONG_TRIES || self.begun > MAX_RUNS {
            State::Locked
        } else if now >= self.ends {
            State::Expired
        } else {
            State::Open
        }
    }

    fn open(&self, now: Duration) -> Result<(), Failure> {
        match self.state(now) {
            State::Open => Ok(()),
            State::Used => Err(Failure::Used),
            State::Locked => Err(Failure::Locked),
            State::Expired => Err(Failure::Expired),
        }
    }

    /// The first frame of a connection; gives the answer.
    pub fn hello(&mut self, now: Duration, connection: u64, frame: &[u8]) -> Result<Vec<u8>, Failure> {
        self.open(now)?;
        let Ok(Frame::Hello(hello)) = capped(frame) else { return Err(Failure::Malformed) };
        self.begun += 1;
        self.open(now)?;
        let begun = Begun::new(Side::Cloudlet, &self.code)?;
        let answer = begun.element;
        self.runs.insert(connection, begun.finish(&hello, hello, answer)?);
        Ok(Frame::Answer(answer).encode())
    }

    /// The second frame of a connection. If the handheld knew the code, the code is used up from here on, whatever comes
    /// next; if not, that was a wrong try.
    pub fn request(&mut self, now: Duration, connection: u64, frame: &[u8]) -> Result<Asked, Failure> {
        let keys = self.runs.remove(&connection).ok_or(Failure::Malformed)?;
        self.open(now)?;
        let Ok(Frame::Request { tag, sealed }) = capped(frame) else { return Err(Failure::Malformed) };
        let opened = keys.check(Side::Handheld, tag).and_then(|()| keys.open(Side::Handheld, sealed));
        match opened {
            Ok(request) => {
                self.used = true;
                self.runs.clear();
                Ok(Asked { request, keys })
            }
            Err(failure) => {
                self.wrong += 1;
                Err(failure)
            }
        }
    }

    /// A connection has ended.
    pub fn lost(&mut self, connection: u64) {
        self.runs.remove(&connection);
    }
}

fn capped(frame: &[u8]) -> Result<Frame, Failure> {
    if frame.len() > MAX_ASKING_BYTES { Err(Failure::Malformed) } else { Frame::decode(frame) }
}
