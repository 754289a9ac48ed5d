//! What runs guests: KVM probed with a real guest, libvirt by opening it.

use std::path::PathBuf;
use std::time::Duration;

use migration::Hypervisor as _;
use migration::hypervisor::libvirt::{Libvirt, Uri, kvm};
use vm_images::manifest::Accelerator;

use super::host;
use crate::causes::chain;
use crate::config::Config;
use crate::doctor::Virtualisation;
use crate::doctor::least::Version;

pub(super) fn virtualisation(config: &Config, step: &mut dyn FnMut(&str)) -> Virtualisation {
    let limit = Duration::from_secs(config.hypervisor.kvm_probe_limit_s);
    step("running a tiny guest under KVM");
    // Not remembered: whoever asks the doctor has perhaps just changed something.
    let kvm = match kvm::probe(limit, None) {
        kvm::Probe::Works => Ok(()),
        kvm::Probe::Fails(why) => Err(why),
    };
    step("opening libvirt");
    let accelerator = if kvm.is_ok() { Accelerator::Kvm } else { Accelerator::Tcg };
    Virtualisation {
        wanted: config.hypervisor.accelerator,
        kvm,
        qemu: host::qemu(),
        libvirt: libvirt(&config.hypervisor.uri, accelerator),
        uri: config.hypervisor.uri.clone(),
    }
}

fn libvirt(uri: &str, accelerator: Accelerator) -> Result<(Version, Vec<String>), String> {
    if uri != "embed" {
        return open(&Uri::Daemon(uri.to_owned()), accelerator);
    }
    // A directory of its own: only one process at a time may have the daemon's open.
    let root = Root::new()?;
    open(&Uri::Embedded(root.0.clone()), accelerator)
}

fn open(uri: &Uri, accelerator: Accelerator) -> Result<(Version, Vec<String>), String> {
    let host =
        Libvirt::open(uri, accelerator).and_then(|libvirt| libvirt.host()).map_err(|error| chain(&error))?;
    let version = Version::find(&host.libvirt_version)
        .ok_or_else(|| format!("its version '{}' is not understood", host.libvirt_version))?;
    Ok((version, host.machines))
}

/// A directory for one look at libvirt; removed when dropped. Short, because libvirt makes sockets below it.
struct Root(PathBuf);

impl Root {
    fn new() -> Result<Self, String> {
        let root = PathBuf::from(format!("/tmp/cloudlet-doctor-{}", uuid::Uuid::new_v4().as_fields().0));
        // Fails if it is there: nobody else prepares what libvirt will read as this user.
        std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), 0o700)
            .create(&root)
            .map_err(|error| format!("{} cannot be made: {error}", root.display()))?;
        Ok(Self(root))
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(directory = %self.0.display(), %error, "a temporary directory stays; remove it");
        }
    }
}
