//! Whether a recipe that is well formed can be built.

use super::{Base, Plan, Recipe, Script, Service, WarmUp};
use crate::build::Error;
use crate::id::ServiceId;
use crate::manifest::Accelerator;

/// Largest disk that a recipe may ask for, MiB: 1 TiB. A guess.
const MAX_DISK_MIB: u64 = 1024 * 1024;
/// Longest time limit, seconds: a day. A guess.
const MAX_LIMIT_S: u64 = 24 * 60 * 60;

struct Checker<'a> {
    recipe: &'a Recipe,
}

pub(super) fn check(recipe: &Recipe) -> Result<(), Error> {
    let checker = Checker { recipe };
    checker.name("name", recipe.name())?;
    match &recipe.plan {
        Plan::Base(base) => checker.base(base),
        Plan::Service(service) => checker.service(service),
    }
}

impl Checker<'_> {
    fn refuse<T>(&self, field: &str, reason: impl Into<String>) -> Result<T, Error> {
        Err(Error::Field { path: self.recipe.path(), field: field.to_owned(), reason: reason.into() })
    }

    fn base(&self, base: &Base) -> Result<(), Error> {
        let root = &base.root;
        self.words("root.suite", std::slice::from_ref(&root.suite))?;
        self.words("root.include", &root.include)?;
        self.disk("root.disk_mib", root.disk_mib)?;
        if let Some(customize) = &root.customize {
            self.file_here("root.customize", customize)?;
        }
        self.script("prepare", &base.prepare)?;
        self.limit("ready.limit_s", base.ready.limit_s)?;
        // The topology is the hypervisor's; here any will do.
        crate::manifest::check_hardware(&base.hardware(Accelerator::Tcg, 1))
            .map_err(|source| Error::Manifest { path: self.recipe.path(), source })
    }

    fn service(&self, service: &Service) -> Result<(), Error> {
        self.name("parent", &service.parent)?;
        if service.parent == service.name {
            return self.refuse("parent", "a recipe cannot be its own parent");
        }
        self.words("payload.debs", &service.payload.debs)?;
        self.disk("payload.disk_mib", service.payload.disk_mib)?;
        if let Some(build) = &service.payload.build {
            self.file_here("payload.build", build)?;
        }
        self.script("install", &service.install)?;
        self.script("prepare", &service.prepare)?;
        service.warm_up.iter().try_for_each(|request| self.request(request))?;
        crate::manifest::check_service(&service.service())
            .map_err(|source| Error::Manifest { path: self.recipe.path(), source })
    }

    fn request(&self, request: &WarmUp) -> Result<(), Error> {
        self.limit("warm_up.limit_s", request.limit_s)?;
        if request.method.is_empty() || !request.method.bytes().all(|b| b.is_ascii_uppercase()) {
            return self.refuse("warm_up.method", "a method such as GET or POST is wanted");
        }
        if request.body.as_ref().is_some_and(|body| !body.is_absolute()) {
            return self.refuse("warm_up.body", "an absolute path of a file on the host is wanted");
        }
        if !request.path.starts_with('/') || !request.path.bytes().all(|b| b.is_ascii_graphic()) {
            return self.refuse("warm_up.path", "a path such as /recognize is wanted");
        }
        if !(1..=1000).contains(&request.times) {
            return self.refuse("warm_up.times", "1 to 1000 is wanted");
        }
        Ok(())
    }

    fn name(&self, field: &str, name: &str) -> Result<(), Error> {
        match name.parse::<ServiceId>() {
            Ok(_) => Ok(()),
            Err(_) => self.refuse(field, "1 to 40 of a-z, 0-9 and '-' are wanted, starting with a letter"),
        }
    }

    /// Names of packages and suites: they become arguments of other programs, so no dash in front, no commas.
    fn words(&self, field: &str, words: &[String]) -> Result<(), Error> {
        let good = |word: &&String| {
            word.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
                && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+-.".contains(&b))
        };
        match words.iter().find(|word| !good(word)) {
            Some(word) => self.refuse(field, format!("'{word}' is not a name that Debian uses")),
            None => Ok(()),
        }
    }

    fn disk(&self, field: &str, mib: u64) -> Result<(), Error> {
        if (1..=MAX_DISK_MIB).contains(&mib) {
            Ok(())
        } else {
            self.refuse(field, format!("1 to {MAX_DISK_MIB} is wanted"))
        }
    }

    fn limit(&self, field: &str, seconds: u64) -> Result<(), Error> {
        if (1..=MAX_LIMIT_S).contains(&seconds) {
            Ok(())
        } else {
            self.refuse(field, format!("1 to {MAX_LIMIT_S} is wanted"))
        }
    }

    fn script(&self, table: &str, script: &Script) -> Result<(), Error> {
        self.file_here(&format!("{table}.script"), &script.script)?;
        self.limit(&format!("{table}.limit_s"), script.limit_s)
    }

    /// Scripts lie in the recipe's directory, where its digest sees them.
    fn file_here(&self, field: &str, name: &str) -> Result<(), Error> {
        if name.is_empty() || name.starts_with('.') || name.contains('/') {
            return self.refuse(field, format!("'{name}' is not the name of a file beside recipe.toml"));
        }
        if !self.recipe.directory.join(name).is_file() {
            return self.refuse(field, format!("there is no file '{name}' beside recipe.toml"));
        }
        Ok(())
    }
}
