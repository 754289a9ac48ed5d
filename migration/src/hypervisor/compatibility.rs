//! Whether an image can wake up on a host. Pure, and the same for every hypervisor.

use vm_images::Hardware;

use super::Host;
use super::error::Incompatible;

/// Revision of the virtual devices and their addresses. An image wakes up only on the layout that it fell asleep on,
/// so any change there counts this up.
pub const TOPOLOGY: u32 = 1;

/// Checks that a guest suspended on `image` can wake up on `host` with device layout `topology`.
pub fn check(image: &Hardware, host: &Host, topology: u32) -> Result<(), Incompatible> {
    if image.topology != topology {
        return Err(Incompatible::Topology { image: image.topology, ours: topology });
    }
    if !host.machines.contains(&image.machine) {
        return Err(Incompatible::Machine { wanted: image.machine.clone(), qemu: host.qemu_version.clone() });
    }
    if image.accelerator != host.accelerator {
        return Err(Incompatible::Accelerator { image: image.accelerator, host: host.accelerator });
    }
    if !host.cpu_models.contains(&image.cpu_model) {
        return Err(Incompatible::Cpu(image.cpu_model.clone()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_images::manifest::Accelerator;

    fn host() -> Host {
        Host {
            hypervisor: "test".into(),
            libvirt_version: "11.3.0".into(),
            qemu_version: "10.0.2".into(),
            accelerator: Accelerator::Tcg,
            machines: vec!["pc-q35-10.0".into()],
            cpu_models: vec!["Nehalem".into()],
            core_permille: None,
        }
    }

    fn image() -> Hardware {
        Hardware {
            machine: "pc-q35-10.0".into(),
            cpu_model: "Nehalem".into(),
            accelerator: Accelerator::Tcg,
            topology: TOPOLOGY,
            memory_bytes: 256 << 20,
            vcpus: 1,
            command_line: String::new(),
        }
    }

    fn refusal(change: impl FnOnce(&mut Hardware)) -> String {
        let mut image = image();
        change(&mut image);
        check(&image, &host(), TOPOLOGY).unwrap_err().to_string()
    }

    #[test]
    fn the_same_hardware_is_accepted() {
        assert_eq!(check(&image(), &host(), TOPOLOGY), Ok(()));
    }

    #[test]
    fn every_refusal_names_what_differs_and_what_to_do() {
        assert!(refusal(|image| image.machine = "pc-q35-99.0".into()).contains("pc-q35-99.0"));
        assert!(refusal(|image| image.cpu_model = "Skylake".into()).contains("Skylake"));
        assert!(
            refusal(|image| image.accelerator = Accelerator::Kvm)
                .contains("hypervisor.accelerator to \"kvm\"")
        );
        assert!(refusal(|image| image.topology = 99).contains("layout 99"));
    }
}
