//! `run`, `start`, `stop`: use of a service.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use handheld::api::Instance;
use handheld::speech::{self, Recognition, WavError};
use handheld::{Client, Endpoint, Error, Options, Session, Starting, Step, Timing, Way};
use mesh::selection::Task;
use serde::Serialize;
use uuid::Uuid;
use vm_images::ServiceId;

use super::args::{Global, RunService, StartOptions};
use super::output::{self, Spinner};
use super::{cloudlets, options, search};

/// A file of the command line that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BadFile {
    /// It cannot be read.
    #[error("cannot read {file}")]
    Read {
        /// The file.
        file: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is not what the service takes. Nothing was sent, no cloudlet was asked.
    #[error("cannot use {file}")]
    Wav {
        /// The file.
        file: String,
        /// Why.
        #[source]
        source: WavError,
    },
}

impl BadFile {
    /// What the user can do.
    pub fn next_step(&self) -> Option<String> {
        match self {
            Self::Read { .. } => None,
            Self::Wav { file, source } => source.next_step(file),
        }
    }
}

/// Runs a service on files.
pub async fn run(global: &Global, service: RunService) -> anyhow::Result<()> {
    let RunService::Speech { files, keep, start } = service;
    // Everything that can be wrong with the files is found before a cloudlet does any work.
    let recordings = files.iter().map(|file| read(file)).collect::<Result<Vec<_>, _>>()?;
    let options = options(global, "speech".parse()?, &start, task(&recordings)?)?;
    let spinner = Spinner::default();
    let session = open(global, &options, &spinner).await?;
    let began = super::list::now();
    let result = tokio::select! {
        result = recognise_all(&session, recordings, &spinner) => result,
        interrupt = interrupted() => Err(interrupt),
    };
    spinner.clear();
    let mut timing = session.timing();
    timing.use_ms = u64::try_from(began.elapsed().as_millis())?;
    let mut report = Report::of(&session, timing, keep);
    if !keep {
        release(session).await;
    }
    report.results = result?;
    if global.json { output::json(&report) } else { output::print(&report.text()) }
}

/// Starts a service and leaves it running.
pub async fn start(global: &Global, service: ServiceId, start: &StartOptions) -> anyhow::Result<()> {
    let spinner = Spinner::default();
    let options = options(global, service, start, Task::default())?;
    let session = open(global, &options, &spinner).await?;
    spinner.clear();
    let report = Started::of(&session);
    if global.json { output::json(&report) } else { output::print(&report.text()) }
}

/// Opens a session; an interrupt while it waits gives the instance back.
pub(super) async fn open(global: &Global, options: &Options, spinner: &Spinner) -> anyhow::Result<Session> {
    let is_fetching = AtomicBool::new(false);
    let tell = |step: Step| {
        let goes_on = matches!(step, Step::Fetching(_));
        match is_fetching.swap(goes_on, Ordering::Relaxed) && goes_on {
            true => spinner.tell(&step.to_string()),
            false => spinner.step(&step.to_string()),
        }
    };
    let starting = Starting::request(options, &tell).await?;
    let ready = tokio::select! {
        ready = starting.ready(options.ready_limit, &tell) => ready,
        interrupt = interrupted() => {
            spinner.clear();
            starting.give_up().await;
            return Err(interrupt);
        }
    };
    spinner.clear();
    if let Err(Error::Timeout { .. } | Error::Protocol { .. }) = &ready {
        starting.give_up().await;
    }
    let session = ready?;
    super::hear(global, &options.search.access, &session.cloudlet().client).await;
    let node = session.cloudlet().node;
    // That the next choice knows nothing of this one is no reason to fail.
    if let Some(memory) = super::memory(global)
        && let Err(error) = memory.note(&options.service, node, handheld::unix_now())
    {
        tracing::warn!(error = &error as &dyn std::error::Error, "who served is not remembered");
    }
    Ok(session)
}

/// Gives a local address to an instance until interrupted.
pub async fn tunnel(
    global: &Global,
    id: Uuid,
    client_token: String,
    listen: Option<SocketAddr>,
) -> anyhow::Result<()> {
    let spinner = Spinner::default();
    spinner.step("looking for the instance");
    let client = holder(global, id).await?;
    spinner.clear();
    // The first one at once: a wrong token is said now, not when somebody connects.
    drop(client.tunnel(id, &client_token).await?);
    let listen = listen.unwrap_or_else(|| (Ipv4Addr::LOCALHOST, 0).into());
    let way = Way::Service { client, instance: id, client_token };
    let endpoint = Endpoint::open_at(listen, way).map_err(Error::Local)?;
    let address = endpoint.address();
    if global.json {
        output::json(&serde_json::json!({"address": address, "instance": id}))?;
    } else {
        output::print(&format!("{address} leads to {id} until interrupted\n"))?;
    }
    tokio::signal::ctrl_c().await?;
    Ok(())
}

/// Waits for Ctrl-C.
pub(super) async fn interrupted() -> anyhow::Error {
    match tokio::signal::ctrl_c().await {
        Ok(()) => anyhow::anyhow!("interrupted; the instance was released"),
        Err(error) => error.into(),
    }
}

/// Releases an instance on whichever cloudlet has it.
pub async fn stop(global: &Global, id: Uuid, token: Option<String>) -> anyhow::Result<()> {
    let spinner = Spinner::default();
    spinner.step("looking for the instance");
    let client = holder(global, id).await?;
    spinner.step("releasing the instance");
    let instance = match token {
        Some(token) => client.release(id, &token).await?,
        None => client.stop(id).await?,
    };
    spinner.clear();
    if global.json {
        return output::json(&instance);
    }
    let state = match instance.users {
        0 => "nobody uses it any more".to_owned(),
        users => format!("{users} still use it"),
    };
    output::print(&format!("{id} released; {state}\n"))
}

/// The cloudlet that has this instance.
async fn holder(global: &Global, id: Uuid) -> anyhow::Result<Client> {
    if let Some(url) = &global.cloudlet {
        return Ok(Client::with(&super::access(global)?, url)?);
    }
    for one in cloudlets(global, &search(global)?).await? {
        if one.client.instance(id).await.is_ok() {
            return Ok(one.client);
        }
    }
    anyhow::bail!(
        "no cloudlet nearby has the instance {id}; it may have ended, or name its cloudlet: --cloudlet URL"
    )
}

struct Recording {
    file: String,
    wav: Vec<u8>,
}

/// What the service is to do with these recordings: so many requests of their mean length.
fn task(recordings: &[Recording]) -> anyhow::Result<Task> {
    let bytes: usize = recordings.iter().map(|recording| recording.wav.len()).sum();
    let requests = u32::try_from(recordings.len())?.max(1);
    Ok(Task { requests, up_bytes: u64::try_from(bytes)? / u64::from(requests), ..Task::default() })
}

fn read(path: &Path) -> Result<Recording, BadFile> {
    let file = path.display().to_string();
    let too_long = |bytes: u64| {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        (bytes > speech::MAX_WAV_BYTES).then_some(WavError::TooLong(bytes))
    };
    let length = std::fs::metadata(path).map(|data| data.len());
    let length = length.map_err(|source| BadFile::Read { file: file.clone(), source })?;
    if let Some(source) = too_long(length) {
        return Err(BadFile::Wav { file, source });
    }
    let wav = std::fs::read(path).map_err(|source| BadFile::Read { file: file.clone(), source })?;
    match speech::check(&wav) {
        Ok(_) => Ok(Recording { file, wav }),
        Err(source) => Err(BadFile::Wav { file, source }),
    }
}

async fn recognise_all(
    session: &Session,
    recordings: Vec<Recording>,
    spinner: &Spinner,
) -> anyhow::Result<Vec<Recognised>> {
    let mut results = Vec::new();
    for Recording { file, wav } in recordings {
        spinner.step(&format!("recognising {file}"));
        let began = super::list::now();
        let recognition = speech::recognize(session.address(), wav).await?;
        let request_ms = u64::try_from(began.elapsed().as_millis())?;
        results.push(Recognised { file, recognition, request_ms });
    }
    Ok(results)
}

/// A cloudlet stops idle instances by itself, so a release that fails is worth a word and no more.
async fn release(session: Session) {
    const LIMIT: Duration = Duration::from_secs(10);
    match tokio::time::timeout(LIMIT, session.release()).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => {
            eprintln!("handheld: the instance was not released and will be stopped when idle: {error}")
        }
        Err(_) => {
            eprintln!("handheld: the instance was not released within 10 s and will be stopped when idle")
        }
    }
}

#[derive(Serialize)]
struct Recognised {
    file: String,
    #[serde(flatten)]
    recognition: Recognition,
    /// From the request to the answer, by this machine's clock.
    request_ms: u64,
}

#[derive(Serialize)]
struct Started {
    cloudlet: String,
    url: String,
    /// The cloudlet in between.
    via: Option<String>,
    /// Where the service answers after this program has ended: nowhere in a mission, until there is a tunnel.
    address: Option<SocketAddr>,
    client_token: String,
    instance: Instance,
    timing: Timing,
}

impl Started {
    fn of(session: &Session) -> Self {
        Self {
            cloudlet: session.cloudlet().cloudlet.name.clone(),
            url: session.cloudlet().client.url().to_owned(),
            via: session.cloudlet().client.via().map(str::to_owned),
            address: session.endpoint().is_none().then(|| session.address()),
            client_token: session.client_token().to_owned(),
            instance: session.instance().clone(),
            timing: session.timing(),
        }
    }

    fn stop_line(&self) -> String {
        let Self { url, client_token, instance, .. } = self;
        format!("handheld stop {} --cloudlet {url} --token {client_token}", instance.id)
    }

    fn text(&self) -> String {
        let Self { cloudlet, address, instance, url, client_token, .. } = self;
        let (at, reach) = match address {
            Some(address) => (format!(" at {address}"), String::new()),
            None => {
                let tunnel =
                    format!("handheld tunnel {} --cloudlet {url} --token {client_token}", instance.id);
                (String::new(), format!("give it a local address with: {tunnel}\n"))
            }
        };
        format!(
            "{} is ready{at} on {}\ninstance {}\n{reach}release it with: {}\n\n{}",
            instance.service,
            output::printable(cloudlet),
            instance.id,
            self.stop_line(),
            timing_table(&self.timing, None),
        )
    }
}

#[derive(Serialize)]
struct Report {
    results: Vec<Recognised>,
    kept: bool,
    #[serde(flatten)]
    started: Started,
}

impl Report {
    fn of(session: &Session, timing: Timing, kept: bool) -> Self {
        Self { results: Vec::new(), kept, started: Started { timing, ..Started::of(session) } }
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for one in &self.results {
            text.push_str(&format!("{}: {}\n", one.file, output::printable(&one.recognition.text)));
        }
        let recognition_ms: u64 = self.results.iter().map(|one| one.recognition.took_ms).sum();
        text.push_str(&format!("\n{}", timing_table(&self.started.timing, Some(recognition_ms))));
        if self.kept {
            text.push_str(&format!(
                "\nthe instance still runs; release it with: {}\n",
                self.started.stop_line()
            ));
        }
        text
    }
}

fn timing_table(timing: &Timing, recognition_ms: Option<u64>) -> String {
    let mut rows = vec![
        ("discovery", timing.discovery_ms),
        ("selection", timing.selection_ms),
        ("provisioning", timing.provisioning_ms),
        ("ready", timing.ready_ms),
    ];
    if timing.fetching_ms > 0 {
        rows.insert(3, ("fetching", timing.fetching_ms));
    }
    if let Some(recognition_ms) = recognition_ms {
        rows.push(("use", timing.use_ms));
        rows.push(("  of it recognition", recognition_ms));
    }
    let rows: Vec<Vec<String>> =
        rows.into_iter().map(|(step, ms)| vec![step.to_owned(), format!("{ms:>6}")]).collect();
    output::table(&["STEP", "    MS"], &rows)
}
