//! Service VM images: what an image is, how it is named and signed, where it is kept and how it is built.
//!
//! An image is a directory of *parts* (disk, memory template, device stream, …) described by a [`Manifest`].
//! Its [`ImageId`] is the BLAKE3 hash of the manifest's exact bytes, and the manifest holds the hash of every
//! part and the id of the parent image, so one id fixes everything down to the last block.
//!
//! * [`manifest`], [`id`], [`signature`]: pure; always there.
//! * [`blocks`]: a part in blocks that can be checked one by one; pure.
//! * [`index`]: where 4 KiB blocks of content lie in parts; pure.
//! * [`qcow2`]: the few facts about disk files that identity and starting depend on.
//! * [`vcdiff`]: the difference of two files, RFC 3284; pure.
//! * [`overlay`] (feature `overlay`): what a Service VM is beyond its base, in chunks, and restoring it from them.
//! * [`store`] (feature `store`): images on disk: publish atomically, verify, pin, collect garbage.
//! * [`build`] (feature `build`): what of a recipe the host does. Starting the guest is the caller's business:
//!   this crate never runs a VM and never opens a socket.

#![forbid(unsafe_code)]

// Unit tests share their helpers with the tests in `tests/`, which know the crate by its name.
#[cfg(test)]
extern crate self as vm_images;

pub mod blocks;
#[cfg(feature = "build")]
pub mod build;
pub mod id;
pub mod index;
pub mod manifest;
#[cfg(feature = "overlay")]
pub mod overlay;
pub mod qcow2;
pub mod signature;
#[cfg(feature = "store")]
pub mod store;
pub mod vcdiff;

pub use id::{Digest, ImageId, ServiceId};
pub use manifest::{Hardware, Kind, Manifest, Part, Role, Service};
pub use signature::{PublicKey, SigningKey};
#[cfg(feature = "store")]
pub use store::{Image, Store};
