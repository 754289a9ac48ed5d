//! Applying an overlay, chunk by chunk, while it comes.

use std::path::{Path, PathBuf};

use super::metadata::{Overlay, ROLES};
use super::output::Output;
use super::restore::Restoring;
use super::{Error, Guest};
use crate::id::ImageId;

/// Takes the chunks in order and restores the files of the Service VM. Unless [`finish`](Self::finish) succeeds, none of
/// them stays, also when it is dropped in the middle.
pub struct Applier {
    overlay: Overlay,
    base: Guest,
    restored: Guest,
    next: u32,
    /// `None` after an error.
    open: Option<Box<Open>>,
}

/// The part that is being restored, and those that are.
struct Open {
    restoring: Option<Restoring>,
    done: Vec<Output>,
}

impl Applier {
    /// Begins over the base with this id, with files in `dir`, named as in the image store, where there must be none.
    pub fn begin(overlay: Overlay, base_id: ImageId, base: Guest, dir: &Path) -> Result<Self, Error> {
        overlay.check()?;
        if overlay.base != base_id {
            return Err(Error::WrongBase { wanted: overlay.base, found: base_id });
        }
        let open = Some(Box::new(Open { restoring: None, done: Vec::new() }));
        Ok(Self { overlay, base, restored: Guest::in_dir(dir), next: 0, open })
    }

    /// Number of the chunk that is next; that of chunks, if all have come.
    pub fn next(&self) -> u32 {
        self.next
    }

    /// Takes a chunk. When it is refused, nothing has changed; when it cannot be applied, all is over.
    pub fn chunk(&mut self, number: u32, bytes: &[u8]) -> Result<(), Error> {
        if self.open.is_none() {
            return Err(Error::Ended);
        }
        if number != self.next && number < self.overlay.chunks() {
            return Err(Error::OutOfOrder { expected: self.next, found: number });
        }
        let place = self.overlay.check_chunk(number, bytes)?;
        let mut open = self.open.take().ok_or(Error::Ended)?;
        // Until it is put back, an error drops it, and its files with it.
        self.apply(&mut open, place.part, place.offset, bytes)?;
        self.open = Some(open);
        self.next += 1;
        Ok(())
    }

    fn apply(&self, open: &mut Open, number: usize, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        let part = &self.overlay.parts[number];
        let failed = |source| Error::Decode { role: part.role, source };
        let mut restoring = match open.restoring.take() {
            Some(restoring) => restoring,
            None => {
                let path = self.restored.path(part.role);
                Restoring::begin(self.overlay.coding, part, &self.base, &self.restored.disk, path)?
            }
        };
        restoring.push(bytes).map_err(failed)?;
        if offset + (bytes.len() as u64) < part.bytes {
            open.restoring = Some(restoring);
            return Ok(());
        }
        let mut output = restoring.finish().map_err(failed)?;
        let found = output.end()?;
        if found != part.restored_blake3 || output.written() != part.restored_bytes {
            return Err(Error::WrongResult { role: part.role, wanted: part.restored_blake3, found });
        }
        open.done.push(output);
        Ok(())
    }

    /// All chunks have come, and every file was verified: they stay.
    pub fn finish(self) -> Result<Guest, Error> {
        let missing = self.overlay.chunks() - self.next;
        match self.open {
            Some(open) if missing == 0 && open.done.len() == ROLES.len() => {
                open.done.into_iter().for_each(Output::keep);
                Ok(self.restored)
            }
            Some(_) => Err(Error::Incomplete { missing }),
            None => Err(Error::Ended),
        }
    }

    /// Where the files are being restored.
    pub fn paths(&self) -> [PathBuf; 3] {
        ROLES.map(|role| self.restored.path(role).to_owned())
    }
}
