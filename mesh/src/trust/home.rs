//! Where a device keeps its key, its certificates and what it heard of revocations.

use std::path::{Path, PathBuf};

use super::bundle::{self, Bundle};
use super::device::Device;
use super::error::Error;
use super::files::{self, Readers};
use super::identity::Identity;
use super::live::Trust;
use super::revocation;

const KEY: &str = "device.key";
const BUNDLE: &str = "bundle.json";
const REVOKED: &str = "revoked";

/// A directory, mode 0700, with `device.key` (PKCS #8 in PEM), `bundle.json` (a [`Bundle`]), both 0600, and `revoked` (in
/// the encoding of [`revocation`]).
#[derive(Debug, Clone)]
pub struct Home {
    directory: PathBuf,
}

impl Home {
    /// In this directory, which need not be there yet.
    pub fn at(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into() }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.directory
    }

    /// The device's key, made if there is none.
    pub fn device(&self) -> Result<Device, Error> {
        files::private_directory(&self.directory)?;
        Device::load_or_create(&self.directory.join(KEY))
    }

    /// Joins the mission of this bundle, if it is for this device. The device leaves the mission that it was in.
    pub fn join(&self, bundle: &Bundle) -> Result<Trust, Error> {
        let mission = bundle.mission()?;
        let identity = Identity::new(self.device()?, bundle, &mission)?;
        // First what is revoked: an old list of another mission says nothing in this one.
        files::write(&self.directory.join(REVOKED), &mission.revoked().encode(), Readers::Everybody)?;
        files::write(&self.directory.join(BUNDLE), bundle.to_json()?.as_bytes(), Readers::Owner)?;
        Ok(Trust::new(identity, mission))
    }

    /// The member that this device is; `None` if it never joined a mission.
    pub fn load(&self) -> Result<Option<Trust>, Error> {
        let path = self.directory.join(BUNDLE);
        let Some(json) = files::read(&path, bundle::MAX_BYTES as u64, Readers::Owner)? else {
            return Ok(None);
        };
        let bundle = Bundle::from_json(&json)?;
        let Some(device) = Device::load(&self.directory.join(KEY))? else {
            return Err(Error::bad("the bundle", format!("{} has it, but no key", self.directory.display())));
        };
        let mut mission = bundle.mission()?;
        let identity = Identity::new(device, &bundle, &mission)?;
        let revoked = self.directory.join(REVOKED);
        let most = revocation::MAX_ENCODED_BYTES as u64;
        if let Some(encoded) = files::read(&revoked, most, Readers::Everybody)? {
            mission.learn(&encoded).map_err(|error| Error::bad("the list of revocations", error))?;
        }
        Ok(Some(Trust::new(identity, mission)))
    }

    /// Keeps what is known to be revoked now.
    pub fn keep_revocations(&self, trust: &Trust) -> Result<(), Error> {
        let encoded = trust.with(|mission| mission.revoked().encode());
        files::write(&self.directory.join(REVOKED), &encoded, Readers::Everybody)
    }
}
