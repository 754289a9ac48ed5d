//! The root disk of a base image.

use std::path::Path;

use super::MIB;
use super::command::{Cancel, Command, ran_out_of_space, require};
use super::error::{self, Error, writing};
use super::recipe::{Base, Recipe};
use crate::manifest::Role;
use crate::store::{self, Draft};

/// Parts of the image as `build-root` names them.
const FILES: [(Role, &str); 3] =
    [(Role::Kernel, "kernel"), (Role::Initrd, "initrd"), (Role::PackageStatus, "packages.status")];

/// Makes disk, kernel, initial RAM disk and package status of a base image in `draft`. Takes a minute and more.
///
/// `progress` gets what the programs say, a line at a time. On error the draft is to be dropped.
pub fn root_disk(
    recipe: &Recipe,
    base: &Base,
    draft: &Draft,
    cancel: &Cancel,
    progress: &mut dyn FnMut(&str),
) -> Result<(), Error> {
    require(&["mmdebstrap", "mke2fs", "qemu-img"])?;
    let out = draft.scratch().join("root");
    std::fs::create_dir(&out).map_err(writing("create", &out, 0))?;
    run_build_root(recipe, base, &out, cancel, progress)
        .and_then(|()| convert(&out.join("disk.raw"), &draft.path(Role::Disk), cancel, progress))
        .map_err(|error| full_disk(error, &out, base.root.disk_mib * MIB))?;
    for (role, name) in FILES {
        let (from, to) = (out.join(name), draft.path(role));
        std::fs::rename(&from, &to).map_err(error::file("take over", &from))?;
    }
    std::fs::remove_dir_all(&out).map_err(error::file("remove", &out))
}

fn run_build_root(
    recipe: &Recipe,
    base: &Base,
    out: &Path,
    cancel: &Cancel,
    progress: &mut dyn FnMut(&str),
) -> Result<(), Error> {
    let root = &base.root;
    Command::script(&recipe.shared("build-root"))
        .arg(&recipe.directory)
        .arg(out)
        .env("SUITE", &root.suite)
        .env("INCLUDE", root.include.join(","))
        .env("CUSTOMIZE", root.customize.as_deref().unwrap_or_default())
        .env("DISK_MIB", root.disk_mib.to_string())
        .run(cancel, progress)
}

/// Clusters of 64 KiB, QEMU's default and that of the overlays; not compressed, because every clone reads it.
fn convert(raw: &Path, disk: &Path, cancel: &Cancel, progress: &mut dyn FnMut(&str)) -> Result<(), Error> {
    progress("converting the disk to qcow2");
    Command::tool("qemu-img")
        .args(["convert", "-f", "raw", "-O", "qcow2", "-o", "cluster_size=65536"])
        .arg(raw)
        .arg(disk)
        .run(cancel, progress)
}

/// A full disk is told as such, not as what the program made of it.
pub(super) fn full_disk(error: Error, path: &Path, needed_bytes: u64) -> Error {
    if !ran_out_of_space(&error) {
        return error;
    }
    let free_bytes = store::files::free_bytes(path);
    Error::Store(store::Error::NoSpace { path: path.to_owned(), needed_bytes, free_bytes })
}
