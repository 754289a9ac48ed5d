//! The agent in the guest (`qemu-guest-agent`), through libvirt.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};
use virt::domain::Domain;

use super::wait::{Deadline, poll};
use super::{Error, libvirt_error};
use crate::VmId;
use crate::hypervisor::GuestOutput;

/// How long a single command that is not a program may take. The agent does them in milliseconds; a guest under
/// TCG on a busy host may stall for seconds (guess).
const COMMAND_LIMIT: Duration = Duration::from_secs(20);
/// How often a silent agent is asked again, and a running program is asked after.
const POLL_EVERY: Duration = Duration::from_millis(20);
/// How often a channel that is not open yet is tried again: a clone's opens some 10 ms after it woke up (measured), and
/// somebody waits for it.
const CONNECT_POLL_EVERY: Duration = Duration::from_millis(3);
/// Bytes of a file written by one command. In base64 it must fit into the socket to QEMU at once (208 KiB, Linux's
/// default): longer commands sometimes stall for tens of seconds or arrive garbled, shorter ones never did (measured
/// with libvirt 11.3 and QEMU 10.0.2; 16 to 128 KiB are equally fast).
const WRITE_CHUNK_BYTES: usize = 64 * 1024;
/// Most bytes that are taken from one output stream of a program; more than the agent itself captures (16 MiB).
const MAX_OUTPUT_BYTES: usize = 32 << 20;

/// The agent of one VM.
pub(super) struct Agent<'a> {
    pub(super) vm: VmId,
    pub(super) domain: &'a Domain,
}

impl Agent<'_> {
    /// Waits until the agent answers.
    pub(super) fn ping(&self, limit: Duration) -> Result<(), Error> {
        let deadline = Deadline::after(limit);
        let command = json!({ "execute": "guest-ping" }).to_string();
        poll(deadline, POLL_EVERY, || {
            let seconds = deadline.left().as_secs().clamp(1, 5) as i32;
            match self.domain.qemu_agent_command(&command, seconds, 0) {
                Ok(_) => Ok(Some(())),
                // Not connected yet, or no answer yet; a domain that has gone is another matter.
                Err(_) if self.domain.is_active().unwrap_or(false) => Ok(None),
                Err(_) => Err(Error::NoSuchVm(self.vm)),
            }
        })?
        .ok_or_else(|| self.silent("guest-ping", limit))
    }

    /// Runs a program and waits for its end.
    pub(super) fn exec(
        &self,
        program: &str,
        arguments: &[&str],
        limit: Duration,
    ) -> Result<GuestOutput, Error> {
        let started =
            self.command("guest-exec", json!({ "path": program, "arg": arguments, "capture-output": true }))?;
        let status = poll(Deadline::after(limit), POLL_EVERY, || {
            let status = self.command("guest-exec-status", json!({ "pid": started["pid"] }))?;
            Ok(if status["exited"].as_bool() == Some(true) { Some(status) } else { None })
        })?
        .ok_or_else(|| self.silent(&format!("guest-exec {program}"), limit))?;
        Ok(GuestOutput {
            exit_code: match status["signal"].as_i64() {
                Some(signal) => 128 + signal as i32,
                None => status["exitcode"].as_i64().unwrap_or(-1) as i32,
            },
            stdout: self.output(&status["out-data"])?,
            stderr: self.output(&status["err-data"])?,
        })
    }

    /// Writes a whole file.
    pub(super) fn write_file(&self, path: &str, bytes: &[u8]) -> Result<(), Error> {
        let handle = self.command("guest-file-open", json!({ "path": path, "mode": "w" }))?;
        let written = bytes.chunks(WRITE_CHUNK_BYTES).try_for_each(|chunk| self.write_all(&handle, chunk));
        let closed = self.command("guest-file-close", json!({ "handle": handle }));
        written.and(closed.map(drop))
    }

    fn write_all(&self, handle: &Value, mut chunk: &[u8]) -> Result<(), Error> {
        while !chunk.is_empty() {
            let answer = self
                .command("guest-file-write", json!({ "handle": handle, "buf-b64": BASE64.encode(chunk) }))?;
            let count = answer["count"].as_u64().unwrap_or(0) as usize;
            if count == 0 || count > chunk.len() {
                return Err(
                    self.refused("guest-file-write", format!("it wrote {count} of {} bytes", chunk.len()))
                );
            }
            chunk = &chunk[count..];
        }
        Ok(())
    }

    /// Sets the guest's clock.
    pub(super) fn set_time(&self, since_epoch: Duration) -> Result<(), Error> {
        let nanoseconds = i64::try_from(since_epoch.as_nanos())
            .map_err(|_| self.refused("guest-set-time", "that time is after the year 2262".into()))?;
        self.command("guest-set-time", json!({ "time": nanoseconds })).map(drop)
    }

    fn command(&self, name: &str, arguments: Value) -> Result<Value, Error> {
        let command = json!({ "execute": name, "arguments": arguments }).to_string();
        let answer = self.send(&command).map_err(|error| self.failed(name, &error))?;
        let mut answer: Value = serde_json::from_str(&answer)
            .map_err(|error| self.refused(name, format!("its answer is not JSON: {error}")))?;
        Ok(answer["return"].take())
    }

    /// A guest that has just woken up has to open its channel again before anything can be sent; libvirt refuses until
    /// then, so nothing is sent twice.
    fn send(&self, command: &str) -> Result<String, virt::error::Error> {
        let deadline = Deadline::after(COMMAND_LIMIT);
        let seconds = COMMAND_LIMIT.as_secs() as i32;
        loop {
            match self.domain.qemu_agent_command(command, seconds, 0) {
                Err(error) if error.message().contains("not connected") && !deadline.passed() => {
                    std::thread::sleep(CONNECT_POLL_EVERY);
                }
                result => return result,
            }
        }
    }

    fn output(&self, encoded: &Value) -> Result<Vec<u8>, Error> {
        let encoded = encoded.as_str().unwrap_or("");
        if encoded.len() / 4 * 3 > MAX_OUTPUT_BYTES {
            return Err(self.refused("guest-exec", format!("more than {MAX_OUTPUT_BYTES} bytes of output")));
        }
        BASE64.decode(encoded).map_err(|error| self.refused("guest-exec", format!("bad base64: {error}")))
    }

    fn failed(&self, command: &str, error: &virt::error::Error) -> Error {
        use virt::error::ErrorNumber;
        match error.code() {
            ErrorNumber::AgentUnresponsive
            | ErrorNumber::AgentUnsynced
            | ErrorNumber::AgentCommandTimeout => self.silent(command, COMMAND_LIMIT),
            ErrorNumber::NoDomain | ErrorNumber::OperationInvalid => Error::NoSuchVm(self.vm),
            ErrorNumber::AgentCommandFailed | ErrorNumber::InternalError => {
                self.refused(command, error.message().to_owned())
            }
            _ => libvirt_error("cannot reach the guest agent", error),
        }
    }

    fn silent(&self, command: &str, limit: Duration) -> Error {
        Error::AgentSilent { vm: self.vm, command: command.to_owned(), limit }
    }

    fn refused(&self, command: &str, message: String) -> Error {
        Error::AgentRefused { vm: self.vm, command: command.to_owned(), message }
    }
}
