//! `cloudlet image`: what the image store holds.

use std::collections::BTreeSet;
use std::os::unix::fs::DirBuilderExt as _;

use anyhow::Context as _;
use serde_json::{Value as Json, json};
use vm_images::store::Listing;
use vm_images::{Image, ImageId, PublicKey, SigningKey, Store};

use super::args::{Global, Image as Action};
use super::output::{Failure, Output, bytes, table, utc};
use super::{build, fetch, live};
use crate::causes::chain;
use crate::config::Config;
use crate::instances::clock::unix;

pub(super) fn run(action: Action, global: &Global, output: Output) -> Result<(), Failure> {
    let config = super::load(global, Vec::new())?.config;
    match action {
        Action::Build { recipe, recipes, force } => {
            build::run(&config, &recipe, recipes.as_deref(), force, output)
        }
        Action::Fetch { image, from, api } => fetch::run(&config, fetch::Wanted { image, from, api }, output),
        Action::List => list(&open(&config)?, output),
        Action::Show { image } => show(&open(&config)?, &image, output),
        Action::Verify { image, all: _ } => verify(&open(&config)?, image.as_deref(), output),
        Action::Gc { dry_run } => gc(&config, dry_run, output),
        Action::Pin { image } => {
            let store = open(&config)?;
            let image = store.resolve(&image)?;
            store.pin(image.id)?;
            output.result(
                || format!("{} is pinned", image.label()),
                || json!({"image": image.id, "pinned": true}),
            )
        }
        Action::Unpin { image } => {
            let store = open(&config)?;
            let image = store.resolve(&image)?;
            let was = store.unpin(image.id)?;
            output.result(
                || {
                    format!(
                        "{} {}",
                        image.label(),
                        if was { "is no longer pinned" } else { "was not pinned" }
                    )
                },
                || json!({"image": image.id, "pinned": false, "was_pinned": was}),
            )
        }
        Action::Trust { key, remove } => {
            trust(&open(&config)?, &signers_of_mission(&config)?, key, remove, output)
        }
        Action::Rm { image } => remove(&config, &image, output),
    }
}

/// Opens the store that the configuration names.
pub(super) fn open(config: &Config) -> Result<Store, Failure> {
    // Keys will be in it, so it is closed to others from the start, whoever makes it.
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&config.node.state_dir)
        .with_context(|| format!("cannot make the state directory {}", config.node.state_dir.display()))?;
    let key = SigningKey::load_or_create(&config.image_key())?;
    let store = Store::open(&config.image_store(), key)?;
    store.lend_trust(signers_of_mission(config)?);
    Ok(store)
}

/// The keys whose images this cloudlet's mission trusts, for as long as it is in it.
fn signers_of_mission(config: &Config) -> Result<BTreeSet<PublicKey>, Failure> {
    if config.trust.insecure {
        return Ok(BTreeSet::new());
    }
    let trust = config.trust_home().load()?;
    let trust = trust.filter(|trust| trust.still(trust.identity().member(), unix().as_secs()).is_ok());
    Ok(trust.map(|trust| trust.with(|mission| mission.rules().image_signers.clone())).unwrap_or_default())
}

/// Changes whose images are used, and says whose are.
fn trust(
    store: &Store,
    by_mission: &BTreeSet<PublicKey>,
    key: Option<PublicKey>,
    remove: bool,
    output: Output,
) -> Result<(), Failure> {
    match key {
        Some(key) if remove && key == store.own_key() => {
            let error =
                anyhow::anyhow!("{key} is this node's own key; images that it builds are always used");
            return Err(Failure::failed(error, "remove single images with 'cloudlet image rm'"));
        }
        Some(key) if remove && by_mission.contains(&key) => {
            let error =
                anyhow::anyhow!("{key} is trusted by the mission, for as long as this cloudlet is in it");
            return Err(Failure::failed(error, "remove single images with 'cloudlet image rm'"));
        }
        Some(key) if remove => drop(store.distrust(key)?),
        Some(key) => store.trust(key)?,
        None => {}
    }
    let own = store.own_key();
    let keys: Vec<_> = store.trusted()?.iter().copied().collect();
    let line = |key: &PublicKey| {
        let whose = match *key == own {
            true => "  (this node)",
            false if by_mission.contains(key) => "  (the mission)",
            false => "",
        };
        format!("{key}{whose}\n")
    };
    let text = |keys: &mut dyn Iterator<Item = &PublicKey>| keys.map(ToString::to_string).collect::<Vec<_>>();
    output.result(
        || keys.iter().map(line).collect(),
        || json!({"own": own.to_string(), "trusted": text(&mut keys.iter()), "mission": text(&mut by_mission.iter())}),
    )
}

fn list(store: &Store, output: Output) -> Result<(), Failure> {
    let Listing { images, broken } = store.list()?;
    let known = Known::of(store)?;
    let text = || {
        let rows: Vec<Vec<String>> = images.iter().map(|image| known.row(image)).collect();
        let mut text = if rows.is_empty() && broken.is_empty() {
            format!("no images in {}; make them with 'cloudlet image build all'\n", store.root().display())
        } else {
            table(&["NAME", "ID", "SERVICE", "ON DISK", "BUILT (UTC)", "KEPT BY"], &rows)
        };
        for one in &broken {
            text += &format!("{}  cannot be read: {}\n", one.id.short(), one.error);
        }
        text
    };
    output.result(text, || {
        json!({
            "store": store.root(),
            "images": images.iter().map(|image| known.json(image)).collect::<Vec<_>>(),
            "broken": broken
                .iter()
                .map(|one| json!({"id": one.id, "error": one.error.to_string()}))
                .collect::<Vec<_>>(),
        })
    })
}

/// What keeps images.
struct Known {
    named: BTreeSet<ImageId>,
    pinned: BTreeSet<ImageId>,
}

impl Known {
    fn of(store: &Store) -> Result<Self, Failure> {
        let named = store.names()?.into_values().collect();
        Ok(Self { named, pinned: store.pins()?.into_iter().collect() })
    }

    fn kept_by(&self, id: ImageId) -> Vec<&'static str> {
        let named = self.named.contains(&id).then_some("name");
        named.into_iter().chain(self.pinned.contains(&id).then_some("pin")).collect()
    }

    fn row(&self, image: &Image) -> Vec<String> {
        let manifest = &image.manifest;
        vec![
            manifest.name.clone(),
            image.id.short(),
            manifest.service.as_ref().map_or_else(|| "-".to_owned(), |service| service.id.to_string()),
            bytes(image.allocated_bytes()),
            utc(manifest.created_unix_s),
            self.kept_by(image.id).join(", "),
        ]
    }

    fn json(&self, image: &Image) -> Json {
        json!({
            "id": image.id,
            "allocated_bytes": image.allocated_bytes(),
            "named": self.named.contains(&image.id),
            "pinned": self.pinned.contains(&image.id),
            "manifest": image.manifest,
        })
    }
}

fn show(store: &Store, wanted: &str, output: Output) -> Result<(), Failure> {
    let image = store.resolve(wanted)?;
    let known = Known::of(store)?;
    // A missing parent is worth telling, and no reason to tell nothing.
    let chain = store.chain(image.id);
    let signer = signer(store, &image);
    let text = || {
        let manifest = &image.manifest;
        let hardware = &manifest.hardware;
        let mut lines = vec![
            format!("id:        {}", image.id),
            format!("name:      {} ({})", manifest.name, manifest.description),
            format!("built:     {} UTC", utc(manifest.created_unix_s)),
            format!(
                "guest:     {} {} {}",
                manifest.guest_os.id, manifest.guest_os.version, manifest.guest_os.architecture
            ),
            format!(
                "hardware:  {}, {} × {}, {}, made under {}",
                hardware.machine,
                hardware.vcpus,
                hardware.cpu_model,
                bytes(hardware.memory_bytes),
                hardware.accelerator
            ),
            format!("kept by:   {}", known.kept_by(image.id).join(", ")),
            format!("signed by: {}", signer.as_ref().map_or_else(|error| error.clone(), ToString::to_string)),
        ];
        if let Some(service) = &manifest.service {
            lines.push(format!(
                "service:   {} {} ({}), port {}, health {}, up to {} users, {} and {} thousandths of a core each",
                service.id, service.version, service.description, service.port, service.health_path,
                service.max_users, bytes(service.needs_memory_bytes), service.needs_cpu_millis
            ));
        }
        match &chain {
            Ok(chain) => {
                lines.extend(chain.iter().skip(1).map(|parent| format!("on top of: {}", parent.label())))
            }
            Err(error) => lines.push(format!("trouble:   {error}")),
        }
        lines.push(format!("directory: {}", image.dir().display()));
        let parts = manifest
            .parts
            .iter()
            .map(|part| vec![part.role.file_name().to_owned(), bytes(part.bytes), part.blake3.to_string()]);
        lines.join("\n") + "\n\n" + &table(&["PART", "LENGTH", "BLAKE3"], &parts.collect::<Vec<_>>())
    };
    output.result(text, || {
        let mut shown = known.json(&image);
        shown["directory"] = json!(image.dir());
        shown["signer"] = json!(signer.as_ref().ok());
        match &chain {
            Ok(chain) => shown["parents"] = chain.iter().skip(1).map(|parent| json!(parent.id)).collect(),
            Err(error) => shown["trouble"] = json!(error.to_string()),
        }
        shown
    })
}

/// Whose key the image is signed with; for people: why that cannot be said.
fn signer(store: &Store, image: &Image) -> Result<PublicKey, String> {
    let (_, signature) = store.signed(image.id).map_err(|error| chain(&error))?;
    let parsed = vm_images::signature::Detached::parse(&signature).map_err(|error| chain(&error))?;
    Ok(parsed.signer)
}

fn verify(store: &Store, wanted: Option<&str>, output: Output) -> Result<(), Failure> {
    let mut results: Vec<(ImageId, String, Result<(), vm_images::store::Error>)> = Vec::new();
    let progress = output.progress();
    let check = |image: &Image| {
        progress.step(format!("reading {}", image.label()));
        let told = &mut |now: vm_images::store::Progress| progress.bytes(now.done_bytes, now.total_bytes);
        store.verify_with_progress(image.id, told).map(drop)
    };
    match wanted {
        Some(wanted) => {
            let image = store.resolve(wanted)?;
            results.push((image.id, image.label(), check(&image)));
        }
        None => {
            let listing = store.list()?;
            results.extend(listing.images.iter().map(|image| (image.id, image.label(), check(image))));
            results.extend(listing.broken.into_iter().map(|one| (one.id, one.id.short(), Err(one.error))));
        }
    }
    progress.done();
    output.result(
        || {
            let line = |(_, label, result): &(_, String, Result<(), _>)| match result {
                Ok(()) => format!("{label}: intact\n"),
                Err(error) => format!("{label}: {}\n", chain(error)),
            };
            if results.is_empty() { "no images\n".to_owned() } else { results.iter().map(line).collect() }
        },
        || {
            let each = results.iter().map(|(id, label, result)| {
                json!({
                    "id": id, "label": label, "intact": result.is_ok(),
                    "error": result.as_ref().err().map(|error| chain(error)),
                })
            });
            json!({"images": each.collect::<Vec<_>>()})
        },
    )?;
    if results.iter().all(|(_, _, result)| result.is_ok()) { Ok(()) } else { Err(Failure::Found) }
}

fn gc(config: &Config, dry_run: bool, output: Output) -> Result<(), Failure> {
    let store = open(config)?;
    let live = live::images(config)?;
    if dry_run {
        let unneeded = unneeded(&store, &live.images)?;
        let total: u64 = unneeded.iter().map(Image::allocated_bytes).sum();
        return output.result(
            || {
                let lines = unneeded.iter().map(|image| format!("would remove {}\n", image.label()));
                lines.collect::<String>() + &format!("{} would become free\n", bytes(total))
            },
            || json!({"dry_run": true, "removed": unneeded.iter().map(|i| i.id).collect::<Vec<_>>(), "freed_bytes": total}),
        );
    }
    let report = store.gc(&live.images)?;
    output.result(
        || {
            let removed = report.removed.iter().map(|id| format!("removed {}\n", id.short()));
            removed.collect::<String>()
                + &report
                    .interrupted
                    .iter()
                    .map(|id| {
                        format!(
                            "kept what was fetched of {}; 'cloudlet image rm {id}' removes it\n",
                            id.short()
                        )
                    })
                    .collect::<String>()
                + &format!(
                    "{} became free, {} left-overs of killed builds removed\n",
                    bytes(report.freed_bytes),
                    report.leftovers
                )
        },
        || {
            json!({
                "dry_run": false, "removed": report.removed, "freed_bytes": report.freed_bytes,
                "leftovers": report.leftovers, "interrupted": report.interrupted,
            })
        },
    )
}

/// What [`Store::gc`] would remove. It may keep more: the parents of images that are being built.
fn unneeded(store: &Store, live: &BTreeSet<ImageId>) -> Result<Vec<Image>, Failure> {
    let Listing { images, broken } = store.list()?;
    let mut open: Vec<ImageId> = live.iter().copied().collect();
    open.extend(store.names()?.into_values());
    open.extend(store.pins()?);
    let mut needed = BTreeSet::new();
    while let Some(id) = open.pop() {
        if let Some(one) = broken.iter().find(|one| one.id == id) {
            let error = anyhow::anyhow!(
                "image {} is kept, but cannot be read, so its parents are not known: {}",
                id.short(),
                one.error
            );
            return Err(Failure::failed(error, "remove it with 'cloudlet image rm', or restore it"));
        }
        if needed.insert(id) {
            open.extend(images.iter().find(|image| image.id == id).and_then(|image| image.manifest.parent));
        }
    }
    Ok(images.into_iter().filter(|image| !needed.contains(&image.id)).collect())
}

fn remove(config: &Config, wanted: &str, output: Output) -> Result<(), Failure> {
    let store = open(config)?;
    // A damaged image cannot be resolved by name; its id is enough to remove it.
    let (id, label) = match wanted.parse::<ImageId>() {
        Ok(id) => (id, id.short()),
        Err(_) => store.resolve(wanted).map(|image| (image.id, image.label()))?,
    };
    if !store.contains(id) && store.interrupted()?.iter().any(|one| one.id == id) {
        let freed_bytes = store.discard_interrupted(id)?;
        return output.result(
            || format!("removed what was fetched of {label}"),
            || json!({"removed": id, "freed_bytes": freed_bytes}),
        );
    }
    let live = live::images(config)?;
    if live.images.contains(&id) {
        let error = anyhow::anyhow!("instances run on image {label}");
        return Err(Failure::failed(error, "stop them first: 'cloudlet vm list', 'cloudlet vm stop ID'"));
    }
    store.remove(id)?;
    output.result(|| format!("removed {label}"), || json!({"removed": id}))
}
