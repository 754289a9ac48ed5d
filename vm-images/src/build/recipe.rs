//! Recipes: what `recipe.toml` says.

mod check;
mod table;

use std::path::{Path, PathBuf};

use serde::Deserialize;

pub use table::{Base, Hardware, Payload, Ready, Root, Script, Service, ServiceTable, WarmUp};

use super::error::{self, Error};
use crate::manifest::Kind;
use crate::store::files::read_small;

const FILE: &str = "recipe.toml";
/// Longest `recipe.toml` that is read, bytes.
const MAX_BYTES: u64 = 64 * 1024;
/// Longest script that is handed to a guest, bytes.
const MAX_SCRIPT_BYTES: u64 = 1024 * 1024;

/// A recipe and where it lies. The scripts that recipes share lie beside its directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipe {
    /// The recipe's directory, absolute.
    pub directory: PathBuf,
    /// What it makes.
    pub plan: Plan,
}

/// What a recipe makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    /// A bare guest.
    Base(Box<Base>),
    /// A guest with a warm service.
    Service(Box<Service>),
}

/// Names of the recipes in a directory, in order.
pub fn names(recipes: &Path) -> Result<Vec<String>, Error> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(recipes).map_err(error::file("list", recipes))? {
        let entry = entry.map_err(error::file("list", recipes))?;
        if entry.path().join(FILE).is_file() {
            names.extend(entry.file_name().into_string().ok());
        }
    }
    names.sort();
    Ok(names)
}

impl Recipe {
    /// Reads and checks the recipe `name` in the directory `recipes`. Errors name the file and the line or field.
    pub fn load(recipes: &Path, name: &str) -> Result<Self, Error> {
        let recipes = recipes.canonicalize().map_err(error::file("open", recipes))?;
        let known = names(&recipes)?;
        if !known.iter().any(|one| one == name) {
            return Err(Error::NoSuchRecipe { name: name.to_owned(), recipes, known });
        }
        let directory = recipes.join(name);
        let path = directory.join(FILE);
        let recipe = Self { plan: parse(&read_text(&path)?, &path)?, directory };
        if recipe.name() != name {
            let reason = format!("'{}' in a directory named '{name}'; they must be the same", recipe.name());
            return Err(Error::Field { path, field: "name".to_owned(), reason });
        }
        check::check(&recipe)?;
        Ok(recipe)
    }

    /// Name of the image that it makes, and of its directory.
    pub fn name(&self) -> &str {
        match &self.plan {
            Plan::Base(base) => &base.name,
            Plan::Service(service) => &service.name,
        }
    }

    /// The text of a script that runs in the guest.
    pub fn script(&self, script: &Script) -> Result<String, Error> {
        let path = self.directory.join(&script.script);
        let missing = || error::file("read", &path)(std::io::ErrorKind::NotFound.into());
        let bytes = read_small(&path, MAX_SCRIPT_BYTES)?.ok_or_else(missing)?;
        String::from_utf8(bytes).map_err(|source| error::file("read", &path)(std::io::Error::other(source)))
    }

    /// Where the recipe is written down.
    pub(super) fn path(&self) -> PathBuf {
        self.directory.join(FILE)
    }

    /// A script that all recipes share.
    pub(super) fn shared(&self, name: &str) -> PathBuf {
        self.directory.with_file_name(name)
    }
}

fn read_text(path: &Path) -> Result<String, Error> {
    let missing = || error::file("read", path)(std::io::ErrorKind::NotFound.into());
    let bytes = read_small(path, MAX_BYTES)?.ok_or_else(missing)?;
    String::from_utf8(bytes).map_err(|source| {
        let good = &source.as_bytes()[..source.utf8_error().valid_up_to()];
        let line = 1 + good.iter().filter(|byte| **byte == b'\n').count();
        Error::Recipe { path: path.to_owned(), line, message: "this is not UTF-8 text".to_owned() }
    })
}

/// Looks at the kind first, so that a wrong field is reported for the kind that is meant, and with its own line:
/// serde's tagged enums lose it.
fn parse(text: &str, path: &Path) -> Result<Plan, Error> {
    #[derive(Deserialize)]
    struct Probe {
        kind: Kind,
    }
    let refused = |error: toml::de::Error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let line = 1 + before.matches('\n').count();
        Error::Recipe { path: path.to_owned(), line, message: error.message().to_owned() }
    };
    Ok(match toml::from_str::<Probe>(text).map_err(refused)?.kind {
        Kind::Base => Plan::Base(toml::from_str(text).map_err(refused)?),
        Kind::Service => Plan::Service(toml::from_str(text).map_err(refused)?),
    })
}
