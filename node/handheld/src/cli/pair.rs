//! `pair`, `mission`: getting into a mission, and what one is there.

use std::net::SocketAddr;

use anyhow::{Context as _, bail};
use handheld::{Access, Where, pair as pair_at};
use mesh::dnssd::Interfaces;
use mesh::trust::pairing::Code;
use mesh::trust::{Home, Trust};
use serde::Serialize;

use super::args::Global;
use super::output::{self, Spinner};

/// Port at which cloudlets show codes unless configured otherwise.
const PAIRING_PORT: u16 = 8478;

/// This handheld belongs to no mission.
#[derive(Debug, thiserror::Error)]
#[error("this handheld belongs to no mission")]
pub struct NotPaired;

impl NotPaired {
    /// What the user can do.
    pub fn next_step() -> String {
        "have a cloudlet show a code ('cloudlet mission pair') and enter it: handheld pair --code CODE; cloudlets without \
         a mission are used with --insecure, for development only"
            .to_owned()
    }
}

/// Where this handheld keeps its key and certificates.
pub fn home(global: &Global) -> anyhow::Result<Home> {
    match &global.state_dir {
        Some(directory) => Ok(Home::at(directory)),
        None => {
            Access::default_home().context("this user has no home directory; name one with --state-dir DIR")
        }
    }
}

#[derive(Serialize)]
struct Shown {
    mission: String,
    mission_name: String,
    mission_ends_unix_s: u64,
    name: String,
    permissions: String,
    serial: String,
    expires_unix_s: u64,
    revocations: usize,
}

impl Shown {
    fn of(trust: &Trust) -> Self {
        let member = trust.identity().member();
        trust.with(|mission| Self {
            mission: mission.id().to_string(),
            mission_name: mission.name().to_owned(),
            mission_ends_unix_s: mission.window().not_after_unix_s,
            name: member.name.clone(),
            permissions: member.permissions.to_string(),
            serial: member.serial.to_string(),
            expires_unix_s: member.expires_unix_s,
            revocations: mission.revoked().len(),
        })
    }

    fn print(&self, json: bool) -> anyhow::Result<()> {
        if json {
            return output::json(self);
        }
        let Self { mission, mission_name, name, permissions, serial, revocations, .. } = self;
        let (mission_name, name) = (output::printable(mission_name), output::printable(name));
        output::print(&format!(
            "mission:      {mission_name} ({mission})\nhandheld:     {name}\nmay:          {permissions}\n\
             certificate:  {serial}\nrevocations:  {revocations}\n"
        ))
    }
}

/// Pairs.
pub async fn pair(
    global: &Global,
    place: Option<String>,
    code: Option<Code>,
    name: Option<String>,
) -> anyhow::Result<()> {
    let home = home(global)?;
    let spinner = Spinner::default();
    let place = match (place, code) {
        (Some(text), None) => {
            Where::Invited(text.parse().context("give the code on the cloudlet's screen: --code CODE")?)
        }
        (Some(text), Some(code)) => Where::Typed { at: resolve(&text).await?, code },
        (None, Some(code)) => {
            spinner.step("looking for a cloudlet");
            Where::Typed { at: on_the_link(global).await?, code }
        }
        (None, None) => {
            bail!("give the code on the cloudlet's screen (--code CODE), or what its QR code says")
        }
    };
    let name = match name {
        Some(name) => name,
        None => host_name(),
    };
    spinner.step("pairing");
    let paired = pair_at(&home, &place, &name).await?;
    spinner.clear();
    Shown::of(&paired.trust).print(global.json)
}

/// Shows what this handheld is.
pub fn show(global: &Global) -> anyhow::Result<()> {
    match home(global)?.load()? {
        Some(trust) => Shown::of(&trust).print(global.json),
        None => Err(NotPaired.into()),
    }
}

async fn resolve(text: &str) -> anyhow::Result<SocketAddr> {
    let named = if text.contains(':') { text.to_owned() } else { format!("{text}:{PAIRING_PORT}") };
    let mut found =
        tokio::net::lookup_host(&named).await.with_context(|| format!("'{text}' is no HOST:PORT"))?;
    found.next().with_context(|| format!("'{text}' has no address"))
}

/// The one cloudlet that publishes itself on the link. Of several, a person must say which shows the code.
async fn on_the_link(global: &Global) -> anyhow::Result<SocketAddr> {
    let found = handheld::published(&Interfaces::from_names(&global.interface)).await?;
    match &*found {
        [one] => match one.addresses.first() {
            Some(address) => {
                let mut address = *address;
                address.set_port(PAIRING_PORT);
                Ok(address)
            }
            None => bail!("the cloudlet '{}' publishes no address", output::printable(&one.name)),
        },
        [] => bail!(
            "no cloudlet publishes itself here; give the address that it shows: handheld pair HOST:PORT --code CODE"
        ),
        many => {
            let names: Vec<String> = many.iter().map(|one| output::printable(&one.name)).collect();
            bail!(
                "there are several cloudlets here ({}); give the address of the one that shows the code",
                names.join(", ")
            )
        }
    }
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name: String = name.trim().chars().filter(|c| !c.is_control()).collect();
    let name = &name[..name.floor_char_boundary(mesh::trust::MAX_NAME_BYTES)];
    if name.is_empty() { "handheld".to_owned() } else { name.to_owned() }
}
