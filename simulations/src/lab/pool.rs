//! Buffers for frames on their way. They are reused, so that a busy medium allocates nothing.

/// Buffers that are made at once.
const CHUNK: usize = 256;
/// Most frames on their way at once: 128 MiB of full frames, as much as 200 Mbit/s with a delay of 4 s. More are
/// dropped, and counted.
const MAX_FRAMES: usize = 65_536;

/// A buffer of the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Slot(u32);

struct Buffer {
    length: u32,
    /// How many deliveries still need it.
    uses: u32,
}

/// Equally long buffers.
pub(super) struct Pool {
    frame_bytes: usize,
    chunks: Vec<Box<[u8]>>,
    buffers: Vec<Buffer>,
    free: Vec<Slot>,
}

impl Pool {
    /// A pool of buffers of `frame_bytes`, above 0.
    pub(super) fn new(frame_bytes: usize) -> Self {
        Self { frame_bytes, chunks: Vec::new(), buffers: Vec::new(), free: Vec::new() }
    }

    /// A free buffer, which the caller must put to use; `None` if too many are in use.
    pub(super) fn take(&mut self) -> Option<Slot> {
        if self.free.is_empty() && self.buffers.len() < MAX_FRAMES {
            self.chunks.push(vec![0; CHUNK * self.frame_bytes].into_boxed_slice());
            for _ in 0..CHUNK {
                // Below MAX_FRAMES.
                self.free.push(Slot(self.buffers.len() as u32));
                self.buffers.push(Buffer { length: 0, uses: 0 });
            }
        }
        self.free.pop()
    }

    /// The whole of a buffer, to be filled.
    pub(super) fn whole(&mut self, slot: Slot) -> &mut [u8] {
        let (chunk, place) = (slot.0 as usize / CHUNK, slot.0 as usize % CHUNK);
        &mut self.chunks[chunk][place * self.frame_bytes..][..self.frame_bytes]
    }

    /// The frame in a buffer.
    pub(super) fn frame(&self, slot: Slot) -> &[u8] {
        let (chunk, place) = (slot.0 as usize / CHUNK, slot.0 as usize % CHUNK);
        &self.chunks[chunk][place * self.frame_bytes..][..self.buffers[slot.0 as usize].length as usize]
    }

    /// `slot` holds a frame of `length` bytes, which `uses` deliveries need; with 0 it is free again.
    pub(super) fn fill(&mut self, slot: Slot, length: usize, uses: usize) {
        if uses == 0 {
            self.free.push(slot);
            return;
        }
        // A frame is at most 64 KiB, and goes to at most MAX_HOSTS hosts.
        self.buffers[slot.0 as usize] = Buffer { length: length as u32, uses: uses as u32 };
    }

    /// One delivery less needs `slot`.
    pub(super) fn release(&mut self, slot: Slot) {
        let buffer = &mut self.buffers[slot.0 as usize];
        buffer.uses -= 1;
        if buffer.uses == 0 {
            self.free.push(slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back_after_their_last_use() {
        let mut pool = Pool::new(100);
        let one = pool.take().unwrap();
        pool.whole(one)[..3].copy_from_slice(b"one");
        pool.fill(one, 3, 2);
        let two = pool.take().unwrap();
        pool.whole(two).fill(7);
        pool.fill(two, 100, 1);
        assert_eq!(pool.frame(one), b"one");
        pool.release(one);
        assert_eq!(pool.frame(one), b"one");
        pool.release(one);
        assert_eq!(pool.take(), Some(one));
        assert_eq!(pool.frame(two), [7; 100]);
    }

    #[test]
    fn there_is_an_end_and_it_is_not_an_error() {
        let mut pool = Pool::new(1);
        let taken: Vec<Slot> = std::iter::from_fn(|| pool.take()).collect();
        assert_eq!(taken.len(), MAX_FRAMES);
        pool.fill(taken[5], 0, 0);
        assert_eq!(pool.take(), Some(taken[5]));
    }
}
