//! The virtual hardware of every VM, as libvirt's domain XML.
//!
//! **Invariant:** a suspended guest wakes up only on exactly the devices, at exactly the addresses, that it fell
//! asleep on. So every address is written out here instead of being left to libvirt, boots and clones go through
//! the same function, and any change to the devices counts [`TOPOLOGY`](crate::hypervisor::TOPOLOGY) up.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use vm_images::Hardware;
use vm_images::manifest::Accelerator;

use super::Owner;
use crate::VmId;
use crate::hypervisor::{BootSpec, CloneSpec, Disk};

/// Name of the RAM block of guest memory, in QEMU and in its migration stream.
pub(super) use crate::hypervisor::MEMORY_BLOCK;
/// Name of the network backend that ports are forwarded on.
pub(super) const NETDEV: &str = "net0";
/// Name of the port that the guest's clock is set through.
pub(super) const CLOCK_PORT: &str = "org.cloudlet.clock.0";
/// Root ports, each of which takes one hot-plugged disk at a time.
const HOT_PLUG_PORTS: u32 = 2;
/// QEMU's cache of translated code, MiB. Whatever of it is filled is private memory of every clone, and with QEMU's
/// own choice (1 GiB) an idle clone fills 60 and more. With 16 the speech recogniser is as fast, with 8 a clone takes
/// twice as long to wake up (measured).
const TRANSLATION_CACHE_MIB: u32 = 16;

/// libvirt's name of QEMU's ability to tell each feature of a CPU as a property of its own. At every start libvirt would
/// ask for some 460 of them, one after the other, which took 0.25 of the 0.35 s of a start (measured, libvirt 11.3); without
/// it, libvirt asks for all in two questions.
const CPU_BY_PROPERTY: &str = "cpu-unavailable-features";

/// The domain of a guest that boots.
pub(super) fn boot(spec: &BootSpec, owner: Owner, sockets: Option<&Sockets>) -> String {
    let kernel = format!(
        "<kernel>{}</kernel><initrd>{}</initrd><cmdline>{}</cmdline>",
        text(spec.kernel.to_string_lossy()),
        text(spec.initrd.to_string_lossy()),
        text(&spec.hardware.command_line),
    );
    let memory = format!("memory-backend-ram,id={MEMORY_BLOCK},size={}", spec.hardware.memory_bytes);
    let files = Files { disk: &spec.disk, console: &spec.console, sockets };
    domain((owner, spec.vm), &spec.hardware, &files, &kernel, &memory, &[])
}

/// The domain of a clone: memory is the template, mapped privately, and QEMU waits for the device stream.
pub(super) fn clone(spec: &CloneSpec, owner: Owner, sockets: Option<&Sockets>) -> String {
    let memory = format!(
        "memory-backend-file,id={MEMORY_BLOCK},size={},mem-path={},share=off,readonly=on,rom=off",
        spec.hardware.memory_bytes,
        option(&spec.template),
    );
    let files = Files { disk: &spec.disk, console: &spec.console, sockets };
    domain((owner, spec.vm), &spec.hardware, &files, "", &memory, &["-incoming", "defer"])
}

/// Name of the domain of a VM: for people, and unique enough on one host. Look-ups go by the whole UUID.
pub(super) fn domain_name(owner: Owner, vm: VmId) -> String {
    format!("{}{}", owner.prefix(), short(vm))
}

/// The first 12 hexadecimal digits of a VM's id.
pub(super) fn short(vm: VmId) -> String {
    let mut digits = vm.0.simple().to_string();
    digits.truncate(12);
    digits
}

/// Sockets on the host that lead to programs in the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sockets {
    /// To the guest agent.
    pub(super) agent: PathBuf,
    /// To the clock's server.
    pub(super) clock: PathBuf,
}

/// Files of a VM on the host.
struct Files<'a> {
    disk: &'a Path,
    console: &'a Path,
    /// Sockets to programs in the guest; `None` lets libvirt choose.
    sockets: Option<&'a Sockets>,
}

/// A disk to plug in or out.
pub(super) fn disk(disk: &Disk) -> String {
    format!(
        "<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{}'/>\
         <target dev='vd{}' bus='virtio'/>{}<serial>{}</serial></disk>",
        attribute(disk.file.to_string_lossy()),
        target_letter(&disk.serial),
        if disk.writable { "" } else { "<readonly/>" },
        text(&disk.serial),
    )
}

/// libvirt wants a target name that is not in use. Guests find disks by serial, so which letter it is does not
/// matter, only that two disks at a time seldom share one; if they do, libvirt refuses the second.
fn target_letter(serial: &str) -> char {
    let sum = serial.bytes().fold(0u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    char::from(b'b' + (sum % 25) as u8)
}

fn domain(
    (owner, vm): (Owner, VmId),
    hardware: &Hardware,
    files: &Files<'_>,
    boot: &str,
    memory: &str,
    extra: &[&str],
) -> String {
    let mut xml = String::new();
    let Hardware { machine, cpu_model, memory_bytes, vcpus, accelerator, .. } = hardware;
    let (kind, accelerator_features) = match accelerator {
        Accelerator::Kvm => ("kvm", String::new()),
        Accelerator::Tcg => {
            ("qemu", format!("<tcg><tb-cache unit='MiB'>{TRANSLATION_CACHE_MIB}</tb-cache></tcg>"))
        }
    };
    // Writing into a String cannot fail.
    let _ = write!(
        xml,
        "<domain type='{kind}' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>\
         <name>{name}</name><uuid>{vm}</uuid><genid>{vm}</genid>\
         <memory unit='b'>{memory_bytes}</memory><vcpu>{vcpus}</vcpu>\
         <os><type arch='x86_64' machine='{machine}'>hvm</type>{boot}</os>\
         <features><acpi/><apic/>{accelerator_features}</features>\
         <cpu mode='custom' match='exact' check='none'><model fallback='forbid'>{cpu_model}</model></cpu>\
         <clock offset='utc'><timer name='hpet' present='no'/></clock>\
         <on_poweroff>destroy</on_poweroff><on_reboot>destroy</on_reboot><on_crash>destroy</on_crash>\
         <devices><emulator>{EMULATOR}</emulator>",
        name = domain_name(owner, vm),
        machine = attribute(machine),
        cpu_model = text(cpu_model),
    );
    devices(&mut xml, files);
    xml.push_str("</devices><qemu:commandline>");
    for argument in [
        "-object",
        memory,
        "-machine",
        &format!("memory-backend={MEMORY_BLOCK}"),
        // A Service VM is reached through forwarded ports only, and reaches nothing itself: not the host, not its network.
        "-netdev",
        &format!("user,id={NETDEV},restrict=on"),
        "-device",
        &format!("virtio-net-pci,netdev={NETDEV},id=nic0,bus=pcie.0,addr=0x6,romfile="),
    ]
    .iter()
    .chain(extra)
    {
        let _ = write!(xml, "<qemu:arg value='{}'/>", attribute(argument));
    }
    xml.push_str("</qemu:commandline>");
    let _ = write!(
        xml,
        "<qemu:capabilities><qemu:del capability='{CPU_BY_PROPERTY}'/></qemu:capabilities></domain>"
    );
    xml
}

/// The emulator that libvirt starts.
pub(super) const EMULATOR: &str = "/usr/bin/qemu-system-x86_64";

fn devices(xml: &mut String, files: &Files<'_>) {
    xml.push_str("<controller type='pci' index='0' model='pcie-root'/>");
    for port in 0..HOT_PLUG_PORTS {
        let _ = write!(
            xml,
            "<controller type='pci' index='{index}' model='pcie-root-port'>\
             <target chassis='{index}' port='0x{slot:x}'/>{address}</controller>",
            index = port + 1,
            slot = 0x10 + port,
            address = pci_address(2 + port),
        );
    }
    let _ = write!(
        xml,
        "<controller type='usb' model='none'/>\
         <controller type='virtio-serial' index='0'>{serial_address}</controller>\
         <disk type='file' device='disk'><driver name='qemu' type='qcow2' cache='writeback' discard='unmap'/>\
         <source file='{disk}'/><target dev='vda' bus='virtio'/>{disk_address}</disk>\
         <serial type='file'><source path='{console}'/><target type='isa-serial' port='0'/></serial>\
         <console type='file'><source path='{console}'/><target type='serial' port='0'/></console>\
         {agent}{clock}\
         <rng model='virtio'><backend model='random'>/dev/urandom</backend>{rng_address}</rng>\
         <memballoon model='none'/><watchdog model='itco' action='none'/>",
        serial_address = pci_address(5),
        disk = attribute(files.disk.to_string_lossy()),
        disk_address = pci_address(4),
        console = attribute(files.console.to_string_lossy()),
        agent = channel("org.qemu.guest_agent.0", 1, files.sockets.map(|sockets| &*sockets.agent)),
        clock = channel(CLOCK_PORT, 2, files.sockets.map(|sockets| &*sockets.clock)),
        rng_address = pci_address(7),
    );
}

/// A serial port of the guest with a name, and a socket on the host that leads to it.
fn channel(name: &str, port: u32, socket: Option<&Path>) -> String {
    let source = socket.map_or_else(String::new, |socket| {
        format!("<source mode='bind' path='{}'/>", attribute(socket.to_string_lossy()))
    });
    format!(
        "<channel type='unix'>{source}<target type='virtio' name='{name}'/>\
         <address type='virtio-serial' controller='0' bus='0' port='{port}'/></channel>"
    )
}

fn pci_address(slot: u32) -> String {
    format!("<address type='pci' domain='0x0000' bus='0x00' slot='0x{slot:02x}' function='0x0'/>")
}

/// In a QEMU option a comma ends the value unless it is doubled.
fn option(path: &Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}

fn text(value: impl AsRef<str>) -> String {
    value.as_ref().replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn attribute(value: impl AsRef<str>) -> String {
    text(value).replace('\'', "&apos;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn spec() -> CloneSpec {
        CloneSpec {
            vm: VmId(Uuid::from_u128(7)),
            hardware: Hardware {
                machine: "pc-q35-10.0".into(),
                cpu_model: "Nehalem".into(),
                accelerator: Accelerator::Tcg,
                topology: crate::hypervisor::TOPOLOGY,
                memory_bytes: 256 << 20,
                vcpus: 1,
                command_line: "quiet".into(),
            },
            disk: "/i/it's <1>/disk.qcow2".into(),
            template: "/i/a,b/memory.template".into(),
            device_stream: "/i/device.stream".into(),
            console: "/i/console.log".into(),
        }
    }

    #[test]
    fn strange_paths_stay_inside_their_places() {
        let xml = clone(&spec(), Owner::Cloudlet, None);
        let document = roxmltree::Document::parse(&xml).unwrap();
        let source = document.descendants().find(|node| node.has_tag_name("source")).unwrap();
        assert_eq!(source.attribute("file"), Some("/i/it's <1>/disk.qcow2"));
        assert!(xml.contains("mem-path=/i/a,,b/memory.template,share=off"));
    }

    #[test]
    fn a_clone_has_the_devices_of_the_boot_that_its_image_came_from() {
        let clone_spec = spec();
        let boot_spec = BootSpec {
            vm: clone_spec.vm,
            hardware: clone_spec.hardware.clone(),
            disk: clone_spec.disk.clone(),
            kernel: "/k".into(),
            initrd: "/i".into(),
            console: clone_spec.console.clone(),
        };
        let devices = |xml: &str| {
            let start = xml.find("<devices>").unwrap();
            xml[start..xml.find("</devices>").unwrap()].to_owned()
        };
        assert_eq!(
            devices(&boot(&boot_spec, Owner::Cloudlet, None)),
            devices(&clone(&clone_spec, Owner::Cloudlet, None))
        );
    }
}
