//! What can go wrong while the host does its part of a recipe.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use crate::{manifest, store};

/// Why the host's part of a build failed. Whatever was made lies in the draft and goes away with it; nothing was
/// published.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such recipe.
    #[error("there is no recipe '{name}' in {}; there are: {}", recipes.display(), known.join(", "))]
    NoSuchRecipe {
        /// What was asked for.
        name: String,
        /// Where was looked.
        recipes: PathBuf,
        /// What is there.
        known: Vec<String>,
    },
    /// `recipe.toml` cannot be understood.
    #[error("{}:{line}: {message}", path.display())]
    Recipe {
        /// The recipe's file.
        path: PathBuf,
        /// Where in it, counted from 1.
        line: usize,
        /// What is wrong there.
        message: String,
    },
    /// A field of `recipe.toml` has a value that cannot be used.
    #[error("{}: {field}: {reason}", path.display())]
    Field {
        /// The recipe's file.
        path: PathBuf,
        /// The field, dotted.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No image can have what the recipe asks for.
    #[error("{} asks for what no image can have", path.display())]
    Manifest {
        /// The recipe's file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: manifest::Error,
    },
    /// The file system said no.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A program that building needs is not on this machine.
    #[error("{tool} is not installed; run node/packaging/system-packages build")]
    MissingTool {
        /// The program.
        tool: String,
    },
    /// A program was started and failed.
    #[error("{tool} failed ({status}); its last words:\n{words}")]
    Failed {
        /// The program.
        tool: String,
        /// How it ended.
        status: ExitStatus,
        /// The last lines that it wrote to its standard error.
        words: String,
    },
    /// The caller wanted no more. The program and its children are gone.
    #[error("{tool} was stopped")]
    Cancelled {
        /// The program.
        tool: String,
    },
    /// The payload does not fit on its disk.
    #[error(
        "the payload of '{recipe}' has {found_bytes} bytes and does not fit on its disk of {disk_mib} MiB; \
         raise disk_mib under [payload] in its recipe.toml"
    )]
    PayloadTooLarge {
        /// The recipe.
        recipe: String,
        /// Size of the payload's files, bytes.
        found_bytes: u64,
        /// Size of the disk, MiB.
        disk_mib: u64,
    },
    /// The draft cannot take the result, or the disk is full.
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// Gives an I/O error its context.
pub(super) fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { action, path, source }
}

/// Gives an I/O error its context; a full disk is told as such, with what was to be written.
pub(super) fn writing(
    action: &'static str,
    path: &Path,
    needed_bytes: u64,
) -> impl FnOnce(io::Error) -> Error {
    let context = store::writing(action, path, needed_bytes);
    move |source| Error::Store(context(source))
}
