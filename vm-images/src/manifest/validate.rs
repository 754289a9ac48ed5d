//! Reading a manifest that somebody else wrote.

use std::collections::BTreeSet;

use serde::Deserialize;

use super::{FORMAT, Hardware, Kind, MAX_BYTES, Manifest, Role, Service};
use crate::id::ServiceId;

/// Largest guest memory, bytes: 1 TiB. A guess; no edge machine of 2026 has more.
const MAX_MEMORY_BYTES: u64 = 1 << 40;
/// Largest part, bytes: 16 TiB, the largest file that ext4 can hold with 4 KiB blocks.
const MAX_PART_BYTES: u64 = 1 << 44;
/// Most virtual CPUs. A guess; QEMU's q35 machine stops at 4096.
const MAX_VCPUS: u32 = 256;
/// Longest text field, bytes. A guess: generous for a line that people read, far below [`MAX_BYTES`].
const MAX_TEXT_BYTES: usize = 1000;

/// Why a manifest cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Longer than [`MAX_BYTES`]; it was not parsed.
    #[error("the manifest has {found} bytes; at most {MAX_BYTES} are read")]
    TooLong {
        /// Its length, bytes.
        found: u64,
    },
    /// Not JSON, or a field is missing, unknown or of the wrong type.
    #[error("the manifest is not well formed")]
    Json(#[source] serde_json::Error),
    /// The writer knew a format that this release does not.
    #[error(
        "the manifest has format {found} and was written by a newer release; this release reads format {FORMAT}. \
         Update this node, or build the image with this release"
    )]
    NewerFormat {
        /// The format that the manifest states.
        found: u32,
    },
    /// Format 0, which no release ever wrote.
    #[error("the manifest has format {found}, which no release ever wrote")]
    UnknownFormat {
        /// The format that the manifest states.
        found: u32,
    },
    /// A field has a value that makes no sense or would be dangerous to use.
    #[error("the manifest's {field} is not acceptable: {reason}")]
    Field {
        /// The field, dotted.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

fn refuse<T>(field: &'static str, reason: impl Into<String>) -> Result<T, Error> {
    Err(Error::Field { field, reason: reason.into() })
}

/// Only what every format has had and will have, so that a newer manifest is recognised before its new fields
/// are complained about.
#[derive(Deserialize)]
struct Probe {
    format: u32,
}

pub(super) fn parse(bytes: &[u8]) -> Result<Manifest, Error> {
    let found = bytes.len() as u64;
    if found > MAX_BYTES {
        return Err(Error::TooLong { found });
    }
    check_format(serde_json::from_slice::<Probe>(bytes).map_err(Error::Json)?.format)?;
    let manifest: Manifest = serde_json::from_slice(bytes).map_err(Error::Json)?;
    check(&manifest)?;
    Ok(manifest)
}

fn check_format(found: u32) -> Result<(), Error> {
    match found {
        FORMAT => Ok(()),
        0 => Err(Error::UnknownFormat { found }),
        _ => Err(Error::NewerFormat { found }),
    }
}

pub(super) fn check(manifest: &Manifest) -> Result<(), Error> {
    check_format(manifest.format)?;
    if manifest.name.parse::<ServiceId>().is_err() {
        return refuse("name", "1 to 40 of a-z, 0-9 and '-' are wanted, starting with a letter");
    }
    text("description", &manifest.description)?;
    word("guest_os.id", &manifest.guest_os.id)?;
    word("guest_os.version", &manifest.guest_os.version)?;
    word("guest_os.architecture", &manifest.guest_os.architecture)?;
    check_kind(manifest)?;
    check_hardware(&manifest.hardware)?;
    check_parts(manifest)
}

fn check_kind(manifest: &Manifest) -> Result<(), Error> {
    match (manifest.kind, &manifest.service) {
        (Kind::Base, Some(_)) => refuse("service", "a base image has no service"),
        (Kind::Base, None) => Ok(()),
        (Kind::Service, None) => refuse("service", "an image of kind 'service' needs one"),
        (Kind::Service, Some(_)) if manifest.parent.is_none() => {
            refuse("parent", "an image of kind 'service' is layered on a base image and must name it")
        }
        (Kind::Service, Some(service)) => check_service(service),
    }
}

pub(crate) fn check_service(service: &Service) -> Result<(), Error> {
    word("service.version", &service.version)?;
    text("service.description", &service.description)?;
    if service.port == 0 {
        return refuse("service.port", "0 is no port");
    }
    let path = &service.health_path;
    if !path.starts_with('/') || path.len() > MAX_TEXT_BYTES || !path.bytes().all(|b| b.is_ascii_graphic()) {
        return refuse("service.health_path", "a path such as /healthz is wanted");
    }
    if service.needs_memory_bytes == 0 || service.needs_memory_bytes > MAX_MEMORY_BYTES {
        return refuse("service.needs_memory_bytes", format!("1 to {MAX_MEMORY_BYTES} is wanted"));
    }
    if service.needs_cpu_millis == 0 || service.needs_cpu_millis > MAX_VCPUS * 1000 {
        return refuse("service.needs_cpu_millis", format!("1 to {} is wanted", MAX_VCPUS * 1000));
    }
    if service.max_users == 0 {
        return refuse(
            "service.max_users",
            "an instance that nobody may use is of no use; at least 1 is wanted",
        );
    }
    Ok(())
}

pub(crate) fn check_hardware(hardware: &Hardware) -> Result<(), Error> {
    word("hardware.machine", &hardware.machine)?;
    word("hardware.cpu_model", &hardware.cpu_model)?;
    if !is_versioned(&hardware.machine) {
        return refuse(
            "hardware.machine",
            format!(
                "'{}' has no version; its meaning changes with every QEMU. Use one such as pc-q35-10.0",
                hardware.machine
            ),
        );
    }
    if ["max", "host"].contains(&hardware.cpu_model.as_str()) {
        return refuse(
            "hardware.cpu_model",
            format!("'{}' differs between machines; name a model such as Nehalem", hardware.cpu_model),
        );
    }
    if hardware.memory_bytes == 0
        || hardware.memory_bytes > MAX_MEMORY_BYTES
        || !hardware.memory_bytes.is_multiple_of(4096)
    {
        return refuse(
            "hardware.memory_bytes",
            format!("whole pages of 4096 up to {MAX_MEMORY_BYTES} are wanted"),
        );
    }
    if hardware.vcpus == 0 || hardware.vcpus > MAX_VCPUS {
        return refuse("hardware.vcpus", format!("1 to {MAX_VCPUS} is wanted"));
    }
    text("hardware.command_line", &hardware.command_line)
}

/// Whether a machine type ends in a version, as in `pc-q35-10.0`.
fn is_versioned(machine: &str) -> bool {
    let Some((_, version)) = machine.rsplit_once('-') else { return false };
    let Some((major, minor)) = version.split_once('.') else { return false };
    [major, minor].iter().all(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
}

fn check_parts(manifest: &Manifest) -> Result<(), Error> {
    let mut seen = BTreeSet::new();
    for part in &manifest.parts {
        let title = part.role.title();
        if !seen.insert(part.role) {
            return refuse("parts", format!("the {title} is listed twice"));
        }
        if part.bytes == 0 || part.bytes > MAX_PART_BYTES {
            return refuse(
                "parts",
                format!("a {title} of {} bytes; 1 to {MAX_PART_BYTES} is wanted", part.bytes),
            );
        }
    }
    if !seen.contains(&Role::Disk) {
        return refuse("parts", "there is no disk");
    }
    match (manifest.part(Role::MemoryTemplate), seen.contains(&Role::DeviceStream)) {
        (Some(template), true) if template.bytes > manifest.hardware.memory_bytes => refuse(
            "parts",
            format!(
                "the memory template has {} bytes, more than the guest's {}",
                template.bytes, manifest.hardware.memory_bytes
            ),
        ),
        (Some(_), false) | (None, true) => refuse(
            "parts",
            "a suspended guest is a memory template and a device stream; one of them is missing",
        ),
        _ => Ok(()),
    }
}

/// One line for people: may have spaces, must not move the cursor of whoever prints it.
fn text(field: &'static str, value: &str) -> Result<(), Error> {
    if value.len() > MAX_TEXT_BYTES {
        return refuse(field, format!("it has {} bytes; at most {MAX_TEXT_BYTES} are read", value.len()));
    }
    if value.chars().any(char::is_control) {
        return refuse(field, "it contains control characters");
    }
    Ok(())
}

/// A short token that is passed on to other programs, so no commas, quotes or spaces.
fn word(field: &'static str, value: &str) -> Result<(), Error> {
    let fine = |b: u8| b.is_ascii_alphanumeric() || b"-._+".contains(&b);
    if value.is_empty() || value.len() > 100 || !value.bytes().all(fine) {
        return refuse(field, "1 to 100 letters, digits, '-', '.', '_' and '+' are wanted");
    }
    Ok(())
}
