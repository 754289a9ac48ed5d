//! Building images: the part of a recipe that needs a running guest.
//!
//! ```text
//! base     host: root disk, kernel, initrd ─► boot ─► prepare ─► rehearse ─► suspend ─► publish
//! service  clone of the base ─► install from a payload disk ─► warm up ─► prepare ─► rehearse ─► suspend ─► publish
//! ```
//!
//! What the host does alone is `vm_images::build`; what a guest is, and how it is suspended, is `migration`'s.

mod base;
mod builder;
mod error;
mod guest;
mod http;
mod recipes;
mod service;

pub use builder::{Build, Builder};
pub use error::Error;
pub use recipes::directory as recipe_directory;
