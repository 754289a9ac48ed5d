//! From facts to findings. Pure.

use super::facts::{Discovery, Disk, Facts, Image, Memory, Port, StateDir, Tool, Virtualisation};
use super::least::{LIBVIRT, Least, MACHINE, QEMU, Version};
use super::{Finding, Status};
use crate::cli::output::bytes;
use crate::config::AcceleratorChoice;
use crate::config::fields::MAX_STATE_DIR_BYTES;

const GIB: u64 = 1 << 30;
/// Free space below which a disk is worth a warning: two images and a few instances (guess).
const FEW_FREE_BYTES: u64 = 5 * GIB;
/// Free space below which not even one image can be built (guess).
const LEAST_FREE_BYTES: u64 = GIB;
/// Memory of a usual instance, bytes: the sample images have this much.
const INSTANCE_BYTES: u64 = 256 << 20;
/// A clock before this release is wrong: 2026-11-01T00:00:00Z.
const RELEASED_UNIX_S: u64 = 1_793_491_200;
/// A clock this much after the release is probably wrong (guess): 30 years, seconds.
const LIFETIME_S: u64 = 30 * YEAR_S;
/// Mean Gregorian year, seconds.
const YEAR_S: u64 = 31_556_952;

/// How to get what a Debian machine can install.
const INSTALL: &str = "node/packaging/system-packages";

/// Judges every fact.
pub fn examine(facts: &Facts) -> Vec<Finding> {
    let mut findings = vec![
        kvm(&facts.virtualisation),
        qemu(&facts.virtualisation),
        libvirt(&facts.virtualisation),
        memory(&facts.memory),
    ];
    findings.extend(facts.disks.iter().map(disk));
    findings.extend([
        state_dir(&facts.state_dir),
        multicast(&facts.discovery),
        port(&facts.port),
        clock(facts.now_unix_s),
        tools(&facts.tools),
        images(&facts.images),
    ]);
    findings
}

fn kvm(facts: &Virtualisation) -> Finding {
    let name = "kvm";
    match (&facts.kvm, facts.wanted) {
        (Ok(()), AcceleratorChoice::Tcg) => Finding::ok(
            name,
            "a guest ran under KVM, but the configuration wants TCG (hypervisor.accelerator)",
        ),
        (Ok(()), _) => Finding::ok(name, "a guest ran under KVM"),
        (Err(why), AcceleratorChoice::Tcg) => Finding::ok(name, format!("not usable, and not wanted: {why}")),
        (Err(why), AcceleratorChoice::Auto) => Finding::warn(
            name,
            format!("{why}; guests run under TCG instead, about 12 times slower"),
            "enable virtualisation in the firmware (on a virtual machine: nested virtualisation at its host); \
             or set hypervisor.accelerator to \"tcg\" to stop trying",
        ),
        (Err(why), AcceleratorChoice::Kvm) => Finding::fail(
            name,
            format!("{why}, and the configuration wants nothing else (hypervisor.accelerator)"),
            "enable virtualisation in the firmware, or set hypervisor.accelerator to \"auto\"",
        ),
    }
}

fn at_least(name: &'static str, found: Version, least: Least) -> Finding {
    let Least { version, why } = least;
    if found >= version {
        Finding::ok(name, format!("version {found} (at least {version}: {why})"))
    } else {
        Finding::fail(
            name,
            format!("version {found} is older than {version}; {why}"),
            format!("{INSTALL} run (on Debian it takes newer ones from backports)"),
        )
    }
}

fn qemu(facts: &Virtualisation) -> Finding {
    match &facts.qemu {
        Ok(version) => at_least("qemu", *version, QEMU),
        Err(why) => Finding::fail("qemu", format!("not found: {why}"), format!("{INSTALL} run")),
    }
}

fn libvirt(facts: &Virtualisation) -> Finding {
    let name = "libvirt";
    match &facts.libvirt {
        Err(why) => Finding::fail(
            name,
            format!("cannot be opened as hypervisor.uri = \"{}\" says: {why}", facts.uri),
            if facts.uri == "embed" {
                format!("{INSTALL} run (the driver is in libvirt-daemon-driver-qemu)")
            } else {
                "start the libvirt daemon, or set hypervisor.uri to \"embed\"".to_owned()
            },
        ),
        Ok((version, machines)) => match at_least(name, *version, LIBVIRT) {
            finding if finding.status == Status::Ok && !machines.iter().any(|machine| machine == MACHINE) => {
                Finding::fail(
                    name,
                    format!("it knows no machine type {MACHINE}, which images are pinned to"),
                    format!("install QEMU {} or later: {INSTALL} run", QEMU.version),
                )
            }
            finding => finding,
        },
    }
}

fn memory(facts: &Memory) -> Finding {
    let Memory { total_bytes, available_bytes, reserve_bytes } = *facts;
    let instances = available_bytes.saturating_sub(reserve_bytes) / INSTANCE_BYTES;
    let finding = format!(
        "{} in all, {} available; with {} kept back, {instances} instances of {} fit",
        bytes(total_bytes),
        bytes(available_bytes),
        bytes(reserve_bytes),
        bytes(INSTANCE_BYTES),
    );
    let fix = "end other programs, add memory, or lower instances.memory_reserve_mib";
    match instances {
        0 => Finding::fail("memory", finding, fix),
        1..4 => Finding::warn("memory", finding, fix),
        _ => Finding::ok("memory", finding),
    }
}

fn disk(facts: &Disk) -> Finding {
    let at = facts.path.display();
    match &facts.free_bytes {
        Err(why) => {
            Finding::fail(facts.name, format!("{at}: {why}"), "choose a directory on a disk that is there")
        }
        Ok(free) => {
            let finding = format!("{} free at {at}", bytes(*free));
            let fix = "free some space, for example with 'cloudlet image gc', or choose a directory on a larger disk";
            match *free {
                ..LEAST_FREE_BYTES => Finding::fail(facts.name, finding, fix),
                LEAST_FREE_BYTES..FEW_FREE_BYTES => Finding::warn(facts.name, finding, fix),
                _ => Finding::ok(facts.name, finding),
            }
        }
    }
}

fn state_dir(facts: &StateDir) -> Finding {
    let name = "state directory";
    let (at, length) = (facts.path.display(), facts.path.as_os_str().len());
    if length > MAX_STATE_DIR_BYTES {
        return Finding::fail(
            name,
            format!(
                "{at} has {length} bytes; sockets in it would get names that are too long for the kernel"
            ),
            format!("choose one of at most {MAX_STATE_DIR_BYTES} bytes with node.state_dir or --state-dir"),
        );
    }
    match &facts.writable {
        Ok(()) => Finding::ok(name, format!("{at} is writable and short enough for sockets")),
        Err(why) => Finding::fail(
            name,
            format!("{at} is not writable: {why}"),
            "give it to this user (chown), or choose another with node.state_dir or --state-dir",
        ),
    }
}

fn multicast(facts: &Discovery) -> Finding {
    let name = "multicast";
    if facts.quiet {
        return Finding::ok(
            name,
            "none is sent: the mission is quiet (mission.quiet); handhelds come by QR code or address, cloudlets by \
             mesh.peers",
        );
    }
    if !facts.enabled {
        return Finding::ok(name, "not needed: discovery.enabled is false");
    }
    let interfaces = match &facts.interfaces {
        Ok(interfaces) => interfaces,
        Err(why) => {
            return Finding::warn(name, format!("the interfaces cannot be listed: {why}"), DISCOVERY_FIX);
        }
    };
    let describe = |working: bool| {
        let those = interfaces.iter().filter(|interface| interface.multicast.is_ok() == working);
        those
            .map(|interface| match &interface.multicast {
                Ok(()) => interface.name.clone(),
                Err(why) => format!("{} ({why})", interface.name),
            })
            .collect::<Vec<_>>()
            .join(", ")
    };
    let (works, fails) = (describe(true), describe(false));
    let fails = if fails.is_empty() { String::new() } else { format!("; not on {fails}") };
    let broken: Vec<&str> = facts
        .wanted
        .iter()
        .filter(|wanted| !interfaces.iter().any(|one| one.name == **wanted && one.multicast.is_ok()))
        .map(String::as_str)
        .collect();
    if !broken.is_empty() {
        let works = if works.is_empty() { String::new() } else { format!("; it works on {works}") };
        return Finding::fail(
            name,
            format!("not on {}, which discovery.interfaces names{works}{fails}", broken.join(", ")),
            "bring the interface up with an address, or correct discovery.interfaces",
        );
    }
    if works.is_empty() {
        return Finding::warn(
            name,
            format!("works on no interface{fails}; handhelds cannot discover this cloudlet"),
            DISCOVERY_FIX,
        );
    }
    if facts.wanted.is_empty() && interfaces.iter().all(|one| one.loopback || one.multicast.is_err()) {
        return Finding::warn(
            name,
            format!("works on {works} only{fails}; nothing outside this machine can discover this cloudlet"),
            DISCOVERY_FIX,
        );
    }
    Finding::ok(name, format!("sent and received on {works}{fails}"))
}

const DISCOVERY_FIX: &str = "connect a network and give its interface an address (ip link set IFACE multicast on); \
                             until then, handhelds name the cloudlet by its address";

fn port((address, port): &(std::net::SocketAddr, Port)) -> Finding {
    let name = "api port";
    let other = "choose another with api.listen or 'cloudlet up --listen'";
    match port {
        Port::Free if address.port() == 0 => Finding::ok(name, "a free port is chosen at the start"),
        Port::Free => Finding::ok(name, format!("{address} is free")),
        Port::Cloudlet(who) => {
            Finding::ok(name, format!("{address} is used by the running cloudlet '{who}'"))
        }
        Port::Taken => Finding::fail(
            name,
            format!("{address} is used by another program"),
            format!("{other}, or end that program ('ss -ltnp' names it)"),
        ),
        Port::Impossible(why) => {
            Finding::fail(name, format!("{address} cannot be listened on: {why}"), other)
        }
    }
}

fn clock(now_unix_s: u64) -> Finding {
    let name = "clock";
    let year = 1970 + now_unix_s / YEAR_S;
    let fix = "set it ('timedatectl set-ntp true', or 'date -s'); guests take their time from it";
    if now_unix_s < RELEASED_UNIX_S {
        return Finding::fail(name, format!("it says {year}, which is before this release was made"), fix);
    }
    if now_unix_s > RELEASED_UNIX_S + LIFETIME_S {
        return Finding::warn(name, format!("it says {year}, which is improbable"), fix);
    }
    Finding::ok(name, format!("it says {year}, which is plausible"))
}

fn tools(tools: &[Tool]) -> Finding {
    let name = "image tools";
    let missing: Vec<&Tool> = tools.iter().filter(|tool| !tool.found).collect();
    if missing.is_empty() {
        let all: Vec<_> = tools.iter().map(|tool| tool.name).collect();
        return Finding::ok(name, format!("all there: {}", all.join(", ")));
    }
    let what: Vec<_> = missing.iter().map(|tool| format!("{} ({})", tool.name, tool.needed_for)).collect();
    let mut packages: Vec<_> = missing.iter().map(|tool| tool.package).collect();
    packages.sort_unstable();
    packages.dedup();
    Finding::warn(
        name,
        format!("missing: {}; images cannot be built here, those that are here can be used", what.join(", ")),
        format!("apt-get install {}, or {INSTALL} build", packages.join(" ")),
    )
}

fn images(images: &Result<Vec<Image>, String>) -> Finding {
    let name = "images";
    let images = match images {
        Ok(images) => images,
        Err(why) => {
            return Finding::fail(
                name,
                format!("the image store cannot be read: {why}"),
                "correct node.image_store",
            );
        }
    };
    let damaged: Vec<_> = images.iter().filter_map(|image| Some((image, image.damaged.as_ref()?))).collect();
    if !damaged.is_empty() {
        let each: Vec<_> = damaged.iter().map(|(image, why)| format!("{}: {why}", image.title)).collect();
        let fix = "remove it with 'cloudlet image rm' and build it again with 'cloudlet image build'";
        return Finding::fail(name, each.join("; "), fix);
    }
    if !images.iter().any(|image| image.service.is_some()) {
        return Finding::warn(
            name,
            "there is no Service VM image, so no service is offered",
            "cloudlet image build all",
        );
    }
    let all: Vec<&str> = images.iter().map(|image| image.title.as_str()).collect();
    Finding::ok(name, format!("verified: {}", all.join(", ")))
}

#[cfg(test)]
#[path = "examine_tests.rs"]
mod tests;
