//! A Service VM in a plain QEMU, on the same virtual hardware and the same files as a cloudlet's.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use simulations::lab::Host;
use vm_images::manifest::Accelerator;
use vm_images::{Hardware, Manifest, qcow2};

use super::super::demo_support::mission::output;
use super::super::demo_support::{built_images, now, program};
use super::qmp::Qmp;

/// Port of the host that leads to the service.
pub const SERVICE_PORT: u16 = 8080;
/// Name of guest memory in the image's device stream.
const MEMORY_BLOCK: &str = "cram";
/// QEMU's name for the guest's disk.
pub const DISK: &str = "top";
/// As cloudlets run their VMs.
const TRANSLATION_CACHE_MIB: u32 = 16;
/// How long a QEMU may take to load a state. A guess; it takes under a second.
const LOAD_LIMIT: Duration = Duration::from_secs(60);

/// A suspended Service VM of the store.
pub struct Image {
    pub directory: PathBuf,
    pub manifest: Manifest,
}

impl Image {
    pub fn find(name: &str) -> anyhow::Result<Self> {
        let mut show = std::process::Command::new(program("cloudlet")?);
        show.arg("--image-store").arg(built_images()?).args(["image", "show", name, "--json"]);
        let mut said: Value = serde_json::from_str(&output(&mut show)?)?;
        let manifest = serde_json::from_value(said["manifest"].take()).context("a manifest")?;
        let directory = said["directory"].as_str().context("a directory")?.into();
        Ok(Self { directory, manifest })
    }

    /// Makes an empty disk layered on the image's.
    pub fn overlay(&self, path: &Path) -> anyhow::Result<()> {
        let below = self.directory.join("disk.qcow2");
        Ok(qcow2::create_overlay(path, &below, qcow2::virtual_size(&below)?)?)
    }

    fn port(&self) -> anyhow::Result<u16> {
        Ok(self.manifest.service.as_ref().context("an image with a service")?.port)
    }
}

/// A running QEMU; killed when this is dropped.
pub struct Guest {
    child: Child,
    pub monitor: Qmp,
    /// Where its service is, in the lab.
    pub address: SocketAddr,
}

impl Guest {
    /// A QEMU that waits for a state; its memory is the image's template if it is to load the image's device stream.
    pub fn start(host: Host<'_>, image: &Image, is_of_template: bool, disk: &Path) -> anyhow::Result<Self> {
        let (socket, log) = (disk.with_extension("qmp"), disk.with_extension("log"));
        let memory = if is_of_template {
            let template = image.directory.join("memory.template").display().to_string().replace(',', ",,");
            format!("memory-backend-file,mem-path={template},share=off,readonly=on,rom=off")
        } else {
            "memory-backend-ram".to_owned()
        };
        let hardware = &image.manifest.hardware;
        let memory = format!("{memory},id={MEMORY_BLOCK},size={}", hardware.memory_bytes);
        let mut command = host.command("qemu-system-x86_64");
        command.args(machine(hardware)).args(["-object", &memory]).args(DEVICES);
        let file = json!({ "driver": "file", "filename": disk, "node-name": "file", "discard": "unmap" });
        let layer = json!({ "driver": "qcow2", "node-name": DISK, "file": "file", "discard": "unmap" });
        command.args(["-blockdev", &file.to_string(), "-blockdev", &layer.to_string()]);
        command.args([
            "-device",
            &format!(
                "virtio-blk-pci,bus=pcie.0,addr=0x4,drive={DISK},id=virtio-disk0,bootindex=1,write-cache=on"
            ),
        ]);
        let forward = format!("hostfwd=tcp:{}:{SERVICE_PORT}-:{}", host.address(), image.port()?);
        command.args(["-netdev", &format!("user,id=net0,restrict=on,{forward}")]);
        command.args(["-device", "virtio-net-pci,netdev=net0,id=nic0,bus=pcie.0,addr=0x6,romfile="]);
        command.args(["-qmp", &format!("unix:{},server=on,wait=off", socket.display())]);
        command.args(["-incoming", "defer"]);
        let log = File::create(log)?;
        let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        let address = SocketAddr::new(host.address().into(), SERVICE_PORT);
        Ok(Self { monitor: Qmp::connect(&socket)?, child, address })
    }

    /// Loads a state from a file; the guest does not run yet.
    pub fn load(&mut self, state: &Path) -> anyhow::Result<()> {
        self.monitor.ask("migrate-incoming", json!({ "uri": format!("file:{}", state.display()) }))?;
        self.wait_completed()
    }

    /// Writes the state of the standing guest to a file.
    pub fn save(&mut self, state: &Path) -> anyhow::Result<()> {
        // QEMU's own limit is 128 MiB/s.
        self.monitor.ask("migrate-set-parameters", json!({ "max-bandwidth": 10_u64 << 30 }))?;
        self.monitor.ask("migrate", json!({ "uri": format!("file:{}", state.display()) }))?;
        self.wait_completed()
    }

    fn wait_completed(&mut self) -> anyhow::Result<()> {
        let begun = now();
        while begun.elapsed() < LOAD_LIMIT {
            let state = self.monitor.ask("query-migrate", json!({}))?;
            match state["status"].as_str() {
                Some("completed") => return Ok(()),
                Some("failed") => anyhow::bail!("QEMU cannot load or save a state: {state}"),
                _ => std::thread::sleep(Duration::from_millis(2)),
            }
        }
        anyhow::bail!("QEMU has not loaded or saved a state in {} s", LOAD_LIMIT.as_secs())
    }

    /// Lets it run.
    pub fn resume(&mut self) -> anyhow::Result<()> {
        self.monitor.ask("cont", json!({}))?;
        let status = self.monitor.ask("query-status", json!({}))?;
        ensure!(status["running"] == true, "the guest does not run: {status}");
        Ok(())
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn machine(hardware: &Hardware) -> Vec<String> {
    let accelerator = match hardware.accelerator {
        Accelerator::Kvm => "kvm".to_owned(),
        Accelerator::Tcg => format!("tcg,tb-size={TRANSLATION_CACHE_MIB}"),
    };
    let machine = format!("{},usb=off,hpet=off,acpi=on,memory-backend={MEMORY_BLOCK}", hardware.machine);
    let memory = format!("size={}k", hardware.memory_bytes / 1024);
    let processors = format!("{0},sockets={0},cores=1,threads=1", hardware.vcpus);
    let pairs = [
        ("-machine", machine),
        ("-accel", accelerator),
        ("-cpu", hardware.cpu_model.clone()),
        ("-m", memory),
        ("-smp", processors),
    ];
    pairs.into_iter().flat_map(|(name, value)| [name.to_owned(), value]).collect()
}

/// The devices of `migration::hypervisor::TOPOLOGY` 1 as libvirt writes them, less what differs between hosts.
const DEVICES: &[&str] = &[
    "-display",
    "none",
    "-no-user-config",
    "-nodefaults",
    "-rtc",
    "base=utc",
    "-boot",
    "strict=on",
    "-device",
    "vmgenid,guid=auto,id=vmgenid0",
    "-device",
    "pcie-root-port,port=16,chassis=1,id=pci.1,bus=pcie.0,addr=0x2",
    "-device",
    "pcie-root-port,port=17,chassis=2,id=pci.2,bus=pcie.0,addr=0x3",
    "-device",
    "virtio-serial-pci,id=virtio-serial0,bus=pcie.0,addr=0x5",
    "-chardev",
    "null,id=charserial0",
    "-device",
    "isa-serial,chardev=charserial0,id=serial0,index=0",
    "-chardev",
    "null,id=charchannel0",
    "-device",
    "virtserialport,bus=virtio-serial0.0,nr=1,chardev=charchannel0,id=channel0,name=org.qemu.guest_agent.0",
    "-chardev",
    "null,id=charchannel1",
    "-device",
    "virtserialport,bus=virtio-serial0.0,nr=2,chardev=charchannel1,id=channel1,name=org.cloudlet.clock.0",
    "-global",
    "ICH9-LPC.noreboot=off",
    "-watchdog-action",
    "none",
    "-object",
    "rng-random,id=objrng0,filename=/dev/urandom",
    "-device",
    "virtio-rng-pci,rng=objrng0,id=rng0,bus=pcie.0,addr=0x7",
];
