//! Reading a disk through all its layers, as the guest sees it.

use std::path::Path;

use super::{Error, Layer, Mapping, Refusal};

/// Most layers that are followed. Images have up to 16, and a running guest's frozen layers come on top; a guess.
const MAX_LAYERS: usize = 64;

/// A disk: the layer that was named, and those below it.
#[derive(Debug)]
pub struct Chain {
    /// The topmost first.
    layers: Vec<Layer>,
}

impl Chain {
    /// Opens a disk and everything that it is layered on, for reading.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let mut layers = vec![Layer::open(path)?];
        while let Some(last) = layers.last()
            && let Some(backing) = last.header().backing.clone()
        {
            if layers.len() == MAX_LAYERS {
                let reason = Refusal::Feature("more layers than are followed");
                return Err(Error::Format { path: path.to_owned(), reason });
            }
            // As QEMU does: relative to the directory of the layer that names it.
            let directory = last.path().parent().unwrap_or(Path::new("."));
            let below = directory.join(backing);
            layers.push(Layer::open(&below)?);
        }
        Ok(Self { layers })
    }

    /// Size of the disk, bytes.
    pub fn virtual_bytes(&self) -> u64 {
        self.layers[0].header().virtual_bytes
    }

    /// Reads what the guest sees at `offset`. What lies behind the end reads as zeros.
    pub fn read(&mut self, offset: u64, into: &mut [u8]) -> Result<(), Error> {
        let mut done = 0;
        while done < into.len() {
            let at = offset + done as u64;
            let (layer, mapping, left) = self.find(at)?;
            let count = left.min((into.len() - done) as u64) as usize;
            let piece = &mut into[done..done + count];
            match mapping {
                Mapping::Data(from) => self.layers[layer].read_file(from, piece)?,
                Mapping::Zero | Mapping::Unallocated => piece.fill(0),
            }
            done += count;
        }
        Ok(())
    }

    /// Which layer holds what is at an offset of the disk, at which offset of its file, and how many bytes follow for
    /// which that is true as well.
    fn find(&mut self, at: u64) -> Result<(usize, Mapping, u64), Error> {
        let mut left = u64::MAX;
        for (number, layer) in self.layers.iter_mut().enumerate() {
            let (cluster_bytes, end) = (layer.header().cluster_bytes, layer.header().virtual_bytes);
            let within = at % cluster_bytes;
            left = left.min(cluster_bytes - within);
            if at >= end {
                return Ok((number, Mapping::Zero, left));
            }
            left = left.min(end - at);
            match layer.mapping(at / cluster_bytes)? {
                Mapping::Unallocated => {}
                Mapping::Zero => return Ok((number, Mapping::Zero, left)),
                Mapping::Data(offset) => return Ok((number, Mapping::Data(offset + within), left)),
            }
        }
        Ok((0, Mapping::Unallocated, left))
    }
}
