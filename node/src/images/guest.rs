//! A guest under construction: steps that base and Service VM images share.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use migration::hypervisor::{Disk, GuestOutput, SuspendFiles};
use migration::{Hypervisor, VmId};
use vm_images::Role;
use vm_images::store::Draft;

use super::Error;

/// Name of the payload disk in the guest.
const PAYLOAD_SERIAL: &str = "payload";
/// How long the guest's kernel may take to show a disk that was plugged in; 0.5 s under TCG (measured).
const PLUG_LIMIT: Duration = Duration::from_secs(30);
/// How long the guest agent of a clone may take to answer; 0.2 s on an idle host (measured).
const CLONE_AGENT_LIMIT: Duration = Duration::from_secs(60);
/// Rounds of what every clone does first. The second round runs from the page cache that the first one filled.
const REHEARSALS: u32 = 2;

/// A guest that is stopped when this is dropped.
pub(super) struct Guest<'a> {
    pub(super) vm: VmId,
    pub(super) hypervisor: &'a dyn Hypervisor,
}

impl<'a> Guest<'a> {
    pub(super) fn new(hypervisor: &'a dyn Hypervisor) -> Self {
        Self { vm: VmId(uuid::Uuid::new_v4()), hypervisor }
    }

    /// Waits for the agent of a clone and tells the guest what time it is.
    pub(super) fn wake(&self) -> Result<(), Error> {
        self.hypervisor.agent_ping(self.vm, CLONE_AGENT_LIMIT)?;
        self.set_time()
    }

    /// Tells the guest what time it is.
    pub(super) fn set_time(&self) -> Result<(), Error> {
        Ok(self.hypervisor.agent_set_time(self.vm, crate::instances::clock::unix())?)
    }

    /// Runs a shell script of the recipe in the guest; its output is in the error if it fails.
    pub(super) fn script(&self, step: &'static str, script: &str, limit: Duration) -> Result<(), Error> {
        const PLACE: &str = "/run/cloudlet-script";
        self.hypervisor.agent_write_file(self.vm, PLACE, script.as_bytes())?;
        self.run(step, "/bin/sh", &[PLACE], limit)?;
        self.run(step, "/bin/rm", &[PLACE], limit)
    }

    /// Mounts the payload disk, runs its `install`, and takes the disk out again.
    pub(super) fn install(&self, payload: &std::path::Path, limit: Duration) -> Result<(), Error> {
        const STEP: &str = "installing the service";
        let disk = Disk { file: payload.to_owned(), serial: PAYLOAD_SERIAL.into(), writable: false };
        self.hypervisor.attach_disk(self.vm, &disk)?;
        let mount = format!(
            "udevadm settle --timeout={}; mkdir -p /run/payload && mount -o ro /dev/disk/by-id/virtio-{PAYLOAD_SERIAL} /run/payload",
            PLUG_LIMIT.as_secs()
        );
        self.run(STEP, "/bin/sh", &["-c", &mount], PLUG_LIMIT * 2)?;
        self.run(STEP, "/bin/sh", &["/run/payload/install"], limit)?;
        self.run(STEP, "/bin/sh", &["-c", "umount /run/payload && rmdir /run/payload"], PLUG_LIMIT)?;
        Ok(self.hypervisor.detach_disk(self.vm, PAYLOAD_SERIAL)?)
    }

    /// Opens a way to the service from this host.
    pub(super) fn forward(&self, guest_port: u16) -> Result<SocketAddr, Error> {
        Ok(self.hypervisor.forward_port(self.vm, IpAddr::V4(Ipv4Addr::LOCALHOST), 0, guest_port)?)
    }

    /// Does what every clone does first, so that what it needs for that is in the template, once for all clones,
    /// instead of being read and written again by each of them.
    pub(super) fn rehearse(&self, also: impl Fn() -> Result<(), Error>) -> Result<(), Error> {
        for _ in 0..REHEARSALS {
            self.set_time()?;
            also()?;
        }
        Ok(())
    }

    /// Suspends the guest into the draft.
    pub(super) fn suspend(self, draft: &Draft) -> Result<(), Error> {
        let into = SuspendFiles {
            template: draft.path(Role::MemoryTemplate),
            device_stream: draft.path(Role::DeviceStream),
        };
        let suspended = self.hypervisor.suspend(self.vm, &into)?;
        tracing::debug!(?suspended, "guest suspended");
        Ok(())
    }

    fn run(
        &self,
        step: &'static str,
        program: &str,
        arguments: &[&str],
        limit: Duration,
    ) -> Result<(), Error> {
        let output = self.hypervisor.agent_exec(self.vm, program, arguments, limit)?;
        if output.exit_code == 0 {
            Ok(())
        } else {
            Err(Error::Guest { step, exit_code: output.exit_code, words: last_words(&output) })
        }
    }
}

impl Drop for Guest<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.hypervisor.stop(self.vm) {
            tracing::warn!(vm = %self.vm, %error, "a guest under construction could not be stopped");
        }
    }
}

/// The end of what a program said: enough to see what went wrong.
fn last_words(output: &GuestOutput) -> String {
    const LINES: usize = 20;
    let both = [String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)].concat();
    let lines: Vec<&str> = both.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}
