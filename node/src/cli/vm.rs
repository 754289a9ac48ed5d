//! `cloudlet vm`: instances, through the API of the running cloudlet.

use std::future::Future;
use std::time::Duration;

use handheld::api::{Instance, Sharing, Start, State};
use handheld::{Access, Client, Fetched};
use serde_json::json;
use uuid::Uuid;

use super::args::{Global, Vm, VmAction};
use super::output::{Failure, Output, table};
use crate::config::Config;

/// How much longer than the cloudlet's own limit for a start this side waits for its word (guess).
const GRACE: Duration = Duration::from_secs(10);

pub(super) fn run(vm: Vm, global: &Global, output: Output) -> Result<(), Failure> {
    let config = super::load(global, Vec::new())?.config;
    let client = client(&config, vm.api.as_deref())?;
    let start_limit = Duration::from_secs(config.instances.start_limit_s) + GRACE;
    block_on(async {
        match vm.action {
            VmAction::List => list(&client, output).await,
            VmAction::Start { service, private, token } => {
                let token = token.unwrap_or_else(|| format!("operator-{}", Uuid::new_v4()));
                let sharing = if private { Sharing::Private } else { Sharing::Shared };
                start(&client, Start { service, client_token: token, sharing }, start_limit, output).await
            }
            VmAction::Show { id } => {
                let instance = client.instance(id).await.map_err(failure)?;
                output.result(|| show(&instance), || json!(instance))
            }
            VmAction::Stop { id, force: _, token } => stop(&client, id, token.as_deref(), output).await,
        }
    })?
}

/// The operator speaks to cloudlets as this cloudlet does: with its own key and certificate.
pub(super) fn access(config: &Config) -> Result<Access, Failure> {
    if config.trust.insecure {
        return Ok(Access::Insecure);
    }
    match Access::load(&config.trust_home())? {
        Some(access) => Ok(access),
        None => Err(Failure::failed(
            anyhow::anyhow!("this cloudlet belongs to no mission"),
            "join one ('cloudlet mission --help'), or say --set trust.insecure=true if it runs with --insecure",
        )),
    }
}

/// A client of the cloudlet at `api`, or of the one that the configuration describes.
pub(super) fn client(config: &Config, api: Option<&str>) -> Result<Client, Failure> {
    let access = access(config)?;
    let client = match (api, config.local_api()) {
        (Some(url), _) => Client::with(&access, url),
        (None, Some(address)) => Client::reaching(&access, address),
        (None, None) => {
            return Err(Failure::usage(
                anyhow::anyhow!("api.listen has port 0, so the cloudlet's port is not known"),
                "name it with --api http://127.0.0.1:PORT; 'cloudlet up' logs it",
            ));
        }
    };
    client.map_err(|error| match error {
        error @ handheld::Error::Url(_) => Failure::usage(error, "write --api http://HOST:PORT"),
        other => failure(other),
    })
}

/// Runs a future on a small runtime.
pub(super) fn block_on<T>(future: impl Future<Output = T>) -> std::io::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(future))
}

pub(super) fn failure(error: handheld::Error) -> Failure {
    let next = match &error {
        handheld::Error::Vanished { .. } => Some(
            "start the cloudlet with 'cloudlet up', or name another with --api http://HOST:PORT".to_owned(),
        ),
        other => other.next_step(),
    };
    Failure::Error { error: error.into(), next, usage: false }
}

async fn list(client: &Client, output: Output) -> Result<(), Failure> {
    let instances = client.instances().await.map_err(failure)?;
    output.result(
        || {
            if instances.is_empty() {
                return format!("no instances at {}\n", client.url());
            }
            let rows = instances.iter().map(|instance| {
                vec![
                    instance.id.to_string(),
                    instance.service.to_string(),
                    state(instance),
                    instance.users.to_string(),
                    instance.address.map_or_else(|| "-".to_owned(), |address| address.to_string()),
                    instance.ready_after_ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms} ms")),
                ]
            });
            table(&["ID", "SERVICE", "STATE", "USERS", "ADDRESS", "READY AFTER"], &rows.collect::<Vec<_>>())
        },
        || json!({"cloudlet": client.url(), "instances": instances}),
    )
}

async fn start(client: &Client, start: Start, limit: Duration, output: Output) -> Result<(), Failure> {
    let progress = output.progress();
    progress.step(format!("starting {}", start.service));
    let asked = client.start(&start).await.map_err(failure)?;
    if asked.state == State::Fetching {
        progress.step("waiting until the cloudlet has fetched the image from another one");
    }
    let told = |fetched: Fetched| progress.bytes(fetched.here_bytes, fetched.total_bytes);
    let asked = client.wait_fetched(asked, &start.client_token, limit, &told).await.map_err(failure)?;
    let instance = match asked.state {
        State::Ready => asked,
        _ => {
            progress.step("waiting until its service answers");
            client.wait_ready(asked.id, limit).await.map_err(failure)?
        }
    };
    progress.done();
    let mut instance = instance;
    instance.address = client.service_address(&instance);
    output.result(
        || format!("{}token:       {}\n", show(&instance), start.client_token),
        || json!({"instance": instance, "client_token": start.client_token}),
    )
}

async fn stop(client: &Client, id: Uuid, token: Option<&str>, output: Output) -> Result<(), Failure> {
    let instance = match token {
        Some(token) => client.release(id, token).await,
        None => client.stop(id).await,
    };
    let instance = instance.map_err(failure)?;
    output.result(|| show(&instance), || json!(instance))
}

fn show(instance: &Instance) -> String {
    let mut lines = vec![
        ("instance", instance.id.to_string()),
        ("service", instance.service.to_string()),
        ("image", instance.image.clone()),
        ("state", state(instance)),
        ("sharing", if instance.sharing == Sharing::Private { "private" } else { "shared" }.to_owned()),
        ("users", instance.users.to_string()),
    ];
    lines.extend(instance.address.map(|address| ("address", address.to_string())));
    lines.extend(instance.ready_after_ms.map(|ms| ("ready after", format!("{ms} ms"))));
    lines.extend(instance.reason.clone().map(|reason| ("reason", reason)));
    lines.into_iter().map(|(head, text)| format!("{:<13}{text}\n", format!("{head}:"))).collect()
}

/// How far it is; of one whose image comes from elsewhere also how much of that.
fn state(instance: &Instance) -> String {
    let word = word(instance.state);
    match &instance.fetching {
        Some(fetch) => format!("{word} ({})", Fetched::of(fetch)),
        None => word.to_owned(),
    }
}

fn word(state: State) -> &'static str {
    match state {
        State::Fetching => "fetching",
        State::Starting => "starting",
        State::Ready => "ready",
        State::Stopping => "stopping",
        State::Stopped => "stopped",
        State::Failed => "failed",
    }
}
