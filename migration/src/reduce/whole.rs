//! One digest of a whole VM.

use vm_images::Digest;

/// What keeps this hash apart from other uses of BLAKE3.
const PURPOSE: &str = "tactical cloudlets 2026 memory, disk and devices of a paused VM, version 1";

/// Of all memory, all of the disk and the devices: of the roots that a source says and its sink finds, and the hash of the device
/// stream.
pub fn digest(memory_root: &[u8; 32], disk_root: &[u8; 32], device_digest: &[u8; 32]) -> Digest {
    let mut hasher = blake3::Hasher::new_derive_key(PURPOSE);
    hasher.update(memory_root).update(disk_root).update(device_digest);
    Digest::from_bytes(*hasher.finalize().as_bytes())
}
