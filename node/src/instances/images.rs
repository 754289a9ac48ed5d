//! Where the driver gets images from.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use migration::VmId;
use migration::hypervisor::{CloneSpec, Host, TOPOLOGY, check_compatible};
use vm_images::{Image, ImageId, Kind, Manifest, Role, Store, qcow2};

use crate::lifecycle::{Claim, Service};

/// Why an image cannot be used; the source chain says what to do.
pub type Error = Arc<dyn std::error::Error + Send + Sync>;

/// A service that there is an image of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// What the core needs to know.
    pub service: Arc<Service>,
    /// Version of the server code.
    pub version: String,
    /// One line for people.
    pub description: String,
    /// System that it runs on, as `ID-VERSION_ID` of os-release.
    pub guest_system: String,
    /// Why it cannot be started on this host, if so.
    pub unusable: Option<String>,
}

/// A store of Service VM images. Calls may block on the disk.
pub trait Images: Send + Sync {
    /// Every service of which there is an image.
    fn offers(&self) -> Result<Vec<Offer>, Error>;

    /// Systems of all images, base images included, as `ID-VERSION_ID` of os-release.
    fn guest_systems(&self) -> Result<BTreeSet<String>, Error>;

    /// The service in an image that is here, or whose fetching has begun; `None` if nothing of it is here, or if it holds
    /// no service.
    fn describe(&self, image: ImageId) -> Result<Option<Offer>, Error>;

    /// Makes sure that an image is intact and lays a writable disk over it in `directory`, which exists and is empty.
    ///
    /// On error the directory may hold rubbish that the caller removes.
    fn prepare(&self, image: ImageId, vm: VmId, directory: &Path) -> Result<CloneSpec, Error>;
}

/// The images of a store, as far as they run on this host.
pub struct StoreImages {
    store: Store,
    host: Host,
}

impl StoreImages {
    /// The images of `store`, to be run on `host`.
    pub fn new(store: Store, host: Host) -> Self {
        Self { store, host }
    }

    fn offer(&self, id: ImageId, manifest: &Manifest) -> Option<Offer> {
        let service = manifest.service.as_ref().filter(|_| manifest.kind == Kind::Service)?;
        let core = service_in(id, manifest)?;
        let incompatible = check_compatible(&manifest.hardware, &self.host, TOPOLOGY).err();
        Some(Offer {
            service: Arc::new(core),
            version: service.version.clone(),
            description: service.description.clone(),
            guest_system: system(manifest),
            unusable: incompatible
                .map(|why| format!("the image {} cannot run here: {why}", manifest.label(id))),
        })
    }
}

impl Images for StoreImages {
    /// Only images that have a name count: those that were published last under it. Of several images of one
    /// service one that runs here wins, then the newest.
    fn offers(&self) -> Result<Vec<Offer>, Error> {
        let mut best = BTreeMap::new();
        for (name, id) in self.store.names().map_err(|error| Arc::new(error) as Error)? {
            let image = match self.store.get(id) {
                Ok(image) => image,
                Err(error) => {
                    let error: &dyn std::error::Error = &error;
                    tracing::warn!(name, image = %id.short(), error, "an image cannot be read and is not offered");
                    continue;
                }
            };
            let Some(offer) = self.offer(id, &image.manifest) else { continue };
            let rank = (offer.unusable.is_none(), image.manifest.created_unix_s, id);
            let service = offer.service.id.clone();
            if best.get(&service).is_none_or(|(other, _)| *other < rank) {
                best.insert(service, (rank, offer));
            }
        }
        Ok(best.into_values().map(|(_, offer)| offer).collect())
    }

    fn guest_systems(&self) -> Result<BTreeSet<String>, Error> {
        let names = self.store.names().map_err(|error| Arc::new(error) as Error)?;
        // One that cannot be read was said to be so when services were listed.
        let images = names.into_values().filter_map(|id| self.store.get(id).ok());
        Ok(images.map(|image| system(&image.manifest)).collect())
    }

    fn describe(&self, image: ImageId) -> Result<Option<Offer>, Error> {
        if self.store.contains(image) {
            let image = self.store.get(image).map_err(|error| Arc::new(error) as Error)?;
            return Ok(self.offer(image.id, &image.manifest));
        }
        let Some((manifest, _)) = self.store.begun(image) else { return Ok(None) };
        let manifest = Manifest::parse(&manifest).map_err(|error| Arc::new(error) as Error)?;
        Ok(self.offer(image, &manifest))
    }

    fn prepare(&self, image: ImageId, vm: VmId, directory: &Path) -> Result<CloneSpec, Error> {
        let failed = |error: vm_images::store::Error| Arc::new(error) as Error;
        let image = self.store.ensure_intact(image).map_err(failed)?;
        let backing = image.path(Role::Disk).map_err(failed)?;
        let disk = directory.join("disk.qcow2");
        let virtual_bytes = qcow2::virtual_size(&backing).map_err(|error| Arc::new(error) as Error)?;
        qcow2::create_overlay(&disk, &backing, virtual_bytes).map_err(|error| Arc::new(error) as Error)?;
        Ok(CloneSpec {
            vm,
            hardware: image.manifest.hardware.clone(),
            disk,
            template: image.path(Role::MemoryTemplate).map_err(failed)?,
            device_stream: image.path(Role::DeviceStream).map_err(failed)?,
            console: directory.join("console.log"),
        })
    }
}

/// What the core needs to know of the service in an image, if there is one.
pub(crate) fn service_of(image: &Image) -> Option<Service> {
    service_in(image.id, &image.manifest)
}

fn service_in(image: ImageId, manifest: &Manifest) -> Option<Service> {
    let service = manifest.service.as_ref().filter(|_| manifest.kind == Kind::Service)?;
    Some(Service {
        id: service.id.clone(),
        image,
        guest_port: service.port,
        health_path: service.health_path.clone(),
        needs: Claim { memory_bytes: service.needs_memory_bytes, cpu_millis: service.needs_cpu_millis },
        max_users: service.max_users,
    })
}

fn system(manifest: &Manifest) -> String {
    format!("{}-{}", manifest.guest_os.id, manifest.guest_os.version)
}
