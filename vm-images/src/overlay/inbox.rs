//! The payload at the side that gets it: chunks in any order, kept through cuts and restarts.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::metadata::Overlay;
use super::{Applier, Error};

/// The chunks that have come, in one file. What is in the file is believed only by its hash, so a crash at any time
/// costs at most the chunks that were being written.
#[derive(Debug)]
pub struct Inbox {
    overlay: Overlay,
    path: PathBuf,
    file: File,
    /// Where the payload of each part begins in the file.
    firsts: Vec<u64>,
    have: Vec<bool>,
}

impl Inbox {
    /// Opens or begins the file; reads what is in it and keeps what is right.
    pub fn open(path: &Path, overlay: Overlay) -> Result<Self, Error> {
        overlay.check()?;
        let failed = |error| Error::file("open", path)(error);
        let mut how = OpenOptions::new();
        let file = how.read(true).write(true).create(true).truncate(false).open(path).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        let firsts = overlay.parts.iter().scan(0, |end, part| {
            *end += part.bytes;
            Some(*end - part.bytes)
        });
        let firsts = firsts.collect();
        let have = vec![false; overlay.chunks() as usize];
        let mut inbox = Self { overlay, path: path.to_owned(), file, firsts, have };
        let mut bytes = Vec::new();
        for number in 0..inbox.overlay.chunks() {
            let (at, expected) = inbox.place(number)?;
            if at + expected as u64 > length {
                continue;
            }
            bytes.resize(expected, 0);
            inbox.file.read_exact_at(&mut bytes, at).map_err(Error::file("read", path))?;
            inbox.have[number as usize] = inbox.overlay.check_chunk(number, &bytes).is_ok();
        }
        Ok(inbox)
    }

    fn place(&self, number: u32) -> Result<(u64, usize), Error> {
        let place = self.overlay.place(number)?;
        Ok((self.firsts[place.part] + place.offset, place.bytes))
    }

    /// Takes a chunk; one that is here already is checked and not written again.
    pub fn put(&mut self, number: u32, bytes: &[u8]) -> Result<(), Error> {
        self.overlay.check_chunk(number, bytes)?;
        let (at, _) = self.place(number)?;
        if !self.have[number as usize] {
            self.file.write_all_at(bytes, at).map_err(Error::file("write", &self.path))?;
            self.have[number as usize] = true;
        }
        Ok(())
    }

    /// The chunks that have not come.
    pub fn missing(&self) -> impl Iterator<Item = u32> {
        (0..).zip(&self.have).filter(|(_, have)| !**have).map(|(number, _)| number)
    }

    /// Gives the applier all that it can take now; true when it has got the last chunk.
    pub fn feed(&self, applier: &mut Applier) -> Result<bool, Error> {
        while self.have.get(applier.next() as usize) == Some(&true) {
            let (at, length) = self.place(applier.next())?;
            let mut bytes = vec![0; length];
            self.file.read_exact_at(&mut bytes, at).map_err(Error::file("read", &self.path))?;
            applier.chunk(applier.next(), &bytes)?;
        }
        Ok(applier.next() == self.overlay.chunks())
    }
}
