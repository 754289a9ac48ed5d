//! Where the recipes are.

use std::path::{Path, PathBuf};

use super::Error;

/// Recipes beside an installed program, relative to its directory.
const INSTALLED: &str = "../share/cloudlet/recipes";
/// Recipes in a checkout, relative to its top.
const IN_CHECKOUT: &str = "vm-images/recipes";

/// The directory that was named, else the one beside the installed program, else that of the checkout which the
/// program was built in or which is the working directory.
pub fn directory(named: Option<&Path>) -> Result<PathBuf, Error> {
    if let Some(named) = named {
        return existing([named.to_owned()]);
    }
    let program = std::env::current_exe().unwrap_or_default();
    let beside =
        |relative: &str| program.parent().map(|directory| directory.join(relative)).unwrap_or_default();
    // A checkout's programs are in target/debug or target/release.
    existing([beside(INSTALLED), beside("../..").join(IN_CHECKOUT), PathBuf::from(IN_CHECKOUT)])
}

fn existing<const N: usize>(places: [PathBuf; N]) -> Result<PathBuf, Error> {
    let found = places.iter().find_map(|place| place.canonicalize().ok().filter(|place| place.is_dir()));
    found.ok_or_else(|| Error::NoRecipes(places.map(|place| place.display().to_string()).join(", ")))
}
