//! Writing a guest out for good: QEMU streams into this process, which splits the stream while it comes.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use virt::domain::Domain;

use super::wait::{Deadline, poll};
use super::xml::MEMORY_BLOCK;
use super::{Error, libvirt_error, monitor};
use crate::hypervisor::{SuspendFiles, Suspended};
use crate::stream::{self, SparseTemplate, Split};

/// How long QEMU may take to connect, and to say that it has finished after its stream ended.
const QEMU_LIMIT: Duration = Duration::from_secs(30);
/// A guest's stream that stalls for this long will not go on. 256 MiB take 0.15 s (measured).
const STALL_LIMIT: Duration = Duration::from_secs(60);
const DOING: &str = "cannot write the guest out";

pub(super) fn suspend(domain: &Domain, into: &SuspendFiles) -> Result<Suspended, Error> {
    domain.suspend().map_err(|error| libvirt_error("cannot pause the guest", &error))?;
    let (stream, socket) = stream_of(domain)?;
    stream.set_read_timeout(Some(STALL_LIMIT)).map_err(|source| file_error(&socket, source))?;
    let split = receive(stream, into)?;
    monitor::wait_migrated(domain, DOING, QEMU_LIMIT)?;
    Ok(Suspended {
        template_bytes: split.template_bytes,
        template_used_bytes: split.used_pages * stream::PAGE_BYTES,
        device_stream_bytes: split.device_bytes,
    })
}

/// Has QEMU write a guest's migration stream into this process. The path is the socket's, for what is said of errors; it is gone.
pub(super) fn stream_of(domain: &Domain) -> Result<(UnixStream, PathBuf), Error> {
    let directory = tempfile::tempdir().map_err(|source| file_error(&std::env::temp_dir(), source))?;
    let socket = directory.path().join("stream");
    let listener = UnixListener::bind(&socket).map_err(|source| file_error(&socket, source))?;
    listener.set_nonblocking(true).map_err(|source| file_error(&socket, source))?;
    monitor::migrate_to_socket(domain, &socket)?;
    Ok((accept(&listener, &socket)?, socket))
}

fn accept(listener: &UnixListener, socket: &Path) -> Result<UnixStream, Error> {
    let accepted = poll(Deadline::after(QEMU_LIMIT), Duration::from_millis(1), || match listener.accept() {
        Ok((stream, _)) => Ok(Some(stream)),
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    });
    let stream = accepted
        .map_err(|source| file_error(socket, source))?
        .ok_or(Error::TooSlow { doing: DOING, limit: QEMU_LIMIT })?;
    stream.set_nonblocking(false).map_err(|source| file_error(socket, source))?;
    Ok(stream)
}

fn receive(from: UnixStream, into: &SuspendFiles) -> Result<Split, Error> {
    let mut template =
        SparseTemplate::create(&into.template).map_err(|source| file_error(&into.template, source))?;
    let device =
        File::create_new(&into.device_stream).map_err(|source| file_error(&into.device_stream, source))?;
    let mut device = BufWriter::new(device);
    let split = stream::split(from, MEMORY_BLOCK, &mut template, &mut device)
        .map_err(|error| Error::Hypervisor { doing: DOING, message: with_causes(&error) })?;
    template.into_file().map_err(|source| file_error(&into.template, source))?;
    device.flush().map_err(|source| file_error(&into.device_stream, source))?;
    Ok(split)
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

pub(super) fn file_error(path: &Path, source: std::io::Error) -> Error {
    Error::File { doing: "cannot write", path: path.to_owned(), source }
}
