//! `cloudlet mission`: missions, members, revocations, pairing.

use std::path::Path;

use anyhow::Context as _;
use handheld::Client;
use handheld::api::{Heard, Revocations, ShowCode};
use mesh::NodeId;
use mesh::trust::files::{self, Readers};
use mesh::trust::pairing::{Code, Invitation};
use mesh::trust::{
    Bundle, CLOCK_TOLERANCE_S, Enroller, Grant, Permissions, Reason, Request, Role, Rules, Statement, Trust,
    Window, bundle, revocation,
};
use serde_json::json;

use super::args::{Global, Mission, RoleName};
use super::output::{Failure, Output, table, utc};
use super::vm;
use crate::config::Config;
use crate::daemon::StateDir;
use crate::daemon::state_dir;
use crate::instances::clock::unix;
use crate::trust::ledger::Ledger;

/// Longest request file that is read, bytes: PEM of the longest request.
const MAX_REQUEST_FILE_BYTES: u64 = 8192;
/// Bytes of revocations that are told to the daemon at a time; in hexadecimal they fit a request.
const TOLD_BYTES: usize = 24 * 1024;

pub(super) fn run(action: Mission, global: &Global, output: Output) -> Result<(), Failure> {
    let config = || -> Result<Config, Failure> { Ok(super::load(global, Vec::new())?.config) };
    match action {
        Mission::New { dir, name, hours, no_multicast, trust_images } => {
            let rules = Rules { quiet: no_multicast, image_signers: trust_images.into_iter().collect() };
            new(&dir, &name, hours, rules, output)
        }
        Mission::Request { out } => request(&config()?, out.as_deref(), output),
        Mission::Enroll { request, authority, out, allow, may_enroll, role, hours, replace } => {
            let not_after_unix_s = hours.map(|hours| now().saturating_add(hours.saturating_mul(3600)));
            let grant = Grant { permissions: allow, may_enroll, not_after_unix_s };
            enroll(
                &Enrolling { request: &request, authority: &authority, out: &out, grant, role, replace },
                output,
            )
        }
        Mission::Join { bundle } => join(&config()?, &bundle, output),
        Mission::Show { authority: Some(dir) } => show_authority(&dir, output),
        Mission::Show { authority: None } => show(&config()?, output),
        Mission::Revoke { what, authority, unused, out } => {
            let reason = if unused { Reason::CessationOfOperation } else { Reason::KeyCompromise };
            revoke(config, &what, authority.as_deref(), reason, out.as_deref(), output)
        }
        Mission::Accept { revocations } => {
            let encoded = read(&revocations, revocation::MAX_ENCODED_BYTES as u64)?;
            let heard = spread(&config()?, &encoded)?;
            output.result(|| text_of(heard), || json!(heard))
        }
        Mission::Pair { allow, svg } => pair(&config()?, allow, svg.as_deref(), output),
    }
}

fn now() -> u64 {
    unix().as_secs()
}

fn read(path: &Path, most: u64) -> Result<Vec<u8>, Failure> {
    let missing =
        || Failure::usage(anyhow::anyhow!("there is no file {}", path.display()), "name the right file");
    files::read(path, most, Readers::Everybody)?.ok_or_else(missing)
}

fn new(dir: &Path, name: &str, hours: u64, rules: Rules, output: Output) -> Result<(), Failure> {
    let begin = now();
    let window = Window { not_before_unix_s: begin, not_after_unix_s: begin + hours * 3600 };
    let ledger = Ledger::create(dir, name, window, rules)?;
    let mission = ledger.authority().mission();
    output.result(
        || {
            format!(
                "mission '{}' ({}) until {} UTC\n{}its authority is in {}: whoever has that directory decides who belongs to the mission\n",
                mission.name(),
                mission.id(),
                utc(window.not_after_unix_s),
                rules_text(mission.rules()).into_iter().map(|(head, text)| format!("{head}: {text}\n")).collect::<String>(),
                dir.display()
            )
        },
        || {
            json!({"mission": mission.id().to_string(), "name": mission.name(), "authority": dir,
                "rules": rules_json(mission.rules()), "not_before_unix_s": window.not_before_unix_s, "not_after_unix_s": window.not_after_unix_s})
        },
    )
}

/// What the mission's rules say, for people; nothing if there are none.
fn rules_text(rules: &Rules) -> Vec<(&'static str, String)> {
    let quiet = rules.quiet.then(|| ("quiet", "yes: nobody sends multicast".to_owned()));
    let keys: Vec<String> = rules.image_signers.iter().map(ToString::to_string).collect();
    let images = (!keys.is_empty()).then(|| ("images by", keys.join(", ")));
    quiet.into_iter().chain(images).collect()
}

fn rules_json(rules: &Rules) -> serde_json::Value {
    let keys: Vec<String> = rules.image_signers.iter().map(ToString::to_string).collect();
    json!({"quiet": rules.quiet, "image_signers": keys})
}

/// This node's id, made if there is none.
fn node_id(config: &Config) -> Result<NodeId, Failure> {
    let dir = &config.node.state_dir;
    files::private_directory(dir)?;
    Ok(state_dir::node_id(dir)?)
}

fn request(config: &Config, out: Option<&Path>, output: Output) -> Result<(), Failure> {
    let node = node_id(config)?;
    let device = config.trust_home().device()?;
    let pem = device.request_pem(Role::Cloudlet(node), &config.node.name)?;
    if let Some(out) = out {
        files::write(out, pem.as_bytes(), Readers::Everybody)?;
    }
    output.result(
        || match out {
            Some(out) => format!("have the authority sign it: cloudlet mission enroll {} …\n", out.display()),
            None => pem.clone(),
        },
        || json!({"node_id": node.to_string(), "request": pem, "public_key": hex::encode(device.public_key())}),
    )
}

struct Enrolling<'a> {
    request: &'a Path,
    authority: &'a Path,
    out: &'a Path,
    grant: Grant,
    role: Option<RoleName>,
    replace: bool,
}

fn enroll(asked: &Enrolling<'_>, output: Output) -> Result<(), Failure> {
    let request = Request::from_bytes(&read(asked.request, MAX_REQUEST_FILE_BYTES)?)?;
    let role = match request.role {
        Role::Cloudlet(_) => RoleName::Cloudlet,
        Role::Handheld => RoleName::Handheld,
    };
    if asked.role.is_some_and(|wanted| wanted != role) {
        let error = anyhow::anyhow!("the request is not of that kind, it is of a {role:?}")
            .context("nothing was signed");
        return Err(Failure::usage(error, "take the right request, or another --role"));
    }
    let mut ledger = Ledger::open(asked.authority)?;
    let (bundle, issued) = ledger.enroll(&request, asked.grant, asked.replace, now())?;
    files::write(asked.out, bundle.to_json()?.as_bytes(), Readers::Owner)?;
    output.result(
        || {
            format!(
                "{} '{}' may {}; certificate {} until {} UTC\nbring {} to it, where it is secret: cloudlet mission join\n",
                issued.role,
                issued.name,
                issued.permissions,
                issued.serial,
                utc(issued.expires_unix_s),
                asked.out.display()
            )
        },
        || json!({"issued": issued, "bundle": asked.out}),
    )
}

fn join(config: &Config, path: &Path, output: Output) -> Result<(), Failure> {
    let node = node_id(config)?;
    // A running daemon would go on with what it has.
    let _lock = StateDir::lock(&config.node.state_dir)?;
    let json = files::read(path, bundle::MAX_BYTES as u64, Readers::Everybody)?;
    let bundle = Bundle::from_json(&json.with_context(|| format!("there is no file {}", path.display()))?)?;
    let home = config.trust_home();
    // Looked at before anything is replaced.
    let certified = mesh::trust::Identity::new(home.device()?, &bundle, &bundle.mission()?)?.member().node();
    if certified != Some(node) {
        let error = anyhow::anyhow!("the bundle was made for another node than {node}");
        return Err(Failure::failed(error, "have a request of this node signed: cloudlet mission request"));
    }
    print(&home.join(&bundle)?, output)
}

fn show(config: &Config, output: Output) -> Result<(), Failure> {
    match config.trust_home().load()? {
        Some(trust) => print(&trust, output),
        None => Err(Failure::failed(
            anyhow::anyhow!("this cloudlet belongs to no mission"),
            "make a request (cloudlet mission request), have it signed, and join",
        )),
    }
}

fn print(trust: &Trust, output: Output) -> Result<(), Failure> {
    let identity = trust.identity();
    let (member, time) = (identity.member(), now());
    let grants = Enroller::new(identity).map(|enroller| enroller.grants()).transpose()?;
    let standing = match trust.still(member, time) {
        Ok(()) if member.expires_unix_s < time => {
            format!("expired; it counts for {CLOCK_TOLERANCE_S} s more")
        }
        Ok(()) => "member".to_owned(),
        Err(refusal) => refusal.to_string(),
    };
    trust.with(|mission| {
        let ends = mission.window().not_after_unix_s;
        let text = || {
            let lines = [
                ("mission", format!("{} ({})", mission.name(), mission.id())),
                ("ends", format!("{} UTC", utc(ends))),
                ("node", member.node().map(|node| node.to_string()).unwrap_or_default()),
                ("standing", standing.clone()),
                ("may", member.permissions.to_string()),
                ("may grant", grants.map_or_else(|| "nothing".to_owned(), |grants| grants.to_string())),
                ("certificate", format!("{} until {} UTC", member.serial, utc(member.expires_unix_s))),
                ("revoked", format!("{} certificates", mission.revoked().len())),
            ];
            let lines = lines.into_iter().chain(rules_text(mission.rules()));
            lines.map(|(head, text)| format!("{:<13}{text}\n", format!("{head}:"))).collect()
        };
        output.result(text, || {
            json!({"mission": mission.id().to_string(), "name": mission.name(), "ends_unix_s": ends,
                "node_id": member.node().map(|node| node.to_string()), "standing": standing,
                "permissions": member.permissions, "may_grant": grants, "serial": member.serial.to_string(),
                "expires_unix_s": member.expires_unix_s, "rules": rules_json(mission.rules()),
                "revoked": mission.revoked().serials().map(|(serial, _)| serial.to_string()).collect::<Vec<_>>()})
        })
    })
}

fn show_authority(dir: &Path, output: Output) -> Result<(), Failure> {
    let ledger = Ledger::open(dir)?;
    let mission = ledger.authority().mission();
    let row = |one: &crate::trust::ledger::Issued| {
        let standing = if ledger.is_revoked(one) { "revoked" } else { "" };
        let until = utc(one.expires_unix_s);
        vec![
            one.serial.clone(),
            one.role.clone(),
            one.name.clone(),
            one.permissions.to_string(),
            until,
            standing.to_owned(),
        ]
    };
    output.result(
        || {
            let rows: Vec<_> = ledger.issued().iter().map(row).collect();
            let heads = ["CERTIFICATE", "ROLE", "NAME", "MAY", "UNTIL (UTC)", ""];
            format!("mission '{}' ({})\n{}", mission.name(), mission.id(), table(&heads, &rows))
        },
        || {
            let revoked = mission.revoked().serials().map(|(serial, _)| serial.to_string());
            json!({"mission": mission.id().to_string(), "name": mission.name(), "issued": ledger.issued(),
                "revoked": revoked.collect::<Vec<_>>()})
        },
    )
}

fn revoke(
    config: impl Fn() -> Result<Config, Failure>,
    what: &str,
    authority: Option<&Path>,
    reason: Reason,
    out: Option<&Path>,
    output: Output,
) -> Result<(), Failure> {
    let (serials, encoded) = match authority {
        Some(dir) => {
            let mut ledger = Ledger::open(dir)?;
            let serials = ledger.revoke(what, reason, now())?;
            (serials, ledger.authority().mission().revoked().encode())
        }
        None => {
            let config = config()?;
            let trust = config.trust_home().load()?.context("this cloudlet belongs to no mission")?;
            let serial = what.parse()?;
            let enroller = Enroller::new(trust.identity()).ok_or(crate::trust::Error::MayNotEnroll)?;
            let statement: Statement =
                trust.with(|mission| enroller.revoke(mission, serial, reason, now()))?;
            let encoded = revocation::encode([&statement]);
            spread(&config, &encoded)?;
            (vec![serial], encoded)
        }
    };
    if let Some(out) = out {
        files::write(out, &encoded, Readers::Everybody)?;
    }
    output.result(
        || {
            let lines = serials.iter().map(|serial| format!("revoked {serial}\n"));
            let next = match (authority, out) {
                (Some(_), Some(out)) => format!(
                    "bring it to any cloudlet of the mission: cloudlet mission accept {}\n",
                    out.display()
                ),
                (Some(_), None) => {
                    "write it to a file with --out, and bring that to any cloudlet of the mission\n"
                        .to_owned()
                }
                (None, _) => String::new(),
            };
            lines.chain([next]).collect()
        },
        || json!({"revoked": serials.iter().map(ToString::to_string).collect::<Vec<_>>(), "out": out}),
    )
}

/// Tells the running daemon, which keeps and spreads them; where none runs, keeps them for the next one.
fn spread(config: &Config, encoded: &[u8]) -> Result<Heard, Failure> {
    let home = config.trust_home();
    match StateDir::lock(&config.node.state_dir) {
        Ok(_lock) => {
            let trust = home.load()?.context("this cloudlet belongs to no mission")?;
            let learned = trust.learn(encoded)?;
            home.keep_revocations(&trust)?;
            Ok(Heard { new: learned.new, known: learned.known, refused: learned.refused })
        }
        Err(_) => {
            let client = vm::client(config, None)?;
            vm::block_on(tell(&client, encoded))?
        }
    }
}

async fn tell(client: &Client, encoded: &[u8]) -> Result<Heard, Failure> {
    let mut all = Heard { new: 0, known: 0, refused: 0 };
    let mut piece: Vec<Statement> = Vec::new();
    let mut statements = revocation::decode(encoded)?.into_iter().peekable();
    while let Some(statement) = statements.next() {
        piece.push(statement);
        if statements.peek().is_none() || revocation::encode(&piece).len() > TOLD_BYTES {
            let told = Revocations { encoded: hex::encode(revocation::encode(&piece)) };
            let heard = client.revoke(&told).await.map_err(vm::failure)?;
            all = Heard {
                new: all.new + heard.new,
                known: all.known + heard.known,
                refused: all.refused + heard.refused,
            };
            piece.clear();
        }
    }
    Ok(all)
}

fn text_of(heard: Heard) -> String {
    let Heard { new, known, refused } = heard;
    format!("{new} new revocations, {known} known, {refused} refused because nobody signed them who may\n")
}

fn pair(
    config: &Config,
    allow: Option<Permissions>,
    svg: Option<&Path>,
    output: Output,
) -> Result<(), Failure> {
    let client = vm::client(config, None)?;
    let ask = ShowCode { allow: allow.map(|allow| allow.to_string()) };
    let shown = vm::block_on(client.show_code(&ask))?.map_err(vm::failure)?;
    let invitation: Invitation = shown.invitation.parse()?;
    if let Some(svg) = svg {
        files::write(svg, invitation.to_svg()?.as_bytes(), Readers::Owner)?;
    }
    let qr = invitation.to_unicode()?;
    let code: Code = shown.code.parse()?;
    output.result(
        || {
            let at: Vec<String> = shown.addresses.iter().map(ToString::to_string).collect();
            format!(
                "{qr}\ncode:     {code}\naddress:  {}\nmay:      {}\n\non the handheld, within {} minutes: handheld pair {} --code {}\n",
                at.join(", "),
                shown.allow,
                shown.seconds / 60,
                at.first().map_or("HOST:PORT", String::as_str),
                code.digits()
            )
        },
        || json!(shown),
    )
}
