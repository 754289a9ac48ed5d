//! What guests can be on this host.

use std::collections::{BTreeMap, BTreeSet};

use mesh::advert::{Capabilities, Gpu};
use mesh::selection::{KVM_PERMILLE, TCG_PERMILLE};
use migration::hypervisor::Host;
use vm_images::manifest::Accelerator;

/// The named CPU models that stand for the levels of x86-64, v1 to v4: see `docs/system/cpu-models-x86-abi.csv` of QEMU.
/// A host of 2026 knows some hundred; they are no news to anybody who knows its level.
const LEVELS: [&str; 4] = ["qemu64", "Nehalem", "Haswell", "Skylake-Server"];
/// Most families of machine types that are said. Guess: QEMU has two for virtual machines like ours, and `microvm`.
const MAX_FAMILIES: usize = 8;

/// What is said of a host that holds images of these systems.
pub fn capabilities(host: &Host, guest_systems: BTreeSet<String>) -> Capabilities {
    let known = |level: &&&str| host.cpu_models.iter().any(|model| model == **level);
    Capabilities {
        accelerator: host.accelerator,
        gpu: Gpu::None,
        architecture: std::env::consts::ARCH.to_owned(),
        cpu_models: LEVELS.iter().filter(known).map(|level| (*level).to_owned()).collect(),
        machines: newest(&host.machines),
        guest_systems,
        guest_speed_permille: host.core_permille.map(|core| guest_speed(core, host.accelerator)),
    }
}

/// The core is measured; what the accelerator leaves of it was measured on the reference host, and is taken to be alike.
fn guest_speed(core_permille: u32, accelerator: Accelerator) -> u32 {
    let left = match accelerator {
        Accelerator::Kvm => KVM_PERMILLE,
        Accelerator::Tcg => TCG_PERMILLE,
    };
    (u64::from(core_permille) * u64::from(left) / 1000).try_into().unwrap_or(u32::MAX)
}

/// The newest of each family: `pc-q35-10.0` of all `pc-q35-…`. QEMU keeps the older ones of a family for years.
fn newest(machines: &[String]) -> BTreeSet<String> {
    let mut families: BTreeMap<&str, (Vec<u32>, &str)> = BTreeMap::new();
    for machine in machines {
        let Some((family, version)) = machine.rsplit_once('-') else { continue };
        let numbers: Option<Vec<u32>> = version.split('.').map(|part| part.parse().ok()).collect();
        let Some(version) = numbers else { continue };
        let newest = families.entry(family).or_insert_with(|| (version.clone(), machine));
        if newest.0 < version {
            *newest = (version, machine);
        }
    }
    families.into_values().take(MAX_FAMILIES).map(|(_, machine)| machine.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_core_twice_as_fast_makes_guests_twice_as_fast_and_translation_slows_them_all() {
        assert_eq!(guest_speed(1000, Accelerator::Kvm), KVM_PERMILLE);
        assert_eq!(guest_speed(2000, Accelerator::Tcg), 2 * TCG_PERMILLE);
        assert_eq!(guest_speed(u32::MAX, Accelerator::Kvm), u32::MAX);
    }

    #[test]
    fn the_newest_of_a_family_is_not_the_last_in_the_alphabet() {
        let names = [
            "pc-q35-9.2",
            "pc-q35-10.0",
            "pc-q35-2.12",
            "pc-i440fx-10.0",
            "pc-i440fx-9.0",
            "microvm",
            "isapc",
        ];
        let found = newest(&names.map(str::to_owned));
        assert_eq!(found, ["pc-i440fx-10.0", "pc-q35-10.0"].map(str::to_owned).into());
    }
}
