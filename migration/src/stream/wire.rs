//! The constants of QEMU's stream format, and which capability an unexpected one belongs to.

pub const MAGIC: [u8; 4] = *b"QEVM";
pub const VERSION: u32 = 3;

// First byte of a section (`QEMU_VM_*` in migration/savevm.h).
pub const END_OF_FILE: u8 = 0x00;
pub const SECTION_START: u8 = 0x01;
pub const SECTION_PART: u8 = 0x02;
pub const SECTION_END: u8 = 0x03;
pub const SECTION_FULL: u8 = 0x04;
pub const SUBSECTION: u8 = 0x05;
pub const DESCRIPTION: u8 = 0x06;
pub const CONFIGURATION: u8 = 0x07;
pub const COMMAND: u8 = 0x08;
pub const FOOTER: u8 = 0x7e;

/// The one section that is parsed.
pub const RAM: &[u8] = b"ram";
/// Version of the `ram` section since QEMU 0.14.
pub const RAM_VERSION: u32 = 4;

// Flags in the low 12 bits of a word of the `ram` section (`RAM_SAVE_FLAG_*` in migration/ram.c).
pub const FLAGS: u64 = 0xfff;
pub const ZERO: u64 = 0x02;
pub const SIZES: u64 = 0x04;
pub const PAGE: u64 = 0x08;
pub const END_OF_RUN: u64 = 0x10;
pub const SAME_BLOCK: u64 = 0x20;
pub const FLUSH: u64 = 0x200;

/// What made QEMU set a flag that a plain stream does not have.
pub fn capability_of_flags(flags: u64) -> &'static str {
    match flags & !SAME_BLOCK {
        0x01 => "full (QEMU before 0.13)",
        0x40 => "xbzrle",
        0x80 => "rdma-pin-all (RDMA)",
        0x100 => "compress",
        _ => "unknown to this release",
    }
}

/// `MIG_CMD_OPEN_RETURN_PATH`: what follows may be answered.
pub const OPEN_RETURN_PATH: u16 = 1;
/// `MIG_CMD_PING`: wants an answer.
pub const PING: u16 = 2;

/// The capability behind a command (`MIG_CMD_*` in migration/savevm.c), if a plain stream does not have it.
pub fn capability_of_command(command: u16) -> Option<&'static str> {
    match command {
        OPEN_RETURN_PATH | PING => Some("return-path"),
        3..=8 | 10 => Some("postcopy-ram"),
        9 => Some("x-colo"),
        // MIG_CMD_SWITCHOVER_START: every stream of machine type 10.0 and later.
        11 => None,
        _ => Some("unknown to this release"),
    }
}
