//! `cloudlet image build`.

use std::path::Path;

use anyhow::Context as _;
use migration::Hypervisor as _;
use migration::hypervisor::libvirt::Owner;
use serde_json::json;
use vm_images::build::{Cancel, recipe};

use super::output::{Failure, Output};
use super::progress::Progress;
use super::signals;
use crate::config::Config;
use crate::hypervisor::{self, BUILD_ROOT};
use crate::images::{Build, Builder, recipe_directory};

/// Word that stands for every recipe.
const ALL: &str = "all";

pub(super) fn run(
    config: &Config,
    wanted: &str,
    recipes: Option<&Path>,
    force: bool,
    output: Output,
) -> Result<(), Failure> {
    let recipes = recipe_directory(recipes)?;
    let names = if wanted == ALL { recipe::names(&recipes)? } else { vec![wanted.to_owned()] };
    if names.is_empty() {
        let error = anyhow::anyhow!("there is no recipe in {}", recipes.display());
        return Err(Failure::failed(error, "name the directory of the recipes with --recipes"));
    }
    let progress = output.progress();
    let builds = build(config, &recipes, &names, force, &progress)?;
    progress.done();
    let text = || {
        let line = |(name, Build { id, built }): &(String, Build)| {
            format!("{name}: {}{}\n", id.short(), if *built { "" } else { " (was there already)" })
        };
        builds.iter().map(line).collect()
    };
    output.result(text, || {
        let each =
            builds.iter().map(|(name, Build { id, built })| json!({"name": name, "id": id, "built": built}));
        json!({"images": each.collect::<Vec<_>>()})
    })
}

/// Builds the images of these recipes, those that are not there.
pub(super) fn build(
    config: &Config,
    recipes: &Path,
    names: &[String],
    force: bool,
    progress: &Progress,
) -> Result<Vec<(String, Build)>, Failure> {
    let cancel = Cancel::new();
    let cancelled = cancel.clone();
    signals::on_first(move || cancelled.cancel())?;
    let store = super::image::open(config)?;
    progress.step("opening the hypervisor");
    let opened = hypervisor::open(config, BUILD_ROOT)
        .map_err(|error| Failure::failed(error, "'cloudlet doctor' says what this machine lacks"))?;
    let hypervisor = opened.hypervisor.of(Owner::Build);
    // Only a build that was killed can have left guests: this process holds the lock on them.
    for left in hypervisor.list()? {
        hypervisor.stop(left.vm)?;
    }
    let builder = Builder {
        store: &store,
        hypervisor: &hypervisor,
        recipes: recipes.to_owned(),
        force,
        cancel: cancel.clone(),
    };
    let mut builds = Vec::new();
    for name in names {
        let step = &mut |text: &str| progress.step(format!("{name}: {text}"));
        let built = builder.build(name, step).with_context(|| format!("the image '{name}' was not built"));
        builds.push((name.clone(), built.map_err(|error| failure(error, &cancel))?));
    }
    Ok(builds)
}

fn failure(error: anyhow::Error, cancel: &Cancel) -> Failure {
    let next = if cancel.is_cancelled() {
        "nothing half made was left; start the build again when you want it"
    } else {
        "nothing was published; 'cloudlet doctor' says what this machine lacks, and -v shows more of what was done"
    };
    Failure::failed(error, next)
}
