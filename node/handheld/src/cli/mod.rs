//! The command line.

use handheld::{Access, Client, Here, Memory, Options, Reachable, Search, find};
use mesh::dnssd::Interfaces;
use mesh::selection::Task;

use args::{Arguments, Command, Global};

pub mod args;
pub mod list;
pub mod output;
pub mod pair;
pub mod policy;
pub mod position;
pub mod run;
pub mod select;
pub mod serve;

/// Does what was asked for.
pub async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let global = &arguments.global;
    match arguments.command {
        Command::Pair { place, code, name } => pair::pair(global, place, code, name).await,
        Command::Mission => pair::show(global),
        Command::Position { latitude, longitude, heading, speed, forget } => {
            let words = position::Words { at: latitude.zip(longitude), motion: heading.zip(speed), forget };
            position::position(global, &words)
        }
        Command::Discover { whole } => list::discover(global, whole).await,
        Command::Services => list::services(global).await,
        Command::Select(select) => select::select(global, &select).await,
        Command::Run { service } => run::run(global, service).await,
        Command::Start { service, start } => run::start(global, service, &start).await,
        Command::Serve(serve) => serve::serve(global, serve).await,
        Command::Tunnel { instance, token, listen } => run::tunnel(global, instance, token, listen).await,
        Command::Stop { instance, token, force: _ } => run::stop(global, instance, token).await,
        Command::Completions { shell } => output::completions(shell),
    }
}

/// How to look for cloudlets.
fn search(global: &Global) -> anyhow::Result<Search> {
    let interfaces = Interfaces::from_names(&global.interface);
    Ok(Search { access: access(global)?, interfaces, ..Search::default() })
}

/// As whom to speak to cloudlets.
fn access(global: &Global) -> anyhow::Result<Access> {
    if global.insecure {
        tracing::info!("INSECURE: plain HTTP; whoever is on the network reads and changes everything");
        return Ok(Access::Insecure);
    }
    match Access::load(&pair::home(global)?)? {
        Some(access) => Ok(access),
        None => Err(pair::NotPaired.into()),
    }
}

/// The named cloudlet, or those on the link.
async fn cloudlets(global: &Global, search: &Search) -> Result<Vec<Reachable>, handheld::Error> {
    let found = find(search, global.cloudlet.as_deref(), global.via.as_deref()).await?;
    if let Some(first) = found.first() {
        hear(global, &search.access, &first.client).await;
    }
    Ok(found)
}

/// Takes in what a cloudlet knows to be revoked, so that the next contact with a captured one is refused. That this does
/// not work is no reason not to do what was asked for.
async fn hear(global: &Global, access: &Access, client: &Client) {
    let Access::Member(trust) = access else { return };
    let kept = match client.hear_revocations(trust).await {
        Ok(true) => pair::home(global).and_then(|home| Ok(home.keep_revocations(trust)?)),
        Ok(false) => Ok(()),
        Err(error) => Err(error.into()),
    };
    if let Err(error) = kept {
        tracing::info!("revocations were not heard: {error:#}");
    }
}

/// What this handheld remembers; nothing for a user without a home.
fn memory(global: &Global) -> Option<Memory> {
    pair::home(global).ok().map(|home| Memory::of(&home))
}

/// Where this handheld is, if it was told.
fn here(global: &Global, rules: &policy::Rules) -> Option<Here> {
    let place = memory(global)?.place(handheld::unix_now())?;
    Some(Here { place, range_m: rules.range_m })
}

/// Options for a session.
fn options(
    global: &Global,
    service: vm_images::ServiceId,
    start: &args::StartOptions,
    usual: Task,
) -> anyhow::Result<Options> {
    let mut options = Options::new(service);
    options.cloudlet = global.cloudlet.clone();
    options.via = global.via.clone();
    options.search = search(global)?;
    options.ready_limit = start.ready_within;
    if start.private {
        options.sharing = handheld::api::Sharing::Private;
    }
    if let Some(token) = &start.token {
        options.client_token = token.clone();
    }
    let rules = start.selection.rules()?;
    options.here = here(global, &rules);
    options.current =
        memory(global).and_then(|memory| memory.current(&options.service, handheld::unix_now()));
    options.policy = rules.policy;
    options.task = start.selection.task(usual);
    options.deadline = start.selection.deadline;
    Ok(options)
}
