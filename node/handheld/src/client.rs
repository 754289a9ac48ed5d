//! One cloudlet's HTTP API.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mesh::NodeId;
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde::de::DeserializeOwned;
use uuid::Uuid;
use vm_images::ServiceId;

use crate::api::{self, Cloudlet, Event, Instance, Problem, Service, Start, State};
use crate::endpoint::{Endpoint, Way};
use crate::http::{self, BodyError};
use crate::relay::Relay;
use crate::{Access, Error, Events, Refusal, Step, now};

mod handoff;
mod images;
mod placement;
mod whereabouts;

pub(crate) use whereabouts::Whereabouts;

pub use images::Fetched;

/// Longest answer that is read, bytes. A cloudlet with 100 services and 100 instances answers with about 60 KiB.
const MAX_ANSWER_BYTES: usize = 4 * 1024 * 1024;
/// Longest wait for an answer. Guess: the cloudlet answers from its state, also to a start.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);
/// How often the state is asked for when there is no event stream. Guess: a tenth of what a person notices, and little
/// load for a cloudlet.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// How often it is asked for besides the event stream, in case the stream hangs without an end. Guess.
const CROSS_CHECK_INTERVAL: Duration = Duration::from_secs(2);
/// How often in a row the cloudlet may fail to answer while an instance is waited for. Guess: bridges a Wi-Fi roam.
const MAX_SILENCES: u32 = 5;
/// Pause after a failure to answer.
const SILENCE_PAUSE: Duration = Duration::from_millis(500);

/// Speaks to one cloudlet. Cheap to clone; clones share connections.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    /// Where requests go.
    base: String,
    /// What people are told; another address than `base` if the cloudlet is behind another one.
    url: String,
    relay: Option<Arc<Relay>>,
    /// Where the last answer came from.
    peer: Arc<Mutex<Option<SocketAddr>>>,
}

impl Client {
    /// The cloudlet at `url`, which runs without a mission: `http://HOST:PORT`, or short `HOST:PORT`. Nothing is sent yet.
    pub fn new(url: &str) -> Result<Self, Error> {
        Self::with(&Access::Insecure, url)
    }

    /// The cloudlet at `url`: `https://HOST:PORT` for a member of a mission, `http://HOST:PORT` without one, or short
    /// `HOST:PORT`. Behind another cloudlet, its [`Client::url`]: `https://HOST:PORT/api/v1/peers/{node}/tunnel`. Nothing is
    /// sent yet.
    pub fn with(access: &Access, url: &str) -> Result<Self, Error> {
        if let Some(relayed) = Self::by_url(access, url) {
            return relayed;
        }
        let bad = || Error::Url(url.chars().take(200).collect());
        let scheme = access.scheme();
        let full = if url.contains("://") { url.to_owned() } else { format!("{scheme}://{url}") };
        let parsed = reqwest::Url::parse(&full).map_err(|_| bad())?;
        if matches!(parsed.scheme(), "http" | "https") && parsed.scheme() != scheme {
            return Err(Error::Scheme { url: full, scheme });
        }
        let plain = parsed.scheme() == scheme
            && parsed.has_host()
            && matches!(parsed.path(), "" | "/")
            && parsed.query().is_none()
            && parsed.username().is_empty();
        if !plain {
            return Err(bad());
        }
        let base = full.trim_end_matches('/').to_owned();
        Ok(Self::direct(http::client(access, None, None)?, base))
    }

    /// The cloudlet at `address`, which runs without a mission. The address may be an IPv6 link-local one with its scope.
    /// Nothing is sent yet.
    pub fn at(address: SocketAddr) -> Result<Self, Error> {
        Self::reaching(&Access::Insecure, address)
    }

    /// As [`Self::at`], with this access.
    pub fn reaching(access: &Access, address: SocketAddr) -> Result<Self, Error> {
        let (http, base) = http::endpoint(access, address)?;
        Ok(Self::direct(http, base))
    }

    fn direct(http: reqwest::Client, base: String) -> Self {
        Self { http, url: base.clone(), base, relay: None, peer: Arc::default() }
    }

    /// By way of another cloudlet; `base` is the local end of that way.
    pub(crate) fn by_relay(http: reqwest::Client, base: String, url: String, relay: Arc<Relay>) -> Self {
        Self { http, base, url, relay: Some(relay), peer: Arc::default() }
    }

    pub(crate) fn relay(&self) -> Option<&Relay> {
        self.relay.as_deref()
    }

    /// Whether this is TLS with a certificate of a mission.
    fn is_member(&self) -> bool {
        self.base.starts_with("https:")
    }

    /// Its address as a URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What it is and how busy it is.
    pub async fn cloudlet(&self) -> Result<Cloudlet, Error> {
        const DOING: &str = "say what it is";
        let cloudlet: Cloudlet = self.ask(DOING, self.request(Method::GET, "/cloudlet")).await?;
        if cloudlet.api_version != api::VERSION {
            return Err(self.protocol(DOING, format!("it speaks version {}", cloudlet.api_version)));
        }
        Ok(cloudlet)
    }

    /// The cloudlets of the mission that it knows, itself first.
    pub async fn peers(&self) -> Result<Vec<api::Peer>, Error> {
        self.ask("list the other cloudlets", self.request(Method::GET, "/peers")).await
    }

    /// Tells it where it is; `None`: that is not known. For its operator, and for a reader of satellite navigation.
    pub async fn tell_place(&self, place: Option<&api::Place>) -> Result<api::Standing, Error> {
        let request = match place {
            Some(place) => self.request(Method::PUT, "/place").json(place),
            None => self.request(Method::DELETE, "/place"),
        };
        self.ask("hear where it is", request).await
    }

    /// Has it take nobody new, or take new users again. For its operator.
    pub async fn drain(&self, draining: bool) -> Result<api::Standing, Error> {
        self.ask("be emptied", self.request(Method::PUT, "/drain").json(&api::Drain { draining })).await
    }

    /// The services that it offers.
    pub async fn services(&self) -> Result<Vec<Service>, Error> {
        self.ask("list its services", self.request(Method::GET, "/services")).await
    }

    /// A service, if it offers it.
    pub async fn service(&self, id: &ServiceId) -> Result<Option<Service>, Error> {
        let asked =
            self.ask("describe a service", self.request(Method::GET, &format!("/services/{id}"))).await;
        match asked {
            Err(Error::Refused { refusal, .. }) if refusal.problem.code == api::Code::UnknownService => {
                Ok(None)
            }
            other => other.map(Some),
        }
    }

    /// Length of its description of the API, bytes: something of which every cloudlet has some tens of kilobytes, to
    /// time the link with.
    pub async fn description_bytes(&self) -> Result<usize, Error> {
        const DOING: &str = "describe its API";
        let response = self.send(DOING, self.request(Method::GET, "/openapi.json")).await?;
        Ok(self.body(DOING, response).await?.len())
    }

    /// Asks for an instance. The same token never gets two, so a lost answer is asked for once more.
    pub async fn start(&self, start: &Start) -> Result<Instance, Error> {
        const DOING: &str = "start the service";
        let request = || self.request(Method::POST, "/instances").json(start);
        match self.ask(DOING, request()).await {
            Err(Error::Vanished { source, .. }) if !source.is_connect() => self.ask(DOING, request()).await,
            other => other,
        }
    }

    /// How far an instance is.
    pub async fn instance(&self, id: Uuid) -> Result<Instance, Error> {
        self.ask("show an instance", self.request(Method::GET, &format!("/instances/{id}"))).await
    }

    /// The same from the holder of `client_token`, who thereby says that it is still there.
    pub async fn instance_in_use(&self, id: Uuid, client_token: &str) -> Result<Instance, Error> {
        let request = self.request(Method::GET, &format!("/instances/{id}"));
        self.ask("show an instance", request.query(&[("client_token", client_token)])).await
    }

    /// Every instance that it knows.
    pub async fn instances(&self) -> Result<Vec<Instance>, Error> {
        self.ask("list its instances", self.request(Method::GET, "/instances")).await
    }

    /// Says that the holder of `client_token` no longer uses an instance; the last one stops it.
    pub async fn release(&self, id: Uuid, client_token: &str) -> Result<Instance, Error> {
        let request = self
            .request(Method::DELETE, &format!("/instances/{id}"))
            .query(&[("client_token", client_token)]);
        self.ask("release an instance", request).await
    }

    /// Stops an instance whoever uses it.
    pub async fn stop(&self, id: Uuid) -> Result<Instance, Error> {
        let request = self.request(Method::DELETE, &format!("/instances/{id}")).query(&[("force", "true")]);
        self.ask("stop an instance", request).await
    }

    /// Has the cloudlet show a pairing code. Only the cloudlet's own operator may ask.
    pub async fn show_code(&self, ask: &api::ShowCode) -> Result<api::PairingCode, Error> {
        self.ask("show a pairing code", self.request(Method::POST, "/pairing").json(ask)).await
    }

    /// Tells the cloudlet of revocations, encoded as in `mesh::trust::revocation`.
    pub async fn revoke(&self, revocations: &api::Revocations) -> Result<api::Heard, Error> {
        self.ask("hear revocations", self.request(Method::POST, "/revocations").json(revocations)).await
    }

    /// What the cloudlet knows to be revoked.
    pub async fn revocations(&self) -> Result<api::Revocations, Error> {
        self.ask("tell what is revoked", self.request(Method::GET, "/revocations")).await
    }

    /// Learns from the cloudlet what is revoked; says whether anything was new, which the caller then keeps. Who tells does
    /// not matter: each revocation is signed by somebody who may revoke.
    pub async fn hear_revocations(&self, trust: &mesh::trust::Trust) -> Result<bool, Error> {
        const DOING: &str = "tell what is revoked";
        let told = self.revocations().await?;
        let encoded = hex::decode(&told.encoded).map_err(|error| self.protocol(DOING, error.to_string()))?;
        let learned = trust.learn(&encoded).map_err(|error| self.protocol(DOING, error.to_string()))?;
        if learned.refused > 0 {
            tracing::warn!(
                cloudlet = self.url,
                refused = learned.refused,
                "it tells of revocations that nobody signed who may"
            );
        }
        Ok(learned.new > 0)
    }

    /// The stream of events: the present state of every instance first, then each change.
    pub async fn events(&self) -> Result<Events, Error> {
        let request = self.http.request(Method::GET, format!("{}/api/v1/events", self.base));
        let response = self.send("stream its events", request).await?;
        Ok(Events::new(self.url.clone(), response))
    }

    /// Waits until an instance is ready, for at most `limit`: by the event stream, and if that is not to be had or
    /// breaks, by asking again and again.
    pub async fn wait_ready(&self, id: Uuid, limit: Duration) -> Result<Instance, Error> {
        let wait = async {
            match self.wait_by_events(id).await? {
                Some(instance) => Ok(instance),
                None => self.wait_by_asking(id).await,
            }
        };
        match tokio::time::timeout(limit, wait).await {
            Ok(result) => result,
            Err(_) => Err(Error::Timeout { step: Step::Waiting, limit }),
        }
    }

    /// A connection to the service in an instance that the holder of `client_token` uses, through the API.
    pub async fn tunnel(&self, id: Uuid, client_token: &str) -> Result<reqwest::Upgraded, Error> {
        let query = [("client_token", client_token)];
        self.upgrade("open a tunnel to an instance", &format!("/instances/{id}/tunnel"), &query).await
    }

    /// A connection to the API of another cloudlet, through this one's.
    pub(crate) async fn tunnel_to(&self, node: NodeId) -> Result<reqwest::Upgraded, Error> {
        self.upgrade("open a tunnel to another cloudlet", &format!("/peers/{node}/tunnel"), &[]).await
    }

    async fn upgrade(
        &self,
        doing: &'static str,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<reqwest::Upgraded, Error> {
        // Not `request`: its limit would end the tunnel, too.
        let request = self.http.request(Method::GET, format!("{}/api/v1{path}", self.base)).query(query);
        let request = request.header("connection", "upgrade").header("upgrade", api::TUNNEL_PROTOCOL);
        let upgraded = async {
            let response = request.send().await.map_err(|source| self.vanished(doing, source))?;
            if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                return response.upgrade().await.map_err(|source| self.vanished(doing, source));
            }
            Err(self.refusal(doing, response).await)
        };
        match tokio::time::timeout(ANSWER_LIMIT, upgraded).await {
            Ok(result) => result,
            Err(_) => Err(Error::Timeout { step: Step::Using, limit: ANSWER_LIMIT }),
        }
    }

    /// A local address at which the service in an instance answers: for members, whose traffic goes through the API.
    /// `None` without a mission, where [`Self::service_address`] is reached by everybody.
    pub fn endpoint(&self, id: Uuid, client_token: &str) -> Result<Option<Endpoint>, Error> {
        if !self.is_member() {
            return Ok(None);
        }
        let way = Way::Service { client: self.clone(), instance: id, client_token: client_token.to_owned() };
        Endpoint::open(way).map(Some).map_err(Error::Local)
    }

    /// Where the service in `instance` answers, seen from here: a cloudlet that listens everywhere may give an
    /// unspecified address, which means the one that it was reached at. In a mission, only the cloudlet itself reaches
    /// that address; see [`Self::endpoint`].
    pub fn service_address(&self, instance: &Instance) -> Option<SocketAddr> {
        let mut address = instance.address?;
        if address.ip().is_unspecified()
            && let Some(mut peer) = *self.peer.lock().unwrap_or_else(PoisonError::into_inner)
        {
            peer.set_port(address.port());
            address = peer;
        }
        Some(address)
    }

    /// The ready instance; `None` if the stream ended or could not be opened.
    async fn wait_by_events(&self, id: Uuid) -> Result<Option<Instance>, Error> {
        let Ok(mut events) = self.events().await else { return Ok(None) };
        let mut cross_check = tokio::time::interval(CROSS_CHECK_INTERVAL);
        cross_check.tick().await;
        loop {
            let instance = tokio::select! {
                event = events.next() => match event {
                    Ok(Some(Event::Instance(instance))) if instance.id == id => instance,
                    Ok(Some(Event::Instance(_) | Event::Moved(_) | Event::Handoff(_) | Event::ImageFetch(_))) => continue,
                    Ok(Some(Event::Missed { .. })) => match self.instance(id).await {
                        Ok(instance) => instance,
                        Err(_) => return Ok(None),
                    },
                    Ok(Some(Event::Goodbye)) => return Err(Error::Goodbye { cloudlet: self.url.clone() }),
                    // Asked once more, it says so in an answer of its own.
                    Ok(Some(Event::NotAllowed { .. })) => return Ok(None),
                    Ok(None) | Err(_) => {
                        tracing::debug!(cloudlet = self.url, "the event stream broke; asking instead");
                        return Ok(None);
                    }
                },
                _ = cross_check.tick() => match self.instance(id).await {
                    Ok(instance) => instance,
                    Err(_) => return Ok(None),
                },
            };
            if let Some(instance) = finished(instance)? {
                return Ok(Some(instance));
            }
        }
    }

    async fn wait_by_asking(&self, id: Uuid) -> Result<Instance, Error> {
        let mut silences = 0;
        loop {
            match self.instance(id).await {
                Ok(instance) => {
                    silences = 0;
                    if let Some(instance) = finished(instance)? {
                        return Ok(instance);
                    }
                    tokio::time::sleep(POLL_INTERVAL).await;
                }
                Err(Error::Vanished { .. }) if silences + 1 < MAX_SILENCES => {
                    silences += 1;
                    tokio::time::sleep(SILENCE_PAUSE).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}/api/v1{path}", self.base)).timeout(ANSWER_LIMIT)
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        doing: &'static str,
        request: RequestBuilder,
    ) -> Result<T, Error> {
        let started = now();
        let response = self.send(doing, request).await?;
        let bytes = self.body(doing, response).await?;
        tracing::debug!(cloudlet = self.url, doing, ms = crate::ms_since(started), "answered");
        serde_json::from_slice(&bytes).map_err(|error| self.protocol(doing, error.to_string()))
    }

    /// The answer, if it is not an error.
    async fn send(&self, doing: &'static str, request: RequestBuilder) -> Result<Response, Error> {
        let response = request.send().await.map_err(|source| self.vanished(doing, source))?;
        self.note_peer(&response);
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        Err(self.refusal(doing, response).await)
    }

    fn note_peer(&self, response: &Response) {
        if let Some(peer) = response.remote_addr() {
            *self.peer.lock().unwrap_or_else(PoisonError::into_inner) = Some(peer);
        }
    }

    /// The error that an answer is.
    async fn refusal(&self, doing: &'static str, response: Response) -> Error {
        let status = response.status();
        let bytes = match self.body(doing, response).await {
            Ok(bytes) => bytes,
            Err(error) => return error,
        };
        match serde_json::from_slice::<Problem>(&bytes) {
            Ok(problem) => {
                let refusal = Refusal { status: status.as_u16(), problem };
                Error::Refused { cloudlet: self.url.clone(), doing, refusal }
            }
            Err(_) => self.protocol(doing, format!("HTTP status {status} without a known reason")),
        }
    }

    async fn body(&self, doing: &'static str, response: Response) -> Result<Vec<u8>, Error> {
        http::body(response, MAX_ANSWER_BYTES).await.map_err(|error| match error {
            BodyError::Cut(source) => self.vanished(doing, source),
            BodyError::TooLong(cap) => self.protocol(doing, format!("an answer of more than {cap} bytes")),
        })
    }

    fn vanished(&self, doing: &'static str, source: reqwest::Error) -> Error {
        Error::Vanished { cloudlet: self.url.clone(), doing, source: source.without_url() }
    }

    fn protocol(&self, doing: &'static str, what: String) -> Error {
        Error::Protocol { cloudlet: self.url.clone(), doing, what }
    }
}

/// The instance if it is ready, an error if it will never be.
fn finished(instance: Instance) -> Result<Option<Instance>, Error> {
    match instance.state {
        State::Ready => Ok(Some(instance)),
        State::Fetching | State::Starting => Ok(None),
        State::Stopping | State::Stopped | State::Failed => {
            let reason = instance.reason.unwrap_or_else(|| "the cloudlet gives no reason".to_owned());
            Err(Error::InstanceFailed { instance: instance.id, reason })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_cloudlets_are_checked_before_anything_is_sent() {
        for (text, base) in [
            ("http://10.0.0.1:8477/", "http://10.0.0.1:8477"),
            ("10.0.0.1:8477", "http://10.0.0.1:8477"),
            ("alpha.local:80", "http://alpha.local:80"),
        ] {
            assert_eq!(Client::new(text).unwrap().url(), base);
        }
        for bad in ["", "http://", "http://a/path", "http://u@a", "ftp://a", "http://a?x=1", "a b"] {
            assert!(matches!(Client::new(bad), Err(Error::Url(_))), "{bad}");
        }
    }
}
