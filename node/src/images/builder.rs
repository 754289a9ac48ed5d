//! Decides whether an image must be built, and builds what it is layered on first.

use std::path::PathBuf;

use migration::Hypervisor;
use migration::hypervisor::{Host, TOPOLOGY};
use vm_images::build::recipe::Plan;
use vm_images::build::{Cancel, Recipe};
use vm_images::{Digest, ImageId, Store};

use super::{Error, base, service};

/// Builds images into a store.
pub struct Builder<'a> {
    /// Where images go.
    pub store: &'a Store,
    /// Runs the guests under construction.
    pub hypervisor: &'a dyn Hypervisor,
    /// Directory of the recipes.
    pub recipes: PathBuf,
    /// Builds even what the store has already.
    pub force: bool,
    /// Stops the build from another thread.
    pub cancel: Cancel,
}

/// What became of a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Build {
    /// The image.
    pub id: ImageId,
    /// Whether it was built now; false if the store had it.
    pub built: bool,
}

impl Builder<'_> {
    /// Builds the image of the recipe `name`, and its parent's if that is missing; `progress` hears of every step.
    ///
    /// On error nothing was published, and what was half made is removed.
    pub fn build(&self, name: &str, progress: &mut dyn FnMut(&str)) -> Result<Build, Error> {
        let recipe = Recipe::load(&self.recipes, name)?;
        let parent = match &recipe.plan {
            Plan::Base(_) => None,
            Plan::Service(service) => Some(self.base_of(name, &service.parent, progress)?),
        };
        let host = self.hypervisor.host()?;
        let digest = recipe.digest(parent, &context(&host))?;
        if !self.force
            && let Some(id) = self.there_already(&digest, progress)?
        {
            return Ok(Build { id, built: false });
        }
        let id = match (&recipe.plan, parent) {
            (Plan::Service(plan), Some(parent)) => self.service(&recipe, plan, parent, digest, progress)?,
            (Plan::Base(plan), _) => base::build(self, &recipe, plan, &host, digest, progress)?,
            (Plan::Service(plan), None) => return Err(no_base(name, &plan.parent)),
        };
        Ok(Build { id, built: true })
    }

    /// Tells of the next step, unless the build was cancelled.
    pub(super) fn step(&self, text: &str, progress: &mut dyn FnMut(&str)) -> Result<(), Error> {
        progress(text);
        if self.cancel.is_cancelled() { Err(Error::Cancelled) } else { Ok(()) }
    }

    fn service(
        &self,
        recipe: &Recipe,
        plan: &vm_images::build::recipe::Service,
        parent: ImageId,
        digest: Digest,
        progress: &mut dyn FnMut(&str),
    ) -> Result<ImageId, Error> {
        let base = Recipe::load(&self.recipes, &plan.parent)?;
        let Plan::Base(base) = &base.plan else { return Err(no_base(recipe.name(), &plan.parent)) };
        let parent = self.store.ensure_intact(parent)?;
        service::build(self, recipe, plan, base, &parent, digest, progress)
    }

    fn base_of(&self, recipe: &str, parent: &str, progress: &mut dyn FnMut(&str)) -> Result<ImageId, Error> {
        let base = Recipe::load(&self.recipes, parent)?;
        if !matches!(base.plan, Plan::Base(_)) {
            return Err(no_base(recipe, parent));
        }
        // A base is not built anew because a service is.
        let same =
            Builder { force: false, recipes: self.recipes.clone(), cancel: self.cancel.clone(), ..*self };
        Ok(same.build(parent, progress)?.id)
    }

    /// The image of this recipe, if the store has an undamaged one.
    fn there_already(
        &self,
        digest: &Digest,
        progress: &mut dyn FnMut(&str),
    ) -> Result<Option<ImageId>, Error> {
        let Some(image) = self.store.find_by_recipe(digest)? else { return Ok(None) };
        match self.store.ensure_intact(image.id) {
            Ok(image) => Ok(Some(image.id)),
            Err(error) => {
                progress(&format!("{} is damaged and is built anew: {error}", image.label()));
                Ok(None)
            }
        }
    }
}

/// What an image depends on besides its recipe.
fn context(host: &Host) -> String {
    format!("{} topology {TOPOLOGY}", host.accelerator)
}

fn no_base(recipe: &str, parent: &str) -> Error {
    Error::Parent { recipe: recipe.to_owned(), parent: parent.to_owned() }
}
