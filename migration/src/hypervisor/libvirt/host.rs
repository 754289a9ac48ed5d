//! What this host's QEMU can run, as libvirt found out.

use std::collections::BTreeSet;

use virt::connect::Connect;
use vm_images::manifest::Accelerator;

use super::xml::EMULATOR;
use super::{Error, Uri, libvirt_error};
use crate::hypervisor::Host;
use crate::speed::core_permille;

const ARCHITECTURE: &str = "x86_64";

pub(super) fn examine(connection: &Connect, uri: &Uri, accelerator: Accelerator) -> Result<Host, Error> {
    let doing = "cannot examine the host";
    let failed = |error: virt::error::Error| libvirt_error(doing, &error);
    let unreadable = |error: roxmltree::Error| Error::Hypervisor { doing, message: error.to_string() };
    let capabilities = connection.get_capabilities().map_err(failed)?;
    let machines = machines(&capabilities).map_err(unreadable)?;
    let kind = match accelerator {
        Accelerator::Kvm => "kvm",
        Accelerator::Tcg => "qemu",
    };
    let of_domains = connection
        .get_domain_capabilities(Some(EMULATOR), Some(ARCHITECTURE), None, Some(kind), 0)
        .map_err(failed)?;
    Ok(Host {
        hypervisor: format!("libvirt {uri}"),
        libvirt_version: version(connection.get_lib_version().map_err(failed)?),
        qemu_version: version(connection.get_hyp_version().map_err(failed)?),
        accelerator,
        machines,
        cpu_models: cpu_models(&of_domains).map_err(unreadable)?,
        core_permille: Some(core_permille()),
    })
}

/// libvirt packs a version as 1,000,000 × major + 1,000 × minor + release.
fn version(packed: u32) -> String {
    format!("{}.{}.{}", packed / 1_000_000, packed / 1_000 % 1_000, packed % 1_000)
}

fn machines(capabilities: &str) -> Result<Vec<String>, roxmltree::Error> {
    let document = roxmltree::Document::parse(capabilities)?;
    let ours = document
        .descendants()
        .filter(|node| node.has_tag_name("arch") && node.attribute("name") == Some(ARCHITECTURE));
    let names: BTreeSet<_> = ours
        .flat_map(|node| node.descendants())
        .filter(|node| node.has_tag_name("machine"))
        .filter_map(|node| node.text().map(str::to_owned))
        .collect();
    Ok(names.into_iter().collect())
}

fn cpu_models(capabilities: &str) -> Result<Vec<String>, roxmltree::Error> {
    let document = roxmltree::Document::parse(capabilities)?;
    let models = document
        .descendants()
        .filter(|node| node.has_tag_name("model") && node.attribute("usable") == Some("yes"))
        .filter_map(|node| node.text().map(str::to_owned));
    Ok(models.collect::<BTreeSet<_>>().into_iter().collect())
}
