//! The cloudlet's HTTP API, version 1: what travels as JSON between a handheld and a cloudlet.
//!
//! The client and the daemon share these types; the daemon derives its OpenAPI document from them
//! (feature `openapi`). Fields are only ever added; a reader ignores what it does not know.
//!
//! | method and path (below `/api/v1`) | request | answer |
//! |---|---|---|
//! | `GET /cloudlet` | | [`Cloudlet`] |
//! | `GET /services` | | `[Service]` |
//! | `GET /services/{id}` | | [`Service`], or 404 |
//! | `POST /instances` | [`Start`] | [`Instance`]: 201 when this request created it, 200 when it was there |
//! | `GET /instances` | | `[Instance]` |
//! | `GET /instances/{id}?client_token=…` | | [`Instance`], 404, or 410 with [`Gone`]; with the token, the client is known to be there still |
//! | `POST /instances/{id}/handoff` | [`HandoffTo`] | [`Handoff`]: 202; it is on its way to another cloudlet |
//! | `GET`, `DELETE /instances/{id}/handoff` | | [`Handoff`]: how far it is; stopped |
//! | `GET /instances/{id}/handoff/plan?to=…` | | [`HandoffPlan`]: what it would cost |
//! | `POST /instances/{id}/handoff/force` | [`ForceHandoff`] | [`Handoff`]: an instance in doubt serves on here |
//! | `POST`, `GET`, `DELETE /evacuation` | [`Evacuate`] | [`Evacuation`]: 202; how far it is; ended |
//! | `POST /reintegration` | | `[Handoff]`, 202: instances go back to where they were first started |
//! | `GET /placement` | | [`Placement`]: where instances should be, and why |
//! | `DELETE /instances/{id}?client_token=…` | | [`Instance`]: that client no longer uses it; the last one stops it |
//! | `DELETE /instances/{id}?force=true` | | [`Instance`]: stopped whoever uses it |
//! | `GET /instances/{id}/tunnel?client_token=…` | `Upgrade: cloudlet-tcp` | 101, then the bytes of a TCP connection to its service |
//! | `GET /events` | | server-sent [`Event`]s: the present state of every instance, then each change; images that are fetched |
//! | `POST /pairing` | [`ShowCode`] | [`PairingCode`]: for the cloudlet's own operator |
//! | `GET /revocations` | | [`Revocations`] of the mission, as far as heard |
//! | `POST /revocations` | [`Revocations`] | [`Heard`] |
//! | `PUT /place` | [`Place`] | [`Standing`]: an operator or a reader of satellite navigation says where the cloudlet is |
//! | `DELETE /place` | | [`Standing`]: where it is, is not known |
//! | `PUT /drain` | [`Drain`] | [`Standing`] |
//! | `GET /peers` | | `[Peer]`: the cloudlets of the mission |
//! | `GET /peers/{node_id}/tunnel` | `Upgrade: cloudlet-tcp` | 101, then the bytes of a connection to that cloudlet's API |
//! | `GET /images/fetches` | | `[ImageFetch]`: what it fetches from others, and fetched lately |
//! | `POST /images/fetches` | [`FetchImage`] | [`ImageFetch`], 202: for operators |
//! | `GET /images/fetches/{id}` | | [`ImageFetch`], or 404 |
//! | `DELETE /images/fetches/{id}` | | [`ImageFetch`]: ended, what came stays; for operators |
//! | `GET /openapi.json` | | the OpenAPI document |
//!
//! In a mission, all of it is TLS 1.3 with certificates of the mission on both sides; what each request needs to be
//! allowed is in `THREATS.md`.
//!
//! Every error is a [`Problem`] with a fitting HTTP status.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;
use vm_images::ServiceId;

mod handoff;
mod images;
mod moved;
mod placement;
mod standing;

pub use handoff::{Handoff, HandoffState, HandoffTo, Priority};
pub use images::{FetchImage, FetchState, Fetchable, FetchedFrom, ImageFetch};
pub use moved::{Gone, Moved};
pub use placement::{
    Automatic, Candidate, Decided, Evacuate, Evacuation, EvacuationState, Fate, Figure, FigureSource,
    ForceHandoff, HandoffPlan, Holds, Leaving, Outcome, Placement, PlanVerdict, PlannedRound,
};
pub use standing::{Drain, Guests, Heading, HeldService, Place, PowerSource, Standing};

/// Version of this API, also the `v1` of its paths.
pub const VERSION: u32 = 1;
/// Longest request body that the daemon reads, bytes. Requests have a few hundred; packages come by another way.
pub const MAX_REQUEST_BYTES: usize = 64 * 1024;
/// Longest client token, bytes.
pub const MAX_CLIENT_TOKEN_BYTES: usize = 128;
/// What a tunnel is called in `Upgrade`: after the answer 101 both sides send raw bytes.
pub const TUNNEL_PROTOCOL: &str = "cloudlet-tcp";
/// Most tunnels that one member may have through a cloudlet. Guess: a browser opens six connections to a host, a handheld
/// uses a few services.
pub const MAX_TUNNELS: usize = 32;

/// What a cloudlet is and how busy it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Cloudlet {
    /// [`VERSION`] that it speaks.
    pub api_version: u32,
    /// Its node id, text form of `mesh::NodeId`.
    pub node_id: String,
    /// Its name for people.
    pub name: String,
    /// Release of its software.
    pub software: String,
    /// `kvm` or `tcg`: what executes guest code.
    pub accelerator: String,
    /// How busy it is.
    pub load: Load,
    /// Services that it can start.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<String>))]
    pub services: Vec<ServiceId>,
    /// Services that it would fetch from other cloudlets if it was asked for one.
    #[serde(default)]
    pub fetchable: Vec<Fetchable>,
    /// Its circumstances.
    #[serde(default)]
    pub standing: Standing,
}

/// How busy a cloudlet is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Load {
    /// CPU in use now, thousandths of a core.
    pub cpu_used_millis: u32,
    /// CPU that there is, thousandths of a core.
    pub cpu_total_millis: u32,
    /// Memory that instances may still claim, bytes.
    pub memory_free_bytes: u64,
    /// Memory that there is, bytes.
    pub memory_total_bytes: u64,
    /// Instances that run or start.
    pub instances: u32,
    /// Those of them that are not ready yet: a further one waits for about as long as they take.
    #[serde(default)]
    pub queue_length: u32,
}

/// A cloudlet of the mission, as another one knows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Peer {
    /// Its node id, text form of `mesh::NodeId`.
    pub node_id: String,
    /// Its name for people.
    pub name: String,
    /// Whether it can be reached from the cloudlet that was asked.
    pub reach: PeerReach,
    /// Links on the shortest known way to it; 0 for the cloudlet itself and where there is no way.
    pub hops: u16,
    /// Measured round trip to a neighbour, milliseconds.
    pub rtt_ms: Option<f64>,
    /// URLs of its API, as it says.
    pub api: Vec<String>,
    /// `kvm` or `tcg`: what executes guest code.
    pub accelerator: String,
    /// How busy it said it is.
    pub load: Load,
    /// Services that it can start.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<String>))]
    pub services: Vec<ServiceId>,
    /// How ready it said that it is for each of them.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = BTreeMap<String, HeldService>))]
    pub held: BTreeMap<ServiceId, HeldService>,
    /// What a transfer over the link to a neighbour got, bytes per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_bytes_per_s: Option<u64>,
    /// Its circumstances, as it said.
    #[serde(default)]
    pub standing: Standing,
}

/// Whether a cloudlet can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum PeerReach {
    /// It is the one that was asked.
    Own,
    /// By a link of its own.
    Neighbour,
    /// Through others.
    Far,
    /// Not at present.
    Unreachable,
}

/// A service that a cloudlet offers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Service {
    /// What client apps ask for.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub id: ServiceId,
    /// Version of the server code.
    pub version: String,
    /// One line for people.
    pub description: String,
    /// Id of the Service VM image.
    pub image: String,
    /// System that it runs on, as `ID-VERSION_ID` of os-release; `None` from a release that does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest_system: Option<String>,
    /// Memory that one instance needs, bytes.
    pub needs_memory_bytes: u64,
    /// CPU that one busy instance needs, thousandths of a core.
    pub needs_cpu_millis: u32,
    /// Most users of one shared instance; 1 means private instances only.
    pub max_users: u32,
    /// Instances of it that are ready now.
    pub ready_instances: u32,
    /// Those of them that have room for another user; `None` from a release that does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joinable_instances: Option<u32>,
    /// Application-ready time of lately started instances here, milliseconds; `None`: there was none yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_ms: Option<u64>,
}

/// Asks for an instance of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Start {
    /// The service.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub service: ServiceId,
    /// Chosen by the client, the same for every retry: one token never gets two instances of a service.
    pub client_token: String,
    /// Whether others may use the same instance.
    #[serde(default)]
    pub sharing: Sharing,
}

/// Whether several clients may use one instance.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Sharing {
    /// Join an instance with room for another user, else start one that others may join.
    #[default]
    Shared,
    /// An instance of one's own.
    Private,
}

/// A running copy of a Service VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Instance {
    /// Its id; the VM's id.
    pub id: Uuid,
    /// The service in it.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub service: ServiceId,
    /// Id of the image that it is a copy of.
    pub image: String,
    /// How far it is.
    pub state: State,
    /// Where the service answers; there as soon as the state is `ready`. In a mission an address that only the cloudlet
    /// itself reaches: others use `GET /instances/{id}/tunnel`.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub address: Option<SocketAddr>,
    /// Whether others may join.
    pub sharing: Sharing,
    /// Clients that use it.
    pub users: u32,
    /// When it was asked for, milliseconds since 1970 UTC by the cloudlet's clock.
    pub requested_unix_ms: u64,
    /// Application-ready time: from the request, or from when its image had come from another cloudlet, until its service
    /// answered the health check, milliseconds.
    pub ready_after_ms: Option<u64>,
    /// Why it failed or was stopped, for people.
    pub reason: Option<String>,
    /// With `fetching`: how far its image is. Its progress is also told by [`Event::ImageFetch`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fetching: Option<Box<ImageFetch>>,
}

/// How far an instance is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum State {
    /// Its image comes from another cloudlet.
    Fetching,
    /// Its VM wakes up, or its service has not answered yet.
    Starting,
    /// Its own service answered its health check through the forwarded port.
    Ready,
    /// It is being stopped.
    Stopping,
    /// It ended as it should.
    Stopped,
    /// It could not start, or died.
    Failed,
}

impl State {
    /// Whether nothing more will happen to it.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Stopped | Self::Failed)
    }
}

/// A change that the cloudlet tells about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Event {
    /// An instance is now like this.
    Instance(Instance),
    /// An instance runs on another cloudlet now.
    Moved(Moved),
    /// The sending of an instance to another cloudlet is now this far; told at most a few times a second.
    Handoff(Handoff),
    /// The fetching of an image is now this far; told at most a few times a second.
    ImageFetch(ImageFetch),
    /// The listener was too slow and missed this many events: ask for the list again.
    Missed {
        /// How many were missed.
        events: u64,
    },
    /// This listener may hear no more: its certificate was revoked, or has expired. Nothing follows.
    NotAllowed {
        /// For people.
        reason: String,
    },
    /// The cloudlet shuts down. Nothing follows.
    Goodbye,
}

/// Why a request was not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Problem {
    /// For programs.
    pub code: Code,
    /// For people: what is wrong and what to do next.
    pub message: String,
    /// With `insufficient-resources`: what is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing: Option<Missing>,
}

/// The kinds of problems.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Code {
    /// The request is not well formed (400).
    BadRequest,
    /// No such service here (404).
    UnknownService,
    /// No such instance here (404).
    UnknownInstance,
    /// No image of that name or id is known here, or is being fetched (404).
    UnknownImage,
    /// No such path (404).
    UnknownPath,
    /// No cloudlet of that id is known here (404).
    UnknownPeer,
    /// The instance does not serve yet, or no longer (409).
    NotReady,
    /// This member has as many tunnels as it may have (429).
    TooManyTunnels,
    /// The service or the other cloudlet does not answer this one (502).
    Unreachable,
    /// Not enough memory or CPU is free (503).
    InsufficientResources,
    /// The image is damaged, or cannot run on this host (500).
    UnusableImage,
    /// The cloudlet is being emptied and takes nobody new (503).
    Draining,
    /// The certificate does not allow this, was revoked, or has expired (403).
    NotAllowed,
    /// The cloudlet runs without a mission (409).
    NoMission,
    /// The cloudlet is shutting down (503).
    ShuttingDown,
    /// Anything else that is the cloudlet's fault (500).
    Internal,
}

/// Asks for a pairing code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ShowCode {
    /// What the new handheld may do, such as `use-services,operate`; without it, all that the cloudlet may grant.
    #[serde(default)]
    pub allow: Option<String>,
}

/// A code that a handheld can be paired with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PairingCode {
    /// Eight digits.
    pub code: String,
    /// Addresses of this cloudlet at which the handheld can be paired, the likeliest first.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<String>))]
    pub addresses: Vec<SocketAddr>,
    /// What the QR code says, for the first of the addresses.
    pub invitation: String,
    /// What the handheld will be allowed.
    pub allow: String,
    /// For how long the code is good, seconds.
    pub seconds: u64,
}

/// Revocations of the mission.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Revocations {
    /// In the encoding of `mesh::trust::revocation`, hexadecimal.
    pub encoded: String,
}

/// What came of telling revocations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Heard {
    /// New ones, which are kept.
    pub new: usize,
    /// Known ones.
    pub known: usize,
    /// Those that nobody signed who may.
    pub refused: usize,
}

/// What was missing to admit an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Missing {
    /// Memory that would have to be freed first, bytes.
    pub memory_bytes: u64,
    /// CPU that would have to be freed first, thousandths of a core.
    pub cpu_millis: u32,
}
