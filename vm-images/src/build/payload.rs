//! The payload of a Service VM: what is installed, as a disk that is plugged in for a moment.

use std::fs::File;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::MIB;
use super::command::{Cancel, Command, require};
use super::error::{self, Error, writing};
use super::recipe::{Recipe, Service};
use super::root_disk::full_disk;

/// Name under which the guest finds the install script on the payload disk.
const INSTALL: &str = "install";
/// Directory of the packages on the payload disk.
const DEBS: &str = "debs";

/// Makes the payload disk of a Service VM in `directory`, and says where: a raw ext4 image whose root directory has
/// `install`, the recipe's packages with all that `package_status` (the base guest's dpkg status) lacks under
/// `debs/`, and what the recipe's build script adds. `suite` is the base guest's Debian release.
///
/// `progress` gets what the programs say, a line at a time. On error `directory` holds rubbish that its owner
/// removes; for the scratch directory of a draft that is the draft.
pub fn payload(
    recipe: &Recipe,
    service: &Service,
    package_status: &Path,
    suite: &str,
    directory: &Path,
    cancel: &Cancel,
    progress: &mut dyn FnMut(&str),
) -> Result<PathBuf, Error> {
    require(&["mke2fs", "apt-get"])?;
    let tree = directory.join("payload");
    let disk = directory.join("payload.raw");
    std::fs::create_dir(&tree).map_err(writing("create", &tree, 0))?;
    let status = package_status.canonicalize().map_err(error::file("read", package_status))?;
    download(recipe, service, &status, suite, &tree, cancel, progress)
        .and_then(|()| fill(recipe, service, &tree, cancel, progress))
        .and_then(|()| make_disk(recipe, service, &tree, &disk, cancel, progress))
        .map_err(|error| full_disk(error, &tree, service.payload.disk_mib * MIB))?;
    std::fs::remove_dir_all(&tree).map_err(error::file("remove", &tree))?;
    Ok(disk)
}

/// The packages come first: the build script may unpack them.
fn download(
    recipe: &Recipe,
    service: &Service,
    package_status: &Path,
    suite: &str,
    tree: &Path,
    cancel: &Cancel,
    progress: &mut dyn FnMut(&str),
) -> Result<(), Error> {
    if service.payload.debs.is_empty() {
        return Ok(());
    }
    Command::script(&recipe.shared("download-debs"))
        .arg(package_status)
        .arg(tree.join(DEBS))
        .arg(suite)
        .args(&service.payload.debs)
        .run(cancel, progress)
}

fn fill(
    recipe: &Recipe,
    service: &Service,
    tree: &Path,
    cancel: &Cancel,
    progress: &mut dyn FnMut(&str),
) -> Result<(), Error> {
    if let Some(build) = &service.payload.build {
        let script = recipe.directory.join(build);
        Command::script(&script).arg(tree).current_dir(&recipe.directory).run(cancel, progress)?;
    }
    let (from, to) = (recipe.directory.join(&service.install.script), tree.join(INSTALL));
    let bytes = std::fs::metadata(&from).map_err(error::file("read", &from))?.len();
    std::fs::copy(&from, &to).map_err(writing("create", &to, bytes))?;
    let executable = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(&to, executable).map_err(error::file("change the mode of", &to))
}

fn make_disk(
    recipe: &Recipe,
    service: &Service,
    tree: &Path,
    disk: &Path,
    cancel: &Cancel,
    progress: &mut dyn FnMut(&str),
) -> Result<(), Error> {
    let disk_mib = service.payload.disk_mib;
    let found_bytes = tree_bytes(tree)?;
    let too_large = || Error::PayloadTooLarge { recipe: recipe.name().to_owned(), found_bytes, disk_mib };
    if found_bytes > disk_mib * MIB {
        return Err(too_large());
    }
    let file = File::create_new(disk).map_err(writing("create", disk, disk_mib * MIB))?;
    file.set_len(disk_mib * MIB).map_err(writing("create", disk, disk_mib * MIB))?;
    progress("writing the payload disk");
    // Read once and never written: no journal, no reserved blocks; everything belongs to root.
    let made = Command::tool("mke2fs")
        .args(["-q", "-F", "-t", "ext4", "-L", "payload", "-m", "0", "-O", "^has_journal"])
        .args(["-E", "root_owner=0:0,nodiscard", "-d"])
        .arg(tree)
        .arg(disk)
        .run(cancel, progress);
    made.map_err(|error| match error {
        // Its file system is full, not the host's.
        Error::Failed { ref words, .. } if words.contains("Could not allocate") => too_large(),
        other => other,
    })
}

/// What a tree takes in whole blocks, bytes.
fn tree_bytes(dir: &Path) -> Result<u64, Error> {
    let mut total = 0;
    for entry in std::fs::read_dir(dir).map_err(error::file("list", dir))? {
        let path = entry.map_err(error::file("list", dir))?.path();
        let meta = std::fs::symlink_metadata(&path).map_err(error::file("read", &path))?;
        total += meta.blocks() * 512;
        if meta.is_dir() {
            total += tree_bytes(&path)?;
        }
    }
    Ok(total)
}
