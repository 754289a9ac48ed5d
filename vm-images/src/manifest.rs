//! What an image is: its parts, its parent, the virtual hardware that it was suspended on, and its service.
//!
//! Stored and signed as JSON, a documented format, because manifests outlive releases. The image's id is the
//! digest of the exact bytes, so a manifest is never re-serialised once it is published.

mod validate;

use serde::{Deserialize, Serialize};

pub use validate::Error;
#[cfg(feature = "build")]
pub(crate) use validate::{check_hardware, check_service};

use crate::id::{Digest, ImageId, ServiceId};

/// Version of the manifest format that this release writes.
pub const FORMAT: u32 = 1;
/// Longest manifest that is read, in bytes. A real one has under 4 KiB; the cap bounds what a bad file can cost.
pub const MAX_BYTES: u64 = 64 * 1024;

/// Describes one image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT`] of the writer.
    pub format: u32,
    /// What the image is for.
    pub kind: Kind,
    /// Short name under which the store's newest image of this recipe is found (`base`, `speech`).
    pub name: String,
    /// One line for people.
    pub description: String,
    /// When it was built, seconds since 1970 UTC by the builder's clock. For people; nothing decides by it.
    pub created_unix_s: u64,
    /// Digest of everything that the recipe depends on; equal recipes need no second build.
    pub recipe: Digest,
    /// The image whose disk this one's disk is layered on.
    pub parent: Option<ImageId>,
    /// The virtual hardware that the guest was suspended on and must wake up on.
    pub hardware: Hardware,
    /// The operating system in the guest.
    pub guest_os: GuestOs,
    /// Files of the image, one for each role at most.
    pub parts: Vec<Part>,
    /// The service that answers in a clone of this image; `None` for a base image.
    pub service: Option<Service>,
}

impl Manifest {
    /// Reads a manifest from its exact bytes and checks everything that can be checked without its parts.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        validate::parse(bytes)
    }

    /// Checks that a reader of this release will accept the manifest.
    pub fn validate(&self) -> Result<(), Error> {
        validate::check(self)
    }

    /// The bytes that are hashed, signed and stored: indented JSON with a final newline.
    pub fn to_bytes(&self) -> Result<Vec<u8>, Error> {
        let mut bytes = serde_json::to_vec_pretty(self).map_err(Error::Json)?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// The id of the image whose manifest has exactly these bytes.
    pub fn id_of(bytes: &[u8]) -> ImageId {
        ImageId(Digest::of(bytes))
    }

    /// The image as people read it in messages: name and short id.
    pub fn label(&self, id: ImageId) -> String {
        format!("{} ({})", self.name, id.short())
    }

    /// The part with this role.
    pub fn part(&self, role: Role) -> Option<&Part> {
        self.parts.iter().find(|part| part.role == role)
    }
}

/// What an image is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A bare guest that Service VMs are made from.
    Base,
    /// A guest with a warm service in it.
    Service,
}

/// A file of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// What it is; also fixes its file name, see [`Role::file_name`].
    pub role: Role,
    /// Length in bytes (apparent length for a sparse file).
    pub bytes: u64,
    /// Digest of the content, holes read as zeros.
    pub blake3: Digest,
}

/// What a part of an image is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// qcow2 disk; of a Service VM only what differs from the parent's disk.
    Disk,
    /// Guest memory at guest-physical offsets, sparse; mapped privately by every clone.
    MemoryTemplate,
    /// QEMU migration stream without memory pages.
    DeviceStream,
    /// Guest kernel for a cold boot.
    Kernel,
    /// Initial RAM disk for a cold boot.
    Initrd,
    /// dpkg status of the guest: what is installed, so that later packages are resolved against it.
    PackageStatus,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 6] = [
        Self::Disk,
        Self::MemoryTemplate,
        Self::DeviceStream,
        Self::Kernel,
        Self::Initrd,
        Self::PackageStatus,
    ];

    /// What people call it in messages.
    pub fn title(self) -> &'static str {
        match self {
            Self::Disk => "disk",
            Self::MemoryTemplate => "memory template",
            Self::DeviceStream => "device stream",
            Self::Kernel => "kernel",
            Self::Initrd => "initrd",
            Self::PackageStatus => "package status",
        }
    }

    /// Name of the file in the image's directory. Fixed, so no manifest can name a path of its own.
    pub fn file_name(self) -> &'static str {
        match self {
            Self::Disk => "disk.qcow2",
            Self::MemoryTemplate => "memory.template",
            Self::DeviceStream => "device.stream",
            Self::Kernel => "kernel",
            Self::Initrd => "initrd",
            Self::PackageStatus => "packages.status",
        }
    }
}

/// The virtual hardware of an image. A suspended guest wakes up only on the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hardware {
    /// QEMU's versioned machine type, such as `pc-q35-10.0`.
    pub machine: String,
    /// QEMU's named CPU model, such as `Nehalem`; never `max` or `host`, which differ between machines.
    pub cpu_model: String,
    /// What executed the guest's code when it was suspended.
    pub accelerator: Accelerator,
    /// Revision of the device layout; counted up whenever a device or its address changes.
    pub topology: u32,
    /// Guest memory, bytes.
    pub memory_bytes: u64,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Kernel command line of a cold boot.
    pub command_line: String,
}

/// What executes guest code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Accelerator {
    /// The processor itself, through `/dev/kvm`.
    Kvm,
    /// QEMU's translator; about 12 times slower (measured).
    Tcg,
}

impl std::fmt::Display for Accelerator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        })
    }
}

/// The operating system in a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuestOs {
    /// `ID` of os-release, such as `debian`.
    pub id: String,
    /// `VERSION_ID` of os-release, such as `12`.
    pub version: String,
    /// Machine architecture as `uname -m` says it.
    pub architecture: String,
}

/// The service in a Service VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// What client apps ask for.
    pub id: ServiceId,
    /// Version of the server code.
    pub version: String,
    /// One line for people.
    pub description: String,
    /// TCP port in the guest.
    pub port: u16,
    /// Path that answers 200 to a GET when the service can work.
    pub health_path: String,
    /// Memory that one instance needs on the host, bytes; admission counts with it.
    pub needs_memory_bytes: u64,
    /// CPU that one busy instance needs, thousandths of a core; admission counts with it.
    pub needs_cpu_millis: u32,
    /// Most users of one shared instance at a time; 1 means that every client gets an instance of its own.
    pub max_users: u32,
}
