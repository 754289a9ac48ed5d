//! Moving a VM while it runs, with QEMU's own live migration into this process.
//!
//! QEMU ends a migration by itself as soon as little is left, and pauses the guest then, at a moment of its own choice. It
//! asks the other side first if it is told to (`switchover-ack`); the other side is we, and we never say yes. A
//! guest that is paused needs no yes: its stream ends when all of it was read (measured: 5 ms after the last page).
//!
//! What a running guest changes, QEMU sends again; but under TCG it misses changes: a store that is under way while the
//! dirty bits are cleared belongs to no round. With some thousand rounds the moved guest's kernel crashed each time, although it had
//! byte for byte what the stream said (measured, QEMU 10.0.2). So the stream of a running guest only brings pages early.
//! What counts is the stream of the paused guest, which is all of its memory again: 0.1 s for 256 MiB, of which nothing
//! that has already been sent travels twice.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::json;
use virt::domain::Domain;

use super::monitor::{self, command};
use super::suspend::{file_error, stream_of};
use super::wait::{Deadline, poll};
use super::{CloneSpec, Error, LOAD_LIMIT, Libvirt, libvirt_error, must_be_readable};
use crate::VmId;
use crate::hypervisor::{Moving, Pace};

/// How long QEMU may take to give a migration up; some milliseconds when it is not stuck in a write (measured).
const CANCEL_LIMIT: Duration = Duration::from_secs(10);
/// Bytes a second of a stream that waits: QEMU looks for changes some 500 times a second then, and takes about a hundredth of a
/// processor (measured: 20 bytes for a look that finds nothing, 40,000 looks a second without a limit).
const WAITING_BYTES_PER_S: u64 = 10_000;
/// "I have loaded everything, and it went well": what a destination says at the end (QEMU's `MIG_RP_MSG_SHUT`: type, length,
/// result). QEMU takes it at any time, and waits for nothing else on this way back.
const ALL_IS_WELL: [u8; 8] = [0, 1, 0, 4, 0, 0, 0, 0];
const DOING: &str = "cannot stream the guest out";

impl Moving for Libvirt {
    fn stream_out(&self, vm: VmId) -> Result<Box<dyn Read + Send>, Error> {
        let domain = self.domain(vm)?;
        end_stream(&domain)?;
        let stream = begin(&domain).inspect_err(|_| {
            // The caller learns why it failed; the guest runs in any case.
            if let Err(error) = end_stream(&domain) {
                tracing::warn!(%vm, %error, "a stream that failed to begin could not be ended");
            }
        })?;
        Ok(Box::new(stream))
    }

    fn pace(&self, vm: VmId, pace: Pace) -> Result<(), Error> {
        let bytes_per_s = match pace {
            Pace::Full => monitor::UNLIMITED_BYTES_PER_S,
            Pace::Waiting => WAITING_BYTES_PER_S,
        };
        set_bandwidth(&self.domain(vm)?, bytes_per_s)
    }

    fn freeze(&self, vm: VmId) -> Result<(), Error> {
        let domain = self.domain(vm)?;
        // In this order: the stream of a guest that is paused in the middle of it ends by itself, and QEMU refuses a second
        // one until the guest has run again.
        end_stream(&domain)?;
        domain.suspend().map_err(|error| libvirt_error("cannot pause the guest", &error))?;
        Ok(())
    }

    fn resume(&self, vm: VmId) -> Result<(), Error> {
        let domain = self.domain(vm)?;
        end_stream(&domain)?;
        if self.running(vm, &domain)?.executing {
            return Ok(());
        }
        domain.resume().map_err(|error| libvirt_error("cannot let the guest run on", &error))?;
        Ok(())
    }

    fn prepare(&self, spec: &CloneSpec) -> Result<(), Error> {
        // QEMU opens the disk, and reads it again when its state has come: as long as it waits, the disk is another host's.
        self.create_clone(spec).map(drop)
    }

    fn load(&self, spec: &CloneSpec) -> Result<(), Error> {
        must_be_readable(&[&spec.device_stream])?;
        self.wake_up(spec, &self.domain(spec.vm)?, |domain| {
            monitor::load(domain, &spec.device_stream, LOAD_LIMIT)
        })
    }

    fn clone_paused(&self, spec: &CloneSpec) -> Result<(), Error> {
        self.prepare(spec)?;
        self.load(spec)
    }
}

fn begin(domain: &Domain) -> Result<UnixStream, Error> {
    set_way_back(domain, true)?;
    // Without a limit on reading: a cut link may hold the reader up for as long as it likes, and QEMU holds nobody up.
    let (mut stream, socket) = stream_of(domain)?;
    stream.write_all(&ALL_IS_WELL).map_err(|source| file_error(&socket, source))?;
    Ok(stream)
}

/// Leaves no migration behind; the guest stays running or paused as it is.
fn end_stream(domain: &Domain) -> Result<(), Error> {
    let state = command(domain, DOING, "query-migrate", json!({}))?;
    if !is_over(&state) {
        command(domain, DOING, "migrate_cancel", json!({}))?;
        poll(Deadline::after(CANCEL_LIMIT), Duration::from_millis(2), || {
            let state = command(domain, DOING, "query-migrate", json!({}))?;
            Ok::<_, Error>(is_over(&state).then_some(()))
        })?
        .ok_or(Error::TooSlow { doing: "cannot end the guest's stream", limit: CANCEL_LIMIT })?;
    }
    set_way_back(domain, false)
}

/// Whether no migration is under way; a VM that has never moved says nothing at all.
fn is_over(state: &serde_json::Value) -> bool {
    matches!(state["status"].as_str(), None | Some("none" | "completed" | "failed" | "cancelled"))
}

fn set_way_back(domain: &Domain, on: bool) -> Result<(), Error> {
    let mut names = ["return-path", "switchover-ack"];
    if !on {
        // The second needs the first.
        names.reverse();
    }
    let capabilities = names.map(|name| json!({ "capability": name, "state": on }));
    command(domain, DOING, "migrate-set-capabilities", json!({ "capabilities": capabilities })).map(drop)
}

fn set_bandwidth(domain: &Domain, bytes_per_s: u64) -> Result<(), Error> {
    command(domain, DOING, "migrate-set-parameters", json!({ "max-bandwidth": bytes_per_s })).map(drop)
}
