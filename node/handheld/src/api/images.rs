//! Images that a cloudlet fetches from other cloudlets of its mission.

use serde::{Deserialize, Serialize};
use vm_images::ServiceId;

/// Asks for an image, its parents included. Asked again while it is on its way, it goes on as it is; what an earlier
/// try has brought is not fetched again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FetchImage {
    /// A service of which the cloudlets in reach hold one image, or the id of an image: 64 hexadecimal digits, or the
    /// first six or more of an image that one of them says to hold.
    pub image: String,
    /// Node id or name of the only cloudlet to fetch from; without it, all that hold the image are asked at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
}

/// How far the fetching of an image is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ImageFetch {
    /// Id of the image that was asked for.
    pub image: String,
    /// Name and short id of what is being fetched now: parents come first. Not there before it is known.
    pub label: Option<String>,
    /// What is being done.
    pub state: FetchState,
    /// Length of what is being fetched now, bytes; holes count.
    pub total_bytes: u64,
    /// Of these here, bytes.
    pub here_bytes: u64,
    /// What other images of the store had of it, bytes.
    pub reused_bytes: u64,
    /// What came from others, compressed, parents included, bytes. What came before the cloudlet was started last does
    /// not count.
    pub wire_bytes: u64,
    /// Cloudlets that blocks come from now.
    pub peers: u32,
    /// What came from whom.
    pub from: Vec<FetchedFrom>,
    /// Why it failed, for people; what came stays, and fetching it again goes on from there.
    pub reason: Option<String>,
}

/// What came from one cloudlet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FetchedFrom {
    /// Its node id.
    pub node_id: String,
    /// Its name for people; its node id if it is not known any more.
    pub name: String,
    /// What came from it, compressed, bytes.
    pub bytes: u64,
}

/// What the fetching of an image is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum FetchState {
    /// Others are fetched first.
    Queued,
    /// Nobody in reach gives it. It goes on by itself when somebody does.
    Waiting,
    /// Asking for manifests and lists of blocks, and looking what is here.
    Preparing,
    /// Blocks come in.
    Fetching,
    /// Everything is here; it is checked once more and appears among the images.
    Publishing,
    /// It is among the images.
    Done,
    /// It ended, for `reason`.
    Failed,
}

impl FetchState {
    /// Whether nothing more will happen.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Done | Self::Failed)
    }
}

/// A service that a cloudlet does not hold but could fetch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Fetchable {
    /// The service.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub service: ServiceId,
    /// Id of the image that it would fetch.
    pub image: String,
    /// How much there is to fetch, bytes, with what the image builds on.
    pub bytes: u64,
    /// Name of the cloudlet with the best link among those that have it; others may help.
    pub from: String,
    /// What that link was measured to carry, bytes per second; `None`: it was not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_bytes_per_s: Option<u64>,
}
