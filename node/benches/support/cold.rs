//! Cold boots of the Service VM: the same disk, kernel and virtual hardware.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::Context;
use migration::hypervisor::BootSpec;
use migration::{Hypervisor, VmId};
use node::hypervisor::{BUILD_ROOT, open};
use vm_images::{Role, SigningKey, Store, qcow2};

use super::figures::Figures;
use super::{image_store, now, until_healthy};

/// Boots the VM `runs` times and adds the milliseconds until its service answered.
pub fn boots(runs: usize, figures: &mut Figures) -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let mut config = node::config::Config::default();
    config.node.state_dir = directory.path().to_owned();
    let store = Store::open(&image_store()?, SigningKey::load_or_create(&directory.path().join("key"))?)?;
    let chain = store.chain(store.by_name("speech")?.id)?;
    let (image, base) = (chain.first().context("no image")?, chain.last().context("no base image")?);
    let service = image.manifest.service.as_ref().context("no service")?;
    let opened = open(&config, BUILD_ROOT)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    for run in 0..runs {
        let vm = VmId(uuid::Uuid::new_v4());
        let disk = directory.path().join(format!("{run}.qcow2"));
        let below = image.path(Role::Disk)?;
        qcow2::create_overlay(&disk, &below, qcow2::virtual_size(&below)?)?;
        let start = now();
        opened.hypervisor.boot(&BootSpec {
            vm,
            hardware: image.manifest.hardware.clone(),
            disk,
            kernel: base.path(Role::Kernel)?,
            initrd: base.path(Role::Initrd)?,
            console: directory.path().join("console"),
        })?;
        let answered = opened
            .hypervisor
            .forward_port(vm, IpAddr::V4(Ipv4Addr::LOCALHOST), 0, service.port)
            .map_err(anyhow::Error::from)
            .and_then(|address| runtime.block_on(until_healthy(address, &service.health_path)));
        let took = start.elapsed().as_secs_f64() * 1000.0;
        opened.hypervisor.stop(vm)?;
        answered?;
        eprintln!("cold boot {} of {runs}: {took:.0} ms", run + 1);
        figures.add(took);
    }
    Ok(())
}
