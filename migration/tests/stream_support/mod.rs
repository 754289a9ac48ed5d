//! Streams made by hand: an encoder of its own, so that reader and writer are not only tested against each other.

#![allow(dead_code, reason = "each test file uses a part of it")]

/// Adds something to a stream.
pub type Add<'a> = &'a dyn Fn(&mut Bytes);

/// Bytes of a stream that is being put together.
#[derive(Clone)]
pub struct Bytes(pub Vec<u8>);

/// Number of the RAM section in these streams.
pub const RAM_ID: u32 = 2;
pub const PAGE: usize = 4096;

pub const ZERO_FLAG: u64 = 0x02;
pub const SIZE_FLAG: u64 = 0x04;
pub const PAGE_FLAG: u64 = 0x08;
pub const SAME_FLAG: u64 = 0x20;

impl Bytes {
    /// Magic, version and configuration of a machine.
    pub fn header(machine: &str) -> Self {
        let mut bytes = Self(b"QEVM\0\0\0\x03\x07".to_vec());
        bytes.u32(machine.len() as u32).raw(machine.as_bytes());
        bytes
    }

    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.raw(&value.to_be_bytes())
    }

    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.raw(&value.to_be_bytes())
    }

    pub fn name(&mut self, name: &str) -> &mut Self {
        self.raw(&[name.len() as u8]).raw(name.as_bytes())
    }

    /// Start of the RAM section with its list of blocks.
    pub fn start(&mut self, blocks: &[(String, u64)]) -> &mut Self {
        self.raw(&[1]).u32(RAM_ID).name("ram").u32(0).u32(4);
        self.u64(blocks.iter().map(|(_, bytes)| bytes).sum::<u64>() | SIZE_FLAG);
        for (name, bytes) in blocks {
            self.name(name).u64(*bytes);
        }
        self
    }

    /// `02`: a part of the RAM section; `03`: its end.
    pub fn go_on(&mut self, kind: u8) -> &mut Self {
        self.raw(&[kind]).u32(RAM_ID)
    }

    /// The first or next page; `name` only when the block is not the one before.
    pub fn page(&mut self, name: Option<&str>, offset: u64, content: Option<&[u8; PAGE]>) -> &mut Self {
        let kind = if content.is_some() { PAGE_FLAG } else { ZERO_FLAG };
        match name {
            Some(name) => self.u64(offset | kind).name(name),
            None => self.u64(offset | kind | SAME_FLAG),
        };
        match content {
            Some(page) => self.raw(page),
            None => self.raw(&[0]),
        }
    }

    pub fn flush(&mut self) -> &mut Self {
        self.u64(0x200)
    }

    /// End of a run and footer.
    pub fn close(&mut self) -> &mut Self {
        self.u64(0x10).raw(&[0x7e]).u32(RAM_ID)
    }

    /// A device section.
    pub fn device(&mut self, id: u32, name: &str, payload: &[u8]) -> &mut Self {
        self.raw(&[4]).u32(id).name(name).u32(0).u32(1).raw(payload).raw(&[0x7e]).u32(id)
    }

    /// End mark and description.
    pub fn finish(&mut self) -> &mut Self {
        let json = br#"{"configuration":{},"devices":[]}"#;
        self.raw(&[0, 6]).u32(json.len() as u32).raw(json)
    }
}

/// A page whose content is unlike that of pages with another `fill`.
pub fn page(fill: u8) -> [u8; PAGE] {
    std::array::from_fn(|at| fill.wrapping_add((at % 7) as u8).wrapping_mul(u8::from(fill != 0)))
}

pub fn blocks() -> Vec<(String, u64)> {
    [("cram", 8), ("pc.bios", 2), ("vga.rom", 1)]
        .map(|(name, pages)| (name.to_owned(), pages * PAGE as u64))
        .into()
}

/// A small valid stream.
pub fn sample() -> Bytes {
    let mut bytes = Bytes::header("pc-q35-10.0");
    bytes.start(&blocks()).close();
    bytes.go_on(2);
    bytes.page(Some("cram"), 0, Some(&page(3))).page(None, 4096, None).page(None, 8192, Some(&page(5)));
    bytes.page(Some("pc.bios"), 0, Some(&page(9))).page(None, 4096, None).close();
    bytes.raw(&[8, 0, 11, 0, 0]);
    bytes.go_on(3);
    bytes.flush().page(Some("cram"), 8192, None).page(None, 0, Some(&page(4))).page(
        None,
        28672,
        Some(&page(0)),
    );
    bytes.page(Some("vga.rom"), 0, Some(&page(77))).close();
    bytes.device(3, "timer", &[1; 40]).device(4, "cpu", &[0x7e; 300]).finish();
    bytes
}
