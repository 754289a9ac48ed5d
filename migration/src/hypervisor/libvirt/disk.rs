//! Plugging disks in and out of a running VM.

use std::time::Duration;

use virt::domain::Domain;
use virt::sys;

use super::wait::{Deadline, poll};
use super::{Error, libvirt_error, xml};
use crate::hypervisor::Disk;

/// How long a guest may take to let go of a disk; its kernel does so in under a second even under TCG (measured).
const UNPLUG_LIMIT: Duration = Duration::from_secs(30);

pub(super) fn attach(domain: &Domain, disk: &Disk) -> Result<(), Error> {
    domain
        .attach_device_flags(&xml::disk(disk), sys::VIR_DOMAIN_AFFECT_LIVE)
        .map(drop)
        .map_err(|error| libvirt_error("cannot plug the disk in", &error))
}

pub(super) fn detach(domain: &Domain, serial: &str) -> Result<(), Error> {
    let doing = "cannot unplug the disk";
    let Some(device) = plugged(domain, serial)? else {
        return Err(Error::Hypervisor {
            doing,
            message: format!("no disk with serial '{serial}' is plugged in"),
        });
    };
    domain
        .detach_device_flags(&device, sys::VIR_DOMAIN_AFFECT_LIVE)
        .map_err(|error| libvirt_error(doing, &error))?;
    poll(Deadline::after(UNPLUG_LIMIT), Duration::from_millis(20), || {
        Ok(plugged(domain, serial)?.is_none().then_some(()))
    })?
    .ok_or(Error::TooSlow { doing, limit: UNPLUG_LIMIT })
}

/// The disk with this serial as libvirt now describes it.
fn plugged(domain: &Domain, serial: &str) -> Result<Option<String>, Error> {
    let description =
        domain.get_xml_desc(0).map_err(|error| libvirt_error("cannot look at the VM's disks", &error))?;
    let document = roxmltree::Document::parse(&description).map_err(|error| Error::Hypervisor {
        doing: "cannot look at the VM's disks",
        message: error.to_string(),
    })?;
    let disk = document.descendants().filter(|node| node.has_tag_name("disk")).find(|node| {
        node.children().any(|child| child.has_tag_name("serial") && child.text() == Some(serial))
    });
    Ok(disk.map(|node| description[node.range()].to_owned()))
}
