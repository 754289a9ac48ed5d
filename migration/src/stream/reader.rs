//! Takes a stream apart, event by event.

use std::io::Read;

use super::page::{PAGE_BYTES, Page};
use super::source::Source;
use super::tail::Tail;
use super::{Error, wire};

/// Longest machine name, bytes. QEMU's longest on x86 has 15; a guess with room.
const MAX_MACHINE_BYTES: u32 = 256;
/// Most subsections of the configuration and most capabilities listed there. We know 3 subsections; a guess with room.
const MAX_LISTED: u32 = 64;
/// Most memory blocks. Measured: 7 in a guest with a network card (memory, firmware, tables, option ROM); a guess with room.
const MAX_BLOCKS: usize = 256;

/// A RAM block as the stream lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// QEMU's name: the id of a memory backend (`cram`), or of firmware and devices (`pc.bios`).
    pub name: String,
    /// Its length, bytes.
    pub bytes: u64,
}

/// A section of RAM that is continued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    /// The first; brings the list of blocks.
    Start,
    /// Written while the guest ran.
    Part,
    /// The last, written after the guest was paused.
    End,
}

/// Content of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content<'a> {
    /// All zero; said without sending it.
    Zero,
    /// These bytes (which may be all zero, too).
    Bytes(&'a Page),
}

/// What comes next in a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// Once, first: all bytes up to the end of the configuration.
    Header {
        /// Machine type of the guest, as in `pc-q35-10.0`.
        machine: &'a str,
        /// The bytes.
        bytes: &'a [u8],
    },
    /// A RAM section begins.
    Begin {
        /// Which.
        section: Section,
        /// QEMU's number of it.
        id: u32,
        /// QEMU's instance number; 0 in all sections but the start.
        instance: u32,
    },
    /// The list of RAM blocks; comes once, before any page.
    Blocks(&'a [Block]),
    /// A page of a block.
    Page {
        /// Index in the list of blocks.
        block: usize,
        /// Where in the block, bytes; a multiple of the page size.
        offset: u64,
        /// What is in it.
        content: Content<'a>,
    },
    /// A mark for multifd receivers, which a plain stream has too.
    Flush,
    /// A RAM section ends.
    End {
        /// Which.
        section: Section,
        /// QEMU's number of it.
        id: u32,
    },
    /// A command to the receiver between sections.
    Command {
        /// Its number.
        command: u16,
        /// Its argument.
        data: &'a [u8],
    },
    /// Bytes from the first device section on, in chunks that mean nothing.
    Opaque(&'a [u8]),
}

enum State {
    Header,
    Between,
    Ram { section: Section, id: u32 },
    Opaque(Tail),
    Done,
}

/// Reads a stream as [`Event`]s.
pub struct Reader<R> {
    source: Source<R>,
    state: State,
    header: Vec<u8>,
    machine: String,
    blocks: Vec<Block>,
    /// Number of the RAM section, once it has started.
    ram: Option<u32>,
    ram_ended: bool,
    /// Block of the last page: the next page may say "same as before".
    last_block: Option<usize>,
    /// Whether its writer has a way back.
    live: bool,
}

impl<R: Read> Reader<R> {
    /// Reads from `from`, in large pieces.
    pub fn new(from: R) -> Self {
        Self {
            source: Source::new(from),
            state: State::Header,
            header: Vec::new(),
            machine: String::new(),
            blocks: Vec::new(),
            ram: None,
            ram_ended: false,
            last_block: None,
            live: false,
        }
    }

    /// Reads from a QEMU that has a way back to its reader. What it says about that is left out: who gets the stream from a
    /// file has none.
    pub fn live(from: R) -> Self {
        Self { live: true, ..Self::new(from) }
    }

    /// How far the stream was read, bytes.
    pub fn offset(&self) -> u64 {
        self.source.offset()
    }

    /// The blocks that were listed; none before [`Event::Blocks`].
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// The next event; `None` after a complete stream. After an error the reader is of no further use.
    pub fn read(&mut self) -> Result<Option<Event<'_>>, Error> {
        match self.state {
            State::Header => self.header().map(Some),
            State::Between => self.between(),
            State::Ram { section, id } => self.ram_word(section, id).map(Some),
            State::Opaque(_) => self.opaque(),
            State::Done => Ok(None),
        }
    }

    fn header(&mut self) -> Result<Event<'_>, Error> {
        let magic = *self.source.array("the magic number QEVM")?;
        if magic != wire::MAGIC {
            return Err(not_a_stream(0, "the magic number QEVM", u32::from_be_bytes(magic).into()));
        }
        let version = self.source.u32("the format version")?;
        if version != wire::VERSION {
            return Err(not_a_stream(4, "format version 3", version.into()));
        }
        let kind = self.source.u8("the configuration section")?;
        if kind != wire::CONFIGURATION {
            return Err(not_a_stream(8, "the configuration section", kind.into()));
        }
        self.header.extend_from_slice(&wire::MAGIC);
        self.header.extend_from_slice(&version.to_be_bytes());
        self.header.push(kind);
        self.machine = self.machine()?;
        self.subsections()?;
        self.state = State::Between;
        Ok(Event::Header { machine: &self.machine, bytes: &self.header })
    }

    fn machine(&mut self) -> Result<String, Error> {
        let at = self.source.offset();
        let length = self.header_u32("the length of the machine name")?;
        if length > MAX_MACHINE_BYTES {
            let (value, most) = (length.into(), MAX_MACHINE_BYTES.into());
            return Err(Error::TooLarge { at, what: "a machine name of too many bytes", value, most });
        }
        self.header_text(length as usize, "the machine name")
    }

    /// The configuration's optional subsections; each must be known, as its length is not in the stream.
    fn subsections(&mut self) -> Result<(), Error> {
        for _ in 0..MAX_LISTED {
            if self.source.peek(1, "a section")? != [wire::SUBSECTION] {
                return Ok(());
            }
            let at = self.source.offset();
            self.header_bytes(1, "a subsection")?;
            let name = self.header_name("the name of a subsection")?;
            self.header_u32("the version of a subsection")?;
            match name.as_str() {
                "configuration/target-page-bits" => {
                    let bits = self.header_u32("the number of page bits")?;
                    if bits != PAGE_BYTES.trailing_zeros() {
                        return Err(Error::malformed(at, format!("pages of 2^{bits} bytes, 4096 expected")));
                    }
                }
                "configuration/uuid" => drop(self.header_bytes(16, "the 16 bytes of a UUID")?),
                "configuration/capabilities" => return self.capabilities(at),
                _ => return Err(Error::malformed(at, format!("unknown subsection '{name}'"))),
            }
        }
        Err(Error::malformed(self.source.offset(), "too many subsections in the configuration"))
    }

    /// QEMU lists the switched-on capabilities that change the stream; there must be none.
    fn capabilities(&mut self, at: u64) -> Result<(), Error> {
        let count = self.header_u32("the number of capabilities")?;
        let mut names = Vec::new();
        for _ in 0..count.min(MAX_LISTED) {
            names.push(self.header_name("the name of a capability")?);
        }
        let found = "a list".to_owned();
        Err(Error::Capability { at, found, capability: names.join(", ") })
    }

    fn header_bytes(&mut self, count: usize, expected: &'static str) -> Result<&[u8], Error> {
        let from = self.header.len();
        self.header.extend_from_slice(self.source.take(count, expected)?);
        Ok(&self.header[from..])
    }

    fn header_u32(&mut self, expected: &'static str) -> Result<u32, Error> {
        let value = self.source.u32(expected)?;
        self.header.extend_from_slice(&value.to_be_bytes());
        Ok(value)
    }

    fn header_name(&mut self, expected: &'static str) -> Result<String, Error> {
        let length = self.source.u8(expected)?;
        self.header.push(length);
        self.header_text(length.into(), expected)
    }

    fn header_text(&mut self, count: usize, expected: &'static str) -> Result<String, Error> {
        let at = self.source.offset();
        text(at, self.header_bytes(count, expected)?, expected)
    }

    fn between(&mut self) -> Result<Option<Event<'_>>, Error> {
        while self.live && self.skip_way_back()? {}
        let at = self.source.offset();
        match self.source.peek(1, "a section or the end mark")?[0] {
            wire::SECTION_START => self.start(at).map(Some),
            wire::SECTION_PART => self.go_on(at, Section::Part).map(Some),
            wire::SECTION_END => self.go_on(at, Section::End).map(Some),
            wire::COMMAND => self.command(at).map(Some),
            wire::SECTION_FULL | wire::END_OF_FILE => {
                if !self.ram_ended {
                    return Err(Error::malformed(at, "device sections before the end of the RAM sections"));
                }
                self.state = State::Opaque(Tail::new());
                self.opaque()
            }
            other => Err(Error::malformed(at, format!("no section has type {other:#04x}"))),
        }
    }

    fn start(&mut self, at: u64) -> Result<Event<'_>, Error> {
        self.source.take(1, "a section")?;
        let id = self.source.u32("the number of a section")?;
        let length = self.source.u8("the name of a section")?;
        let name_at = self.source.offset();
        let name = self.source.take(length.into(), "the name of a section")?;
        if name != wire::RAM {
            let capability = text(name_at, name, "the name of a section")?;
            return Err(Error::Capability { at, found: "a live section".to_owned(), capability });
        }
        let instance = self.source.u32("the instance of a section")?;
        let version = self.source.u32("the version of a section")?;
        if version != wire::RAM_VERSION {
            return Err(Error::malformed(at, format!("version {version} of the RAM section, 4 expected")));
        }
        if self.ram.is_some() {
            return Err(Error::malformed(at, "a second RAM section starts"));
        }
        self.ram = Some(id);
        self.state = State::Ram { section: Section::Start, id };
        Ok(Event::Begin { section: Section::Start, id, instance })
    }

    fn go_on(&mut self, at: u64, section: Section) -> Result<Event<'_>, Error> {
        self.source.take(1, "a section")?;
        let id = self.source.u32("the number of a section")?;
        if self.ram != Some(id) || self.ram_ended {
            return Err(Error::malformed(at, format!("section {id} goes on and is not open")));
        }
        self.state = State::Ram { section, id };
        Ok(Event::Begin { section, id, instance: 0 })
    }

    /// Leaves a command out that is about the way back; says whether there was one.
    fn skip_way_back(&mut self) -> Result<bool, Error> {
        if self.source.peek(1, "a section or the end mark")?[0] != wire::COMMAND {
            return Ok(false);
        }
        let [_, high, low] = *self.source.peek(3, "the number of a command")? else { return Ok(false) };
        if !matches!(u16::from_be_bytes([high, low]), wire::OPEN_RETURN_PATH | wire::PING) {
            return Ok(false);
        }
        self.source.take(3, "the number of a command")?;
        let length = self.source.u16("the length of a command")?;
        self.source.take(length.into(), "the argument of a command")?;
        Ok(true)
    }

    fn command(&mut self, at: u64) -> Result<Event<'_>, Error> {
        self.source.take(1, "a command")?;
        let command = self.source.u16("the number of a command")?;
        if let Some(capability) = wire::capability_of_command(command) {
            let (found, capability) = (format!("command {command}"), capability.to_owned());
            return Err(Error::Capability { at, found, capability });
        }
        let length = self.source.u16("the length of a command")?;
        let data = self.source.take(length.into(), "the argument of a command")?;
        Ok(Event::Command { command, data })
    }

    fn ram_word(&mut self, section: Section, id: u32) -> Result<Event<'_>, Error> {
        let at = self.source.offset();
        let word = self.source.u64("a word of the RAM section")?;
        let (value, flags) = (word & !wire::FLAGS, word & wire::FLAGS);
        match flags & !wire::SAME_BLOCK {
            wire::PAGE | wire::ZERO => self.page(at, value, flags),
            wire::END_OF_RUN if word == wire::END_OF_RUN => self.end(section, id),
            wire::FLUSH if word == wire::FLUSH => Ok(Event::Flush),
            wire::SIZES if flags == wire::SIZES => self.list(at, section, value),
            _ => {
                let (found, capability) =
                    (format!("flag {flags:#05x}"), wire::capability_of_flags(flags).to_owned());
                Err(Error::Capability { at, found, capability })
            }
        }
    }

    fn page(&mut self, at: u64, offset: u64, flags: u64) -> Result<Event<'_>, Error> {
        let block = self.block_of_page(at, flags)?;
        if offset >= self.blocks[block].bytes {
            let Block { name, bytes } = &self.blocks[block];
            let what = format!("a page at {offset:#x} of block '{name}', which has {bytes:#x} bytes");
            return Err(Error::malformed(at, what));
        }
        if flags & wire::PAGE != 0 {
            return Ok(Event::Page { block, offset, content: Content::Bytes(self.source.page()?) });
        }
        match self.source.u8("the byte that fills a page")? {
            0 => Ok(Event::Page { block, offset, content: Content::Zero }),
            byte => Err(Error::malformed(at, format!("a zero page that is filled with {byte:#04x}"))),
        }
    }

    fn block_of_page(&mut self, at: u64, flags: u64) -> Result<usize, Error> {
        if flags & wire::SAME_BLOCK != 0 {
            return self
                .last_block
                .ok_or_else(|| Error::malformed(at, "a first page without the name of its block"));
        }
        let length = self.source.u8("the name of a block")?;
        let name = self.source.take(length.into(), "the name of a block")?;
        let Some(block) = self.blocks.iter().position(|block| block.name.as_bytes() == name) else {
            let name = String::from_utf8_lossy(name);
            return Err(Error::malformed(at, format!("a page of block '{name}', which is not listed")));
        };
        self.last_block = Some(block);
        Ok(block)
    }

    fn list(&mut self, at: u64, section: Section, total_bytes: u64) -> Result<Event<'_>, Error> {
        if section != Section::Start || !self.blocks.is_empty() {
            return Err(Error::malformed(at, "a second list of blocks"));
        }
        let mut left = total_bytes;
        while left > 0 {
            let at = self.source.offset();
            if self.blocks.len() == MAX_BLOCKS {
                let most = MAX_BLOCKS as u64;
                return Err(Error::TooLarge { at, what: "too many memory blocks", value: most + 1, most });
            }
            let length = self.source.u8("the name of a block")?;
            let name =
                text(at, self.source.take(length.into(), "the name of a block")?, "the name of a block")?;
            let bytes = self.source.u64("the length of a block")?;
            left = left.checked_sub(bytes).ok_or_else(|| {
                Error::malformed(
                    at,
                    format!("block '{name}' is longer than what is left of all blocks ({left:#x})"),
                )
            })?;
            self.blocks.push(Block { name, bytes });
        }
        Ok(Event::Blocks(&self.blocks))
    }

    /// After the word that ends a run follows the section's footer.
    fn end(&mut self, section: Section, id: u32) -> Result<Event<'_>, Error> {
        let at = self.source.offset();
        let mark = self.source.u8("the footer of a section")?;
        let footer = self.source.u32("the footer of a section")?;
        if (mark, footer) != (wire::FOOTER, id) {
            let what = format!(
                "section {id} ends with {mark:#04x} {footer}, footer {:#04x} {id} expected",
                wire::FOOTER
            );
            return Err(Error::malformed(at, what));
        }
        if section == Section::Start && self.blocks.is_empty() {
            return Err(Error::malformed(at, "the RAM section starts without a list of blocks"));
        }
        self.ram_ended = section == Section::End;
        self.state = State::Between;
        Ok(Event::End { section, id })
    }

    fn opaque(&mut self) -> Result<Option<Event<'_>>, Error> {
        let State::Opaque(tail) = &mut self.state else { return Ok(None) };
        let at = self.source.offset();
        let chunk = self.source.chunk()?;
        if chunk.is_empty() {
            tail.check(at)?;
            self.state = State::Done;
            return Ok(None);
        }
        tail.push(chunk);
        Ok(Some(Event::Opaque(chunk)))
    }
}

fn not_a_stream(at: u64, what: &'static str, found: u64) -> Error {
    Error::NotAStream { at, what, found }
}

fn text(at: u64, bytes: &[u8], what: &str) -> Result<String, Error> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.to_owned()),
        Err(_) => Err(Error::malformed(at, format!("{what} is not text"))),
    }
}
