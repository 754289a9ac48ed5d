//! What guests can be on this host.

use std::collections::{BTreeMap, BTreeSet};

use mesh::advert::{Capabilities, Gpu};
use migration::hypervisor::Host;

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
        // Nothing here measures it; the choice goes by the accelerator.
        guest_speed_permille: None,
    }
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
