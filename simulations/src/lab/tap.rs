//! The TAP device: the only place that needs `unsafe`, for one ioctl that no safe wrapper of `nix` or `rustix` covers.
//! Crates that wrap it (tun-rs, tun) bring routing, configuration of addresses and an async runtime along; this is one
//! call.
#![allow(unsafe_code, reason = "TUNSETIFF is an ioctl; see the module")]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;

use rustix::fs::OFlags;
use rustix::ioctl::{self, Setter, opcode};

use super::{Error, error::system};

/// Bytes of an interface's name in the kernel, the closing 0 included.
const NAME_BYTES: usize = 16;
/// Ethernet frames (linux/if_tun.h).
const IFF_TAP: u16 = 0x0002;
/// Frames as they are, without four bytes of packet information in front (linux/if_tun.h).
const IFF_NO_PI: u16 = 0x1000;
/// `TUNSETIFF`: _IOW('T', 202, int) (linux/if_tun.h). The size in the number is not that of what is passed.
const TUNSETIFF: ioctl::Opcode = opcode::write::<i32>(b'T', 202);

/// `struct ifreq` (linux/if.h): a name, and a union whose largest member has 24 bytes, of which `ifr_flags` is the
/// first two.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; NAME_BYTES],
    flags: u16,
    rest: [u8; 22],
}

/// Opens the device that TAP devices are made of.
pub(super) fn open_control() -> Result<File, Error> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(OFlags::NONBLOCK.bits() as i32)
        .open("/dev/net/tun")
        .map_err(Error::NoTun)
}

/// Makes a TAP device called `name` in the calling thread's network namespace. The device goes when the file
/// descriptor is closed, however the process ends.
pub(super) fn create(name: &str) -> Result<OwnedFd, Error> {
    let file = open_control()?;
    let mut request = InterfaceRequest { name: [0; NAME_BYTES], flags: IFF_TAP | IFF_NO_PI, rest: [0; 22] };
    if name.len() >= NAME_BYTES {
        return Err(system(format!("name an interface '{name}'"))(io::Error::from(
            io::ErrorKind::InvalidInput,
        )));
    }
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    // SAFETY: TUNSETIFF reads and may write one `struct ifreq` at the pointer that it is given. `Setter` passes a
    // pointer to its own `InterfaceRequest`, which has that struct's size (40 bytes) and layout and lives across the
    // call; every byte pattern that the kernel may write into it is valid. The name ends with a 0 (checked above).
    unsafe { ioctl::ioctl(&file, Setter::<TUNSETIFF, InterfaceRequest>::new(request)) }
        .map_err(system(format!("make the TAP device '{name}'")))?;
    Ok(file.into())
}

const _: () = assert!(size_of::<InterfaceRequest>() == 40);
