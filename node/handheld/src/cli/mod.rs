//! The command line.

use handheld::{Client, Options, Reachable, Search, discover, reach};
use mesh::dnssd::Interfaces;

use args::{Arguments, Command, Global};

pub mod args;
pub mod list;
pub mod output;
pub mod run;

/// Does what was asked for.
pub async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let global = &arguments.global;
    match arguments.command {
        Command::Discover { whole } => list::discover(global, whole).await,
        Command::Services => list::services(global).await,
        Command::Select { service, explain } => list::select(global, service, explain).await,
        Command::Run { service } => run::run(global, service).await,
        Command::Start { service, start } => run::start(global, service, &start).await,
        Command::Stop { instance, token, force: _ } => run::stop(global, instance, token).await,
        Command::Completions { shell } => output::completions(shell),
    }
}

/// How to look for cloudlets.
fn search(global: &Global) -> Search {
    Search { interfaces: Interfaces::from_names(&global.interface), ..Search::default() }
}

/// The named cloudlet, or those on the link.
async fn cloudlets(global: &Global, search: &Search) -> Result<Vec<Reachable>, handheld::Error> {
    match &global.cloudlet {
        Some(url) => Ok(vec![reach(Client::new(url)?).await?]),
        None => discover(search).await,
    }
}

/// Options for a session.
fn options(global: &Global, service: vm_images::ServiceId, start: &args::StartOptions) -> Options {
    let mut options = Options::new(service);
    options.cloudlet = global.cloudlet.clone();
    options.search = search(global);
    options.ready_limit = start.ready_within;
    if start.private {
        options.sharing = handheld::api::Sharing::Private;
    }
    if let Some(token) = &start.token {
        options.client_token = token.clone();
    }
    options
}
