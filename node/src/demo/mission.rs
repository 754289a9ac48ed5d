//! The demo's mission: an authority that is forgotten at once, and one cloudlet that may enroll handhelds.

use std::path::Path;

use mesh::trust::{Authority, Error, Grant, Permissions, Request, Role, Window, files};

use crate::daemon::state_dir;
use crate::instances::clock::unix;

/// How long it takes, seconds. Longer than any demo, short enough that what is left behind is soon worth nothing.
const LENGTH_S: u64 = 3600;

/// Makes the cloudlet of this state directory the only one of a new mission.
pub(super) fn found(state_dir: &Path) -> Result<(), Error> {
    files::private_directory(state_dir)?;
    let node = state_dir::node_id(state_dir)
        .map_err(|error| Error::Bad { what: "the node's id", reason: error.to_string() })?;
    let begin = unix().as_secs();
    let window = Window { not_before_unix_s: begin, not_after_unix_s: begin + LENGTH_S };
    let authority = Authority::create("demo", window)?;
    let home = state_dir::trust_home(state_dir);
    let request = home.device()?.request(Role::Cloudlet(node), "demo")?;
    let may_enroll = Some(Permissions::USE_SERVICES);
    let grant = Grant { permissions: Permissions::NONE, may_enroll, not_after_unix_s: None };
    home.join(&authority.enroll(&Request::from_der(&request)?, grant)?)?;
    Ok(())
}
