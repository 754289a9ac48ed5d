//! One part on its way back to what it was made of.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use xz2::write::XzDecoder;

use super::metadata::{Coding, Part};
use super::output::Output;
use super::{Error, Guest, blocks, xz};
use crate::manifest::Role;
use crate::vcdiff::{Decoder, Limits};

/// A decoder of a part, by what it is.
pub(super) enum Restoring {
    Packed(Box<XzDecoder<Output>>),
    Difference(Box<XzDecoder<Decoder<File, Output>>>),
    Blocks(Box<blocks::Decoder>),
}

impl Restoring {
    /// Begins to restore a part to `path`. `disk` is the restored disk, if that was before.
    pub fn begin(coding: Coding, part: &Part, base: &Guest, disk: &Path, path: &Path) -> Result<Self, Error> {
        let output = Output::create(path, part.restored_bytes)?;
        let failed = |source| Error::Decode { role: part.role, source };
        Ok(match (coding, part.role) {
            (Coding::Vcdiff, Role::Disk) => Self::Packed(Box::new(xz::unpack(output).map_err(failed)?)),
            (Coding::Blocks, Role::Disk | Role::MemoryTemplate) => {
                Self::Blocks(Box::new(blocks::Decoder::new(part, base, disk, output)?))
            }
            _ => {
                let source = base.path(part.role);
                let source = File::open(source).map_err(Error::file("open", source))?;
                let limits = Limits { target_bytes: part.restored_bytes, ..Limits::default() };
                let decoder = Decoder::new(source, output, limits).map_err(|error| failed(error.into()))?;
                Self::Difference(Box::new(xz::unpack(decoder).map_err(failed)?))
            }
        })
    }

    /// Takes the next bytes of the part.
    pub fn push(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Packed(xz) => xz.write_all(bytes),
            Self::Difference(xz) => xz.write_all(bytes),
            Self::Blocks(decoder) => decoder.push(bytes),
        }
    }

    /// All bytes of the part have come.
    pub fn finish(self) -> io::Result<Output> {
        match self {
            Self::Packed(mut xz) => xz.finish(),
            Self::Difference(mut xz) => Ok(xz.finish()?.finish()?.0),
            Self::Blocks(decoder) => decoder.finish(),
        }
    }
}

impl<W: Write> Write for Decoder<File, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.push(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
