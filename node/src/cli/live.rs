//! Which images running instances are copies of. Removing one would pull the disk from under its VMs.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context as _, bail};
use handheld::api::{Cloudlet, Instance};
use vm_images::ImageId;

use super::output::Failure;
use super::vm;
use crate::config::Config;
use crate::daemon::{StateDir, state_dir};
use crate::instances::Journal;
use crate::lifecycle::{Reading, SavedPhase};

/// Images that instances need. While this is held, no daemon starts that was not asked for them.
pub(super) struct Live {
    /// Their ids.
    pub images: BTreeSet<ImageId>,
    _no_daemon: Option<StateDir>,
}

/// Asks the daemon that uses the state directory; where none does, the records that the last one left.
pub(super) fn images(config: &Config) -> Result<Live, Failure> {
    let dir = &config.node.state_dir;
    if !dir.exists() {
        return Ok(Live { images: BTreeSet::new(), _no_daemon: None });
    }
    match StateDir::lock(dir) {
        Ok(lock) => Ok(Live { images: recorded(lock.path())?, _no_daemon: Some(lock) }),
        // A daemon holds it, which must then be asked; if it is held back by something else, nobody answers.
        Err(held) => match asked(config) {
            Ok(images) => Ok(Live { images, _no_daemon: None }),
            Err(error) => {
                tracing::info!("the cloudlet cannot be asked which images it runs: {error:#}");
                let context = "cannot find out which images are in use";
                let next = "if it listens elsewhere, say where: --set api.listen=ADDRESS:PORT";
                Err(Failure::failed(anyhow::Error::new(held).context(context), next))
            }
        },
    }
}

fn recorded(state_dir: &Path) -> Result<BTreeSet<ImageId>, Failure> {
    let path = state_dir::records(state_dir);
    if !path.exists() {
        return Ok(BTreeSet::new());
    }
    let readings = Journal::open(&path)?.read()?.into_values();
    Ok(readings
        .filter_map(|reading| match reading {
            Reading::Good(saved) if !matches!(saved.phase, SavedPhase::Ended(_)) => Some(saved.service.image),
            // The next daemon stops a VM whose record cannot be read.
            Reading::Good(_) | Reading::Unreadable => None,
        })
        .collect())
}

fn asked(config: &Config) -> anyhow::Result<BTreeSet<ImageId>> {
    let address = config.local_api().context("api.listen has port 0, so the cloudlet's port is not known")?;
    let access = if config.trust.insecure {
        handheld::Access::Insecure
    } else {
        handheld::Access::load(&config.trust_home())?.context("this cloudlet belongs to no mission")?
    };
    let client = handheld::Client::reaching(&access, address)?;
    let answers: Result<(Cloudlet, Vec<Instance>), handheld::Error> =
        vm::block_on(async { Ok((client.cloudlet().await?, client.instances().await?)) })?;
    let (cloudlet, instances) = answers?;
    let own = std::fs::read_to_string(state_dir::node_id_file(&config.node.state_dir))?;
    if own.trim() != cloudlet.node_id {
        bail!("another cloudlet ('{}') answers at {}", cloudlet.name, client.url());
    }
    let running = instances.iter().filter(|instance| !instance.state.is_final());
    Ok(running.map(|instance| instance.image.parse()).collect::<Result<_, _>>()?)
}
